//! The f32 operations.

use std::ops::Range;

use crate::chain::Fused;
use crate::contract::{check_len, check_per_channel, check_window};
use crate::depthwise_walk::DepthwiseWalk;
use crate::dispatch::{dispatch_f32, dispatch_f32_per_channel};
use crate::ending::Ending;
use crate::float_products::{FloatMixing, FloatPerChannel, Floats};
use crate::isa::Kernels;
use crate::operands::{Conv2d, ConvTranspose2d, Dense, Depthwise, DepthwiseTranspose};
use crate::operations::{conv2d_transpose, depthwise_transpose, outside, plan};
use crate::plan::{Direction, Patch};

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
    /// Panics if a length disagrees with the extents, `rows` is not in `0..out_h`, or the window is not valid.
    pub fn conv2d_f32(
        self,
        conv: &Conv2d<'_, f32, f32>,
        bias: Option<&[f32]>,
        rows: Range<usize>,
        out: &mut [f32],
    ) {
        self.conv2d_ended_f32(conv, Ending::of_bias(bias), rows, out);
    }

    /// Writes the output rows `rows` of a convolution into `out`, as [`conv2d_f32`](Self::conv2d_f32), its chains ended
    /// as `ending` says.
    ///
    /// # Panics
    ///
    /// As [`conv2d_f32`](Self::conv2d_f32); `ending` has one value per filter.
    pub fn conv2d_ended_f32(
        self,
        conv: &Conv2d<'_, f32, f32>,
        mut ending: Ending<'_>,
        rows: Range<usize>,
        out: &mut [f32],
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
        ending.check(filters);
        check_len("output", out.len(), &[rows.len(), window.out_w, filters]);
        for patch in &plan(&window, Direction::Forward, outside(pad), rows, out.len()) {
            let floats = Floats {
                x,
                kernel,
                pad: pad.unwrap_or_default(),
                channels,
                patch,
                ending: ending.again(),
                out,
            };
            dispatch_f32(self, FloatMixing { floats, filters });
        }
    }

    /// Writes the output rows `rows` of a depthwise convolution into `out`, `[rows, out_w, channels]`.
    ///
    /// `bias` has one value per channel. NUMERICS.md F1, N16.
    ///
    /// # Panics
    ///
    /// Panics if a length disagrees with the extents, `rows` is not in `0..out_h`, or the window is not valid.
    pub fn depthwise_f32(
        self,
        conv: &Depthwise<'_, f32, f32>,
        bias: Option<&[f32]>,
        rows: Range<usize>,
        out: &mut [f32],
    ) {
        self.depthwise_ended_f32(conv, Ending::of_bias(bias), rows, out);
    }

    /// Writes the output rows `rows` of a depthwise convolution into `out`, as [`depthwise_f32`](Self::depthwise_f32),
    /// its chains ended as `ending` says.
    ///
    /// # Panics
    ///
    /// As [`depthwise_f32`](Self::depthwise_f32); `ending` has one value per channel.
    pub fn depthwise_ended_f32(
        self,
        conv: &Depthwise<'_, f32, f32>,
        mut ending: Ending<'_>,
        rows: Range<usize>,
        out: &mut [f32],
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
        ending.check(channels);
        check_len("output", out.len(), &[rows.len(), window.out_w, channels]);
        let skips = pad.is_none() && !out.is_empty();
        if skips && DepthwiseWalk::suits(&window, channels) {
            let job = DepthwiseWalk {
                x,
                kernel,
                window,
                channels,
                rows,
                ending,
                out,
            };
            dispatch_f32_per_channel(self, job);
            return;
        }
        for patch in &plan(&window, Direction::Forward, outside(pad), rows, out.len()) {
            let floats = Floats {
                x,
                kernel,
                pad: pad.unwrap_or_default(),
                channels,
                patch,
                ending: ending.again(),
                out,
            };
            dispatch_f32(self, FloatPerChannel { floats });
        }
    }

    /// Writes the output rows `rows` of a transposed convolution into `out`, `[rows, out_w, filters]`.
    ///
    /// `bias` has one value per filter. Gather form: the chain of an output element runs over the taps that reach it.
    /// NUMERICS.md F1, N26.
    ///
    /// # Panics
    ///
    /// Panics if a length disagrees with the extents, `rows` is not in `0..out_h`, or the window is not valid.
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
    /// Panics if a length disagrees with the extents, `rows` is not in `0..out_h`, or the window is not valid.
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
        self.dense_ended_f32(dense, Ending::of_bias(bias), out);
    }

    /// Writes the matrix product into `out`, as [`dense_f32`](Self::dense_f32), its chains ended as `ending` says.
    ///
    /// # Panics
    ///
    /// As [`dense_f32`](Self::dense_f32); `ending` has one value per filter.
    pub fn dense_ended_f32(
        self,
        dense: &Dense<'_, f32, f32>,
        mut ending: Ending<'_>,
        out: &mut [f32],
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
        ending.check(filters);
        let block = rows_of_block(n_rows);
        let mut patch = Patch::of_rows(block);
        for (index, out) in out.chunks_mut((block * filters).max(1)).enumerate() {
            let n_rows = out.len().div_euclid(filters);
            patch.pixels.truncate(n_rows);
            let floats = Floats {
                x: &x[index * block * channels..][..n_rows * channels],
                kernel,
                pad: &[],
                channels,
                patch: &patch,
                ending: ending.again(),
                out,
            };
            dispatch_f32(self, FloatMixing { floats, filters });
        }
    }
}

/// Rows of a matrix that pass over one strip of its columns before the next strip is read.
const ROWS: usize = 192;

/// Pixels that every tile divides.
const TILE: usize = 24;

/// Returns how many of `n_rows` rows are computed together: about [`ROWS`], in blocks of much the same size, since the
/// whole matrix of weights is read again for each.
fn rows_of_block(n_rows: usize) -> usize {
    let n_blocks = (n_rows + ROWS.div_euclid(2)).div_euclid(ROWS).max(1);
    if n_blocks == 1 {
        n_rows
    } else {
        n_rows.div_ceil(n_blocks).next_multiple_of(TILE)
    }
}
