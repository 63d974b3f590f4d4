//! The operations.

use std::ops::Range;

use crate::chain::{Accumulator, Activation, Chain, Exact, Fused, Weight};
use crate::contract::{check_len, check_per_channel, check_window};
use crate::dispatch::dispatch;
use crate::isa::Kernels;
use crate::operands::{
    Conv2d, ConvTranspose2d, Dense, Depthwise, DepthwiseTranspose, MaxPool, Window,
};
use crate::plan::{Direction, Outside, Patch, patches};
use crate::products::{Factors, Maximum, Mixing, PerChannel};

/// f32 operations (NUMERICS.md F1).
///
/// Each output element is one chain of fused multiply-adds over its taps, in the order kernel row, kernel column,
/// channel; each step is rounded once, ties to even:
///
/// ```text
/// acc_0 = +0
/// acc_k = fma(x_k, w_k, acc_{k-1})
/// out   = acc_K + bias        (no addition without a bias)
/// ```
///
/// Taps that are skipped are no steps of the chain.
impl Kernels {
    /// Writes the output rows `rows` of a convolution into `out`, `[rows, out_w, filters]`.
    ///
    /// `bias` has one value per filter. NUMERICS.md F1, N15.
    ///
    /// # Panics
    ///
    /// Panics if a length disagrees with the extents, `rows` is not in `0..out_h`, or the [`Window`] is not valid.
    pub fn conv2d_f32(
        self,
        conv: &Conv2d<'_, f32, f32>,
        bias: Option<&[f32]>,
        rows: Range<usize>,
        out: &mut [f32],
    ) {
        conv2d::<Fused>(self, conv, bias, rows, out);
    }

    /// Writes the output rows `rows` of a depthwise convolution into `out`, `[rows, out_w, channels]`.
    ///
    /// `bias` has one value per channel. NUMERICS.md F1, N16.
    ///
    /// # Panics
    ///
    /// Panics if a length disagrees with the extents, `rows` is not in `0..out_h`, or the [`Window`] is not valid.
    pub fn depthwise_f32(
        self,
        conv: &Depthwise<'_, f32, f32>,
        bias: Option<&[f32]>,
        rows: Range<usize>,
        out: &mut [f32],
    ) {
        depthwise::<Fused>(self, conv, bias, rows, out);
    }

    /// Writes the output rows `rows` of a transposed convolution into `out`, `[rows, out_w, filters]`.
    ///
    /// `bias` has one value per filter. Gather form: the chain of an output element runs over the taps that reach it.
    /// NUMERICS.md F1, N26.
    ///
    /// # Panics
    ///
    /// Panics if a length disagrees with the extents, `rows` is not in `0..out_h`, or the [`Window`] is not valid.
    pub fn conv2d_transpose_f32(
        self,
        conv: &ConvTranspose2d<'_, f32, f32>,
        bias: Option<&[f32]>,
        rows: Range<usize>,
        out: &mut [f32],
    ) {
        conv2d_transpose::<Fused>(self, conv, bias, rows, out);
    }

    /// Writes the output rows `rows` of a transposed depthwise convolution into `out`, `[rows, out_w, channels]`.
    ///
    /// `bias` has one value per channel. NUMERICS.md F1, N26.
    ///
    /// # Panics
    ///
    /// Panics if a length disagrees with the extents, `rows` is not in `0..out_h`, or the [`Window`] is not valid.
    pub fn depthwise_transpose_f32(
        self,
        conv: &DepthwiseTranspose<'_, f32, f32>,
        bias: Option<&[f32]>,
        rows: Range<usize>,
        out: &mut [f32],
    ) {
        depthwise_transpose::<Fused>(self, conv, bias, rows, out);
    }

    /// Writes the matrix product into `out`, `[rows, filters]`; the chains run over the channels.
    ///
    /// `bias` has one value per filter. NUMERICS.md F1, N18.
    ///
    /// # Panics
    ///
    /// Panics if a length disagrees with the extents.
    pub fn dense_f32(self, dense: &Dense<'_, f32, f32>, bias: Option<&[f32]>, out: &mut [f32]) {
        matrix_product::<Fused>(self, dense, bias, out);
    }
}

