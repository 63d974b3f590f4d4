//! The last steps of sums, and where results go.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::{
    __m256i, _mm_storeu_si128, _mm256_add_epi32, _mm256_and_si256, _mm256_castsi256_ps,
    _mm256_castsi256_si128, _mm256_cmpgt_epi32, _mm256_extracti128_si256, _mm256_load_si256,
    _mm256_max_epi8, _mm256_max_epi32, _mm256_max_epu8, _mm256_min_epi8, _mm256_min_epi32,
    _mm256_min_epu8, _mm256_movemask_ps, _mm256_mullo_epi32, _mm256_or_si256, _mm256_packs_epi16,
    _mm256_packs_epi32, _mm256_packus_epi16, _mm256_set1_epi16, _mm256_setzero_si256,
    _mm256_srav_epi32, _mm256_store_si256,
};

use std::convert::identity;

use super::sums::{Columns, OfBytes, OfWords, Sums, Taps, load, put as put_line};
use super::weights::{Block, BlockKernel, HALF, Line, Numbers, WIDTH, Weights};
use super::{Band, Turned};
use crate::finish::{Byte, Extremes, Finish};

/// What a block of channels is multiplied with, and what its sums were so far.
pub(super) struct Task<'a> {
    block: Block,
    weights: &'a Weights,
    tables: Tables,
    /// Whether sums are scaled as they are: then `half` holds the scaled bias.
    scales_all: bool,
    /// The least and the largest result of each channel.
    bounds: [Line; 2],
    ends: Ends,
    clipped: u64,
}

/// The tables of a [`Finish`] in the order of the sums.
struct Tables {
    /// What is added to each sum.
    bias: Numbers,
    least: Numbers,
    most: Numbers,
    scale: Numbers,
    half: Numbers,
    right: Numbers,
    below: Numbers,
    above: Numbers,
}

/// The least and the largest sums, without what is added to them.
struct Ends {
    least: Numbers,
    most: Numbers,
}

impl Ends {
    const fn none() -> Self {
        Self {
            least: Numbers([[i32::MAX; 8]; 4]),
            most: Numbers([[i32::MIN; 8]; 4]),
        }
    }
}

impl<'a> Task<'a> {
    /// Returns the task of a block for activations that have `offset` too much.
    #[target_feature(enable = "avx2,fma,popcnt")]
    pub(super) fn new(kernel: &'a BlockKernel, finish: &Finish, offset: i32) -> Self {
        let block = kernel.block;
        let mut bias = block.spread(&finish.bias, identity);
        let totals = kernel.totals.0.as_flattened();
        let excess = kernel.excess.0.as_flattened();
        for ((bias, total), excess) in bias.0.as_flattened_mut().iter_mut().zip(totals).zip(excess)
        {
            let surplus = total.wrapping_mul(offset).wrapping_add(*excess);
            *bias = bias.wrapping_sub(surplus);
        }
        let mut tables = Tables {
            bias,
            least: block.spread(&finish.least, identity),
            most: block.spread(&finish.most, identity),
            scale: block.spread(&finish.scale, identity),
            half: block.spread(&finish.half, identity),
            right: block.spread(&finish.right, u32::cast_signed),
            below: block.spread(&finish.clips_below, identity),
            above: block.spread(&finish.clips_above, identity),
        };
        let bounds = tables.bounds();
        if finish.scales_all {
            tables.scale_bias();
        }
        Self {
            block,
            weights: &kernel.weights,
            tables,
            scales_all: finish.scales_all,
            bounds,
            ends: Ends::none(),
            clipped: 0,
        }
    }

    /// Adds what the sums were to `extremes`.
    pub(super) fn close(&self, extremes: &mut Extremes) {
        extremes.clipped += self.clipped;
        let ends = self.ends.least.0.iter().zip(&self.ends.most.0);
        for (vector, (lo, hi)) in ends.enumerate() {
            for lane in [0, 4] {
                let channel = self.block.channel(Block::byte(vector, lane));
                let least = &mut extremes.least[channel..channel + 4];
                let most = &mut extremes.most[channel..channel + 4];
                for i in 0..4 {
                    least[i] = least[i].min(lo[lane + i]);
                    most[i] = most[i].max(hi[lane + i]);
                }
            }
        }
    }

