//! Criterion benches, in `benches/`; run them with `cargo bench -p benches`.
//!
//! Times are printed, never tested. A bench runs every instruction set of the CPU, so one run shows what each gains.
