//! Depthwise convolutions of 3x3 taps for AVX2 and AVX-512, which walk along the channels.
//!
//! A few neighbouring pixels take a line of channels after the other, with the weights of all taps next to one another:
//! each line of the input is read as a whole, and in order. With AVX-512 there are registers for the pixels of two rows,
//! which share most of what they read.
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

/// Most pixels of a tile in a row: with AVX2, as many chains of two vectors as hide the latency of a step.
const TILE: usize = 4;

/// A tap's weights for `N` channels, in one line of the cache.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line<const N: usize>([f32; N]);

/// The weights of `N` channels.
type Weights<const N: usize> = [[Line<N>; TAPS]; TAPS];

/// `out[pixel, channel] = sum of x[pixel + tap, channel] * kernel[tap, channel]`, without padding values. NUMERICS.md F1.
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
            (true, 1) => self.image::<S, P, 16, 1>(set),
            (true, _) => self.image::<S, P, 16, 2>(set),
            (false, 1) => self.image::<S, P, 8, 1>(set),
            (false, _) => self.image::<S, P, 8, 2>(set),
        }
    }
}

/// One or two output rows, and the rows of the input that they read.
#[derive(Clone, Copy, Debug)]
struct Rows<'a, 'w, const N: usize> {
    /// The rows of the input inside the image.
    x: &'a [f32],
    /// Elements of a row.
    row_len: usize,
    /// Row of taps of the first output row that reads the first of them.
    from: usize,
    /// Pixel of the output where the first row starts.
    at: usize,
    weights: &'w [Weights<N>],
}

/// Which pixels of an output row a tile computes: windows of all but the edges lie inside the image.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// First output column.
    x: usize,
    /// The first column of the input is left of the image.
    is_first: bool,
    /// The last column of the input is right of the image.
    is_last: bool,
}

