//! What is known of a tensor before its values: bits, binary point, scales.

use crate::bits::ValueBits;
use crate::log2::ceil_log2;
use crate::{NumericsError, PerAxis};

/// Format of a quantized tensor.
///
/// ```text
/// real value = integer * 2^-frac_bits * scale
/// ```
///
/// Without scales it is the format of a `FixedPoint`, with scales that of a `QFloat`. Formats do
/// not depend on the values, so they are known for every layer once a model is quantized.
#[derive(Clone, Debug, PartialEq)]
pub struct QFormat {
    /// Bits of the integers without the sign.
    pub value_bits: ValueBits,
    /// Binary point: fractional bits of the integers, may be negative.
    pub frac_bits: PerAxis<i32>,
    /// Float scales of a `QFloat`.
    pub scales: Option<PerAxis<f32>>,
}

impl QFormat {
    /// Returns the format of a `FixedPoint`.
    #[must_use]
    pub const fn fixed(value_bits: ValueBits, frac_bits: PerAxis<i32>) -> Self {
        Self {
            value_bits,
            frac_bits,
            scales: None,
        }
    }

    /// Returns the same format with other value bits.
    #[must_use]
    pub fn with_value_bits(&self, value_bits: ValueBits) -> Self {
        Self {
            value_bits,
            ..self.clone()
        }
    }

    /// Returns the same format with the scales `scales`.
    #[must_use]
    pub fn with_scales(&self, scales: PerAxis<f32>) -> Self {
        Self {
            scales: Some(scales),
            ..self.clone()
        }
    }

    /// Returns whether the binary point is common: a scalar, or a vector of one entry.
    #[must_use]
    pub fn has_common_point(&self) -> bool {
        self.frac_bits.n_values() == 1
    }

    /// Returns whether the tensor is per-tensor: a common binary point, and a scalar scale if any.
    #[must_use]
    pub fn is_per_tensor(&self) -> bool {
        self.has_common_point() && self.scales.as_ref().is_none_or(PerAxis::is_per_tensor)
    }

    /// Returns the format promoted to `value_bits`.
    ///
    /// # Errors
    ///
    /// The tensor has more value bits.
    pub fn promote(&self, value_bits: ValueBits) -> Result<Self, NumericsError> {
        if value_bits < self.value_bits {
            return Err(NumericsError::Promote {
                from: self.value_bits.bits(),
                to: value_bits.bits(),
            });
        }
        Ok(self.with_value_bits(value_bits))
    }

    /// Returns the scales, or 1.0 for a `FixedPoint`.
    #[must_use]
    pub fn scales_or_one(&self) -> PerAxis<f32> {
        self.scales.clone().unwrap_or(PerAxis::Tensor(1.0))
    }
}

/// Returns the fractional bits that `value_bits` leave for values up to `range`.
///
/// ```text
/// fb = value_bits - ceil_log2(range), at most value_bits; value_bits for range 0
/// ```
///
/// Negative when the range exceeds `2^value_bits`. For `range = 2^k` exactly, `+range` itself
/// becomes `2^value_bits` and saturates. NUMERICS.md: N5.
#[must_use]
pub fn max_frac_bits(value_bits: ValueBits, range: f32) -> i32 {
    let bits = i32::from(value_bits.bits());
    ceil_log2(range).map_or(bits, |log| (bits - log).min(bits))
}

/// Returns the fractional bits at which a positive scale takes `scale_bits` bits, not clamped.
///
/// ```text
/// fb = scale_bits - ceil_log2(scale)
/// ```
///
/// # Errors
///
/// A scale that is zero, negative, or not finite. NUMERICS.md: N7.
pub fn scale_frac_bits(scale_bits: ValueBits, scale: f32) -> Result<i32, NumericsError> {
    let refused = || NumericsError::NotFinite {
        what: format!("an output scale of {scale}"),
    };
    if !scale.is_finite() || scale < 0.0 {
        return Err(refused());
    }
    ceil_log2(scale)
        .map(|log| i32::from(scale_bits.bits()) - log)
        .ok_or_else(refused)
}
