//! The layers of a float network, with their weights.
//!
//! Names, fields and weight layouts are those of Keras, channels last.

use ndarray::{Array1, Array2, Array4};
use quantizer_core::PerAxis;
use quantizer_core::geometry::{Padding, Pads};

use crate::{Shape, Volume};

/// One layer with its parameters and float weights.
#[derive(Clone, Debug, PartialEq)]
pub enum Layer {
    /// An entry of the network.
    Input(Input),
    /// 2-D convolution.
    Conv2D(Conv2D),
    /// 2-D convolution of each channel with its own kernel.
    DepthwiseConv2D(DepthwiseConv2D),
    /// Depthwise convolution followed by a pointwise one.
    SeparableConv2D(SeparableConv2D),
    /// Transposed 2-D convolution.
    Conv2DTranspose(Conv2DTranspose),
    /// Transposed 2-D convolution of each channel with its own kernel (a QuantizeML layer).
    DepthwiseConv2DTranspose(DepthwiseConv2D),
    /// Matrix product on the last axis.
    Dense(Dense),
    /// Matrix product on some of the time steps (a QuantizeML layer).
    StatefulProjection(StatefulProjection),
    /// Pointwise convolution of the last frames of a sequence (a QuantizeML layer).
    BufferTempConv(BufferTempConv),
    /// Sum over the last frames of a sequence, each channel on its own (a QuantizeML layer).
    DepthwiseBufferTempConv(DepthwiseBufferTempConv),
    /// Complex linear recurrence over time steps (a QuantizeML layer).
    StatefulRecurrent(StatefulRecurrent),
    /// Normalization with stored statistics.
    BatchNormalization(BatchNormalization),
    /// Rectifier, with optional clip, slope and threshold.
    ReLU(ReLU),
    /// `x` where positive, `alpha * x` elsewhere.
    LeakyReLU {
        /// Slope of the negative side.
        alpha: f32,
    },
    /// `x` where positive, `alpha * x` elsewhere, `alpha` trained.
    PReLU {
        /// Slopes, broadcast against an item of the batch.
        alpha: ndarray::ArrayD<f32>,
    },
    /// A function of each element, or softmax over the last axis.
    Activation(Activation),
    /// Softmax over the last axis: Keras' own class for what [`Activation::Softmax`] computes.
    Softmax,
    /// Maximum over a sliding window.
    MaxPool2D(Pool2D),
    /// Mean over a sliding window; padding does not count.
    AveragePool2D(Pool2D),
    /// Mean over height and width.
    GlobalAveragePooling2D(GlobalAveragePooling2D),
    /// Sum, or mean, of the inputs.
    Add(Add),
    /// Product of the inputs, element by element.
    Multiply,
    /// First input minus the second.
    Subtract,
    /// Inputs one after another along an axis.
    Concatenate {
        /// Axis, counted with the batch axis; negative from the end.
        axis: isize,
    },
    /// `x * scale + offset`.
    Rescaling(Rescaling),
    /// Zeros around height and width.
    ZeroPadding2D(Pads),
    /// A layer over clips, `[time, height, width, channels]`.
    Volume(Volume),
    /// Each pixel repeated (nearest neighbour).
    UpSampling2D {
        /// Repetitions of rows and columns.
        size: [usize; 2],
    },
    /// One vector an item, row-major.
    Flatten,
    /// Same elements, other extents.
    Reshape {
        /// Extents without the batch; at most one is -1.
        target_shape: Vec<isize>,
    },
    /// Axes in another order.
    Permute {
        /// 1-based axes of an item, as in Keras.
        dims: Vec<usize>,
    },
    /// One index of an axis, which disappears (a QuantizeML layer).
    ExtractToken {
        /// The index.
        token: usize,
        /// Axis, counted with the batch axis; negative from the end.
        axis: isize,
    },
    /// Identity at inference.
    Dropout {
        /// Share of elements dropped in training.
        rate: f32,
    },
}

/// An entry of the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Extents of one item, `None` where the model leaves it open.
    pub shape: Shape,
    /// Element type that the model declares.
    pub dtype: Dtype,
}

/// Element type of a model input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit float (also read from half and double precision policies).
    Float32,
    /// Unsigned 8-bit integer.
    UInt8,
    /// Signed 8-bit integer.
    Int8,
    /// Unsigned 16-bit integer.
    UInt16,
    /// Signed 16-bit integer.
    Int16,
    /// Signed 32-bit integer.
    Int32,
}

