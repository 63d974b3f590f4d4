//! Convolutions and the matrix product, on the deterministic kernels (NUMERICS.md: F1).

use kernels::{ConvTranspose2d, DepthwiseTranspose, Kernels, Window};
use ndarray::{Axis, s};
use quantizer_core::geometry::{same_pads, transposed_crop};

use super::chains::{self, Ends, elements};
use super::tensor::{Tensor, by_rows, image};
use crate::{Conv2D, Conv2DTranspose, Dense, DepthwiseConv2D, Padding, SeparableConv2D};

/// Returns a convolution, without its activation.
///
/// Taps outside the image are no steps of the chain, except those that read a padding value.
pub(super) fn conv2d(
    kernels: Kernels,
    conv: &Conv2D,
    x: &Tensor<'_>,
    extents: &[usize],
) -> Vec<f32> {
    if conv.groups == 1 {
        return conv2d_group(kernels, conv, x, extents);
    }
    let n_inputs = conv.kernel.len_of(Axis(2));
    let n_filters = conv.kernel.len_of(Axis(3)).div_euclid(conv.groups);
    let n_all = n_filters * conv.groups;
    let mut group_extents = extents.to_vec();
    group_extents[3] = n_filters;
    let mut out = vec![0.0; extents.iter().product()];
    for group in 0..conv.groups {
        let filters = group * n_filters..(group + 1) * n_filters;
        let channels = group * n_inputs..(group + 1) * n_inputs;
        let values = conv.padding_value.as_ref().map(|values| {
            let own = values.get(channels.clone()).unwrap_or(values);
            own.to_vec()
        });
        let part = Conv2D {
            kernel: conv
                .kernel
                .slice(s![.., .., .., filters.clone()])
                .to_owned(),
            bias: conv
                .bias
                .as_ref()
                .map(|bias| bias.slice(s![filters.clone()]).to_owned()),
            padding_value: values,
            groups: 1,
            ..*conv
        };
        let result = conv2d_group(kernels, &part, &x.channels(channels), &group_extents);
        for (out, result) in out.chunks_mut(n_all).zip(result.chunks(n_filters)) {
            out[filters.clone()].copy_from_slice(result);
        }
    }
    out
}

fn conv2d_group(kernels: Kernels, conv: &Conv2D, x: &Tensor<'_>, extents: &[usize]) -> Vec<f32> {
    let mut out = vec![0.0; extents.iter().product()];
    chains::conv2d(Ends::plain(kernels), conv, x, extents, &mut out);
    out
}

/// Returns a depthwise convolution, without its activation.
pub(super) fn depthwise(
    kernels: Kernels,
    conv: &DepthwiseConv2D,
    x: &Tensor<'_>,
    extents: &[usize],
) -> Vec<f32> {
    let mut out = vec![0.0; extents.iter().product()];
    chains::depthwise(Ends::plain(kernels), conv, x, extents, &mut out);
    out
}

/// Returns a separable convolution, without its activation: the depthwise part, rounded to f32,
/// then the pointwise one with the bias.
pub(super) fn separable(
    kernels: Kernels,
    conv: &SeparableConv2D,
    x: &Tensor<'_>,
    extents: &[usize],
) -> Vec<f32> {
    let channels = conv.pointwise_kernel.len_of(Axis(2));
    let filters = conv.pointwise_kernel.len_of(Axis(3));
    let first = DepthwiseConv2D {
        kernel: conv.depthwise_kernel.clone(),
        bias: None,
        strides: conv.strides,
        padding: conv.padding,
        dilation: conv.dilation,
        activation: conv.activation,
    };
    let mut inner = extents.to_vec();
    inner[3] = channels;
    let spread = depthwise(kernels, &first, x, &inner);
    let kernel = elements(&conv.pointwise_kernel);
    let bias = conv.bias.as_ref().map(|bias| bias.to_vec());
    let factors = kernels::Dense {
        x: &spread,
        kernel: &kernel,
        channels,
        filters,
    };
    product(kernels, &factors, bias.as_deref(), extents)
}

