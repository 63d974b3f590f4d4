//! Deterministic f32 and integer kernels behind safe functions.
//!
//! Every function works on one image, `[height, width, channels]` row-major, or on a range of its output rows:
//! callers run images and rows in parallel. The functions are methods of [`Kernels`], a value that proves that the
//! CPU has the instruction set it names; [`Kernels::active`] is the fastest one.
//!
//! Each algorithm is written once and compiled once per instruction set, so that the machine's vector width changes
//! speed only. **All instruction sets return equal bits**: each output element is one sequential chain over its taps
//! (kernel row, kernel column, channel), never split and never reassociated, and f32 steps are fused everywhere
//! (NUMERICS.md F1). Only the payload and sign of a NaN are unspecified.
//!
//! This crate is the only one of the workspace with `unsafe`; all of it is in `dispatch`, `row`, `peak`, `finish`,
//! `lanes`, `depthwise_walk`, `float_packed` and the modules of `bytes`, `madd`, `pairs` and `vnni`.

mod bytes;
mod chain;
mod contract;
mod depthwise_walk;
mod dispatch;
mod elements;
mod ending;
mod entries;
mod finish;
mod float;
mod float_packed;
mod float_products;
mod integer;
mod isa;
mod lanes;
mod madd;
mod narrow;
mod operands;
mod operations;
mod packed;
mod pairs;
mod peak;
mod plan;
mod products;
mod quads;
mod row;
mod rows;
mod summary;
mod tiles;
mod vnni;

pub use bytes::{BytePairs, PairsConv};
pub use chain::{Accumulator, Activation, Weight};
pub use ending::Ending;
pub use finish::{Byte, Extremes, Finish};
pub use float_packed::{PackedFloatConv, PackedFloats};
pub use isa::{ISA_VARIABLE, Isa, Kernels};
pub use lanes::{Lane, Packable};
pub use narrow::{Clipped, Limit, NarrowCounts, Narrowing, Steps};
pub use operands::{
    Conv2d, ConvTranspose2d, Dense, Depthwise, DepthwiseTranspose, MaxPool, Window,
};
pub use packed::{Packed, PackedConv};
pub use pairs::PairedDepthwise;
pub use peak::{Peak, Products};
pub use summary::Summary;
pub use vnni::{PackedDepthwise, PackedDepthwiseConv};
