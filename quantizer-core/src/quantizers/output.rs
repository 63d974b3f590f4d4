//! OutputQuantizer (NUMERICS.md: N10).

use crate::bits::{Sign, ValueBits};
use crate::counters::{Observe, Stage};
use crate::format::max_frac_bits;
use crate::round::shift_half_up;
use crate::tensor::{quantize_scales, rescale_shift};
use crate::{BitWidth, NumericsError, PerAxis, QFormat};

/// Narrows the result of a layer to a few bits, with a calibrated range.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputQuantizer {
    /// Width of the outputs.
    pub bitwidth: BitWidth,
    /// Whether the width counts a sign.
    pub sign: Sign,
    /// Bits of the integer scales; unused when the input has no float scales.
    pub scale_bits: BitWidth,
    /// Value bits of the scaled sums.
    pub buffer: ValueBits,
    /// Calibrated range, one or one for each channel.
    pub range_max: PerAxis<f32>,
    /// Factor of the output scales, set by cross-layer equalization.
    pub rescaling_rate: PerAxis<f32>,
}

/// An output quantizer as integers: what runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputStage {
    /// Integer scales and the value bits of the products, when the input has float scales.
    pub multiplier: Option<(PerAxis<i64>, ValueBits)>,
    /// Shift of each channel: left if positive, right with a half rounded up if negative.
    pub shift: PerAxis<i32>,
    /// Value bits of the outputs.
    pub value_bits: ValueBits,
}

impl OutputQuantizer {
    /// Returns the integer form for inputs of `format`, and the format of its outputs.
    ///
    /// ```text
    /// QFloat inputs: s = fl(scales * rescaling_rate), q = quantize_scales(s, scale_bits)
    ///                P = saturate(values * q, buffer), frac_bits of P = frac_bits + those of q
    /// FixedPoint:    P = values
    /// fb  = max_frac_bits(value_bits, range_max)
    /// out = saturate(shift_half_up(P, fb - frac_bits of P), value_bits)
    /// ```
    ///
    /// NUMERICS.md: N10.
    ///
    /// # Errors
    ///
    /// A width that is not below that of the inputs, a buffer narrower than the inputs, a range or
    /// scale that is not finite, a left shift of the whole width.
    pub fn prepare(&self, format: &QFormat) -> Result<(OutputStage, QFormat), NumericsError> {
        let value_bits = self.bitwidth.value_bits(self.sign)?;
        if format.value_bits <= value_bits {
            return Err(NumericsError::Pointless {
                from: format.value_bits.bits(),
                to: value_bits.bits(),
            });
        }
        check_ranges(&self.range_max)?;
        let (multiplier, frac_bits) = match &format.scales {
            None => (None, format.frac_bits.clone()),
            Some(scales) => {
                format.promote(self.buffer)?;
                let scales = scales.zip(&self.rescaling_rate, |s, rate| s * rate);
                let q = quantize_scales(&scales, self.scale_bits.value_bits(Sign::Unsigned)?)?;
                let frac_bits = format.frac_bits.zip(&q.frac_bits, |a, b| a + b);
                (Some((q.values, self.buffer)), frac_bits)
            }
        };
        let target = self.range_max.map(|range| max_frac_bits(value_bits, range));
        let shift = rescale_shift(&frac_bits, &target, value_bits)?;
        let stage = OutputStage {
            multiplier,
            shift,
            value_bits,
        };
        Ok((stage, QFormat::fixed(value_bits, target)))
    }
}

impl OutputStage {
    /// Returns the output of one value of channel `channel`.
    pub fn apply(&self, value: i64, channel: usize, observer: &mut impl Observe) -> i64 {
        let product = match &self.multiplier {
            None => value,
            Some((q, buffer)) => {
                let product = value.saturating_mul(q.at(channel));
                observer.saturate(Stage::ScaleMultiply, channel, product, *buffer)
            }
        };
        let shifted = shift_half_up(product, self.shift.at(channel));
        observer.saturate(Stage::OutputRescale, channel, shifted, self.value_bits)
    }
}

fn check_ranges(ranges: &PerAxis<f32>) -> Result<(), NumericsError> {
    match ranges
        .as_slice()
        .iter()
        .find(|r| !r.is_finite() || **r < 0.0)
    {
        Some(range) => Err(NumericsError::NotFinite {
            what: format!("a range_max of {range}"),
        }),
        None => Ok(()),
    }
}
