//! Convolutions and matrix products.

use ndarray::{Array2, Array3, Array4, ArrayD, Ix2, Ix4};

use super::{
    WeightedParams, enter, expect_filters, expect_fixed_point, expect_scalar_scale, finish_linear,
    no_shift,
};
use crate::geometry::Padding;
use crate::layers::{Border, ConvOp, DepthwiseOp, IntegerLayer, IntegerOp, check_accumulator};
use crate::quantizers::{AlignedWeightQuantizer, QuantizedWeights, WeightAxis, WeightQuantizer};
use crate::{NumericsError, PerAxis, QFormat};

/// Border rule of a float convolution.
#[derive(Clone, Debug)]
pub enum FloatBorder<'a> {
    /// Zeros, or nothing.
    Zero(Padding),
    /// Values of the border with their quantizer; one or one for each input channel.
    Value(&'a [f32], AlignedWeightQuantizer),
}

/// Returns the integer form of a Conv2D with kernel `[height, width, channels, filters]`.
///
/// ```text
/// acc = saturate(saturate(sum x * k) + bias); scales = scales of k, times those of x
/// ```
///
/// NUMERICS.md: N15.
///
/// # Errors
///
/// Inputs that cannot enter the buffer, per-axis scales of the inputs, a padding value on inputs
/// without scales, and what the quantizers refuse.
pub fn conv2d(
    input: &QFormat,
    kernel: &Array4<f32>,
    border: &FloatBorder<'_>,
    [strides, dilation]: [[usize; 2]; 2],
    params: &WeightedParams<'_>,
) -> Result<IntegerLayer, NumericsError> {
    let (entry, x) = enter(input, params.buffer)?;
    expect_scalar_scale(&x)?;
    let weights = params
        .weight_quantizer
        .quantize(&kernel.clone().into_dyn(), params.axis)?;
    let border = match border {
        FloatBorder::Zero(Padding::Same) => Border::Same,
        FloatBorder::Zero(Padding::Valid) => Border::Valid,
        FloatBorder::Value(values, quantizer) => {
            Border::Value(padding_value(values, *quantizer, &x)?)
        }
    };
    let (kh, kw, c, filters) = kernel.dim();
    let op = ConvOp {
        kernel: rank4(weights.values)?,
        strides,
        dilation,
        border,
    };
    expect_filters(&weights.scales, filters)?;
    check_accumulator(
        x.value_bits,
        params.weight_quantizer.value_bits(),
        kh * kw * c,
    )?;
    finish_linear(entry, IntegerOp::Conv2D(op), &x, weights.scales, params)
}

/// Returns the integer form of a DepthwiseConv2D with kernel `[height, width, channels, 1]`.
///
/// Inputs keep their binary point for each channel. NUMERICS.md: N16.
///
/// # Errors
///
/// Inputs with float scales, a depth multiplier other than 1, and what [`conv2d`] refuses.
pub fn depthwise_conv2d(
    input: &QFormat,
    kernel: &Array4<f32>,
    padding: Padding,
    [strides, dilation]: [[usize; 2]; 2],
    params: &WeightedParams<'_>,
) -> Result<IntegerLayer, NumericsError> {
    expect_fixed_point(input)?;
    let x = input.promote(params.buffer)?;
    let weights = params
        .weight_quantizer
        .quantize(&kernel.clone().into_dyn(), params.axis)?;
    let op = depthwise_op(weights.values, padding, strides, dilation)?;
    let (kh, kw, channels) = op.kernel.dim();
    expect_filters(&weights.scales, channels)?;
    check_accumulator(x.value_bits, params.weight_quantizer.value_bits(), kh * kw)?;
    // The reference squeezes the scales: a single channel leaves a scalar.
    let scales = match weights.scales.uniform() {
        Some(scale) if channels == 1 => PerAxis::Tensor(scale),
        Some(_) | None => weights.scales,
    };
    finish_linear(
        no_shift(params.buffer),
        IntegerOp::DepthwiseConv2D(op),
        &x,
        scales,
        params,
    )
}

