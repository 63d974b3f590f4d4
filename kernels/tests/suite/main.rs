//! Every instruction set of this CPU against definitions that share no code with the crate.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::expect_used,
    reason = "test shapes are small, and a failed expectation fails the test"
)]

mod bytes;
mod common;
mod contract;
mod entries;
mod finished;
mod float;
mod float_packed;
mod integer;
mod naive;
mod packed;
mod tiles;
