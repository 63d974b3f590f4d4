//! A network with float weights, decided quantization and calibrated ranges.

use config_schema::LayerConfig;
use float_model::Layer;
use quantizer_core::PerAxis;
use serde_json::{Map, Value};

/// A network ready to become integers.
///
/// This is what a calibration ends with, and what the reference's `.h5` files hold. Nodes may
/// stand in any order.
#[derive(Clone, Debug)]
pub struct CalibratedGraph {
    /// Name of the model.
    pub name: String,
    /// Layers, in any order.
    pub nodes: Vec<CalibratedNode>,
    /// Names of the layers whose outputs the model returns.
    pub outputs: Vec<String>,
}

/// One layer with its inputs by name.
#[derive(Clone, Debug)]
pub struct CalibratedNode {
    /// Unique name.
    pub name: String,
    /// Names of the layers whose outputs it takes, in call order.
    pub inputs: Vec<String>,
    /// The layer.
    pub op: CalibratedOp,
}

/// A layer in float or with its quantization.
#[derive(Clone, Debug)]
pub enum CalibratedOp {
    /// An input, or a layer that stays in float.
    Float(Box<Layer>),
    /// A layer that runs on integers.
    Quantized(Box<QuantizedLayer>),
    /// Makes integers of the float input.
    InputQuantizer(InputQuantizerSpec),
    /// Makes floats of integers.
    Dequantizer,
}

/// A float layer with its quantization.
#[derive(Clone, Debug)]
pub struct QuantizedLayer {
    /// The layer with its float weights, already divided by cross-layer equalization.
    pub layer: Layer,
    /// Its effective configuration.
    pub config: LayerConfig,
    /// The configuration as `dump_config` writes it; `None` for classes without one.
    pub json: Option<Map<String, Value>>,
    /// Calibrated ranges, for layers with an output quantizer.
    pub ranges: Option<OutputRanges>,
}

impl QuantizedLayer {
    /// Returns the class name that the reference gives to it, such as `QuantizedMaxPool2D`.
    #[must_use]
    pub fn class_name(&self) -> String {
        match self.layer.class_name() {
            "PaddedConv2D" => "QuantizedConv2D".to_owned(),
            "MaxPooling2D" => "QuantizedMaxPool2D".to_owned(),
            name => format!("Quantized{name}"),
        }
    }
}

/// What calibration found for an output quantizer.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputRanges {
    /// Range of the outputs, one or one for each channel.
    pub range_max: PerAxis<f32>,
    /// Factor of the output scales.
    pub rescaling_rate: PerAxis<f32>,
}

/// An InputQuantizer with its calibrated ranges.
#[derive(Clone, Debug, PartialEq)]
pub struct InputQuantizerSpec {
    /// Width of the integers.
    pub bitwidth: u8,
    /// Whether the width counts a sign.
    pub signed: bool,
    /// Smallest input, one or one for each channel.
    pub range_min: PerAxis<f32>,
    /// Largest input, one or one for each channel.
    pub range_max: PerAxis<f32>,
}
