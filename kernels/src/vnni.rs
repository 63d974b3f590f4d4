//! Products of bytes, or of 16-bit words, with AVX-512 VNNI: four or two at once, summed into an `i32`.
//!
//! The instruction for bytes takes unsigned ones times signed ones. Signed activations are moved up by 128 and the
//! sums are set back by 128 times the sum of the weights; sums wrap around, so the result is exact whenever it fits.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "vector instructions may run only on a CPU that has them"
    )
)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m512i, _mm512_dpbusd_epi32, _mm512_dpwssd_epi32};
use std::ops::Range;

use crate::contract::{check_len, check_per_channel, check_window};
use crate::finish::{Byte, Extremes, Finish};
use crate::isa::{Isa, Kernels};
use crate::operands::Window;
#[cfg(target_arch = "x86_64")]
use crate::vnni_finish::{FinishLanes, WIDTH, load};

/// Columns of a tile: two vectors of `i32`.
const COLUMNS: usize = 32;

/// Rows of the largest tile: 24 accumulators leave room for two vectors of weights and one of activations.
const ROWS: usize = 12;

/// Rows of patches that are gathered at once.
const GATHERED: usize = 48;

/// A type of packed weights: `i8`, four to a lane, or `i16`, two to a lane.
pub trait Lane: Copy + Default + Into<i32> + Send + Sync + sealed::Sealed + 'static {
    /// Weights of a lane.
    const GROUP: usize;
    /// The activations that the instruction takes.
    #[doc(hidden)]
    type Activation: Copy + Default + Send + Sync;

    /// Returns `sums` plus the products of one lane.
    ///
    /// # Safety
    ///
    /// The CPU has AVX-512 VNNI, and the caller is compiled for it.
    #[doc(hidden)]
    #[cfg(target_arch = "x86_64")]
    unsafe fn step(sums: __m512i, x: __m512i, weights: __m512i) -> __m512i;
}

mod sealed {
    #[expect(unnameable_types, reason = "so no other crate implements the lanes")]
    pub trait Sealed {}
    impl Sealed for i8 {}
    impl Sealed for i16 {}
}

impl Lane for i8 {
    const GROUP: usize = 4;
    type Activation = u8;

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn step(sums: __m512i, x: __m512i, weights: __m512i) -> __m512i {
        // SAFETY: the caller says that the CPU has AVX-512 VNNI.
        unsafe { _mm512_dpbusd_epi32(sums, x, weights) }
    }
}

impl Lane for i16 {
    const GROUP: usize = 2;
    type Activation = Self;

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn step(sums: __m512i, x: __m512i, weights: __m512i) -> __m512i {
        // SAFETY: the caller says that the CPU has AVX-512 VNNI.
        unsafe { _mm512_dpwssd_epi32(sums, x, weights) }
    }
}

/// An activation that meets packed weights of type `L`.
pub trait Packable<L: Lane>: Copy + Send + Sync + 'static {
    /// What is added to make it fit the instruction.
    const OFFSET: i32;

    /// Returns the activation that the instruction takes.
    fn packed(self) -> L::Activation;

    /// Returns what the instruction takes for zero.
    fn zero() -> L::Activation;

    /// Returns activations that the instruction takes as they are.
    fn as_packed(_x: &[Self]) -> Option<&[L::Activation]> {
        None
    }
}

impl Packable<i8> for u8 {
    const OFFSET: i32 = 0;

    #[inline(always)]
    fn packed(self) -> Self {
        self
    }

    fn zero() -> Self {
        0
    }

    fn as_packed(x: &[Self]) -> Option<&[Self]> {
        Some(x)
    }
}

impl Packable<Self> for i8 {
    const OFFSET: i32 = 128;

    #[inline(always)]
    fn packed(self) -> u8 {
        self.cast_unsigned() ^ 0x80
    }

    fn zero() -> u8 {
        0x80
    }
}

macro_rules! words {
    ($($t:ty),*) => { $(
        impl Packable<i16> for $t {
            const OFFSET: i32 = 0;

            #[inline(always)]
            fn packed(self) -> i16 {
                i16::from(self)
            }

            fn zero() -> i16 {
                0
            }
        }
    )* };
}
words!(u8, i8, i16);

