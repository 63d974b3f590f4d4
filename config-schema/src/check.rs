//! Strict checks of a user's entry: keys, types, ranges, and what cannot go together.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::report::ConfigIssue;
use crate::topology::{LayerInfo, LayerKind};

/// Legal widths of a buffer.
pub(crate) const BUFFER_BITS: RangeInclusive<u64> = 12..=32;

/// What a key holds.
#[derive(Clone, Debug)]
enum Rule {
    /// An integer in a range.
    Bits(RangeInclusive<u64>),
    /// An integer in a range, or null.
    BitsOrNull(RangeInclusive<u64>),
    /// True or false.
    Flag,
    /// Only this value of a flag.
    Only { value: bool, why: &'static str },
    /// `per-tensor` or `per-axis`.
    OutputAxis,
    /// An axis of the kernel, or null.
    WeightAxis,
}

/// Returns the mistakes of a user's entry for `layer`.
pub(crate) fn check_entry(layer: &LayerInfo, entry: &Map<String, Value>) -> Vec<ConfigIssue> {
    let mut issues = Vec::new();
    let known = keys(layer.kind);
    for (key, value) in entry {
        let path = format!("$.{}.{key}", layer.name);
        if !known.contains(&key.as_str()) {
            let message = format!("a {} has no key `{key}`", class_name(layer.kind));
            issues.push(ConfigIssue::unknown(
                path,
                message,
                key,
                known.iter().copied(),
            ));
            continue;
        }
        match sub_rules(key) {
            None => {
                let range = if key == "lut_bitwidth" {
                    2..=16
                } else {
                    BUFFER_BITS
                };
                issues.extend(check_value(path, value, &Rule::Bits(range)));
            }
            Some(rules) => issues.extend(check_object(layer, key, value, &rules)),
        }
    }
    issues.extend(check_axis(layer, entry));
    issues
}

/// Returns the keys that an entry of a layer can have.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the other classes have no key of their own"
)]
fn keys(kind: LayerKind) -> Vec<&'static str> {
    let mut keys = vec!["output_quantizer"];
    match kind {
        LayerKind::SeparableConv2D => {
            keys.extend([
                "dw_weight_quantizer",
                "pw_weight_quantizer",
                "bias_quantizer",
            ]);
        }
        LayerKind::StatefulRecurrent => keys.push("a_quantizer"),
        LayerKind::ReLU => keys.push("max_value_quantizer"),
        LayerKind::LutActivation => return vec!["output_quantizer", "lut_bitwidth"],
        kind if kind.is_weighted() => keys.extend(["weight_quantizer", "bias_quantizer"]),
        _ => {}
    }
    keys.push("buffer_bitwidth");
    keys
}

/// Returns the rules of the keys inside an object, `None` for a plain number.
fn sub_rules(key: &str) -> Option<Vec<(&'static str, Rule)>> {
    match key {
        "output_quantizer" => Some(vec![
            ("bitwidth", Rule::Bits(1..=16)),
            ("signed", Rule::Flag),
            ("axis", Rule::OutputAxis),
            ("scale_bits", Rule::BitsOrNull(1..=16)),
            ("buffer_bitwidth", Rule::Bits(BUFFER_BITS)),
        ]),
        "weight_quantizer" | "dw_weight_quantizer" | "pw_weight_quantizer" => Some(vec![
            ("bitwidth", Rule::Bits(2..=16)),
            (
                "signed",
                Rule::Only {
                    value: true,
                    why: "unsigned weights clip nothing below zero",
                },
            ),
            ("axis", Rule::WeightAxis),
            (
                "fp_quantizer",
                Rule::Only {
                    value: false,
                    why: "only the a_quantizer has it",
                },
            ),
        ]),
        "a_quantizer" => Some(vec![
            ("bitwidth", Rule::Bits(2..=16)),
            ("axis", Rule::WeightAxis),
            (
                "fp_quantizer",
                Rule::Only {
                    value: true,
                    why: "the recurrence needs it",
                },
            ),
        ]),
        "bias_quantizer" => Some(vec![
            ("bitwidth", Rule::Bits(2..=16)),
            ("signed", Rule::Flag),
        ]),
        "max_value_quantizer" => Some(vec![("bitwidth", Rule::Bits(1..=16))]),
        _ => None,
    }
}

