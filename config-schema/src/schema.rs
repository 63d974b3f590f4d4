//! A JSON Schema of `q_config` files.

use serde_json::{Value, json};

/// Returns the JSON Schema (draft 2020-12) of a `q_config` file, for editors.
///
/// It knows every key; which keys a layer has depends on its class, which only the model tells.
#[must_use]
pub fn json_schema() -> Value {
    let bits = |low: u8, high: u8, what: &str| {
        json!({
            "type": "integer", "minimum": low, "maximum": high, "description": what
        })
    };
    let weights = |what: &str| {
        json!({
            "type": "object",
            "description": what,
            "required": ["bitwidth"],
            "additionalProperties": false,
            "properties": {
                "bitwidth": bits(2, 16, "Width of the weights, the sign included."),
                "signed": { "const": true, "default": true, "description": "Weights are signed." },
                "axis": {
                    "type": ["integer", "null"], "default": -1,
                    "description": "Axis of the kernel with a scale for each entry; null for one scale."
                },
                "fp_quantizer": {
                    "type": "boolean", "default": false,
                    "description": "Powers of two as scales; only for an a_quantizer."
                }
            }
        })
    };
    let aligned = |what: &str, low: u8| {
        json!({
            "type": "object",
            "description": what,
            "required": ["bitwidth"],
            "additionalProperties": false,
            "properties": {
                "bitwidth": bits(low, 16, "Width of the values."),
                "signed": { "type": "boolean", "description": "Whether the width counts a sign." }
            }
        })
    };
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "q_config",
        "description": "Quantization of single layers, by the names they have after the rewrites. An entry replaces the automatic one.",
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "output_quantizer": {
                    "type": "object",
                    "description": "Narrows the layer's outputs with a calibrated range.",
                    "required": ["bitwidth"],
                    "additionalProperties": false,
                    "properties": {
                        "bitwidth": bits(1, 16, "Width of the outputs; from 2 if signed."),
                        "signed": { "type": "boolean", "default": true, "description": "Whether the width counts a sign." },
                        "axis": {
                            "enum": ["per-tensor", "per-axis"], "default": "per-tensor",
                            "description": "One range for the tensor, or one for each channel; vectors are per-tensor."
                        },
                        "scale_bits": {
                            "type": ["integer", "null"], "minimum": 1, "maximum": 16, "default": 8,
                            "description": "Bits of the integer scales; null only for an Add."
                        },
                        "buffer_bitwidth": bits(12, 32, "Value bits of the scaled sums (default 32).")
                    }
                },
                "weight_quantizer": weights("Quantizer of the kernel."),
                "dw_weight_quantizer": weights("Quantizer of a separable convolution's depthwise kernel."),
                "pw_weight_quantizer": weights("Quantizer of a separable convolution's pointwise kernel."),
                "a_quantizer": weights("Quantizer of a recurrence's matrix."),
                "bias_quantizer": aligned("Quantizer of the bias (8 bits signed without it).", 2),
                "max_value_quantizer": aligned("Quantizer of a rectifier's upper clip (8 bits without it).", 1),
                "lut_bitwidth": bits(2, 16, "Width of a look-up table's entries (default 14)."),
                "buffer_bitwidth": bits(12, 32, "Width of the layer's buffer; stored as at most 28 for convolutions and Dense.")
            }
        }
    })
}
