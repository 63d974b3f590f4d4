//! The effective configuration of one layer.

use serde_json::{Map, Value};

/// The effective configuration of one layer: every value that its arithmetic needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerConfig {
    /// Output quantizer, if the layer has one.
    pub output_quantizer: Option<OutputQuantizerConfig>,
    /// Quantizer of the kernel.
    pub weight_quantizer: Option<WeightQuantizerConfig>,
    /// Quantizer of a separable convolution's depthwise kernel.
    pub dw_weight_quantizer: Option<WeightQuantizerConfig>,
    /// Quantizer of a separable convolution's pointwise kernel.
    pub pw_weight_quantizer: Option<WeightQuantizerConfig>,
    /// Quantizer of the bias.
    pub bias_quantizer: AlignedQuantizerConfig,
    /// Quantizer of a rectifier's upper clip.
    pub max_value_quantizer: AlignedQuantizerConfig,
    /// Quantizer of a recurrence's factors.
    pub a_quantizer: Option<WeightQuantizerConfig>,
    /// Bits of a look-up table's entries, the sign included.
    pub lut_bitwidth: Option<u8>,
    /// Bits of the layer's buffer, the sign included.
    pub buffer_bitwidth: Option<u8>,
}

/// Configuration of an OutputQuantizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputQuantizerConfig {
    /// Width of the outputs.
    pub bitwidth: u8,
    /// Whether the width counts a sign.
    pub signed: bool,
    /// One range for the tensor, or one for each channel.
    pub axis: Axis,
    /// Bits of the integer scales; `None` only for inputs without float scales.
    pub scale_bits: Option<u8>,
    /// Value bits of the scaled sums.
    pub buffer_bitwidth: u8,
}

/// What has a range of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// The whole tensor.
    PerTensor,
    /// Each channel of the last axis.
    PerAxis,
}

/// Configuration of a WeightQuantizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightQuantizerConfig {
    /// Width of the weights.
    pub bitwidth: u8,
    /// Whether the width counts a sign.
    pub signed: bool,
    /// Axis of the kernel whose entries have their own scales; `None` for one scale.
    pub axis: Option<i64>,
    /// Whether scales are powers of two.
    pub fp_quantizer: bool,
}

/// Configuration of an AlignedWeightQuantizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlignedQuantizerConfig {
    /// Width of the values.
    pub bitwidth: u8,
    /// Whether the width counts a sign.
    pub signed: bool,
}

impl LayerConfig {
    /// Returns the configuration that a complete entry spells, with the class defaults of the
    /// reference for keys that are missing inside an object.
    ///
    /// # Errors
    ///
    /// The JSON path, below the layer, of the first value of a wrong type, and what is wrong.
    pub fn parse(entry: &Map<String, Value>) -> Result<Self, (String, String)> {
        let bits = |key: &'static str| match entry.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => small(value).map(Some).map_err(|e| (key.to_owned(), e)),
        };
        Ok(Self {
            output_quantizer: object(entry, "output_quantizer")?.map(output).transpose()?,
            weight_quantizer: weight(entry, "weight_quantizer")?,
            dw_weight_quantizer: weight(entry, "dw_weight_quantizer")?,
            pw_weight_quantizer: weight(entry, "pw_weight_quantizer")?,
            bias_quantizer: aligned(entry, "bias_quantizer", true)?,
            max_value_quantizer: aligned(entry, "max_value_quantizer", false)?,
            a_quantizer: weight(entry, "a_quantizer")?,
            lut_bitwidth: bits("lut_bitwidth")?,
            buffer_bitwidth: bits("buffer_bitwidth")?,
        })
    }
}

type Refused = (String, String);

fn object<'a>(
    entry: &'a Map<String, Value>,
    key: &str,
) -> Result<Option<&'a Map<String, Value>>, Refused> {
    match entry.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(other) => Err((key.to_owned(), format!("expected an object, found {other}"))),
    }
}

fn output(object: &Map<String, Value>) -> Result<OutputQuantizerConfig, Refused> {
    let name = "output_quantizer";
    let axis = match object.get("axis").and_then(Value::as_str) {
        Some("per-axis") => Axis::PerAxis,
        Some("per-tensor") | None => Axis::PerTensor,
        Some(other) => {
            let message = format!("expected \"per-tensor\" or \"per-axis\", found \"{other}\"");
            return Err((format!("{name}.axis"), message));
        }
    };
    let scale_bits = match object.get("scale_bits") {
        Some(Value::Null) => None,
        _ => Some(field(object, name, "scale_bits", 8)?),
    };
    Ok(OutputQuantizerConfig {
        bitwidth: field(object, name, "bitwidth", 8)?,
        signed: flag(object, name, "signed", true)?,
        axis,
        scale_bits,
        buffer_bitwidth: field(object, name, "buffer_bitwidth", 32)?,
    })
}

fn weight(
    entry: &Map<String, Value>,
    name: &str,
) -> Result<Option<WeightQuantizerConfig>, Refused> {
    let Some(object) = object(entry, name)? else {
        return Ok(None);
    };
    let axis = match object.get("axis") {
        None => Some(-1),
        Some(Value::Null) => None,
        Some(value) => Some(value.as_i64().ok_or_else(|| {
            (
                format!("{name}.axis"),
                format!("expected an integer or null, found {value}"),
            )
        })?),
    };
    Ok(Some(WeightQuantizerConfig {
        bitwidth: field(object, name, "bitwidth", 4)?,
        signed: flag(object, name, "signed", true)?,
        axis,
        fp_quantizer: flag(object, name, "fp_quantizer", false)?,
    }))
}

fn aligned(
    entry: &Map<String, Value>,
    name: &str,
    signed: bool,
) -> Result<AlignedQuantizerConfig, Refused> {
    let default = AlignedQuantizerConfig {
        bitwidth: 8,
        signed,
    };
    let Some(object) = object(entry, name)? else {
        return Ok(default);
    };
    Ok(AlignedQuantizerConfig {
        bitwidth: field(object, name, "bitwidth", 8)?,
        signed: flag(object, name, "signed", signed)?,
    })
}

fn field(object: &Map<String, Value>, name: &str, key: &str, default: u8) -> Result<u8, Refused> {
    match object.get(key) {
        None => Ok(default),
        Some(value) => small(value).map_err(|e| (format!("{name}.{key}"), e)),
    }
}

fn flag(
    object: &Map<String, Value>,
    name: &str,
    key: &str,
    default: bool,
) -> Result<bool, Refused> {
    match object.get(key) {
        None => Ok(default),
        Some(value) => value.as_bool().ok_or_else(|| {
            (
                format!("{name}.{key}"),
                format!("expected true or false, found {value}"),
            )
        }),
    }
}

fn small(value: &Value) -> Result<u8, String> {
    value
        .as_u64()
        .and_then(|v| u8::try_from(v).ok())
        .ok_or_else(|| format!("expected a small integer, found {value}"))
}
