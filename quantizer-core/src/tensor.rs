//! Quantized tensors and their operations (NUMERICS.md: N6, N7).
//!
//! Channels are on the last axis.

use ndarray::{ArrayD, ArrayViewD, Zip};

use crate::bits::ValueBits;
use crate::format::scale_frac_bits;
use crate::log2::mul_pow2;
use crate::round::{round_half_even, shift_half_up};
use crate::{NumericsError, PerAxis, QFormat};

/// Integers with a binary point.
///
/// ```text
/// real value = values * 2^-frac_bits
/// ```
///
/// Every construction saturates to `value_bits`. NUMERICS.md: N6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedPoint {
    values: ArrayD<i64>, // Invariant: within value_bits.
    value_bits: ValueBits,
    frac_bits: PerAxis<i32>, // Invariant: one entry a channel if per-axis.
}

/// A [`FixedPoint`] with float scales.
///
/// ```text
/// real value = values * 2^-frac_bits * scales
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct QFloat {
    /// The integers.
    pub fixed: FixedPoint,
    /// Positive scales, one or one for each channel.
    pub scales: PerAxis<f32>,
}

impl FixedPoint {
    /// Returns the tensor of `values`, saturated to `value_bits`.
    ///
    /// # Errors
    ///
    /// Per-axis `frac_bits` whose number is not that of the channels.
    pub fn new(
        values: ArrayD<i64>,
        value_bits: ValueBits,
        frac_bits: PerAxis<i32>,
    ) -> Result<Self, NumericsError> {
        check_channels(values.view(), &frac_bits)?;
        let values = values.mapv_into(|v| value_bits.saturate(v));
        Ok(Self {
            values,
            value_bits,
            frac_bits,
        })
    }

    /// Returns `x` as integers.
    ///
    /// ```text
    /// values = saturate(round_half_even(fl(x * 2^frac_bits)))
    /// ```
    ///
    /// # Errors
    ///
    /// Per-axis `frac_bits` whose number is not that of the channels.
    pub fn quantize(
        x: &ArrayD<f32>,
        value_bits: ValueBits,
        frac_bits: PerAxis<i32>,
    ) -> Result<Self, NumericsError> {
        let n_values = channels(x.shape());
        check_count(n_values, &frac_bits)?;
        let values = map_channels(x.view(), |x, c| {
            round_half_even(mul_pow2(x, frac_bits.at(c)))
        });
        Self::new(values, value_bits, frac_bits)
    }

    /// Returns the integers, channels last.
    #[must_use]
    pub const fn values(&self) -> &ArrayD<i64> {
        &self.values
    }

    /// Returns the bits without the sign.
    #[must_use]
    pub const fn value_bits(&self) -> ValueBits {
        self.value_bits
    }

    /// Returns the fractional bits.
    #[must_use]
    pub const fn frac_bits(&self) -> &PerAxis<i32> {
        &self.frac_bits
    }

    /// Returns the format.
    #[must_use]
    pub fn format(&self) -> QFormat {
        QFormat::fixed(self.value_bits, self.frac_bits.clone())
    }

    /// Returns the same values with more value bits.
    ///
    /// # Errors
    ///
    /// The tensor has more value bits than asked for.
    pub fn promote(self, value_bits: ValueBits) -> Result<Self, NumericsError> {
        self.format().promote(value_bits)?;
        Ok(Self { value_bits, ..self })
    }

    /// Returns the tensor with another binary point and width.
    ///
    /// ```text
    /// s = frac_bits' - frac_bits; values' = saturate(shift_half_up(values, s), value_bits')
    /// ```
    ///
    /// # Errors
    ///
    /// A left shift of `value_bits'` or more, or numbers of channels that differ.
    pub fn rescale(
        &self,
        frac_bits: &PerAxis<i32>,
        value_bits: ValueBits,
    ) -> Result<Self, NumericsError> {
        check_channels(self.values.view(), frac_bits)?;
        let shift = rescale_shift(&self.frac_bits, frac_bits, value_bits)?;
        let values = map_channels(self.values.view(), |v, c| shift_half_up(v, shift.at(c)));
        Self::new(values, value_bits, frac_bits.clone())
    }

