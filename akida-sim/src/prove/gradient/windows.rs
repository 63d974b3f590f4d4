//! Gradients before sliding windows and transposed ones.

use float_model::Padding;
use kernels::{Conv2d, ConvTranspose2d, Depthwise, DepthwiseTranspose, Kernels, Window};
use ndarray::{ArrayD, IxDyn};
use quantizer_core::geometry::{same_pads, transposed_crop};
use quantizer_core::layers::{
    Border, ConvOp, DepthwiseOp, DepthwiseTransposedOp, PoolOp, TransposedOp,
};

use super::{Gradient, array, weight};

/// Returns the gradient of inputs of extents `x` for that of the sums, `y`.
pub(super) fn conv2d(x: &[usize], y: &Gradient, op: &ConvOp) -> Gradient {
    let (kh, kw, _, _) = op.kernel.dim();
    let before = [0, 1].map(|a| {
        let (n, k, s) = (x[a + 1], [kh, kw][a], op.strides[a]);
        match op.border {
            Border::Valid => 0,
            Border::Same => same_pads(n, k, s, op.dilation[a]).0,
            Border::Value(_) => same_pads(n, k, s, 1).0,
        }
    });
    let steps = [op.strides, op.dilation];
    let swapped = op.kernel.view().permuted_axes([0, 1, 3, 2]);
    let kernel: Vec<f32> = swapped.iter().map(|w| weight(*w)).collect();
    spread(x, y, &kernel, ([kh, kw], steps, before))
}

/// Returns the gradient before a transposed convolution: a convolution.
pub(super) fn transposed(x: &[usize], y: &Gradient, op: &TransposedOp) -> Gradient {
    let (kh, kw, channels, filters) = op.kernel.dim();
    let swapped = op.kernel.view().permuted_axes([0, 1, 3, 2]);
    let kernel: Vec<f32> = swapped.iter().map(|w| weight(*w)).collect();
    let window = gathered(x, y, ([kh, kw], op.strides, op.padding));
    let mut gradient = vec![0.0; x.iter().product()];
    let conv = Conv2d {
        x: &y.iter().copied().collect::<Vec<_>>(),
        kernel: &kernel,
        pad: None,
        window,
        channels: filters,
        filters: channels,
    };
    Kernels::active().conv2d_f32(&conv, None, 0..window.out_h, &mut gradient);
    array(x, gradient)
}

/// Returns the gradient before a transposed convolution of each channel on its own.
pub(super) fn depthwise_transposed(
    x: &[usize],
    y: &Gradient,
    op: &DepthwiseTransposedOp,
) -> Gradient {
    let (kh, kw, channels) = op.kernel.dim();
    let kernel: Vec<f32> = op.kernel.iter().map(|w| weight(*w)).collect();
    let window = gathered(x, y, ([kh, kw], op.strides, Padding::Same));
    let mut gradient = vec![0.0; x.iter().product()];
    let conv = Depthwise {
        x: &y.iter().copied().collect::<Vec<_>>(),
        kernel: &kernel,
        pad: None,
        window,
        channels,
    };
    Kernels::active().depthwise_f32(&conv, None, 0..window.out_h, &mut gradient);
    array(x, gradient)
}

/// Returns the gradient before a convolution: a transposed one, with its kernel
/// `[height, width, filters, channels]`.
fn spread(
    x: &[usize],
    y: &Gradient,
    kernel: &[f32],
    (extents, [strides, dilation], before): ([usize; 2], [[usize; 2]; 2], [usize; 2]),
) -> Gradient {
    let window = transposed_window(x, y, (extents, [strides, dilation], before));
    let mut gradient = vec![0.0; x.iter().product()];
    let conv = ConvTranspose2d {
        x: &y.iter().copied().collect::<Vec<_>>(),
        kernel,
        window,
        channels: y.shape()[3],
        filters: x[3],
    };
    Kernels::active().conv2d_transpose_f32(&conv, None, 0..window.out_h, &mut gradient);
    array(x, gradient)
}

/// Returns the gradient before a convolution of each channel on its own.
pub(super) fn depthwise(x: &[usize], y: &Gradient, op: &DepthwiseOp) -> Gradient {
    let (kh, kw, channels) = op.kernel.dim();
    let before = [0, 1].map(|a| match op.padding {
        Padding::Same => same_pads(x[a + 1], [kh, kw][a], op.strides[a], op.dilation[a]).0,
        Padding::Valid => 0,
    });
    let window = transposed_window(x, y, ([kh, kw], [op.strides, op.dilation], before));
    let kernel: Vec<f32> = op.kernel.iter().map(|w| weight(*w)).collect();
    let mut gradient = vec![0.0; x.iter().product()];
    let conv = DepthwiseTranspose {
        x: &y.iter().copied().collect::<Vec<_>>(),
        kernel: &kernel,
        window,
        channels,
    };
    Kernels::active().depthwise_transpose_f32(&conv, None, 0..window.out_h, &mut gradient);
    array(x, gradient)
}

/// Returns the window that takes results back to the inputs of a convolution.
fn transposed_window(
    x: &[usize],
    y: &Gradient,
    (kernel, [strides, dilation], before): ([usize; 2], [[usize; 2]; 2], [usize; 2]),
) -> Window {
    Window {
        in_h: y.shape()[1],
        in_w: y.shape()[2],
        out_h: x[1],
        out_w: x[2],
        kernel_h: kernel[0],
        kernel_w: kernel[1],
        stride_h: strides[0],
        stride_w: strides[1],
        dilation_h: dilation[0],
        dilation_w: dilation[1],
        pad_top: before[0],
        pad_left: before[1],
    }
}

/// Returns the window that takes results back to the inputs of a transposed convolution.
fn gathered(
    x: &[usize],
    y: &Gradient,
    (kernel, strides, padding): ([usize; 2], [usize; 2], Padding),
) -> Window {
    let crop =
        [0, 1].map(|a| transposed_crop(x[a + 1], y.shape()[a + 1], kernel[a], strides[a], padding));
    transposed_window(x, y, (kernel, [strides, [1, 1]], crop))
}

/// Returns the gradient before a pooling: each result comes from the first largest of its window.
pub(super) fn max_pool(op: PoolOp, x: &ArrayD<i64>, y: &Gradient) -> Gradient {
    let shape = x.shape();
    let mut gradient = ArrayD::zeros(IxDyn(shape));
    let before = [0, 1].map(|a| match op.padding {
        Padding::Same => same_pads(shape[a + 1], op.pool_size[a], op.strides[a], 1).0,
        Padding::Valid => 0,
    });
    for (at, g) in y.indexed_iter().filter(|(_, g)| **g != 0.0) {
        let mut best: Option<([usize; 4], i64)> = None;
        for (ti, tj) in (0..op.pool_size[0]).flat_map(|i| (0..op.pool_size[1]).map(move |j| (i, j)))
        {
            let r = (at[1] * op.strides[0] + ti).checked_sub(before[0]);
            let s = (at[2] * op.strides[1] + tj).checked_sub(before[1]);
            let inside = r.zip(s).filter(|(r, s)| *r < shape[1] && *s < shape[2]);
            if let Some((r, s)) = inside {
                let place = [at[0], r, s, at[3]];
                if best.is_none_or(|(_, v)| x[place] > v) {
                    best = Some((place, x[place]));
                }
            }
        }
        if let Some((place, _)) = best {
            gradient[place] += g;
        }
    }
    gradient
}
