//! Layers that remember earlier frames or time steps.

use ndarray::{Array1, Array2, Array4};

use super::linear::reshape2;
use super::{
    WeightedParams, enter, expect_filters, expect_fixed_point, expect_scalar_scale, finish_linear,
};
use crate::bits::{BitWidth, Sign, ValueBits};
use crate::format::max_frac_bits;
use crate::layers::{IntegerLayer, IntegerOp, RecurrentOp, check_accumulator};
use crate::log2::mul_pow2;
use crate::quantizers::OutputQuantizer;
use crate::round::round_half_even;
use crate::tensor::{quantize_scales, rescale_shift};
use crate::{NumericsError, PerAxis, QFormat};

/// Bits of the integer scales of a StatefulRecurrent's inputs.
const STATE_SCALE_BITS: u8 = 8;

/// Quantization of a StatefulRecurrent.
#[derive(Clone, Debug)]
pub struct RecurrentParams<'a> {
    /// Width of the factors; they are signed, with one binary point for all.
    pub a_bits: BitWidth,
    /// Value bits of inputs, products and sums.
    pub buffer: ValueBits,
    /// The quantizer of states and outputs, per-tensor.
    pub output: &'a OutputQuantizer,
}

/// Returns the integer form of a BufferTempConv over `n_frames` frames, with kernel
/// `[1, 1, n_frames * channels, filters]`, the oldest frame first.
///
/// ```text
/// acc = saturate(saturate(sum over frames and channels of x * k) + bias)
/// ```
///
/// NUMERICS.md: N28.
///
/// # Errors
///
/// A kernel that does not have that shape, and what [`conv2d`](super::conv2d) refuses.
pub fn buffer_temp_conv(
    input: &QFormat,
    kernel: &Array4<f32>,
    n_frames: usize,
    params: &WeightedParams<'_>,
) -> Result<IntegerLayer, NumericsError> {
    let (kh, kw, rows, filters) = kernel.dim();
    if (kh, kw) != (1, 1) || n_frames == 0 || rows.checked_rem(n_frames) != Some(0) {
        return Err(NumericsError::Invalid(format!(
            "a kernel of {kh} x {kw} x {rows} for {n_frames} frames"
        )));
    }
    let (entry, x) = enter(input, params.buffer)?;
    expect_scalar_scale(&x)?;
    let kernel = kernel.clone().into_dyn();
    let weights = params.weight_quantizer.quantize(&kernel, params.axis)?;
    expect_filters(&weights.scales, filters)?;
    check_accumulator(x.value_bits, params.weight_quantizer.value_bits(), rows)?;
    let kernel = reshape2(weights.values, rows, filters)?;
    let op = IntegerOp::BufferTempConv { kernel, n_frames };
    finish_linear(entry, op, &x, weights.scales, params)
}

/// Returns the integer form of a DepthwiseBufferTempConv with kernel `[frames, channels]`, the
/// oldest frame first.
///
/// ```text
/// acc = saturate(saturate(sum over frames of saturate(x * k)) + bias)
/// ```
///
/// NUMERICS.md: N28.
///
/// # Errors
///
/// Inputs with float scales, and what [`conv2d`](super::conv2d) refuses.
pub fn depthwise_buffer_temp_conv(
    input: &QFormat,
    kernel: &Array2<f32>,
    params: &WeightedParams<'_>,
) -> Result<IntegerLayer, NumericsError> {
    expect_fixed_point(input)?;
    let (n_frames, channels) = kernel.dim();
    let (entry, x) = enter(input, params.buffer)?;
    let kernel = kernel.clone().into_dyn();
    let weights = params.weight_quantizer.quantize(&kernel, params.axis)?;
    expect_filters(&weights.scales, channels)?;
    check_accumulator(x.value_bits, params.weight_quantizer.value_bits(), n_frames)?;
    let kernel = reshape2(weights.values, n_frames, channels)?;
    let op = IntegerOp::DepthwiseBufferTempConv { kernel };
    finish_linear(entry, op, &x, weights.scales, params)
}

/// Returns the integer form of a StatefulRecurrent with complex factors `a`, real and imaginary
/// parts `[channels]`, on inputs `[time, channels]`.
///
/// ```text
/// x   = rescale(inputs, fb_state + fb_a), a QFloat first times its scales of 8 bits
/// re' = saturate(saturate(saturate(re * ar) - saturate(im * ai)) + x)
/// im' = saturate(saturate(re * ai) + saturate(im * ar))
/// state, output = saturate(shift_half_up(re' and im', -fb_a)), 16 bits by default
/// ```
///
/// The output is `[time, channels, 2]`. NUMERICS.md: N29.
///
/// # Errors
///
/// Factors whose two parts get different binary points, inputs that cannot enter the buffer, a
/// left shift of its whole width, an output quantizer that is per-axis or wider than the buffer.
pub fn stateful_recurrent(
    input: &QFormat,
    a: [&Array1<f32>; 2],
    params: &RecurrentParams<'_>,
) -> Result<IntegerLayer, NumericsError> {
    let buffer = params.buffer;
    let (entry, x) = enter(input, buffer)?;
    let scales = x.scales.as_ref();
    let q = scales
        .map(|scales| quantize_scales(scales, ValueBits::new(STATE_SCALE_BITS)?))
        .transpose()?;
    let x_point = match &q {
        None => x.frac_bits.clone(),
        Some(q) => x.frac_bits.zip(&q.frac_bits, |x, q| x + q),
    };
    let value_bits = params.a_bits.value_bits(Sign::Signed)?;
    let points = a.map(|part| factor_point(part, value_bits));
    let [real, imag] = points;
    let a_point = real?;
    if imag? != a_point {
        return Err(NumericsError::Invalid(
            "A_real and A_imag have different binary points".to_owned(),
        ));
    }
    if params.output.range_max.n_values() != 1 {
        return Err(NumericsError::Invalid(
            "its state needs a per-tensor output_quantizer".to_owned(),
        ));
    }
    let state_bits = params.output.bitwidth.value_bits(params.output.sign)?;
    let state_point = max_frac_bits(state_bits, params.output.range_max.at(0));
    let sum_point = PerAxis::Tensor(state_point + a_point);
    let inner = QFormat::fixed(buffer, sum_point.clone());
    let (state, _) = params.output.prepare(&inner)?;
    let factors = a.map(|part| {
        let integer = |w: &f32| value_bits.saturate(round_half_even(mul_pow2(*w, a_point)));
        part.iter().map(integer).collect()
    });
    let op = RecurrentOp {
        factors,
        multiplier: q.map(|q| q.values),
        input_shift: rescale_shift(&x_point, &sum_point, buffer)?,
        state,
    };
    let format = QFormat::fixed(state_bits, PerAxis::Axis(vec![state_point; 2]));
    Ok(IntegerLayer {
        entries: vec![entry],
        op: IntegerOp::StatefulRecurrent(op),
        bias: None,
        inner: format.clone(),
        output: None,
        format,
    })
}

/// Returns the binary point of one part of the factors.
fn factor_point(part: &Array1<f32>, value_bits: ValueBits) -> Result<i32, NumericsError> {
    if let Some(w) = part.iter().find(|w| !w.is_finite()) {
        return Err(NumericsError::NotFinite {
            what: format!("a factor of {w}"),
        });
    }
    let range = part.iter().fold(0.0_f32, |range, w| range.max(w.abs()));
    Ok(max_frac_bits(value_bits, range))
}