    /// Adds the ends of a band's sums; returns of which half of the channels the last step clips one.
    #[target_feature(enable = "avx2,fma,popcnt")]
    fn add(&mut self, ends: &Ends) -> [bool; 2] {
        let mut clips = [false; 2];
        for q in 0..4 {
            // SAFETY: this function is compiled for the instructions.
            unsafe {
                let bias = numbers(&self.tables.bias, q);
                let lo = _mm256_add_epi32(numbers(&ends.least, q), bias);
                let hi = _mm256_add_epi32(numbers(&ends.most, q), bias);
                clips[q >> 1] |= outside(&self.tables, q, [lo, hi]) != 0;
                let lo = _mm256_min_epi32(lo, numbers(&self.ends.least, q));
                let hi = _mm256_max_epi32(hi, numbers(&self.ends.most, q));
                put(&mut self.ends.least, q, lo);
                put(&mut self.ends.most, q, hi);
            }
        }
        clips
    }
}

impl Tables {
    /// Returns the least and the largest result of each channel.
    #[target_feature(enable = "avx2,fma,popcnt")]
    fn bounds(&self) -> [Line; 2] {
        let mut bounds = [Line([0; WIDTH]); 2];
        for (bounds, sums) in bounds.iter_mut().zip([&self.least, &self.most]) {
            // SAFETY: this function is compiled for the instructions.
            unsafe {
                let mut results = [_mm256_setzero_si256(); 4];
                for (q, results) in results.iter_mut().enumerate() {
                    *results = scaled(self, q, numbers(sums, q));
                }
                let [a, b, c, d] = results;
                let bytes = _mm256_set1_epi16(0xFF);
                let low = _mm256_and_si256(_mm256_packs_epi32(a, b), bytes);
                let high = _mm256_and_si256(_mm256_packs_epi32(c, d), bytes);
                put_line(bounds, _mm256_packus_epi16(low, high));
            }
        }
        bounds
    }

    /// Adds the scaled bias to what is added to scaled sums.
    #[inline(always)]
    fn scale_bias(&mut self) {
        let numbers = self
            .bias
            .0
            .as_flattened()
            .iter()
            .zip(self.scale.0.as_flattened());
        for (half, (bias, scale)) in self.half.0.as_flattened_mut().iter_mut().zip(numbers) {
            *half = half.wrapping_add(bias.wrapping_mul(*scale));
        }
    }
}

/// Writes the results of a band.
#[target_feature(enable = "avx2,fma,popcnt")]
pub(super) fn multiply<O: Byte>(
    task: &mut Task<'_>,
    band: &Band<'_>,
    turned: &[Turned],
    out: &mut [O],
) {
    let columns = Columns::new(band, turned);
    match (task.weights, columns.stride, columns.dilation) {
        (Weights::Bytes(w), 1, 1) => any_steps(OfBytes::<1>(w), task, band, &columns, out),
        (Weights::Bytes(w), 2, 1) => any_steps(OfBytes::<2>(w), task, band, &columns, out),
        (Weights::Bytes(w), ..) => any_steps(OfBytes::<0>(w), task, band, &columns, out),
        (Weights::Words(w), ..) => any_steps(OfWords(w), task, band, &columns, out),
    }
}

/// Writes the results of a band, and counts which of them the last step clips: all are looked at again if any.
#[target_feature(enable = "avx2,fma,popcnt")]
fn any_steps<T: Taps, O: Byte>(
    taps: T,
    task: &mut Task<'_>,
    band: &Band<'_>,
    columns: &Columns<'_>,
    out: &mut [O],
) {
    let mut ends = Ends::none();
    if task.scales_all {
        any_rows::<T, O, false>((taps, task), band, columns, (out, &mut ends));
    } else {
        any_rows::<T, O, true>((taps, task), band, columns, (out, &mut ends));
    }
    for (half, clips) in task.add(&ends).into_iter().enumerate() {
        if clips {
            task.clipped += match band.n_rows {
                2 => clipped::<T, 2>((taps, task), band, columns, half),
                _ => clipped::<T, 1>((taps, task), band, columns, half),
            };
        }
    }
}

