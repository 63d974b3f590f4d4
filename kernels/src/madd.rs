//! Products of 16-bit words with AVX2, or with AVX-512 that lacks VNNI: pairs of them, summed in an `i32`.
//!
//! Bytes are multiplied as words, since no instruction of these sets is exact for bytes. All activations, also those of
//! a pointwise layer, are widened as the patches are copied, a few pixels at a time: that costs as much as the products
//! of a few filters.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "vector instructions may run only on a CPU that has them"
    )
)]

pub(crate) mod gather;
mod tile;

use crate::finish::{Byte, Extremes, Finish};
#[cfg(target_arch = "x86_64")]
use crate::isa::Isa;
use crate::isa::Kernels;
use crate::lanes::{Lane, Packable};
use crate::operands::Window;
#[cfg(target_arch = "x86_64")]
use crate::packed::COLUMNS;
use crate::packed::{Packed, PackedConv, Patches};
use crate::rows::Rows;
use gather::Gathered;

/// Words that are gathered at once, at least a tile of pixels.
const GATHERED: usize = 1 << 14;

/// Sums that wait for their last steps at once: they stay in the first cache.
const WAITING: usize = 1 << 12;

/// Makes the sums of a convolution, a few pixels after the other.
pub(crate) struct Sums<'a, X, L: Lane> {
    kernels: Kernels,
    conv: &'a PackedConv<'a, X, L>,
    source: Source<'a, X, L>,
    /// Pixels that are computed at once, at most.
    n_pixels: usize,
}

/// Where the words are that pixels see.
enum Source<'a, X, L: Lane> {
    /// Where they lie already: the words of a pointwise layer.
    Words(&'a [L::Activation]),
    /// In the rows of the input: those of each output row at once.
    Rows(Rows<'a, X, L>),
    /// In a copy for each pixel.
    Gathered(Gathered<'a, X, L>),
}

impl<'a, X: Packable<L>, L: Lane> Sums<'a, X, L> {
    /// Returns what makes the sums of `conv`, whose extents were checked, with `kernels`, which pack such weights.
    pub(crate) fn new(kernels: Kernels, conv: &'a PackedConv<'a, X, L>) -> Self {
        assert!(
            kernels.packs::<L>(),
            "an instruction set that packs weights"
        );
        let stride = conv.kernel.patch_len();
        let tile = tile_rows(kernels);
        let tiles = GATHERED.checked_div(stride * tile).unwrap_or(1);
        let n_pixels = tiles.clamp(1, 8) * tile;
        let window = &conv.window;
        let is_plain = *window == Window::pointwise(window.in_h, window.in_w);
        let words = X::as_packed(conv.x).filter(|_| is_plain && stride == conv.channels);
        let (source, n_pixels) = if let Some(words) = words {
            (Source::Words(words), n_pixels)
        } else if let Some(rows) = Rows::new(conv, 2 * tile) {
            // Short rows would make low tiles.
            (Source::Rows(rows), window.out_w)
        } else {
            let row_len = conv.kernel.row_len(window.kernel_w * conv.channels);
            let room = Gathered::new(conv.view(), (row_len, stride), n_pixels);
            (Source::Gathered(room), n_pixels)
        };
        Self {
            kernels,
            conv,
            source,
            n_pixels,
        }
    }

    /// Writes the sums of the pixels from `first` on into `out`, `[pixels, filters]`: those of whole output rows.
    pub(crate) fn write(&mut self, first: usize, out: &mut [i32]) {
        let (kernel, window) = (self.conv.kernel, &self.conv.window);
        let (filters, stride) = (kernel.filters, kernel.patch_len());
        let mut from = first;
        for out in out.chunks_mut((self.n_pixels * filters).max(1)) {
            let n_pixels = out.len().div_euclid(filters);
            let pixels = from..from + n_pixels;
            from = pixels.end;
            let patches = match &mut self.source {
                Source::Words(words) => {
                    let words = &words[pixels.start * stride..pixels.end * stride];
                    Patches::new(kernel, words, n_pixels)
                }
                Source::Rows(rows) => rows.fill(pixels.start.div_euclid(window.out_w)),
                Source::Gathered(room) => {
                    Patches::new(kernel, room.gather(self.kernels, pixels), n_pixels)
                }
            };
            product(self.kernels, kernel, &patches, out);
        }
    }

    /// Writes the finished results of the pixels from `first` on into `out`, `[pixels, filters]`.
    pub(crate) fn finish<O: Byte>(
        &mut self,
        first: usize,
        (finish, out, extremes): (&Finish, &mut [O], &mut Extremes),
    ) {
        let filters = self.conv.kernel.filters;
        let batches = WAITING.div_euclid((self.n_pixels * filters).max(1)).max(1);
        let n_pixels = batches * self.n_pixels;
        let mut sums = vec![0; out.len().min(n_pixels * filters)];
        let mut from = first;
        for out in out.chunks_mut((n_pixels * filters).max(1)) {
            let sums = &mut sums[..out.len()];
            self.write(from, sums);
            self.kernels.finish(finish, sums, out, extremes);
            from += n_pixels;
        }
    }
}

/// Returns the rows of the largest tile.
#[cfg(target_arch = "x86_64")]
fn tile_rows(kernels: Kernels) -> usize {
    match kernels.isa() {
        Isa::Portable | Isa::Avx2 => tile::avx2::ROWS,
        Isa::Avx512 | Isa::Vnni => tile::avx512::ROWS,
    }
}

/// There are no tiles on this target.
#[cfg(not(target_arch = "x86_64"))]
fn tile_rows(_: Kernels) -> usize {
    1
}

/// Writes the products of patches, whose rows are whole groups, with the packed kernel.
#[cfg(target_arch = "x86_64")]
fn product<L: Lane>(
    kernels: Kernels,
    kernel: &Packed<L>,
    patches: &Patches<'_, L::Activation>,
    out: &mut [i32],
) {
    assert_eq!(L::GROUP, 2, "lanes of words");
    let filters = kernel.filters;
    // Of the last block, AVX2 computes half if that is enough.
    let rest = filters.rem_euclid(COLUMNS);
    let whole = if (1..=tile::avx2::COLUMNS).contains(&rest) {
        filters - rest
    } else {
        filters
    };
    match kernels.isa() {
        Isa::Portable => {}
        // SAFETY: a `Kernels` exists only for a set that was detected on this CPU: here AVX2 with FMA and POPCNT.
        Isa::Avx2 => unsafe { tile::avx2::blocks(kernel, patches, out, 0..filters) },
        // SAFETY: as above, AVX-512 F, BW, DQ and VL with AVX2, FMA and POPCNT; the set of VNNI includes them.
        Isa::Avx512 | Isa::Vnni => unsafe {
            tile::avx512::blocks(kernel, patches, out, 0..whole);
            tile::avx2::blocks(kernel, patches, out, whole..filters);
        },
    }
}

/// There are no packed weights on this target; `Kernels::packs` is false.
#[cfg(not(target_arch = "x86_64"))]
fn product<L: Lane>(_: Kernels, _: &Packed<L>, _: &Patches<'_, L::Activation>, _: &mut [i32]) {}
