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
pub(super) const MIN_SCALE: f32 = 1e-6;

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

/// A kernel of integers; its last axis is that of the output channels.
pub(super) struct Kernel<'a> {
    values: &'a ArrayD<i32>,
    int_max: f32,
    /// Whether the largest weight behind each scale fills the integers.
    fills: Vec<bool>,
}

/// A scale, and the largest weight that makes it; none where it is [`MIN_SCALE`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    scale: f32,
    range: Option<f32>,
}

impl<'a> Kernel<'a> {
    /// Returns the kernel for as many scales as `scales` has.
    pub(super) fn new<T: Copy>(
        values: &'a ArrayD<i32>,
        bitwidth: u8,
        scales: &PerAxis<T>,
    ) -> Option<Self> {
        let int_max = int_max(bitwidth)?;
        let largest = |values: &mut dyn Iterator<Item = &i32>| {
            let largest = values.fold(0, |max, v| v.abs().max(max));
            float(largest).map(|largest| largest >= int_max)
        };
        let fills = match scales {
            PerAxis::Tensor(_) => vec![largest(&mut values.iter())?],
            PerAxis::Axis(_) => {
                let channels = values.axis_iter(Axis(values.ndim().checked_sub(1)?));
                let fills = channels.map(|channel| largest(&mut channel.iter()));
                fills.collect::<Option<Vec<bool>>>()?
            }
        };
        Some(Self {
            values,
            int_max,
            fills,
        })
    }

    /// Returns the first channel whose scale is the smallest that there is.
    pub(super) fn first_minimal(&self) -> Option<usize> {
        self.fills.iter().position(|fills| !fills)
    }

    /// Returns scales that the quantizer can make.
    ///
    /// `is_wanted(k, channel)` says whether a scale `k` is one that is wanted, and `guess` is about
    /// that `k`.
    pub(super) fn scales(
        &self,
        guess: impl Fn(usize) -> f64,
        is_wanted: impl Fn(f32, usize) -> bool,
    ) -> Option<Vec<Scale>> {
        let scale = |(channel, fills): (usize, &bool)| {
            if !fills {
                let minimal = Scale {
                    scale: MIN_SCALE,
                    range: None,
                };
                return is_wanted(MIN_SCALE, channel).then_some(minimal);
            }
            let mut scales = near(guess(channel) * f64::from(self.int_max)).map(|range| Scale {
                scale: range / self.int_max,
                range: Some(range),
            });
            scales.find(|found| found.scale > MIN_SCALE && is_wanted(found.scale, channel))
        };
        self.fills.iter().enumerate().map(scale).collect()
    }

    /// Returns the float kernel that has these scales.
    pub(super) fn floats(&self, scales: &[Scale]) -> Option<ArrayD<f32>> {
        let channels = Axis(self.values.ndim().checked_sub(1)?);
        let mut floats = ArrayD::zeros(self.values.raw_dim());
        for (channel, slice) in self.values.axis_iter(channels).enumerate() {
            let Scale { scale, range } = *scales.get(channel).or(scales.first())?;
            let mut target = floats.index_axis_mut(channels, channel);
            for (v, weight) in slice.iter().zip(target.iter_mut()) {
                let v = float(*v)?;
                *weight = match range {
                    // The weight that made the scale has to make it again.
                    Some(range) if v.abs() >= self.int_max => range.copysign(v),
                    Some(_) | None => v * scale,
                };
            }
        }
        Some(floats)
    }
}

/// Returns an integer weight as a float.
fn float(value: i32) -> Option<f32> {
    i16::try_from(value).map(f32::from).ok()
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