fn check_object(
    layer: &LayerInfo,
    key: &str,
    value: &Value,
    rules: &[(&'static str, Rule)],
) -> Vec<ConfigIssue> {
    let path = format!("$.{}.{key}", layer.name);
    let Value::Object(object) = value else {
        return vec![ConfigIssue::new(
            path,
            format!("expected an object, found {value}"),
        )];
    };
    let mut issues = Vec::new();
    for (inner, value) in object {
        let path = format!("{path}.{inner}");
        match rules.iter().find(|(name, _)| name == inner) {
            Some((_, rule)) => issues.extend(check_value(path, value, rule)),
            None => {
                let message = format!("{key} has no key `{inner}`");
                let known = rules.iter().map(|(name, _)| *name);
                issues.push(ConfigIssue::unknown(path, message, inner, known));
            }
        }
    }
    for (required, default) in required(layer, key) {
        if !object.contains_key(required) {
            let message = format!(
                "`{required}` is missing; the reference would silently take {default}, not the \
                 value of the QuantizationParams"
            );
            issues.push(ConfigIssue::new(format!("{path}.{required}"), message));
        }
    }
    issues.extend(check_sign(&path, key, object));
    if key == "output_quantizer"
        && layer.kind != LayerKind::Add
        && object.get("scale_bits") == Some(&Value::Null)
    {
        let message = "null is only for an Add, whose sums have no float scales";
        issues.push(ConfigIssue::new(format!("{path}.scale_bits"), message));
    }
    issues
}

/// Returns the keys that an object must spell, with what the reference takes without them.
fn required(layer: &LayerInfo, key: &str) -> Vec<(&'static str, &'static str)> {
    match key {
        "output_quantizer" => {
            let mut keys = vec![("bitwidth", "8")];
            // The dump of last_output_bits leaves the axis of a model output out.
            if !layer.is_output {
                keys.push(("axis", "\"per-tensor\""));
            }
            if layer.kind == LayerKind::ReLU && !layer.is_output {
                keys.push(("signed", "true"));
            }
            keys
        }
        "weight_quantizer" | "dw_weight_quantizer" | "pw_weight_quantizer" => {
            vec![("bitwidth", "4")]
        }
        "a_quantizer" => vec![("bitwidth", "4")],
        _ => vec![("bitwidth", "8")],
    }
}

fn check_value(path: String, value: &Value, rule: &Rule) -> Option<ConfigIssue> {
    let message = match rule {
        Rule::BitsOrNull(_) if value.is_null() => return None,
        Rule::Bits(range) | Rule::BitsOrNull(range) => match value.as_u64() {
            Some(bits) if range.contains(&bits) => return None,
            Some(bits) => {
                format!(
                    "{bits} is out of range; legal are {} to {}",
                    range.start(),
                    range.end()
                )
            }
            None => format!(
                "expected an integer from {} to {}, found {value}",
                range.start(),
                range.end()
            ),
        },
        Rule::Flag if value.is_boolean() => return None,
        Rule::Flag => format!("expected true or false, found {value}"),
        Rule::Only { value: only, .. } if value.as_bool() == Some(*only) => return None,
        Rule::Only { value: only, why } => format!("expected {only}, found {value}: {why}"),
        Rule::OutputAxis if matches!(value.as_str(), Some("per-tensor" | "per-axis")) => {
            return None;
        }
        Rule::OutputAxis => format!("expected \"per-tensor\" or \"per-axis\", found {value}"),
        Rule::WeightAxis if value.is_null() || value.is_i64() => return None,
        Rule::WeightAxis => format!("expected an axis of the kernel or null, found {value}"),
    };
    Some(ConfigIssue::new(path, message))
}

/// A signed width of 1 has no bit for its value.
fn check_sign(path: &str, key: &str, object: &Map<String, Value>) -> Option<ConfigIssue> {
    let signed = object
        .get("signed")
        .and_then(Value::as_bool)
        .unwrap_or(true);
    let one_bit = object.get("bitwidth").and_then(Value::as_u64) == Some(1);
    (key == "output_quantizer" && signed && one_bit).then(|| {
        let message = "1 is out of range; signed widths are 2 to 16 (`\"signed\": false`?)";
        ConfigIssue::new(format!("{path}.bitwidth"), message)
    })
}

/// A range for each channel needs an axis beside the channels.
fn check_axis(layer: &LayerInfo, entry: &Map<String, Value>) -> Option<ConfigIssue> {
    let axis = entry.get("output_quantizer")?.get("axis")?.as_str()?;
    (axis == "per-axis" && layer.shape.len() < 2).then(|| {
        let path = format!("$.{}.output_quantizer.axis", layer.name);
        ConfigIssue::new(
            path,
            "the output is a vector: only \"per-tensor\" is possible",
        )
    })
}

/// Returns the class name of a layer that runs on integers.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kinds are named after their classes"
)]
pub(crate) fn class_name(kind: LayerKind) -> String {
    match kind {
        LayerKind::LutActivation => "QuantizedActivation".to_owned(),
        LayerKind::Unquantizable => "layer in float".to_owned(),
        other => format!("Quantized{other:?}"),
    }
}
