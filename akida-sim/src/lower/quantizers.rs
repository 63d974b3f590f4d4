//! The quantizers that a layer's configuration asks for.

use config_schema::{
    AlignedQuantizerConfig, LayerConfig, OutputQuantizerConfig, WeightQuantizerConfig,
};
use quantizer_core::quantizers::{
    AlignedWeightQuantizer, OutputQuantizer, WeightAxis, WeightQuantizer,
};
use quantizer_core::{BitWidth, NumericsError, Sign, ValueBits};

use crate::OutputRanges;

/// Widest buffer of a layer with a single accumulator (NUMERICS.md: N15).
const MAX_WEIGHTED_BUFFER: u8 = 28;

pub(super) fn output_quantizer(
    config: Option<&OutputQuantizerConfig>,
    ranges: Option<&OutputRanges>,
) -> Result<Option<OutputQuantizer>, NumericsError> {
    let Some(config) = config else {
        return Ok(None);
    };
    let ranges = ranges.ok_or_else(|| {
        NumericsError::Invalid("its output quantizer was never calibrated".to_owned())
    })?;
    Ok(Some(OutputQuantizer {
        bitwidth: BitWidth::new(config.bitwidth)?,
        sign: if config.signed {
            Sign::Signed
        } else {
            Sign::Unsigned
        },
        scale_bits: BitWidth::new(config.scale_bits.unwrap_or(8))?,
        buffer: ValueBits::new(config.buffer_bitwidth)?,
        range_max: ranges.range_max.clone(),
        rescaling_rate: ranges.rescaling_rate.clone(),
    }))
}

/// Returns the quantizer of a kernel of rank `rank` and its axis.
pub(super) fn weight_quantizer(
    config: Option<&WeightQuantizerConfig>,
    rank: usize,
) -> Result<(WeightQuantizer, WeightAxis), NumericsError> {
    let config =
        config.ok_or_else(|| NumericsError::Invalid("has no weight_quantizer".to_owned()))?;
    if config.fp_quantizer || !config.signed {
        let what = "a weight_quantizer with fp_quantizer or without sign";
        return Err(NumericsError::Unsupported(what.to_owned()));
    }
    let bitwidth = BitWidth::new(config.bitwidth)?;
    let axis = match config.axis {
        None => WeightAxis::PerTensor,
        Some(axis) => WeightAxis::Axis(axis_index(axis, rank)?),
    };
    Ok((WeightQuantizer::new(bitwidth)?, axis))
}

fn axis_index(axis: i64, rank: usize) -> Result<usize, NumericsError> {
    let index = isize::try_from(axis).ok().and_then(|axis| {
        if axis < 0 {
            rank.checked_add_signed(axis)
        } else {
            usize::try_from(axis).ok()
        }
    });
    index.filter(|index| *index < rank).ok_or_else(|| {
        NumericsError::Invalid(format!("weight axis {axis} of a rank {rank} kernel"))
    })
}

pub(super) fn aligned(
    config: &AlignedQuantizerConfig,
) -> Result<AlignedWeightQuantizer, NumericsError> {
    let sign = if config.signed {
        Sign::Signed
    } else {
        Sign::Unsigned
    };
    AlignedWeightQuantizer::new(BitWidth::new(config.bitwidth)?, sign)
}

/// Returns the buffer width of the configuration less `sign_bits`, as value bits.
pub(super) fn buffer(config: &LayerConfig, sign_bits: u8) -> Result<ValueBits, NumericsError> {
    ValueBits::new(
        config
            .buffer_bitwidth
            .unwrap_or(32)
            .saturating_sub(sign_bits),
    )
}

/// Returns the value bits of a buffer that is capped at 28 bits, sign included.
pub(super) fn weighted_buffer(config: &LayerConfig) -> Result<ValueBits, NumericsError> {
    let bits = config
        .buffer_bitwidth
        .unwrap_or(32)
        .min(MAX_WEIGHTED_BUFFER);
    ValueBits::new(bits.saturating_sub(1))
}
