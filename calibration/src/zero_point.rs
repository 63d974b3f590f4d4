//! The zero point of an unsigned InputQuantizer (NUMERICS.md: C5).

use float_model::{Dense, Draft, Layer, Padding};
use ndarray::Array1;
use quantizer_core::PerAxis;

use crate::CalibrationError;

/// Prepares the layer `first`, which takes the zero point, before calibration.
///
/// It gets a bias of zeros if it has none; a 'same' Conv2D gets the padding value 0.0, so that its
/// border can hold the zero point. NUMERICS.md: C5.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "other layers cannot take a zero point"
)]
pub fn prepare_unsigned_input(draft: &mut Draft, first: &str) {
    let Some(node) = draft.node_mut(first) else {
        return;
    };
    match &mut node.layer {
        Layer::Conv2D(conv) => {
            let filters = conv.kernel.dim().3;
            conv.bias.get_or_insert_with(|| Array1::zeros(filters));
            if conv.padding == Padding::Same && conv.padding_value.is_none() {
                conv.padding_value = Some(vec![0.0]);
                conv.padding = Padding::Valid;
            }
        }
        Layer::Conv2DTranspose(conv) => {
            let filters = conv.kernel.dim().2;
            conv.bias.get_or_insert_with(|| Array1::zeros(filters));
        }
        Layer::Dense(dense) => give_bias(dense),
        Layer::StatefulProjection(projection) => give_bias(&mut projection.dense),
        Layer::BufferTempConv(conv) => {
            let filters = conv.kernel.dim().3;
            conv.bias.get_or_insert_with(|| Array1::zeros(filters));
        }
        _ => {}
    }
}

/// Folds the smallest input `range_min` into the bias and padding value of the layer `first`.
///
/// ```text
/// o = range_min, times the scale of each Rescaling between
/// bias += sum over kernel positions and channels of W * o; padding_value -= o
/// ```
///
/// The sum is taken in f32 in the order of the kernel. NUMERICS.md: C5.
///
/// # Errors
///
/// A layer that cannot take it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "scales are applied in float32"
)]
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "other layers cannot take a zero point"
)]
pub fn fold_zero_point(
    draft: &mut Draft,
    first: &str,
    range_min: &PerAxis<f32>,
) -> Result<(), CalibrationError> {
    let mut offset = range_min.clone();
    for scale in rescalings_before(draft, first) {
        offset = offset.zip(&scale, |o, s| o * (s as f32));
    }
    let refused = |message: &str| CalibrationError::Layer {
        layer: first.to_owned(),
        message: message.to_owned(),
    };
    let node = draft
        .node_mut(first)
        .ok_or_else(|| refused("is not in the model"))?;
    let at = |channel: usize| offset.at(channel);
    match &mut node.layer {
        Layer::Conv2D(conv) => {
            let sums = channel_sums(
                conv.kernel
                    .indexed_iter()
                    .map(|((_, _, c, f), w)| (f, w * at(c))),
                conv.kernel.dim().3,
            );
            let bias = conv.bias.as_mut().ok_or_else(|| refused("has no bias"))?;
            *bias += &sums;
            if let Some(value) = &mut conv.padding_value {
                let n_values = value.len().max(offset.n_values());
                let moved: Vec<f32> = (0..n_values)
                    .map(|c| value[c.min(value.len() - 1)] - at(c))
                    .collect();
                let uniform = PerAxis::Axis(moved.clone()).uniform();
                *value = uniform.map_or(moved, |v| vec![v]);
            }
            Ok(())
        }
        Layer::Dense(dense) => fold_dense(dense, at).ok_or_else(|| refused("has no bias")),
        Layer::StatefulProjection(projection) => {
            fold_dense(&mut projection.dense, at).ok_or_else(|| refused("has no bias"))
        }
        Layer::BufferTempConv(conv) => {
            let (_, _, rows, filters) = conv.kernel.dim();
            let channels = rows.checked_div(conv.n_frames).unwrap_or(0).max(1);
            let terms = conv.kernel.indexed_iter();
            let terms = terms.map(|((_, _, row, f), w)| (f, w * at(row.rem_euclid(channels))));
            let sums = channel_sums(terms, filters);
            *conv.bias.as_mut().ok_or_else(|| refused("has no bias"))? += &sums;
            Ok(())
        }
        // Its outputs take different numbers of inputs, so that no bias makes up for an offset.
        Layer::Conv2DTranspose(_) => Err(refused(
            "cannot take the zero point that samples below zero need: use a signed type of the \
             inputs, --input-dtype int8",
        )),
        _ => Err(refused("cannot take the zero point of an unsigned input")),
    }
}

fn give_bias(dense: &mut Dense) {
    let units = dense.kernel.dim().1;
    dense.bias.get_or_insert_with(|| Array1::zeros(units));
}

/// Adds the offsets' products to the bias, `None` without one.
fn fold_dense(dense: &mut Dense, at: impl Fn(usize) -> f32) -> Option<()> {
    let terms = dense.kernel.indexed_iter();
    let terms = terms.map(|((c, u), w)| (u, w * at(c)));
    let sums = channel_sums(terms, dense.kernel.dim().1);
    *dense.bias.as_mut()? += &sums;
    Some(())
}

/// Returns the scales of the Rescaling layers between the input and `first`.
fn rescalings_before(draft: &Draft, first: &str) -> Vec<PerAxis<f64>> {
    let find = |name: &str| draft.nodes.iter().find(|node| node.name == name);
    let mut scales = Vec::new();
    let mut at = find(first);
    while let Some(before) = at
        .and_then(|node| node.inputs.first())
        .and_then(|name| find(name))
    {
        if let Layer::Rescaling(rescaling) = &before.layer {
            scales.push(rescaling.scale.clone());
        }
        at = Some(before);
    }
    scales.reverse();
    scales
}

fn channel_sums(terms: impl Iterator<Item = (usize, f32)>, n_channels: usize) -> Array1<f32> {
    let mut sums = Array1::zeros(n_channels);
    for (channel, term) in terms {
        sums[channel] += term;
    }
    sums
}
