//! Products of turned columns with the weights, and their results.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::{
    __m512i, _mm_mask_storeu_epi8, _mm256_mask_storeu_epi8, _mm512_add_epi32,
    _mm512_castsi512_si128, _mm512_castsi512_si256, _mm512_cmplt_epi32_mask, _mm512_dpbusd_epi32,
    _mm512_extracti32x4_epi32, _mm512_extracti64x4_epi64, _mm512_load_si512, _mm512_mask_adds_epi8,
    _mm512_mask_adds_epu8, _mm512_mask_storeu_epi8, _mm512_max_epi32, _mm512_min_epi32,
    _mm512_mullo_epi32, _mm512_packs_epi32, _mm512_srav_epi32, _mm512_store_si512,
    _mm512_storeu_si512,
};

use std::ops::Range;

use super::{BYTES, Band, Numbers, Plan, QUAD, Quad, WIDTH};
use crate::finish::{Byte, Extremes, QuadTables};
use crate::lanes::Packable;
use crate::packed::Line;
use crate::vnni::packing::{between, pack};

/// What a block of channels is multiplied with, and what its sums were so far.
pub(super) struct Task<'a> {
    /// Weights as the first and the second output row of a band meet them.
    weights: [&'a [Quad]; 2],
    /// What is added to each sum.
    start: Numbers,
    tables: &'a QuadTables,
    /// Whether sums are scaled as they are.
    packs_all: bool,
    /// A bit for each byte that is doubled.
    doubled: u64,
    least: Numbers,
    most: Numbers,
    clipped: u64,
}

impl<'a> Task<'a> {
    /// Returns the task of a block.
    pub(super) fn new<X: Packable<i8>, O: Byte>(plan: &Plan<'a, X>) -> Self {
        let kernel = plan.conv.kernel;
        let tables = &plan.finish.quads[plan.number];
        let n = kernel.extents[0].div_ceil(super::ROWS) * kernel.extents[1];
        let lines = plan.number * n..(plan.number + 1) * n;
        let mut start = tables.bias;
        let sums = &kernel.sums[plan.number];
        for (start, sums) in start.0.iter_mut().zip(&sums.0) {
            for (start, sum) in start.iter_mut().zip(sums) {
                *start = start.wrapping_sub(sum.wrapping_mul(X::OFFSET));
            }
        }
        Self {
            weights: [
                &kernel.weights[lines.clone()],
                kernel.moved.get(lines).unwrap_or_default(),
            ],
            start,
            tables,
            packs_all: plan.finish.packs_all::<O>(),
            doubled: kernel.doubled[plan.number],
            least: NO_SUMS[0],
            most: NO_SUMS[1],
            clipped: 0,
        }
    }

    /// Adds what the sums were to `extremes`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,popcnt")]
    pub(super) fn close<X>(&self, plan: &Plan<'_, X>, extremes: &mut Extremes) {
        extremes.clipped += self.clipped;
        let block = &plan.block;
        for (vector, (lo, hi)) in self.least.0.iter().zip(&self.most.0).enumerate() {
            let lanes = lo.as_chunks::<4>().0.iter().zip(hi.as_chunks::<4>().0);
            for (lane, (lo, hi)) in lanes.enumerate() {
                let channel = block.first + block.channel(vector, 4 * lane);
                let least = &mut extremes.least[channel..channel + 4];
                let most = &mut extremes.most[channel..channel + 4];
                for i in 0..4 {
                    least[i] = least[i].min(lo[i]);
                    most[i] = most[i].max(hi[i]);
                }
            }
        }
    }

