//! Layers from their JSON and weights.

use float_model::{
    Add, BatchNormalization, BufferTempConv, Conv2D, Conv2DTranspose, Dense,
    DepthwiseBufferTempConv, DepthwiseConv2D, GlobalAveragePooling2D, Input, Layer, Pool2D, ReLU,
    Rescaling, SeparableConv2D, StatefulProjection, StatefulRecurrent,
};
use ndarray::Array1;
use serde_json::{Map, Value};

use super::activation::{activation, softmax};
use super::config::{self, Item};
use super::values::{
    axis, expect, expect_kernel, flag, integer, integers, invalid, narrowed, numbers, optional_f32,
    padding, pads, pair,
};
use super::volume;
use super::weights::Weights;

/// Why a layer is refused.
#[derive(Debug)]
pub(super) enum LayerRefused {
    Invalid(String),
    Unsupported(String),
}

pub(super) type Config = Map<String, Value>;
pub(super) type Result<T> = std::result::Result<T, LayerRefused>;

/// Classes that [`layer`] knows, by their names in files.
const KNOWN: [&str; 48] = [
    "InputLayer",
    "Conv2D",
    "Convolution2D",
    "PaddedConv2D",
    "DepthwiseConv2D",
    "DepthwiseConvolution2D",
    "SeparableConv2D",
    "SeparableConvolution2D",
    "Conv2DTranspose",
    "Convolution2DTranspose",
    "DepthwiseConv2DTranspose",
    "Dense",
    "BatchNormalization",
    "BatchNormalizationV1",
    "ReLU",
    "LeakyReLU",
    "PReLU",
    "Activation",
    "Softmax",
    "MaxPooling2D",
    "MaxPool2D",
    "AveragePooling2D",
    "AvgPool2D",
    "GlobalAveragePooling2D",
    "GlobalAvgPool2D",
    "Add",
    "Multiply",
    "Subtract",
    "Concatenate",
    "Rescaling",
    "ZeroPadding2D",
    "Conv3D",
    "Convolution3D",
    "ZeroPadding3D",
    "AveragePooling3D",
    "AvgPool3D",
    "UpSampling2D",
    "Flatten",
    "Reshape",
    "Permute",
    "ExtractToken",
    "StatefulProjection",
    "BufferTempConv",
    "DepthwiseBufferTempConv",
    "StatefulRecurrent",
    "Dropout",
    "SpatialDropout2D",
    "ActivityRegularization",
];

/// Returns whether [`layer`] knows a class.
pub(super) fn is_known(class: &str) -> bool {
    KNOWN.contains(&class)
}

/// Returns the layer of an item with its weights.
pub(super) fn layer(item: &Item, mut weights: Weights) -> Result<Layer> {
    let layer = build(&item.class, &item.config, &mut weights)?;
    weights.finish()?;
    Ok(layer)
}

