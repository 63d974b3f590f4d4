//! Layers over clips.

use float_model::{Conv3D, Padding, Pool3D, Volume};
use ndarray::Ix5;
use serde_json::Value;

use super::activation::activation;
use super::layers::{Config, LayerRefused, Result, bias};
use super::values::{expect, integer, invalid, padding, small};
use super::weights::Weights;

pub(super) fn conv3d(config: &Config, weights: &mut Weights) -> Result<Volume> {
    let kernel = weights.any("kernel")?;
    let kernel = kernel
        .into_dimensionality::<Ix5>()
        .map_err(|_| LayerRefused::Invalid("a kernel that has not five axes".to_owned()))?;
    let (kt, kh, kw, _, filters) = kernel.dim();
    if triple(config, "kernel_size", 1)? != [kt, kh, kw] {
        return Err(invalid("kernel_size"));
    }
    expect(config, "filters", filters)?;
    Ok(Volume::Conv3D(Conv3D {
        kernel,
        bias: bias(config, weights)?,
        strides: triple(config, "strides", 1)?,
        padding: padding(config)?,
        dilation: triple(config, "dilation_rate", 1)?,
        groups: integer(config, "groups", 1)?,
        activation: activation(config)?,
    }))
}

/// Parses `n`, `[t, h, w]`, or `[[before, after], ...]`.
pub(super) fn pads(config: &Config) -> Result<Volume> {
    let value = config.get("padding").ok_or_else(|| invalid("padding"))?;
    let number = |value: &Value| small(value).ok_or_else(|| invalid("padding"));
    let side = |value: &Value| match value.as_array().map(Vec::as_slice) {
        Some([before, after]) => Ok((number(before)?, number(after)?)),
        Some(_) => Err(invalid("padding")),
        None => number(value).map(|n| (n, n)),
    };
    Ok(Volume::ZeroPadding3D(
        match value.as_array().map(Vec::as_slice) {
            Some([t, h, w]) => [side(t)?, side(h)?, side(w)?],
            Some(_) => return Err(invalid("padding")),
            None => [side(value)?; 3],
        },
    ))
}

pub(super) fn average_pool(config: &Config) -> Result<Volume> {
    if padding(config)? != Padding::Valid {
        let message = "an AveragePooling3D with padding".to_owned();
        return Err(LayerRefused::Unsupported(message));
    }
    let pool_size = triple(config, "pool_size", 2)?;
    let strides = match config.get("strides") {
        None | Some(Value::Null) => pool_size,
        Some(_) => triple(config, "strides", 2)?,
    };
    Ok(Volume::AveragePool3D(Pool3D { pool_size, strides }))
}

fn triple(config: &Config, key: &str, default: usize) -> Result<[usize; 3]> {
    let refused = || invalid(key);
    match config.get(key) {
        None | Some(Value::Null) => Ok([default; 3]),
        Some(Value::Array(list)) => {
            let list: Option<Vec<usize>> = list.iter().map(small).collect();
            list.and_then(|list| list.try_into().ok())
                .ok_or_else(refused)
        }
        Some(value) => small(value).map(|n| [n; 3]).ok_or_else(refused),
    }
}
