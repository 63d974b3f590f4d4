//! Readers and writers of model and tensor files
