//! Products of bytes with AVX2: sums of pairs of lanes in 16 bits, then in an `i32`.
//!
//! AVX2 multiplies unsigned bytes by signed ones and adds neighbouring products, but keeps 16 bits of what comes out.
//! [`BytePairs`] holds weights for which that is exact whatever the activations are.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "vector instructions may run only on a CPU that has them"
    )
)]

mod packing;
mod tile;

use std::ops::Range;

use crate::contract::{check_len, check_per_channel, check_window};
use crate::finish::{Byte, Columns, Extremes, Finish};
use crate::isa::{Isa, Kernels};
use crate::madd::gather::Patches;
use crate::operands::Window;
use crate::packed::View;
pub use packing::BytePairs;
use packing::COLUMNS;

/// Pixels that meet a block of weights after each other: their sums stay in the first cache.
const PIXELS: usize = 12 * tile::ROWS;

/// Bytes of patches that are gathered at once.
const GATHERED: usize = 1 << 16;

/// The operands of a convolution with weights in pairs.
#[derive(Clone, Copy, Debug)]
pub struct PairsConv<'a> {
    /// Input, `[in_h, in_w, channels]`, none above what the kernel was packed for.
    pub x: &'a [u8],
    /// Kernel of `kernel_h * kernel_w * channels` rows.
    pub kernel: &'a BytePairs,
    /// Value of each channel outside the image, `[channels]`; `None` is zero.
    pub pad: Option<&'a [u8]>,
    /// Where the taps read.
    pub window: Window,
    /// Channels of the input.
    pub channels: usize,
}

impl Kernels {
    /// Returns whether these kernels are at their best with weights in pairs: those of AVX2.
    #[must_use]
    pub fn packs_pairs(self) -> bool {
        self.isa() == Isa::Avx2
    }

    /// Writes the output rows `rows` of a convolution into `out`, `[rows, out_w, filters]`. NUMERICS.md N15, E3.
    ///
    /// Sums wrap around: the caller knows that each fits in an `i32`.
    ///
    /// # Panics
    ///
    /// Panics if [`packs_pairs`](Self::packs_pairs) is false, an activation is larger than the kernel was packed for, a
    /// length disagrees with the extents, `rows` is not in `0..out_h`, or the window is not valid.
    pub fn conv2d_pairs(self, conv: &PairsConv<'_>, rows: Range<usize>, out: &mut [i32]) {
        let filters = conv.kernel.filters;
        let pixels = self.check_pairs(conv, &rows, out.len());
        self.each_block(conv, pixels, |columns, sums| {
            let rows = out[columns.pixel * filters..].chunks_mut(filters);
            for (out, sums) in rows.zip(sums.as_chunks::<COLUMNS>().0) {
                out[columns.first..columns.first + COLUMNS].copy_from_slice(sums);
            }
        });
    }

    /// Writes the finished output rows `rows` of a convolution into `out`, `[rows, out_w, filters]`, and adds what the
    /// sums were to `extremes`. NUMERICS.md N15, N10, E3.
    ///
    /// # Panics
    ///
    /// As [`conv2d_pairs`](Self::conv2d_pairs), and if `finish` has another number of channels.
    pub fn conv2d_pairs_finished<O: Byte>(
        self,
        conv: &PairsConv<'_>,
        rows: Range<usize>,
        (finish, out, extremes): (&Finish, &mut [O], &mut Extremes),
    ) {
        let filters = conv.kernel.filters;
        assert_eq!(finish.channels(), filters, "a channel for each filter");
        let pixels = self.check_pairs(conv, &rows, out.len());
        self.each_block(conv, pixels, |columns, sums| {
            let n_pixels = sums.len().div_euclid(COLUMNS);
            let out = &mut out[columns.pixel * filters..][..n_pixels * filters];
            self.finish_columns(finish, &columns, sums, (out, extremes));
        });
    }

