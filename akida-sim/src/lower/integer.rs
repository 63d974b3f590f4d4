//! The integer form of one layer, from its float weights and configuration.

use config_schema::{
    AlignedQuantizerConfig, LayerConfig, OutputQuantizerConfig, WeightQuantizerConfig,
};
use float_model::{
    Activation, Conv2D, Dense, DepthwiseConv2D, Layer, Rescaling, SeparableConv2D, Shape,
};
use quantizer_core::layers::{self, FloatBorder, IntegerLayer, IntegerOp, PoolOp, WeightedParams};
use quantizer_core::quantizers::{
    AlignedWeightQuantizer, OutputQuantizer, WeightAxis, WeightQuantizer,
};
use quantizer_core::{BitWidth, NumericsError, PerAxis, QFormat, Sign, ValueBits};

use crate::{OutputRanges, QuantizedLayer};

/// Widest buffer of a layer with a single accumulator (NUMERICS.md: N15).
const MAX_WEIGHTED_BUFFER: u8 = 28;

/// Returns the integer form of `quantized` for inputs of `formats` and `shapes`.
pub(super) fn lower_layer(
    quantized: &QuantizedLayer,
    formats: &[QFormat],
    shapes: &[&Shape],
) -> Result<IntegerLayer, NumericsError> {
    let QuantizedLayer {
        layer,
        config,
        ranges,
        ..
    } = quantized;
    if layer
        .activation()
        .is_some_and(|activation| activation != Activation::Linear)
    {
        return Err(NumericsError::Invalid("has a fused activation".to_owned()));
    }
    let output = output_quantizer(config.output_quantizer.as_ref(), ranges.as_ref())?;
    let output = output.as_ref();
    let x = sole(formats);
    match layer {
        Layer::Conv2D(conv) => lower_conv2d(conv, config, x?, output),
        Layer::DepthwiseConv2D(conv) => lower_depthwise(conv, config, x?, output),
        Layer::SeparableConv2D(conv) => lower_separable(conv, config, x?, output),
        Layer::Dense(dense) => lower_dense(dense, config, x?, output),
        Layer::ReLU(relu) => {
            if relu.negative_slope != 0.0 || relu.threshold != 0.0 {
                return Err(unsupported("a ReLU with a slope or a threshold"));
            }
            let quantizer = aligned(&config.max_value_quantizer)?;
            let params = layers::ReluParams {
                max_value: relu.max_value.map(|max| (max, quantizer)),
                buffer: buffer(config, 0)?,
                output,
            };
            layers::relu(x?, &params)
        }
        Layer::MaxPool2D(pool) => {
            let op = PoolOp {
                pool_size: pool.pool_size,
                strides: pool.strides,
                padding: pool.padding,
            };
            Ok(layers::max_pool2d(x?, op))
        }
        Layer::GlobalAveragePooling2D(gap) => {
            let area = area(shapes)?;
            layers::global_average_pooling2d(x?, area, gap.keepdims, buffer(config, 0)?, output)
        }
        Layer::Add(add) => match formats {
            [left, right] => layers::add([left, right], add.average, buffer(config, 1)?, output),
            formats => Err(unsupported(&format!("an Add of {} inputs", formats.len()))),
        },
        Layer::Concatenate { axis } => lower_concatenate(*axis, formats, shapes),
        Layer::Rescaling(rescaling) => lower_rescaling(rescaling, x?),
        Layer::Flatten => layers::flatten(x?),
        Layer::Reshape { target_shape } => lower_reshape(target_shape, x?, shapes),
        Layer::Dropout { .. } => Ok(layers::pass_through(x?, IntegerOp::Identity)),
        Layer::Input(_)
        | Layer::Conv2DTranspose(_)
        | Layer::DepthwiseConv2DTranspose(_)
        | Layer::BatchNormalization(_)
        | Layer::LeakyReLU { .. }
        | Layer::PReLU { .. }
        | Layer::Activation(_)
        | Layer::AveragePool2D(_)
        | Layer::Multiply
        | Layer::Subtract
        | Layer::ZeroPadding2D(_)
        | Layer::UpSampling2D { .. }
        | Layer::Permute { .. } => Err(unsupported(&format!("an integer {}", layer.class_name()))),
    }
}

