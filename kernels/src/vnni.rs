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

mod depthwise;
mod finish;
mod gather;
mod sink;
mod tile;

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m512i, _mm512_dpbusd_epi32, _mm512_dpwssd_epi32};
use std::ops::Range;

use crate::contract::{check_len, check_per_channel, check_window};
use crate::finish::{Byte, Extremes, Finish};
use crate::isa::{Isa, Kernels};
use crate::madd::Sums;
use crate::operands::Window;
use gather::{Gathered, Rows};
use sink::{Finished, Plain, Sink};
use tile::{Patches, product};

pub use depthwise::{PackedDepthwise, PackedDepthwiseConv};

/// Columns of a tile: two vectors of `i32`.
pub(crate) const COLUMNS: usize = 32;

/// Bytes that hold a group of weights of each column.
const GROUP_BYTES: usize = 4 * COLUMNS;

/// A type of packed weights: `i8`, four to a lane, or `i16`, two to a lane.
pub trait Lane: Copy + Default + Into<i32> + Send + Sync + sealed::Sealed + 'static {
    /// Weights of a lane, which has four bytes.
    const GROUP: usize;
    /// The slowest instruction set that multiplies them.
    #[doc(hidden)]
    const LEAST: Isa;
    /// The activations that the instruction takes.
    #[doc(hidden)]
    type Activation: Copy + Default + Send + Sync;

    /// Writes the weight as number `part` of a lane.
    #[doc(hidden)]
    fn put(self, lane: &mut [u8], part: usize);

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
    impl Sealed for u8 {}
    impl Sealed for i8 {}
    impl Sealed for i16 {}
}

impl Lane for i8 {
    const GROUP: usize = 4;
    const LEAST: Isa = Isa::Vnni;
    type Activation = u8;

    fn put(self, lane: &mut [u8], part: usize) {
        lane[part] = self.cast_unsigned();
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn step(sums: __m512i, x: __m512i, weights: __m512i) -> __m512i {
        // SAFETY: the caller says that the CPU has AVX-512 VNNI.
        unsafe { _mm512_dpbusd_epi32(sums, x, weights) }
    }
}

impl Lane for i16 {
    const GROUP: usize = 2;
    const LEAST: Isa = Isa::Avx2;
    type Activation = Self;

    fn put(self, lane: &mut [u8], part: usize) {
        lane[2 * part..2 * part + 2].copy_from_slice(&self.to_le_bytes());
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn step(sums: __m512i, x: __m512i, weights: __m512i) -> __m512i {
        // SAFETY: the caller says that the CPU has AVX-512 VNNI.
        unsafe { _mm512_dpwssd_epi32(sums, x, weights) }
    }
}

/// An activation that meets packed weights of type `L`.
pub trait Packable<L: Lane>: Copy + Send + Sync + sealed::Sealed + 'static {
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
    ($($t:ty $(, $as_packed:item)?;)*) => { $(
        impl Packable<i16> for $t {
            const OFFSET: i32 = 0;

            #[inline(always)]
            fn packed(self) -> i16 {
                i16::from(self)
            }

            fn zero() -> i16 {
                0
            }

            $($as_packed)?
        }
    )* };
}
words! {
    u8;
    i8;
    i16, fn as_packed(x: &[Self]) -> Option<&[Self]> {
        Some(x)
    };
}

/// A kernel `[rows, filters]`, packed for tiles of 32 columns and the rows of one lane.
#[derive(Clone, Debug)]
pub struct Packed<L> {
    pub(crate) rows: usize,
    pub(crate) filters: usize,
    /// What the lanes of weights meet, in their order.
    pub(crate) runs: Vec<Run>,
    /// `[filters / 32][lanes][32][GROUP]`, two lines a lane, zeros where there is nothing.
    pub(crate) weights: Vec<Line>,
    /// The sum of each column's weights, each as often as its row counts.
    sums: Vec<i32>,
    /// How the rows of a convolution's kernel lie, if each begins with a lane of its own.
    layout: Option<RowLayout>,
    lanes: std::marker::PhantomData<L>,
}

/// Kernel rows that each begin with a lane of their own, so that pixels side by side see overlapping activations.
#[derive(Clone, Copy, Debug)]
struct RowLayout {
    /// Rows of the kernel in a kernel row, and as they are filled up with zeros to whole lanes.
    len: usize,
    padded: usize,
}

/// Neighbouring groups of activations; then all sums so far are shifted to the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: usize,
    pub(crate) n_groups: usize,
    pub(crate) shift: u32,
}