/// Writes the results of a band, as many pixels at once as the registers hold.
#[target_feature(enable = "avx2,fma,popcnt")]
fn any_rows<T: Taps, O: Byte, const CLAMPS: bool>(
    task: (T, &Task<'_>),
    band: &Band<'_>,
    columns: &Columns<'_>,
    to: (&mut [O], &mut Ends),
) {
    match (band.n_rows, band.columns.len()) {
        (2, 1) => results::<T, O, 2, 1, CLAMPS>(task, band, columns, to),
        (2, _) => results::<T, O, 2, 2, CLAMPS>(task, band, columns, to),
        (_, 1..4) => results::<T, O, 1, 1, CLAMPS>(task, band, columns, to),
        _ => results::<T, O, 1, 4, CLAMPS>(task, band, columns, to),
    }
}

/// Writes the results of `R` rows, `C` pixels of each row and part at once; `CLAMPS` says whether sums are brought between
/// their bounds before they are scaled.
// Never inlined: among other code the compiler does not keep all sums in registers.
#[target_feature(enable = "avx2,fma,popcnt")]
#[inline(never)]
fn results<T: Taps, O: Byte, const R: usize, const C: usize, const CLAMPS: bool>(
    (taps, task): (T, &Task<'_>),
    band: &Band<'_>,
    columns: &Columns<'_>,
    (out, ends): (&mut [O], &mut Ends),
) {
    let n = band.columns.len();
    let plan = band.plan;
    let (channels, row_len) = (plan.channels, plan.window.out_w * plan.channels);
    // Where the second half of a vector goes: behind the first one, or to the other part.
    let second = if plan.block.parts == 1 {
        HALF
    } else {
        plan.starts[1] * channels
    };
    let mut done = 0;
    while done < n {
        // The last pixels may be some of those before once more.
        let first = done.min(n - C);
        let at = (band.columns.start + first) * channels + plan.block.first;
        let out = &mut out[at..][..(R - 1) * row_len + (C - 1) * channels + second + HALF];
        let (taps, task) = (anew(&taps), anew(task));
        // SAFETY: this function is compiled for the instructions. The last half vector ends with the slice.
        unsafe {
            let low = words::<R, C, CLAMPS>(taps.sums(columns, (0, first)), task, 0, ends);
            let high = words::<R, C, CLAMPS>(taps.sums(columns, (1, first)), task, 1, ends);
            for (r, (low, high)) in low.iter().zip(&high).enumerate() {
                for (c, (low, high)) in low.iter().zip(high).enumerate() {
                    let bytes = bytes::<O>(*low, *high, &task.bounds);
                    let to = out.as_mut_ptr().add(r * row_len + c * channels);
                    _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(bytes));
                    let high = _mm256_extracti128_si256::<1>(bytes);
                    _mm_storeu_si128(to.add(second).cast(), high);
                }
            }
        }
        done += C;
    }
}

/// Returns the same reference, of which the compiler does not know where it points: else it would read all numbers before
/// a loop, and write those that find no register to memory again.
#[inline(always)]
fn anew<T>(from: &T) -> &T {
    let mut from = std::ptr::from_ref(from);
    // SAFETY: no instruction is run, so the pointer stays as it is.
    unsafe {
        std::arch::asm!("/* {0} */", inout(reg) from, options(readonly, nostack, preserves_flags));
        &*from
    }
}

/// Returns the results of half of the channels as words, and adds their sums to `ends`.
///
/// # Safety
///
/// The CPU has AVX2, and the caller is compiled for it.
#[inline(always)]
unsafe fn words<const R: usize, const C: usize, const CLAMPS: bool>(
    mut sums: Sums<R, C>,
    task: &Task<'_>,
    half: usize,
    ends: &mut Ends,
) -> [[__m256i; C]; R] {
    let tables = &task.tables;
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        for part in 0..2 {
            let q = 2 * half + part;
            let (mut lo, mut hi) = (numbers(&ends.least, q), numbers(&ends.most, q));
            for sums in sums.as_flattened_mut() {
                let mut v = sums[part];
                lo = _mm256_min_epi32(lo, v);
                hi = _mm256_max_epi32(hi, v);
                if CLAMPS {
                    v = _mm256_add_epi32(v, numbers(&tables.bias, q));
                    v = _mm256_max_epi32(v, numbers(&tables.least, q));
                    v = _mm256_min_epi32(v, numbers(&tables.most, q));
                }
                sums[part] = scaled(tables, q, v);
            }
            put(&mut ends.least, q, lo);
            put(&mut ends.most, q, hi);
        }
        let mut words = [[_mm256_setzero_si256(); C]; R];
        let pixels = words.as_flattened_mut().iter_mut();
        for (words, [low, high]) in pixels.zip(sums.as_flattened()) {
            *words = _mm256_packs_epi32(*low, *high);
        }
        words
    }
}

