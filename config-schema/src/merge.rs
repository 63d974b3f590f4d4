//! The effective entry of a layer: the user's or the automatic one, completed.

use serde_json::{Map, Value, json};

use crate::params::ParamValues;
use crate::report::ConfigIssue;
use crate::topology::{LayerInfo, LayerKind};

/// Widest buffer of a layer with a single accumulator.
const MAX_CAPPED_BUFFER: u64 = 28;

/// Completes `entry` as the layer's constructor does: missing objects, forced values, buffers.
///
/// Keys keep the user's order; new ones follow. Returns a warning for each value of the user's
/// that is forced to another one.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the other classes have nothing forced"
)]
pub(crate) fn complete(
    layer: &LayerInfo,
    entry: &mut Map<String, Value>,
    params: &ParamValues,
    weight_bits: u8,
) -> Vec<ConfigIssue> {
    let mut warnings = Vec::new();
    let bits = || json!({ "bitwidth": weight_bits });
    match layer.kind {
        LayerKind::SeparableConv2D => {
            entry.entry("dw_weight_quantizer").or_insert_with(bits);
            entry.entry("pw_weight_quantizer").or_insert_with(bits);
            warnings.extend(force_axis(layer, entry, "dw_weight_quantizer", Value::Null));
        }
        LayerKind::StatefulRecurrent => {
            let output = json!({ "bitwidth": 16, "axis": "per-tensor" });
            entry.entry("output_quantizer").or_insert(output);
            let a = json!({ "bitwidth": 16, "axis": null, "fp_quantizer": true });
            entry.entry("a_quantizer").or_insert(a);
        }
        LayerKind::LutActivation => {
            entry.entry("lut_bitwidth").or_insert_with(|| 14.into());
            return warnings;
        }
        kind if kind.is_weighted() => {
            entry.entry("weight_quantizer").or_insert_with(bits);
            let forced = match kind {
                LayerKind::DepthwiseConv2D => Some(json!(-2)),
                LayerKind::DepthwiseConv2DTranspose => Some(Value::Null),
                _ => None,
            };
            if let Some(axis) = forced {
                warnings.extend(force_axis(layer, entry, "weight_quantizer", axis));
            }
        }
        _ => {}
    }
    let buffer = entry
        .entry("buffer_bitwidth")
        .or_insert_with(|| params.buffer_bits.into());
    if layer.kind.has_capped_buffer()
        && let Some(asked) = buffer.as_u64().filter(|bits| *bits > MAX_CAPPED_BUFFER)
    {
        *buffer = MAX_CAPPED_BUFFER.into();
        if asked != u64::from(params.buffer_bits) {
            let path = format!("$.{}.buffer_bitwidth", layer.name);
            let message = format!("{asked} was forced to {MAX_CAPPED_BUFFER}");
            warnings.push(ConfigIssue::new(path, message));
        }
    }
    warnings
}

/// Overwrites the axis of a weight quantizer, in place or appended.
fn force_axis(
    layer: &LayerInfo,
    entry: &mut Map<String, Value>,
    key: &str,
    axis: Value,
) -> Option<ConfigIssue> {
    let object = entry.get_mut(key)?.as_object_mut()?;
    let asked = object.insert("axis".to_owned(), axis.clone())?;
    (asked != axis).then(|| {
        let path = format!("$.{}.{key}.axis", layer.name);
        ConfigIssue::new(path, format!("{asked} was forced to {axis}"))
    })
}

/// Returns mistakes in the widths of a completed entry that would only show when it runs.
pub(crate) fn check_widths(layer: &LayerInfo, entry: &Map<String, Value>) -> Vec<ConfigIssue> {
    let bits = |object: Option<&Value>, key: &str| object?.get(key)?.as_u64();
    let Some(buffer) = entry.get("buffer_bitwidth").and_then(Value::as_u64) else {
        return Vec::new();
    };
    let output = entry.get("output_quantizer");
    let Some(bitwidth) = bits(output, "bitwidth") else {
        return Vec::new();
    };
    let sign_bits = |signed: bool| u64::from(signed);
    let signed = output
        .and_then(|o| o.get("signed"))
        .and_then(Value::as_bool)
        .unwrap_or(true);
    let unsigned_sums = matches!(
        layer.kind,
        LayerKind::ReLU | LayerKind::GlobalAveragePooling2D
    );
    let inner = buffer - sign_bits(!unsigned_sums);
    let mut issues = Vec::new();
    let path = format!("$.{}.output_quantizer", layer.name);
    if bitwidth - sign_bits(signed) >= inner {
        let message = format!("{bitwidth} bits are not below the buffer of {buffer} bits");
        issues.push(ConfigIssue::new(format!("{path}.bitwidth"), message));
    }
    let scaled = bits(output, "buffer_bitwidth").unwrap_or(32);
    if layer.kind != LayerKind::Add && scaled < inner {
        let message = format!(
            "{scaled} bits cannot hold the layer's sums of {inner} value bits (buffer_bitwidth \
             {buffer})"
        );
        issues.push(ConfigIssue::new(format!("{path}.buffer_bitwidth"), message));
    }
    issues
}
