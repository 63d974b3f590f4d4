//! Depthwise convolutions of bytes with AVX-512 VNNI: four kernel rows of sixteen channels at once.
//!
//! For an output row, each input column is turned once: the bytes of four rows come to lie beside one another, channel
//! by channel, as the instruction takes them. Every output that sees the column then needs one instruction for it.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "vector instructions may run only on a CPU that has them"
    )
)]

use std::ops::Range;

use super::Packable;
use crate::contract::{check_len, check_window};
use crate::finish::{Byte, Extremes, Finish};
use crate::isa::Kernels;
use crate::operands::Window;

/// Channels of a block.
const CHANNELS: usize = 16;

/// Kernel rows of an instruction.
const ROWS: usize = 4;

/// Bytes of a vector.
const VECTOR: usize = CHANNELS * ROWS;

/// A kernel `[kernel_h, kernel_w, channels]` of bytes, packed for blocks of sixteen channels and four rows.
#[derive(Clone, Debug)]
pub struct PackedDepthwise {
    extents: [usize; 3],
    /// `[channels / 16][kernel_h / 4][kernel_w][16][4]`, zeros where there is nothing.
    weights: Vec<i8>,
    /// The sum of each channel's weights.
    sums: Vec<i32>,
}

impl PackedDepthwise {
    /// Returns the packed form of a kernel `[kernel_h, kernel_w, channels]`.
    ///
    /// # Panics
    ///
    /// Panics if the length is another.
    #[must_use]
    pub fn new(kernel: &[i8], extents: [usize; 3]) -> Self {
        check_len("kernel", kernel.len(), &extents);
        let [kernel_h, kernel_w, channels] = extents;
        let (groups, blocks) = (kernel_h.div_ceil(ROWS), channels.div_ceil(CHANNELS));
        let mut weights = vec![0; blocks * groups * kernel_w * VECTOR];
        let mut sums = vec![0; blocks * CHANNELS];
        for (tap, values) in kernel.chunks(channels.max(1)).enumerate() {
            let (row, col) = (tap.div_euclid(kernel_w), tap.rem_euclid(kernel_w));
            let (group, part) = (row.div_euclid(ROWS), row.rem_euclid(ROWS));
            for (channel, weight) in values.iter().enumerate() {
                let (block, lane) = (channel.div_euclid(CHANNELS), channel.rem_euclid(CHANNELS));
                let vector = (block * groups + group) * kernel_w + col;
                weights[vector * VECTOR + lane * ROWS + part] = *weight;
                sums[channel] += i32::from(*weight);
            }
        }
        Self {
            extents,
            weights,
            sums,
        }
    }
}

/// The operands of a depthwise convolution with a packed kernel; outside the image is zero.
#[derive(Clone, Copy, Debug)]
pub struct PackedDepthwiseConv<'a, X> {
    /// Input, `[in_h, in_w, channels]`.
    pub x: &'a [X],
    /// Kernel.
    pub kernel: &'a PackedDepthwise,
    /// Where the taps read.
    pub window: Window,
}

