//! From float weights to integer layers.

use ndarray::{Array2, Array3, Array4, ArrayD, Ix2, Ix4};

use super::{Border, ConvOp, DepthwiseOp, EntryStage, IntegerLayer, IntegerOp, PoolOp};
use crate::bits::ValueBits;
use crate::counters::Stage;
use crate::geometry::Padding;
use crate::quantizers::{
    AlignedWeightQuantizer, OutputQuantizer, QuantizedWeights, WeightAxis, WeightQuantizer,
};
use crate::tensor::{common_point, int_to_f32, rescale_shift};
use crate::{NumericsError, PerAxis, QFormat};

/// Quantization of a layer with weights.
#[derive(Clone, Debug)]
pub struct WeightedParams<'a> {
    /// Quantizer of the kernel.
    pub weight_quantizer: WeightQuantizer,
    /// Which axis of the kernel has its own scales.
    pub axis: WeightAxis,
    /// Float bias, one entry an output channel, and its quantizer.
    pub bias: Option<(&'a [f32], AlignedWeightQuantizer)>,
    /// Value bits of inputs and sums.
    pub buffer: ValueBits,
    /// The output quantizer.
    pub output: Option<&'a OutputQuantizer>,
}

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
    super::check_accumulator(
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
    super::check_accumulator(x.value_bits, params.weight_quantizer.value_bits(), kh * kw)?;
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
    super::check_accumulator(x.value_bits, depthwise_quantizer.value_bits(), kh * kw)?;
    super::check_accumulator(x.value_bits, params.weight_quantizer.value_bits(), channels)?;
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
    super::check_accumulator(x.value_bits, params.weight_quantizer.value_bits(), channels)?;
    let op = IntegerOp::Dense {
        kernel: reshape2(values, channels, units)?,
    };
    finish_linear(entry, op, &x, scales, params)
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
        None,
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
    finish(vec![entry], op, None, x.with_scales(scales), output)
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
    finish(entries, IntegerOp::Add, None, inner, output)
}

