//! Which way each input of a layer moves one of its results: what the search for witnesses climbs.
//!
//! Nothing here is part of a proof. A wrong slope makes the search slower, not its answer wrong:
//! every witness is replayed.

mod windows;

use kernels::{Dense, Kernels};
use ndarray::{Array2, ArrayD, IxDyn};
use quantizer_core::Stage;
use quantizer_core::layers::{ConcatAxis, IntegerLayer, IntegerOp};
use quantizer_core::log2::mul_pow2;
use quantizer_core::tensor::int_to_f32;

/// Slope of a rectifier where it is flat: small, so that a dead unit may still be woken.
const FLAT: f32 = 0.1;

/// A gradient, in the extents of its tensor.
pub(super) type Gradient = ArrayD<f32>;

/// Returns the gradients of the inputs of a layer for that of its output, batch of one.
///
/// `inputs` are the integers that the layer took, `output` has the extents of what it gave.
pub(super) fn backward(
    layer: &IntegerLayer,
    inputs: &[&ArrayD<i64>],
    output: Gradient,
) -> Vec<Gradient> {
    let mut sums = output;
    if let Some(stage) = &layer.output {
        scale_channels(&mut sums, |c| {
            let q = stage
                .multiplier
                .as_ref()
                .map_or(1.0, |(q, _)| int_to_f32(q.at(c)));
            q * power(stage.shift.at(c))
        });
    }
    from_sums(layer, inputs, sums)
}

/// Returns the gradients of the inputs of a layer for that of one intermediate, at `place` in the
/// extents of the tensor where the intermediate stands.
pub(super) fn at_stage(
    layer: &IntegerLayer,
    inputs: &[&ArrayD<i64>],
    (stage, extents, place): (Stage, &[usize], &[usize]),
) -> Vec<Gradient> {
    let mut seed = ArrayD::zeros(IxDyn(extents));
    if let Some(one) = seed.get_mut(IxDyn(place)) {
        *one = 1.0;
    }
    match (stage, &layer.op) {
        (Stage::InputExpand | Stage::AlignLeft | Stage::FlattenAlign, _) => {
            let mut all = zeros(inputs);
            if let Some(first) = all.first_mut() {
                *first = seed;
            }
            all
        }
        (Stage::AlignRight, _) => {
            let mut all = zeros(inputs);
            if let Some(second) = all.get_mut(1) {
                *second = seed;
            }
            all
        }
        (Stage::DepthwiseAccumulator, IntegerOp::SeparableConv2D { depthwise, .. }) => {
            vec![windows::depthwise(inputs[0].shape(), &seed, depthwise)]
        }
        _ => from_sums(layer, inputs, seed),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "all others stand in the output's extents"
)]
/// Returns the extents of the tensor in which an intermediate stands, batch of one.
pub(super) fn stage_extents(
    layer: &IntegerLayer,
    inputs: &[&ArrayD<i64>],
    (stage, output): (Stage, &[usize]),
) -> Vec<usize> {
    let of_input = |i: usize| inputs.get(i).map_or(Vec::new(), |x| x.shape().to_vec());
    match stage {
        Stage::InputExpand | Stage::AlignLeft | Stage::FlattenAlign => of_input(0),
        Stage::AlignRight => of_input(1),
        Stage::DepthwiseAccumulator => {
            let mut extents = output.to_vec();
            if let (Some(last), IntegerOp::SeparableConv2D { depthwise, .. }) =
                (extents.last_mut(), &layer.op)
            {
                *last = depthwise.kernel.dim().2;
            }
            extents
        }
        _ => output.to_vec(),
    }
}

fn from_sums(layer: &IntegerLayer, inputs: &[&ArrayD<i64>], sums: Gradient) -> Vec<Gradient> {
    let mut gradients = through(&layer.op, inputs, sums);
    for (gradient, entry) in gradients.iter_mut().zip(&layer.entries) {
        if !entry.is_identity() {
            scale_channels(gradient, |c| {
                power(i32::try_from(entry.shift.at(c)).unwrap_or(0))
            });
        }
    }
    gradients
}