/// A kernel `[rows, filters]`, packed for tiles of 32 columns and the rows of one lane.
#[derive(Clone, Debug)]
pub struct Packed<L> {
    rows: usize,
    filters: usize,
    /// `[filters / 32][rows / GROUP][32][GROUP]`, zeros where there is nothing.
    weights: Vec<L>,
    /// The sum of each column's weights.
    sums: Vec<i32>,
}

impl<L: Lane> Packed<L> {
    /// Returns the packed form of a kernel `[rows, filters]`.
    ///
    /// # Panics
    ///
    /// Panics if the length is another.
    #[must_use]
    pub fn new(kernel: &[L], rows: usize, filters: usize) -> Self {
        check_len("kernel", kernel.len(), &[rows, filters]);
        let (groups, blocks) = (rows.div_ceil(L::GROUP), filters.div_ceil(COLUMNS));
        let mut weights = vec![L::default(); blocks * groups * COLUMNS * L::GROUP];
        let mut sums = vec![0_i32; blocks * COLUMNS];
        for (row, columns) in kernel.chunks(filters.max(1)).enumerate() {
            for (filter, weight) in columns.iter().enumerate() {
                let (block, column) = (filter.div_euclid(COLUMNS), filter.rem_euclid(COLUMNS));
                let group = block * groups + row.div_euclid(L::GROUP);
                weights[(group * COLUMNS + column) * L::GROUP + row.rem_euclid(L::GROUP)] = *weight;
                sums[filter] = sums[filter].wrapping_add((*weight).into());
            }
        }
        Self {
            rows,
            filters,
            weights,
            sums,
        }
    }
}

/// The operands of a convolution with a packed kernel.
#[derive(Clone, Copy, Debug)]
pub struct PackedConv<'a, X, L> {
    /// Input, `[in_h, in_w, channels]`.
    pub x: &'a [X],
    /// Kernel of `kernel_h * kernel_w * channels` rows.
    pub kernel: &'a Packed<L>,
    /// Value of each channel outside the image, `[channels]`; `None` is zero.
    pub pad: Option<&'a [X]>,
    /// Where the taps read.
    pub window: Window,
    /// Channels of the input.
    pub channels: usize,
}

impl Kernels {
    /// Returns whether these kernels multiply packed weights.
    #[must_use]
    pub fn packs(self) -> bool {
        self.isa() == Isa::Vnni
    }

    /// Writes the output rows `rows` of a convolution into `out`, `[rows, out_w, filters]`. NUMERICS.md N15.
    ///
    /// Sums wrap around: the caller knows that each fits in an `i32`.
    ///
    /// # Panics
    ///
    /// Panics if [`packs`](Self::packs) is false, a length disagrees with the extents, `rows` is not in
    /// `0..out_h`, or the window is not valid.
    pub fn conv2d_packed<X: Packable<L>, L: Lane>(
        self,
        conv: &PackedConv<'_, X, L>,
        rows: Range<usize>,
        out: &mut [i32],
    ) {
        let filters = conv.kernel.filters;
        self.packed_rows(conv, rows, &mut Plain { out, filters });
    }