/// Integer operations: sums of products, exact.
///
/// The caller guarantees that no partial sum leaves `A`, for instance by a bound on `sum |x * w|`. A sum that does
/// wraps around, or panics where overflow checks are on.
impl Kernels {
    /// Writes the output rows `rows` of a convolution into `out`, `[rows, out_w, filters]`. NUMERICS.md N15.
    ///
    /// # Panics
    ///
    /// Panics if a length disagrees with the extents, `rows` is not in `0..out_h`, or the [`Window`] is not valid.
    pub fn conv2d_int<X, W, A>(self, conv: &Conv2d<'_, X, W>, rows: Range<usize>, out: &mut [A])
    where
        X: Activation,
        W: Weight,
        A: Accumulator + From<X> + From<W>,
    {
        conv2d::<Exact<X, W, A>>(self, conv, None, rows, out);
    }

    /// Writes the output rows `rows` of a depthwise convolution into `out`, `[rows, out_w, channels]`.
    /// NUMERICS.md N16.
    ///
    /// # Panics
    ///
    /// Panics if a length disagrees with the extents, `rows` is not in `0..out_h`, or the [`Window`] is not valid.
    pub fn depthwise_int<X, W, A>(
        self,
        conv: &Depthwise<'_, X, W>,
        rows: Range<usize>,
        out: &mut [A],
    ) where
        X: Activation,
        W: Weight,
        A: Accumulator + From<X> + From<W>,
    {
        depthwise::<Exact<X, W, A>>(self, conv, None, rows, out);
    }

    /// Writes the output rows `rows` of a transposed convolution into `out`, `[rows, out_w, filters]`.
    /// NUMERICS.md N26.
    ///
    /// # Panics
    ///
    /// Panics if a length disagrees with the extents, `rows` is not in `0..out_h`, or the [`Window`] is not valid.
    pub fn conv2d_transpose_int<X, W, A>(
        self,
        conv: &ConvTranspose2d<'_, X, W>,
        rows: Range<usize>,
        out: &mut [A],
    ) where
        X: Activation,
        W: Weight,
        A: Accumulator + From<X> + From<W>,
    {
        conv2d_transpose::<Exact<X, W, A>>(self, conv, None, rows, out);
    }

    /// Writes the output rows `rows` of a transposed depthwise convolution into `out`, `[rows, out_w, channels]`.
    /// NUMERICS.md N26.
    ///
    /// # Panics
    ///
    /// Panics if a length disagrees with the extents, `rows` is not in `0..out_h`, or the [`Window`] is not valid.
    pub fn depthwise_transpose_int<X, W, A>(
        self,
        conv: &DepthwiseTranspose<'_, X, W>,
        rows: Range<usize>,
        out: &mut [A],
    ) where
        X: Activation,
        W: Weight,
        A: Accumulator + From<X> + From<W>,
    {
        depthwise_transpose::<Exact<X, W, A>>(self, conv, None, rows, out);
    }

    /// Writes the matrix product into `out`, `[rows, filters]`. NUMERICS.md N18.
    ///
    /// # Panics
    ///
    /// Panics if a length disagrees with the extents.
    pub fn dense_int<X, W, A>(self, dense: &Dense<'_, X, W>, out: &mut [A])
    where
        X: Activation,
        W: Weight,
        A: Accumulator + From<X> + From<W>,
    {
        matrix_product::<Exact<X, W, A>>(self, dense, None, out);
    }

    /// Writes the output rows `rows` of a maximum over windows into `out`, `[rows, out_w, channels]`.
    ///
    /// A window without a tap inside the image gives `X::MIN`. NUMERICS.md N20.
    ///
    /// # Panics
    ///
    /// Panics if a length disagrees with the extents, `rows` is not in `0..out_h`, or the [`Window`] is not valid.
    pub fn max_pool_int<X: Activation>(
        self,
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
                self,
                Maximum {
                    x,
                    channels,
                    patch,
                    out,
                },
            );
        }
    }
}

/// Returns the patches of a valid window, none for an empty output.
fn plan(
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

fn conv2d<C: Chain>(
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
    let outside = if pad.is_some() {
        Outside::Pad
    } else {
        Outside::Skip
    };
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

fn depthwise<C: Chain>(
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
    let outside = if pad.is_some() {
        Outside::Pad
    } else {
        Outside::Skip
    };
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

fn conv2d_transpose<C: Chain>(
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

fn depthwise_transpose<C: Chain>(
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

fn matrix_product<C: Chain>(
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
