//! Deterministic f32 and integer kernels behind safe functions
