//! Tests of the crate, on random networks.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]
#![expect(
    clippy::too_many_lines,
    reason = "a network is written down in one piece"
)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "only layers with weights matter"
)]

mod executor;
mod prove;
mod random;
mod single;
mod soundness;
mod validate;
mod wide;