fn through(op: &IntegerOp, inputs: &[&ArrayD<i64>], y: Gradient) -> Vec<Gradient> {
    let x = inputs[0];
    let shape = x.shape();
    match op {
        IntegerOp::Conv2D(op) => vec![windows::conv2d(shape, &y, op)],
        IntegerOp::DepthwiseConv2D(op) => vec![windows::depthwise(shape, &y, op)],
        IntegerOp::SeparableConv2D {
            depthwise,
            pointwise,
        } => {
            let inner = product(&y, pointwise);
            vec![windows::depthwise(shape, &inner, depthwise)]
        }
        IntegerOp::Dense { kernel } => vec![product(&y, kernel)],
        IntegerOp::StatefulProjection { kernel, subsample } => {
            vec![every_step(shape, &product(&y, kernel), *subsample)]
        }
        IntegerOp::BufferTempConv { kernel, n_frames } => {
            // Only the newest frame is ours to choose.
            let channels = kernel.nrows().checked_div(*n_frames).unwrap_or(0);
            let newest = kernel.slice(ndarray::s![kernel.nrows() - channels.., ..]);
            vec![product(&y, &newest.to_owned())]
        }
        IntegerOp::DepthwiseBufferTempConv { kernel } => {
            let newest = kernel.nrows() - 1;
            let mut gradient = y;
            scale_channels(&mut gradient, |c| weight(kernel[[newest, c]]));
            vec![gradient]
        }
        IntegerOp::Conv2DTranspose(op) => vec![windows::transposed(shape, &y, op)],
        IntegerOp::DepthwiseConv2DTranspose(op) => {
            vec![windows::depthwise_transposed(shape, &y, op)]
        }
        IntegerOp::ReLU { max } => {
            let mut gradient = y;
            let n_channels = shape.last().copied().unwrap_or(1).max(1);
            for (i, (g, v)) in gradient.iter_mut().zip(x).enumerate() {
                let limit = max.as_ref().map(|max| max.at(i.rem_euclid(n_channels)));
                if *v <= 0 || limit.is_some_and(|limit| *v >= limit) {
                    *g *= FLAT;
                }
            }
            vec![gradient]
        }
        IntegerOp::LookUp { table } => vec![looked_up(x, y, table)],
        IntegerOp::MaxPool2D(op) => vec![windows::max_pool(*op, x, &y)],
        IntegerOp::GlobalAveragePooling2D { .. } => {
            let channels = shape.last().copied().unwrap_or(1).max(1);
            let sums: Vec<f32> = y.iter().copied().collect();
            let spread = (0..x.len()).map(|i| sums[i.rem_euclid(channels)]).collect();
            vec![array(shape, spread)]
        }
        IntegerOp::Add => vec![y.clone(), y],
        IntegerOp::Concatenate(axis) => concatenated(inputs, *axis, &y),
        IntegerOp::Permute { dims } => {
            let mut inverse = vec![0; dims.len() + 1];
            dims.iter()
                .enumerate()
                .for_each(|(i, d)| inverse[*d] = i + 1);
            let moved = y.permuted_axes(IxDyn(&inverse));
            vec![moved.as_standard_layout().into_owned()]
        }
        IntegerOp::ExtractToken { token, axis } => {
            let mut gradient = ArrayD::zeros(IxDyn(shape));
            gradient
                .index_axis_mut(ndarray::Axis(*axis), *token)
                .assign(&y);
            vec![gradient]
        }
        IntegerOp::Flatten | IntegerOp::Reshape { .. } => {
            vec![array(shape, y.iter().copied().collect())]
        }
        IntegerOp::Identity => vec![y],
        IntegerOp::StatefulRecurrent(_) => zeros(inputs),
    }
}

/// Returns the gradient before a table: half the step from the entry before to the one behind.
fn looked_up(x: &ArrayD<i64>, mut gradient: Gradient, table: &[i32]) -> Gradient {
    let half = i64::try_from(table.len().div_euclid(2)).unwrap_or(0);
    let entry = |v: i64| {
        let index = usize::try_from(v + half).unwrap_or(0);
        weight(table[index.min(table.len() - 1)])
    };
    for (g, v) in gradient.iter_mut().zip(x) {
        *g *= (entry(v + 1) - entry(v - 1)) / 2.0 + f32::MIN_POSITIVE;
    }
    gradient
}

/// Returns the gradient of all steps for that of the last one of each `subsample`.
fn every_step(shape: &[usize], steps: &Gradient, subsample: usize) -> Gradient {
    let mut gradient = ArrayD::zeros(IxDyn(shape));
    for (at, v) in steps.indexed_iter() {
        gradient[[at[0], (at[1] + 1) * subsample - 1, at[2]]] = *v;
    }
    gradient
}

/// Returns the gradient before a matrix product with `kernel`, `[channels, units]`.
fn product(y: &Gradient, kernel: &Array2<i32>) -> Gradient {
    let (channels, units) = kernel.dim();
    let mut extents = y.shape().to_vec();
    if let Some(last) = extents.last_mut() {
        *last = channels;
    }
    let turned: Vec<f32> = kernel.t().iter().map(|w| weight(*w)).collect();
    let mut gradient = vec![0.0; extents.iter().product()];
    let dense = Dense {
        x: &y.iter().copied().collect::<Vec<_>>(),
        kernel: &turned,
        channels: units,
        filters: channels,
    };
    Kernels::active().dense_f32(&dense, None, &mut gradient);
    array(&extents, gradient)
}

fn concatenated(inputs: &[&ArrayD<i64>], axis: ConcatAxis, y: &Gradient) -> Vec<Gradient> {
    let axis = match axis {
        ConcatAxis::Channels => y.ndim() - 1,
        ConcatAxis::Leading(axis) => axis,
    };
    let mut first = 0;
    let part = |x: &&ArrayD<i64>| {
        let n = x.shape()[axis];
        let slice = ndarray::Slice::from(first..first + n);
        first += n;
        y.slice_axis(ndarray::Axis(axis), slice).to_owned()
    };
    inputs.iter().map(part).collect()
}

fn scale_channels(gradient: &mut Gradient, factor: impl Fn(usize) -> f32) {
    let n_channels = gradient.shape().last().copied().unwrap_or(1).max(1);
    for (i, g) in gradient.iter_mut().enumerate() {
        *g *= factor(i.rem_euclid(n_channels));
    }
}

fn zeros(inputs: &[&ArrayD<i64>]) -> Vec<Gradient> {
    let zero = |x: &&ArrayD<i64>| ArrayD::zeros(IxDyn(x.shape()));
    inputs.iter().map(zero).collect()
}

fn array(shape: &[usize], values: Vec<f32>) -> Gradient {
    ArrayD::from_shape_vec(IxDyn(shape), values).unwrap_or_else(|_| ArrayD::zeros(IxDyn(shape)))
}

/// Returns `2^shift`.
fn power(shift: i32) -> f32 {
    mul_pow2(1.0, shift.clamp(-100, 100))
}

/// Returns a weight as a float.
fn weight(w: i32) -> f32 {
    int_to_f32(i64::from(w))
}