/// Returns the results of vector `q`, which may still be too small or too large.
///
/// # Safety
///
/// The CPU has AVX2, and the caller is compiled for it.
#[inline(always)]
unsafe fn scaled(tables: &Tables, q: usize, v: __m256i) -> __m256i {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let product = _mm256_mullo_epi32(v, numbers(&tables.scale, q));
        let sum = _mm256_add_epi32(product, numbers(&tables.half, q));
        _mm256_srav_epi32(sum, numbers(&tables.right, q))
    }
}

/// Returns words as bytes between their bounds. All steps grow with the sums, so it is the same to bring the sums or
/// the results between bounds.
///
/// # Safety
///
/// The CPU has AVX2, and the caller is compiled for it.
#[inline(always)]
unsafe fn bytes<O: Byte>(low: __m256i, high: __m256i, [least, most]: &[Line; 2]) -> __m256i {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let (least, most) = (load(least), load(most));
        if O::IS_SIGNED {
            let bytes = _mm256_packs_epi16(low, high);
            _mm256_max_epi8(_mm256_min_epi8(bytes, most), least)
        } else {
            let bytes = _mm256_packus_epi16(low, high);
            _mm256_max_epu8(_mm256_min_epu8(bytes, most), least)
        }
    }
}

/// Returns how many sums of half of the channels of a band the last step clips.
#[target_feature(enable = "avx2,fma,popcnt")]
#[inline(never)]
fn clipped<T: Taps, const R: usize>(
    (taps, task): (T, &Task<'_>),
    band: &Band<'_>,
    columns: &Columns<'_>,
    half: usize,
) -> u64 {
    let plan = band.plan;
    let [first, both] = new_lanes(&plan.block);
    let mut count = 0;
    for number in 0..band.columns.len() {
        // The second part begins with the last pixels of the first one, if their number is odd.
        let is_new = plan.starts[1] + band.columns.start + number >= plan.part_w;
        let lanes = if is_new { &both } else { &first };
        // SAFETY: this function is compiled for the instructions.
        let sums = unsafe { taps.sums::<R, 1>(columns, (half, number)) };
        for sums in sums.as_flattened() {
            for (part, sums) in sums.iter().enumerate() {
                let q = 2 * half + part;
                // SAFETY: as above.
                let clips = unsafe {
                    let v = _mm256_add_epi32(*sums, numbers(&task.tables.bias, q));
                    outside(&task.tables, q, [v, v])
                };
                count += u64::from((clips & lanes[q]).count_ones());
            }
        }
    }
    count
}

/// Returns a bit for each lane of the vectors of sums whose channel no earlier block has: those of the first part of a
/// row, and those of both.
fn new_lanes(block: &Block) -> [[u32; 4]; 2] {
    let is_new = |both: bool, byte: usize| {
        let is_first = block.parts == 1 || byte < HALF;
        (both || is_first) && block.channel(byte) >= block.first + block.seen
    };
    [false, true].map(|both| {
        std::array::from_fn(|q| {
            let lanes = (0..8).filter(|lane| is_new(both, Block::byte(q, *lane)));
            lanes.map(|lane| 1 << lane).sum()
        })
    })
}

/// Returns a bit for each lane of vector `q` whose least or largest sum the last step clips.
///
/// # Safety
///
/// The CPU has AVX2, and the caller is compiled for it.
#[inline(always)]
unsafe fn outside(tables: &Tables, q: usize, [lo, hi]: [__m256i; 2]) -> u32 {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let below = _mm256_cmpgt_epi32(numbers(&tables.below, q), lo);
        let above = _mm256_cmpgt_epi32(hi, numbers(&tables.above, q));
        let clips = _mm256_or_si256(below, above);
        _mm256_movemask_ps(_mm256_castsi256_ps(clips)).cast_unsigned()
    }
}

/// # Safety
///
/// The CPU has AVX2, and the caller is compiled for it.
#[inline(always)]
unsafe fn numbers(numbers: &Numbers, vector: usize) -> __m256i {
    // SAFETY: eight numbers are an aligned vector.
    unsafe { _mm256_load_si256(numbers.0[vector].as_ptr().cast()) }
}

/// # Safety
///
/// The CPU has AVX2, and the caller is compiled for it.
#[inline(always)]
unsafe fn put(numbers: &mut Numbers, vector: usize, values: __m256i) {
    // SAFETY: eight numbers are an aligned vector.
    unsafe { _mm256_store_si256(numbers.0[vector].as_mut_ptr().cast(), values) };
}
