//! Sums of products: convolutions and the matrix product.

use ndarray::{Array2, Array4, ArrayD, IxDyn};

use super::{Border, ConvOp, DepthwiseOp};
use crate::geometry::{Padding, same_pads, window_extent};
use crate::{NumericsError, PerAxis};

/// Positions of a window along one axis.
#[derive(Clone, Copy)]
struct Line {
    n: usize,
    out: usize,
    before: usize,
    stride: usize,
    dilation: usize,
}

impl Line {
    /// Returns the input index of tap `tap` at output `out`, `None` in the border.
    fn index(self, out: usize, tap: usize) -> Option<usize> {
        (out * self.stride + tap * self.dilation)
            .checked_sub(self.before)
            .filter(|index| *index < self.n)
    }
}

/// Returns `acc[b, i, j, f] = sum over taps and channels of x * k`, exactly.
///
/// `x` is `[batch, height, width, channels]`. The border holds integer 0, or the padding value of
/// the channel. NUMERICS.md: N14, N15.
pub(super) fn conv2d(x: &Array4<i64>, op: &ConvOp) -> Result<Array4<i64>, NumericsError> {
    let (batch, h, w, c) = x.dim();
    let (kh, kw, kc, filters) = op.kernel.dim();
    if c != kc {
        return Err(NumericsError::Invalid(format!(
            "{c} input channels, expected {kc}"
        )));
    }
    let zero = PerAxis::Tensor(0);
    let border = match &op.border {
        Border::Value(values) => values,
        Border::Same | Border::Valid => &zero,
    };
    let rows = conv_line(h, kh, op.strides[0], op.dilation[0], &op.border)?;
    let cols = conv_line(w, kw, op.strides[1], op.dilation[1], &op.border)?;
    Ok(Array4::from_shape_fn(
        (batch, rows.out, cols.out, filters),
        |(b, i, j, f)| {
            let mut acc = 0;
            for ti in 0..kh {
                for tj in 0..kw {
                    let pixel = rows.index(i, ti).zip(cols.index(j, tj));
                    for ch in 0..c {
                        let value = pixel.map_or_else(|| border.at(ch), |(r, s)| x[[b, r, s, ch]]);
                        acc += value * i64::from(op.kernel[[ti, tj, ch, f]]);
                    }
                }
            }
            acc
        },
    ))
}

/// Returns `acc[b, i, j, c] = sum over taps of x * k`, exactly; the border is integer 0.
///
/// NUMERICS.md: N14, N16.
pub(super) fn depthwise_conv2d(
    x: &Array4<i64>,
    op: &DepthwiseOp,
) -> Result<Array4<i64>, NumericsError> {
    let (batch, h, w, c) = x.dim();
    let (kh, kw, kc) = op.kernel.dim();
    if c != kc {
        return Err(NumericsError::Invalid(format!(
            "{c} input channels, expected {kc}"
        )));
    }
    let rows = line(h, kh, op.strides[0], op.dilation[0], op.padding)?;
    let cols = line(w, kw, op.strides[1], op.dilation[1], op.padding)?;
    Ok(Array4::from_shape_fn(
        (batch, rows.out, cols.out, c),
        |(b, i, j, ch)| {
            let mut acc = 0;
            for ti in 0..kh {
                for tj in 0..kw {
                    if let Some((r, s)) = rows.index(i, ti).zip(cols.index(j, tj)) {
                        acc += x[[b, r, s, ch]] * i64::from(op.kernel[[ti, tj, ch]]);
                    }
                }
            }
            acc
        },
    ))
}

/// Returns `acc[..., u] = sum over channels of x * k`, exactly. NUMERICS.md: N18.
pub(super) fn dense(x: &ArrayD<i64>, kernel: &Array2<i32>) -> Result<ArrayD<i64>, NumericsError> {
    let (channels, units) = kernel.dim();
    let Some((last, leading)) = x
        .shape()
        .split_last()
        .filter(|(last, _)| **last == channels)
    else {
        return Err(NumericsError::Invalid(format!(
            "inputs of shape {:?}, expected {channels} channels",
            x.shape()
        )));
    };
    let shape: Vec<usize> = leading.iter().copied().chain([units]).collect();
    let flat: Vec<i64> = x.iter().copied().collect();
    let mut sums = Vec::with_capacity(shape.iter().product());
    for row in flat.chunks_exact((*last).max(1)) {
        for unit in 0..units {
            let products = row
                .iter()
                .zip(kernel.column(unit))
                .map(|(x, k)| x * i64::from(*k));
            sums.push(products.sum::<i64>());
        }
    }
    ArrayD::from_shape_vec(IxDyn(&shape), sums).map_err(|e| NumericsError::Invalid(e.to_string()))
}

fn conv_line(
    n: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    border: &Border,
) -> Result<Line, NumericsError> {
    match border {
        Border::Valid => line(n, kernel, stride, dilation, Padding::Valid),
        Border::Same => line(n, kernel, stride, dilation, Padding::Same),
        Border::Value(_) => {
            // The border is made for an undilated window; a 'valid' convolution follows.
            let (before, after) = same_pads(n, kernel, stride, 1);
            let padded = line(n + before + after, kernel, stride, dilation, Padding::Valid)?;
            Ok(Line {
                n,
                before,
                ..padded
            })
        }
    }
}

fn line(
    n: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    padding: Padding,
) -> Result<Line, NumericsError> {
    let out = window_extent(n, kernel, stride, dilation, padding).ok_or_else(|| {
        NumericsError::Invalid(format!(
            "a window of {kernel} does not fit an extent of {n}"
        ))
    })?;
    let before = match padding {
        Padding::Same => same_pads(n, kernel, stride, dilation).0,
        Padding::Valid => 0,
    };
    Ok(Line {
        n,
        out,
        before,
        stride,
        dilation,
    })
}