impl Dtype {
    /// Returns whether the elements are integers.
    #[must_use]
    pub const fn is_integer(self) -> bool {
        !matches!(self, Self::Float32)
    }

    /// Returns the least and the largest integer, as floats (those of `int32` are rounded);
    /// `None` for floats.
    #[must_use]
    pub const fn limits(self) -> Option<(f32, f32)> {
        match self {
            Self::Float32 => None,
            Self::UInt8 => Some((0.0, 255.0)),
            Self::Int8 => Some((-128.0, 127.0)),
            Self::UInt16 => Some((0.0, 65_535.0)),
            Self::Int16 => Some((-32_768.0, 32_767.0)),
            Self::Int32 => Some((-65_536.0 * 32_768.0, 65_536.0 * 32_768.0)),
        }
    }

    /// Returns the NumPy name, such as `uint8`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::UInt8 => "uint8",
            Self::Int8 => "int8",
            Self::UInt16 => "uint16",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
        }
    }
}

/// 2-D convolution.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv2D {
    /// Kernel, `[height, width, channels / groups, filters]`.
    pub kernel: Array4<f32>,
    /// Bias, `[filters]`.
    pub bias: Option<Array1<f32>>,
    /// Strides of rows and columns.
    pub strides: [usize; 2],
    /// Border rule.
    pub padding: Padding,
    /// Distance of kernel cells, rows and columns.
    pub dilation: [usize; 2],
    /// Number of channel groups.
    pub groups: usize,
    /// Fused activation; split off before quantization.
    pub activation: Activation,
    /// `PaddedConv2D`: what the border holds instead of zeros, one value or one for each input
    /// channel. When present, [`Padding::Valid`] is stored, the border is that of
    /// [`Padding::Same`] without dilation (NUMERICS.md: N15), and the class is `PaddedConv2D`.
    pub padding_value: Option<Vec<f32>>,
}

/// Depthwise 2-D convolution, or its transposed twin.
#[derive(Clone, Debug, PartialEq)]
pub struct DepthwiseConv2D {
    /// Kernel, `[height, width, channels, depth_multiplier]`.
    pub kernel: Array4<f32>,
    /// Bias, `[channels * depth_multiplier]`.
    pub bias: Option<Array1<f32>>,
    /// Strides of rows and columns.
    pub strides: [usize; 2],
    /// Border rule.
    pub padding: Padding,
    /// Distance of kernel cells, rows and columns.
    pub dilation: [usize; 2],
    /// Fused activation; split off before quantization.
    pub activation: Activation,
}

/// Depthwise convolution followed by a 1x1 convolution.
#[derive(Clone, Debug, PartialEq)]
pub struct SeparableConv2D {
    /// Depthwise kernel, `[height, width, channels, depth_multiplier]`.
    pub depthwise_kernel: Array4<f32>,
    /// Pointwise kernel, `[1, 1, channels * depth_multiplier, filters]`.
    pub pointwise_kernel: Array4<f32>,
    /// Bias, `[filters]`.
    pub bias: Option<Array1<f32>>,
    /// Strides of rows and columns.
    pub strides: [usize; 2],
    /// Border rule.
    pub padding: Padding,
    /// Distance of kernel cells, rows and columns.
    pub dilation: [usize; 2],
    /// Fused activation; split off before quantization.
    pub activation: Activation,
}

/// Transposed 2-D convolution.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv2DTranspose {
    /// Kernel, `[height, width, filters, channels]`.
    pub kernel: Array4<f32>,
    /// Bias, `[filters]`.
    pub bias: Option<Array1<f32>>,
    /// Strides of rows and columns.
    pub strides: [usize; 2],
    /// Border rule.
    pub padding: Padding,
    /// Extra rows and columns of the output.
    pub output_padding: Option<[usize; 2]>,
    /// Distance of kernel cells, rows and columns.
    pub dilation: [usize; 2],
    /// Fused activation; split off before quantization.
    pub activation: Activation,
}

/// Matrix product on the last axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    /// Kernel, `[channels, units]`.
    pub kernel: Array2<f32>,
    /// Bias, `[units]`.
    pub bias: Option<Array1<f32>>,
    /// Fused activation; split off before quantization.
    pub activation: Activation,
}

/// Matrix product on every `subsample`-th time step, the last of each group.
#[derive(Clone, Debug, PartialEq)]
pub struct StatefulProjection {
    /// The product.
    pub dense: Dense,
    /// Time steps of a group.
    pub subsample: usize,
}