/// Returns a transposed convolution, without its activation (NUMERICS.md: N26).
pub(super) fn transpose(
    kernels: Kernels,
    conv: &Conv2DTranspose,
    x: &Tensor<'_>,
    extents: &[usize],
) -> Vec<f32> {
    let (kernel_h, kernel_w, filters, channels) = conv.kernel.dim();
    let sliding = Sliding {
        kernel: [kernel_h, kernel_w],
        strides: conv.strides,
        dilation: [1, 1],
    };
    let crop = sliding.crop(x.image(), image(extents), conv.padding);
    let window = sliding.window(x.image(), image(extents), crop);
    let swapped = conv.kernel.view().permuted_axes([0, 1, 3, 2]);
    let kernel: Vec<f32> = swapped.iter().copied().collect();
    let bias = conv.bias.as_ref().map(|bias| bias.to_vec());
    by_rows(extents, |image, rows, out| {
        let operands = ConvTranspose2d {
            x: x.item(image),
            kernel: &kernel,
            window,
            channels,
            filters,
        };
        kernels.conv2d_transpose_f32(&operands, bias.as_deref(), rows, out);
    })
}

/// Returns a transposed depthwise convolution, without its activation (NUMERICS.md: N26).
pub(super) fn depthwise_transpose(
    kernels: Kernels,
    conv: &DepthwiseConv2D,
    x: &Tensor<'_>,
    extents: &[usize],
) -> Vec<f32> {
    let (kernel_h, kernel_w, channels, _) = conv.kernel.dim();
    let sliding = Sliding {
        kernel: [kernel_h, kernel_w],
        strides: conv.strides,
        dilation: [1, 1],
    };
    let crop = sliding.crop(x.image(), image(extents), conv.padding);
    let window = sliding.window(x.image(), image(extents), crop);
    let kernel = elements(&conv.kernel);
    let bias = conv.bias.as_ref().map(|bias| bias.to_vec());
    by_rows(extents, |image, rows, out| {
        let operands = DepthwiseTranspose {
            x: x.item(image),
            kernel: &kernel,
            window,
            channels,
        };
        kernels.depthwise_transpose_f32(&operands, bias.as_deref(), rows, out);
    })
}

/// Returns the matrix product on the last axis, without its activation.
pub(super) fn dense(
    kernels: Kernels,
    dense: &Dense,
    x: &Tensor<'_>,
    extents: &[usize],
) -> Vec<f32> {
    let mut out = vec![0.0; extents.iter().product()];
    chains::dense(Ends::plain(kernels), dense, x, &mut out);
    out
}

/// Returns the matrix product, row-major. The output must not be empty.
pub(super) fn product(
    kernels: Kernels,
    factors: &kernels::Dense<'_, f32, f32>,
    bias: Option<&[f32]>,
    extents: &[usize],
) -> Vec<f32> {
    let mut out = vec![0.0; extents.iter().product()];
    chains::product(Ends::plain(kernels), factors, bias, &mut out);
    out
}

/// How a kernel moves over rows and columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sliding {
    pub(super) kernel: [usize; 2],
    pub(super) strides: [usize; 2],
    pub(super) dilation: [usize; 2],
}

impl Sliding {
    /// Returns the rows above and the columns left of the image.
    pub(super) fn pads(&self, [height, width, _]: [usize; 3], padding: Padding) -> [usize; 2] {
        let before = |axis: usize, n: usize| {
            same_pads(
                n,
                self.kernel[axis],
                self.strides[axis],
                self.dilation[axis],
            )
            .0
        };
        match padding {
            Padding::Same => [before(0, height), before(1, width)],
            Padding::Valid => [0, 0],
        }
    }

    /// Returns the rows and columns that a transposed convolution crops before the first.
    fn crop(&self, x: [usize; 3], out: [usize; 3], padding: Padding) -> [usize; 2] {
        [0, 1].map(|i| transposed_crop(x[i], out[i], self.kernel[i], self.strides[i], padding))
    }

    /// Returns the window over an image whose border has the given pads.
    pub(super) fn window(
        &self,
        [in_h, in_w, _]: [usize; 3],
        [out_h, out_w, _]: [usize; 3],
        [pad_top, pad_left]: [usize; 2],
    ) -> Window {
        Window {
            in_h,
            in_w,
            out_h,
            out_w,
            kernel_h: self.kernel[0],
            kernel_w: self.kernel[1],
            stride_h: self.strides[0],
            stride_w: self.strides[1],
            dilation_h: self.dilation[0],
            dilation_w: self.dilation[1],
            pad_top,
            pad_left,
        }
    }
}