impl Kernels {
    /// Writes the finished output rows `rows` of a depthwise convolution into `out`, `[rows, out_w, channels]`, and
    /// adds what the sums were to `extremes`. NUMERICS.md N16, N10.
    ///
    /// # Panics
    ///
    /// Panics if [`packs`](Self::packs) is false, a length disagrees with the extents, `rows` is not in `0..out_h`, or
    /// the window is not valid.
    pub fn depthwise_finished<X: Packable<i8>, O: Byte>(
        self,
        conv: &PackedDepthwiseConv<'_, X>,
        rows: Range<usize>,
        (finish, out, extremes): (&Finish, &mut [O], &mut Extremes),
    ) {
        let PackedDepthwiseConv { x, kernel, window } = *conv;
        let [kernel_h, kernel_w, channels] = kernel.extents;
        assert!(self.packs(), "an instruction set that packs weights");
        check_window(&window, &rows);
        assert_eq!(
            [window.kernel_h, window.kernel_w],
            [kernel_h, kernel_w],
            "the kernel's extents"
        );
        assert_eq!(finish.channels(), channels, "the kernel's channels");
        finish.check_type::<O>();
        check_len("input", x.len(), &[window.in_h, window.in_w, channels]);
        check_len("output", out.len(), &[rows.len(), window.out_w, channels]);
        check_len("extremes", extremes.least.len(), &[finish.bias.len()]);
        check_len("extremes", extremes.most.len(), &[finish.bias.len()]);
        if out.is_empty() || kernel_h * kernel_w == 0 {
            return self.finish(finish, &vec![0; out.len()], out, extremes);
        }
        let groups = kernel_h.div_ceil(ROWS);
        let n_columns =
            (window.out_w - 1) * window.stride_w + (kernel_w - 1) * window.dilation_w + 1;
        let mut columns = vec![[0_u8; VECTOR]; groups * n_columns];
        let row_len = window.out_w * channels;
        for (row, out) in rows.zip(out.chunks_mut(row_len)) {
            for first in (0..channels).step_by(CHANNELS) {
                let job = RowJob {
                    conv,
                    row,
                    first,
                    n_columns,
                };
                run(&job, &mut columns, (finish, &mut *out, &mut *extremes));
            }
        }
    }
}

/// One output row of sixteen channels.
struct RowJob<'a, X> {
    conv: &'a PackedDepthwiseConv<'a, X>,
    row: usize,
    /// First channel.
    first: usize,
    /// Input columns that the row sees, the border included.
    n_columns: usize,
}

impl<X: Packable<i8>> RowJob<'_, X> {
    /// Returns the input row that a kernel row meets, `None` if it is outside or the kernel has no such row.
    fn input_row(&self, kernel_row: usize) -> Option<&[X]> {
        let window = &self.conv.window;
        let [kernel_h, _, channels] = self.conv.kernel.extents;
        let at = self.row * window.stride_h + kernel_row * window.dilation_h;
        let row = at
            .checked_sub(window.pad_top)
            .filter(|row| *row < window.in_h && kernel_row < kernel_h)?;
        let len = window.in_w * channels;
        Some(&self.conv.x[row * len..(row + 1) * len])
    }

    /// Returns the column of the image that is number `column` of the row.
    fn image_column(&self, column: usize) -> Option<usize> {
        let window = &self.conv.window;
        column
            .checked_sub(window.pad_left)
            .filter(|column| *column < window.in_w)
    }
}

#[cfg(target_arch = "x86_64")]
fn run<X: Packable<i8>, O: Byte>(
    job: &RowJob<'_, X>,
    columns: &mut [[u8; VECTOR]],
    (finish, out, extremes): (&Finish, &mut [O], &mut Extremes),
) {
    for (group, columns) in columns.chunks_mut(job.n_columns).enumerate() {
        // SAFETY: the caller checked that the CPU has AVX-512 VNNI (`packs`).
        unsafe { turn(job, group, columns) };
    }
    // SAFETY: as above.
    unsafe { multiply(job, columns, finish, out, extremes) };
}

/// There is no VNNI on this target; [`Kernels::packs`] is false.
#[cfg(not(target_arch = "x86_64"))]
fn run<X: Packable<i8>, O: Byte>(
    _: &RowJob<'_, X>,
    _: &mut [[u8; VECTOR]],
    _: (&Finish, &mut [O], &mut Extremes),
) {
}