    /// Gives the sums of eight columns of some pixels to `take`, until all pixels have all columns.
    fn each_block(
        self,
        conv: &PairsConv<'_>,
        pixels: Range<usize>,
        mut take: impl FnMut(Columns, &[i32]),
    ) {
        let (window, stride) = (&conv.window, conv.kernel.patch_len());
        let is_plain = *window == Window::pointwise(window.in_h, window.in_w);
        if is_plain && stride == conv.channels {
            let patches = &conv.x[pixels.start * stride..pixels.end * stride];
            return each_column(conv.kernel, patches, 0, &mut take);
        }
        let n_tiles = GATHERED.div_euclid(stride * tile::ROWS);
        let n_pixels = n_tiles.clamp(1, 12) * tile::ROWS;
        let view = View {
            x: conv.x,
            pad: conv.pad,
            window,
            channels: conv.channels,
        };
        let row_len = window.kernel_w * conv.channels;
        let mut patches = Patches::<_, i8>::new(view, (row_len, stride), n_pixels);
        for first in pixels.clone().step_by(n_pixels) {
            let some = first..pixels.end.min(first + n_pixels);
            let patches = patches.gather(self, some);
            each_column(conv.kernel, patches, first - pixels.start, &mut take);
        }
    }

    /// Checks operands and the length of the results, and returns the numbers of the pixels of `rows`.
    fn check_pairs(
        self,
        conv: &PairsConv<'_>,
        rows: &Range<usize>,
        n_results: usize,
    ) -> Range<usize> {
        let (window, kernel, channels) = (&conv.window, conv.kernel, conv.channels);
        assert!(self.packs_pairs(), "an instruction set that packs pairs");
        check_window(window, rows);
        check_len("input", conv.x.len(), &[window.in_h, window.in_w, channels]);
        check_per_channel("padding", conv.pad, channels);
        let n_taps = window.kernel_h * window.kernel_w;
        assert_eq!(n_taps * channels, kernel.rows, "rows of the kernel");
        let extents = [rows.len(), window.out_w, kernel.filters];
        check_len("output", n_results, &extents);
        let most = conv.pad.map_or(0, largest).max(largest(conv.seen(rows)));
        assert!(
            most <= kernel.most,
            "an activation is {most}, larger than the {} that the kernel was packed for",
            kernel.most
        );
        rows.start * window.out_w..rows.end * window.out_w
    }
}

impl PairsConv<'_> {
    /// Returns the input rows that the output rows `rows` see, and maybe others.
    fn seen(&self, rows: &Range<usize>) -> &[u8] {
        let window = &self.window;
        let row_len = window.in_w * self.channels;
        let inside = |row: usize| row.saturating_sub(window.pad_top).min(window.in_h);
        let from = inside(rows.start * window.stride_h);
        let to = inside(rows.end * window.stride_h + window.kernel_h * window.dilation_h);
        &self.x[from * row_len..to.max(from) * row_len]
    }
}

/// Gives the sums of eight columns of some of the patches to `take`, until all patches have all columns; the first is
/// that of pixel `first`.
fn each_column(
    kernel: &BytePairs,
    patches: &[u8],
    first: usize,
    take: &mut impl FnMut(Columns, &[i32]),
) {
    let stride = kernel.patch_len();
    let mut sums = [0; PIXELS * COLUMNS];
    for (patches, number) in patches.chunks(PIXELS * stride).zip(0..) {
        let n_pixels = patches.len().div_euclid(stride);
        let sums = &mut sums[..n_pixels * COLUMNS];
        for (block, before) in kernel.blocks.iter().zip((0..).step_by(COLUMNS)) {
            multiply(block, patches, stride, sums);
            let columns = Columns {
                pixel: first + number * PIXELS,
                first: block.first,
                n_seen: before - block.first,
            };
            take(columns, sums);
        }
    }
}

/// Returns the largest activation, 0 of none.
fn largest(x: &[u8]) -> u8 {
    x.iter().fold(0, |most, v| most.max(*v))
}

/// Writes the sums of eight columns, `[pixels, 8]`.
#[cfg(target_arch = "x86_64")]
fn multiply(block: &packing::Block, patches: &[u8], stride: usize, sums: &mut [i32]) {
    // SAFETY: this runs only after `check_pairs`, for kernels of AVX2: a `Kernels` exists only for a set that was
    // detected on this CPU.
    unsafe { tile::rows(block, patches, stride, sums) };
}

/// There is no AVX2 on this target; `Kernels::packs_pairs` is false.
#[cfg(not(target_arch = "x86_64"))]
fn multiply(_: &packing::Block, _: &[u8], _: usize, _: &mut [i32]) {}
