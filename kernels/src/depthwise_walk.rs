//! Depthwise convolutions of 3x3 taps for AVX2, which walk along the channels.
//!
//! A few neighbouring pixels take a line of channels after the other, with the weights of all taps next to one another:
//! each line of the input is read as a whole, and in order.
#![expect(
    unsafe_code,
    reason = "a tile checks its input once, not for each vector"
)]

use std::ops::Range;

use crate::chain::Fused;
use crate::dispatch::{InstructionSet, Job};
use crate::ending::Ending;
use crate::operands::Window;
use crate::products::columns;
use crate::row::{FloatRow, Row};

/// Taps along each axis.
const TAPS: usize = 3;

/// Most pixels of a tile: as many chains of two vectors as hide the latency of a step.
const TILE: usize = 4;

/// A tap's weights for `N` channels, in one line of the cache.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line<const N: usize>([f32; N]);

/// The weights of `N` channels.
type Weights<const N: usize> = [[Line<N>; TAPS]; TAPS];

/// `out[pixel, channel] = sum of x[pixel + tap, channel] * kernel[tap, channel]`, without padding values.
#[derive(Debug)]
pub(crate) struct DepthwiseWalk<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) kernel: &'a [f32],
    pub(crate) window: Window,
    pub(crate) channels: usize,
    /// Rows of the output that are computed.
    pub(crate) rows: Range<usize>,
    pub(crate) ending: Ending<'a>,
    pub(crate) out: &'a mut [f32],
}

impl DepthwiseWalk<'_> {
    /// Returns whether an operation is one for this body.
    pub(crate) const fn suits(window: &Window, channels: usize) -> bool {
        window.kernel_h == TAPS
            && window.kernel_w == TAPS
            && window.dilation_h == 1
            && window.dilation_w == 1
            && window.stride_w <= 2
            && channels >= 8
    }
}

impl Job for DepthwiseWalk<'_> {
    #[inline(always)]
    fn n_columns(&self) -> usize {
        self.channels
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(mut self, set: S) {
        match (self.channels >= 16, self.window.stride_w) {
            (true, 1) => self.image::<S, 16, 1>(set),
            (true, _) => self.image::<S, 16, 2>(set),
            (false, 1) => self.image::<S, 8, 1>(set),
            (false, _) => self.image::<S, 8, 2>(set),
        }
    }
}

/// The rows of taps of an output row that lie inside the image.
#[derive(Clone, Copy, Debug)]
struct Inside<'a, 'w, const N: usize> {
    /// The rows of the input that they read.
    x: &'a [f32],
    /// Elements of a row.
    row_len: usize,
    /// Which rows of taps.
    from: usize,
    to: usize,
    weights: &'w [Weights<N>],
}