fn lower_conv2d(
    conv: &Conv2D,
    config: &LayerConfig,
    x: &QFormat,
    output: Option<&OutputQuantizer>,
) -> Result<IntegerLayer, NumericsError> {
    if conv.groups != 1 {
        return Err(unsupported(&format!(
            "a convolution in {} groups",
            conv.groups
        )));
    }
    let weights = config.weight_quantizer.as_ref();
    let (quantizer, axis, bitwidth) = weight_quantizer(weights, 4)?;
    let border = match &conv.padding_value {
        None => FloatBorder::Zero(conv.padding),
        // The border takes the bit width of the weights.
        Some(values) => {
            FloatBorder::Value(values, AlignedWeightQuantizer::new(bitwidth, Sign::Signed)?)
        }
    };
    let bias = conv.bias.as_ref().map(|bias| bias.to_vec());
    let params = WeightedParams {
        weight_quantizer: quantizer,
        axis,
        bias: with_quantizer(bias.as_deref(), config)?,
        buffer: weighted_buffer(config)?,
        output,
    };
    layers::conv2d(
        x,
        &conv.kernel,
        &border,
        [conv.strides, conv.dilation],
        &params,
    )
}

fn lower_depthwise(
    conv: &DepthwiseConv2D,
    config: &LayerConfig,
    x: &QFormat,
    output: Option<&OutputQuantizer>,
) -> Result<IntegerLayer, NumericsError> {
    let (quantizer, axis, _) = weight_quantizer(config.weight_quantizer.as_ref(), 4)?;
    let bias = conv.bias.as_ref().map(|bias| bias.to_vec());
    let params = WeightedParams {
        weight_quantizer: quantizer,
        axis,
        bias: with_quantizer(bias.as_deref(), config)?,
        buffer: weighted_buffer(config)?,
        output,
    };
    let steps = [conv.strides, conv.dilation];
    layers::depthwise_conv2d(x, &conv.kernel, conv.padding, steps, &params)
}

fn lower_separable(
    conv: &SeparableConv2D,
    config: &LayerConfig,
    x: &QFormat,
    output: Option<&OutputQuantizer>,
) -> Result<IntegerLayer, NumericsError> {
    let (depthwise, _, _) = weight_quantizer(config.dw_weight_quantizer.as_ref(), 4)?;
    let (pointwise, axis, _) = weight_quantizer(config.pw_weight_quantizer.as_ref(), 4)?;
    let bias = conv.bias.as_ref().map(|bias| bias.to_vec());
    let params = WeightedParams {
        weight_quantizer: pointwise,
        axis,
        bias: with_quantizer(bias.as_deref(), config)?,
        buffer: buffer(config, 1)?,
        output,
    };
    let kernels = [&conv.depthwise_kernel, &conv.pointwise_kernel];
    let window = (conv.padding, conv.strides, conv.dilation);
    layers::separable_conv2d(x, kernels, depthwise, window, &params)
}

fn lower_dense(
    dense: &Dense,
    config: &LayerConfig,
    x: &QFormat,
    output: Option<&OutputQuantizer>,
) -> Result<IntegerLayer, NumericsError> {
    let (quantizer, axis, _) = weight_quantizer(config.weight_quantizer.as_ref(), 2)?;
    let bias = dense.bias.as_ref().map(|bias| bias.to_vec());
    let params = WeightedParams {
        weight_quantizer: quantizer,
        axis,
        bias: with_quantizer(bias.as_deref(), config)?,
        buffer: weighted_buffer(config)?,
        output,
    };
    layers::dense(x, &dense.kernel, &params)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the one rounding to float32"
)]
fn lower_rescaling(rescaling: &Rescaling, x: &QFormat) -> Result<IntegerLayer, NumericsError> {
    let PerAxis::Tensor(scale) = rescaling.scale else {
        return Err(unsupported("a Rescaling with a scale for each channel"));
    };
    if rescaling
        .offset
        .as_slice()
        .iter()
        .any(|offset| *offset != 0.0)
    {
        return Err(unsupported("a Rescaling with an offset"));
    }
    Ok(layers::rescaling(x, scale as f32))
}

fn lower_concatenate(
    axis: isize,
    formats: &[QFormat],
    shapes: &[&Shape],
) -> Result<IntegerLayer, NumericsError> {
    let ([left, right], [a, b]) = (formats, shapes) else {
        return Err(unsupported(&format!(
            "a Concatenate of {} inputs",
            formats.len()
        )));
    };
    let is_last = axis == -1 || usize::try_from(axis).is_ok_and(|axis| axis == a.len());
    if !is_last {
        return Err(unsupported(&format!("a Concatenate on axis {axis}")));
    }
    let channels = [a, b].map(|shape| shape.last().copied().flatten());
    let [Some(a), Some(b)] = channels else {
        return Err(unsupported("a Concatenate of an open number of channels"));
    };
    layers::concatenate([left, right], [a, b])
}

