//! [`Finish`] on vectors of eight sums, with AVX2.
#![cfg(target_arch = "x86_64")]
#![expect(
    unsafe_code,
    reason = "vector instructions may run only on a CPU that has them"
)]

use std::arch::x86_64::{
    __m256i, _mm_storeh_pd, _mm_storel_pd, _mm256_add_epi32, _mm256_castpd256_pd128,
    _mm256_castsi256_pd, _mm256_castsi256_ps, _mm256_cmpgt_epi32, _mm256_extractf128_pd,
    _mm256_loadu_si256, _mm256_max_epi32, _mm256_min_epi32, _mm256_movemask_ps, _mm256_mullo_epi32,
    _mm256_or_si256, _mm256_packs_epi16, _mm256_packs_epi32, _mm256_packus_epi16,
    _mm256_permutevar8x32_epi32, _mm256_set1_epi32, _mm256_setr_epi32, _mm256_srav_epi32,
    _mm256_storeu_si256,
};

use super::{Byte, Extremes, Finish};

/// Channels of a vector.
pub(super) const WIDTH: usize = 8;

/// Writes the results of `sums`, `[pixels, channels]`, into `out`, and adds what they were to `extremes`.
///
/// There are eight channels or more. The last vector ends with the last channel, so it may see some again.
#[target_feature(enable = "avx2,fma,popcnt")]
pub(super) fn pixels<O: Byte>(
    finish: &Finish,
    sums: &[i32],
    out: &mut [O],
    extremes: &mut Extremes,
) {
    let n = finish.channels;
    assert!(n >= WIDTH && sums.len() == out.len(), "whole vectors");
    if sums.is_empty() {
        return;
    }
    for number in 0..n.div_ceil(WIDTH) {
        let first = (number * WIDTH).min(n - WIDTH);
        let columns = Columns {
            first,
            n_seen: number * WIDTH - first,
        };
        let sums = Sums {
            values: &sums[first..],
            pitch: n,
        };
        block(finish, &columns, sums, (out, extremes));
    }
}

/// Eight channels.
#[derive(Clone, Copy)]
struct Columns {
    /// The first one.
    first: usize,
    /// How many are others' too, and are not counted.
    n_seen: usize,
}

/// Sums of eight channels of each pixel, `pitch` apart.
#[derive(Clone, Copy)]
struct Sums<'a> {
    values: &'a [i32],
    pitch: usize,
}

/// Writes the results of eight channels of all pixels of `out`, and adds what they were to `extremes`.
#[target_feature(enable = "avx2,fma,popcnt")]
fn block<O: Byte>(
    finish: &Finish,
    columns: &Columns,
    sums: Sums<'_>,
    (out, extremes): (&mut [O], &mut Extremes),
) {
    let first = columns.first;
    let (lo, hi) = results(finish, sums, out, first);
    let [low, high] = [&mut extremes.least, &mut extremes.most].map(|v| &mut v[first..][..WIDTH]);
    let least = _mm256_min_epi32(load(low), lo);
    let most = _mm256_max_epi32(load(high), hi);
    // SAFETY: eight numbers are there.
    unsafe {
        _mm256_storeu_si256(low.as_mut_ptr().cast(), least);
        _mm256_storeu_si256(high.as_mut_ptr().cast(), most);
    }
    // The extremes tell whether any sum clips: only then all are looked at again.
    if finish.may_clip && (clips(finish, first, lo) | clips(finish, first, hi)) != 0 {
        extremes.clipped += clipped(finish, sums, columns);
    }
}

