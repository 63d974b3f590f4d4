//! Values of a layer's JSON.

use float_model::{Padding, Pads};
use quantizer_core::PerAxis;
use serde_json::Value;

use super::layers::{Config, LayerRefused, Result};

pub(super) fn padding(config: &Config) -> Result<Padding> {
    match config
        .get("padding")
        .and_then(Value::as_str)
        .map(str::to_lowercase)
        .as_deref()
    {
        Some("same") => Ok(Padding::Same),
        Some("valid") | None => Ok(Padding::Valid),
        Some(other) => Err(LayerRefused::Unsupported(format!("the padding `{other}`"))),
    }
}

pub(super) fn pads(config: &Config) -> Result<Pads> {
    let value = config.get("padding").ok_or_else(|| invalid("padding"))?;
    let number = |value: &Value| small(value).ok_or_else(|| invalid("padding"));
    let side = |value: &Value| match value.as_array().map(Vec::as_slice) {
        Some([before, after]) => Ok([number(before)?, number(after)?]),
        Some(_) => Err(invalid("padding")),
        None => Ok([number(value)?; 2]),
    };
    let [[top, bottom], [left, right]] = match value.as_array().map(Vec::as_slice) {
        Some([rows, cols]) => [side(rows)?, side(cols)?],
        Some(_) => return Err(invalid("padding")),
        None => [side(value)?; 2],
    };
    Ok(Pads {
        top,
        bottom,
        left,
        right,
    })
}

/// Returns a truth value.
pub(super) fn flag(config: &Config, key: &str, default: bool) -> Result<bool> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value.as_bool().ok_or_else(|| invalid(key)),
    }
}

/// Refuses weights whose extent is not the one that the configuration says.
pub(super) fn expect(config: &Config, key: &str, got: usize) -> Result<()> {
    match integer(config, key, got)? {
        want if want == got => Ok(()),
        want => Err(LayerRefused::Invalid(format!(
            "`{key}` is {want}, but the weights are for {got}"
        ))),
    }
}

pub(super) fn expect_kernel(config: &Config, got: [usize; 2]) -> Result<()> {
    if !config.contains_key("kernel_size") {
        return Ok(());
    }
    match pair(config, "kernel_size", 0)? {
        want if want == got => Ok(()),
        want => Err(LayerRefused::Invalid(format!(
            "`kernel_size` is {want:?}, but the weights are for {got:?}"
        ))),
    }
}

pub(super) fn integer(config: &Config, key: &str, default: usize) -> Result<usize> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value
            .as_u64()
            .filter(|n| *n <= 1 << 32)
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| invalid(key)),
    }
}

/// Returns a number of pixels. Windows beyond the bound are no network; it keeps products small.
pub(super) fn small(value: &Value) -> Option<usize> {
    value
        .as_u64()
        .filter(|n| *n <= 1 << 16)
        .and_then(|n| usize::try_from(n).ok())
}

/// Returns two numbers; a single one counts for both.
pub(super) fn pair(config: &Config, key: &str, default: usize) -> Result<[usize; 2]> {
    match config.get(key) {
        None | Some(Value::Null) => Ok([default; 2]),
        Some(Value::Array(list)) => match list.as_slice() {
            [a, b] => small(a)
                .zip(small(b))
                .map(|(a, b)| [a, b])
                .ok_or_else(|| invalid(key)),
            _ => Err(invalid(key)),
        },
        Some(value) => small(value).map(|n| [n; 2]).ok_or_else(|| invalid(key)),
    }
}

pub(super) fn integers(config: &Config, key: &str) -> Result<Vec<isize>> {
    let list = config
        .get(key)
        .and_then(Value::as_array)
        .ok_or_else(|| invalid(key))?;
    let number = |v: &Value| v.as_i64().and_then(|n| isize::try_from(n).ok());
    list.iter()
        .map(|v| number(v).ok_or_else(|| invalid(key)))
        .collect()
}

/// Returns an axis, which some files wrap in a list.
pub(super) fn axis(config: &Config) -> Result<isize> {
    let value = match config.get("axis") {
        None => return Ok(-1),
        Some(Value::Array(list)) => match list.as_slice() {
            [one] => one,
            _ => return Err(LayerRefused::Unsupported(format!("the axes {list:?}"))),
        },
        Some(value) => value,
    };
    value
        .as_i64()
        .and_then(|n| isize::try_from(n).ok())
        .ok_or_else(|| invalid("axis"))
}

/// Returns a float, also from the objects that some files write for NumPy numbers.
#[expect(clippy::cast_possible_truncation, reason = "Keras computes in float32")]
pub(super) fn optional_f32(config: &Config, key: &str) -> Result<Option<f32>> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => number(value)
            .map(|x| x as f32)
            .filter(|x| x.is_finite())
            .map(Some)
            .ok_or_else(|| invalid(key)),
    }
}

/// Returns a finite number, which may stand in an object: `{"value": 1}`, `{"config": {...}}`.
pub(super) fn number(value: &Value) -> Option<f64> {
    let object = value.get("config").unwrap_or(value);
    let plain = object.get("value").unwrap_or(value);
    plain.as_f64().filter(|x| x.is_finite())
}

/// Returns a number, or a list of them.
pub(super) fn numbers(config: &Config, key: &str, default: f64) -> Result<PerAxis<f64>> {
    match config.get(key) {
        None => Ok(PerAxis::Tensor(default)),
        Some(Value::Array(list)) => {
            let values = list.iter().map(|v| number(v).ok_or_else(|| invalid(key)));
            // A list of one means that number for every channel.
            Ok(match values.collect::<Result<Vec<f64>>>()?.as_slice() {
                [value] => PerAxis::Tensor(*value),
                values => PerAxis::Axis(values.to_vec()),
            })
        }
        Some(value) => number(value)
            .map(PerAxis::Tensor)
            .ok_or_else(|| invalid(key)),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "Keras computes in float32")]
pub(super) fn narrowed(values: &PerAxis<f64>) -> Vec<f32> {
    values.as_slice().iter().map(|v| *v as f32).collect()
}

pub(super) fn invalid(key: &str) -> LayerRefused {
    LayerRefused::Invalid(format!("`{key}` is missing or cannot be right"))
}
