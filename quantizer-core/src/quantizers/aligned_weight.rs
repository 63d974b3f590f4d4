//! AlignedWeightQuantizer: biases, clips and padding values (NUMERICS.md: N9).

use crate::bits::{BitWidth, Sign, ValueBits};
use crate::format::max_frac_bits;
use crate::log2::mul_pow2;
use crate::round::{round_half_even, shift_left};
use crate::tensor::rescale_shift;
use crate::{NumericsError, PerAxis, QFormat};

/// Quantizes values that must share the binary point and scales of another tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlignedWeightQuantizer {
    bitwidth: BitWidth,
    value_bits: ValueBits,
}

/// Integers with the left shifts that bring them to the binary point of their tensor.
///
/// ```text
/// aligned value = saturate(values << shift, value bits of the tensor)
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlignedWeights {
    /// Integers of at most the bit width of the quantizer.
    pub values: PerAxis<i64>,
    /// Left shifts.
    pub shift: PerAxis<u32>,
}

impl AlignedWeightQuantizer {
    /// Returns the quantizer to integers of `bitwidth`.
    ///
    /// # Errors
    ///
    /// A signed width of 1, or more than 24 bits (a float32 has no more digits).
    pub fn new(bitwidth: BitWidth, sign: Sign) -> Result<Self, NumericsError> {
        if bitwidth.bits() > 24 {
            return Err(NumericsError::BitWidth {
                bits: bitwidth.bits(),
            });
        }
        Ok(Self {
            bitwidth,
            value_bits: bitwidth.value_bits(sign)?,
        })
    }

    /// Returns `weights` as integers aligned on `tensor`.
    ///
    /// ```text
    /// range  = |weights| each (bit width > 4), or their maximum (bit width <= 4)
    /// fb     = min(max_frac_bits(value_bits, fl(range / scales)), frac_bits of the tensor)
    /// values = saturate(round_half_even(fl(fl(weights / scales) * 2^fb)), value_bits)
    /// shift  = frac_bits of the tensor - fb
    /// ```
    ///
    /// NUMERICS.md: N9.
    ///
    /// # Errors
    ///
    /// A NaN or infinite weight, a shift of the tensor's value bits or more, or numbers of
    /// channels that differ.
    pub fn quantize(
        self,
        weights: &PerAxis<f32>,
        tensor: &QFormat,
    ) -> Result<AlignedWeights, NumericsError> {
        if let Some(w) = weights.as_slice().iter().find(|w| !w.is_finite()) {
            return Err(NumericsError::NotFinite {
                what: format!("an aligned weight of {w}"),
            });
        }
        let scales = tensor.scales_or_one();
        check_lengths(weights, &scales, &tensor.frac_bits)?;
        let scaled = weights.zip(&scales, |w, scale| w / scale);
        let fb = self
            .frac_bits(weights, &scales)
            .zip(&tensor.frac_bits, i32::min);
        let values = scaled.zip(&fb, |w, fb| {
            self.value_bits.saturate(round_half_even(mul_pow2(w, fb)))
        });
        let shift = rescale_shift(&fb, &tensor.frac_bits, tensor.value_bits)?;
        Ok(AlignedWeights {
            values,
            shift: shift.map(i32::unsigned_abs),
        })
    }

    fn frac_bits(self, weights: &PerAxis<f32>, scales: &PerAxis<f32>) -> PerAxis<i32> {
        let ranges = if self.bitwidth.bits() > 4 {
            weights.map(f32::abs)
        } else {
            let all = weights.as_slice().iter();
            PerAxis::Tensor(all.fold(0.0_f32, |range, w| range.max(w.abs())))
        };
        ranges.zip(scales, |range, scale| {
            max_frac_bits(self.value_bits, range / scale)
        })
    }
}

impl AlignedWeights {
    /// Returns the integers at the binary point of their tensor, saturated to its value bits.
    #[must_use]
    pub fn aligned(&self, value_bits: ValueBits) -> PerAxis<i64> {
        self.values.zip(&self.shift, |v, shift| {
            value_bits.saturate(shift_left(v, shift))
        })
    }
}

fn check_lengths(
    weights: &PerAxis<f32>,
    scales: &PerAxis<f32>,
    frac_bits: &PerAxis<i32>,
) -> Result<(), NumericsError> {
    let lengths = [weights.n_values(), scales.n_values(), frac_bits.n_values()];
    let longest = lengths.into_iter().max().unwrap_or(1);
    if lengths.into_iter().all(|n| n == 1 || n == longest) {
        return Ok(());
    }
    Err(NumericsError::Invalid(format!(
        "values, scales and frac_bits of lengths {lengths:?}"
    )))
}