/// Pointwise convolution of the last frames of a sequence.
///
/// ```text
/// y[n] = bias + sum over t of x[n - n_frames + 1 + t] * kernel[t * channels ..]
/// ```
///
/// Frames before the first are zeros.
#[derive(Clone, Debug, PartialEq)]
pub struct BufferTempConv {
    /// Kernel, `[1, 1, n_frames * channels, filters]`, the oldest frame first.
    pub kernel: Array4<f32>,
    /// Bias, `[filters]`.
    pub bias: Option<Array1<f32>>,
    /// Frames that a window holds; `kernel_size` in files.
    pub n_frames: usize,
}

/// Sum over the last frames of a sequence, each channel on its own.
#[derive(Clone, Debug, PartialEq)]
pub struct DepthwiseBufferTempConv {
    /// Kernel, `[n_frames, channels]`, the oldest frame first.
    pub kernel: Array2<f32>,
    /// Bias, `[channels]`.
    pub bias: Option<Array1<f32>>,
}

/// Complex linear recurrence over the time steps of `[time, channels]`.
///
/// ```text
/// state[t] = a * state[t - 1] + x[t];  output [time, channels, 2]: real and imaginary parts
/// ```
///
/// The state is kept between the parts of a sequence, and is zero before the first.
#[derive(Clone, Debug, PartialEq)]
pub struct StatefulRecurrent {
    /// Real part of `a`, `[channels]`.
    pub a_real: Array1<f32>,
    /// Imaginary part of `a`, `[channels]`.
    pub a_imag: Array1<f32>,
}

/// `gamma * (x - mean) / sqrt(variance + epsilon) + beta` on one axis.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchNormalization {
    /// Gain, `[channels]`; `None` stands for ones (`scale=False`).
    pub gamma: Option<Array1<f32>>,
    /// Offset, `[channels]`; `None` stands for zeros (`center=False`).
    pub beta: Option<Array1<f32>>,
    /// Mean, `[channels]`.
    pub mean: Array1<f32>,
    /// Variance, `[channels]`.
    pub variance: Array1<f32>,
    /// Added to the variance.
    pub epsilon: f32,
    /// Axis counted with the batch axis; negative from the end.
    pub axis: isize,
}

/// Rectifier.
///
/// ```text
/// y = max_value                      where max_value is given and x >= max_value
///     x                              where x >= threshold
///     negative_slope * (x - threshold) elsewhere
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReLU {
    /// Upper clip.
    pub max_value: Option<f32>,
    /// Slope below the threshold.
    pub negative_slope: f32,
    /// Threshold.
    pub threshold: f32,
}

impl Default for ReLU {
    fn default() -> Self {
        Self {
            max_value: None,
            negative_slope: 0.0,
            threshold: 0.0,
        }
    }
}

