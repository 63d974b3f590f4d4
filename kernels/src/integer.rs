//! The integer operations.

use std::ops::Range;

use crate::chain::{Accumulator, Activation, Exact, Weight};
use crate::isa::Kernels;
use crate::operands::{Conv2d, ConvTranspose2d, Dense, Depthwise, DepthwiseTranspose, MaxPool};
use crate::operations::{
    conv2d, conv2d_transpose, depthwise, depthwise_transpose, matrix_product, max_pool,
};

/// Integer operations: sums of products, exact.
///
/// The caller guarantees that no partial sum leaves `A`, for instance by a bound on `sum |x * w|`. A sum that does
/// wraps around, or panics where overflow checks are on.
impl Kernels {
    /// Writes the output rows `rows` of a convolution into `out`, `[rows, out_w, filters]`. NUMERICS.md N15.
    ///
    /// # Panics
    ///
    /// Panics if a length disagrees with the extents, `rows` is not in `0..out_h`, or the window is not valid.
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
    /// Panics if a length disagrees with the extents, `rows` is not in `0..out_h`, or the window is not valid.
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
    /// Panics if a length disagrees with the extents, `rows` is not in `0..out_h`, or the window is not valid.
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
    /// Panics if a length disagrees with the extents, `rows` is not in `0..out_h`, or the window is not valid.
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
    /// Panics if a length disagrees with the extents, `rows` is not in `0..out_h`, or the window is not valid.
    pub fn max_pool_int<X: Activation>(
        self,
        pool: &MaxPool<'_, X>,
        rows: Range<usize>,
        out: &mut [X],
    ) {
        max_pool(self, pool, rows, out);
    }
}
