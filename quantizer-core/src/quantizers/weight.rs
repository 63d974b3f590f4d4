//! WeightQuantizer (NUMERICS.md: N8).

use ndarray::ArrayD;

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
        // Channels repeat in the row-major order of the weights, each `inner` neighbours.
        let (n_channels, inner) = match axis {
            WeightAxis::PerTensor => (1, weights.len()),
            WeightAxis::Axis(axis) if axis < weights.ndim() => {
                let shape = weights.shape();
                (shape[axis], shape[axis + 1..].iter().product())
            }
            WeightAxis::Axis(axis) => {
                return Err(NumericsError::Invalid(format!(
                    "weight axis {axis} of a rank {} kernel",
                    weights.ndim()
                )));
            }
        };
        let row_major = weights.as_standard_layout();
        let flat = row_major.as_slice().unwrap_or_default();
        let outer_len = (n_channels * inner).max(1);
        let mut ranges = vec![0.0_f32; n_channels];
        for outer in flat.chunks(outer_len) {
            raise(&mut ranges, outer, inner);
        }
        let int_max = int_to_f32(self.value_bits.int_max());
        let scales: Vec<f32> = ranges
            .into_iter()
            .map(|range| (range / int_max).max(MIN_SCALE))
            .collect();
        let mut values = ArrayD::zeros(weights.raw_dim());
        if let Some(values) = values.as_slice_mut() {
            for (outer, values) in flat.chunks(outer_len).zip(values.chunks_mut(outer_len)) {
                self.integers(outer, inner, &scales, values);
            }
        }
        let scales = match axis {
            WeightAxis::PerTensor => PerAxis::Tensor(scales[0]),
            WeightAxis::Axis(_) => PerAxis::Axis(scales),
        };
        Ok(QuantizedWeights { values, scales })
    }

    /// Writes the integers of one entry of the axes before the channels', `inner` neighbours a channel.
    fn integers(self, weights: &[f32], inner: usize, scales: &[f32], values: &mut [i32]) {
        if inner == 1 {
            for ((w, scale), value) in weights.iter().zip(scales).zip(values) {
                *value = self.integer(*w, *scale);
            }
            return;
        }
        let runs = weights
            .chunks(inner.max(1))
            .zip(values.chunks_mut(inner.max(1)));
        for ((run, values), scale) in runs.zip(scales) {
            for (w, value) in run.iter().zip(values) {
                *value = self.integer(*w, *scale);
            }
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most 24 bits after saturation"
    )]
    fn integer(self, weight: f32, scale: f32) -> i32 {
        self.value_bits.saturate(round_half_even(weight / scale)) as i32
    }
}

/// Raises the range of each channel to its weights in one entry of the axes before, `inner` neighbours a channel.
fn raise(ranges: &mut [f32], weights: &[f32], inner: usize) {
    // Weights are finite, so no maximum has to care for NaN.
    let larger = |range: f32, w: &f32| if w.abs() > range { w.abs() } else { range };
    if inner == 1 {
        for (range, w) in ranges.iter_mut().zip(weights) {
            *range = larger(*range, w);
        }
        return;
    }
    for (range, run) in ranges.iter_mut().zip(weights.chunks(inner.max(1))) {
        *range = run.iter().fold(*range, larger);
    }
}
