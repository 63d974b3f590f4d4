//! Sums of products: the least and the largest that any position of the output can hold.
#![expect(
    clippy::integer_division,
    reason = "taps and extents; the named functions belong to the code that is checked"
)]

use std::collections::BTreeSet;

use float_model::Padding;
use ndarray::Array2;
use quantizer_core::layers::{
    Border, ConvOp, DepthwiseOp, DepthwiseTransposedOp, IntegerOp, TransposedOp,
};

use super::span::{Span, join, plus, times};

/// Extents of an item.
type Extents<'a> = &'a [Option<usize>];

/// Which taps of one axis read a pixel, at some position of the output.
type Taps = BTreeSet<Vec<bool>>;

/// Where a window stands at its first position.
#[derive(Clone, Copy)]
enum Rule {
    Valid,
    Same,
    /// 'Same' of an undilated window, filled; then 'valid'.
    Filled,
}

/// Returns the sums of an operation of windows, `None` for any other.
pub(super) fn windows(op: &IntegerOp, x: &[Span], item: Extents<'_>) -> Option<Vec<Span>> {
    if let IntegerOp::Conv2D(op) = op {
        Some(convolution(op, x, item))
    } else if let IntegerOp::DepthwiseConv2D(op) = op {
        Some(depthwise(op, x, item))
    } else if let IntegerOp::Conv2DTranspose(op) = op {
        Some(transposed(op, x, item))
    } else if let IntegerOp::DepthwiseConv2DTranspose(op) = op {
        Some(depthwise_transposed(op, x, item))
    } else {
        None
    }
}

fn convolution(op: &ConvOp, x: &[Span], item: Extents<'_>) -> Vec<Span> {
    let (kh, kw, n, filters) = op.kernel.dim();
    let (rule, fill) = match &op.border {
        Border::Valid => (Rule::Valid, None),
        Border::Same => (Rule::Same, None),
        Border::Value(fill) => (Rule::Filled, Some(fill)),
    };
    let taps = [0, 1].map(|a| window(item[a], [kh, kw][a], (op.strides[a], op.dilation[a]), rule));
    let weight = |t: usize, c: usize, f: usize| op.kernel[[t / kw, t % kw, c, f]].into();
    let inside = |t, f| dot((0..n).map(|c| (x[c], weight(t, c, f))));
    let border = |c| fill.map_or(0, |fill| i128::from(fill.at(c)));
    let outside = |t, f| dot((0..n).map(|c| ((border(c), border(c)), weight(t, c, f))));
    over(&taps, filters, inside, outside)
}

pub(super) fn depthwise(op: &DepthwiseOp, x: &[Span], item: Extents<'_>) -> Vec<Span> {
    let (kh, kw, channels) = op.kernel.dim();
    let rule = match op.padding {
        Padding::Same => Rule::Same,
        Padding::Valid => Rule::Valid,
    };
    let taps = [0, 1].map(|a| window(item[a], [kh, kw][a], (op.strides[a], op.dilation[a]), rule));
    let inside = |t: usize, c: usize| times(x[c], op.kernel[[t / kw, t % kw, c]].into());
    over(&taps, channels, inside, |_, _| (0, 0))
}

fn transposed(op: &TransposedOp, x: &[Span], item: Extents<'_>) -> Vec<Span> {
    let (kh, kw, n, filters) = op.kernel.dim();
    let taps = [0, 1].map(|a| {
        let extra = op.output_padding.map(|p| p[a]);
        reached(item[a], [kh, kw][a], op.strides[a], (op.padding, extra))
    });
    let weight = |t: usize, c: usize, f: usize| op.kernel[[t / kw, t % kw, c, f]].into();
    let inside = |t, f| dot((0..n).map(|c| (x[c], weight(t, c, f))));
    over(&taps, filters, inside, |_, _| (0, 0))
}

fn depthwise_transposed(op: &DepthwiseTransposedOp, x: &[Span], item: Extents<'_>) -> Vec<Span> {
    let (kh, kw, channels) = op.kernel.dim();
    let taps = [0, 1].map(|a| reached(item[a], [kh, kw][a], op.strides[a], (Padding::Same, None)));
    let inside = |t: usize, c: usize| times(x[c], op.kernel[[t / kw, t % kw, c]].into());
    over(&taps, channels, inside, |_, _| (0, 0))
}