    /// Adds the ends of a band's sums; returns of which vectors the last step clips one.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,popcnt")]
    fn add(&mut self, ends: &[Numbers; 2]) -> [bool; QUAD] {
        let mut clips = [false; QUAD];
        for (vector, clips) in clips.iter_mut().enumerate() {
            // SAFETY: this function is compiled for the instructions.
            unsafe {
                let (lo, hi) = (numbers(&ends[0], vector), numbers(&ends[1], vector));
                let (below, above) = (&self.tables.below, &self.tables.above);
                *clips = _mm512_cmplt_epi32_mask(lo, numbers(below, vector))
                    | _mm512_cmplt_epi32_mask(numbers(above, vector), hi)
                    != 0;
                let lo = _mm512_min_epi32(lo, numbers(&self.least, vector));
                let hi = _mm512_max_epi32(hi, numbers(&self.most, vector));
                put(&mut self.least, vector, lo);
                put(&mut self.most, vector, hi);
            }
        }
        clips
    }
}

/// The least and the largest of no sums.
const NO_SUMS: [Numbers; 2] = [
    Numbers([[i32::MAX; WIDTH]; QUAD]),
    Numbers([[i32::MIN; WIDTH]; QUAD]),
];

/// Turned columns, and which of them an output meets.
struct Columns<'a> {
    turned: &'a [Quad],
    /// Columns of a group of kernel rows.
    n_turned: usize,
    kernel_w: usize,
    stride: usize,
    dilation: usize,
}

/// Writes the results of a band.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,popcnt")]
pub(super) fn multiply<X: Packable<i8>, O: Byte>(
    task: &mut Task<'_>,
    band: &Band<'_, X>,
    turned: &[Quad],
    out: &mut [O],
) {
    let window = &band.plan.conv.window;
    let columns = Columns {
        turned,
        n_turned: band.n_turned(),
        kernel_w: window.kernel_w,
        stride: window.stride_w,
        dilation: window.dilation_w,
    };
    let is_plain = window.kernel_h <= super::ROWS && window.dilation_w == 1 && task.packs_all;
    match (is_plain, window.kernel_w, window.stride_w) {
        (true, 3, 1) => any_rows::<X, O, 3, 1>(task, band, &columns, out),
        (true, 3, 2) => any_rows::<X, O, 3, 2>(task, band, &columns, out),
        (true, 5, 1) => any_rows::<X, O, 5, 1>(task, band, &columns, out),
        _ => any_rows::<X, O, 0, 0>(task, band, &columns, out),
    }
}

/// Writes the results of a band for a kernel of `W` undilated columns and up to four rows, moved by `S` columns, whose
/// sums are scaled as they are; zeros stand for any kernel and any sums.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,popcnt")]
fn any_rows<X: Packable<i8>, O: Byte, const W: usize, const S: usize>(
    task: &mut Task<'_>,
    band: &Band<'_, X>,
    columns: &Columns<'_>,
    out: &mut [O],
) {
    let mut ends = NO_SUMS;
    let to = (out, &mut ends);
    match band.n_rows {
        2 => all_columns::<X, O, 2, W, S>(task, band, columns, to),
        _ => all_columns::<X, O, 1, W, S>(task, band, columns, to),
    }
    let clips = task.add(&ends);
    if clips.contains(&true) {
        task.clipped += match band.n_rows {
            2 => clipped::<X, 2, W, S>(task, band, columns, clips),
            _ => clipped::<X, 1, W, S>(task, band, columns, clips),
        };
    }
}

/// Writes the results of `R` rows: four pixels of each row and part at once, and fewer at the end of a row.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,popcnt")]
fn all_columns<X: Packable<i8>, O: Byte, const R: usize, const W: usize, const S: usize>(
    task: &Task<'_>,
    band: &Band<'_, X>,
    columns: &Columns<'_>,
    (out, ends): (&mut [O], &mut [Numbers; 2]),
) {
    let n = band.columns.len();
    // One or two pixels that are left come two at once, three come four at once: one may be computed again.
    let fours = match n {
        0..4 => 0,
        _ if n & 3 == 3 => n,
        _ => n & !3,
    };
    if fours > 0 {
        results::<X, O, R, 4, W, S>(task, band, columns, 0..fours, (out, ends));
    }
    match n - fours {
        0 => {}
        1 if n == 1 => results::<X, O, R, 1, W, S>(task, band, columns, 0..1, (out, ends)),
        _ => results::<X, O, R, 2, W, S>(task, band, columns, fours.min(n - 2)..n, (out, ends)),
    }
}

