//! The f32 operations.

use std::ops::Range;

use crate::chain::Fused;
use crate::isa::Kernels;
use crate::operands::{Conv2d, ConvTranspose2d, Dense, Depthwise, DepthwiseTranspose};
use crate::operations::{conv2d, conv2d_transpose, depthwise, depthwise_transpose, matrix_product};

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
        conv2d::<Fused>(self, conv, bias, rows, out);
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
        depthwise::<Fused>(self, conv, bias, rows, out);
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
        matrix_product::<Fused>(self, dense, bias, out);
    }
}
