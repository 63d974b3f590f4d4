//! Exact extremes of sums of products: each weight takes the end of its input's range that its
//! sign asks for, at the position of the output that lets it (the border included).

use std::collections::BTreeSet;

use float_model::{Padding, Shape};
use ndarray::{Array2, Array3, Array4};
use quantizer_core::layers::{
    Border, ConvOp, DepthwiseOp, DepthwiseTransposedOp, IntegerOp, TransposedOp,
};

use super::Range;
use super::taps::{Taps, conv_taps, transposed_taps, window_taps};

/// Returns the range of each channel's sums of products for entered inputs of ranges `x`, items of
/// `shape`; `None` for an operation that sums no products.
///
/// The ranges are exact: for each end there is an output position and an input that reach it, as
/// long as elements are independent. For an extent that is open they hold for every one, and are
/// exact where the ranges hold what the border holds.
#[must_use]
pub fn sum_ranges(op: &IntegerOp, x: &[Range], shape: &Shape) -> Option<Vec<Range>> {
    if let IntegerOp::Conv2D(op) = op {
        Some(conv2d(op, x, shape))
    } else if let IntegerOp::DepthwiseConv2D(op) = op {
        Some(depthwise(op, x, shape))
    } else if let IntegerOp::Conv2DTranspose(op) = op {
        Some(transposed(op, x, shape))
    } else if let IntegerOp::DepthwiseConv2DTranspose(op) = op {
        Some(depthwise_transposed(op, x, shape))
    } else if let IntegerOp::Dense { kernel } = op {
        Some(dense(kernel, x))
    } else {
        None
    }
}

/// Returns the range of each filter's sums.
pub(super) fn conv2d(op: &ConvOp, x: &[Range], shape: &Shape) -> Vec<Range> {
    let (kh, kw, channels, filters) = op.kernel.dim();
    let border = |c: usize| match &op.border {
        Border::Value(values) => values.at(c),
        Border::Same | Border::Valid => 0,
    };
    let taps = [0, 1].map(|axis| {
        let n = shape.get(axis).copied().flatten();
        conv_taps(op, n, axis, [kh, kw][axis])
    });
    let inside = tap_ranges(&op.kernel, x);
    let outside: Vec<Vec<i64>> = per_tap(&op.kernel, |tap| {
        (0..filters)
            .map(|f| (0..channels).map(|c| border(c) * tap(c, f)).sum())
            .collect()
    });
    let outside = |tap: usize, f: usize| Range::from(outside[tap][f]);
    over_positions(&taps, kw, filters, |tap, f| inside[tap][f], outside)
}

/// Returns the range of each channel's sums.
pub(super) fn depthwise(op: &DepthwiseOp, x: &[Range], shape: &Shape) -> Vec<Range> {
    let (kh, kw, channels) = op.kernel.dim();
    let taps = [0, 1].map(|axis| {
        let n = shape.get(axis).copied().flatten();
        let (stride, dilation) = (op.strides[axis], op.dilation[axis]);
        window_taps(n, [kh, kw][axis], stride, dilation, op.padding)
    });
    let inside = depthwise_taps(&op.kernel, x);
    over_positions(&taps, kw, channels, inside, |_, _| Range::ZERO)
}

/// Returns the range of each filter's sums; positions that no input reaches are 0.
pub(super) fn transposed(op: &TransposedOp, x: &[Range], shape: &Shape) -> Vec<Range> {
    let (kh, kw, _, filters) = op.kernel.dim();
    let taps = [0, 1].map(|axis| {
        let n = shape.get(axis).copied().flatten();
        let extra = op.output_padding.map(|p| p[axis]);
        transposed_taps(n, [kh, kw][axis], op.strides[axis], op.padding, extra)
    });
    let inside = tap_ranges(&op.kernel, x);
    over_positions(
        &taps,
        kw,
        filters,
        |tap, f| inside[tap][f],
        |_, _| Range::ZERO,
    )
}

/// Returns the range of each channel's sums.
pub(super) fn depthwise_transposed(
    op: &DepthwiseTransposedOp,
    x: &[Range],
    shape: &Shape,
) -> Vec<Range> {
    let (kh, kw, channels) = op.kernel.dim();
    let taps = [0, 1].map(|axis| {
        let n = shape.get(axis).copied().flatten();
        transposed_taps(n, [kh, kw][axis], op.strides[axis], Padding::Same, None)
    });
    let inside = depthwise_taps(&op.kernel, x);
    over_positions(&taps, kw, channels, inside, |_, _| Range::ZERO)
}

/// Returns the range of each unit's sums.
pub(super) fn dense(kernel: &Array2<i32>, x: &[Range]) -> Vec<Range> {
    let units = kernel.columns().into_iter();
    units
        .map(|column| {
            let products = column.iter().zip(x).map(|(w, x)| x.times(i64::from(*w)));
            products.fold(Range::ZERO, Range::plus)
        })
        .collect()
}

/// Returns `[tap][filter]`: the range of the products of one tap, summed over its channels.
fn tap_ranges(kernel: &Array4<i32>, x: &[Range]) -> Vec<Vec<Range>> {
    let filters = kernel.dim().3;
    per_tap(kernel, |tap| {
        let range = |f: usize| {
            let products = x.iter().enumerate().map(|(c, x)| x.times(tap(c, f)));
            products.fold(Range::ZERO, Range::plus)
        };
        (0..filters).map(range).collect()
    })
}

/// Returns `f(weight of channel and filter)` for each tap, row by row.
fn per_tap<T>(kernel: &Array4<i32>, f: impl Fn(&dyn Fn(usize, usize) -> i64) -> T) -> Vec<T> {
    let (kh, kw, _, _) = kernel.dim();
    let taps = (0..kh).flat_map(|i| (0..kw).map(move |j| (i, j)));
    taps.map(|(i, j)| f(&|c, filter| i64::from(kernel[[i, j, c, filter]])))
        .collect()
}

fn depthwise_taps(kernel: &Array3<i32>, x: &[Range]) -> impl Fn(usize, usize) -> Range {
    let (_, kw, _) = kernel.dim();
    move |tap, c| {
        let weight = kernel[[tap.div_euclid(kw), tap.rem_euclid(kw), c]];
        x[c].times(i64::from(weight))
    }
}

/// Returns the union over all output positions of the sums over taps.
fn over_positions(
    [rows, cols]: &[BTreeSet<Taps>; 2],
    kw: usize,
    n_channels: usize,
    inside: impl Fn(usize, usize) -> Range,
    outside: impl Fn(usize, usize) -> Range,
) -> Vec<Range> {
    let sum = |rows: &Taps, cols: &Taps, channel: usize| {
        let mut sum = Range::ZERO;
        for (i, row) in rows.iter().enumerate() {
            for (j, col) in cols.iter().enumerate() {
                let tap = i * kw + j;
                let term = if *row && *col {
                    inside(tap, channel)
                } else {
                    outside(tap, channel)
                };
                sum = sum.plus(term);
            }
        }
        sum
    };
    let range = |channel: usize| {
        let positions = rows.iter().flat_map(|r| cols.iter().map(move |c| (r, c)));
        let sums = positions.map(|(r, c)| sum(r, c, channel));
        sums.reduce(Range::union).unwrap_or(Range::ZERO)
    };
    (0..n_channels).map(range).collect()
}

impl From<i64> for Range {
    fn from(v: i64) -> Self {
        Self { lo: v, hi: v }
    }
}