impl DepthwiseWalk<'_> {
    #[inline(always)]
    fn image<S: InstructionSet, const N: usize, const STRIDE: usize>(&mut self, set: S) {
        let weights = self.weights::<N>();
        let Window {
            in_h,
            in_w,
            out_w,
            stride_h,
            pad_top,
            pad_left,
            ..
        } = self.window;
        // Windows that lie inside the image.
        let start = pad_left.div_ceil(STRIDE).min(out_w);
        let end = match (in_w + pad_left).checked_sub(TAPS) {
            Some(last) => (last.div_euclid(STRIDE) + 1).clamp(start, out_w),
            None => start,
        };
        let row_len = in_w * self.channels;
        for row in self.rows.clone() {
            let top = row * stride_h;
            let first = top.saturating_sub(pad_top).min(in_h);
            let last = (top + TAPS).saturating_sub(pad_top).min(in_h);
            let from = (first + pad_top).saturating_sub(top).min(TAPS);
            let inside = Inside {
                x: &self.x[first * row_len..last * row_len],
                row_len,
                from,
                to: from + last - first,
                weights: &weights,
            };
            let at = (row - self.rows.start) * out_w;
            for x in (0..start).chain(end..out_w) {
                self.edge::<S, N, STRIDE>(set, inside, (x, at + x));
            }
            let mut x = start;
            for n_tiles in (1..=(end - start).div_ceil(TILE)).rev() {
                let n_pixels = (end - x).div_ceil(n_tiles);
                let place = (x, at + x);
                match n_pixels {
                    1 => self.tile::<S, 1, N, STRIDE>(set, inside, place),
                    2 => self.tile::<S, 2, N, STRIDE>(set, inside, place),
                    3 => self.tile::<S, 3, N, STRIDE>(set, inside, place),
                    _ => self.tile::<S, TILE, N, STRIDE>(set, inside, place),
                }
                x += n_pixels;
            }
        }
    }

    /// Returns the weights of each `N` channels; the last are moved back to end with the channels.
    #[inline(always)]
    fn weights<const N: usize>(&self) -> Vec<Weights<N>> {
        let mut all = vec![[[Line([0.0; N]); TAPS]; TAPS]; self.channels.div_ceil(N)];
        for (block, weights) in all.iter_mut().enumerate() {
            let channel = self.first_channel::<N>(block);
            for (tap, weights) in weights.as_flattened_mut().iter_mut().enumerate() {
                weights.0 = *columns(self.kernel, tap * self.channels + channel);
            }
        }
        all
    }

    #[inline(always)]
    fn first_channel<const N: usize>(&self, block: usize) -> usize {
        (block * N).min(self.channels - N)
    }

    /// Computes neighbouring pixels whose windows lie inside the image, from output column `x` on.
    #[inline(always)]
    fn tile<S: InstructionSet, const P: usize, const N: usize, const STRIDE: usize>(
        &mut self,
        set: S,
        inside: Inside<'_, '_, N>,
        (x, place): (usize, usize),
    ) {
        let channels = self.channels;
        let n_columns = (P - 1) * STRIDE + TAPS;
        let first = (x * STRIDE - self.window.pad_left) * channels;
        let Inside {
            from, to, row_len, ..
        } = inside;
        assert!(
            (to - from) * row_len <= inside.x.len() && first + n_columns * channels <= row_len,
            "the windows lie inside the image"
        );
        for (block, weights) in inside.weights.iter().enumerate() {
            let channel = self.first_channel::<N>(block);
            let mut acc = [<S::Row<N> as Row<S, Fused, N>>::zero(set); P];
            for (row, weights) in weights[from..to].iter().enumerate() {
                for column in 0..n_columns {
                    let at = row * row_len + first + column * channels + channel;
                    // SAFETY: `row` is below `to - from`, `column` below `n_columns`, and `channel` at most
                    // `channels - N`, so that the assertion above bounds the last element read.
                    let x = unsafe { &*inside.x.as_ptr().add(at).cast::<[f32; N]>() };
                    for (tap, weights) in weights.iter().enumerate() {
                        let distance = column.wrapping_sub(tap);
                        let p = distance.div_euclid(STRIDE);
                        if distance.is_multiple_of(STRIDE) && p < P {
                            acc[p].step_each(x, &weights.0);
                        }
                    }
                }
            }
            let mut places = [place * channels + channel; P];
            for (p, place) in places.iter_mut().enumerate() {
                *place += p * channels;
            }
            FloatRow::<S, N>::end(&acc, self.ending.columns(channel), &places, self.out);
        }
    }

    /// Computes a pixel whose window reaches outside the image: taps there are no steps.
    #[inline(always)]
    fn edge<S: InstructionSet, const N: usize, const STRIDE: usize>(
        &mut self,
        set: S,
        inside: Inside<'_, '_, N>,
        (x, place): (usize, usize),
    ) {
        let Window { in_w, pad_left, .. } = self.window;
        let left = x * STRIDE;
        let first = left.saturating_sub(pad_left).min(in_w);
        let end = (left + TAPS).saturating_sub(pad_left).min(in_w);
        let first_tap = (first + pad_left).saturating_sub(left).min(TAPS);
        for (block, weights) in inside.weights.iter().enumerate() {
            let channel = self.first_channel::<N>(block);
            let mut acc = <S::Row<N> as Row<S, Fused, N>>::zero(set);
            let lines = inside.x.chunks_exact(inside.row_len.max(1));
            for (line, weights) in lines.zip(&weights[inside.from..inside.to]) {
                for (column, weights) in (first..end).zip(&weights[first_tap..]) {
                    acc.step_each(columns(line, column * self.channels + channel), &weights.0);
                }
            }
            let place = place * self.channels + channel;
            FloatRow::<S, N>::end(&[acc], self.ending.columns(channel), &[place], self.out);
        }
    }
}
