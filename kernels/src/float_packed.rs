//! f32 products that mix channels, with packed weights.
//!
//! A tile takes a line of weights for each step. In a kernel of many columns these lines lie in as many pages, and
//! share few places of a cache; in a packed one they follow each other.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "only an instruction fetches into the second cache"
    )
)]

use std::array::from_fn;
use std::ops::Range;
use std::slice::Chunks;

use crate::chain::Fused;
use crate::contract::{check_len, check_per_channel, check_window};
use crate::dispatch::{InstructionSet, Job, dispatch};
use crate::ending::Ending;
use crate::float_products::source;
use crate::isa::{Isa, Kernels};
use crate::operands::Window;
use crate::operations::{outside, plan};
use crate::plan::{Direction, Patch, Pixel};
use crate::row::{FloatRow, Row};

/// Columns of a strip: two vectors of AVX2.
const STRIP: usize = 16;

/// Most pixels of a tile: twelve vectors of accumulators leave room for the weights and an activation.
const TILE: usize = 6;

/// Bytes of activations that pass over one strip before the next strip is read: they stay in a cache, and leave room
/// there for the strip.
const BLOCK_BYTES: usize = 256 << 10;

/// A kernel `[rows, filters]` of f32, packed for tiles of 16 columns.
#[derive(Clone, Debug)]
pub struct PackedFloats {
    rows: usize,
    filters: usize,
    /// `[strips, rows]`. The last strip is moved back to end with the filters.
    lines: Vec<Line>,
}

/// The weights of a strip for one step of its chains, in one line of the cache.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line([f32; STRIP]);

/// The operands of a convolution with packed weights.
#[derive(Clone, Copy, Debug)]
pub struct PackedFloatConv<'a> {
    /// Input, `[in_h, in_w, channels]`.
    pub x: &'a [f32],
    /// Kernel of `kernel_h * kernel_w * channels` rows.
    pub kernel: &'a PackedFloats,
    /// Value of each channel outside the image, `[channels]`; `None` skips the taps that are outside.
    pub pad: Option<&'a [f32]>,
    /// Where the taps read.
    pub window: Window,
    /// Channels of the input.
    pub channels: usize,
}

impl PackedFloats {
    /// Returns the packed form of a kernel `[rows, filters]`, or `None` if it has fewer columns than a tile.
    ///
    /// # Panics
    ///
    /// Panics if the length is another.
    #[must_use]
    pub fn new(kernel: &[f32], rows: usize, filters: usize) -> Option<Self> {
        check_len("kernel", kernel.len(), &[rows, filters]);
        if filters < STRIP {
            return None;
        }
        let mut lines = Vec::with_capacity(filters.div_ceil(STRIP) * rows);
        for strip in 0..filters.div_ceil(STRIP) {
            let column = first_column(strip, filters);
            let columns = kernel.chunks_exact(filters).map(|row| &row[column..]);
            lines.extend(columns.filter_map(|columns| columns.first_chunk().copied().map(Line)));
        }
        Some(Self {
            rows,
            filters,
            lines,
        })
    }
}

/// Returns where a strip starts.
#[inline(always)]
fn first_column(strip: usize, filters: usize) -> usize {
    (strip * STRIP).min(filters - STRIP)
}

/// f32 operations with packed weights: the chains are those of the same operations without (NUMERICS.md F1).
impl Kernels {
    /// Returns whether these kernels are faster with packed weights.
    #[must_use]
    pub fn packs_f32(self) -> bool {
        self.isa() == Isa::Avx2
    }

    /// Writes the output rows `rows` of a convolution into `out`, as [`conv2d_ended_f32`](Self::conv2d_ended_f32).
    ///
    /// # Panics
    ///
    /// As [`conv2d_ended_f32`](Self::conv2d_ended_f32).
    pub fn conv2d_packed_f32(
        self,
        conv: &PackedFloatConv<'_>,
        mut ending: Ending<'_>,
        rows: Range<usize>,
        out: &mut [f32],
    ) {
        let PackedFloatConv {
            x,
            kernel,
            pad,
            window,
            channels,
        } = *conv;
        check_window(&window, &rows);
        check_len("input", x.len(), &[window.in_h, window.in_w, channels]);
        let taps = [window.kernel_h, window.kernel_w, channels];
        check_len("rows of the kernel", kernel.rows, &taps);
        check_per_channel("padding", pad, channels);
        ending.check(kernel.filters);
        let extents = [rows.len(), window.out_w, kernel.filters];
        check_len("output", out.len(), &extents);
        for patch in &plan(&window, Direction::Forward, outside(pad), rows, out.len()) {
            let job = PackedMixing {
                x,
                kernel,
                pad: pad.unwrap_or_default(),
                channels,
                patch,
                ending: ending.again(),
                out,
            };
            dispatch(self, job);
        }
    }

    /// Writes the matrix product of `x`, `[n_rows, rows of the kernel]`, into `out`, `[n_rows, filters]`, as
    /// [`dense_ended_f32`](Self::dense_ended_f32).
    ///
    /// # Panics
    ///
    /// As [`dense_ended_f32`](Self::dense_ended_f32).
    pub fn dense_packed_f32(
        self,
        x: &[f32],
        kernel: &PackedFloats,
        mut ending: Ending<'_>,
        out: &mut [f32],
    ) {
        let (channels, filters) = (kernel.rows, kernel.filters);
        let n_rows = out.len().div_euclid(filters);
        check_len("input", x.len(), &[n_rows, channels]);
        check_len("output", out.len(), &[n_rows, filters]);
        ending.check(filters);
        let patch = Patch::of_rows(n_rows);
        let job = PackedMixing {
            x,
            kernel,
            pad: &[],
            channels,
            patch: &patch,
            ending: ending.again(),
            out,
        };
        dispatch(self, job);
    }
}

