//! The integer form of one layer, from its float weights and configuration.

use float_model::{Activation, Layer, ReLU, Rescaling, Shape, infer_shape, item_axis};
use quantizer_core::layers::{
    self, Channels, ConcatAxis, IntegerLayer, IntegerOp, PoolOp, TokenAxis,
};
use quantizer_core::{NumericsError, PerAxis, QFormat, ValueBits};

use super::quantizers::{aligned, buffer, output_quantizer};
use super::weighted::Setting;
use crate::QuantizedLayer;

/// Width of the entries of a look-up table, the sign included, where the configuration is silent.
const DEFAULT_TABLE_BITS: u8 = 14;

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
    let fused = layer.activation();
    if fused.is_some_and(|activation| activation != Activation::Linear) {
        return Err(NumericsError::Invalid("has a fused activation".to_owned()));
    }
    let output = output_quantizer(config.output_quantizer.as_ref(), ranges.as_ref())?;
    let output = output.as_ref();
    if let Layer::Add(add) = layer {
        let [left, right] = formats else {
            return Err(unsupported(&format!("an Add of {} inputs", formats.len())));
        };
        return layers::add([left, right], add.average, buffer(config, 1)?, output);
    }
    if let Layer::Concatenate { axis } = layer {
        return lower_concatenate(*axis, formats, shapes);
    }
    let x = sole(formats)?;
    let setting = Setting { config, x, output };
    match layer {
        Layer::Conv2D(conv) => setting.conv2d(conv),
        Layer::DepthwiseConv2D(conv) => setting.depthwise(conv),
        Layer::SeparableConv2D(conv) => setting.separable(conv),
        Layer::Conv2DTranspose(conv) => setting.transpose(conv),
        Layer::DepthwiseConv2DTranspose(conv) => setting.depthwise_transpose(conv),
        Layer::Dense(dense) => setting.dense(dense),
        Layer::StatefulProjection(projection) => setting.projection(projection),
        Layer::BufferTempConv(conv) => setting.frames(conv),
        Layer::DepthwiseBufferTempConv(conv) => setting.depthwise_frames(conv),
        Layer::StatefulRecurrent(recurrent) => setting.recurrent(recurrent),
        Layer::ReLU(relu) => lower_relu(*relu, setting),
        Layer::Activation(activation) => lower_activation(*activation, setting),
        Layer::MaxPool2D(pool) => {
            let op = PoolOp {
                pool_size: pool.pool_size,
                strides: pool.strides,
                padding: pool.padding,
            };
            Ok(layers::max_pool2d(x, op))
        }
        Layer::GlobalAveragePooling2D(gap) => {
            let area = area(shapes)?;
            layers::global_average_pooling2d(x, area, gap.keepdims, buffer(config, 0)?, output)
        }
        Layer::Rescaling(rescaling) => lower_rescaling(rescaling, x),
        Layer::Flatten => layers::flatten(x),
        Layer::Reshape { target_shape } => lower_reshape(target_shape, x, shapes),
        Layer::Permute { dims } => layers::permute(x, dims),
        Layer::ExtractToken { token, axis } => lower_token(*token, *axis, x, shapes),
        Layer::Dropout { .. } => Ok(layers::pass_through(x, IntegerOp::Identity)),
        Layer::Input(_)
        | Layer::Add(_)
        | Layer::Concatenate { .. }
        | Layer::BatchNormalization(_)
        | Layer::LeakyReLU { .. }
        | Layer::PReLU { .. }
        | Layer::AveragePool2D(_)
        | Layer::Softmax
        | Layer::Multiply
        | Layer::Subtract
        | Layer::ZeroPadding2D(_)
        | Layer::Volume(_)
        | Layer::UpSampling2D { .. } => {
            Err(unsupported(&format!("an integer {}", layer.class_name())))
        }
    }
}

fn lower_relu(relu: ReLU, setting: Setting<'_>) -> Result<IntegerLayer, NumericsError> {
    if relu.negative_slope != 0.0 || relu.threshold != 0.0 {
        return Err(unsupported("a ReLU with a slope or a threshold"));
    }
    let quantizer = aligned(&setting.config.max_value_quantizer)?;
    let params = layers::ReluParams {
        max_value: relu.max_value.map(|max| (max, quantizer)),
        buffer: buffer(setting.config, 0)?,
        output: setting.output,
    };
    layers::relu(setting.x, &params)
}

fn lower_activation(
    activation: Activation,
    setting: Setting<'_>,
) -> Result<IntegerLayer, NumericsError> {
    let has_table = matches!(
        activation,
        Activation::Gelu { .. }
            | Activation::Swish
            | Activation::HardSilu
            | Activation::LeakyRelu { .. }
    );
    if !has_table {
        return Err(unsupported(&format!("an integer {activation:?}")));
    }
    let bits = setting.config.lut_bitwidth.unwrap_or(DEFAULT_TABLE_BITS);
    let table_bits = ValueBits::new(bits.saturating_sub(1))?;
    let function = |x| activation.of_element(x).unwrap_or(f32::NAN);
    layers::look_up(setting.x, &function, table_bits, setting.output)
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
    let axis = match item_index(axis, a.len())? {
        index if index == a.len() => ConcatAxis::Channels,
        index => ConcatAxis::Leading(index),
    };
    let channels = [a, b].map(|shape| shape.last().copied().flatten());
    let [Some(a), Some(b)] = channels else {
        return Err(unsupported("a Concatenate of an open number of channels"));
    };
    layers::concatenate([left, right], [a, b], axis)
}

fn lower_reshape(
    target: &[isize],
    x: &QFormat,
    shapes: &[&Shape],
) -> Result<IntegerLayer, NumericsError> {
    let reshape = Layer::Reshape {
        target_shape: target.to_vec(),
    };
    let after = infer_shape("reshape", &reshape, shapes).ok();
    let after = after.and_then(|shape| shape.last().copied().flatten());
    let before = sole_shape(shapes)?.last().copied().flatten();
    let channels = if before.is_some() && before == after {
        Channels::Kept
    } else {
        Channels::Moved
    };
    layers::reshape(x, target, channels)
}

fn lower_token(
    token: usize,
    axis: isize,
    x: &QFormat,
    shapes: &[&Shape],
) -> Result<IntegerLayer, NumericsError> {
    let rank = sole_shape(shapes)?.len();
    let axis = match item_index(axis, rank)? {
        index if index == rank => TokenAxis::Channels(index),
        index => TokenAxis::Leading(index),
    };
    layers::extract_token(x, token, axis)
}

/// Returns an axis counted with the batch axis, for items of rank `rank`.
fn item_index(axis: isize, rank: usize) -> Result<usize, NumericsError> {
    item_axis("", axis, rank)
        .map(|index| index + 1)
        .map_err(|_| NumericsError::Invalid(format!("axis {axis} of items of rank {rank}")))
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