/// Returns the integer form of a SeparableConv2D.
///
/// ```text
/// a   = saturate(sum x * depthwise); acc = saturate(saturate(sum a * pointwise) + bias)
/// scales = fl(depthwise scale * pointwise scales)
/// ```
///
/// The depthwise kernel, `[height, width, channels, 1]`, is quantized per-tensor; `params` speak
/// of the pointwise one, `[1, 1, channels, filters]`. NUMERICS.md: N17.
///
/// # Errors
///
/// Inputs with float scales, and what [`conv2d`] refuses.
pub fn separable_conv2d(
    input: &QFormat,
    [depthwise, pointwise]: [&Array4<f32>; 2],
    depthwise_quantizer: WeightQuantizer,
    (padding, strides, dilation): (Padding, [usize; 2], [usize; 2]),
    params: &WeightedParams<'_>,
) -> Result<IntegerLayer, NumericsError> {
    expect_fixed_point(input)?;
    let (entry, x) = enter(input, params.buffer)?;
    let dw = depthwise_quantizer.quantize(&depthwise.clone().into_dyn(), WeightAxis::PerTensor)?;
    let pw = params
        .weight_quantizer
        .quantize(&pointwise.clone().into_dyn(), params.axis)?;
    let (_, _, channels, filters) = pointwise.dim();
    expect_filters(&pw.scales, filters)?;
    let depthwise = depthwise_op(dw.values, padding, strides, dilation)?;
    let (kh, kw, _) = depthwise.kernel.dim();
    check_accumulator(x.value_bits, depthwise_quantizer.value_bits(), kh * kw)?;
    check_accumulator(x.value_bits, params.weight_quantizer.value_bits(), channels)?;
    let pointwise = reshape2(pw.values, channels, filters)?;
    let op = IntegerOp::SeparableConv2D {
        depthwise,
        pointwise,
    };
    let scales = dw.scales.zip(&pw.scales, |d, p| d * p);
    finish_linear(entry, op, &x, scales, params)
}

/// Returns the integer form of a Dense with kernel `[channels, units]`. NUMERICS.md: N18.
///
/// # Errors
///
/// As [`conv2d`].
pub fn dense(
    input: &QFormat,
    kernel: &Array2<f32>,
    params: &WeightedParams<'_>,
) -> Result<IntegerLayer, NumericsError> {
    let (entry, x) = enter(input, params.buffer)?;
    expect_scalar_scale(&x)?;
    let QuantizedWeights { values, scales } = params
        .weight_quantizer
        .quantize(&kernel.clone().into_dyn(), params.axis)?;
    let (channels, units) = kernel.dim();
    expect_filters(&scales, units)?;
    check_accumulator(x.value_bits, params.weight_quantizer.value_bits(), channels)?;
    let op = IntegerOp::Dense {
        kernel: reshape2(values, channels, units)?,
    };
    finish_linear(entry, op, &x, scales, params)
}

/// Returns the integer form of a StatefulProjection with kernel `[channels, units]`: a Dense on
/// every `subsample`-th time step of `[time, channels]`, the last of each group.
///
/// NUMERICS.md: N28.
///
/// # Errors
///
/// A `subsample` of 0, and what [`dense`] refuses.
pub fn stateful_projection(
    input: &QFormat,
    kernel: &Array2<f32>,
    subsample: usize,
    params: &WeightedParams<'_>,
) -> Result<IntegerLayer, NumericsError> {
    if subsample == 0 {
        return Err(NumericsError::Invalid("a subsample of 0".to_owned()));
    }
    let mut layer = dense(input, kernel, params)?;
    if let IntegerOp::Dense { kernel } = layer.op {
        layer.op = IntegerOp::StatefulProjection { kernel, subsample };
    }
    Ok(layer)
}

/// Returns the integers of a padding value at the binary point of the inputs.
fn padding_value(
    values: &[f32],
    quantizer: AlignedWeightQuantizer,
    x: &QFormat,
) -> Result<PerAxis<i64>, NumericsError> {
    if x.scales.is_none() {
        return Err(NumericsError::Invalid(
            "a padding value needs inputs with scales (a Rescaling or an InputQuantizer)"
                .to_owned(),
        ));
    }
    let values = match values {
        [value] => PerAxis::Tensor(*value),
        values => PerAxis::Axis(values.to_vec()),
    };
    Ok(quantizer.quantize(&values, x)?.aligned(x.value_bits))
}

fn depthwise_op(
    values: ArrayD<i32>,
    padding: Padding,
    strides: [usize; 2],
    dilation: [usize; 2],
) -> Result<DepthwiseOp, NumericsError> {
    Ok(DepthwiseOp {
        kernel: depthwise_kernel(values)?,
        strides,
        dilation,
        padding,
    })
}

/// Returns a depthwise kernel `[height, width, channels, 1]` without its last axis.
pub(super) fn depthwise_kernel(values: ArrayD<i32>) -> Result<Array3<i32>, NumericsError> {
    let kernel = rank4(values)?;
    let (kh, kw, channels, multiplier) = kernel.dim();
    if multiplier != 1 {
        return Err(NumericsError::Unsupported(format!(
            "a depth multiplier of {multiplier}"
        )));
    }
    kernel
        .into_shape_with_order((kh, kw, channels))
        .map_err(|e| NumericsError::Invalid(e.to_string()))
}

pub(super) fn rank4(values: ArrayD<i32>) -> Result<Array4<i32>, NumericsError> {
    values
        .into_dimensionality::<Ix4>()
        .map_err(|e| NumericsError::Invalid(e.to_string()))
}

pub(super) fn reshape2(
    values: ArrayD<i32>,
    rows: usize,
    cols: usize,
) -> Result<Array2<i32>, NumericsError> {
    values
        .into_shape_with_order((rows, cols))
        .map_err(|e| NumericsError::Invalid(e.to_string()))?
        .into_dimensionality::<Ix2>()
        .map_err(|e| NumericsError::Invalid(e.to_string()))
}