    /// Writes the finished output rows `rows` of a convolution into `out`, `[rows, out_w, filters]`, and adds what the
    /// sums were to `extremes`. NUMERICS.md N15, N10.
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
        check_len("extremes", extremes.least.len(), &[finish.bias.len()]);
        check_len("extremes", extremes.most.len(), &[finish.bias.len()]);
        let mut sink = Finished {
            finish,
            out,
            extremes,
        };
        self.packed_rows(conv, rows, &mut sink);
    }

    fn packed_rows<X: Packable<L>, L: Lane>(
        self,
        conv: &PackedConv<'_, X, L>,
        rows: Range<usize>,
        sink: &mut impl Sink,
    ) {
        let PackedConv {
            x,
            kernel,
            pad,
            window,
            channels,
        } = *conv;
        assert!(self.packs(), "an instruction set that packs weights");
        check_window(&window, &rows);
        check_len("input", x.len(), &[window.in_h, window.in_w, channels]);
        check_per_channel("padding", pad, channels);
        let n_taps = window.kernel_h * window.kernel_w;
        assert_eq!(n_taps * channels, kernel.rows, "rows of the kernel");
        check_len(
            "output",
            sink.len(),
            &[rows.len(), window.out_w, kernel.filters],
        );
        if sink.len() == 0 {
            return;
        }
        let stride = kernel.rows.div_ceil(L::GROUP) * L::GROUP;
        let pixels = rows.start * window.out_w..rows.end * window.out_w;
        let is_plain = window == Window::pointwise(window.in_h, window.in_w);
        if let Some(x) = X::as_packed(x).filter(|_| is_plain && stride == channels && stride > 0) {
            let x = &x[pixels.start * stride..pixels.end * stride];
            for (block, x) in x.chunks(GATHERED * stride).enumerate() {
                product(kernel, x, X::OFFSET, block * GATHERED, sink);
            }
            return;
        }
        let outside: Vec<L::Activation> = match pad {
            Some(pad) => pad.iter().map(|v| v.packed()).collect(),
            None => vec![X::zero(); channels],
        };
        let mut patches = vec![L::Activation::default(); GATHERED * stride];
        for block in 0..pixels.len().div_ceil(GATHERED) {
            let first = pixels.start + block * GATHERED;
            let n_pixels = GATHERED.min(pixels.end - first);
            for (pixel, patch) in (first..first + n_pixels).zip(patches.chunks_mut(stride)) {
                gather(conv, pixel, &outside, patch);
            }
            product(
                kernel,
                &patches[..n_pixels * stride],
                X::OFFSET,
                block * GATHERED,
                sink,
            );
        }
    }

    /// Writes the matrix product of `x`, `[n, rows]`, into `out`, `[n, filters]`. NUMERICS.md N18.
    ///
    /// # Panics
    ///
    /// Panics if [`packs`](Self::packs) is false or a length disagrees with the extents.
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

/// Writes the activations that one output pixel sees, tap by tap.
fn gather<X: Packable<L>, L: Lane>(
    conv: &PackedConv<'_, X, L>,
    pixel: usize,
    outside: &[L::Activation],
    patch: &mut [L::Activation],
) {
    let (window, channels) = (&conv.window, conv.channels);
    let (row, col) = (
        pixel.div_euclid(window.out_w),
        pixel.rem_euclid(window.out_w),
    );
    if gather_inside(conv, (row, col), patch) {
        return;
    }
    let taps = (0..window.kernel_h).flat_map(|i| (0..window.kernel_w).map(move |j| (i, j)));
    for ((i, j), bytes) in taps.zip(patch.chunks_mut(channels.max(1))) {
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
            bytes[..channels].copy_from_slice(outside);
        }
    }
}

/// Does the same for a pixel whose taps are all inside and lie side by side, row by row; returns whether it is one.
fn gather_inside<X: Packable<L>, L: Lane>(
    conv: &PackedConv<'_, X, L>,
    (row, col): (usize, usize),
    patch: &mut [L::Activation],
) -> bool {
    let (window, channels) = (&conv.window, conv.channels);
    let top = (row * window.stride_h).checked_sub(window.pad_top);
    let left = (col * window.stride_w).checked_sub(window.pad_left);
    let Some((top, left)) = top.zip(left) else {
        return false;
    };
    let bottom = top + window.kernel_h.saturating_sub(1) * window.dilation_h;
    let is_inside = bottom < window.in_h && left + window.kernel_w <= window.in_w;
    let len = window.kernel_w * channels;
    if window.dilation_w != 1 || !is_inside || len == 0 {
        return false;
    }
    for (i, bytes) in patch.chunks_mut(len).take(window.kernel_h).enumerate() {
        let from = ((top + i * window.dilation_h) * window.in_w + left) * channels;
        for (byte, value) in bytes.iter_mut().zip(&conv.x[from..from + len]) {
            *byte = value.packed();
        }
    }
    true
}

/// Where tiles of sums go.
trait Sink {
    /// Returns the number of results.
    fn len(&self) -> usize;

