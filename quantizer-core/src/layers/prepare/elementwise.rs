//! Rectifiers, look-up tables, pooling and merges.

use super::{enter, expect_fixed_point, finish, no_shift, pass_through};
use crate::bits::ValueBits;
use crate::counters::Stage;
use crate::layers::{ConcatAxis, EntryStage, IntegerLayer, IntegerOp, PoolOp};
use crate::log2::mul_pow2;
use crate::quantizers::{AlignedWeightQuantizer, OutputQuantizer};
use crate::round::round_half_even;
use crate::tensor::{int_to_f32, rescale_shift};
use crate::{NumericsError, PerAxis, QFormat};

/// Most value bits of the inputs of a look-up table: 2^17 entries.
pub const MAX_TABLE_BITS: u8 = 16;

/// Quantization of a rectifier.
#[derive(Clone, Debug)]
pub struct ReluParams<'a> {
    /// Upper clip and its quantizer.
    pub max_value: Option<(f32, AlignedWeightQuantizer)>,
    /// Value bits of the inputs.
    pub buffer: ValueBits,
    /// The output quantizer.
    pub output: Option<&'a OutputQuantizer>,
}

/// Returns the integer form of a ReLU.
///
/// ```text
/// v = max(x, 0); with max_value: v = min(v, m), m = AlignedWeightQuantizer(max_value, x)
/// ```
///
/// A FixedPoint gets the scale 1.0, which its output quantizer applies as `(2^b - 1) / 2^b`.
/// NUMERICS.md: N19.
///
/// # Errors
///
/// Inputs wider than the buffer, and what the quantizers refuse.
pub fn relu(input: &QFormat, params: &ReluParams<'_>) -> Result<IntegerLayer, NumericsError> {
    let x = input.promote(params.buffer)?;
    let x = x.with_scales(x.scales_or_one());
    let max = match params.max_value {
        None => None,
        Some((max_value, quantizer)) => {
            let aligned = quantizer.quantize(&PerAxis::Tensor(max_value), &x)?;
            Some(aligned.aligned(x.value_bits))
        }
    };
    finish(
        vec![no_shift(params.buffer)],
        IntegerOp::ReLU { max },
        x,
        params.output,
    )
}

/// Returns the integer form of a MaxPool2D: bits, binary point and scales pass through.
///
/// NUMERICS.md: N20.
#[must_use]
pub fn max_pool2d(input: &QFormat, pool: PoolOp) -> IntegerLayer {
    pass_through(input, IntegerOp::MaxPool2D(pool))
}

/// Returns the integer form of a GlobalAveragePooling2D over `area` pixels.
///
/// ```text
/// acc = saturate(sum x); FixedPoint: scale = fl(1 / area), f64 division rounded once
///                        QFloat:     scales = fl(scales / area)
/// ```
///
/// NUMERICS.md: N21.
///
/// # Errors
///
/// Inputs that cannot enter the buffer, an empty area, and what the output quantizer refuses.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the one rounding to float32"
)]
pub fn global_average_pooling2d(
    input: &QFormat,
    area: u32,
    keepdims: bool,
    buffer: ValueBits,
    output: Option<&OutputQuantizer>,
) -> Result<IntegerLayer, NumericsError> {
    if area == 0 {
        return Err(NumericsError::Invalid(
            "an average over no pixel".to_owned(),
        ));
    }
    let (entry, x) = enter(input, buffer)?;
    let scales = match &x.scales {
        None => PerAxis::Tensor((1.0 / f64::from(area)) as f32),
        Some(scales) => scales.map(|scale| scale / int_to_f32(i64::from(area))),
    };
    let op = IntegerOp::GlobalAveragePooling2D { keepdims };
    finish(vec![entry], op, x.with_scales(scales), output)
}

/// Returns the integer form of an Add of two FixedPoint inputs.
///
/// ```text
/// fb = max(fb of a, fb of b); acc = saturate(saturate(a << (fb - fb of a)) + saturate(b << ...))
/// ```
///
/// With `average` the result has one more fractional bit. NUMERICS.md: N22.
///
/// # Errors
///
/// Inputs with scales or wider than the buffer, shifts of the whole width.
pub fn add(
    [left, right]: [&QFormat; 2],
    average: bool,
    buffer: ValueBits,
    output: Option<&OutputQuantizer>,
) -> Result<IntegerLayer, NumericsError> {
    let frac_bits = left.frac_bits.zip(&right.frac_bits, i32::max);
    let entry = |x: &QFormat, stage| {
        expect_fixed_point(x)?;
        x.promote(buffer)?;
        let shift = rescale_shift(&x.frac_bits, &frac_bits, buffer)?;
        Ok(EntryStage {
            stage,
            shift: shift.map(i32::unsigned_abs),
            value_bits: buffer,
        })
    };
    let entries = vec![
        entry(left, Stage::AlignLeft)?,
        entry(right, Stage::AlignRight)?,
    ];
    let extra = i32::from(average);
    let inner = QFormat::fixed(buffer, frac_bits.map(|fb| fb + extra));
    finish(entries, IntegerOp::Add, inner, output)
}