    /// Returns the tensor with every channel at the largest `frac_bits` (left shifts only).
    ///
    /// # Errors
    ///
    /// Fewer value bits than now, or a shift of `value_bits` or more.
    pub fn expand(&self, value_bits: ValueBits) -> Result<Self, NumericsError> {
        self.format().promote(value_bits)?;
        self.rescale(&common_point(&self.frac_bits), value_bits)
    }

    /// Returns both tensors at the larger binary point of each channel, `value_bits` wide.
    ///
    /// # Errors
    ///
    /// As [`rescale`](Self::rescale).
    pub fn align(
        &self,
        other: &Self,
        value_bits: ValueBits,
    ) -> Result<(Self, Self), NumericsError> {
        let frac_bits = self.frac_bits.zip(&other.frac_bits, i32::max);
        Ok((
            self.rescale(&frac_bits, value_bits)?,
            other.rescale(&frac_bits, value_bits)?,
        ))
    }

    /// Returns the sum, saturated to the value bits of `self`.
    ///
    /// # Errors
    ///
    /// Different binary points or shapes.
    pub fn add(&self, other: &Self) -> Result<Self, NumericsError> {
        self.combine(other, |a, b| a + b)
    }

    /// Returns the difference, saturated to the value bits of `self`.
    ///
    /// # Errors
    ///
    /// Different binary points or shapes.
    pub fn sub(&self, other: &Self) -> Result<Self, NumericsError> {
        self.combine(other, |a, b| a - b)
    }

    /// Returns the real values.
    ///
    /// ```text
    /// fl(fl(values) * 2^-frac_bits)
    /// ```
    #[must_use]
    pub fn to_float(&self) -> ArrayD<f32> {
        map_channels(self.values.view(), |v, c| {
            mul_pow2(int_to_f32(v), -self.frac_bits.at(c))
        })
    }

    fn combine(&self, other: &Self, f: impl Fn(i64, i64) -> i64) -> Result<Self, NumericsError> {
        if self.values.shape() != other.values.shape() {
            return Err(NumericsError::Invalid(format!(
                "operands of shapes {:?} and {:?}",
                self.values.shape(),
                other.values.shape()
            )));
        }
        if self
            .frac_bits
            .zip(&other.frac_bits, |a, b| a == b)
            .uniform()
            != Some(true)
        {
            return Err(NumericsError::Invalid(
                "operands have different frac_bits".to_owned(),
            ));
        }
        let values = Zip::from(&self.values)
            .and(&other.values)
            .map_collect(|a, b| f(*a, *b));
        Self::new(values, self.value_bits, self.frac_bits.clone())
    }
}

impl QFloat {
    /// Returns `x` as integers under `scales`.
    ///
    /// ```text
    /// values = saturate(round_half_even(fl(fl(x / scales) * 2^frac_bits)))
    /// ```
    ///
    /// # Errors
    ///
    /// Per-axis parameters whose number is not that of the channels.
    pub fn quantize(
        x: &ArrayD<f32>,
        value_bits: ValueBits,
        scales: PerAxis<f32>,
        frac_bits: PerAxis<i32>,
    ) -> Result<Self, NumericsError> {
        check_count(channels(x.shape()), &scales)?;
        let scaled = map_channels(x.view(), |x, c| x / scales.at(c));
        Ok(Self {
            fixed: FixedPoint::quantize(&scaled, value_bits, frac_bits)?,
            scales,
        })
    }

    /// Returns the format.
    #[must_use]
    pub fn format(&self) -> QFormat {
        self.fixed.format().with_scales(self.scales.clone())
    }

    /// Returns the product of the integers with the scales as integers of `scale_bits` bits.
    ///
    /// ```text
    /// values' = saturate(values * q), frac_bits' = frac_bits + frac_bits of q
    /// ```
    ///
    /// where `q` is [`quantize_scales`]. NUMERICS.md: N7.
    ///
    /// # Errors
    ///
    /// A scale that is not positive and finite.
    pub fn to_fixed_point(&self, scale_bits: ValueBits) -> Result<FixedPoint, NumericsError> {
        let q = quantize_scales(&self.scales, scale_bits)?;
        let frac_bits = self.fixed.frac_bits.zip(&q.frac_bits, |a, b| a + b);
        let values = map_channels(self.fixed.values.view(), |v, c| {
            v.saturating_mul(q.values.at(c))
        });
        FixedPoint::new(values, self.fixed.value_bits, frac_bits)
    }

