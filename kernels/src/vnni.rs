//! Products of bytes, or of 16-bit words, with AVX-512 VNNI: four or two at once, summed into an `i32`.
//!
//! The instruction for bytes takes unsigned ones times signed ones. Signed activations are moved up by 128 and the
//! sums are set back by 128 times the sum of the weights; sums wrap around, so the result is exact whenever it fits.
//!
//! The packed weights of words are also those of AVX2 and of AVX-512 without VNNI, whose products are in `madd`.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "vector instructions may run only on a CPU that has them"
    )
)]

mod bounded;
mod depthwise;
mod finished;
mod gather;
mod packing;
mod sink;
mod tile;

use std::ops::Range;

use crate::contract::{check_len, check_per_channel, check_window};
use crate::finish::{Byte, Extremes, Finish};
use crate::isa::{Isa, Kernels};
use crate::lanes::{Lane, Packable};
use crate::madd::Sums;
use crate::operands::Window;
use crate::packed::{Packed, PackedConv, Patches};
use crate::rows::Rows;
use bounded::Bounded;
use finished::Finished;
use gather::Gathered;
use sink::{Plain, Sink};
use tile::product;

pub use depthwise::{PackedDepthwise, PackedDepthwiseConv};

impl Kernels {
    /// Returns whether these kernels multiply packed weights of type `L`: words with AVX2 and all above, bytes with
    /// VNNI.
    #[must_use]
    pub fn packs<L: Lane>(self) -> bool {
        self.isa() >= L::LEAST
    }

    /// Returns whether these kernels multiply packed depthwise weights.
    #[must_use]
    pub fn packs_depthwise(self) -> bool {
        self.isa() == Isa::Vnni
    }

    /// Writes the output rows `rows` of a convolution into `out`, `[rows, out_w, filters]`. NUMERICS.md N15.
    ///
    /// Sums wrap around: the caller knows that each fits in an `i32`.
    ///
    /// # Panics
    ///
    /// Panics if [`packs`](Self::packs) is false for `L`, a length disagrees with the extents, `rows` is not in
    /// `0..out_h`, or the window is not valid.
    pub fn conv2d_packed<X: Packable<L>, L: Lane>(
        self,
        conv: &PackedConv<'_, X, L>,
        rows: Range<usize>,
        out: &mut [i32],
    ) {
        let filters = conv.kernel.filters;
        let pixels = self.check_packed(conv, &rows, out.len());
        if self.isa() == Isa::Vnni {
            packed_pixels(conv, pixels, &mut Plain { out, filters });
        } else {
            Sums::new(self, conv).write(pixels.start, out);
        }
    }

    /// Writes the finished output rows `rows` of a convolution into `out`, `[rows, out_w, filters]`, and adds what the
    /// sums were to `extremes`. NUMERICS.md N15, N10, E2.
    ///
    /// # Panics
    ///
    /// As [`conv2d_packed`](Self::conv2d_packed), and if `finish` has another number of channels.
    pub fn conv2d_finished<X: Packable<L>, L: Lane, O: Byte>(
        self,
        conv: &PackedConv<'_, X, L>,
        rows: Range<usize>,
        (finish, out, extremes): (&Finish, &mut [O], &mut Extremes),
    ) {
        assert_eq!(
            finish.channels(),
            conv.kernel.filters,
            "a channel for each filter"
        );
        finish.check_type::<O>();
        check_len("extremes", extremes.least.len(), &[finish.bias.len()]);
        check_len("extremes", extremes.most.len(), &[finish.bias.len()]);
        let pixels = self.check_packed(conv, &rows, out.len());
        if self.isa() != Isa::Vnni {
            Sums::new(self, conv).finish(pixels.start, (finish, out, extremes));
        } else if finish.packs_all::<O>() && finish.bound < i64::from(i32::MAX) - lacking(conv) {
            let mut sink = Finished {
                finish,
                out,
                extremes,
            };
            packed_pixels(conv, pixels, &mut sink);
        } else {
            // Large kernels: the last steps take little of their time.
            let mut sums = vec![0; out.len()];
            let filters = conv.kernel.filters;
            packed_pixels(
                conv,
                pixels,
                &mut Plain {
                    out: &mut sums,
                    filters,
                },
            );
            self.finish(finish, &sums, out, extremes);
        }
    }

