//! InputQuantizer and Dequantizer (NUMERICS.md: N11, N12).

use ndarray::ArrayD;

use crate::bits::{BitWidth, Sign, ValueBits};
use crate::counters::{Observe, Stage};
use crate::format::max_frac_bits;
use crate::log2::mul_pow2;
use crate::round::round_half_even;
use crate::tensor::{int_to_f32, map_channels};
use crate::{NumericsError, PerAxis, QFormat};

/// Makes integers of float inputs.
///
/// ```text
/// signed:   v = saturate(round_half_even(fl(x * 2^fb)))
/// unsigned: v = saturate(saturate(round_half_even(fl(x * 2^fb))) + zero_point)
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputQuantizer {
    /// Bits of the integers without the sign.
    pub value_bits: ValueBits,
    /// Fractional bits, one or one for each channel.
    pub frac_bits: PerAxis<i32>,
    /// Zero points of an unsigned quantizer; its outputs carry a scale of 1.
    pub zero_point: Option<PerAxis<i64>>,
}

impl InputQuantizer {
    /// Returns the quantizer for inputs between `range_min` and `range_max`.
    ///
    /// ```text
    /// signed:   range = max(|range_max|, |range_min|)
    /// unsigned: range = fl(range_max - range_min), needs range_min <= 0
    ///           zero_point = saturate(round_half_even(fl(-range_min * 2^fb)))
    /// fb = max_frac_bits(value_bits, range)
    /// ```
    ///
    /// NUMERICS.md: N11.
    ///
    /// # Errors
    ///
    /// Ranges that are not finite, a positive `range_min` of an unsigned quantizer.
    pub fn new(
        bitwidth: BitWidth,
        sign: Sign,
        range_min: &PerAxis<f32>,
        range_max: &PerAxis<f32>,
    ) -> Result<Self, NumericsError> {
        let value_bits = bitwidth.value_bits(sign)?;
        let limits = range_min.as_slice().iter().chain(range_max.as_slice());
        if let Some(limit) = limits.copied().find(|r| !r.is_finite()) {
            return Err(NumericsError::NotFinite {
                what: format!("an input range of {limit}"),
            });
        }
        let frac_bits = |ranges: PerAxis<f32>| ranges.map(|r| max_frac_bits(value_bits, r));
        if sign == Sign::Signed {
            let ranges = range_min.zip(range_max, |lo, hi| lo.abs().max(hi.abs()));
            return Ok(Self {
                value_bits,
                frac_bits: frac_bits(ranges),
                zero_point: None,
            });
        }
        if let Some(lo) = range_min.as_slice().iter().find(|lo| **lo > 0.0) {
            let what = format!("range_min {lo} of an unsigned InputQuantizer, which must be <= 0,");
            return Err(NumericsError::NotFinite { what });
        }
        let frac_bits = frac_bits(range_min.zip(range_max, |lo, hi| hi - lo));
        let zero_point = range_min.zip(&frac_bits, |lo, fb| {
            value_bits.saturate(round_half_even(mul_pow2(-lo, fb)))
        });
        Ok(Self {
            value_bits,
            frac_bits,
            zero_point: Some(zero_point),
        })
    }

    /// Returns the format of the outputs.
    #[must_use]
    pub fn format(&self) -> QFormat {
        let format = QFormat::fixed(self.value_bits, self.frac_bits.clone());
        match self.zero_point {
            None => format,
            Some(_) => format.with_scales(PerAxis::Tensor(1.0)),
        }
    }

    /// Returns the integer of one input of channel `channel`.
    pub fn apply(&self, x: f32, channel: usize, observer: &mut impl Observe) -> i64 {
        let rounded = round_half_even(mul_pow2(x, self.frac_bits.at(channel)));
        let value = observer.saturate(Stage::Input, channel, rounded, self.value_bits);
        match &self.zero_point {
            None => value,
            Some(zero_point) => {
                let sum = value + zero_point.at(channel);
                observer.saturate(Stage::ZeroPoint, channel, sum, self.value_bits)
            }
        }
    }
}

/// Returns the real values of integers of `format`.
///
/// ```text
/// FixedPoint: fl(fl(values) * 2^-frac_bits)
/// QFloat:     fl(fl(fl(values) * 2^-frac_bits) * scales)
/// ```
///
/// NUMERICS.md: N12.
#[must_use]
pub fn dequantize(values: &ArrayD<i64>, format: &QFormat) -> ArrayD<f32> {
    map_channels(values.view(), |v, c| {
        let fixed = mul_pow2(int_to_f32(v), -format.frac_bits.at(c));
        match &format.scales {
            None => fixed,
            Some(scales) => fixed * scales.at(c),
        }
    })
}
