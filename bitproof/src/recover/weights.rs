//! Floats whose quantization is known.

use ndarray::{ArrayD, Axis};
use quantizer_core::layers::IntegerLayer;
use quantizer_core::quantizers::{AlignedWeightQuantizer, AlignedWeights};
use quantizer_core::{BitWidth, PerAxis, QFormat, Sign, ValueBits};

/// Neighbours of a float that are tried, on each side.
const N_NEIGHBOURS: usize = 4;

/// What lifts a float above a power of two, by less than any rounding to at most 18 bits sees.
const NUDGE: f32 = 1.0 + 1.0 / 1_048_576.0;

/// The smallest scale of a weight (NUMERICS.md: N8).
const MIN_SCALE: f32 = 1e-6;

/// Returns the float nearest to `x` and its neighbours, the nearest first.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the neighbours are tried too"
)]
pub(super) fn near(x: f64) -> impl Iterator<Item = f32> {
    let start = x as f32;
    let up = std::iter::successors(Some(start), |x| Some(x.next_up())).skip(1);
    let down = std::iter::successors(Some(start), |x| Some(x.next_down())).skip(1);
    let pairs = up.zip(down).take(N_NEIGHBOURS);
    std::iter::once(start).chain(pairs.flat_map(|(up, down)| [up, down]))
}

/// Returns the bits of a signed width as its largest integer.
pub(super) fn int_max(bitwidth: u8) -> Option<f32> {
    let bits = BitWidth::new(bitwidth)
        .ok()?
        .value_bits(Sign::Signed)
        .ok()?;
    u16::try_from(bits.int_max()).ok().map(f32::from)
}

/// Returns the float kernel of integers whose last axis is that of the output channels.
///
/// `makes_scale(k, channel)` says whether a kernel scale `k` gives the scale that is wanted, and
/// `guess` is about that `k`.
pub(super) fn kernel(
    values: &ArrayD<i32>,
    bitwidth: u8,
    guess: &PerAxis<f64>,
    makes_scale: impl Fn(f32, usize) -> bool,
) -> Option<ArrayD<f32>> {
    let int_max = int_max(bitwidth)?;
    let channels = Axis(values.ndim().checked_sub(1)?);
    let float = |v: i32| i16::try_from(v).map(f32::from).ok();
    let largest =
        |values: &mut dyn Iterator<Item = &i32>| values.fold(0, |max, v| v.abs().max(max));
    let whole = largest(&mut values.iter());
    let mut floats = ArrayD::zeros(values.raw_dim());
    for (channel, slice) in values.axis_iter(channels).enumerate() {
        let largest = match guess {
            PerAxis::Tensor(_) => whole,
            PerAxis::Axis(_) => largest(&mut slice.iter()),
        };
        let (range, scale) = if float(largest)? < int_max {
            // The scale was too small for the weights to fill the integers.
            (None, makes_scale(MIN_SCALE, channel).then_some(MIN_SCALE)?)
        } else {
            let ranges = near(guess.at(channel) * f64::from(int_max));
            let mut ranges = ranges.filter(|range| *range / int_max > MIN_SCALE);
            let range = ranges.find(|range| makes_scale(*range / int_max, channel))?;
            (Some(range), range / int_max)
        };
        let mut target = floats.index_axis_mut(channels, channel);
        for (v, float_weight) in slice.iter().zip(target.iter_mut()) {
            let v = float(*v)?;
            *float_weight = match range {
                // The weight that made the scale has to make it again.
                Some(range) if v.abs() >= int_max => range.copysign(v),
                Some(_) | None => v * scale,
            };
        }
    }
    Some(floats)
}