/// Writes the results of `R` rows and of these pixels of each row and part, `C` pixels at once.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,popcnt")]
fn results<
    X: Packable<i8>,
    O: Byte,
    const R: usize,
    const C: usize,
    const W: usize,
    const S: usize,
>(
    task: &Task<'_>,
    band: &Band<'_, X>,
    columns: &Columns<'_>,
    pixels: Range<usize>,
    (out, ends): (&mut [O], &mut [Numbers; 2]),
) {
    let plan = band.plan;
    let channels = plan.conv.kernel.extents[2];
    let row_len = plan.conv.window.out_w * channels;
    let is_whole = plan.block.n == BYTES;
    let doubled = task.doubled;
    for first in pixels.clone().step_by(C) {
        // The last pixels may be some of those before once more.
        let first = first.min(pixels.end - C);
        // SAFETY: this function is compiled for the instructions.
        unsafe {
            let v0 = vector::<R, C, W, S>(task, columns, (0, first), ends);
            let v1 = vector::<R, C, W, S>(task, columns, (1, first), ends);
            let low = words(&v0, &v1);
            let v2 = vector::<R, C, W, S>(task, columns, (2, first), ends);
            let v3 = vector::<R, C, W, S>(task, columns, (3, first), ends);
            let high = words(&v2, &v3);
            let mut bytes = low;
            for (bytes, high) in bytes.iter_mut().zip(&high) {
                for (bytes, high) in bytes.iter_mut().zip(high) {
                    let packed = pack::<O>(*bytes, *high);
                    let packed = if W > 0 {
                        between::<O>(&task.tables.packing, packed)
                    } else {
                        packed
                    };
                    *bytes = double::<O>(packed, doubled);
                }
            }
            let at = (band.columns.start + first) * channels + plan.block.first;
            if is_whole {
                for (r, bytes) in bytes.iter().enumerate() {
                    let out = &mut out[r * row_len + at..][..(C - 1) * channels + BYTES];
                    for (c, bytes) in bytes.iter().enumerate() {
                        let out = &mut out[c * channels..][..BYTES];
                        _mm512_storeu_si512(out.as_mut_ptr().cast(), *bytes);
                    }
                }
            } else {
                for (r, bytes) in bytes.iter().enumerate() {
                    store(plan, bytes, &mut out[r * row_len + at..]);
                }
            }
        }
    }
}

/// Returns the bytes with those of `lanes` doubled.
///
/// # Safety
///
/// The CPU has the instruction set of this module, and the caller is compiled for it.
// Saturating, since the compiler makes four instructions of a sum of equal numbers.
#[inline(always)]
unsafe fn double<O: Byte>(bytes: __m512i, lanes: u64) -> __m512i {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        if O::IS_SIGNED {
            _mm512_mask_adds_epi8(bytes, lanes, bytes, bytes)
        } else {
            _mm512_mask_adds_epu8(bytes, lanes, bytes, bytes)
        }
    }
}

/// Returns the words of two vectors of each pixel.
///
/// # Safety
///
/// The CPU has the instruction set of this module, and the caller is compiled for it.
#[inline(always)]
unsafe fn words<const R: usize, const C: usize>(
    low: &[[__m512i; C]; R],
    high: &[[__m512i; C]; R],
) -> [[__m512i; C]; R] {
    let mut words = *low;
    for (words, high) in words.iter_mut().zip(high) {
        for (words, high) in words.iter_mut().zip(high) {
            // SAFETY: the caller vouches for the instructions.
            *words = unsafe { _mm512_packs_epi32(*words, *high) };
        }
    }
    words
}