/// 64 bytes at an address of which no load crosses a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

impl<L: Lane> Packed<L> {
    /// Returns the packed form of a kernel `[rows, filters]`.
    ///
    /// # Panics
    ///
    /// Panics if the length is another.
    #[must_use]
    pub fn new(kernel: &[L], rows: usize, filters: usize) -> Self {
        Self::shifted(kernel, &vec![0; rows], filters)
    }

    /// Returns the packed form of a kernel `[kernel_h, rows / kernel_h, filters]` of a convolution: its input rows need
    /// not be copied for each pixel.
    ///
    /// # Panics
    ///
    /// Panics if the length is another, or the rows are no multiple of `kernel_h`.
    #[must_use]
    pub fn by_rows(kernel: &[L], (kernel_h, rows): (usize, usize), filters: usize) -> Self {
        check_len("kernel", kernel.len(), &[rows, filters]);
        assert!(rows.checked_rem(kernel_h) == Some(0), "whole kernel rows");
        let len = rows.div_euclid(kernel_h);
        let padded = len.next_multiple_of(L::GROUP);
        let mut filled = Vec::with_capacity(kernel_h * padded * filters);
        for row in kernel.chunks((len * filters).max(1)) {
            filled.extend_from_slice(row);
            filled.resize(filled.len() + (padded - len) * filters, L::default());
        }
        Self {
            rows,
            layout: Some(RowLayout { len, padded }),
            ..Self::new(&filled, kernel_h * padded, filters)
        }
    }

    /// Returns the activations of a kernel row of length `len` in a patch.
    pub(crate) fn row_len(&self, len: usize) -> usize {
        self.layout.map_or(len, |layout| layout.padded)
    }

    /// Returns the activations of a patch.
    pub(crate) fn patch_len(&self) -> usize {
        match self.layout {
            Some(RowLayout { len, padded }) => self.rows.div_euclid(len.max(1)) * padded,
            None => self.rows.next_multiple_of(L::GROUP),
        }
    }

    /// Returns the packed form of a kernel `[rows, filters]` whose row `r` counts `2^shifts[r]` times.
    ///
    /// Rows of one shift meet the activations together, those of the largest first: then the sums so far are shifted,
    /// and the next rows follow. So a group of neighbouring rows costs a lane for each shift in it; see
    /// [`n_lanes`](Self::n_lanes).
    ///
    /// # Panics
    ///
    /// Panics if the length is not that of `shifts` times `filters`.
    #[must_use]
    pub fn shifted(kernel: &[L], shifts: &[u32], filters: usize) -> Self {
        let rows = shifts.len();
        check_len("kernel", kernel.len(), &[rows, filters]);
        let (runs, lanes) = runs(shifts, L::GROUP);
        let mut sums = vec![0_i32; filters.next_multiple_of(COLUMNS)];
        for (columns, shift) in kernel.chunks(filters.max(1)).zip(shifts) {
            for (sum, weight) in sums.iter_mut().zip(columns) {
                let weight: i32 = (*weight).into();
                *sum = sum.wrapping_add(weight.wrapping_shl(*shift));
            }
        }
        let mut weights = Vec::with_capacity(filters.div_ceil(COLUMNS) * lanes.len() * 2);
        for first in (0..filters).step_by(COLUMNS) {
            let n_columns = COLUMNS.min(filters - first);
            for lane in &lanes {
                let mut bytes = [0; GROUP_BYTES];
                for (part, row) in (lane.group * L::GROUP..rows).take(L::GROUP).enumerate() {
                    if shifts[row] != lane.shift {
                        continue;
                    }
                    let columns = &kernel[row * filters + first..][..n_columns];
                    for (weight, bytes) in columns.iter().zip(bytes.chunks_mut(4)) {
                        weight.put(bytes, part);
                    }
                }
                weights.extend(bytes.as_chunks().0.iter().map(|line| Line(*line)));
            }
        }
        Self {
            rows,
            filters,
            runs,
            weights,
            sums,
            layout: None,
            lanes: std::marker::PhantomData,
        }
    }