/// Returns the float bias of a layer, if it has one; its integers have `value_bits` bits.
pub(super) fn bias(layer: &IntegerLayer, value_bits: ValueBits) -> Option<Option<Vec<f32>>> {
    let Some(AlignedWeights { values, shift }) = &layer.bias else {
        return Some(None);
    };
    let scales = layer.inner.scales_or_one();
    let n = values.n_values().max(layer.inner.frac_bits.n_values());
    let entry = |channel: usize| {
        let shift = i32::try_from(shift.at(channel)).ok()?;
        let point = layer.inner.frac_bits.at(channel) - shift;
        let value = values.at(channel);
        // A range of a power of two would take one more fractional bit.
        let above = value.unsigned_abs().is_power_of_two() && value != value_bits.int_min();
        let nudge = if above { NUDGE } else { 1.0 };
        Some(nudge * float_of(value, point, scales.at(channel)))
    };
    (0..n).map(entry).collect::<Option<Vec<f32>>>().map(Some)
}

/// Returns a float `w` such that `fl(w / scale)` is `value / 2^point`, or close to it.
fn float_of(value: i64, point: i32, scale: f32) -> f32 {
    let ratio = exact(value) * (-f64::from(point)).exp2();
    let wanted = |w: &f32| f64::from(w / scale).total_cmp(&ratio).is_eq();
    let guess = ratio * f64::from(scale);
    near(guess)
        .find(wanted)
        .or_else(|| near(guess).next())
        .unwrap_or(0.0)
}

/// Returns an integer as a float; those of a layer have far fewer digits.
#[expect(clippy::cast_precision_loss, reason = "buffers have at most 32 bits")]
fn exact(value: i64) -> f64 {
    value as f64
}

/// Returns floats that a quantizer aligns to `aligned` on a tensor; one value if it is one.
pub(super) fn aligned_floats(
    aligned: &PerAxis<i64>,
    quantizer: AlignedWeightQuantizer,
    tensor: &QFormat,
) -> Option<Vec<f32>> {
    let scales = tensor.scales_or_one();
    let float = |channel| {
        let (value, point) = (aligned.at(channel), tensor.frac_bits.at(channel));
        let plain = float_of(value, point, scales.at(channel));
        let fits = |w: &f32| {
            let again = quantizer.quantize(&PerAxis::Tensor(*w), tensor);
            again.is_ok_and(|again| again.aligned(tensor.value_bits).at(channel) == value)
        };
        [plain, plain * NUDGE].into_iter().find(fits)
    };
    (0..aligned.n_values()).map(float).collect()
}

/// Returns one float that a quantizer aligns to all of `aligned`.
pub(super) fn aligned_scalar(
    aligned: &PerAxis<i64>,
    quantizer: AlignedWeightQuantizer,
    tensor: &QFormat,
) -> Option<f32> {
    let scales = tensor.scales_or_one();
    let n = aligned
        .n_values()
        .max(scales.n_values())
        .max(tensor.frac_bits.n_values());
    let float = |channel| {
        float_of(
            aligned.at(channel),
            tensor.frac_bits.at(channel),
            scales.at(channel),
        )
    };
    let floats: Vec<f32> = (0..n).map(float).collect();
    let fits = |value: &f32| {
        let again = quantizer.quantize(&PerAxis::Tensor(*value), tensor);
        again.is_ok_and(|again| {
            let again = again.aligned(tensor.value_bits);
            (0..n).all(|channel| again.at(channel) == aligned.at(channel))
        })
    };
    // Values that people write come first: any that fits gives the same integers.
    let round = floats
        .iter()
        .flat_map(|x| [1.0, 10.0, 100.0, 1000.0].map(|k| rounded(*x, k)));
    let sum: f64 = floats.iter().map(|x| f64::from(*x)).sum();
    let mean = near(sum / exact(i64::try_from(n).ok()?)).next();
    let all = std::iter::once(6.0)
        .chain(round)
        .chain(floats.iter().copied())
        .chain(floats.iter().map(|x| x * NUDGE))
        .chain(mean);
    all.into_iter().find(fits)
}

/// Returns `x` to within `1 / k`.
fn rounded(x: f32, k: f32) -> f32 {
    (x * k + 0.5).floor() / k
}
