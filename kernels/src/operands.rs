//! What the kernels read: sliding windows and the operands of each operation.

/// Where a sliding window reads: the extents of one image, the kernel, and how it steps.
///
/// For a forward operation (convolution, pooling), tap `t` of output `o` reads input `o * stride + t * dilation - pad`,
/// on each axis. For a transposed one, it reads the input `i` with `i * stride + t * dilation - pad = o`, if any.
/// A position outside the image is *outside*: each operation says what that means.
///
/// A window is valid if it has strides and dilations of at least 1 and its positions fit `isize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Rows of the input.
    pub in_h: usize,
    /// Columns of the input.
    pub in_w: usize,
    /// Rows of the whole output.
    pub out_h: usize,
    /// Columns of the output.
    pub out_w: usize,
    /// Rows of the kernel.
    pub kernel_h: usize,
    /// Columns of the kernel.
    pub kernel_w: usize,
    /// Step between rows, at least 1.
    pub stride_h: usize,
    /// Step between columns, at least 1.
    pub stride_w: usize,
    /// Distance of kernel rows, at least 1.
    pub dilation_h: usize,
    /// Distance of kernel columns, at least 1.
    pub dilation_w: usize,
    /// Padding rows before the first row; in a transposed operation, output rows cropped before the first.
    pub pad_top: usize,
    /// Padding columns before the first column; in a transposed operation, output columns cropped before the first.
    pub pad_left: usize,
}

impl Window {
    /// Returns the 1x1 window of stride 1 over an image of `height` rows and `width` columns.
    #[must_use]
    pub const fn pointwise(height: usize, width: usize) -> Self {
        Self {
            in_h: height,
            in_w: width,
            out_h: height,
            out_w: width,
            kernel_h: 1,
            kernel_w: 1,
            stride_h: 1,
            stride_w: 1,
            dilation_h: 1,
            dilation_w: 1,
            pad_top: 0,
            pad_left: 0,
        }
    }
}

/// The operands of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Conv2d<'a, X, W> {
    /// Input, `[in_h, in_w, channels]`.
    pub x: &'a [X],
    /// Kernel, `[kernel_h, kernel_w, channels, filters]`.
    pub kernel: &'a [W],
    /// Value of each channel outside the image, `[channels]`; `None` skips the taps that are outside.
    pub pad: Option<&'a [X]>,
    /// Where the taps read.
    pub window: Window,
    /// Channels of the input.
    pub channels: usize,
    /// Channels of the output.
    pub filters: usize,
}

/// The operands of a depthwise convolution with one filter per channel.
#[derive(Clone, Copy, Debug)]
pub struct Depthwise<'a, X, W> {
    /// Input, `[in_h, in_w, channels]`.
    pub x: &'a [X],
    /// Kernel, `[kernel_h, kernel_w, channels]`.
    pub kernel: &'a [W],
    /// Value of each channel outside the image, `[channels]`; `None` skips the taps that are outside.
    pub pad: Option<&'a [X]>,
    /// Where the taps read.
    pub window: Window,
    /// Channels of the input and of the output.
    pub channels: usize,
}

/// The operands of a transposed convolution. Taps outside the image are skipped.
#[derive(Clone, Copy, Debug)]
pub struct ConvTranspose2d<'a, X, W> {
    /// Input, `[in_h, in_w, channels]`.
    pub x: &'a [X],
    /// Kernel, `[kernel_h, kernel_w, channels, filters]`; Keras stores the last two axes swapped.
    pub kernel: &'a [W],
    /// Where the taps read.
    pub window: Window,
    /// Channels of the input.
    pub channels: usize,
    /// Channels of the output.
    pub filters: usize,
}

/// The operands of a transposed depthwise convolution. Taps outside the image are skipped.
#[derive(Clone, Copy, Debug)]
pub struct DepthwiseTranspose<'a, X, W> {
    /// Input, `[in_h, in_w, channels]`.
    pub x: &'a [X],
    /// Kernel, `[kernel_h, kernel_w, channels]`.
    pub kernel: &'a [W],
    /// Where the taps read.
    pub window: Window,
    /// Channels of the input and of the output.
    pub channels: usize,
}

/// The operands of a matrix product.
#[derive(Clone, Copy, Debug)]
pub struct Dense<'a, X, W> {
    /// Input, `[rows, channels]`; the output's length gives the rows.
    pub x: &'a [X],
    /// Kernel, `[channels, filters]`.
    pub kernel: &'a [W],
    /// Columns of the input.
    pub channels: usize,
    /// Columns of the output.
    pub filters: usize,
}

/// The operand of a maximum over windows. Taps outside the image never win.
#[derive(Clone, Copy, Debug)]
pub struct MaxPool<'a, X> {
    /// Input, `[in_h, in_w, channels]`.
    pub x: &'a [X],
    /// Where the taps read; the kernel is the pool.
    pub window: Window,
    /// Channels of the input and of the output.
    pub channels: usize,
}