    /// Returns the lanes that each column has: the cost of a sum.
    #[must_use]
    pub fn n_lanes(&self) -> usize {
        self.runs.iter().map(|run| run.n_groups).sum()
    }
}

impl RowLayout {
    /// Returns the runs of `n` kernel rows that lie `pitch` activations apart, a whole number of groups.
    fn runs(&self, n: usize, pitch: usize, group: usize) -> Vec<Run> {
        let run = |row: usize| Run {
            first: (row * pitch).div_euclid(group),
            n_groups: self.padded.div_euclid(group),
            shift: 0,
        };
        (0..n).map(run).collect()
    }
}

/// The rows of one group that have one shift.
struct LaneRows {
    group: usize,
    shift: u32,
}

/// Returns the lanes of rows with these shifts, the largest shift first, and the runs that they make.
fn runs(shifts: &[u32], group: usize) -> (Vec<Run>, Vec<LaneRows>) {
    let mut kinds: Vec<u32> = shifts.to_vec();
    kinds.sort_unstable();
    kinds.dedup();
    let (mut runs, mut lanes) = (Vec::<Run>::new(), Vec::new());
    while let Some(shift) = kinds.pop() {
        let start = runs.len();
        for (number, rows) in shifts.chunks(group).enumerate() {
            if !rows.contains(&shift) {
                continue;
            }
            lanes.push(LaneRows {
                group: number,
                shift,
            });
            match runs[start..].last_mut() {
                Some(run) if run.first + run.n_groups == number => run.n_groups += 1,
                _ => runs.push(Run {
                    first: number,
                    n_groups: 1,
                    shift: 0,
                }),
            }
        }
        if let Some(run) = runs.last_mut() {
            run.shift = shift - kinds.last().copied().unwrap_or(0);
        }
    }
    (runs, lanes)
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
        finish.check_type::<O>();
        check_len("extremes", extremes.least.len(), &[finish.bias.len()]);
        check_len("extremes", extremes.most.len(), &[finish.bias.len()]);
        let pixels = self.check_packed(conv, &rows, out.len());
        if self.isa() == Isa::Vnni {
            let mut sink = Finished {
                finish,
                out,
                extremes,
            };
            packed_pixels(conv, pixels, &mut sink);
        } else {
            Sums::new(self, conv).finish(pixels.start, (finish, out, extremes));
        }
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
        let patches = Patches::new(x, pixels.len(), (stride, &kernel.runs, X::OFFSET));
        return product(kernel, &patches, 0, sink);
    }
    // Short rows would make low tiles.
    let takes_rows = window.out_w >= tile::ROWS && window.dilation_w == 1;
    if let Some(layout) = kernel.layout.filter(|_| takes_rows) {
        let mut input = Rows::new(conv, &layout);
        let runs = layout.runs(window.kernel_h, input.pitch(), L::GROUP);
        let first = pixels.start.div_euclid(window.out_w);
        for number in 0..pixels.len().div_euclid(window.out_w) {
            let stride = window.stride_w * conv.channels;
            let x = input.fill(first + number);
            let patches = Patches::new(x, window.out_w, (stride, &runs, X::OFFSET));
            product(kernel, &patches, number * window.out_w, sink);
        }
        return;
    }
    let mut gathered = Gathered::new(conv, stride);
    let mut done = 0;
    while done < pixels.len() {
        let first = pixels.start + done;
        let (x, n_pixels) = gathered.gather(first..pixels.end);
        let patches = Patches::new(x, n_pixels, (stride, &kernel.runs, X::OFFSET));
        product(kernel, &patches, done, sink);
        done += n_pixels;
    }
}
