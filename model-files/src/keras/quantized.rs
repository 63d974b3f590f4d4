//! Quantized networks that QuantizeML saved: float weights, configurations, ranges.

use std::path::Path;

use akida_sim::{
    CalibratedGraph, CalibratedNode, CalibratedOp, InputQuantizerSpec, OutputRanges, QuantizedLayer,
};
use config_schema::LayerConfig;
use float_model::Layer;
use serde_json::{Map, Value};

use super::config::Item;
use super::layers::{self, LayerRefused};
use super::source::Source;
use super::values::flag;
use super::weights::Weights;
use crate::FileError;

/// Classes whose configuration `dump_config` shows.
const CONFIGURED: [&str; 14] = [
    "Conv2D",
    "Conv2DTranspose",
    "DepthwiseConv2D",
    "DepthwiseConv2DTranspose",
    "SeparableConv2D",
    "Dense",
    "ReLU",
    "Activation",
    "Add",
    "GlobalAveragePooling2D",
    "StatefulRecurrent",
    "StatefulProjection",
    "BufferTempConv",
    "DepthwiseBufferTempConv",
];

/// Float layers that QuantizeML registers.
const OWN_FLOAT: [&str; 9] = [
    "PaddedConv2D",
    "DepthwiseConv2DTranspose",
    "Add",
    "Activation",
    "ExtractToken",
    "StatefulProjection",
    "BufferTempConv",
    "DepthwiseBufferTempConv",
    "StatefulRecurrent",
];

/// Clip of a `QuantizedReLU` whose configuration does not say.
const DEFAULT_MAX_VALUE: f64 = 6.0;

/// Returns the calibrated graph of a `.h5` file that QuantizeML saved.
///
/// # Errors
///
/// The file cannot be read, or holds layers that are not supported (all are named).
pub fn read_quantized_h5(path: &Path) -> Result<CalibratedGraph, FileError> {
    let model = Source::open_h5(path)?.read(is_known)?;
    let mut nodes = Vec::with_capacity(model.items.len());
    for mut item in model.items {
        let weights = std::mem::take(&mut item.weights);
        let op = op(&item, weights).map_err(|e| super::in_layer(path, &item.name, e))?;
        if is_list(&item.class, item.inputs.len()) {
            let parts = item.inputs.into_iter().enumerate();
            nodes.extend(parts.map(|(i, input)| CalibratedNode {
                name: element(&item.name, i),
                inputs: vec![input],
                op: op.clone(),
            }));
            continue;
        }
        nodes.push(CalibratedNode {
            name: item.name,
            inputs: item.inputs,
            op,
        });
    }
    Ok(CalibratedGraph {
        name: model.name,
        nodes,
        outputs: model.outputs,
    })
}

/// Returns whether a layer is the Dequantizer of several outputs, which takes and gives a list.
pub(super) fn is_list(class: &str, n_inputs: usize) -> bool {
    class == "Dequantizer" && n_inputs > 1
}

/// Returns the name of an element of a list that a layer gives.
pub(super) fn element(layer: &str, index: usize) -> String {
    format!("{layer}:{index}")
}

/// Returns whether a class is one that only quantization makes.
pub(super) fn is_quantized_class(class: &str) -> bool {
    class.starts_with("Quantized") || class == "InputQuantizer" || class == "Dequantizer"
}

/// Returns whether QuantizeML registers a class of this name.
pub(super) fn is_own_class(class: &str) -> bool {
    is_quantized_class(class) || OWN_FLOAT.contains(&class)
}

/// Returns whether a class, float or quantized, can be read.
pub(super) fn is_known(class: &str) -> bool {
    match class.strip_prefix("Quantized") {
        Some(float) => layers::is_known(float),
        None => layers::is_known(class) || class == "InputQuantizer" || class == "Dequantizer",
    }
}

fn op(item: &Item, mut weights: Weights) -> Result<CalibratedOp, LayerRefused> {
    let op = match item.class.as_str() {
        "Dequantizer" => CalibratedOp::Dequantizer,
        "InputQuantizer" => CalibratedOp::InputQuantizer(input_quantizer(item, &mut weights)?),
        class => match class.strip_prefix("Quantized") {
            None => {
                CalibratedOp::Float(Box::new(layers::build(class, &item.config, &mut weights)?))
            }
            Some(float) => CalibratedOp::Quantized(Box::new(quantized(float, item, &mut weights)?)),
        },
    };
    weights.finish()?;
    Ok(op)
}

fn input_quantizer(item: &Item, weights: &mut Weights) -> Result<InputQuantizerSpec, LayerRefused> {
    let bitwidth = item.config.get("bitwidth").and_then(Value::as_u64);
    let bitwidth = bitwidth
        .and_then(|bits| u8::try_from(bits).ok())
        .ok_or_else(|| LayerRefused::Invalid("`bitwidth`".to_owned()))?;
    Ok(InputQuantizerSpec {
        bitwidth,
        signed: flag(&item.config, "signed", true)?,
        range_min: weights.per_axis("range_min")?,
        range_max: weights.per_axis("range_max")?,
    })
}

fn quantized(
    class: &str,
    item: &Item,
    weights: &mut Weights,
) -> Result<QuantizedLayer, LayerRefused> {
    let mut keras = item.config.clone();
    if class == "ReLU" {
        keras
            .entry("max_value")
            .or_insert_with(|| DEFAULT_MAX_VALUE.into());
    }
    let json = match keras.remove("quant_config") {
        Some(Value::Object(json)) => json,
        None | Some(Value::Null) => Map::new(),
        Some(_) => return Err(LayerRefused::Invalid("`quant_config`".to_owned())),
    };
    let config = LayerConfig::parse(&json)
        .map_err(|(path, e)| LayerRefused::Invalid(format!("quant_config.{path}: {e}")))?;
    let layer: Layer = layers::build(class, &keras, weights)?;
    let ranges = match config.output_quantizer {
        None => None,
        Some(_) => Some(OutputRanges {
            range_max: weights.per_axis("range_max")?,
            rescaling_rate: weights.per_axis("rescaling_rate")?,
        }),
    };
    let json = (CONFIGURED.contains(&class) && !json.is_empty()).then_some(json);
    Ok(QuantizedLayer {
        layer,
        config,
        json,
        ranges,
    })
}
