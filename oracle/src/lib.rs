//! An independent second implementation of the integer operations, and proptest strategies
