//! Quantized layers as integers, and the scalar definition of what they compute.
//!
//! A function such as [`conv2d`] turns float weights and a calibrated output quantizer into an
//! [`IntegerLayer`]: integers and shifts only. [`IntegerLayer::run`] is the specification of its
//! arithmetic, one value at a time in `i64`.

mod linear;
mod pool;
mod prepare;
mod run;
mod shape;
mod temporal;
mod transposed;

use ndarray::{Array2, Array3, Array4};

use crate::bits::ValueBits;
use crate::counters::Stage;
use crate::geometry::Padding;
use crate::quantizers::{AlignedWeights, OutputStage};
use crate::{PerAxis, QFormat};

pub use prepare::{
    Channels, FloatBorder, MAX_TABLE_BITS, RecurrentParams, ReluParams, TokenAxis, WeightedParams,
    add, buffer_temp_conv, concatenate, conv2d, conv2d_transpose, dense,
    depthwise_buffer_temp_conv, depthwise_conv2d, depthwise_conv2d_transpose, extract_token,
    flatten, global_average_pooling2d, look_up, max_pool2d, pass_through, permute, relu, rescaling,
    reshape, separable_conv2d, stateful_projection, stateful_recurrent,
};
pub use run::check_accumulator;
pub use temporal::Memory;

/// A quantized layer: inputs are aligned, an operation runs, its result is narrowed.
#[derive(Clone, Debug, PartialEq)]
pub struct IntegerLayer {
    /// What happens to each input first, in call order.
    pub entries: Vec<EntryStage>,
    /// The operation.
    pub op: IntegerOp,
    /// Bias added to each sum.
    pub bias: Option<AlignedWeights>,
    /// Format of the operation's result; its value bits are those at which sums saturate.
    pub inner: QFormat,
    /// The output quantizer.
    pub output: Option<OutputStage>,
    /// Format of the layer's outputs.
    pub format: QFormat,
}

/// Left shifts that align the channels of an input, saturating to the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryStage {
    /// What the shift is for.
    pub stage: Stage,
    /// Left shift, one or one for each channel.
    pub shift: PerAxis<u32>,
    /// Value bits of the result.
    pub value_bits: ValueBits,
}

/// The operation of a layer on integers.
#[derive(Clone, Debug, PartialEq)]
pub enum IntegerOp {
    /// 2-D convolution. NUMERICS.md: N15.
    Conv2D(ConvOp),
    /// 2-D convolution of each channel. NUMERICS.md: N16.
    DepthwiseConv2D(DepthwiseOp),
    /// Depthwise, then pointwise convolution, both sums saturated. NUMERICS.md: N17.
    SeparableConv2D {
        /// Depthwise half.
        depthwise: DepthwiseOp,
        /// Pointwise kernel, `[channels, filters]`.
        pointwise: Array2<i32>,
    },
    /// Transposed 2-D convolution. NUMERICS.md: N26.
    Conv2DTranspose(TransposedOp),
    /// Transposed 2-D convolution of each channel. NUMERICS.md: N26.
    DepthwiseConv2DTranspose(DepthwiseTransposedOp),
    /// Matrix product on the last axis; kernel `[channels, units]`. NUMERICS.md: N18.
    Dense {
        /// Kernel, `[channels, units]`.
        kernel: Array2<i32>,
    },
    /// Matrix product on every `subsample`-th time step. NUMERICS.md: N28.
    StatefulProjection {
        /// Kernel, `[channels, units]`.
        kernel: Array2<i32>,
        /// Time steps of a group; the last of each is used.
        subsample: usize,
    },
    /// Pointwise convolution of the last frames. NUMERICS.md: N28.
    BufferTempConv {
        /// Kernel, `[frames * channels, filters]`, the oldest frame first.
        kernel: Array2<i32>,
        /// Frames that a window holds.
        n_frames: usize,
    },
    /// Sum over the last frames of each channel. NUMERICS.md: N28.
    DepthwiseBufferTempConv {
        /// Kernel, `[frames, channels]`, the oldest frame first.
        kernel: Array2<i32>,
    },
    /// Complex linear recurrence over time steps. NUMERICS.md: N29.
    StatefulRecurrent(RecurrentOp),
    /// `max(v, 0)`, and `min(v, max)` if given. NUMERICS.md: N19.
    ReLU {
        /// Upper clip at the binary point of the inputs.
        max: Option<PerAxis<i64>>,
    },
    /// A table of the results for every input. NUMERICS.md: N27.
    LookUp {
        /// Result of the integer `i - 2^value_bits` at index `i`; `2^(value_bits + 1)` entries.
        table: Vec<i32>,
    },
    /// Maximum over a window. NUMERICS.md: N20.
    MaxPool2D(PoolOp),
    /// Sum over height and width; the division is in the scale. NUMERICS.md: N21.
    GlobalAveragePooling2D {
        /// Whether the output keeps height and width as extents of 1.
        keepdims: bool,
    },
    /// Sum of two aligned inputs. NUMERICS.md: N22.
    Add,
    /// Inputs one after another along an axis. NUMERICS.md: N25.
    Concatenate(ConcatAxis),
    /// Row-major vector of each item. NUMERICS.md: N24.
    Flatten,
    /// Same integers, other extents (without the batch). NUMERICS.md: N24.
    Reshape {
        /// Extents of an item; at most one is -1.
        target_shape: Vec<isize>,
    },
    /// Axes in another order. NUMERICS.md: N24.
    Permute {
        /// Axes of an item, counted from 1, as in Keras.
        dims: Vec<usize>,
    },
    /// One index of an axis, which disappears. NUMERICS.md: N24.
    ExtractToken {
        /// The index.
        token: usize,
        /// The axis, counted with the batch axis.
        axis: usize,
    },
    /// Integers unchanged: Rescaling (the factor is in the scale) and Dropout. NUMERICS.md: N23.
    Identity,
}

