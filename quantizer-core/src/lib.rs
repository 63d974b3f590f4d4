//! Fixed-point numerics of quantized layers: the specification in code.
//!
//! Bit widths, roundings, [`FixedPoint`](tensor::FixedPoint) and [`QFloat`](tensor::QFloat)
//! tensors, the [`quantizers`] and the scalar definition of every integer operation. Each formula
//! cites its id in `NUMERICS.md`. Faster kernels elsewhere equal these definitions bit for bit;
//! these definitions are tested against the independent crate `oracle`.
//!
//! A quantized layer is an [`IntegerLayer`](layers::IntegerLayer): integers and shifts, prepared
//! once from float weights by the functions of [`layers`], then run on integers only.

pub mod bits;
pub mod counters;
mod error;
pub mod format;
pub mod geometry;
pub mod layers;
pub mod log2;
pub mod per_axis;
pub mod quantizers;
pub mod round;
pub mod tensor;

pub use bits::{BitWidth, Sign, ValueBits};
pub use counters::{Counters, Observe, Stage, StageCount};
pub use error::NumericsError;
pub use format::QFormat;
pub use per_axis::PerAxis;