/// Returns the integer form of a Concatenate on `axis` of two FixedPoint inputs of `channels`
/// channels each.
///
/// Integers pass unchanged and the result has the larger width. On the
/// last axis each channel keeps its binary point; on another one they must be equal.
/// NUMERICS.md: N25.
///
/// # Errors
///
/// Inputs with scales, binary points that differ, or an axis that the inputs do not have.
pub fn concatenate(
    [left, right]: [&QFormat; 2],
    channels: [usize; 2],
    axis: ConcatAxis,
) -> Result<IntegerLayer, NumericsError> {
    expect_fixed_point(left)?;
    expect_fixed_point(right)?;
    let value_bits = left.value_bits.max(right.value_bits);
    let spread = |x: &QFormat, n: usize| {
        (0..n)
            .map(|c| x.frac_bits.at(c.min(x.frac_bits.n_values() - 1)))
            .collect::<Vec<_>>()
    };
    let frac_bits = match axis {
        ConcatAxis::Channels => {
            let mut frac_bits = spread(left, channels[0]);
            frac_bits.extend(spread(right, channels[1]));
            PerAxis::Axis(frac_bits)
        }
        ConcatAxis::Leading(_) => {
            let same = left.frac_bits.zip(&right.frac_bits, |a, b| a == b);
            if same.uniform() != Some(true) {
                return Err(NumericsError::Invalid(
                    "its inputs have different binary points".to_owned(),
                ));
            }
            left.frac_bits.zip(&right.frac_bits, i32::max)
        }
    };
    let inner = QFormat::fixed(value_bits, frac_bits);
    let entries = vec![no_shift(value_bits), no_shift(value_bits)];
    finish(entries, IntegerOp::Concatenate(axis), inner, None)
}

/// Returns the integer form of an activation: a table of its results for every input.
///
/// ```text
/// x_i   = fl(i / 2^fb), y_i = activation(x_i), for i in [-2^value_bits, 2^value_bits - 1]
/// scale = fl(max |y_i| * fl(1 / int_max(table_bits)))
/// entry = saturate(round_half_even(fl(y_i / scale)), table_bits)
/// ```
///
/// NUMERICS.md: N27.
///
/// # Errors
///
/// Inputs with scales or with a binary point for each channel, inputs of more than
/// [`MAX_TABLE_BITS`] value bits, a function that is zero everywhere or not finite, and what the
/// output quantizer refuses.
pub fn look_up(
    input: &QFormat,
    activation: &dyn Fn(f32) -> f32,
    table_bits: ValueBits,
    output: Option<&OutputQuantizer>,
) -> Result<IntegerLayer, NumericsError> {
    expect_fixed_point(input)?;
    if !input.has_common_point() {
        return Err(NumericsError::Invalid(
            "a look-up table needs one binary point: the layer before needs a per-tensor \
             output_quantizer"
                .to_owned(),
        ));
    }
    if input.value_bits.bits() > MAX_TABLE_BITS {
        return Err(NumericsError::Unsupported(format!(
            "a look-up table for inputs of {} bits; at most {MAX_TABLE_BITS}",
            input.value_bits.bits()
        )));
    }
    let fb = input.frac_bits.at(0);
    let results: Vec<f32> = (input.value_bits.int_min()..=input.value_bits.int_max())
        .map(|i| activation(mul_pow2(int_to_f32(i), -fb)))
        .collect();
    let largest = results.iter().fold(0.0_f32, |max, y| max.max(y.abs()));
    let scale = largest * (1.0 / int_to_f32(table_bits.int_max()));
    if !(scale.is_normal() && results.iter().all(|y| y.is_finite())) {
        return Err(NumericsError::NotFinite {
            what: format!("a look-up table with a scale of {scale}"),
        });
    }
    let entry = |y: &f32| i32::try_from(table_bits.saturate(round_half_even(y / scale)));
    let table = results.iter().map(entry).collect::<Result<_, _>>();
    let table = table.map_err(|_| {
        NumericsError::Unsupported(format!("a look-up table of {} bits", table_bits.bits()))
    })?;
    let inner = QFormat::fixed(table_bits, PerAxis::Tensor(0)).with_scales(PerAxis::Tensor(scale));
    let entries = vec![no_shift(input.value_bits)];
    finish(entries, IntegerOp::LookUp { table }, inner, output)
}

/// Returns the integer form of a Rescaling by `scale`.
///
/// ```text
/// integers unchanged; scale = fl(scale), or fl(scales * scale)
/// ```
///
/// NUMERICS.md: N23.
#[must_use]
pub fn rescaling(input: &QFormat, scale: f32) -> IntegerLayer {
    let scales = match &input.scales {
        None => PerAxis::Tensor(scale),
        Some(scales) => scales.map(|s| s * scale),
    };
    pass_through(&input.with_scales(scales), IntegerOp::Identity)
}
