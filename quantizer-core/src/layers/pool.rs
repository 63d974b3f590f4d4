//! Maxima and sums over pixels.

use ndarray::{Array4, ArrayD, Axis};

use super::PoolOp;
use crate::NumericsError;
use crate::geometry::{Padding, same_pads, window_extent};

/// Returns the maximum of each window; positions outside the image do not take part.
///
/// `x` is `[batch, height, width, channels]`. NUMERICS.md: N20.
pub(super) fn max_pool2d(x: &Array4<i64>, op: PoolOp) -> Result<Array4<i64>, NumericsError> {
    let (batch, h, w, c) = x.dim();
    let (rows, top) = extent(h, op, 0)?;
    let (cols, left) = extent(w, op, 1)?;
    Ok(Array4::from_shape_fn(
        (batch, rows, cols, c),
        |(b, i, j, ch)| {
            let (r, s) = (i * op.strides[0], j * op.strides[1]);
            let mut best = i64::MIN;
            for row in r..r + op.pool_size[0] {
                for col in s..s + op.pool_size[1] {
                    let pixel = row.checked_sub(top).zip(col.checked_sub(left));
                    if let Some((row, col)) = pixel.filter(|(row, col)| *row < h && *col < w) {
                        best = best.max(x[[b, row, col, ch]]);
                    }
                }
            }
            best
        },
    ))
}

/// Returns the sum over height and width of each channel. NUMERICS.md: N21.
pub(super) fn sum_pixels(x: &Array4<i64>, keepdims: bool) -> ArrayD<i64> {
    let sums = x.sum_axis(Axis(1)).sum_axis(Axis(1));
    if keepdims {
        sums.insert_axis(Axis(1)).insert_axis(Axis(1)).into_dyn()
    } else {
        sums.into_dyn()
    }
}

/// Returns the output extent along an axis and the border before the first pixel.
fn extent(n: usize, op: PoolOp, axis: usize) -> Result<(usize, usize), NumericsError> {
    let (pool, stride) = (op.pool_size[axis], op.strides[axis]);
    let out = window_extent(n, pool, stride, 1, op.padding).ok_or_else(|| {
        NumericsError::Invalid(format!("a window of {pool} does not fit an extent of {n}"))
    })?;
    let before = match op.padding {
        Padding::Same => same_pads(n, pool, stride, 1).0,
        Padding::Valid => 0,
    };
    Ok((out, before))
}