/// Returns the integer form of a Concatenate on the last axis of two FixedPoint inputs of
/// `channels` channels each.
///
/// Integers pass unchanged; the result has the larger width. NUMERICS.md: N25.
///
/// # Errors
///
/// Inputs with scales.
pub fn concatenate(
    [left, right]: [&QFormat; 2],
    channels: [usize; 2],
) -> Result<IntegerLayer, NumericsError> {
    expect_fixed_point(left)?;
    expect_fixed_point(right)?;
    let value_bits = left.value_bits.max(right.value_bits);
    let spread = |x: &QFormat, n: usize| {
        (0..n)
            .map(|c| x.frac_bits.at(c.min(x.frac_bits.n_values() - 1)))
            .collect::<Vec<_>>()
    };
    let mut frac_bits = spread(left, channels[0]);
    frac_bits.extend(spread(right, channels[1]));
    let inner = QFormat::fixed(value_bits, PerAxis::Axis(frac_bits));
    let entries = vec![no_shift(value_bits), no_shift(value_bits)];
    finish(entries, IntegerOp::Concatenate, None, inner, None)
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

/// Returns the integer form of a Flatten of a FixedPoint.
///
/// Channels with different binary points are first shifted left to the largest, within the
/// tensor's own width: they can saturate. NUMERICS.md: N24.
///
/// # Errors
///
/// Inputs with scales, a shift of the whole width.
pub fn flatten(input: &QFormat) -> Result<IntegerLayer, NumericsError> {
    expect_fixed_point(input)?;
    if input.has_common_point() {
        let point = common_point(&input.frac_bits);
        let format = QFormat::fixed(input.value_bits, point);
        return Ok(pass_through(&format, IntegerOp::Flatten));
    }
    let (mut entry, format) = expand(input, input.value_bits)?;
    entry.stage = Stage::FlattenAlign;
    finish(vec![entry], IntegerOp::Flatten, None, format, None)
}

/// Returns a layer that leaves format and integers alone.
#[must_use]
pub fn pass_through(input: &QFormat, op: IntegerOp) -> IntegerLayer {
    IntegerLayer {
        entries: vec![no_shift(input.value_bits)],
        op,
        bias: None,
        inner: input.clone(),
        output: None,
        format: input.clone(),
    }
}

/// Returns how an input enters a buffer: expanded if its channels differ, promoted otherwise.
fn enter(input: &QFormat, buffer: ValueBits) -> Result<(EntryStage, QFormat), NumericsError> {
    if input.is_per_tensor() {
        return Ok((no_shift(buffer), input.promote(buffer)?));
    }
    expand(input, buffer)
}

fn expand(input: &QFormat, buffer: ValueBits) -> Result<(EntryStage, QFormat), NumericsError> {
    input.promote(buffer)?;
    let point = common_point(&input.frac_bits);
    let shift = rescale_shift(&input.frac_bits, &point, buffer)?.map(i32::unsigned_abs);
    let entry = EntryStage {
        stage: Stage::InputExpand,
        shift,
        value_bits: buffer,
    };
    let format = QFormat {
        value_bits: buffer,
        frac_bits: point,
        scales: input.scales.clone(),
    };
    Ok((entry, format))
}

const fn no_shift(value_bits: ValueBits) -> EntryStage {
    EntryStage {
        stage: Stage::InputExpand,
        shift: PerAxis::Tensor(0),
        value_bits,
    }
}

/// Adds bias and output quantizer to an operation with weights.
fn finish_linear(
    entry: EntryStage,
    op: IntegerOp,
    x: &QFormat,
    kernel_scales: PerAxis<f32>,
    params: &WeightedParams<'_>,
) -> Result<IntegerLayer, NumericsError> {
    let scales = match &x.scales {
        None => kernel_scales,
        Some(scales) => scales.zip(&kernel_scales, |x, k| x * k),
    };
    let inner = x.with_scales(scales);
    let bias = match params.bias {
        None => None,
        Some((bias, quantizer)) => Some(quantizer.quantize(&PerAxis::Axis(bias.to_vec()), &inner)?),
    };
    let mut layer = finish(vec![entry], op, None, inner, params.output)?;
    layer.bias = bias;
    Ok(layer)
}

fn finish(
    entries: Vec<EntryStage>,
    op: IntegerOp,
    bias: Option<crate::quantizers::AlignedWeights>,
    inner: QFormat,
    output: Option<&OutputQuantizer>,
) -> Result<IntegerLayer, NumericsError> {
    let (output, format) = match output {
        None => (None, inner.clone()),
        Some(quantizer) => {
            let (stage, format) = quantizer.prepare(&inner)?;
            (Some(stage), format)
        }
    };
    Ok(IntegerLayer {
        entries,
        op,
        bias,
        inner,
        output,
        format,
    })
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
    let kernel = rank4(values)?;
    let (kh, kw, channels, multiplier) = kernel.dim();
    if multiplier != 1 {
        return Err(NumericsError::Unsupported(format!(
            "a depth multiplier of {multiplier}"
        )));
    }
    let kernel: Array3<i32> = kernel
        .into_shape_with_order((kh, kw, channels))
        .map_err(|e| NumericsError::Invalid(e.to_string()))?;
    Ok(DepthwiseOp {
        kernel,
        strides,
        dilation,
        padding,
    })
}

fn rank4(values: ArrayD<i32>) -> Result<Array4<i32>, NumericsError> {
    values
        .into_dimensionality::<Ix4>()
        .map_err(|e| NumericsError::Invalid(e.to_string()))
}

fn reshape2(values: ArrayD<i32>, rows: usize, cols: usize) -> Result<Array2<i32>, NumericsError> {
    values
        .into_shape_with_order((rows, cols))
        .map_err(|e| NumericsError::Invalid(e.to_string()))?
        .into_dimensionality::<Ix2>()
        .map_err(|e| NumericsError::Invalid(e.to_string()))
}

fn expect_fixed_point(input: &QFormat) -> Result<(), NumericsError> {
    if input.scales.is_some() {
        return Err(NumericsError::Invalid(
            "its input still has float scales: the layer before needs an output_quantizer"
                .to_owned(),
        ));
    }
    Ok(())
}

fn expect_scalar_scale(x: &QFormat) -> Result<(), NumericsError> {
    if x.scales
        .as_ref()
        .is_some_and(|scales| !scales.is_per_tensor())
    {
        return Err(NumericsError::Invalid(
            "its input has a scale for each channel: the layer before needs an output_quantizer"
                .to_owned(),
        ));
    }
    Ok(())
}

fn expect_filters(scales: &PerAxis<f32>, filters: usize) -> Result<(), NumericsError> {
    let n_scales = scales.n_values();
    if n_scales == 1 || n_scales == filters {
        return Ok(());
    }
    Err(NumericsError::Invalid(format!(
        "a weight axis with {n_scales} scales for {filters} output channels"
    )))
}
