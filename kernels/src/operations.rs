//! The operations for any chain: they check their operands, plan, and run each patch.

use std::ops::Range;

use crate::chain::{Activation, Chain};
use crate::contract::{check_len, check_per_channel, check_window};
use crate::dispatch::dispatch;
use crate::isa::Kernels;
use crate::operands::{
    Conv2d, ConvTranspose2d, Dense, Depthwise, DepthwiseTranspose, MaxPool, Window,
};
use crate::plan::{Direction, Outside, Patch, patches};
use crate::products::{Factors, Maximum, Mixing, PerChannel};

pub(crate) fn conv2d<C: Chain>(
    kernels: Kernels,
    conv: &Conv2d<'_, C::X, C::W>,
    bias: Option<&[C::A]>,
    rows: Range<usize>,
    out: &mut [C::A],
) {
    let Conv2d {
        x,
        kernel,
        pad,
        window,
        channels,
        filters,
    } = *conv;
    check_window(&window, &rows);
    check_len("input", x.len(), &[window.in_h, window.in_w, channels]);
    check_len(
        "kernel",
        kernel.len(),
        &[window.kernel_h, window.kernel_w, channels, filters],
    );
    check_per_channel("padding", pad, channels);
    check_per_channel("bias", bias, filters);
    check_len("output", out.len(), &[rows.len(), window.out_w, filters]);
    let outside = outside(pad);
    let factors = Factors {
        x,
        kernel,
        pad: pad.unwrap_or_default(),
        bias,
    };
    for patch in &plan(&window, Direction::Forward, outside, rows, out.len()) {
        dispatch(
            kernels,
            Mixing::<C> {
                factors,
                channels,
                filters,
                patch,
                out,
            },
        );
    }
}

pub(crate) fn depthwise<C: Chain>(
    kernels: Kernels,
    conv: &Depthwise<'_, C::X, C::W>,
    bias: Option<&[C::A]>,
    rows: Range<usize>,
    out: &mut [C::A],
) {
    let Depthwise {
        x,
        kernel,
        pad,
        window,
        channels,
    } = *conv;
    check_window(&window, &rows);
    check_len("input", x.len(), &[window.in_h, window.in_w, channels]);
    check_len(
        "kernel",
        kernel.len(),
        &[window.kernel_h, window.kernel_w, channels],
    );
    check_per_channel("padding", pad, channels);
    check_per_channel("bias", bias, channels);
    check_len("output", out.len(), &[rows.len(), window.out_w, channels]);
    let outside = outside(pad);
    let factors = Factors {
        x,
        kernel,
        pad: pad.unwrap_or_default(),
        bias,
    };
    for patch in &plan(&window, Direction::Forward, outside, rows, out.len()) {
        dispatch(
            kernels,
            PerChannel::<C> {
                factors,
                channels,
                patch,
                out,
            },
        );
    }
}

pub(crate) fn conv2d_transpose<C: Chain>(
    kernels: Kernels,
    conv: &ConvTranspose2d<'_, C::X, C::W>,
    bias: Option<&[C::A]>,
    rows: Range<usize>,
    out: &mut [C::A],
) {
    let ConvTranspose2d {
        x,
        kernel,
        window,
        channels,
        filters,
    } = *conv;
    check_window(&window, &rows);
    check_len("input", x.len(), &[window.in_h, window.in_w, channels]);
    check_len(
        "kernel",
        kernel.len(),
        &[window.kernel_h, window.kernel_w, channels, filters],
    );
    check_per_channel("bias", bias, filters);
    check_len("output", out.len(), &[rows.len(), window.out_w, filters]);
    let factors = Factors {
        x,
        kernel,
        pad: &[],
        bias,
    };
    for patch in &plan(
        &window,
        Direction::Transposed,
        Outside::Skip,
        rows,
        out.len(),
    ) {
        dispatch(
            kernels,
            Mixing::<C> {
                factors,
                channels,
                filters,
                patch,
                out,
            },
        );
    }
}

pub(crate) fn depthwise_transpose<C: Chain>(
    kernels: Kernels,
    conv: &DepthwiseTranspose<'_, C::X, C::W>,
    bias: Option<&[C::A]>,
    rows: Range<usize>,
    out: &mut [C::A],
) {
    let DepthwiseTranspose {
        x,
        kernel,
        window,
        channels,
    } = *conv;
    check_window(&window, &rows);
    check_len("input", x.len(), &[window.in_h, window.in_w, channels]);
    check_len(
        "kernel",
        kernel.len(),
        &[window.kernel_h, window.kernel_w, channels],
    );
    check_per_channel("bias", bias, channels);
    check_len("output", out.len(), &[rows.len(), window.out_w, channels]);
    let factors = Factors {
        x,
        kernel,
        pad: &[],
        bias,
    };
    for patch in &plan(
        &window,
        Direction::Transposed,
        Outside::Skip,
        rows,
        out.len(),
    ) {
        dispatch(
            kernels,
            PerChannel::<C> {
                factors,
                channels,
                patch,
                out,
            },
        );
    }
}

pub(crate) fn matrix_product<C: Chain>(
    kernels: Kernels,
    dense: &Dense<'_, C::X, C::W>,
    bias: Option<&[C::A]>,
    out: &mut [C::A],
) {
    let Dense {
        x,
        kernel,
        channels,
        filters,
    } = *dense;
    if filters == 0 {
        return;
    }
    let n_rows = out.len().div_euclid(filters);
    check_len("kernel", kernel.len(), &[channels, filters]);
    check_len("input", x.len(), &[n_rows, channels]);
    check_len("output", out.len(), &[n_rows, filters]);
    check_per_channel("bias", bias, filters);
    // Each row of the matrix is a pixel.
    let window = Window::pointwise(n_rows, 1);
    let factors = Factors {
        x,
        kernel,
        pad: &[],
        bias,
    };
    for patch in &plan(
        &window,
        Direction::Forward,
        Outside::Skip,
        0..n_rows,
        out.len(),
    ) {
        dispatch(
            kernels,
            Mixing::<C> {
                factors,
                channels,
                filters,
                patch,
                out,
            },
        );
    }
}

pub(crate) fn max_pool<X: Activation>(
    kernels: Kernels,
    pool: &MaxPool<'_, X>,
    rows: Range<usize>,
    out: &mut [X],
) {
    let MaxPool {
        x,
        window,
        channels,
    } = *pool;
    check_window(&window, &rows);
    check_len("input", x.len(), &[window.in_h, window.in_w, channels]);
    check_len("output", out.len(), &[rows.len(), window.out_w, channels]);
    for patch in &plan(&window, Direction::Forward, Outside::Skip, rows, out.len()) {
        dispatch(
            kernels,
            Maximum {
                x,
                channels,
                patch,
                out,
            },
        );
    }
}

pub(crate) fn outside<X>(pad: Option<&[X]>) -> Outside {
    match pad {
        Some(_) => Outside::Pad,
        None => Outside::Skip,
    }
}

/// Returns the patches of a valid window, none for an empty output.
pub(crate) fn plan(
    window: &Window,
    direction: Direction,
    outside: Outside,
    rows: Range<usize>,
    n_out: usize,
) -> Vec<Patch> {
    if n_out == 0 {
        Vec::new()
    } else {
        patches(window, direction, outside, rows)
    }
}