    /// Writes finished results that stay in an `i32`, as [`conv2d_finished`](Self::conv2d_finished) those that are
    /// bytes.
    ///
    /// # Panics
    ///
    /// As that does.
    pub fn conv2d_finished_words<X: Packable<L>, L: Lane>(
        self,
        conv: &PackedConv<'_, X, L>,
        rows: Range<usize>,
        (finish, out, extremes): (&Finish, &mut [i32], &mut Extremes),
    ) {
        let filters = conv.kernel.filters;
        assert_eq!(finish.channels(), filters, "a channel for each filter");
        check_len("extremes", extremes.least.len(), &[finish.bias.len()]);
        check_len("extremes", extremes.most.len(), &[finish.bias.len()]);
        if self.isa() != Isa::Vnni || finish.shifts {
            self.conv2d_packed(conv, rows, out);
            return self.finish_in_place(finish, out, extremes);
        }
        let pixels = self.check_packed(conv, &rows, out.len());
        let mut sink = Bounded {
            finish,
            out,
            extremes,
        };
        packed_pixels(conv, pixels, &mut sink);
    }

    /// Checks operands and the length of the results, and returns the numbers of the pixels of `rows`.
    fn check_packed<X: Packable<L>, L: Lane>(
        self,
        conv: &PackedConv<'_, X, L>,
        rows: &Range<usize>,
        n_results: usize,
    ) -> Range<usize> {
        let (window, kernel, channels) = (&conv.window, conv.kernel, conv.channels);
        assert!(self.packs::<L>(), "an instruction set that packs weights");
        check_window(window, rows);
        check_len("input", conv.x.len(), &[window.in_h, window.in_w, channels]);
        check_per_channel("padding", conv.pad, channels);
        let n_taps = window.kernel_h * window.kernel_w;
        assert_eq!(n_taps * channels, kernel.rows, "rows of the kernel");
        let extents = [rows.len(), window.out_w, kernel.filters];
        check_len("output", n_results, &extents);
        rows.start * window.out_w..rows.end * window.out_w
    }

    /// Writes the matrix product of `x`, `[n, rows]`, into `out`, `[n, filters]`. NUMERICS.md N18.
    ///
    /// # Panics
    ///
    /// Panics if [`packs`](Self::packs) is false for `L` or a length disagrees with the extents.
    pub fn dense_packed<X: Packable<L>, L: Lane>(
        self,
        x: &[X],
        kernel: &Packed<L>,
        out: &mut [i32],
    ) {
        let n = out.len().checked_div(kernel.filters).unwrap_or(0);
        let conv = PackedConv {
            x,
            kernel,
            pad: None,
            window: Window::pointwise(n, 1),
            channels: kernel.rows,
        };
        self.conv2d_packed(&conv, 0..n, out);
    }
}

/// Returns the largest magnitude of what the sums lack in registers: what the offset of the activations adds.
fn lacking<X: Packable<L>, L: Lane>(conv: &PackedConv<'_, X, L>) -> i64 {
    i64::from(conv.kernel.largest_sum) * i64::from(X::OFFSET)
}

/// Gives the sums of these pixels to the sink, with VNNI.
fn packed_pixels<X: Packable<L>, L: Lane>(
    conv: &PackedConv<'_, X, L>,
    pixels: Range<usize>,
    sink: &mut impl Sink,
) {
    let PackedConv {
        x, kernel, window, ..
    } = *conv;
    if sink.len() == 0 {
        return;
    }
    let stride = kernel.patch_len();
    let is_plain = window == Window::pointwise(window.in_h, window.in_w);
    if let Some(x) = X::as_packed(x).filter(|_| is_plain && stride == conv.channels && stride > 0) {
        let x = &x[pixels.start * stride..pixels.end * stride];
        let patches = Patches::new(kernel, x, pixels.len());
        return product(kernel, (&patches, X::OFFSET), 0, sink);
    }
    // Short rows would make low tiles.
    if let Some(mut input) = Rows::new(conv, tile::ROWS) {
        let first = pixels.start.div_euclid(window.out_w);
        for number in 0..pixels.len().div_euclid(window.out_w) {
            let patches = input.fill(first + number);
            let pixel = number * window.out_w;
            product(kernel, (&patches, X::OFFSET), pixel, sink);
        }
        return;
    }
    let mut gathered = Gathered::new(conv, stride);
    let mut done = 0;
    while done < pixels.len() {
        let first = pixels.start + done;
        let (x, n_pixels) = gathered.gather(first..pixels.end);
        let patches = Patches::new(kernel, x, n_pixels);
        product(kernel, (&patches, X::OFFSET), done, sink);
        done += n_pixels;
    }
}
