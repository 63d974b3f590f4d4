//! Depthwise convolutions of 3x3 taps, those of most networks.
//!
//! Windows one pixel apart share most of what they read; others are as fast in the body for any window.
//!
//! A strip of channels passes over the whole image, one vector wide. Its input rows are copied side by side first: where
//! the number of channels is a power of two, neighbouring pixels are so far apart that a cache holds hardly more than
//! one window of them, and each would be fetched again for every row of taps.

use std::ops::Range;

use crate::chain::Fused;
use crate::dispatch::{InstructionSet, Job};
use crate::ending::Ending;
use crate::operands::Window;
use crate::products::columns;
use crate::row::{FloatRow, Row};

/// Taps along each axis.
const TAPS: usize = 3;

/// Pixels of a tile where there are not enough for a large one.
const SMALL: usize = 4;

/// The channels of a strip at one pixel, or their weights for one tap, in one line of the cache.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line<const N: usize>([f32; N]);

/// `out[pixel, channel] = sum of x[pixel + tap, channel] * kernel[tap, channel]`, without padding values.
#[derive(Debug)]
pub(crate) struct Depthwise3<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) kernel: &'a [f32],
    pub(crate) window: Window,
    pub(crate) channels: usize,
    /// Rows of the output that are computed.
    pub(crate) rows: Range<usize>,
    pub(crate) ending: Ending<'a>,
    pub(crate) out: &'a mut [f32],
}

impl Depthwise3<'_> {
    /// Returns whether an operation is one for this body.
    pub(crate) const fn suits(window: &Window, channels: usize) -> bool {
        window.kernel_h == TAPS
            && window.kernel_w == TAPS
            && window.dilation_h == 1
            && window.dilation_w == 1
            && window.stride_w == 1
            && channels >= 8
    }
}

impl Job for Depthwise3<'_> {
    #[inline(always)]
    fn n_columns(&self) -> usize {
        self.channels
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(mut self, set: S) {
        let mut lines = vec![Line([0.0; N]); TAPS * self.window.in_w];
        for idx in 0..self.channels.div_ceil(N) {
            // The last strip is moved back to end with the channels.
            let column = (idx * N).min(self.channels - N);
            self.strip::<S, P, N>(set, column, &mut lines);
        }
    }
}

/// A row of taps, and the input row that it reads.
#[derive(Clone, Copy)]
struct TapRow<'l, const N: usize> {
    weights: &'l [Line<N>; TAPS],
    line: &'l [Line<N>],
}

impl Depthwise3<'_> {
    #[inline(always)]
    fn strip<S: InstructionSet, const P: usize, const N: usize>(
        &mut self,
        set: S,
        column: usize,
        lines: &mut [Line<N>],
    ) {
        let Window {
            in_h,
            in_w,
            stride_h,
            pad_top,
            ..
        } = self.window;
        let mut weights = [[Line([0.0; N]); TAPS]; TAPS];
        for (tap, weights) in weights.as_flattened_mut().iter_mut().enumerate() {
            weights.0 = *columns(self.kernel, tap * self.channels + column);
        }
        // The input rows below this one are copied, or never read.
        let mut next = 0;
        for row in self.rows.clone() {
            let first = (row * stride_h).saturating_sub(pad_top).min(in_h);
            let end = (row * stride_h + TAPS).saturating_sub(pad_top).min(in_h);
            for y in next.max(first)..end {
                self.copy(y, column, &mut lines[y % TAPS * in_w..][..in_w]);
            }
            next = next.max(end);
            let empty = TapRow {
                weights: &weights[0],
                line: &[],
            };
            let mut taps = [empty; TAPS];
            for (taps, y) in taps.iter_mut().zip(first..end) {
                *taps = TapRow {
                    weights: &weights[y + pad_top - row * stride_h],
                    line: &lines[y % TAPS * in_w..][..in_w],
                };
            }
            self.row::<S, P, N>(set, &taps[..end - first], row, column);
        }
    }

    /// Copies the channels of a strip out of one input row.
    #[inline(always)]
    fn copy<const N: usize>(&self, y: usize, column: usize, line: &mut [Line<N>]) {
        let len = line.len() * self.channels;
        let pixels = self.x[y * len..][..len].chunks_exact(self.channels);
        for (to, pixel) in line.iter_mut().zip(pixels) {
            to.0 = *columns(pixel, column);
        }
    }

    /// Computes one output row of a strip.
    #[inline(always)]
    fn row<S: InstructionSet, const P: usize, const N: usize>(
        &mut self,
        set: S,
        taps: &[TapRow<'_, N>],
        row: usize,
        column: usize,
    ) {
        let Window {
            in_w,
            out_w,
            pad_left,
            ..
        } = self.window;
        // Windows that lie inside the image.
        let start = pad_left.min(out_w);
        let end = match (in_w + pad_left).checked_sub(TAPS) {
            Some(last) => (last + 1).clamp(start, out_w),
            None => start,
        };
        let at = (row - self.rows.start) * out_w;
        for x in (0..start).chain(end..out_w) {
            self.edge::<S, N>(set, taps, x, (at + x) * self.channels + column);
        }
        let mut x = start;
        while x < end {
            if end - x >= P {
                self.inside::<S, P, N>(set, taps, (x, at), column);
                x += P;
            } else if end - start >= SMALL {
                // Moved back to end with the row.
                let first = x.min(end - SMALL);
                self.inside::<S, SMALL, N>(set, taps, (first, at), column);
                x = first + SMALL;
            } else {
                self.inside::<S, 1, N>(set, taps, (x, at), column);
                x += 1;
            }
        }
    }

    /// Computes neighbouring pixels whose windows lie inside the image.
    #[inline(always)]
    fn inside<S: InstructionSet, const P: usize, const N: usize>(
        &mut self,
        set: S,
        taps: &[TapRow<'_, N>],
        (x, at): (usize, usize),
        column: usize,
    ) {
        let first = x - self.window.pad_left;
        let mut acc = [<S::Row<N> as Row<S, Fused, N>>::zero(set); P];
        for TapRow { weights, line } in taps {
            let line = &line[first..][..P - 1 + TAPS];
            for tap in 0..TAPS {
                for (p, acc) in acc.iter_mut().enumerate() {
                    acc.step_each(&line[p + tap].0, &weights[tap].0);
                }
            }
        }
        let mut places = [(at + x) * self.channels + column; P];
        for (p, place) in places.iter_mut().enumerate() {
            *place += p * self.channels;
        }
        FloatRow::<S, N>::end(&acc, self.ending.columns(column), &places, self.out);
    }

    /// Computes a pixel whose window reaches outside the image: taps there are no steps.
    #[inline(always)]
    fn edge<S: InstructionSet, const N: usize>(
        &mut self,
        set: S,
        taps: &[TapRow<'_, N>],
        x: usize,
        place: usize,
    ) {
        let mut acc = <S::Row<N> as Row<S, Fused, N>>::zero(set);
        for TapRow { weights, line } in taps {
            for (tap, weights) in weights.iter().enumerate() {
                let inside = (x + tap).checked_sub(self.window.pad_left);
                if let Some(x) = inside.and_then(|x| line.get(x)) {
                    acc.step_each(&x.0, &weights.0);
                }
            }
        }
        let column = place % self.channels;
        FloatRow::<S, N>::end(&[acc], self.ending.columns(column), &[place], self.out);
    }
}