    /// Returns what is added to the sums of the columns from `first` on.
    fn bias(&self, first: usize) -> Option<&[i32]>;

    /// Takes the sums of the columns from `first` on, one row a pixel, the first being number `pixel`.
    ///
    /// # Safety
    ///
    /// The CPU has the instruction set of this module.
    unsafe fn take(&mut self, pixel: usize, first: usize, sums: &[[i32; COLUMNS]]);
}

/// Sums as they are, `[pixels, filters]`.
struct Plain<'a> {
    out: &'a mut [i32],
    filters: usize,
}

impl Sink for Plain<'_> {
    fn len(&self) -> usize {
        self.out.len()
    }

    fn bias(&self, _first: usize) -> Option<&[i32]> {
        None
    }

    unsafe fn take(&mut self, pixel: usize, first: usize, sums: &[[i32; COLUMNS]]) {
        let n = COLUMNS.min(self.filters - first);
        let rows = self.out[pixel * self.filters..].chunks_mut(self.filters);
        for (row, sums) in rows.zip(sums) {
            row[first..first + n].copy_from_slice(&sums[..n]);
        }
    }
}

/// Results of the whole layer, `[pixels, filters]`.
struct Finished<'a, O> {
    finish: &'a Finish,
    out: &'a mut [O],
    extremes: &'a mut Extremes,
}

impl<O: Byte> Sink for Finished<'_, O> {
    fn len(&self) -> usize {
        self.out.len()
    }

    fn bias(&self, first: usize) -> Option<&[i32]> {
        Some(&self.finish.bias[first..first + COLUMNS])
    }

    #[cfg(target_arch = "x86_64")]
    unsafe fn take(&mut self, pixel: usize, first: usize, sums: &[[i32; COLUMNS]]) {
        // SAFETY: the caller says that the CPU has the instructions.
        unsafe { self.take_tile(pixel, first, sums) }
    }

    #[cfg(not(target_arch = "x86_64"))]
    unsafe fn take(&mut self, _: usize, _: usize, _: &[[i32; COLUMNS]]) {}
}

#[cfg(target_arch = "x86_64")]
impl<O: Byte> Finished<'_, O> {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    fn take_tile(&mut self, pixel: usize, first: usize, sums: &[[i32; COLUMNS]]) {
        let filters = self.finish.channels();
        for half in [0, WIDTH] {
            let columns = first + half..filters.min(first + half + WIDTH);
            if columns.is_empty() {
                return;
            }
            // SAFETY: this function is compiled for the instructions.
            unsafe {
                let mut lanes = FinishLanes::new(self.finish, self.extremes, columns.start);
                let rows = self.out[pixel * filters..].chunks_mut(filters);
                for (row, sums) in rows.zip(sums) {
                    lanes.store(load(&sums[half..]), &mut row[columns.clone()]);
                }
                lanes.count(self.extremes, columns.start);
            }
        }
    }
}

/// Writes the products of patches, whose rows are whole groups, with the packed kernel; the first patch is pixel
/// number `pixel` of the sink.
#[cfg(target_arch = "x86_64")]
fn product<L: Lane>(
    kernel: &Packed<L>,
    patches: &[L::Activation],
    offset: i32,
    pixel: usize,
    sink: &mut impl Sink,
) {
    let stride = kernel.rows.div_ceil(L::GROUP) * L::GROUP;
    let n_pixels = patches
        .len()
        .checked_div(stride)
        .unwrap_or(sink.len().div_euclid(kernel.filters));
    for block in 0..kernel.filters.div_ceil(COLUMNS) {
        let first = block * COLUMNS;
        let weights = &kernel.weights[block * stride * COLUMNS..(block + 1) * stride * COLUMNS];
        let mut start = [0; COLUMNS];
        let bias = sink.bias(first).unwrap_or(&[0; COLUMNS]);
        let sums = kernel.sums[first..].iter().zip(bias);
        for (start, (sum, bias)) in start.iter_mut().zip(sums) {
            *start = sum.wrapping_mul(-offset).wrapping_add(*bias);
        }
        for tile_pixel in (0..n_pixels).step_by(ROWS) {
            let n = ROWS.min(n_pixels - tile_pixel);
            let patches = &patches[tile_pixel * stride..(tile_pixel + n) * stride];
            let mut sums = [start; ROWS];
            // SAFETY: the caller checked that the CPU has AVX-512 VNNI (`packs`); the tile checks its lengths.
            unsafe {
                if stride > 0 {
                    tile::<L>(patches, weights, &start, &mut sums[..n]);
                }
                sink.take(pixel + tile_pixel, first, &sums[..n]);
            }
        }
    }
}

