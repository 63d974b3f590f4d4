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
use crate::isa::{Isa, Kernels};
use crate::operands::Window;

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
        let filters = kernel.filters;
        check_len("output", out.len(), &[rows.len(), window.out_w, filters]);
        if out.is_empty() {
            return;
        }
        let outside: Vec<L::Activation> = match pad {
            Some(pad) => pad.iter().map(|v| v.packed()).collect(),
            None => vec![X::zero(); channels],
        };
        let stride = kernel.rows.div_ceil(L::GROUP) * L::GROUP;
        let mut patches = vec![L::Activation::default(); GATHERED * stride];
        let first = rows.start * window.out_w;
        for (block, out) in out.chunks_mut(GATHERED * filters).enumerate() {
            let n_pixels = out.len().div_euclid(filters);
            let pixels = first + block * GATHERED..first + block * GATHERED + n_pixels;
            for (pixel, patch) in pixels.zip(patches.chunks_mut(stride)) {
                gather(conv, pixel, &outside, patch);
            }
            product(kernel, &patches[..n_pixels * stride], X::OFFSET, out);
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

/// Writes the products of patches, whose rows are whole groups, with the packed kernel.
#[cfg(target_arch = "x86_64")]
fn product<L: Lane>(kernel: &Packed<L>, patches: &[L::Activation], offset: i32, out: &mut [i32]) {
    let stride = kernel.rows.div_ceil(L::GROUP) * L::GROUP;
    if stride == 0 {
        out.fill(0);
        return;
    }
    let filters = kernel.filters;
    for (block, weights) in kernel.weights.chunks_exact(stride * COLUMNS).enumerate() {
        let columns = block * COLUMNS..filters.min((block + 1) * COLUMNS);
        let mut start = [0; COLUMNS];
        let sums = &kernel.sums[block * COLUMNS..(block + 1) * COLUMNS];
        for (start, sum) in start.iter_mut().zip(sums) {
            *start = sum.wrapping_mul(-offset);
        }
        let tiles = patches
            .chunks(ROWS * stride)
            .zip(out.chunks_mut(ROWS * filters));
        for (patches, out) in tiles {
            let n = patches.len().div_euclid(stride);
            let mut sums = [[0; COLUMNS]; ROWS];
            // SAFETY: the caller checked that the CPU has AVX-512 VNNI (`packs`); the tile checks its lengths.
            unsafe { tile::<L>(patches, weights, &start, &mut sums[..n]) };
            for (row, sums) in out.chunks_mut(filters).zip(&sums) {
                row[columns.clone()].copy_from_slice(&sums[..columns.len()]);
            }
        }
    }
}

/// There is no VNNI on this target; [`Kernels::packs`] is false.
#[cfg(not(target_arch = "x86_64"))]
fn product<L: Lane>(_: &Packed<L>, _: &[L::Activation], _: i32, _: &mut [i32]) {}

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