/// Returns the results of vector `q` of the pixels from `first` on, and adds the sums to `ends`.
///
/// # Safety
///
/// The CPU has the instruction set of this module, and the caller is compiled for it.
#[inline(always)]
unsafe fn vector<const R: usize, const C: usize, const W: usize, const S: usize>(
    task: &Task<'_>,
    columns: &Columns<'_>,
    (q, first): (usize, usize),
    ends: &mut [Numbers; 2],
) -> [[__m512i; C]; R] {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let mut v = sums::<R, C, W, S>(task, columns, (q, first));
        let (mut lo, mut hi) = (numbers(&ends[0], q), numbers(&ends[1], q));
        let tables = task.tables;
        let (scale, half) = (numbers(&tables.scale, q), numbers(&tables.half, q));
        let right = numbers(&tables.right, q);
        for v in &mut v {
            for v in v {
                lo = _mm512_min_epi32(lo, *v);
                hi = _mm512_max_epi32(hi, *v);
                if W == 0 {
                    *v = _mm512_max_epi32(*v, numbers(&tables.least, q));
                    *v = _mm512_min_epi32(*v, numbers(&tables.most, q));
                }
                let scaled = _mm512_add_epi32(_mm512_mullo_epi32(*v, scale), half);
                *v = _mm512_srav_epi32(scaled, right);
            }
        }
        put(&mut ends[0], q, lo);
        put(&mut ends[1], q, hi);
        // The next vector is not begun before, and the ends are in memory: not everything would fit in the registers.
        std::arch::asm!("/* {0} */", in(reg) ends.as_mut_ptr(), options(nostack, preserves_flags));
        v
    }
}

/// Returns the sums of vector `q` of the pixels from `first` on.
///
/// # Safety
///
/// The CPU has the instruction set of this module, and the caller is compiled for it.
#[inline(always)]
unsafe fn sums<const R: usize, const C: usize, const W: usize, const S: usize>(
    task: &Task<'_>,
    columns: &Columns<'_>,
    (q, first): (usize, usize),
) -> [[__m512i; C]; R] {
    let (kernel_w, stride, dilation) = if W > 0 {
        (W, S, 1)
    } else {
        (columns.kernel_w, columns.stride, columns.dilation)
    };
    let n_turned = columns.n_turned;
    let n_groups = if W > 0 {
        1
    } else {
        task.weights[0].len().div_euclid(kernel_w)
    };
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let mut acc = [[numbers(&task.start, q); C]; R];
        for group in 0..n_groups {
            let turned = &columns.turned[group * n_turned + first * stride..];
            let turned = &turned[..(C - 1) * stride + (kernel_w - 1) * dilation + 1];
            for tap in 0..kernel_w {
                for (r, acc) in acc.iter_mut().enumerate() {
                    let weights = load(&task.weights[r][group * kernel_w + tap][q]);
                    for (c, acc) in acc.iter_mut().enumerate() {
                        let x = load(&turned[c * stride + tap * dilation][q]);
                        *acc = _mm512_dpbusd_epi32(*acc, x, weights);
                    }
                }
            }
        }
        acc
    }
}

/// Returns how many sums of a band the last step clips; only those of some vectors are looked at.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,popcnt")]
#[inline(never)]
fn clipped<X: Packable<i8>, const R: usize, const W: usize, const S: usize>(
    task: &Task<'_>,
    band: &Band<'_, X>,
    columns: &Columns<'_>,
    clips: [bool; QUAD],
) -> u64 {
    let mut count = 0;
    let n = band.columns.len();
    for q in (0..QUAD).filter(|q| clips[*q]) {
        let fours = n & !3;
        for first in (0..fours).step_by(4) {
            // SAFETY: this function is compiled for the instructions.
            count += unsafe { outside::<X, R, 4, W, S>(task, band, columns, (q, first)) };
        }
        for first in fours..n {
            // SAFETY: as above.
            count += unsafe { outside::<X, R, 1, W, S>(task, band, columns, (q, first)) };
        }
    }
    u64::from(count)
}

