//! Layers as JSON and weights, in the words of Keras 2.

use float_model::{Activation, Conv2DTranspose, Layer, Padding, StatefulProjection, Volume};
use ndarray::{Array, ArrayD, Dimension};
use quantizer_core::PerAxis;
use serde_json::{Map, Value, json};

/// Weights by name, in Keras' order.
type Weights = Vec<(&'static str, ArrayD<f32>)>;

/// Returns the configuration of a layer without its name, and its weights in Keras' order.
#[expect(clippy::wildcard_enum_match_arm, reason = "the others have no weights")]
#[expect(clippy::too_many_lines, reason = "one short arm a class")]
pub(crate) fn describe(layer: &Layer) -> (Map<String, Value>, Weights) {
    let mut weights = Weights::new();
    let config = match layer {
        Layer::Input(input) => {
            let shape: Vec<Option<usize>> = std::iter::once(None)
                .chain(input.shape.iter().copied())
                .collect();
            json!({ "batch_input_shape": shape, "dtype": input.dtype.name(),
                "sparse": false, "ragged": false })
        }
        Layer::Conv2D(conv) => {
            let (kh, kw, _, filters) = conv.kernel.dim();
            push(&mut weights, "kernel", Some(&conv.kernel));
            push(&mut weights, "bias", conv.bias.as_ref());
            let mut config = json!({ "filters": filters, "kernel_size": [kh, kw],
                "strides": conv.strides, "padding": padding(conv.padding),
                "data_format": "channels_last", "dilation_rate": conv.dilation,
                "groups": conv.groups, "use_bias": conv.bias.is_some() });
            if let Some(values) = &conv.padding_value {
                config["padding_value"] = json!(values);
            }
            config
        }
        Layer::DepthwiseConv2D(conv) | Layer::DepthwiseConv2DTranspose(conv) => {
            let (kh, kw, _, multiplier) = conv.kernel.dim();
            push(&mut weights, "depthwise_kernel", Some(&conv.kernel));
            push(&mut weights, "bias", conv.bias.as_ref());
            json!({ "kernel_size": [kh, kw], "strides": conv.strides,
                "padding": padding(conv.padding), "data_format": "channels_last",
                "dilation_rate": conv.dilation, "depth_multiplier": multiplier,
                "use_bias": conv.bias.is_some() })
        }
        Layer::Volume(volume) => match volume {
            Volume::Conv3D(conv) => {
                let (kt, kh, kw, _, filters) = conv.kernel.dim();
                push(&mut weights, "kernel", Some(&conv.kernel));
                push(&mut weights, "bias", conv.bias.as_ref());
                json!({ "filters": filters, "kernel_size": [kt, kh, kw],
                    "strides": conv.strides, "padding": padding(conv.padding),
                    "data_format": "channels_last", "dilation_rate": conv.dilation,
                    "groups": conv.groups, "use_bias": conv.bias.is_some() })
            }
            Volume::ZeroPadding3D(pads) => {
                json!({ "padding": pads, "data_format": "channels_last" })
            }
            Volume::AveragePool3D(pool) => json!({ "pool_size": pool.pool_size,
                "strides": pool.strides, "padding": "valid", "data_format": "channels_last" }),
        },
        Layer::SeparableConv2D(conv) => {
            let (kh, kw, _, multiplier) = conv.depthwise_kernel.dim();
            push(
                &mut weights,
                "depthwise_kernel",
                Some(&conv.depthwise_kernel),
            );
            push(
                &mut weights,
                "pointwise_kernel",
                Some(&conv.pointwise_kernel),
            );
            push(&mut weights, "bias", conv.bias.as_ref());
            json!({ "filters": conv.pointwise_kernel.dim().3, "kernel_size": [kh, kw],
                "strides": conv.strides, "padding": padding(conv.padding),
                "data_format": "channels_last", "dilation_rate": conv.dilation,
                "depth_multiplier": multiplier, "use_bias": conv.bias.is_some() })
        }
        Layer::Conv2DTranspose(conv) => transpose_config(conv, &mut weights),
        Layer::StatefulProjection(StatefulProjection { dense, subsample }) => {
            push(&mut weights, "kernel", Some(&dense.kernel));
            push(&mut weights, "bias", dense.bias.as_ref());
            json!({ "units": dense.kernel.ncols(), "use_bias": dense.bias.is_some(),
                "subsample": subsample })
        }
        Layer::BufferTempConv(conv) => {
            push(&mut weights, "kernel", Some(&conv.kernel));
            push(&mut weights, "bias", conv.bias.as_ref());
            json!({ "filters": conv.kernel.dim().3, "kernel_size": conv.n_frames,
                "use_bias": conv.bias.is_some() })
        }
        Layer::DepthwiseBufferTempConv(conv) => {
            push(&mut weights, "kernel", Some(&conv.kernel));
            push(&mut weights, "bias", conv.bias.as_ref());
            json!({ "kernel_size": conv.kernel.nrows(), "use_bias": conv.bias.is_some() })
        }
        Layer::StatefulRecurrent(recurrent) => {
            push(&mut weights, "A_real", Some(&recurrent.a_real));
            push(&mut weights, "A_imag", Some(&recurrent.a_imag));
            json!({})
        }
        Layer::Dense(dense) => {
            push(&mut weights, "kernel", Some(&dense.kernel));
            push(&mut weights, "bias", dense.bias.as_ref());
            json!({ "units": dense.kernel.ncols(), "use_bias": dense.bias.is_some() })
        }
        Layer::BatchNormalization(norm) => {
            push(&mut weights, "gamma", norm.gamma.as_ref());
            push(&mut weights, "beta", norm.beta.as_ref());
            push(&mut weights, "moving_mean", Some(&norm.mean));
            push(&mut weights, "moving_variance", Some(&norm.variance));
            json!({ "axis": [norm.axis], "epsilon": norm.epsilon,
                "center": norm.beta.is_some(), "scale": norm.gamma.is_some() })
        }
        Layer::PReLU { alpha } => {
            push(&mut weights, "alpha", Some(alpha));
            // Axes are counted with the batch axis.
            let axes = (1..).zip(alpha.shape()).filter(|(_, extent)| **extent == 1);
            let axes: Vec<usize> = axes.map(|(axis, _)| axis).collect();
            json!({ "shared_axes": axes })
        }
        other => plain_config(other),
    };
    let mut config = config.as_object().cloned().unwrap_or_default();
    if let Some(fused) = layer.activation() {
        config.extend(activation(fused));
    }
    (config, weights)
}

fn transpose_config(conv: &Conv2DTranspose, weights: &mut Weights) -> Value {
    let (kh, kw, filters, _) = conv.kernel.dim();
    push(weights, "kernel", Some(&conv.kernel));
    push(weights, "bias", conv.bias.as_ref());
    json!({ "filters": filters, "kernel_size": [kh, kw], "strides": conv.strides,
        "padding": padding(conv.padding), "data_format": "channels_last",
        "dilation_rate": conv.dilation, "output_padding": conv.output_padding,
        "use_bias": conv.bias.is_some() })
}

/// Returns the configuration of a layer without weights.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the others have no parameters"
)]
fn plain_config(layer: &Layer) -> Value {
    match layer {
        Layer::ReLU(relu) => json!({ "max_value": relu.max_value,
            "negative_slope": relu.negative_slope, "threshold": relu.threshold }),
        Layer::LeakyReLU { alpha } => json!({ "alpha": alpha }),
        Layer::Activation(function) => Value::Object(activation(*function)),
        Layer::MaxPool2D(pool) | Layer::AveragePool2D(pool) => json!({
            "pool_size": pool.pool_size, "strides": pool.strides,
            "padding": padding(pool.padding), "data_format": "channels_last" }),
        Layer::GlobalAveragePooling2D(gap) => {
            json!({ "keepdims": gap.keepdims, "data_format": "channels_last" })
        }
        Layer::Add(add) if add.average => json!({ "average": true }),
        Layer::Concatenate { axis } => json!({ "axis": axis }),
        Layer::Rescaling(rescaling) => {
            json!({ "scale": numbers(&rescaling.scale), "offset": numbers(&rescaling.offset) })
        }
        Layer::ZeroPadding2D(pads) => json!({
            "padding": [[pads.top, pads.bottom], [pads.left, pads.right]],
            "data_format": "channels_last" }),
        Layer::UpSampling2D { size } => json!({ "size": size, "interpolation": "nearest",
            "data_format": "channels_last" }),
        Layer::Reshape { target_shape } => json!({ "target_shape": target_shape }),
        Layer::Permute { dims } => json!({ "dims": dims }),
        Layer::ExtractToken { token, axis } => json!({ "token": token, "axis": axis }),
        Layer::Dropout { rate } => json!({ "rate": rate }),
        _ => json!({}),
    }
}