/// Writes the results of the eight channels from `start` on, and returns their least and largest sums, bias added.
#[target_feature(enable = "avx2,fma,popcnt")]
fn results<O: Byte>(
    finish: &Finish,
    Sums { values, pitch }: Sums<'_>,
    out: &mut [O],
    start: usize,
) -> (__m256i, __m256i) {
    let n = finish.channels;
    let last = out.len().div_euclid(n) - 1;
    assert!(
        start + WIDTH <= n && last * pitch + WIDTH <= values.len(),
        "channels of each pixel"
    );
    let right: &[u32] = &finish.right[start..start + WIDTH];
    let (bias, scale, half) = (
        load(&finish.bias[start..]),
        load(&finish.scale[start..]),
        load(&finish.half[start..]),
    );
    let (least, most) = (load(&finish.least[start..]), load(&finish.most[start..]));
    // SAFETY: eight numbers are there.
    let right = unsafe { _mm256_loadu_si256(right.as_ptr().cast()) };
    let (mut lo, mut hi) = (_mm256_set1_epi32(i32::MAX), _mm256_set1_epi32(i32::MIN));
    // Four pixels at once. The last four may have some again; where there are fewer, each is all four.
    let (n_steps, apart) = match last {
        0..=2 => (last + 1, 0),
        _ => ((last + 4).div_euclid(4), 1),
    };
    for number in 0..n_steps {
        let pixel = match apart {
            0 => number,
            _ => (4 * number).min(last - 3),
        };
        let mut results = [lo; 4];
        for (i, result) in results.iter_mut().enumerate() {
            let at = (pixel + i * apart) * pitch;
            // SAFETY: pixel `last` and those before it have eight sums, `pitch` after those of the pixel before.
            let sum = unsafe { _mm256_loadu_si256(values.as_ptr().add(at).cast()) };
            let v = _mm256_add_epi32(sum, bias);
            lo = _mm256_min_epi32(lo, v);
            hi = _mm256_max_epi32(hi, v);
            let v = _mm256_min_epi32(_mm256_max_epi32(v, least), most);
            let scaled = _mm256_add_epi32(_mm256_mullo_epi32(v, scale), half);
            *result = _mm256_srav_epi32(scaled, right);
        }
        let rows = _mm256_castsi256_pd(packed::<O>(results));
        let (first, second) = (
            _mm256_castpd256_pd128(rows),
            _mm256_extractf128_pd::<1>(rows),
        );
        let step = apart * n;
        // SAFETY: `out` has `n` results of a byte for each pixel, of which eight start at `start`.
        unsafe {
            let to = out.as_mut_ptr().add(pixel * n + start);
            _mm_storel_pd(to.cast(), first);
            _mm_storeh_pd(to.add(step).cast(), first);
            _mm_storel_pd(to.add(2 * step).cast(), second);
            _mm_storeh_pd(to.add(3 * step).cast(), second);
        }
    }
    (lo, hi)
}

/// Returns the results of four pixels as bytes, one pixel after the other.
#[target_feature(enable = "avx2,fma,popcnt")]
#[inline]
fn packed<O: Byte>([a, b, c, d]: [__m256i; 4]) -> __m256i {
    let (ab, cd) = (_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    let bytes = if O::IS_SIGNED {
        _mm256_packs_epi16(ab, cd)
    } else {
        _mm256_packus_epi16(ab, cd)
    };
    // Each half of the vector has four channels of all pixels.
    _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

/// Returns how many results the last step clips, those of channels that were seen before left out.
#[target_feature(enable = "avx2,fma,popcnt")]
fn clipped(finish: &Finish, sums: Sums<'_>, columns: &Columns) -> u64 {
    let mut n = 0;
    let bias = load(&finish.bias[columns.first..]);
    for sums in sums.values.chunks(sums.pitch) {
        let v = _mm256_add_epi32(load(sums), bias);
        let clips = clips(finish, columns.first, v) >> columns.n_seen;
        n += u64::from(clips.count_ones());
    }
    n
}

/// Returns a bit for each of the eight sums, bias added, whose result the last step clips.
#[target_feature(enable = "avx2,fma,popcnt")]
#[inline]
fn clips(finish: &Finish, start: usize, v: __m256i) -> u32 {
    let below = load(&finish.clips_below[start..]);
    let above = load(&finish.clips_above[start..]);
    let clips = _mm256_or_si256(_mm256_cmpgt_epi32(below, v), _mm256_cmpgt_epi32(v, above));
    _mm256_movemask_ps(_mm256_castsi256_ps(clips)).cast_unsigned()
}

/// Returns the first eight numbers.
#[target_feature(enable = "avx2,fma,popcnt")]
#[inline]
fn load(values: &[i32]) -> __m256i {
    assert!(values.len() >= WIDTH, "eight numbers");
    // SAFETY: eight numbers are there.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}