    /// Returns the real values.
    ///
    /// ```text
    /// fl(fl(fl(values) * 2^-frac_bits) * scales)
    /// ```
    #[must_use]
    pub fn to_float(&self) -> ArrayD<f32> {
        map_channels(self.fixed.to_float().view(), |x, c| x * self.scales.at(c))
    }
}

/// Positive scales as integers, `2^(bits-1) <= value <= 2^bits - 1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantizedScales {
    /// The integers.
    pub values: PerAxis<i64>,
    /// Their binary points.
    pub frac_bits: PerAxis<i32>,
}

/// Returns float scales as integers of `scale_bits` bits.
///
/// ```text
/// fb = scale_bits - ceil_log2(scale); value = saturate(round_half_even(fl(scale * 2^fb)))
/// ```
///
/// An exact power of two becomes `2^scale_bits`, which saturates to `2^scale_bits - 1`: scale 1.0
/// is applied as 255/256 at 8 bits. NUMERICS.md: N7.
///
/// # Errors
///
/// A scale that is not positive and finite.
pub fn quantize_scales(
    scales: &PerAxis<f32>,
    scale_bits: ValueBits,
) -> Result<QuantizedScales, NumericsError> {
    for scale in scales.as_slice() {
        scale_frac_bits(scale_bits, *scale)?;
    }
    let frac_bits = scales.map(|s| scale_frac_bits(scale_bits, s).unwrap_or_default());
    let values = scales.zip(&frac_bits, |s, fb| {
        scale_bits.saturate(round_half_even(mul_pow2(s, fb)))
    });
    Ok(QuantizedScales { values, frac_bits })
}

/// Returns the shifts that move `from` to `to`, checked against the target width.
///
/// # Errors
///
/// A left shift of `value_bits` or more.
pub fn rescale_shift(
    from: &PerAxis<i32>,
    to: &PerAxis<i32>,
    value_bits: ValueBits,
) -> Result<PerAxis<i32>, NumericsError> {
    let shift = to.zip(from, |to, from| to - from);
    let limit = i32::from(value_bits.bits());
    match shift.as_slice().iter().copied().find(|s| *s >= limit) {
        Some(s) => Err(NumericsError::Shift {
            shift: s,
            value_bits: value_bits.bits(),
        }),
        None => Ok(shift),
    }
}

/// Returns the largest binary point, as a per-tensor value.
#[must_use]
pub fn common_point(frac_bits: &PerAxis<i32>) -> PerAxis<i32> {
    PerAxis::Tensor(
        frac_bits
            .as_slice()
            .iter()
            .copied()
            .max()
            .unwrap_or_default(),
    )
}

/// Returns `fl(v)`.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "rounding to float32 is what is asked for"
)]
pub const fn int_to_f32(v: i64) -> f32 {
    v as f32
}

/// Returns `f(element, channel)` for each element.
pub fn map_channels<T: Copy, U>(x: ArrayViewD<'_, T>, f: impl Fn(T, usize) -> U) -> ArrayD<U> {
    let n_channels = channels(x.shape()).max(1);
    let mut index = 0;
    // Standard order is row-major, so the channels pass in turn.
    x.as_standard_layout().map(|v| {
        let channel = index;
        index = if channel + 1 == n_channels {
            0
        } else {
            channel + 1
        };
        f(*v, channel)
    })
}

fn channels(shape: &[usize]) -> usize {
    shape.last().copied().unwrap_or(1)
}

fn check_count<T: Copy>(n_channels: usize, values: &PerAxis<T>) -> Result<(), NumericsError> {
    match values {
        PerAxis::Axis(values) if values.len() != n_channels && values.len() != 1 => {
            Err(NumericsError::Invalid(format!(
                "{} per-axis values for {n_channels} channels",
                values.len()
            )))
        }
        PerAxis::Axis(_) | PerAxis::Tensor(_) => Ok(()),
    }
}

fn check_channels<T: Copy, U>(
    x: ArrayViewD<'_, U>,
    values: &PerAxis<T>,
) -> Result<(), NumericsError> {
    check_count(x.shape().last().copied().unwrap_or(1), values)
}