fn lower_reshape(
    target: &[isize],
    x: &QFormat,
    shapes: &[&Shape],
) -> Result<IntegerLayer, NumericsError> {
    let channels = sole_shape(shapes)?.last().copied().flatten();
    let kept =
        channels.is_some_and(|c| target.last().is_some_and(|t| usize::try_from(*t) == Ok(c)));
    let per_axis = !x.has_common_point() || x.scales.as_ref().is_some_and(|s| s.n_values() > 1);
    if per_axis && !kept {
        return Err(NumericsError::Invalid(
            "a Reshape that moves channels needs a per-tensor input".to_owned(),
        ));
    }
    Ok(layers::pass_through(
        x,
        IntegerOp::Reshape {
            target_shape: target.to_vec(),
        },
    ))
}

fn output_quantizer(
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

/// Returns the quantizer of a kernel of rank `rank`, its axis and its width.
fn weight_quantizer(
    config: Option<&WeightQuantizerConfig>,
    rank: usize,
) -> Result<(WeightQuantizer, WeightAxis, BitWidth), NumericsError> {
    let config =
        config.ok_or_else(|| NumericsError::Invalid("has no weight_quantizer".to_owned()))?;
    if config.fp_quantizer || !config.signed {
        return Err(unsupported(
            "a weight_quantizer with fp_quantizer or without sign",
        ));
    }
    let bitwidth = BitWidth::new(config.bitwidth)?;
    let axis = match config.axis {
        None => WeightAxis::PerTensor,
        Some(axis) => WeightAxis::Axis(axis_index(axis, rank)?),
    };
    Ok((WeightQuantizer::new(bitwidth)?, axis, bitwidth))
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

fn aligned(config: &AlignedQuantizerConfig) -> Result<AlignedWeightQuantizer, NumericsError> {
    let sign = if config.signed {
        Sign::Signed
    } else {
        Sign::Unsigned
    };
    AlignedWeightQuantizer::new(BitWidth::new(config.bitwidth)?, sign)
}

fn with_quantizer<'a>(
    bias: Option<&'a [f32]>,
    config: &LayerConfig,
) -> Result<Option<(&'a [f32], AlignedWeightQuantizer)>, NumericsError> {
    match bias {
        None => Ok(None),
        Some(bias) => Ok(Some((bias, aligned(&config.bias_quantizer)?))),
    }
}

/// Returns the buffer width of the configuration less `sign_bits`, as value bits.
fn buffer(config: &LayerConfig, sign_bits: u8) -> Result<ValueBits, NumericsError> {
    ValueBits::new(
        config
            .buffer_bitwidth
            .unwrap_or(32)
            .saturating_sub(sign_bits),
    )
}

/// Returns the value bits of a buffer that is capped at 28 bits, sign included.
fn weighted_buffer(config: &LayerConfig) -> Result<ValueBits, NumericsError> {
    let bits = config
        .buffer_bitwidth
        .unwrap_or(32)
        .min(MAX_WEIGHTED_BUFFER);
    ValueBits::new(bits.saturating_sub(1))
}

fn area(shapes: &[&Shape]) -> Result<u32, NumericsError> {
    let [Some(h), Some(w), _] = sole_shape(shapes)?.as_slice() else {
        return Err(unsupported("an average over an image of open extents"));
    };
    u32::try_from(h.saturating_mul(*w))
        .map_err(|_| NumericsError::Invalid(format!("an average over {h} x {w} pixels")))
}

fn sole(formats: &[QFormat]) -> Result<&QFormat, NumericsError> {
    match formats {
        [format] => Ok(format),
        formats => Err(NumericsError::Invalid(format!(
            "takes {} inputs",
            formats.len()
        ))),
    }
}

fn sole_shape<'a>(shapes: &[&'a Shape]) -> Result<&'a Shape, NumericsError> {
    match shapes {
        [shape] => Ok(shape),
        shapes => Err(NumericsError::Invalid(format!(
            "takes {} inputs",
            shapes.len()
        ))),
    }
}

fn unsupported(what: &str) -> NumericsError {
    NumericsError::Unsupported(what.to_owned())
}
