//! Quantize a trained network to fixed point, calibrate it and simulate it in exact integers.
//!
//! ```no_run
//! use bitproof::{QuantizeOptions, Samples, load_float, quantize, save};
//!
//! let graph = load_float("model.h5".as_ref())?;
//! let samples = Samples::File { path: "samples.npy".into(), key: None };
//! let quantized = quantize(graph, samples, &QuantizeOptions::default(), &mut |_| ())?;
//! save(&quantized.model, "model.bpq.safetensors".as_ref())?;
//! # Ok::<(), bitproof::Error>(())
//! ```
//!
//! Each step is a crate of its own, re-exported here.

pub mod analyze;
mod certificate;
mod convert;
mod digest;
mod error;
mod files;
pub mod findings;
mod meaning;
mod plan;
mod prepare;
mod quantize;
mod ranges;
mod recover;
mod samples;
pub mod suggest;
mod topology;
pub mod verify;

pub use akida_sim::{
    self, Batch, Executor, ModelMemory, QuantizedModel, Run, Tensor, check_instruction_set,
    instruction_set,
};
pub use calibration::{self, Progress};
pub use config_schema::{self, ParamValues, QuantizationParams};
pub use float_model::{self, Graph, GraphBuilder, Summary};
pub use model_files;
pub use quantizer_core;

pub use certificate::{verify_certificate, write_certificate};
pub use convert::convert;
pub use digest::{sha256_file, sha256_files};
pub use error::Error;
pub use files::{
    AnyModel, check_place, check_save_path, load, load_calibrated, load_float, load_quantized,
    save, save_quantized,
};
pub use meaning::counterpart;
pub use quantize::{
    Calibration, InputQuantizerMode, QuantizeOptions, Quantized, calibrate_ranges, quantize,
    quantize_with_ranges,
};
pub use ranges::{CalibratedRange, CalibratedRanges, SampleFacts};
pub use samples::{ChannelOrder, ImageSettings, SampleRole, Samples};
