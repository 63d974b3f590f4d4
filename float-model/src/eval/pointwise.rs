//! Functions of single elements, with parameters per channel or per element.

use kernels::Kernels;
use ndarray::{ArrayD, IxDyn};
use rayon::prelude::*;

use super::tensor::Tensor;
use crate::shape::item_axis;
use crate::{BatchNormalization, GraphError, ReLU, Rescaling};

/// Elements that one task handles; any division gives the same results.
const CHUNK: usize = 1 << 14;

/// Returns `f` of each element.
pub(super) fn map(x: &Tensor<'_>, f: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    map_indexed(x, |_, x| f(x))
}

/// Returns `f(index, element)` for each element, counted in row-major order.
fn map_indexed(x: &Tensor<'_>, f: impl Fn(usize, f32) -> f32 + Sync) -> Vec<f32> {
    let mut out = x.to_vec();
    out.par_chunks_mut(CHUNK)
        .enumerate()
        .for_each(|(chunk, out)| {
            for (i, x) in out.iter_mut().enumerate() {
                *x = f(chunk * CHUNK + i, *x);
            }
        });
    out
}

/// Returns the rectifier of each element.
pub(super) fn relu(kernels: Kernels, relu: ReLU, x: &Tensor<'_>) -> Vec<f32> {
    let Some(most) = plain_top(relu) else {
        return map(x, |x| rectify(relu, x));
    };
    let mut out = vec![0.0; x.data.len()];
    out.par_chunks_mut(CHUNK)
        .zip(x.data.par_chunks(CHUNK))
        .for_each(|(out, x)| kernels.rectify_f32(x, most, out));
    out
}

/// Rectifies elements where they are; returns whether the rectifier is one that can.
pub(super) fn relu_in_place(kernels: Kernels, relu: ReLU, x: &mut [f32]) -> bool {
    let Some(most) = plain_top(relu) else {
        return false;
    };
    x.par_chunks_mut(CHUNK)
        .for_each(|x| kernels.rectify_f32_in_place(x, most));
    true
}

/// Returns the upper end of a rectifier that is 0 below 0; `None` for another one.
pub(super) fn plain_top(relu: ReLU) -> Option<f32> {
    // Without an upper end infinity stays infinity, as with one at infinity.
    let most = relu.max_value.unwrap_or(f32::INFINITY);
    let is_plain = relu.threshold == 0.0 && relu.negative_slope == 0.0 && most > 0.0;
    is_plain.then_some(most)
}

/// Returns the rectifier of one element: the formula of [`ReLU`], in f32, one rounding an
/// operation. A slope of 0 gives `+0` below the threshold, also for infinities; NaN gives NaN.
pub(super) fn rectify(relu: ReLU, x: f32) -> f32 {
    if let Some(max) = relu.max_value.filter(|max| x >= *max) {
        max
    } else if x >= relu.threshold {
        x
    } else if relu.negative_slope == 0.0 && !x.is_nan() {
        0.0
    } else {
        relu.negative_slope * (x - relu.threshold)
    }
}

/// Returns `x` where positive, `alpha * x` elsewhere, `alpha` broadcast against one item.
pub(super) fn prelu(
    name: &str,
    alpha: &ArrayD<f32>,
    x: &Tensor<'_>,
) -> Result<Vec<f32>, GraphError> {
    let item = &x.extents[1..];
    let slopes = alpha.broadcast(IxDyn(item)).ok_or_else(|| {
        let got = alpha.shape();
        GraphError::invalid(name, format!("slopes {got:?} for items of {item:?}"))
    })?;
    let slopes: Vec<f32> = slopes.iter().copied().collect();
    Ok(map_indexed(x, |index, x| {
        if x > 0.0 {
            x
        } else {
            slopes[index.rem_euclid(slopes.len())] * x
        }
    }))
}

/// Returns the normalization with the stored statistics.
///
/// ```text
/// y = (x - mean) * gain + beta,  gain = gamma / sqrt(variance + epsilon)
/// ```
///
/// in f32, one rounding an operation; `gamma` is 1 and `beta` 0 where the layer has none.
/// NUMERICS.md: F1.
pub(super) fn normalize(
    name: &str,
    norm: &BatchNormalization,
    x: &Tensor<'_>,
) -> Result<Vec<f32>, GraphError> {
    let n_channels = norm.mean.len();
    let lens = [
        Some(norm.variance.len()),
        norm.gamma.as_ref().map(|gamma| gamma.len()),
        norm.beta.as_ref().map(|beta| beta.len()),
    ];
    if let Some(len) = lens.into_iter().flatten().find(|len| *len != n_channels) {
        let message = format!("has {n_channels} means, but {len} of another parameter");
        return Err(GraphError::invalid(name, message));
    }
    let gain: Vec<f32> = (0..n_channels)
        .map(|c| {
            let gamma = norm.gamma.as_ref().map_or(1.0, |gamma| gamma[c]);
            gamma / (norm.variance[c] + norm.epsilon).sqrt()
        })
        .collect();
    let beta = |c: usize| norm.beta.as_ref().map_or(0.0, |beta| beta[c]);
    let axis = item_axis(name, norm.axis, x.extents.len() - 1)?;
    let inner: usize = x.extents[axis + 2..].iter().product();
    Ok(map_indexed(x, |index, x| {
        let c = index.div_euclid(inner).rem_euclid(n_channels);
        (x - norm.mean[c]) * gain[c] + beta(c)
    }))
}

/// Returns `x * fl(scale) + fl(offset)`, in f32, one rounding an operation. `fl` rounds the
/// parameters to f32, ties to even. NUMERICS.md: N23.
pub(super) fn rescale(
    name: &str,
    layer: &Rescaling,
    x: &Tensor<'_>,
) -> Result<Vec<f32>, GraphError> {
    let n_last = x.last();
    for n_values in [layer.scale.n_values(), layer.offset.n_values()] {
        if n_values != 1 && n_values != n_last {
            let message = format!("has {n_values} values for {n_last} channels");
            return Err(GraphError::invalid(name, message));
        }
    }
    let per_channel = |values: &[f64]| -> Vec<f32> {
        (0..n_last)
            .map(|c| to_f32(values.get(c).copied().unwrap_or(values[0])))
            .collect()
    };
    let scale = per_channel(layer.scale.as_slice());
    let offset = per_channel(layer.offset.as_slice());
    Ok(map_indexed(x, |index, x| {
        let c = index.rem_euclid(n_last);
        x * scale[c] + offset[c]
    }))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the one rounding of a parameter, ties to even"
)]
fn to_f32(x: f64) -> f32 {
    x as f32
}
