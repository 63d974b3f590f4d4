//! The quantizers: floats to integers, and back.

mod aligned_weight;
mod input;
mod output;
mod weight;

pub use aligned_weight::{AlignedWeightQuantizer, AlignedWeights};
pub use input::{InputQuantizer, dequantize};
pub use output::{OutputQuantizer, OutputStage};
pub use weight::{QuantizedWeights, WeightAxis, WeightQuantizer};