/// Writes the bytes of four input rows beside one another, channel by channel.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn turn<X: Packable<i8>>(job: &RowJob<'_, X>, group: usize, columns: &mut [[u8; VECTOR]]) {
    use std::arch::x86_64::{
        _mm_maskz_loadu_epi8, _mm_set_epi8, _mm_setzero_si128, _mm512_broadcast_i32x4,
        _mm512_castsi128_si512, _mm512_inserti32x4, _mm512_permutexvar_epi32, _mm512_set_epi32,
        _mm512_set1_epi8, _mm512_shuffle_epi8, _mm512_storeu_si512, _mm512_xor_si512,
    };
    let channels = job.conv.kernel.extents[2];
    let n = CHANNELS.min(channels - job.first);
    let mask = u16::MAX >> (CHANNELS - n);
    let rows: [Option<&[X]>; ROWS] = std::array::from_fn(|i| job.input_row(group * ROWS + i));
    let by_lane = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    let in_lane = _mm_set_epi8(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    let in_lane = _mm512_broadcast_i32x4(in_lane);
    let offset = _mm512_set1_epi8(if X::OFFSET == 0 { 0 } else { i8::MIN });
    for (number, column) in columns.iter_mut().enumerate() {
        let at = job
            .image_column(number)
            .map(|column| column * channels + job.first);
        let bytes = |row: Option<&[X]>| match (row, at) {
            (Some(row), Some(at)) => {
                let bytes = &row[at..at + n];
                // SAFETY: only the `n` bytes of the slice are read; `X` is a byte.
                unsafe { _mm_maskz_loadu_epi8(mask, bytes.as_ptr().cast()) }
            }
            _ => _mm_setzero_si128(),
        };
        let all = _mm512_castsi128_si512(bytes(rows[0]));
        let all = _mm512_inserti32x4::<1>(all, bytes(rows[1]));
        let all = _mm512_inserti32x4::<2>(all, bytes(rows[2]));
        let all = _mm512_inserti32x4::<3>(all, bytes(rows[3]));
        let turned = _mm512_shuffle_epi8(_mm512_permutexvar_epi32(by_lane, all), in_lane);
        let turned = _mm512_xor_si512(turned, offset);
        // SAFETY: a column has room for a vector.
        unsafe { _mm512_storeu_si512(column.as_mut_ptr().cast(), turned) };
    }
}

/// Writes the results of one output row.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn multiply<X: Packable<i8>, O: Byte>(
    job: &RowJob<'_, X>,
    columns: &[[u8; VECTOR]],
    finish: &Finish,
    out: &mut [O],
    extremes: &mut Extremes,
) {
    use std::arch::x86_64::{
        _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_mullo_epi32,
        _mm512_set1_epi32,
    };

    use super::finish::{FinishLanes, load};
    let window = &job.conv.window;
    let [_, kernel_w, channels] = job.conv.kernel.extents;
    let block_len = columns.len().div_euclid(job.n_columns) * kernel_w * VECTOR;
    let block = job.first.div_euclid(CHANNELS);
    let weights = &job.conv.kernel.weights[block * block_len..(block + 1) * block_len];
    let n = CHANNELS.min(channels - job.first);
    // SAFETY: this function is compiled for the instructions; each load is of 64 bytes of a slice.
    unsafe {
        let sums = load(&job.conv.kernel.sums[job.first..]);
        let offset = _mm512_mullo_epi32(sums, _mm512_set1_epi32(-X::OFFSET));
        let start = _mm512_add_epi32(offset, load(&finish.bias[job.first..]));
        let mut lanes = FinishLanes::new(finish, extremes, job.first);
        for (col, out) in out.chunks_mut(channels).enumerate() {
            let mut acc = start;
            let taps = columns
                .chunks_exact(job.n_columns)
                .zip(weights.chunks_exact(kernel_w * VECTOR));
            for (columns, weights) in taps {
                let seen = columns[col * window.stride_w..]
                    .iter()
                    .step_by(window.dilation_w);
                for (x, w) in seen.zip(weights.chunks_exact(VECTOR)) {
                    let x = _mm512_loadu_si512(x.as_ptr().cast());
                    acc = _mm512_dpbusd_epi32(acc, x, _mm512_loadu_si512(w.as_ptr().cast()));
                }
            }
            lanes.store(acc, &mut out[job.first..job.first + n]);
        }
        lanes.count(extremes, job.first);
    }
}