fn activation(function: Activation) -> Map<String, Value> {
    let name = match function {
        Activation::Linear => "linear",
        Activation::Relu => "relu",
        Activation::Relu6 => "relu6",
        // The approximation has no name in Keras: its files refuse it.
        Activation::Gelu { approximate } if approximate => "gelu_approximate",
        Activation::Gelu { .. } => "gelu",
        Activation::Swish => "swish",
        Activation::HardSilu => "hard_silu",
        Activation::LeakyRelu { .. } => "leaky_relu",
        Activation::Sigmoid => "sigmoid",
        Activation::HardSigmoid => "hard_sigmoid",
        Activation::Tanh => "tanh",
        Activation::Softmax => "softmax",
        Activation::LogSoftmax => "log_softmax",
        Activation::Softplus => "softplus",
        Activation::Softsign => "softsign",
        Activation::Elu => "elu",
        Activation::Selu => "selu",
        Activation::Exponential => "exponential",
        _ => "linear",
    };
    let mut config = Map::new();
    config.insert("activation".to_owned(), name.into());
    if let Activation::LeakyRelu { alpha } = function {
        config.insert("alpha".to_owned(), alpha.into());
    }
    config
}

fn push<D: Dimension>(weights: &mut Weights, name: &'static str, array: Option<&Array<f32, D>>) {
    weights.extend(array.map(|array| (name, array.clone().into_dyn())));
}

const fn padding(padding: Padding) -> &'static str {
    match padding {
        Padding::Same => "same",
        Padding::Valid => "valid",
    }
}

fn numbers(values: &PerAxis<f64>) -> Value {
    match values {
        PerAxis::Tensor(value) => json!(value),
        PerAxis::Axis(values) => json!(values),
    }
}
