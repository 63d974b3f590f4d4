//! WeightQuantizer (NUMERICS.md: N8).

use ndarray::{ArrayD, Axis};

use crate::bits::{BitWidth, Sign, ValueBits};
use crate::round::round_half_even;
use crate::tensor::int_to_f32;
use crate::{NumericsError, PerAxis};

/// The smallest scale of a weight: that of a channel whose weights are all zero.
const MIN_SCALE: f32 = 1e-6;

/// Which axis of a kernel has a scale for each of its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightAxis {
    /// One scale for the whole kernel.
    PerTensor,
    /// One scale for each entry of this axis.
    Axis(usize),
}

/// Quantizes kernels symmetrically.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightQuantizer {
    value_bits: ValueBits,
}

/// A kernel as integers: `weight = values * scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedWeights {
    /// Integers in the layout of the float kernel, within `±(2^value_bits - 1)`.
    pub values: ArrayD<i32>,
    /// One scale, or one for each entry of the chosen axis.
    pub scales: PerAxis<f32>,
}

impl WeightQuantizer {
    /// Returns the quantizer to signed integers of `bitwidth`, at most 24 bits.
    ///
    /// # Errors
    ///
    /// A width below 2 or above 24 (a float32 has no more digits).
    pub fn new(bitwidth: BitWidth) -> Result<Self, NumericsError> {
        let value_bits = bitwidth.value_bits(Sign::Signed)?;
        if bitwidth.bits() > 24 {
            return Err(NumericsError::BitWidth {
                bits: bitwidth.bits(),
            });
        }
        Ok(Self { value_bits })
    }

    /// Returns the bits of the integers without the sign.
    #[must_use]
    pub const fn value_bits(self) -> ValueBits {
        self.value_bits
    }

    /// Returns the integers and scales of a kernel.
    ///
    /// ```text
    /// range  = max |w| over all axes but the chosen one
    /// scale  = max(fl(range / (2^value_bits - 1)), fl(1e-6))
    /// values = saturate(round_half_even(fl(w / scale)))
    /// ```
    ///
    /// NUMERICS.md: N8.
    ///
    /// # Errors
    ///
    /// A NaN or infinite weight, or an axis that the kernel does not have.
    pub fn quantize(
        self,
        weights: &ArrayD<f32>,
        axis: WeightAxis,
    ) -> Result<QuantizedWeights, NumericsError> {
        if let Some(w) = weights.iter().find(|w| !w.is_finite()) {
            return Err(NumericsError::NotFinite {
                what: format!("a weight of {w}"),
            });
        }
        let int_max = int_to_f32(self.value_bits.int_max());
        let scale_of = |range: f32| (range / int_max).max(MIN_SCALE);
        let scales = match axis {
            WeightAxis::PerTensor => PerAxis::Tensor(scale_of(max_abs(weights.iter()))),
            WeightAxis::Axis(axis) if axis < weights.ndim() => PerAxis::Axis(
                weights
                    .axis_iter(Axis(axis))
                    .map(|slice| scale_of(max_abs(slice.iter())))
                    .collect(),
            ),
            WeightAxis::Axis(axis) => {
                return Err(NumericsError::Invalid(format!(
                    "weight axis {axis} of a rank {} kernel",
                    weights.ndim()
                )));
            }
        };
        let mut values = ArrayD::zeros(weights.raw_dim());
        for ((index, w), value) in weights.indexed_iter().zip(values.iter_mut()) {
            let channel = match axis {
                WeightAxis::PerTensor => 0,
                WeightAxis::Axis(axis) => index[axis],
            };
            *value = self.integer(*w, scales.at(channel));
        }
        Ok(QuantizedWeights { values, scales })
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most 24 bits after saturation"
    )]
    fn integer(self, weight: f32, scale: f32) -> i32 {
        self.value_bits.saturate(round_half_even(weight / scale)) as i32
    }
}

fn max_abs<'a>(weights: impl Iterator<Item = &'a f32>) -> f32 {
    weights.fold(0.0, |range, w| range.max(w.abs()))
}
