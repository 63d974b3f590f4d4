//! The activations that output pixels see, copied side by side as words.

use std::ops::Range;

use crate::dispatch::{InstructionSet, Job, dispatch};
use crate::isa::Kernels;
use crate::lanes::{Lane, Packable};
use crate::packed::View;

/// Activations that are copied at once.
const STEP: usize = 16;

/// Room for the patches of a few pixels.
pub(crate) struct Gathered<'a, X, L: Lane> {
    view: View<'a, X>,
    /// Activations of a kernel row in a patch.
    row_len: usize,
    /// Activations of a patch, a whole number of groups; those behind the last tap meet weights of zero.
    stride: usize,
    /// What every tap outside the image is: the border for each column of the kernel.
    outside: Vec<L::Activation>,
    patches: Vec<L::Activation>,
}

impl<'a, X: Packable<L>, L: Lane> Gathered<'a, X, L> {
    /// Returns room for `n_pixels` patches of `stride` activations, in which kernel rows have `row_len`.
    pub(crate) fn new(
        view: View<'a, X>,
        (row_len, stride): (usize, usize),
        n_pixels: usize,
    ) -> Self {
        let border: Vec<_> = match view.pad {
            Some(pad) => pad.iter().map(|v| v.packed()).collect(),
            None => vec![X::zero(); view.channels],
        };
        Self {
            view,
            row_len,
            stride,
            outside: border.repeat(view.window.kernel_w),
            // A copy may write a step too much.
            patches: vec![L::Activation::default(); n_pixels * stride + STEP],
        }
    }

    /// Returns the patches of these pixels, which are not more than there is room for.
    pub(crate) fn gather(&mut self, kernels: Kernels, pixels: Range<usize>) -> &[L::Activation] {
        let len = pixels.len() * self.stride;
        let job = Gather {
            view: self.view,
            row_len: self.row_len,
            stride: self.stride,
            outside: &self.outside,
            patches: &mut self.patches,
            pixels,
        };
        dispatch(kernels, job);
        &self.patches[..len]
    }
}

/// Copies the patches of some pixels.
struct Gather<'a, X, L: Lane> {
    view: View<'a, X>,
    row_len: usize,
    stride: usize,
    outside: &'a [L::Activation],
    patches: &'a mut [L::Activation],
    pixels: Range<usize>,
}

impl<X: Packable<L>, L: Lane> Job for Gather<'_, X, L> {
    fn n_columns(&self) -> usize {
        STEP
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(self, _set: S) {
        let Self {
            view,
            row_len,
            stride,
            outside,
            pixels,
            ..
        } = self;
        let width = view.window.out_w;
        let (mut pixel, mut done) = (pixels.start, 0);
        while pixel < pixels.end {
            let (row, first) = (pixel.div_euclid(width), pixel.rem_euclid(width));
            let n = (width - first).min(pixels.end - pixel);
            let cols = first..first + n;
            let whole = view.whole_columns(row);
            let (from, to) = (
                whole.start.clamp(cols.start, cols.end),
                whole.end.clamp(cols.start, cols.end),
            );
            let patches = &mut self.patches[done * stride..];
            // In their order: a copy may write a step into the next patch.
            for (col, number) in cols.clone().zip(0..) {
                if col == from && from < to {
                    let patches = &mut patches[number * stride..];
                    gather_whole::<X, L>(&view, (row_len, stride), (row, from..to), patches);
                } else if col < from || col >= to {
                    let patch = &mut patches[number * stride..];
                    gather_patch::<X, L>(&view, row_len, outside, (row, col), patch);
                }
            }
            done += n;
            pixel += n;
        }
    }
}

/// Copies what the pixel sees to the start of `patch`; what is behind may be overwritten.
#[inline(always)]
fn gather_patch<X: Packable<L>, L: Lane>(
    view: &View<'_, X>,
    row_len: usize,
    outside: &[L::Activation],
    (row, col): (usize, usize),
    patch: &mut [L::Activation],
) {
    let (window, channels) = (view.window, view.channels);
    // Neighbouring taps are copied together.
    let taps = if window.dilation_w == 1 {
        window.kernel_w
    } else {
        1
    };
    for i in 0..window.kernel_h {
        let mut at = i * row_len;
        let r = row * window.stride_h + i * window.dilation_h;
        let is_row = r >= window.pad_top && r - window.pad_top < window.in_h;
        for j in (0..window.kernel_w).step_by(taps.max(1)) {
            let to = &mut patch[at..];
            at += taps * channels;
            if !is_row {
                to[..taps * channels].copy_from_slice(&outside[..taps * channels]);
                continue;
            }
            // Taps before the first column of the image, and those before the end of the image.
            let left = col * window.stride_w + j * window.dilation_w;
            let before = window.pad_left.saturating_sub(left).min(taps);
            let until = (window.in_w + window.pad_left)
                .saturating_sub(left)
                .min(taps)
                .max(before);
            let [first, last] = [before * channels, until * channels];
            to[..first].copy_from_slice(&outside[..first]);
            if until > before {
                let column = left + before - window.pad_left;
                let from = ((r - window.pad_top) * window.in_w + column) * channels;
                copy(&view.x[from..], &mut to[first..], last - first);
            }
            to[last..taps * channels].copy_from_slice(&outside[last..taps * channels]);
        }
    }
}

/// Copies what neighbouring pixels see that have all taps inside.
#[inline(always)]
fn gather_whole<X: Packable<L>, L: Lane>(
    view: &View<'_, X>,
    (row_len, stride): (usize, usize),
    (row, cols): (usize, Range<usize>),
    patches: &mut [L::Activation],
) {
    let (window, channels) = (view.window, view.channels);
    let len = window.kernel_w * channels;
    let step = window.stride_w * channels;
    let line = window.dilation_h * window.in_w * channels;
    let top = (row * window.stride_h - window.pad_top) * window.in_w;
    let first = (top + cols.start * window.stride_w - window.pad_left) * channels;
    if window.kernel_h == 1 && step == len && stride == len {
        return copy(&view.x[first..], patches, cols.len() * len);
    }
    for number in 0..cols.len() {
        let (mut from, mut to) = (first + number * step, number * stride);
        for _ in 0..window.kernel_h {
            copy(&view.x[from..], &mut patches[to..], len);
            from += line;
            to += row_len;
        }
    }
}

/// Copies `len` activations, whole steps where there is room.
#[inline(always)]
fn copy<X: Packable<L>, L: Lane>(from: &[X], to: &mut [L::Activation], len: usize) {
    let whole = len.next_multiple_of(STEP);
    if let (Some(from), Some(to)) = (from.get(..whole), to.get_mut(..whole)) {
        let steps = from.as_chunks::<STEP>().0.iter();
        for (from, to) in steps.zip(to.as_chunks_mut::<STEP>().0) {
            // All are read before one is written: else the compiler takes them one by one.
            let mut words = [L::Activation::default(); STEP];
            for i in 0..STEP {
                words[i] = from[i].packed();
            }
            *to = words;
        }
    } else {
        for (from, to) in from[..len].iter().zip(to) {
            *to = from.packed();
        }
    }
}
