//! Row-major views of tensors, and the division of the work among threads.

use std::borrow::Cow;
use std::ops::Range;

use ndarray::ArrayD;
use rayon::prelude::*;

/// A tensor `[batch, ...]` with its elements in row-major order.
#[derive(Debug)]
pub(super) struct Tensor<'a> {
    pub(super) extents: Vec<usize>,
    pub(super) data: Cow<'a, [f32]>,
}

impl<'a> Tensor<'a> {
    /// Returns a view of `x`, or a copy if its elements are not in row-major order.
    pub(super) fn new(x: &'a ArrayD<f32>) -> Self {
        let data = x
            .as_slice()
            .map_or_else(|| x.iter().copied().collect(), Cow::Borrowed);
        Self {
            extents: x.shape().to_vec(),
            data,
        }
    }

    /// Returns a copy of the elements.
    pub(super) fn to_vec(&self) -> Vec<f32> {
        self.data.to_vec()
    }

    /// Returns the extent of the last axis, 1 for a tensor of the batch axis alone.
    pub(super) fn last(&self) -> usize {
        match self.extents.as_slice() {
            [_, .., last] => *last,
            _ => 1,
        }
    }

    /// Returns height, width and channels. The graph's shape rules guarantee four axes.
    pub(super) fn image(&self) -> [usize; 3] {
        image(&self.extents)
    }

    /// Returns the elements of image `index`.
    pub(super) fn item(&self, index: usize) -> &[f32] {
        let len = self.extents[1..].iter().product::<usize>();
        &self.data[index * len..(index + 1) * len]
    }

    /// Returns the same tensor with the given channels only.
    pub(super) fn channels(&self, channels: Range<usize>) -> Tensor<'static> {
        let mut extents = self.extents.clone();
        if let Some(last) = extents.last_mut() {
            *last = channels.len();
        }
        let pixels = self.data.chunks(self.last().max(1));
        let data = pixels.flat_map(|pixel| &pixel[channels.clone()]);
        Tensor {
            extents,
            data: data.copied().collect(),
        }
    }

    /// Returns every `n`-th step of `[batch, time, channels]`, the last of each group of `n`.
    pub(super) fn every(&self, n: usize) -> Tensor<'static> {
        let mut extents = self.extents.clone();
        if let Some(time) = extents.get_mut(1) {
            *time = time.checked_div(n).unwrap_or(0);
        }
        let steps = self.data.chunks(self.last().max(1));
        let kept = steps.skip(n.saturating_sub(1)).step_by(n.max(1));
        Tensor {
            extents,
            data: kept.flatten().copied().collect(),
        }
    }

    /// Returns the tensor with each channel `n` times in a row.
    pub(super) fn repeat_channels(&self, n: usize) -> Tensor<'static> {
        let mut extents = self.extents.clone();
        if let Some(last) = extents.last_mut() {
            *last *= n;
        }
        let data = self.data.iter().flat_map(|x| std::iter::repeat_n(*x, n));
        Tensor {
            extents,
            data: data.collect(),
        }
    }
}

/// Returns height, width and channels of `[batch, height, width, channels]`.
///
/// # Panics
///
/// Panics if there are fewer than four axes.
pub(super) fn image(extents: &[usize]) -> [usize; 3] {
    [extents[1], extents[2], extents[3]]
}

/// Whether the work of one layer is divided among threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Among all threads.
    Divided,
    /// Not at all: every thread has work of its own.
    Whole,
}

/// Returns the elements of an output `[batch, height, width, channels]`, computed in parallel.
///
/// `fill(image, rows, out)` writes the rows `rows` of one image. Each row is computed by one call,
/// so the division of the work does not change results.
pub(super) fn by_rows(
    extents: &[usize],
    fill: impl Fn(usize, Range<usize>, &mut [f32]) + Sync,
) -> Vec<f32> {
    let mut out = vec![0.0; extents.iter().product()];
    rows_of_images(Work::Divided, extents, &mut out, fill);
    out
}

/// Writes the elements of an output `[batch, height, width, channels]` into `out`, as [`by_rows`].
pub(super) fn rows_of_images(
    work: Work,
    extents: &[usize],
    out: &mut [f32],
    fill: impl Fn(usize, Range<usize>, &mut [f32]) + Sync,
) {
    let [height, width, channels] = image(extents);
    if out.is_empty() {
        return;
    }
    let row_len = width * channels;
    let n_threads = rayon::current_num_threads();
    if work == Work::Whole || n_threads == 1 {
        for (image, out) in out.chunks_mut(height * row_len).enumerate() {
            fill(image, 0..height, out);
        }
        return;
    }
    let block = if extents[0] >= n_threads {
        height
    } else {
        height.div_ceil(4 * n_threads)
    };
    out.par_chunks_mut(height * row_len)
        .enumerate()
        .for_each(|(image, out)| {
            out.par_chunks_mut(block * row_len)
                .enumerate()
                .for_each(|(index, out)| {
                    let first = index * block;
                    let rows = first..first + out.len().div_euclid(row_len);
                    fill(image, rows, out);
                });
        });
}
