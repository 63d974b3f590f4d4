//! How far integer weights must shrink until a layer's sums fit.

use akida_sim::prove::{LayerBounds, bound};
use akida_sim::{QuantizedModel, QuantizedOp};
use ndarray::{ArrayBase, DataMut, Dimension};
use quantizer_core::layers::{IntegerLayer, IntegerOp};
use quantizer_core::{PerAxis, Stage};

use crate::Error;

/// Factors are counted in parts of this.
const WHOLE: i64 = 1 << 16;

/// The largest common factor of a channel's integer weights for which the layer is proved.
#[derive(Clone, Debug, PartialEq)]
pub struct Shrink {
    /// The layer that holds the weights.
    pub layer: String,
    /// Channels that must shrink, each with its factor in parts of 2^16.
    pub channels: Vec<(usize, u32)>,
}

impl Shrink {
    /// The parts that a factor counts.
    pub const PARTS: u32 = 1 << 16;

    /// Returns the channel that must shrink most, with its factor in parts of 2^16.
    #[must_use]
    pub fn least(&self) -> Option<(usize, u32)> {
        self.channels
            .iter()
            .copied()
            .min_by_key(|(_, parts)| *parts)
    }
}

/// Returns by how much the weights of node `weights` must shrink for the stages of node `target` to
/// fit; `None` if no factor is enough, or channels of the two are not the same.
///
/// ```text
/// weights, bias, and the clips of rectifiers become trunc(v * parts / 2^16); all else stays
/// ```
///
/// Bias and clips are in units of the sums, so they shrink with them. Both ends are tried: with one
/// part more, the channel does not fit. `region` are the nodes from the weights to the target.
pub(super) fn shrink(
    model: &QuantizedModel,
    (weights, region): (usize, &[usize]),
    target: usize,
) -> Result<Option<Shrink>, Error> {
    let Some(n_channels) = channels_of(model, weights) else {
        return Ok(None);
    };
    let before = misfits(&bound(model)?[target], n_channels);
    let Some(before) = before else {
        return Ok(None);
    };
    // Per channel: `fits` parts are enough, `over` are too many.
    let mut fits: Vec<i64> = vec![0; n_channels];
    let mut over: Vec<i64> = vec![WHOLE; n_channels];
    let nothing = before.iter().map(|open| if *open { 0 } else { WHOLE });
    if let Some(open) = misfits_at(model, region, target, &nothing.collect::<Vec<_>>())?
        && open.iter().any(|open| *open)
    {
        return Ok(None);
    }
    while fits
        .iter()
        .zip(&over)
        .zip(&before)
        .any(|((f, o), open)| *open && o - f > 1)
    {
        let tried = fits.iter().zip(&over).zip(&before);
        let tried = tried.map(|((f, o), open)| if *open { (f + o).div_euclid(2) } else { WHOLE });
        let tried: Vec<i64> = tried.collect();
        let Some(open) = misfits_at(model, region, target, &tried)? else {
            return Ok(None);
        };
        for c in 0..n_channels {
            let end = if open[c] { &mut over[c] } else { &mut fits[c] };
            *end = tried[c];
        }
    }
    let shrinking = before.iter().zip(&fits).enumerate();
    let channels = shrinking
        .filter(|(_, (open, _))| **open)
        .map(|(c, (_, parts))| (c, u32::try_from(*parts).unwrap_or(0)));
    Ok(Some(Shrink {
        layer: model.nodes[weights].name.clone(),
        channels: channels.collect(),
    }))
}

fn misfits_at(
    model: &QuantizedModel,
    region: &[usize],
    target: usize,
    parts: &[i64],
) -> Result<Option<Vec<bool>>, Error> {
    let mut model = model.clone();
    for index in region {
        if let QuantizedOp::Integer(layer) = &mut model.nodes[*index].op {
            scale(layer, parts);
        }
    }
    Ok(misfits(&bound(&model)?[target], parts.len()))
}

/// Returns which channels have a stage that does not fit; `None` where channels differ in number.
fn misfits(bounds: &LayerBounds, n_channels: usize) -> Option<Vec<bool>> {
    let mut open = vec![false; n_channels];
    for stage in bounds.stages.iter().filter(|s| !s.stage.clips_by_design()) {
        if stage.fits() {
            continue;
        }
        if stage.channels.len() != n_channels || stage.stage == Stage::DepthwiseAccumulator {
            return None;
        }
        for (open, range) in open.iter_mut().zip(&stage.channels) {
            *open |= !range.fits(stage.value_bits);
        }
    }
    Some(open)
}

fn channels_of(model: &QuantizedModel, index: usize) -> Option<usize> {
    let QuantizedOp::Integer(layer) = &model.nodes[index].op else {
        return None;
    };
    if let IntegerOp::StatefulRecurrent(_) = layer.op {
        return None;
    }
    model.nodes[index].shape.last().copied().flatten()
}

fn scale(layer: &mut IntegerLayer, parts: &[i64]) {
    let IntegerLayer { op, bias, .. } = layer;
    match op {
        IntegerOp::Conv2D(op) => scale_array(&mut op.kernel, parts),
        IntegerOp::DepthwiseConv2D(op) => scale_array(&mut op.kernel, parts),
        IntegerOp::Conv2DTranspose(op) => scale_array(&mut op.kernel, parts),
        IntegerOp::DepthwiseConv2DTranspose(op) => scale_array(&mut op.kernel, parts),
        IntegerOp::SeparableConv2D { pointwise, .. } => scale_array(pointwise, parts),
        IntegerOp::Dense { kernel }
        | IntegerOp::StatefulProjection { kernel, .. }
        | IntegerOp::BufferTempConv { kernel, .. }
        | IntegerOp::DepthwiseBufferTempConv { kernel } => scale_array(kernel, parts),
        IntegerOp::ReLU { max } => {
            if let Some(max) = max {
                *max = scaled(max, parts);
            }
        }
        IntegerOp::StatefulRecurrent(_)
        | IntegerOp::LookUp { .. }
        | IntegerOp::MaxPool2D(_)
        | IntegerOp::GlobalAveragePooling2D { .. }
        | IntegerOp::Add
        | IntegerOp::Concatenate(_)
        | IntegerOp::Flatten
        | IntegerOp::Reshape { .. }
        | IntegerOp::Permute { .. }
        | IntegerOp::ExtractToken { .. }
        | IntegerOp::Identity => {}
    }
    if let Some(bias) = bias {
        bias.values = scaled(&bias.values, parts);
    }
}

fn scaled(values: &PerAxis<i64>, parts: &[i64]) -> PerAxis<i64> {
    let channels = parts.iter().enumerate();
    let channels = channels.map(|(c, parts)| truncated(values.at(c), *parts));
    PerAxis::Axis(channels.collect())
}

/// Scales an array whose last axis is that of the channels.
fn scale_array<D: Dimension>(array: &mut ArrayBase<impl DataMut<Elem = i32>, D>, parts: &[i64]) {
    for (i, w) in array.iter_mut().enumerate() {
        let scaled = truncated(i64::from(*w), parts[i.rem_euclid(parts.len().max(1))]);
        *w = i32::try_from(scaled).unwrap_or(*w);
    }
}

/// Returns `v * parts / 2^16` rounded toward zero.
const fn truncated(v: i64, parts: i64) -> i64 {
    let magnitude = (v.abs() * parts).div_euclid(WHOLE);
    if v < 0 { -magnitude } else { magnitude }
}