/// `out[pixel, filter] = sum of x[pixel + tap, channel] * kernel[tap, channel, filter]`.
#[derive(Debug)]
struct PackedMixing<'a> {
    x: &'a [f32],
    kernel: &'a PackedFloats,
    /// One value per channel; empty if the plan has no taps outside the image.
    pad: &'a [f32],
    channels: usize,
    patch: &'a Patch,
    ending: Ending<'a>,
    out: &'a mut [f32],
}

impl Job for PackedMixing<'_> {
    /// Tiles are as wide as a strip on every instruction set.
    #[inline(always)]
    fn n_columns(&self) -> usize {
        STRIP
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(mut self, set: S) {
        let patch = self.patch;
        let block = pixels_of_block(patch.pixels.len(), self.channels);
        for pixels in patch.pixels.chunks(block) {
            for strip in 0..self.kernel.filters.div_ceil(STRIP) {
                self.strip(set, pixels, strip);
            }
        }
    }
}

/// Returns how many of `n_pixels` pass over a strip together, in blocks of much the same size. Windows overlap: each
/// pixel brings about its own activations.
fn pixels_of_block(n_pixels: usize, channels: usize) -> usize {
    let fit = BLOCK_BYTES.div_euclid(channels.max(1) * size_of::<f32>());
    let n_blocks = n_pixels.div_ceil(fit.max(TILE)).max(1);
    n_pixels.div_ceil(n_blocks).max(1).next_multiple_of(TILE)
}

impl<'a> PackedMixing<'a> {
    /// Computes a strip of `pixels`, in tiles of nearly the same height: with five pixels there are still as many chains
    /// as hide the latency of a step, with one there are not.
    #[inline(always)]
    fn strip<S: InstructionSet>(&mut self, set: S, pixels: &[Pixel], strip: usize) {
        let n_tiles = pixels.len().div_ceil(TILE).max(1);
        let height = pixels.len().div_ceil(n_tiles).max(1);
        let n_high = pixels.len().saturating_sub(n_tiles * (height - 1));
        let (high, low) = pixels.split_at(n_high * height);
        let mut next = self.lines_after(strip, n_tiles);
        for (height, pixels) in [(height, high), (height - 1, low)] {
            match height {
                1 => self.tiles::<S, 1>(set, pixels, strip, &mut next),
                2 => self.tiles::<S, 2>(set, pixels, strip, &mut next),
                3 => self.tiles::<S, 3>(set, pixels, strip, &mut next),
                4 => self.tiles::<S, 4>(set, pixels, strip, &mut next),
                5 => self.tiles::<S, 5>(set, pixels, strip, &mut next),
                _ => self.tiles::<S, TILE>(set, pixels, strip, &mut next),
            }
        }
    }

    /// Computes tiles of `P` pixels, and fetches a part of the weights that follow with each.
    #[inline(always)]
    fn tiles<S: InstructionSet, const P: usize>(
        &mut self,
        set: S,
        pixels: &[Pixel],
        strip: usize,
        next: &mut Chunks<'_, Line>,
    ) {
        for tile in pixels.as_chunks::<P>().0 {
            for line in next.next().unwrap_or_default() {
                fetch(line);
            }
            self.tile(set, tile, strip);
        }
    }

    /// Returns the weights that follow those of a strip, in as many parts as it has tiles.
    #[inline(always)]
    fn lines_after(&self, strip: usize, n_tiles: usize) -> Chunks<'a, Line> {
        let rows = self.kernel.rows;
        let lines = &self.kernel.lines;
        let first = ((strip + 1) * rows) % lines.len().max(1);
        let lines = &lines[first..][..rows];
        lines.chunks(rows.div_ceil(n_tiles.max(1)).max(1))
    }

    #[inline(always)]
    fn tile<S: InstructionSet, const P: usize>(
        &mut self,
        set: S,
        pixels: &[Pixel; P],
        strip: usize,
    ) {
        let kernel = self.kernel;
        let lines = &kernel.lines[strip * kernel.rows..][..kernel.rows];
        let mut acc = [<S::Row<STRIP> as Row<S, Fused, STRIP>>::zero(set); P];
        for run in &self.patch.runs {
            let len = run.n_taps * self.channels;
            let lines = &lines[run.tap * self.channels..][..len];
            let sources: [&[f32]; P] =
                from_fn(|p| &source(run, pixels[p], (self.x, self.pad), self.channels)[..len]);
            for (k, line) in lines.iter().enumerate() {
                for (acc, source) in acc.iter_mut().zip(&sources) {
                    acc.step(source[k], &line.0);
                }
            }
        }
        let column = first_column(strip, kernel.filters);
        let places = pixels
            .each_ref()
            .map(|pixel| pixel.out * kernel.filters + column);
        FloatRow::<S, STRIP>::end(&acc, self.ending.columns(column), &places, self.out);
    }
}

/// Starts to fetch a line into the second cache.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn fetch(line: &Line) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: every x86-64 CPU has the instruction, which reads nothing that the program sees.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(line).cast()) };
}

/// Starts to fetch a line into the second cache: not on this target.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn fetch(_: &Line) {}
