//! Which way each input of a layer moves one of its results: what the search for witnesses climbs.
//!
//! Nothing here is part of a proof. A wrong slope makes the search slower, not its answer wrong:
//! every witness is replayed.

use ndarray::{ArrayD, IxDyn};
use quantizer_core::Stage;
use quantizer_core::geometry::{same_pads, transposed_crop};
use quantizer_core::layers::{Border, ConcatAxis, IntegerLayer, IntegerOp};
use quantizer_core::log2::mul_pow2;

use float_model::Padding;

/// Slope of a rectifier where it is flat: small, so that a dead unit may still be woken.
const FLAT: f64 = 0.1;

/// A gradient, in the extents of its tensor.
pub(super) type Gradient = ArrayD<f64>;

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
                .map_or(1.0, |(q, _)| real(q.at(c)));
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
            let (kh, kw, _) = depthwise.kernel.dim();
            let sliding = Sliding {
                kernel: [kh, kw],
                strides: depthwise.strides,
                dilation: depthwise.dilation,
                before: pads(inputs[0].shape(), [kh, kw], depthwise),
            };
            let weight = |t: [usize; 2], c: usize| depthwise.kernel[[t[0], t[1], c]];
            vec![sliding.depthwise(inputs[0].shape(), &seed, weight)]
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