#[expect(clippy::too_many_lines, reason = "one short arm a class")]
/// Returns the layer of a class; weights that it does not need stay.
pub(super) fn build(class: &str, config: &Config, weights: &mut Weights) -> Result<Layer> {
    if config.get("data_format").and_then(Value::as_str) == Some("channels_first") {
        return Err(LayerRefused::Unsupported("channels_first".to_owned()));
    }
    Ok(match class {
        "InputLayer" => {
            if !config::has_shape(config) {
                let message = "a model without an input shape".to_owned();
                return Err(LayerRefused::Unsupported(message));
            }
            let shape = config::batch_input_shape(config).ok_or_else(|| invalid("input shape"))?;
            Layer::Input(Input {
                shape,
                dtype: config::dtype(config).map_err(|name| {
                    LayerRefused::Unsupported(format!("an input of type {name}"))
                })?,
            })
        }
        "Conv2D" | "Convolution2D" | "PaddedConv2D" => Layer::Conv2D(conv2d(config, weights)?),
        "DepthwiseConv2D" | "DepthwiseConvolution2D" => {
            Layer::DepthwiseConv2D(depthwise(config, weights)?)
        }
        "DepthwiseConv2DTranspose" => Layer::DepthwiseConv2DTranspose(depthwise(config, weights)?),
        "SeparableConv2D" | "SeparableConvolution2D" => {
            Layer::SeparableConv2D(separable(config, weights)?)
        }
        "Conv2DTranspose" | "Convolution2DTranspose" => {
            Layer::Conv2DTranspose(transpose(config, weights)?)
        }
        "Dense" => Layer::Dense(dense(config, weights)?),
        "StatefulProjection" => Layer::StatefulProjection(StatefulProjection {
            dense: dense(config, weights)?,
            subsample: integer(config, "subsample", 1)?,
        }),
        "BufferTempConv" => Layer::BufferTempConv(frames(config, weights)?),
        "DepthwiseBufferTempConv" => {
            Layer::DepthwiseBufferTempConv(depthwise_frames(config, weights)?)
        }
        "StatefulRecurrent" => Layer::StatefulRecurrent(StatefulRecurrent {
            a_real: weights.vector("A_real")?,
            a_imag: weights.vector("A_imag")?,
        }),
        "ExtractToken" => Layer::ExtractToken {
            token: integer(config, "token", 0)?,
            axis: token_axis(config)?,
        },
        "BatchNormalization" | "BatchNormalizationV1" => {
            Layer::BatchNormalization(batch_normalization(config, weights)?)
        }
        "ReLU" => Layer::ReLU(ReLU {
            max_value: optional_f32(config, "max_value")?,
            negative_slope: optional_f32(config, "negative_slope")?.unwrap_or(0.0),
            threshold: optional_f32(config, "threshold")?.unwrap_or(0.0),
        }),
        "LeakyReLU" => {
            let alpha = optional_f32(config, "alpha")?.or(optional_f32(config, "negative_slope")?);
            Layer::LeakyReLU {
                alpha: alpha.unwrap_or(0.3),
            }
        }
        "PReLU" => Layer::PReLU {
            alpha: weights.any("alpha")?,
        },
        "Activation" => Layer::Activation(activation(config)?),
        "Softmax" => softmax(config)?,
        "MaxPooling2D" | "MaxPool2D" => Layer::MaxPool2D(pool(config)?),
        "AveragePooling2D" | "AvgPool2D" => Layer::AveragePool2D(pool(config)?),
        "GlobalAveragePooling2D" | "GlobalAvgPool2D" => {
            let keepdims = flag(config, "keepdims", false)?;
            Layer::GlobalAveragePooling2D(GlobalAveragePooling2D { keepdims })
        }
        "Add" => Layer::Add(Add {
            average: flag(config, "average", false)?,
        }),
        "Multiply" => Layer::Multiply,
        "Subtract" => Layer::Subtract,
        "Concatenate" => Layer::Concatenate {
            axis: axis(config)?,
        },
        "Rescaling" => Layer::Rescaling(Rescaling {
            scale: numbers(config, "scale", 1.0)?,
            offset: numbers(config, "offset", 0.0)?,
        }),
        "ZeroPadding2D" => Layer::ZeroPadding2D(pads(config)?),
        "Conv3D" | "Convolution3D" => Layer::Volume(volume::conv3d(config, weights)?),
        "ZeroPadding3D" => Layer::Volume(volume::pads(config)?),
        "AveragePooling3D" | "AvgPool3D" => Layer::Volume(volume::average_pool(config)?),
        "UpSampling2D" => up_sampling(config)?,
        "Flatten" => Layer::Flatten,
        "Reshape" => Layer::Reshape {
            target_shape: integers(config, "target_shape")?,
        },
        "Permute" => Layer::Permute {
            dims: permutation(config)?,
        },
        "Dropout" | "SpatialDropout2D" => Layer::Dropout {
            rate: optional_f32(config, "rate")?.unwrap_or(0.0),
        },
        "ActivityRegularization" => Layer::Dropout { rate: 0.0 },
        other => return Err(LayerRefused::Unsupported(format!("the class {other}"))),
    })
}

fn conv2d(config: &Config, weights: &mut Weights) -> Result<Conv2D> {
    let padding_value = match config.get("padding_value") {
        None | Some(Value::Null) => None,
        Some(_) => Some(narrowed(&numbers(config, "padding_value", 0.0)?)),
    };
    let kernel = weights.kernel("kernel")?;
    let (rows, cols, _, filters) = kernel.dim();
    expect_kernel(config, [rows, cols])?;
    expect(config, "filters", filters)?;
    Ok(Conv2D {
        kernel,
        bias: bias(config, weights)?,
        strides: pair(config, "strides", 1)?,
        padding: padding(config)?,
        dilation: pair(config, "dilation_rate", 1)?,
        groups: integer(config, "groups", 1)?,
        activation: activation(config)?,
        padding_value,
    })
}

fn dense(config: &Config, weights: &mut Weights) -> Result<Dense> {
    let kernel = weights.matrix("kernel")?;
    expect(config, "units", kernel.ncols())?;
    Ok(Dense {
        kernel,
        bias: bias(config, weights)?,
        activation: activation(config)?,
    })
}

fn frames(config: &Config, weights: &mut Weights) -> Result<BufferTempConv> {
    let kernel = weights.kernel("kernel")?;
    expect(config, "filters", kernel.dim().3)?;
    Ok(BufferTempConv {
        kernel,
        bias: temporal_bias(config, weights)?,
        n_frames: integer(config, "kernel_size", 0)?,
    })
}

fn depthwise_frames(config: &Config, weights: &mut Weights) -> Result<DepthwiseBufferTempConv> {
    let kernel = weights.matrix("kernel")?;
    expect(config, "kernel_size", kernel.nrows())?;
    Ok(DepthwiseBufferTempConv {
        kernel,
        bias: temporal_bias(config, weights)?,
    })
}