/// A function of each element, or softmax over the last axis.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// Identity.
    Linear,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x * 0.5 * (1 + erf(x / sqrt 2))`, or its tanh approximation.
    Gelu {
        /// Whether the tanh approximation is meant.
        approximate: bool,
    },
    /// `x * sigmoid(x)`, also called silu.
    Swish,
    /// `x * clip(x + 3, 0, 6) / 6`.
    HardSilu,
    /// `x` where positive, `alpha * x` elsewhere.
    LeakyRelu {
        /// Slope of the negative side.
        alpha: f32,
    },
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `clip(0.2 x + 0.5, 0, 1)`, Keras 2's definition.
    HardSigmoid,
    /// Hyperbolic tangent.
    Tanh,
    /// `exp(x) / sum(exp(x))` over the last axis.
    Softmax,
    /// The logarithm of `Softmax`.
    LogSoftmax,
    /// `ln(1 + exp(x))`.
    Softplus,
    /// `x / (1 + |x|)`.
    Softsign,
    /// `x` where positive, `exp(x) - 1` elsewhere.
    Elu,
    /// Scaled elu.
    Selu,
    /// `exp(x)`.
    Exponential,
}

/// A sliding window over height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool2D {
    /// Extents of the window, rows and columns.
    pub pool_size: [usize; 2],
    /// Strides of rows and columns.
    pub strides: [usize; 2],
    /// Border rule.
    pub padding: Padding,
}

/// Mean over height and width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GlobalAveragePooling2D {
    /// Whether the output keeps height and width as extents of 1.
    pub keepdims: bool,
}

/// Sum, or mean, of the inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Add {
    /// Whether the sum of two inputs is halved (a QuantizeML option).
    pub average: bool,
}

/// `x * scale + offset`, both scalars or one for each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Rescaling {
    /// Factor, as written in the file.
    pub scale: PerAxis<f64>,
    /// Offset, as written in the file.
    pub offset: PerAxis<f64>,
}

impl Layer {
    /// Returns the Keras (or QuantizeML) class name, such as `MaxPooling2D`.
    #[must_use]
    pub fn class_name(&self) -> &'static str {
        match self {
            Self::Input(_) => "InputLayer",
            Self::Conv2D(conv) if conv.padding_value.is_some() => "PaddedConv2D",
            Self::Conv2D(_) => "Conv2D",
            Self::DepthwiseConv2D(_) => "DepthwiseConv2D",
            Self::SeparableConv2D(_) => "SeparableConv2D",
            Self::Conv2DTranspose(_) => "Conv2DTranspose",
            Self::DepthwiseConv2DTranspose(_) => "DepthwiseConv2DTranspose",
            Self::Dense(_) => "Dense",
            Self::StatefulProjection(_) => "StatefulProjection",
            Self::BufferTempConv(_) => "BufferTempConv",
            Self::DepthwiseBufferTempConv(_) => "DepthwiseBufferTempConv",
            Self::StatefulRecurrent(_) => "StatefulRecurrent",
            Self::BatchNormalization(_) => "BatchNormalization",
            Self::ReLU(_) => "ReLU",
            Self::LeakyReLU { .. } => "LeakyReLU",
            Self::PReLU { .. } => "PReLU",
            Self::Activation(_) => "Activation",
            Self::Softmax => "Softmax",
            Self::MaxPool2D(_) => "MaxPooling2D",
            Self::AveragePool2D(_) => "AveragePooling2D",
            Self::GlobalAveragePooling2D(_) => "GlobalAveragePooling2D",
            Self::Add(_) => "Add",
            Self::Multiply => "Multiply",
            Self::Subtract => "Subtract",
            Self::Concatenate { .. } => "Concatenate",
            Self::Rescaling(_) => "Rescaling",
            Self::ZeroPadding2D(_) => "ZeroPadding2D",
            Self::Volume(volume) => volume.class_name(),
            Self::UpSampling2D { .. } => "UpSampling2D",
            Self::Flatten => "Flatten",
            Self::Reshape { .. } => "Reshape",
            Self::Permute { .. } => "Permute",
            Self::ExtractToken { .. } => "ExtractToken",
            Self::Dropout { .. } => "Dropout",
        }
    }

    /// Returns the fused activation, if the class has one.
    #[must_use]
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the classes with one are named"
    )]
    pub const fn activation(&self) -> Option<Activation> {
        match self {
            Self::Conv2D(conv) => Some(conv.activation),
            Self::DepthwiseConv2D(conv) | Self::DepthwiseConv2DTranspose(conv) => {
                Some(conv.activation)
            }
            Self::SeparableConv2D(conv) => Some(conv.activation),
            Self::Conv2DTranspose(conv) => Some(conv.activation),
            Self::Dense(dense) => Some(dense.activation),
            Self::Volume(Volume::Conv3D(conv)) => Some(conv.activation),
            Self::StatefulProjection(projection) => Some(projection.dense.activation),
            _ => None,
        }
    }

    /// Returns the fused activation to be changed, if the class has one.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the classes with one are named"
    )]
    pub(crate) const fn activation_mut(&mut self) -> Option<&mut Activation> {
        match self {
            Self::Conv2D(conv) => Some(&mut conv.activation),
            Self::DepthwiseConv2D(conv) | Self::DepthwiseConv2DTranspose(conv) => {
                Some(&mut conv.activation)
            }
            Self::SeparableConv2D(conv) => Some(&mut conv.activation),
            Self::Conv2DTranspose(conv) => Some(&mut conv.activation),
            Self::Dense(dense) => Some(&mut dense.activation),
            Self::Volume(Volume::Conv3D(conv)) => Some(&mut conv.activation),
            Self::StatefulProjection(projection) => Some(&mut projection.dense.activation),
            _ => None,
        }
    }

    /// Returns whether the layer remembers earlier steps of a sequence.
    #[must_use]
    pub const fn is_temporal(&self) -> bool {
        matches!(
            self,
            Self::BufferTempConv(_) | Self::DepthwiseBufferTempConv(_) | Self::StatefulRecurrent(_)
        )
    }
}
