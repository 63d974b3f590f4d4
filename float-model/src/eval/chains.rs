//! Layers whose outputs are chains of fused multiply-adds (NUMERICS.md: F1), and how the chains end.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use kernels::{Ending, Kernels, PackedFloatConv, PackedFloats};
use ndarray::{Array2, Array4, Axis};
use rayon::prelude::*;

use super::conv::Sliding;
use super::tensor::{Tensor, Work, image, rows_of_images};
use crate::{Conv2D, Dense, DepthwiseConv2D, Layer, Padding};

/// How the chains of a layer end after the bias, and how its work is divided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends<'a> {
    pub(super) kernels: Kernels,
    pub(super) work: Work,
    /// Upper end of a rectifier; see [`Ending::most`].
    pub(super) most: Option<f32>,
    /// Raised to the magnitudes of the outputs, one entry for each of the last axis.
    pub(super) largest: Option<&'a Mutex<Vec<u32>>>,
    /// The layer's weights, if they are packed.
    pub(super) packed: Option<&'a PackedFloats>,
}

impl Ends<'_> {
    /// Returns the ends of chains that are outputs as they are.
    pub(super) const fn plain(kernels: Kernels) -> Self {
        Self {
            kernels,
            work: Work::Divided,
            most: None,
            largest: None,
            packed: None,
        }
    }

    /// Calls `compute` with what ends the chains of one part of the output.
    fn of_part(&self, bias: Option<&[f32]>, compute: impl FnOnce(Ending<'_>)) {
        let mut ending = Ending {
            bias,
            most: self.most,
            largest: None,
        };
        let Some(shared) = self.largest else {
            return compute(ending);
        };
        let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
        let mut largest = vec![0; lock().len()];
        ending.largest = Some(&mut largest);
        compute(ending);
        raise(&mut lock(), &largest);
    }
}

/// Raises entries to those of another part.
pub(super) fn raise(largest: &mut [u32], part: &[u32]) {
    for (entry, part) in largest.iter_mut().zip(part) {
        *entry = (*entry).max(*part);
    }
}

/// Returns the packed weights of a layer whose chains mix channels, or `None` if they are as good unpacked.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the layers that mix channels are named"
)]
pub(super) fn packed(kernels: Kernels, layer: &Layer) -> Option<PackedFloats> {
    match layer {
        Layer::Conv2D(conv) if conv.groups == 1 => {
            let (kernel_h, kernel_w, channels, filters) = conv.kernel.dim();
            let rows = kernel_h * kernel_w * channels;
            PackedFloats::new(kernels, &elements(&conv.kernel), rows, filters)
        }
        Layer::Dense(dense) => {
            let (rows, filters) = dense.kernel.dim();
            PackedFloats::new(kernels, &matrix(&dense.kernel), rows, filters)
        }
        _ => None,
    }
}

/// Computes a convolution of one group, without its activation.
///
/// Taps outside the image are no steps of the chain, except those that read a padding value.
pub(super) fn conv2d(
    ends: Ends<'_>,
    conv: &Conv2D,
    x: &Tensor<'_>,
    extents: &[usize],
    out: &mut [f32],
) {
    let (kernel_h, kernel_w, channels, filters) = conv.kernel.dim();
    let kernel = elements(&conv.kernel);
    let bias = conv.bias.as_ref().map(|bias| bias.to_vec());
    if [kernel_h, kernel_w] == [1, 1] && conv.strides == [1, 1] {
        // All images are rows of one matrix, so that its weights are read once.
        let factors = kernels::Dense {
            x: &x.data,
            kernel: &kernel,
            channels,
            filters,
        };
        return product(ends, &factors, bias.as_deref(), out);
    }
    let pad = conv.padding_value.as_deref().map(|values| match values {
        [value] => vec![*value; channels],
        _ => values.to_vec(),
    });
    let sliding = Sliding {
        kernel: [kernel_h, kernel_w],
        strides: conv.strides,
        dilation: conv.dilation,
    };
    let pads = if pad.is_some() {
        // The border of a padding value is made without dilation (NUMERICS.md: N15).
        let undilated = Sliding {
            dilation: [1, 1],
            ..sliding
        };
        undilated.pads(x.image(), Padding::Same)
    } else {
        sliding.pads(x.image(), conv.padding)
    };
    let window = sliding.window(x.image(), image(extents), pads);
    let fill = |image: usize, rows: Range<usize>, out: &mut [f32]| {
        let operands = kernels::Conv2d {
            x: x.item(image),
            kernel: &kernel,
            pad: pad.as_deref(),
            window,
            channels,
            filters,
        };
        ends.of_part(bias.as_deref(), |ending| match ends.packed {
            Some(kernel) => {
                let operands = PackedFloatConv {
                    x: operands.x,
                    kernel,
                    pad: operands.pad,
                    window,
                    channels,
                };
                ends.kernels.conv2d_packed_f32(&operands, ending, rows, out);
            }
            None => ends.kernels.conv2d_ended_f32(&operands, ending, rows, out),
        });
    };
    rows_of_images(ends.work, extents, out, fill);
}

