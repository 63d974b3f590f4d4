//! Criterion benches
