//! Pools.

use std::ops::Range;

use quantizer_core::geometry::same_pads;
use rayon::prelude::*;

use super::tensor::{Tensor, by_rows, image};
use crate::{Padding, Pool2D};

/// Returns the maximum over each window; the border never wins, NaN always does.
pub(super) fn max(pool: Pool2D, x: &Tensor<'_>, extents: &[usize]) -> Vec<f32> {
    let greater = |best: f32, x: f32| if x > best || x.is_nan() { x } else { best };
    reduce(pool, x, extents, f32::NEG_INFINITY, greater, |max, _| max)
}

/// Returns the mean over the part of each window that lies in the image.
///
/// ```text
/// (x_0 + x_1 + ...) / n      f32, rows first, then columns; n elements lie in the image
/// ```
pub(super) fn average(pool: Pool2D, x: &Tensor<'_>, extents: &[usize]) -> Vec<f32> {
    reduce(
        pool,
        x,
        extents,
        0.0,
        |sum, x| sum + x,
        |sum, n| sum / count(n),
    )
}

/// Returns the mean over height and width.
///
/// ```text
/// (x_0 + x_1 + ...) / (height * width)      f32, rows first, then columns
/// ```
///
/// NUMERICS.md: N21.
pub(super) fn global_average(x: &Tensor<'_>, extents: &[usize]) -> Vec<f32> {
    let [height, width, channels] = x.image();
    let mut out = vec![0.0_f32; extents.iter().product()];
    out.par_chunks_mut(channels)
        .enumerate()
        .for_each(|(index, out)| {
            for pixel in x.item(index).chunks(channels) {
                for (sum, x) in out.iter_mut().zip(pixel) {
                    *sum += x;
                }
            }
            for sum in out {
                *sum /= count(height * width);
            }
        });
    out
}

/// Folds each window with `step`, then calls `finish(result, number of elements)`.
fn reduce(
    pool: Pool2D,
    x: &Tensor<'_>,
    extents: &[usize],
    start: f32,
    step: impl Fn(f32, f32) -> f32 + Sync,
    finish: impl Fn(f32, usize) -> f32 + Sync,
) -> Vec<f32> {
    let [in_h, in_w, channels] = x.image();
    let [_, out_w, _] = image(extents);
    by_rows(extents, |image, rows, out| {
        let x = x.item(image);
        let pixels = out.chunks_mut(channels);
        let places = rows.flat_map(|row| (0..out_w).map(move |column| (row, column)));
        for (pixel, (row, column)) in pixels.zip(places) {
            let rows = span(pool, 0, row, in_h);
            let columns = span(pool, 1, column, in_w);
            pixel.fill(start);
            for row in rows.clone() {
                let first = (row * in_w + columns.start) * channels;
                let taps = &x[first..first + columns.len() * channels];
                for tap in taps.chunks(channels) {
                    for (acc, x) in pixel.iter_mut().zip(tap) {
                        *acc = step(*acc, *x);
                    }
                }
            }
            for acc in pixel {
                *acc = finish(*acc, rows.len() * columns.len());
            }
        }
    })
}

/// Returns the rows (axis 0) or columns (axis 1) of the image, of extent `n`, that window `index`
/// covers.
fn span(pool: Pool2D, axis: usize, index: usize, n: usize) -> Range<usize> {
    let (size, stride) = (pool.pool_size[axis], pool.strides[axis]);
    let before = match pool.padding {
        Padding::Same => same_pads(n, size, stride, 1).0,
        Padding::Valid => 0,
    };
    let first = index * stride;
    let end = (first + size).saturating_sub(before).min(n);
    first.saturating_sub(before).min(end)..end
}

#[expect(
    clippy::cast_precision_loss,
    reason = "rounded to the nearest f32; exact below 2^24 elements"
)]
fn count(n: usize) -> f32 {
    n as f32
}
