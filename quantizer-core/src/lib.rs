//! Fixed-point numerics of quantized layers: the specification in code.
//!
//! Bit widths, roundings, [`FixedPoint`] and [`QFloat`] tensors, the quantizers and the scalar
//! definition of every integer operation. Each formula cites its id in `NUMERICS.md`. Faster
//! kernels elsewhere equal these definitions bit for bit; these definitions are tested against
//! the independent crate `oracle`.

pub mod geometry;
pub mod per_axis;

pub use per_axis::PerAxis;