/// Returns how many sums of vector `q` of the pixels from `first` on the last step clips.
///
/// # Safety
///
/// The CPU has the instruction set of this module, and the caller is compiled for it.
#[inline(always)]
unsafe fn outside<
    X: Packable<i8>,
    const R: usize,
    const C: usize,
    const W: usize,
    const S: usize,
>(
    task: &Task<'_>,
    band: &Band<'_, X>,
    columns: &Columns<'_>,
    (q, first): (usize, usize),
) -> u32 {
    let tables = task.tables;
    let mut count = 0;
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let (below, above) = (numbers(&tables.below, q), numbers(&tables.above, q));
        for sums in sums::<R, C, W, S>(task, columns, (q, first)) {
            for (c, sums) in sums.into_iter().enumerate() {
                let outside =
                    _mm512_cmplt_epi32_mask(sums, below) | _mm512_cmplt_epi32_mask(above, sums);
                count += (outside & band.own_lanes(first + c)).count_ones();
            }
        }
    }
    count
}

/// Writes the bytes of pixels side by side, a pixel for each part; `out` begins at the first pixel.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,popcnt")]
#[inline(never)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a part of 32 or 16 bytes has no more channels"
)]
fn store<X: Packable<i8>, O: Byte>(plan: &Plan<'_, X>, pixels: &[__m512i], out: &mut [O]) {
    let block = &plan.block;
    let channels = plan.conv.kernel.extents[2];
    let lanes = u64::MAX >> (64 - block.n);
    for (number, bytes) in pixels.iter().enumerate() {
        let bytes = *bytes;
        let mut part = |part: usize| {
            let at = (plan.starts[part] + number) * channels;
            out[at..at + block.n].as_mut_ptr().cast::<i8>()
        };
        // SAFETY: as many bytes are written as a slice has.
        unsafe {
            match block.parts {
                1 => _mm512_mask_storeu_epi8(part(0), lanes, bytes),
                2 => {
                    let high = _mm512_extracti64x4_epi64::<1>(bytes);
                    _mm256_mask_storeu_epi8(part(0), lanes as u32, _mm512_castsi512_si256(bytes));
                    _mm256_mask_storeu_epi8(part(1), lanes as u32, high);
                }
                _ => {
                    let lanes = lanes as u16;
                    _mm_mask_storeu_epi8(part(0), lanes, _mm512_castsi512_si128(bytes));
                    _mm_mask_storeu_epi8(part(1), lanes, _mm512_extracti32x4_epi32::<1>(bytes));
                    _mm_mask_storeu_epi8(part(2), lanes, _mm512_extracti32x4_epi32::<2>(bytes));
                    _mm_mask_storeu_epi8(part(3), lanes, _mm512_extracti32x4_epi32::<3>(bytes));
                }
            }
        }
    }
}

/// # Safety
///
/// The CPU has the instruction set of this module, and the caller is compiled for it.
#[inline(always)]
unsafe fn load(line: &Line) -> __m512i {
    // SAFETY: a line is an aligned vector.
    unsafe { _mm512_load_si512(line.0.as_ptr().cast()) }
}

/// # Safety
///
/// The CPU has the instruction set of this module, and the caller is compiled for it.
#[inline(always)]
unsafe fn numbers(numbers: &Numbers, vector: usize) -> __m512i {
    // SAFETY: sixteen numbers are an aligned vector.
    unsafe { _mm512_load_si512(numbers.0[vector].as_ptr().cast()) }
}

/// # Safety
///
/// The CPU has the instruction set of this module, and the caller is compiled for it.
#[inline(always)]
unsafe fn put(numbers: &mut Numbers, vector: usize, values: __m512i) {
    // SAFETY: sixteen numbers are an aligned vector.
    unsafe { _mm512_store_si512(numbers.0[vector].as_mut_ptr().cast(), values) };
}