/// Returns the sums of a matrix product, `[channels, units]`.
pub(super) fn matrix(kernel: &Array2<i32>, x: &[Span]) -> Vec<Span> {
    let unit = |u| dot((0..x.len()).map(|c| (x[c], kernel[[c, u]].into())));
    (0..kernel.ncols()).map(unit).collect()
}

fn dot(terms: impl Iterator<Item = (Span, i128)>) -> Span {
    terms.map(|(x, w)| times(x, w)).fold((0, 0), plus)
}

/// Returns the taps inside the image at each position of a sliding window.
fn window(n: Option<usize>, kernel: usize, (stride, dilation): (usize, usize), rule: Rule) -> Taps {
    let Some(n) = n else { return runs(kernel) };
    let reach = (kernel - 1) * dilation + 1;
    let same = n.div_ceil(stride);
    let border = |span: usize| ((same - 1) * stride + span).saturating_sub(n);
    let (out, before) = match rule {
        Rule::Valid => ((n - reach) / stride + 1, 0),
        Rule::Same => (same, border(reach) / 2),
        Rule::Filled => (
            (n + border(kernel) - reach) / stride + 1,
            border(kernel) / 2,
        ),
    };
    let inside = |o: usize, t: usize| {
        let at = o * stride + t * dilation;
        at >= before && at < before + n
    };
    positions(out, kernel, inside)
}

/// Returns the taps that reach each position of a transposed window.
fn reached(
    n: Option<usize>,
    kernel: usize,
    stride: usize,
    (padding, extra): (Padding, Option<usize>),
) -> Taps {
    let Some(n) = n else { return runs(kernel) };
    let whole = (n - 1) * stride + kernel;
    let out = match (extra, padding) {
        (Some(extra), Padding::Same) => whole + extra - kernel / 2 * 2,
        (Some(extra), Padding::Valid) => whole + extra,
        (None, Padding::Same) => n * stride,
        (None, Padding::Valid) => n * stride + kernel.saturating_sub(stride),
    };
    let crop = match padding {
        Padding::Same => whole.saturating_sub(out) / 2,
        Padding::Valid => 0,
    };
    positions(out, kernel, |o, t| {
        (0..n).any(|i| i * stride + t == o + crop)
    })
}

fn positions(out: usize, kernel: usize, inside: impl Fn(usize, usize) -> bool) -> Taps {
    let at = |o| (0..kernel).map(|t| inside(o, t)).collect();
    (0..out).map(at).collect()
}

/// Returns all runs of taps: an axis of open extent may show any of them.
fn runs(kernel: usize) -> Taps {
    let pairs = (0..kernel).flat_map(|a| (a..kernel).map(move |b| (a, b)));
    let taps = pairs.map(|(a, b)| (0..kernel).map(|t| a <= t && t <= b).collect());
    taps.collect()
}

/// Returns the least and the largest sum over taps at any position, for each of `n_sums` sums.
fn over(
    [rows, cols]: &[Taps; 2],
    n_sums: usize,
    inside: impl Fn(usize, usize) -> Span,
    outside: impl Fn(usize, usize) -> Span,
) -> Vec<Span> {
    let width = |taps: &Taps| taps.first().map_or(0, Vec::len);
    let (kw, n) = (width(cols), width(rows) * width(cols));
    let sum = |f: usize| {
        let taps: Vec<(Span, Span)> = (0..n).map(|t| (inside(t, f), outside(t, f))).collect();
        let mut all: Option<Span> = None;
        for row in rows {
            for col in cols {
                let reads = |t: usize| row[t / kw] && col[t % kw];
                let term = |t: usize| if reads(t) { taps[t].0 } else { taps[t].1 };
                let sum = (0..n).map(term).fold((0, 0), plus);
                all = Some(all.map_or(sum, |seen| join(seen, sum)));
            }
        }
        all.unwrap_or((0, 0))
    };
    (0..n_sums).map(sum).collect()
}
