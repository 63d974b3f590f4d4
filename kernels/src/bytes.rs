//! Products of bytes with AVX2: sums of some lanes in 16 bits, then in an `i32`.
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

mod ends;
mod finished;
mod layout;
mod packing;
mod sink;
mod tile;

use std::ops::Range;

use crate::contract::{check_len, check_per_channel, check_window};
use crate::finish::{Byte, Extremes, Finish};
use crate::isa::{Isa, Kernels};
use crate::madd::gather::Gathered;
use crate::operands::Window;
use crate::packed::View;
use finished::Finished;
use layout::Interleaved;
pub use packing::BytePairs;
use packing::{Block, COLUMNS};
use sink::{Bounded, Plain, Sink};

/// Tiles of pixels that meet a block of weights after each other.
const TILES: usize = 64;

/// Bytes of patches that are gathered at once: they stay in the first cache, beside the weights of a block.
const GATHERED: usize = 1 << 14;

/// The operands of a convolution with weights in pairs.
#[derive(Clone, Copy, Debug)]
pub struct PairsConv<'a> {
    /// Input, `[in_h, in_w, channels]`; no pixel sees more than the kernel was packed for.
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
    /// Returns whether these kernels are at their best with weights in pairs: those of AVX2, and of AVX-512 without VNNI,
    /// whose products of words take half as long again.
    #[must_use]
    pub fn packs_pairs(self) -> bool {
        matches!(self.isa(), Isa::Avx2 | Isa::Avx512)
    }

    /// Writes the output rows `rows` of a convolution into `out`, `[rows, out_w, filters]`. NUMERICS.md N15, E3.
    ///
    /// Sums wrap around: the caller knows that each fits in an `i32`.
    ///
    /// # Panics
    ///
    /// Panics if [`packs_pairs`](Self::packs_pairs) is false, a pixel sees an activation that is larger than the kernel was
    /// packed for, a length disagrees with the extents, `rows` is not in `0..out_h`, or the window is not valid.
    pub fn conv2d_pairs(self, conv: &PairsConv<'_>, rows: Range<usize>, out: &mut [i32]) {
        let filters = conv.kernel.filters;
        let pixels = self.check_pairs(conv, &rows, out.len());
        self.each_block(conv, pixels, &mut Plain { out, filters });
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
        finish.check_type::<O>();
        let pixels = self.check_pairs(conv, &rows, out.len());
        if finish.packs_all::<O>() {
            let mut sink = Finished {
                finish,
                out,
                extremes,
            };
            return self.each_block(conv, pixels, &mut sink);
        }
        let mut sums = vec![0; out.len()];
        let mut sink = Plain {
            out: &mut sums,
            filters,
        };
        self.each_block(conv, pixels, &mut sink);
        self.finish(finish, &sums, out, extremes);
    }

    /// Writes finished results that stay in an `i32`, as [`conv2d_pairs_finished`](Self::conv2d_pairs_finished) those
    /// that are bytes.
    ///
    /// # Panics
    ///
    /// As that does.
    pub fn conv2d_pairs_finished_words(
        self,
        conv: &PairsConv<'_>,
        rows: Range<usize>,
        (finish, out, extremes): (&Finish, &mut [i32], &mut Extremes),
    ) {
        let filters = conv.kernel.filters;
        assert_eq!(finish.channels(), filters, "a channel for each filter");
        let pixels = self.check_pairs(conv, &rows, out.len());
        if finish.shifts {
            self.each_block(conv, pixels, &mut Plain { out, filters });
            return self.finish_in_place(finish, out, extremes);
        }
        let mut sink = Bounded {
            finish,
            out,
            extremes,
        };
        self.each_block(conv, pixels, &mut sink);
    }

    /// Gives the sums of some pixels to the sink, whose first pixel is the first of them.
    fn each_block<S: Sink>(self, conv: &PairsConv<'_>, pixels: Range<usize>, sink: &mut S) {
        let (window, stride) = (&conv.window, conv.kernel.patch_len());
        let n_tiles = GATHERED.div_euclid(stride * tile::ROWS).clamp(1, TILES);
        let n_pixels = n_tiles * tile::ROWS;
        let mut product = Product::new(conv.kernel, n_tiles, sink);
        let is_plain = *window == Window::pointwise(window.in_h, window.in_w);
        if is_plain && stride == conv.channels {
            let patches = &conv.x[pixels.start * stride..pixels.end * stride];
            for (patches, number) in patches.chunks(n_pixels * stride).zip(0..) {
                product.add(patches, number * n_pixels);
            }
            return product.close();
        }
        let view = View {
            x: conv.x,
            pad: conv.pad,
            window,
            channels: conv.channels,
        };
        let row_len = window.kernel_w * conv.channels;
        let mut patches = Gathered::<_, i8>::new(view, (row_len, stride), n_pixels);
        for first in pixels.clone().step_by(n_pixels) {
            let some = first..pixels.end.min(first + n_pixels);
            product.add(patches.gather(self, some), first - pixels.start);
        }
        product.close();
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
        rows.start * window.out_w..rows.end * window.out_w
    }
}

/// A product of patches with a kernel, some patches after the other.
struct Product<'a, S: Sink> {
    kernel: &'a BytePairs,
    patches: Interleaved,
    sink: &'a mut S,
    /// What the sink has for each block of columns.
    columns: Vec<S::Columns>,
}

impl<'a, S: Sink> Product<'a, S> {
    fn new(kernel: &'a BytePairs, n_tiles: usize, sink: &'a mut S) -> Self {
        let blocks = kernel.blocks.iter().zip((0..).step_by(COLUMNS));
        let columns = blocks.map(|(block, before)| sink.columns(block.first, before - block.first));
        Self {
            kernel,
            columns: columns.collect(),
            patches: Interleaved::new(kernel.patch_len(), n_tiles),
            sink,
        }
    }

    /// Gives the sums of patches to the sink; the first is that of its pixel `pixel`.
    fn add(&mut self, patches: &[u8], pixel: usize) {
        let (most, bound) = (self.patches.fill(patches), self.kernel.most);
        assert!(
            most <= bound,
            "an activation is {most}, larger than the {bound} that the kernel was packed for"
        );
        let to = (&mut *self.sink, self.columns.as_mut_slice());
        multiply(&self.kernel.blocks, &self.patches, pixel, to);
    }

    fn close(self) {
        for columns in &self.columns {
            self.sink.close(columns);
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn multiply<S: Sink>(
    blocks: &[Block],
    patches: &Interleaved,
    pixel: usize,
    to: (&mut S, &mut [S::Columns]),
) {
    // SAFETY: this runs only after `check_pairs`, for kernels of AVX2: a `Kernels` exists only for a set that was
    // detected on this CPU.
    unsafe { tile::blocks(blocks, patches, pixel, to) };
}

/// There is no AVX2 on this target; `Kernels::packs_pairs` is false.
#[cfg(not(target_arch = "x86_64"))]
fn multiply<S: Sink>(_: &[Block], _: &Interleaved, _: usize, _: (&mut S, &mut [S::Columns])) {}
