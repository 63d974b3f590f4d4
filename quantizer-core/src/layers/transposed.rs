//! Transposed convolutions (NUMERICS.md: N26).

use ndarray::Array4;

use super::{DepthwiseTransposedOp, TransposedOp};
use crate::NumericsError;
use crate::geometry::{Padding, transposed_crop, transposed_extent};

/// One axis of a transposed convolution.
#[derive(Clone, Copy)]
struct Line {
    n: usize,
    out: usize,
    crop: usize,
    stride: usize,
}

impl Line {
    fn new(
        n: usize,
        kernel: usize,
        stride: usize,
        padding: Padding,
        output_padding: Option<usize>,
    ) -> Result<Self, NumericsError> {
        let out = transposed_extent(n, kernel, stride, padding, output_padding)
            .ok_or_else(|| NumericsError::Invalid(format!("no output for an extent of {n}")))?;
        let crop = transposed_crop(n, out, kernel, stride, padding);
        Ok(Self {
            n,
            out,
            crop,
            stride,
        })
    }

    /// Returns the input index that reaches output `out` through tap `tap`.
    fn index(self, out: usize, tap: usize) -> Option<usize> {
        let distance = (out + self.crop).checked_sub(tap)?;
        (distance.checked_rem(self.stride) == Some(0))
            .then(|| distance.div_euclid(self.stride))
            .filter(|index| *index < self.n)
    }
}

/// Returns `acc[b, o, f] = sum over i, t with i * stride + t - crop = o of x[b, i] * k[t]`,
/// exactly; 0 where no input reaches.
pub(super) fn conv2d_transpose(
    x: &Array4<i64>,
    op: &TransposedOp,
) -> Result<Array4<i64>, NumericsError> {
    let (batch, h, w, c) = x.dim();
    let (kh, kw, kc, filters) = op.kernel.dim();
    expect_channels(c, kc)?;
    let extra = |axis: usize| op.output_padding.map(|p| p[axis]);
    let rows = Line::new(h, kh, op.strides[0], op.padding, extra(0))?;
    let cols = Line::new(w, kw, op.strides[1], op.padding, extra(1))?;
    let extents = (batch, rows.out, cols.out, filters);
    Ok(Array4::from_shape_fn(extents, |(b, i, j, f)| {
        let mut acc = 0;
        for ti in 0..kh {
            for tj in 0..kw {
                let pixel = rows.index(i, ti).zip(cols.index(j, tj));
                let Some((r, s)) = pixel else { continue };
                for ch in 0..c {
                    acc += x[[b, r, s, ch]] * i64::from(op.kernel[[ti, tj, ch, f]]);
                }
            }
        }
        acc
    }))
}

/// Returns the same sums for each channel on its own, with the extents of 'same'.
pub(super) fn depthwise_conv2d_transpose(
    x: &Array4<i64>,
    op: &DepthwiseTransposedOp,
) -> Result<Array4<i64>, NumericsError> {
    let (batch, h, w, c) = x.dim();
    let (kh, kw, kc) = op.kernel.dim();
    expect_channels(c, kc)?;
    let rows = Line::new(h, kh, op.strides[0], Padding::Same, None)?;
    let cols = Line::new(w, kw, op.strides[1], Padding::Same, None)?;
    let extents = (batch, rows.out, cols.out, c);
    Ok(Array4::from_shape_fn(extents, |(b, i, j, ch)| {
        let mut acc = 0;
        for ti in 0..kh {
            for tj in 0..kw {
                if let Some((r, s)) = rows.index(i, ti).zip(cols.index(j, tj)) {
                    acc += x[[b, r, s, ch]] * i64::from(op.kernel[[ti, tj, ch]]);
                }
            }
        }
        acc
    }))
}

fn expect_channels(got: usize, want: usize) -> Result<(), NumericsError> {
    if got == want {
        return Ok(());
    }
    Err(NumericsError::Invalid(format!(
        "{got} input channels, expected {want}"
    )))
}