/// Returns the bias of a temporal convolution, which has none unless its configuration says so.
fn temporal_bias(config: &Config, weights: &mut Weights) -> Result<Option<Array1<f32>>> {
    weights.optional("bias", flag(config, "use_bias", false)?.into())
}

fn token_axis(config: &Config) -> Result<isize> {
    match config.get("axis") {
        None => Ok(1),
        Some(_) => axis(config),
    }
}

fn depthwise(config: &Config, weights: &mut Weights) -> Result<DepthwiseConv2D> {
    // Keras 3 calls it `kernel`.
    let name = if weights.has("kernel") {
        "kernel"
    } else {
        "depthwise_kernel"
    };
    let kernel = weights.kernel(name)?;
    let (rows, cols, _, multiplier) = kernel.dim();
    expect_kernel(config, [rows, cols])?;
    expect(config, "depth_multiplier", multiplier)?;
    Ok(DepthwiseConv2D {
        kernel,
        bias: bias(config, weights)?,
        strides: pair(config, "strides", 1)?,
        padding: padding(config)?,
        dilation: pair(config, "dilation_rate", 1)?,
        activation: activation(config)?,
    })
}

fn separable(config: &Config, weights: &mut Weights) -> Result<SeparableConv2D> {
    let depthwise_kernel = weights.kernel("depthwise_kernel")?;
    let pointwise_kernel = weights.kernel("pointwise_kernel")?;
    let (rows, cols, _, multiplier) = depthwise_kernel.dim();
    expect_kernel(config, [rows, cols])?;
    expect(config, "depth_multiplier", multiplier)?;
    expect(config, "filters", pointwise_kernel.dim().3)?;
    Ok(SeparableConv2D {
        depthwise_kernel,
        pointwise_kernel,
        bias: bias(config, weights)?,
        strides: pair(config, "strides", 1)?,
        padding: padding(config)?,
        dilation: pair(config, "dilation_rate", 1)?,
        activation: activation(config)?,
    })
}

fn transpose(config: &Config, weights: &mut Weights) -> Result<Conv2DTranspose> {
    let output_padding = match config.get("output_padding") {
        None | Some(Value::Null) => None,
        Some(_) => Some(pair(config, "output_padding", 0)?),
    };
    let kernel = weights.kernel("kernel")?;
    let (rows, cols, filters, _) = kernel.dim();
    expect_kernel(config, [rows, cols])?;
    expect(config, "filters", filters)?;
    Ok(Conv2DTranspose {
        kernel,
        bias: bias(config, weights)?,
        strides: pair(config, "strides", 1)?,
        padding: padding(config)?,
        output_padding,
        dilation: pair(config, "dilation_rate", 1)?,
        activation: activation(config)?,
    })
}

fn batch_normalization(config: &Config, weights: &mut Weights) -> Result<BatchNormalization> {
    let norm = BatchNormalization {
        gamma: weights.optional("gamma", flag(config, "scale", true)?.into())?,
        beta: weights.optional("beta", flag(config, "center", true)?.into())?,
        mean: weights.vector("moving_mean")?,
        variance: weights.vector("moving_variance")?,
        epsilon: optional_f32(config, "epsilon")?.unwrap_or(1e-3),
        axis: axis(config)?,
    };
    let n_channels = norm.mean.len();
    let others = [
        norm.gamma.as_ref(),
        norm.beta.as_ref(),
        Some(&norm.variance),
    ];
    if let Some(other) = others.into_iter().flatten().find(|v| v.len() != n_channels) {
        return Err(LayerRefused::Invalid(format!(
            "weights of {n_channels} and of {} channels",
            other.len()
        )));
    }
    match norm.variance.iter().find(|v| **v + norm.epsilon <= 0.0) {
        None => Ok(norm),
        Some(variance) => Err(LayerRefused::Invalid(format!(
            "`moving_variance` holds {variance}"
        ))),
    }
}

pub(super) fn bias(config: &Config, weights: &mut Weights) -> Result<Option<Array1<f32>>> {
    weights.optional("bias", flag(config, "use_bias", true)?.into())
}

fn pool(config: &Config) -> Result<Pool2D> {
    let pool_size = pair(config, "pool_size", 2)?;
    let strides = match config.get("strides") {
        None | Some(Value::Null) => pool_size,
        Some(_) => pair(config, "strides", 2)?,
    };
    Ok(Pool2D {
        pool_size,
        strides,
        padding: padding(config)?,
    })
}

fn permutation(config: &Config) -> Result<Vec<usize>> {
    let dims = integers(config, "dims")?.into_iter();
    dims.map(|d| usize::try_from(d).map_err(|_| invalid("dims")))
        .collect()
}

fn up_sampling(config: &Config) -> Result<Layer> {
    match config.get("interpolation").and_then(Value::as_str) {
        None | Some("nearest") => Ok(Layer::UpSampling2D {
            size: pair(config, "size", 2)?,
        }),
        Some(other) => Err(LayerRefused::Unsupported(format!("{other} interpolation"))),
    }
}