impl DepthwiseWalk<'_> {
    #[inline(always)]
    fn image<S: InstructionSet, const P: usize, const N: usize, const STRIDE: usize>(
        &mut self,
        set: S,
    ) {
        let weights = self.weights::<N>();
        let end = self.rows.end;
        let mut row = self.rows.start;
        while row < end {
            if P > TILE && STRIDE == 1 && end - row >= 2 {
                self.rows::<S, 2, P, N, STRIDE>(set, row, &weights);
                row += 2;
            } else {
                self.rows::<S, 1, P, N, STRIDE>(set, row, &weights);
                row += 1;
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

    /// Computes `R` output rows from `row` on.
    #[inline(always)]
    fn rows<
        S: InstructionSet,
        const R: usize,
        const P: usize,
        const N: usize,
        const STRIDE: usize,
    >(
        &mut self,
        set: S,
        row: usize,
        weights: &[Weights<N>],
    ) {
        let Window {
            in_h,
            in_w,
            out_w,
            stride_h,
            pad_top,
            pad_left,
            ..
        } = self.window;
        let row_len = in_w * self.channels;
        let top = row * stride_h;
        let first = top.saturating_sub(pad_top).min(in_h);
        let last = (top + (R - 1) * stride_h + TAPS)
            .saturating_sub(pad_top)
            .min(in_h);
        let rows = Rows {
            x: &self.x[first * row_len..last * row_len],
            row_len,
            from: (first + pad_top).saturating_sub(top),
            at: (row - self.rows.start) * out_w,
            weights,
        };
        // Windows of which at most one column lies outside the image.
        let start = pad_left.saturating_sub(1).div_ceil(STRIDE).min(out_w);
        let end = match (in_w + pad_left + 1).checked_sub(TAPS) {
            Some(last) => (last.div_euclid(STRIDE) + 1).clamp(start, out_w),
            None => start,
        };
        for x in (0..start).chain(end..out_w) {
            for r in 0..R {
                self.edge::<S, N, STRIDE>(set, rows, (x, r));
            }
        }
        let most = if STRIDE == 1 { P.max(TILE) } else { TILE };
        let mut x = start;
        for n_tiles in (1..=(end - start).div_ceil(most)).rev() {
            let n_pixels = (end - x).div_ceil(n_tiles);
            let place = Place {
                x,
                is_first: x * STRIDE < pad_left,
                is_last: (x + n_pixels - 1) * STRIDE + TAPS > in_w + pad_left,
            };
            match n_pixels {
                1 => self.tile::<S, R, 1, N, STRIDE>(set, rows, place),
                2 => self.tile::<S, R, 2, N, STRIDE>(set, rows, place),
                3 => self.tile::<S, R, 3, N, STRIDE>(set, rows, place),
                5 if most > TILE => self.tile::<S, R, 5, N, STRIDE>(set, rows, place),
                6 if most > TILE => self.tile::<S, R, 6, N, STRIDE>(set, rows, place),
                _ => self.tile::<S, R, TILE, N, STRIDE>(set, rows, place),
            }
            x += n_pixels;
        }
    }

    /// Computes neighbouring pixels of `R` rows.
    #[inline(always)]
    fn tile<
        S: InstructionSet,
        const R: usize,
        const P: usize,
        const N: usize,
        const STRIDE: usize,
    >(
        &mut self,
        set: S,
        rows: Rows<'_, '_, N>,
        place: Place,
    ) {
        let Window {
            pad_left, stride_h, ..
        } = self.window;
        let channels = self.channels;
        let n_columns = (P - 1) * STRIDE + TAPS;
        let Rows { x, row_len, .. } = rows;
        let n_rows = x.len().div_euclid(row_len.max(1));
        // Columns of the input, from the left end of its padding on.
        let first = place.x * STRIDE;
        assert!(
            first + usize::from(place.is_first) >= pad_left
                && (first + n_columns - usize::from(place.is_last) - pad_left) * channels
                    <= row_len,
            "the windows lie inside the image"
        );
        let first = first.wrapping_sub(pad_left).wrapping_mul(channels);
        for (block, weights) in rows.weights.iter().enumerate() {
            let channel = self.first_channel::<N>(block);
            let mut upper = [<S::Row<N> as Row<S, Fused, N>>::zero(set); P];
            let mut lower = upper;
            for row in 0..n_rows {
                let at = (row * row_len + channel).wrapping_add(first);
                let line = x.as_ptr().wrapping_add(at);
                let tap = rows.from + row;
                if let Some(weights) = weights.get(tap) {
                    // SAFETY: `row` is a row of `x`, and `channel` at most `channels - N`, so that the assertion above
                    // bounds the elements of the columns that are read.
                    unsafe {
                        steps::<S, P, N, STRIDE>(&mut upper, (line, channels), weights, place);
                    }
                }
                if R == 2
                    && let Some(weights) = weights.get(tap.wrapping_sub(stride_h))
                {
                    // SAFETY: as above.
                    unsafe {
                        steps::<S, P, N, STRIDE>(&mut lower, (line, channels), weights, place);
                    }
                }
            }
            let mut places = [(rows.at + place.x) * channels + channel; P];
            for (p, place) in places.iter_mut().enumerate() {
                *place += p * channels;
            }
            let mut ending = self.ending.columns(channel);
            FloatRow::<S, N>::end(&upper, ending.again(), &places, self.out);
            if R == 2 {
                let places = places.map(|place| place + self.window.out_w * channels);
                FloatRow::<S, N>::end(&lower, ending, &places, self.out);
            }
        }
    }

    /// Computes a pixel of row `r` whose window reaches far outside the image: taps there are no steps.
    #[inline(always)]
    fn edge<S: InstructionSet, const N: usize, const STRIDE: usize>(
        &mut self,
        set: S,
        rows: Rows<'_, '_, N>,
        (x, r): (usize, usize),
    ) {
        let Window {
            in_w,
            out_w,
            stride_h,
            pad_left,
            ..
        } = self.window;
        let left = x * STRIDE;
        let first = left.saturating_sub(pad_left).min(in_w);
        let end = (left + TAPS).saturating_sub(pad_left).min(in_w);
        let first_tap = (first + pad_left).saturating_sub(left).min(TAPS);
        for (block, weights) in rows.weights.iter().enumerate() {
            let channel = self.first_channel::<N>(block);
            let mut acc = <S::Row<N> as Row<S, Fused, N>>::zero(set);
            let lines = rows.x.chunks_exact(rows.row_len.max(1));
            for (row, line) in lines.enumerate() {
                let Some(weights) = weights.get((rows.from + row).wrapping_sub(r * stride_h))
                else {
                    continue;
                };
                for (column, weights) in (first..end).zip(&weights[first_tap..]) {
                    acc.step_each(columns(line, column * self.channels + channel), &weights.0);
                }
            }
            let place = (rows.at + r * out_w + x) * self.channels + channel;
            FloatRow::<S, N>::end(&[acc], self.ending.columns(channel), &[place], self.out);
        }
    }
}

/// Takes the steps of one row of taps: `P` pixels read the columns from `line` on, each `channels` elements.
///
/// # Safety
///
/// All columns can be read, except those that `place` says are outside the image.
#[inline(always)]
unsafe fn steps<S: InstructionSet, const P: usize, const N: usize, const STRIDE: usize>(
    acc: &mut [S::Row<N>; P],
    (line, channels): (*const f32, usize),
    weights: &[Line<N>; TAPS],
    place: Place,
) {
    let n_columns = (P - 1) * STRIDE + TAPS;
    for column in 0..n_columns {
        if (column == 0 && place.is_first) || (column == n_columns - 1 && place.is_last) {
            continue;
        }
        // SAFETY: this column can be read.
        let x = unsafe { &*line.wrapping_add(column * channels).cast::<[f32; N]>() };
        for (tap, weights) in weights.iter().enumerate() {
            let distance = column.wrapping_sub(tap);
            let p = distance.div_euclid(STRIDE);
            if distance.is_multiple_of(STRIDE) && p < P {
                acc[p].step_each(x, &weights.0);
            }
        }
    }
}
