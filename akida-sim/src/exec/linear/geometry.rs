//! Extents of one run of a layer with weights.

use float_model::Padding;
use kernels::Window;
use quantizer_core::geometry::{same_pads, transposed_crop, transposed_extent, window_extent};

use super::{ConvPadding, Kind, LinearPlan, Steps};

/// Extents of one run.
#[derive(Debug)]
pub(super) struct Geometry {
    pub(super) n_rows: usize,
    /// Pixels of an output row.
    pub(super) row_len: usize,
    pub(super) out_shape: Vec<usize>,
    pub(super) channels: usize,
    pub(super) window: Window,
}

impl Geometry {
    /// Returns the extents for inputs of shape `x`, `None` if the layer cannot take them.
    pub(super) fn new(plan: &LinearPlan, x: &[usize]) -> Option<Self> {
        if matches!(plan.kind, Kind::Dense) {
            return Self::dense(plan, x);
        }
        let &[batch, in_h, in_w, channels] = x else {
            return None;
        };
        let (kernel, strides, dilation) = plan.kind.window()?;
        if matches!(plan.kind, Kind::Conv { .. }) && kernel == [1, 1] && strides == [1, 1] {
            // Each pixel stands alone: those of all images are rows of one.
            return Some(Self {
                n_rows: batch * in_h,
                row_len: in_w,
                out_shape: vec![batch, in_h, in_w, plan.out_channels],
                channels,
                window: Window::pointwise(batch * in_h, in_w),
            });
        }
        let (out_h, pad_top) = plan.kind.axis(in_h, 0)?;
        let (out_w, pad_left) = plan.kind.axis(in_w, 1)?;
        let window = Window {
            in_h,
            in_w,
            out_h,
            out_w,
            kernel_h: kernel[0],
            kernel_w: kernel[1],
            stride_h: strides[0],
            stride_w: strides[1],
            dilation_h: dilation[0],
            dilation_w: dilation[1],
            pad_top,
            pad_left,
        };
        Some(Self {
            n_rows: out_h,
            row_len: out_w,
            out_shape: vec![batch, out_h, out_w, plan.out_channels],
            channels,
            window,
        })
    }

    fn dense(plan: &LinearPlan, x: &[usize]) -> Option<Self> {
        let (channels, leading) = x.split_last()?;
        let out_shape = leading.iter().copied().chain([plan.out_channels]);
        Some(Self {
            n_rows: leading.iter().product(),
            row_len: 1,
            out_shape: out_shape.collect(),
            channels: *channels,
            window: Window::pointwise(0, 0),
        })
    }
}

impl Kind {
    /// Returns kernel extents, strides and dilation, `None` for a matrix product.
    const fn window(&self) -> Option<([usize; 2], [usize; 2], [usize; 2])> {
        match self {
            Self::Conv { kernel, steps, .. }
            | Self::Depthwise { kernel, steps, .. }
            | Self::Separable { kernel, steps, .. } => {
                Some((*kernel, steps.strides, steps.dilation))
            }
            Self::Transposed {
                kernel, strides, ..
            }
            | Self::DepthwiseTransposed { kernel, strides } => Some((*kernel, *strides, [1, 1])),
            Self::Dense => None,
        }
    }

    /// Returns the output extent, and what lies before or is cropped before the first position.
    fn axis(&self, n: usize, axis: usize) -> Option<(usize, usize)> {
        match self {
            Self::Conv {
                kernel,
                steps,
                padding,
            } => padded(n, kernel[axis], steps, axis, *padding),
            Self::Depthwise {
                kernel,
                steps,
                padding,
            }
            | Self::Separable {
                kernel,
                steps,
                padding,
                ..
            } => padded(n, kernel[axis], steps, axis, ConvPadding::Plain(*padding)),
            Self::Transposed {
                kernel,
                strides,
                padding,
                output_padding,
            } => {
                let extra = output_padding.map(|p| p[axis]);
                transposed(n, kernel[axis], strides[axis], *padding, extra)
            }
            Self::DepthwiseTransposed { kernel, strides } => {
                transposed(n, kernel[axis], strides[axis], Padding::Same, None)
            }
            Self::Dense => None,
        }
    }
}

fn padded(
    n: usize,
    kernel: usize,
    steps: &Steps,
    axis: usize,
    padding: ConvPadding,
) -> Option<(usize, usize)> {
    let (stride, dilation) = (steps.strides[axis], steps.dilation[axis]);
    match padding {
        ConvPadding::Plain(padding) => {
            let out = window_extent(n, kernel, stride, dilation, padding)?;
            let before = match padding {
                Padding::Same => same_pads(n, kernel, stride, dilation).0,
                Padding::Valid => 0,
            };
            Some((out, before))
        }
        ConvPadding::Filled => {
            let (before, after) = same_pads(n, kernel, stride, 1);
            let padded = n + before + after;
            let out = window_extent(padded, kernel, stride, dilation, Padding::Valid)?;
            Some((out, before))
        }
    }
}

fn transposed(
    n: usize,
    kernel: usize,
    stride: usize,
    padding: Padding,
    output_padding: Option<usize>,
) -> Option<(usize, usize)> {
    let out = transposed_extent(n, kernel, stride, padding, output_padding)?;
    Some((out, transposed_crop(n, out, kernel, stride, padding)))
}
