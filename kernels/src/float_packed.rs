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

use crate::chain::Fused;
use crate::contract::{check_len, check_per_channel, check_window};
use crate::dispatch::{InstructionSet, Job, dispatch_avx2, dispatch_avx512};
use crate::ending::Ending;
use crate::float_products::source;
use crate::isa::{Isa, Kernels};
use crate::operands::Window;
use crate::operations::{outside, plan};
use crate::plan::{Direction, Patch, Pixel};
use crate::row::{FloatRow, Row};

/// Columns of a strip for AVX2: two vectors.
const NARROW: usize = 16;

/// Columns of a strip for AVX-512: four vectors.
const WIDE: usize = 64;

/// Values of a line of the cache.
const CACHE_LINE: usize = 16;

/// Most pixels of a tile: two or four vectors of accumulators each leave room for the weights and an activation.
const TILE: usize = 6;

/// Bytes of activations that pass over one strip before the next strip is read: they stay in a cache, and leave room
/// there for the strip.
const BLOCK_BYTES: usize = 256 << 10;

/// A kernel `[rows, filters]` of f32, packed for the tiles of an instruction set.
#[derive(Clone, Debug)]
pub struct PackedFloats {
    rows: usize,
    filters: usize,
    strips: Strips,
}

/// The weights, `[strips, rows]`. The last strip is moved back to end with the filters.
#[derive(Clone, Debug)]
enum Strips {
    Narrow(Vec<Line<NARROW>>),
    Wide(Vec<Line<WIDE>>),
}

/// The weights of a strip for one step of its chains, from the start of a line of the cache on.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line<const N: usize>([f32; N]);

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
    /// Returns a kernel `[rows, filters]` packed for `kernels`, or `None` if they are as fast without: it has fewer
    /// columns than a tile, or the instruction set has few registers.
    ///
    /// # Panics
    ///
    /// Panics if the length is another.
    #[must_use]
    pub fn new(kernels: Kernels, kernel: &[f32], rows: usize, filters: usize) -> Option<Self> {
        check_len("kernel", kernel.len(), &[rows, filters]);
        let strips = match kernels.isa() {
            Isa::Avx2 if filters >= NARROW => Strips::Narrow(strips(kernel, rows, filters)),
            Isa::Avx512 | Isa::Vnni if filters >= WIDE => {
                Strips::Wide(strips(kernel, rows, filters))
            }
            Isa::Portable | Isa::Avx2 | Isa::Avx512 | Isa::Vnni => return None,
        };
        Some(Self {
            rows,
            filters,
            strips,
        })
    }

    /// Returns whether the kernel is packed for `kernels`.
    #[must_use]
    pub fn suits(&self, kernels: Kernels) -> bool {
        match kernels.isa() {
            Isa::Portable => false,
            Isa::Avx2 => matches!(self.strips, Strips::Narrow(_)),
            Isa::Avx512 | Isa::Vnni => matches!(self.strips, Strips::Wide(_)),
        }
    }
}

/// Returns the strips of a kernel of at least `N` columns.
fn strips<const N: usize>(kernel: &[f32], rows: usize, filters: usize) -> Vec<Line<N>> {
    let n_strips = filters.div_ceil(N);
    let mut lines = Vec::with_capacity(n_strips * rows);
    for strip in 0..n_strips {
        let column = first_column::<N>(strip, filters);
        let columns = kernel.chunks_exact(filters).map(|row| &row[column..]);
        lines.extend(columns.filter_map(|columns| columns.first_chunk().copied().map(Line)));
    }
    lines
}

/// Returns where a strip of `N` columns starts.
#[inline(always)]
fn first_column<const N: usize>(strip: usize, filters: usize) -> usize {
    (strip * N).min(filters - N)
}

/// f32 operations with packed weights: the chains are those of the same operations without (NUMERICS.md F1).
impl Kernels {
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
            let operands = Operands {
                x,
                pad: pad.unwrap_or_default(),
                channels,
                patch,
            };
            self.packed_f32(operands, kernel, ending.again(), out);
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
        let operands = Operands {
            x,
            pad: &[],
            channels,
            patch: &patch,
        };
        self.packed_f32(operands, kernel, ending.again(), out);
    }

    fn packed_f32(
        self,
        operands: Operands<'_>,
        kernel: &PackedFloats,
        ending: Ending<'_>,
        out: &mut [f32],
    ) {
        assert!(
            kernel.suits(self),
            "the kernel is packed for another instruction set"
        );
        let (rows, filters) = (kernel.rows, kernel.filters);
        match &kernel.strips {
            Strips::Narrow(lines) => dispatch_avx2(
                self,
                PackedMixing {
                    operands,
                    lines,
                    rows,
                    filters,
                    ending,
                    out,
                },
            ),
            Strips::Wide(lines) => dispatch_avx512(
                self,
                PackedMixing {
                    operands,
                    lines,
                    rows,
                    filters,
                    ending,
                    out,
                },
            ),
        }
    }
}

/// What a product reads besides its weights, and its plan.
#[derive(Clone, Copy, Debug)]
struct Operands<'a> {
    x: &'a [f32],
    /// One value per channel; empty if the plan has no taps outside the image.
    pad: &'a [f32],
    channels: usize,
    patch: &'a Patch,
}

