//! QuantizationParams and `q_config`: parse, check, merge, explain, dump.
//!
//! [`resolve`] takes the skeleton of a network (a [`Topology`]), the [`QuantizationParams`] and a
//! `q_config`, and decides for every layer whether and how it is quantized. All mistakes of a
//! `q_config` are reported at once, each with its JSON path ([`ConfigReport`]).

mod assign;
mod check;
mod json;
mod layer_config;
mod merge;
mod params;
mod parse;
mod report;
mod resolve;
mod schema;
mod topology;

pub use json::{Origin, explain, to_indented};
pub use layer_config::{
    AlignedQuantizerConfig, Axis, LayerConfig, OutputQuantizerConfig, WeightQuantizerConfig,
};
pub use params::{InputDtype, ParamValues, ParamsError, QuantizationParams};
pub use parse::parse_q_config;
pub use report::{ConfigIssue, ConfigReport};
pub use resolve::{
    InputQuantizerConfig, Request, Resolved, ResolvedLayer, Source, Status, Strictness,
    input_quantizer, resolve,
};
pub use schema::json_schema;
pub use topology::{LayerInfo, LayerKind, Topology};
