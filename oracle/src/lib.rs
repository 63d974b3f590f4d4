//! An independent second implementation of the integer operations, and proptest strategies.
//!
//! Everything is i128 and written from the definitions in `NUMERICS.md`, sharing no code and no
//! dependency with the crates that it checks. Use it to test your own kernels: take a case from
//! [`strategies`], run yours, and compare with the function of [`layers`] of the same name.
//!
//! Clarity comes before speed: padding is made, windows are cut out, sums are taken term by term.

pub mod bits;
pub mod layers;
pub mod network;
pub mod quantizers;
pub mod strategies;
mod tensor;

pub use tensor::{Refused, Tensor, Vector};