/// There is no VNNI on this target; [`Kernels::packs`] is false.
#[cfg(not(target_arch = "x86_64"))]
fn product<L: Lane>(_: &Packed<L>, _: &[L::Activation], _: i32, _: usize, _: &mut impl Sink) {}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn tile<L: Lane>(
    patches: &[L::Activation],
    weights: &[L],
    start: &[i32; COLUMNS],
    sums: &mut [[i32; COLUMNS]],
) {
    match sums.len() {
        ROWS => rows::<L, ROWS>(patches, weights, start, sums),
        8..ROWS => split::<L, 8>(patches, weights, start, sums),
        4..8 => split::<L, 4>(patches, weights, start, sums),
        2..4 => split::<L, 2>(patches, weights, start, sums),
        1 => rows::<L, 1>(patches, weights, start, sums),
        _ => {}
    }
}

/// Does `N` rows, then the rest.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn split<L: Lane, const N: usize>(
    patches: &[L::Activation],
    weights: &[L],
    start: &[i32; COLUMNS],
    sums: &mut [[i32; COLUMNS]],
) {
    let stride = patches.len().div_euclid(sums.len());
    let (done, rest) = sums.split_at_mut(N);
    rows::<L, N>(&patches[..N * stride], weights, start, done);
    tile::<L>(&patches[N * stride..], weights, start, rest);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
#[inline]
fn rows<L: Lane, const N: usize>(
    patches: &[L::Activation],
    weights: &[L],
    start: &[i32; COLUMNS],
    sums: &mut [[i32; COLUMNS]],
) {
    use std::arch::x86_64::{_mm512_loadu_si512, _mm512_set1_epi32, _mm512_storeu_si512};
    let stride = patches.len().div_euclid(N);
    let groups = stride.div_euclid(L::GROUP);
    assert_eq!(
        patches.len(),
        N * groups * L::GROUP,
        "whole rows of patches"
    );
    assert_eq!(
        weights.len(),
        groups * COLUMNS * L::GROUP,
        "a block of weights"
    );
    assert_eq!(sums.len(), N, "a row of sums for each patch");
    let (a, b) = (patches.as_ptr(), weights.as_ptr().cast::<u8>());
    // SAFETY: each load stays inside its slice. `start` has 32 numbers. A group of 32 columns has 128 bytes of weights,
    // of which `groups` follow one another. Row `i` of the patches has `groups` groups from `i * stride` on, of four
    // bytes each: four `u8` or two `i16`. Loads and stores are unaligned.
    unsafe {
        let start = [
            _mm512_loadu_si512(start.as_ptr().cast()),
            _mm512_loadu_si512(start.as_ptr().add(16).cast()),
        ];
        let mut acc = [start; N];
        for group in 0..groups {
            let w0 = _mm512_loadu_si512(b.add(group * 128).cast());
            let w1 = _mm512_loadu_si512(b.add(group * 128 + 64).cast());
            for (i, acc) in acc.iter_mut().enumerate() {
                let lane = a.add(i * stride + group * L::GROUP).cast::<i32>();
                let x = _mm512_set1_epi32(lane.read_unaligned());
                acc[0] = L::step(acc[0], x, w0);
                acc[1] = L::step(acc[1], x, w1);
            }
        }
        for (sums, acc) in sums.iter_mut().zip(&acc) {
            _mm512_storeu_si512(sums.as_mut_ptr().cast(), acc[0]);
            _mm512_storeu_si512(sums.as_mut_ptr().add(16).cast(), acc[1]);
        }
    }
}