/// `out[pixel, filter] = sum of x[pixel + tap, channel] * kernel[tap, channel, filter]`.
#[derive(Debug)]
struct PackedMixing<'a, const W: usize> {
    operands: Operands<'a>,
    /// `[strips, rows]`.
    lines: &'a [Line<W>],
    rows: usize,
    filters: usize,
    ending: Ending<'a>,
    out: &'a mut [f32],
}

impl<const W: usize> Job for PackedMixing<'_, W> {
    /// Tiles are as wide as a strip on every instruction set.
    #[inline(always)]
    fn n_columns(&self) -> usize {
        W
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(mut self, set: S) {
        let Operands {
            channels, patch, ..
        } = self.operands;
        let block = pixels_of_block(patch.pixels.len(), channels);
        for pixels in patch.pixels.chunks(block) {
            for strip in 0..self.filters.div_ceil(W) {
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

impl<'a, const W: usize> PackedMixing<'a, W> {
    /// Computes a strip of `pixels`, in tiles of nearly the same height: with five pixels there are still as many chains
    /// as hide the latency of a step, with one there are not.
    #[inline(always)]
    fn strip<S: InstructionSet>(&mut self, set: S, pixels: &[Pixel], strip: usize) {
        let n_tiles = pixels.len().div_ceil(TILE).max(1);
        let height = pixels.len().div_ceil(n_tiles).max(1);
        let n_high = pixels.len().saturating_sub(n_tiles * (height - 1));
        let (high, low) = pixels.split_at(n_high * height);
        let mut ahead = self.ahead(strip);
        for (height, pixels) in [(height, high), (height - 1, low)] {
            match height {
                1 => self.tiles::<S, 1>(set, pixels, strip, &mut ahead),
                2 => self.tiles::<S, 2>(set, pixels, strip, &mut ahead),
                3 => self.tiles::<S, 3>(set, pixels, strip, &mut ahead),
                4 => self.tiles::<S, 4>(set, pixels, strip, &mut ahead),
                5 => self.tiles::<S, 5>(set, pixels, strip, &mut ahead),
                _ => self.tiles::<S, TILE>(set, pixels, strip, &mut ahead),
            }
        }
    }

    /// Computes tiles of `P` pixels.
    #[inline(always)]
    fn tiles<S: InstructionSet, const P: usize>(
        &mut self,
        set: S,
        pixels: &[Pixel],
        strip: usize,
        ahead: &mut Ahead,
    ) {
        for tile in pixels.as_chunks::<P>().0 {
            self.tile(set, tile, strip, *ahead);
            ahead.pass(self.rows);
        }
    }

    /// Returns the weights that follow those of a strip; after the last strip the first, for the next block.
    #[inline(always)]
    fn ahead(&self, strip: usize) -> Ahead {
        let first = ((strip + 1) * self.rows) % self.lines.len().max(1);
        Ahead {
            at: self.lines[first..].as_ptr().cast(),
            n_parts: W.div_euclid(CACHE_LINE),
        }
    }

    #[inline(always)]
    fn tile<S: InstructionSet, const P: usize>(
        &mut self,
        set: S,
        pixels: &[Pixel; P],
        strip: usize,
        ahead: Ahead,
    ) {
        let Operands {
            x,
            pad,
            channels,
            patch,
        } = self.operands;
        let lines = &self.lines[strip * self.rows..][..self.rows];
        let stride = ahead.stride();
        let mut acc = [<S::Row<W> as Row<S, Fused, W>>::zero(set); P];
        for run in &patch.runs {
            let len = run.n_taps * channels;
            let first = run.tap * channels;
            let lines = &lines[first..][..len];
            let sources: [&[f32]; P] =
                from_fn(|p| &source(run, pixels[p], (x, pad), channels)[..len]);
            let mut next = ahead.at.wrapping_add(first * stride);
            for (k, line) in lines.iter().enumerate() {
                fetch(next);
                next = next.wrapping_add(stride);
                for (acc, source) in acc.iter_mut().zip(&sources) {
                    acc.step(source[k], &line.0);
                }
            }
        }
        let column = first_column::<W>(strip, self.filters);
        let places = pixels
            .each_ref()
            .map(|pixel| pixel.out * self.filters + column);
        FloatRow::<S, W>::end(&acc, self.ending.columns(column), &places, self.out);
    }
}

/// The weights of the next strip that are not fetched yet: a tile fetches one line of the cache with each of its steps.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    at: *const f32,
    /// How many tiles have something to fetch.
    n_parts: usize,
}

impl Ahead {
    /// Returns how far apart the lines lie that a tile fetches: nowhere, if there are no more.
    #[inline(always)]
    fn stride(self) -> usize {
        CACHE_LINE * self.n_parts.min(1)
    }

    /// Leaves out what a tile of `rows` steps has fetched.
    #[inline(always)]
    fn pass(&mut self, rows: usize) {
        self.at = self.at.wrapping_add(rows * self.stride());
        self.n_parts = self.n_parts.saturating_sub(1);
    }
}

/// Starts to fetch the line at `at` into the second cache.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn fetch(at: *const f32) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: every x86-64 CPU has the instruction, which reads nothing that the program sees, and takes any address.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
}

/// Starts to fetch a line into the second cache: not on this target.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn fetch(_: *const f32) {}