/// Computes a depthwise convolution, without its activation.
pub(super) fn depthwise(
    ends: Ends<'_>,
    conv: &DepthwiseConv2D,
    x: &Tensor<'_>,
    extents: &[usize],
    out: &mut [f32],
) {
    let (kernel_h, kernel_w, inputs, multiplier) = conv.kernel.dim();
    let sliding = Sliding {
        kernel: [kernel_h, kernel_w],
        strides: conv.strides,
        dilation: conv.dilation,
    };
    let pads = sliding.pads(x.image(), conv.padding);
    let window = sliding.window(x.image(), image(extents), pads);
    // The kernel [.., channels, multiplier] is one of channels * multiplier on repeated channels.
    let kernel = elements(&conv.kernel);
    let repeated;
    let x = if multiplier == 1 {
        x
    } else {
        repeated = x.repeat_channels(multiplier);
        &repeated
    };
    let bias = conv.bias.as_ref().map(|bias| bias.to_vec());
    let fill = |image: usize, rows: Range<usize>, out: &mut [f32]| {
        let operands = kernels::Depthwise {
            x: x.item(image),
            kernel: &kernel,
            pad: None,
            window,
            channels: inputs * multiplier,
        };
        ends.of_part(bias.as_deref(), |ending| {
            ends.kernels
                .depthwise_ended_f32(&operands, ending, rows, out);
        });
    };
    rows_of_images(ends.work, extents, out, fill);
}

/// Computes the matrix product on the last axis, without its activation.
pub(super) fn dense(ends: Ends<'_>, dense: &Dense, x: &Tensor<'_>, out: &mut [f32]) {
    let kernel = matrix(&dense.kernel);
    let bias = dense.bias.as_ref().map(|bias| bias.to_vec());
    let factors = kernels::Dense {
        x: &x.data,
        kernel: &kernel,
        channels: dense.kernel.len_of(Axis(0)),
        filters: dense.kernel.len_of(Axis(1)),
    };
    product(ends, &factors, bias.as_deref(), out);
}

/// Computes the matrix product, row-major, blocks of rows in parallel. The output must not be empty.
pub(super) fn product(
    ends: Ends<'_>,
    factors: &kernels::Dense<'_, f32, f32>,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let (channels, filters) = (factors.channels, factors.filters);
    let n_rows = out.len().div_euclid(filters);
    let n_threads = rayon::current_num_threads();
    let n_blocks = match ends.work {
        Work::Divided if n_threads > 1 => 4 * n_threads,
        Work::Divided | Work::Whole => 1,
    };
    let block = n_rows.div_ceil(n_blocks);
    let fill = |index: usize, out: &mut [f32]| {
        let first = index * block;
        let end = first + out.len().div_euclid(filters);
        let operands = kernels::Dense {
            x: &factors.x[first * channels..end * channels],
            ..*factors
        };
        ends.of_part(bias, |ending| match ends.packed {
            Some(kernel) => ends
                .kernels
                .dense_packed_f32(operands.x, kernel, ending, out),
            None => ends.kernels.dense_ended_f32(&operands, ending, out),
        });
    };
    if n_blocks == 1 {
        return fill(0, out);
    }
    out.par_chunks_mut(block * filters)
        .enumerate()
        .for_each(|(index, out)| fill(index, out));
}

/// Returns the elements of a kernel, row-major.
pub(super) fn elements(kernel: &Array4<f32>) -> Cow<'_, [f32]> {
    kernel
        .as_slice()
        .map_or_else(|| kernel.iter().copied().collect(), Cow::Borrowed)
}

/// Returns the elements of a matrix, row-major.
fn matrix(kernel: &Array2<f32>) -> Cow<'_, [f32]> {
    kernel
        .as_slice()
        .map_or_else(|| kernel.iter().copied().collect(), Cow::Borrowed)
}