/// A convolution of all channels.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvOp {
    /// Kernel, `[height, width, channels, filters]`.
    pub kernel: Array4<i32>,
    /// Strides of rows and columns.
    pub strides: [usize; 2],
    /// Distance of kernel cells, rows and columns.
    pub dilation: [usize; 2],
    /// What lies around the image.
    pub border: Border,
}

/// A convolution of each channel on its own.
#[derive(Clone, Debug, PartialEq)]
pub struct DepthwiseOp {
    /// Kernel, `[height, width, channels]`.
    pub kernel: Array3<i32>,
    /// Strides of rows and columns.
    pub strides: [usize; 2],
    /// Distance of kernel cells, rows and columns.
    pub dilation: [usize; 2],
    /// Border rule; the border is integer 0.
    pub padding: Padding,
}

/// A transposed convolution of all channels.
#[derive(Clone, Debug, PartialEq)]
pub struct TransposedOp {
    /// Kernel, `[height, width, channels, filters]`; Keras stores the last two axes swapped.
    pub kernel: Array4<i32>,
    /// Strides of rows and columns.
    pub strides: [usize; 2],
    /// Rule of the output's extents.
    pub padding: Padding,
    /// Extra rows and columns of the output.
    pub output_padding: Option<[usize; 2]>,
}

/// A transposed convolution of each channel on its own, with the extents of 'same'.
#[derive(Clone, Debug, PartialEq)]
pub struct DepthwiseTransposedOp {
    /// Kernel, `[height, width, channels]`.
    pub kernel: Array3<i32>,
    /// Strides of rows and columns.
    pub strides: [usize; 2],
}

/// A complex linear recurrence.
#[derive(Clone, Debug, PartialEq)]
pub struct RecurrentOp {
    /// Real and imaginary parts of the factor of each channel.
    pub factors: [Vec<i64>; 2],
    /// Integer scales of inputs with float scales.
    pub multiplier: Option<PerAxis<i64>>,
    /// Shift that brings an input to the binary point of the products.
    pub input_shift: PerAxis<i32>,
    /// What makes states and outputs of the sums.
    pub state: OutputStage,
}

/// The axis of a Concatenate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConcatAxis {
    /// The last axis.
    Channels,
    /// An axis before it, counted with the batch axis.
    Leading(usize),
}

/// What lies around the image of a convolution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Border {
    /// Nothing: windows lie inside.
    Valid,
    /// Integer 0, extents of 'same'.
    Same,
    /// An integer for each input channel; extents of 'same' computed without dilation.
    Value(PerAxis<i64>),
}

/// A sliding maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolOp {
    /// Extents of the window.
    pub pool_size: [usize; 2],
    /// Strides of rows and columns.
    pub strides: [usize; 2],
    /// Border rule; the border never wins.
    pub padding: Padding,
}
