//! The activations that output pixels see, copied side by side.

use std::ops::Range;

use super::tile::ROWS;
use crate::lanes::{Lane, Packable};
use crate::packed::PackedConv;
use crate::rows::outside;

/// Activations that are gathered at once at most: they stay in the first cache, beside the weights.
const GATHERED: usize = 1 << 14;

/// Activations that are copied by one instruction.
const STEP: usize = 16;

/// Room for the patches of a few pixels.
pub(super) struct Gathered<'a, X, L: Lane> {
    conv: &'a PackedConv<'a, X, L>,
    /// Activations of a patch, a whole number of groups.
    stride: usize,
    /// Activations of a kernel row in a patch.
    row_len: usize,
    /// Pixels that are gathered at once.
    n_pixels: usize,
    /// What the border is.
    outside: Vec<L::Activation>,
    patches: Vec<L::Activation>,
}

impl<'a, X: Packable<L>, L: Lane> Gathered<'a, X, L> {
    /// Returns room for patches of `stride` activations; those behind the last tap meet weights of zero.
    pub(super) fn new(conv: &'a PackedConv<'a, X, L>, stride: usize) -> Self {
        let outside = outside(conv);
        let tiles = GATHERED.checked_div(stride * ROWS).unwrap_or(1).clamp(1, 8);
        let n_pixels = tiles * ROWS;
        Self {
            conv,
            stride,
            row_len: conv.kernel.row_len(conv.window.kernel_w * conv.channels),
            n_pixels,
            outside,
            // A copy may write a step too much.
            patches: vec![L::Activation::default(); n_pixels * stride + STEP],
        }
    }

    /// Returns the patches of the first of these pixels, and how many they are.
    pub(super) fn gather(&mut self, pixels: Range<usize>) -> (&[L::Activation], usize) {
        let n_pixels = self.n_pixels.min(pixels.len());
        let width = self.conv.window.out_w;
        let mut done = 0;
        while done < n_pixels {
            let pixel = pixels.start + done;
            let (row, col) = (pixel.div_euclid(width), pixel.rem_euclid(width));
            let cols = col..width.min(col + n_pixels - done);
            let n = cols.len();
            self.gather_row(row, cols, done);
            done += n;
        }
        (&self.patches[..n_pixels * self.stride], n_pixels)
    }

    /// Writes the patches of neighbouring pixels of an output row, the first being number `first`.
    fn gather_row(&mut self, row: usize, cols: Range<usize>, first: usize) {
        let (conv, stride) = (self.conv, self.stride);
        let (window, channels) = (&conv.window, conv.channels);
        let inside = conv.view().whole_columns(row);
        let starts: Vec<usize> = (0..window.kernel_h)
            .map(|i| {
                // Rows outside the image are not read: then no pixel is inside.
                let top =
                    (row * window.stride_h + i * window.dilation_h).saturating_sub(window.pad_top);
                top * window.in_w * channels
            })
            .collect();
        let len = window.kernel_w * channels;
        for (number, col) in cols.enumerate() {
            let patch = &mut self.patches[(first + number) * stride..];
            if !inside.contains(&col) {
                gather_border(conv, (row, col), &self.outside, self.row_len, patch);
                continue;
            }
            let left = (col * window.stride_w - window.pad_left) * channels;
            for (start, i) in starts.iter().zip(0..) {
                copy(&conv.x[start + left..], &mut patch[i * self.row_len..], len);
            }
        }
    }
}

/// Copies `len` activations, whole steps where there is room: what is written too much is overwritten by the next row
/// or patch, or meets weights of zero.
#[inline(always)]
fn copy<X: Packable<L>, L: Lane>(from: &[X], to: &mut [L::Activation], len: usize) {
    for at in (0..len).step_by(STEP) {
        let (from, to) = (&from[at..], &mut to[at..]);
        match (from.first_chunk::<STEP>(), to.first_chunk_mut::<STEP>()) {
            (Some(from), Some(to)) => {
                if let Some(from) = X::as_packed(from) {
                    to.copy_from_slice(from);
                } else {
                    for i in 0..STEP {
                        to[i] = from[i].packed();
                    }
                }
            }
            _ => {
                for (to, from) in to.iter_mut().zip(from).take(len - at) {
                    *to = from.packed();
                }
            }
        }
    }
}

/// Writes the activations that one output pixel sees, tap by tap.
fn gather_border<X: Packable<L>, L: Lane>(
    conv: &PackedConv<'_, X, L>,
    (row, col): (usize, usize),
    outside: &[L::Activation],
    row_len: usize,
    patch: &mut [L::Activation],
) {
    let (window, channels) = (&conv.window, conv.channels);
    let taps = (0..window.kernel_h).flat_map(|i| (0..window.kernel_w).map(move |j| (i, j)));
    for (i, j) in taps {
        let bytes = &mut patch[i * row_len + j * channels..][..channels];
        let r = (row * window.stride_h + i * window.dilation_h).checked_sub(window.pad_top);
        let s = (col * window.stride_w + j * window.dilation_w).checked_sub(window.pad_left);
        let inside = r
            .zip(s)
            .filter(|(r, s)| *r < window.in_h && *s < window.in_w);
        if let Some((r, s)) = inside {
            let from = (r * window.in_w + s) * channels;
            let values = &conv.x[from..from + channels];
            for (byte, value) in bytes.iter_mut().zip(values) {
                *byte = value.packed();
            }
        } else {
            bytes.copy_from_slice(outside);
        }
    }
}
