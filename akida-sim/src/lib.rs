//! The quantized model and its exact integer executor.
//!
//! A [`CalibratedGraph`] is a network with float weights whose quantization is decided and
//! calibrated; [`lower`] turns it into a [`QuantizedModel`] of integers and scales, which needs no
//! float weights any more; an [`Executor`] runs it.

mod calibrated;
pub mod certificate;
mod error;
mod exec;
pub mod hardware;
mod lower;
mod model;
pub mod prove;
mod validate;

pub use calibrated::{
    CalibratedGraph, CalibratedNode, CalibratedOp, InputQuantizerSpec, OutputRanges, QuantizedLayer,
};
pub use error::ModelError;
pub use exec::{
    Batch, Buffer, Executor, ModelMemory, Run, Tensor, Values, check_instruction_set,
    instruction_set,
};
pub use lower::lower;
pub use model::{InputKind, Provenance, QuantizedModel, QuantizedNode, QuantizedOp};