#[expect(clippy::too_many_lines, reason = "one short arm an operation")]
fn through(op: &IntegerOp, inputs: &[&ArrayD<i64>], y: Gradient) -> Vec<Gradient> {
    let x = inputs[0];
    let shape = x.shape();
    match op {
        IntegerOp::Conv2D(op) => {
            let (kh, kw, channels, filters) = op.kernel.dim();
            let before = [0, 1].map(|a| {
                let (n, k, s) = (shape[a + 1], [kh, kw][a], op.strides[a]);
                match op.border {
                    Border::Valid => 0,
                    Border::Same => same_pads(n, k, s, op.dilation[a]).0,
                    Border::Value(_) => same_pads(n, k, s, 1).0,
                }
            });
            let sliding = Sliding {
                kernel: [kh, kw],
                strides: op.strides,
                dilation: op.dilation,
                before,
            };
            let swapped = op.kernel.view().permuted_axes([0, 1, 3, 2]);
            let kernel: Vec<f64> = swapped.iter().map(|w| f64::from(*w)).collect();
            vec![sliding.convolution(shape, &y, &kernel, [filters, channels])]
        }
        IntegerOp::DepthwiseConv2D(op) => {
            let (kh, kw, _) = op.kernel.dim();
            let sliding = Sliding {
                kernel: [kh, kw],
                strides: op.strides,
                dilation: op.dilation,
                before: pads(shape, [kh, kw], op),
            };
            let weight = |t: [usize; 2], c: usize| op.kernel[[t[0], t[1], c]];
            vec![sliding.depthwise(shape, &y, weight)]
        }
        IntegerOp::SeparableConv2D {
            depthwise: op,
            pointwise,
        } => {
            let inner = product(&y, |u, c| pointwise[[c, u]], pointwise.nrows());
            let op = IntegerOp::DepthwiseConv2D(op.clone());
            through(&op, inputs, inner)
        }
        IntegerOp::Dense { kernel } => {
            vec![product(&y, |u, c| kernel[[c, u]], kernel.nrows())]
        }
        IntegerOp::StatefulProjection { kernel, subsample } => {
            let steps = product(&y, |u, c| kernel[[c, u]], kernel.nrows());
            let mut gradient = ArrayD::zeros(IxDyn(shape));
            for (at, v) in steps.indexed_iter() {
                gradient[[at[0], (at[1] + 1) * subsample - 1, at[2]]] = *v;
            }
            vec![gradient]
        }
        IntegerOp::BufferTempConv { kernel, n_frames } => {
            // Only the newest frame is ours to choose.
            let channels = kernel.nrows().checked_div(*n_frames).unwrap_or(0);
            let first = kernel.nrows() - channels;
            vec![product(&y, |u, c| kernel[[first + c, u]], channels)]
        }
        IntegerOp::DepthwiseBufferTempConv { kernel } => {
            let newest = kernel.nrows() - 1;
            let mut gradient = y;
            scale_channels(&mut gradient, |c| f64::from(kernel[[newest, c]]));
            vec![gradient]
        }
        IntegerOp::Conv2DTranspose(op) => {
            let (kh, kw, _, filters) = op.kernel.dim();
            let crop = [0, 1].map(|a| {
                let (n, out) = (shape[a + 1], y.shape()[a + 1]);
                transposed_crop(n, out, [kh, kw][a], op.strides[a], op.padding)
            });
            let weight = |t: [usize; 2], c: usize, f: usize| op.kernel[[t[0], t[1], c, f]];
            let gather = Gather {
                kernel: [kh, kw],
                strides: op.strides,
                crop,
            };
            vec![gather.all(shape, &y, |x, t, pixel| {
                for (c, x) in x.iter_mut().enumerate() {
                    let terms = (0..filters).map(|f| pixel[f] * f64::from(weight(t, c, f)));
                    *x += terms.sum::<f64>();
                }
            })]
        }
        IntegerOp::DepthwiseConv2DTranspose(op) => {
            let (kh, kw, _) = op.kernel.dim();
            let crop = [0, 1].map(|a| {
                let (n, out) = (shape[a + 1], y.shape()[a + 1]);
                transposed_crop(n, out, [kh, kw][a], op.strides[a], Padding::Same)
            });
            let gather = Gather {
                kernel: [kh, kw],
                strides: op.strides,
                crop,
            };
            vec![gather.all(shape, &y, |x, t, pixel| {
                for (c, (x, g)) in x.iter_mut().zip(pixel).enumerate() {
                    *x += g * f64::from(op.kernel[[t[0], t[1], c]]);
                }
            })]
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
        IntegerOp::LookUp { table } => {
            let half = i64::try_from(table.len().div_euclid(2)).unwrap_or(0);
            let entry = |v: i64| {
                let index = usize::try_from(v + half).unwrap_or(0);
                f64::from(table[index.min(table.len() - 1)])
            };
            let mut gradient = y;
            for (g, v) in gradient.iter_mut().zip(x) {
                *g *= (entry(v + 1) - entry(v - 1)) / 2.0 + f64::MIN_POSITIVE;
            }
            vec![gradient]
        }
        IntegerOp::MaxPool2D(op) => vec![max_pool(*op, x, &y)],
        IntegerOp::GlobalAveragePooling2D { .. } => {
            let channels = shape.last().copied().unwrap_or(1).max(1);
            let sums: Vec<f64> = y.iter().copied().collect();
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

/// How a kernel moves over an image.
struct Sliding {
    kernel: [usize; 2],
    strides: [usize; 2],
    dilation: [usize; 2],
    before: [usize; 2],
}

impl Sliding {
    /// Calls `f(pixel of the input, tap, pixel of the output)` for each pair that a tap joins.
    fn each(&self, x: &[usize], y: &[usize], mut f: impl FnMut(usize, [usize; 2], usize)) {
        for (i, j) in (0..y[1]).flat_map(|i| (0..y[2]).map(move |j| (i, j))) {
            for (ti, tj) in self.taps() {
                let at = |o: usize, t: usize, axis: usize| {
                    (o * self.strides[axis] + t * self.dilation[axis])
                        .checked_sub(self.before[axis])
                        .filter(|at| *at < x[axis + 1])
                };
                if let Some((r, s)) = at(i, ti, 0).zip(at(j, tj, 1)) {
                    f(r * x[2] + s, [ti, tj], i * y[2] + j);
                }
            }
        }
    }

    fn taps(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let [kh, kw] = self.kernel;
        (0..kh).flat_map(move |i| (0..kw).map(move |j| (i, j)))
    }

    /// `kernel` is `[taps, filters, channels]`.
    fn convolution(
        &self,
        x: &[usize],
        y: &Gradient,
        kernel: &[f64],
        [filters, channels]: [usize; 2],
    ) -> Gradient {
        let mut gradient = vec![0.0; x.iter().product()];
        let sums: Vec<f64> = y.iter().copied().collect();
        let kw = self.kernel[1];
        self.each(x, y.shape(), |pixel, [ti, tj], out| {
            let into = &mut gradient[pixel * channels..(pixel + 1) * channels];
            for f in 0..filters {
                let g = sums[out * filters + f];
                if g != 0.0 {
                    let row = ((ti * kw + tj) * filters + f) * channels;
                    let weights = &kernel[row..row + channels];
                    into.iter_mut().zip(weights).for_each(|(x, w)| *x += g * w);
                }
            }
        });
        array(x, gradient)
    }

    fn depthwise(
        &self,
        x: &[usize],
        y: &Gradient,
        weight: impl Fn([usize; 2], usize) -> i32,
    ) -> Gradient {
        let channels = x.last().copied().unwrap_or(1);
        let mut gradient = vec![0.0; x.iter().product()];
        let sums: Vec<f64> = y.iter().copied().collect();
        self.each(x, y.shape(), |pixel, tap, out| {
            for c in 0..channels {
                let g = sums[out * channels + c];
                gradient[pixel * channels + c] += g * f64::from(weight(tap, c));
            }
        });
        array(x, gradient)
    }
}

/// How a transposed kernel joins pixels.
struct Gather {
    kernel: [usize; 2],
    strides: [usize; 2],
    crop: [usize; 2],
}

impl Gather {
    /// Calls `f(channels of an input pixel, tap, channels of the output pixel)` for each pair.
    fn all(
        &self,
        x: &[usize],
        y: &Gradient,
        mut f: impl FnMut(&mut [f64], [usize; 2], &[f64]),
    ) -> Gradient {
        let (c, out_c) = (x[3], y.shape()[3]);
        let mut gradient = vec![0.0; x.iter().product()];
        let sums: Vec<f64> = y.iter().copied().collect();
        let (out_h, out_w) = (y.shape()[1], y.shape()[2]);
        for (i, j) in (0..x[1]).flat_map(|i| (0..x[2]).map(move |j| (i, j))) {
            for (ti, tj) in
                (0..self.kernel[0]).flat_map(|a| (0..self.kernel[1]).map(move |b| (a, b)))
            {
                let at = |n: usize, t: usize, axis: usize| {
                    (n * self.strides[axis] + t).checked_sub(self.crop[axis])
                };
                let place = at(i, ti, 0).zip(at(j, tj, 1));
                if let Some((r, s)) = place.filter(|(r, s)| *r < out_h && *s < out_w) {
                    let (from, to) = ((r * out_w + s) * out_c, (i * x[2] + j) * c);
                    f(
                        &mut gradient[to..to + c],
                        [ti, tj],
                        &sums[from..from + out_c],
                    );
                }
            }
        }
        array(x, gradient)
    }
}

fn pads(x: &[usize], kernel: [usize; 2], op: &quantizer_core::layers::DepthwiseOp) -> [usize; 2] {
    [0, 1].map(|a| match op.padding {
        Padding::Same => same_pads(x[a + 1], kernel[a], op.strides[a], op.dilation[a]).0,
        Padding::Valid => 0,
    })
}

/// Returns the gradient before a matrix product on the last axis.
fn product(y: &Gradient, weight: impl Fn(usize, usize) -> i32, channels: usize) -> Gradient {
    let mut extents = y.shape().to_vec();
    let units = extents.pop().unwrap_or(1).max(1);
    extents.push(channels);
    let sums: Vec<f64> = y.iter().copied().collect();
    let mut gradient = Vec::with_capacity(extents.iter().product());
    for row in sums.chunks(units) {
        for c in 0..channels {
            let terms = row.iter().enumerate().filter(|(_, g)| **g != 0.0);
            gradient.push(terms.map(|(u, g)| g * f64::from(weight(u, c))).sum());
        }
    }
    array(&extents, gradient)
}

fn max_pool(op: quantizer_core::layers::PoolOp, x: &ArrayD<i64>, y: &Gradient) -> Gradient {
    let shape = x.shape();
    let mut gradient = ArrayD::zeros(IxDyn(shape));
    let before = [0, 1].map(|a| match op.padding {
        Padding::Same => same_pads(shape[a + 1], op.pool_size[a], op.strides[a], 1).0,
        Padding::Valid => 0,
    });
    for (at, g) in y.indexed_iter().filter(|(_, g)| **g != 0.0) {
        let mut best: Option<([usize; 4], i64)> = None;
        for (ti, tj) in (0..op.pool_size[0]).flat_map(|i| (0..op.pool_size[1]).map(move |j| (i, j)))
        {
            let r = (at[1] * op.strides[0] + ti).checked_sub(before[0]);
            let s = (at[2] * op.strides[1] + tj).checked_sub(before[1]);
            let inside = r.zip(s).filter(|(r, s)| *r < shape[1] && *s < shape[2]);
            if let Some((r, s)) = inside {
                let place = [at[0], r, s, at[3]];
                if best.is_none_or(|(_, v)| x[place] > v) {
                    best = Some((place, x[place]));
                }
            }
        }
        if let Some((place, _)) = best {
            gradient[place] += g;
        }
    }
    gradient
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

fn scale_channels(gradient: &mut Gradient, factor: impl Fn(usize) -> f64) {
    let n_channels = gradient.shape().last().copied().unwrap_or(1).max(1);
    for (i, g) in gradient.iter_mut().enumerate() {
        *g *= factor(i.rem_euclid(n_channels));
    }
}

fn zeros(inputs: &[&ArrayD<i64>]) -> Vec<Gradient> {
    let zero = |x: &&ArrayD<i64>| ArrayD::zeros(IxDyn(x.shape()));
    inputs.iter().map(zero).collect()
}

fn array(shape: &[usize], values: Vec<f64>) -> Gradient {
    ArrayD::from_shape_vec(IxDyn(shape), values).unwrap_or_else(|_| ArrayD::zeros(IxDyn(shape)))
}

/// Returns `2^shift`.
fn power(shift: i32) -> f64 {
    f64::from(mul_pow2(1.0, shift.clamp(-100, 100)))
}

#[expect(clippy::cast_precision_loss, reason = "a slope for a search")]
const fn real(v: i64) -> f64 {
    v as f64
}
