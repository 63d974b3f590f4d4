//! The window of a convolution, whatever its class.

use ndarray::{Array4, s};

use super::driver::Skip;
use crate::{Layer, Padding};
use quantizer_core::geometry;

/// Extents and border of a convolution's window, rows and columns.
pub(super) struct Window {
    pub(super) kernel: [usize; 2],
    pub(super) strides: [usize; 2],
    pub(super) dilation: [usize; 2],
    pub(super) padding: Padding,
}

impl Window {
    /// Returns the window of a convolution that pads with zeros, if it pads.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the convolutions that slide over their input, or output, are named"
    )]
    pub(super) fn of(layer: &Layer) -> Option<Self> {
        let (kernel, strides, dilation, padding) = match layer {
            Layer::Conv2D(conv) if conv.padding_value.is_none() => {
                (&conv.kernel, conv.strides, conv.dilation, conv.padding)
            }
            Layer::DepthwiseConv2D(conv) => {
                (&conv.kernel, conv.strides, conv.dilation, conv.padding)
            }
            Layer::SeparableConv2D(conv) => {
                let kernel = &conv.depthwise_kernel;
                (kernel, conv.strides, conv.dilation, conv.padding)
            }
            Layer::Conv2DTranspose(conv) => {
                (&conv.kernel, conv.strides, conv.dilation, conv.padding)
            }
            _ => return None,
        };
        let (height, width, _, _) = kernel.dim();
        Some(Self {
            kernel: [height, width],
            strides,
            dilation,
            padding,
        })
    }

    /// Returns the pads before and after an axis of `extent` that 'same' means (NUMERICS.md: N14).
    pub(super) fn same_pads(
        &self,
        extent: Option<usize>,
        axis: usize,
    ) -> Result<(usize, usize), Skip> {
        let stride = self.strides[axis];
        // At stride 1 the pads do not depend on the extent.
        let extent = extent.or((stride == 1).then_some(1)).ok_or_else(|| {
            Skip::Blocked("its image has an open extent, and 'same' depends on it".to_owned())
        })?;
        let (kernel, dilation) = (self.kernel[axis], self.dilation[axis]);
        Ok(geometry::same_pads(extent, kernel, stride, dilation))
    }
}

/// Gives a convolution a kernel of `extents` that is zero but for the present one at `offset`.
pub(super) fn embed(layer: &mut Layer, [height, width]: [usize; 2], [top, left]: [usize; 2]) {
    let kernel = if let Layer::Conv2D(conv) = layer {
        &mut conv.kernel
    } else if let Layer::DepthwiseConv2D(conv) = layer {
        &mut conv.kernel
    } else if let Layer::SeparableConv2D(conv) = layer {
        &mut conv.depthwise_kernel
    } else if let Layer::Conv2DTranspose(conv) = layer {
        &mut conv.kernel
    } else {
        return;
    };
    let (h, w, a, b) = kernel.dim();
    let mut wide = Array4::zeros((height, width, a, b));
    wide.slice_mut(s![top..top + h, left..left + w, .., ..])
        .assign(kernel);
    *kernel = wide;
}
