//! Tiles of sums that become the results of their layer while they are in registers.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m128i, __m256i, _mm_castsi128_pd, _mm_max_epi8, _mm_min_epi8, _mm_min_epu8, _mm_storeh_pd,
    _mm_storel_pd, _mm_unpackhi_epi32, _mm_unpacklo_epi32, _mm256_add_epi32, _mm256_castsi256_ps,
    _mm256_castsi256_si128, _mm256_cmpgt_epi32, _mm256_extracti128_si256, _mm256_movemask_ps,
    _mm256_mullo_epi32, _mm256_or_si256, _mm256_packs_epi16, _mm256_packs_epi32,
    _mm256_packus_epi16, _mm256_srav_epi32,
};

use super::ends::{Ends, Numbers, eight};
#[cfg(target_arch = "x86_64")]
use super::ends::{put, vector};
use super::packing::COLUMNS;
use super::sink::Sink;
#[cfg(target_arch = "x86_64")]
use super::tile::ROWS;
use crate::finish::{Byte, Extremes, Finish};

/// Results of the whole layer, `[pixels, filters]`.
///
/// Sums are scaled as they are and saturate as they are packed, which is exact where no product leaves an `i32`
/// ([`Finish::packs_all`]); the bias is scaled with the half that rounds. NUMERICS.md E2.
pub(super) struct Finished<'a, O> {
    pub(super) finish: &'a Finish,
    pub(super) out: &'a mut [O],
    pub(super) extremes: &'a mut Extremes,
}

/// The numbers of a block of columns.
pub(super) struct FinishedColumns {
    ends: Ends,
    scale: Numbers,
    /// The half that rounds, and the bias, scaled.
    half: Numbers,
    right: Numbers,
    below: Numbers,
    above: Numbers,
    /// Ends of the results, in the order of the bytes of two pixels.
    low: [[u8; COLUMNS]; 2],
    high: [[u8; COLUMNS]; 2],
    n_seen: usize,
    clipped: u64,
}

impl<O: Byte> Sink for Finished<'_, O> {
    type Columns = FinishedColumns;

    fn columns(&self, first: usize, n_seen: usize) -> FinishedColumns {
        let finish = self.finish;
        let of = |table: &[i32]| Numbers(eight(table, first));
        FinishedColumns {
            ends: Ends::new(finish, first),
            scale: of(&finish.scale),
            half: of(&finish.half_and_bias),
            right: Numbers(eight(&finish.right, first).map(u32::cast_signed)),
            below: of(&finish.clips_below),
            above: of(&finish.clips_above),
            low: [eight(&finish.low, first); 2],
            high: [eight(&finish.high, first); 2],
            n_seen,
            clipped: 0,
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn take<const N: usize>(
        &mut self,
        columns: &mut FinishedColumns,
        pixel: usize,
        sums: &[__m256i; N],
    ) {
        let filters = self.finish.channels();
        let out = self.out[pixel * filters..][..N * filters].as_mut_ptr();
        // SAFETY: each of the rows has the columns of the block; an `O` is a byte. The caller vouches for the
        // instructions.
        unsafe {
            let [lo, hi] = columns.ends.add(sums);
            if (clips(columns, lo) | clips(columns, hi)) != 0 {
                // Stored one by one: a copy of the array would give the sums an address, and keep them in memory.
                let mut stored = [Numbers([0; COLUMNS]); ROWS];
                for (stored, sums) in stored.iter_mut().zip(sums) {
                    put(stored, *sums);
                }
                count_clipped(columns, &stored[..N]);
            }
            let mut out = out.add(columns.ends.first).cast::<f64>();
            for row in (0..N).step_by(4) {
                let [first, second] = results::<O, N>(columns, sums, row);
                let next = |out: *mut f64| out.cast::<u8>().wrapping_add(filters).cast::<f64>();
                let (first, second) = (_mm_castsi128_pd(first), _mm_castsi128_pd(second));
                _mm_storel_pd(out, first);
                out = next(out);
                if row + 1 < N {
                    _mm_storeh_pd(out, first);
                    out = next(out);
                }
                if row + 2 < N {
                    _mm_storel_pd(out, second);
                    out = next(out);
                }
                if row + 3 < N {
                    _mm_storeh_pd(out, second);
                    out = next(out);
                }
            }
        }
    }

    fn close(&mut self, columns: &FinishedColumns) {
        columns.ends.close(self.extremes);
        self.extremes.clipped += columns.clipped;
    }
}

/// Counts the sums of a tile that the last step clips, those of columns that were seen before left out.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,popcnt")]
#[cold]
#[inline(never)]
fn count_clipped(columns: &mut FinishedColumns, sums: &[Numbers]) {
    for sums in sums {
        // SAFETY: this function is compiled for the instructions.
        let clips = unsafe {
            let sums = _mm256_add_epi32(vector(sums), vector(&columns.ends.bias));
            clips(columns, sums) >> columns.n_seen
        };
        columns.clipped += u64::from(clips.count_ones());
    }
}

/// Returns a bit for each of the eight sums, bias added, whose result the last step clips.
///
/// # Safety
///
/// The CPU has AVX2, and the caller is compiled for it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn clips(columns: &FinishedColumns, sums: __m256i) -> u32 {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let below = _mm256_cmpgt_epi32(vector(&columns.below), sums);
        let above = _mm256_cmpgt_epi32(sums, vector(&columns.above));
        _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_or_si256(below, above))).cast_unsigned()
    }
}

/// Returns the results of four rows from `row` on, two to a vector; behind the last row it repeats.
///
/// # Safety
///
/// As for [`clips`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn results<O: Byte, const N: usize>(
    columns: &FinishedColumns,
    sums: &[__m256i; N],
    row: usize,
) -> [__m128i; 2] {
    // SAFETY: the caller vouches for the instructions; sixteen bytes are a vector.
    unsafe {
        let mut quad = [sums[row]; 4];
        for (i, quad) in quad.iter_mut().enumerate() {
            let scaled = _mm256_mullo_epi32(sums[(row + i).min(N - 1)], vector(&columns.scale));
            let scaled = _mm256_add_epi32(scaled, vector(&columns.half));
            *quad = _mm256_srav_epi32(scaled, vector(&columns.right));
        }
        let [a, b, c, d] = quad;
        let (ab, cd) = (_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
        let bytes = if O::IS_SIGNED {
            _mm256_packs_epi16(ab, cd)
        } else {
            _mm256_packus_epi16(ab, cd)
        };
        // Packing works inside 128 bits: each half has four columns of all rows.
        let halves = (
            _mm256_castsi256_si128(bytes),
            _mm256_extracti128_si256::<1>(bytes),
        );
        [
            _mm_unpacklo_epi32(halves.0, halves.1),
            _mm_unpackhi_epi32(halves.0, halves.1),
        ]
        .map(|rows| between::<O>(columns, rows))
    }
}

/// Returns bytes between the ends of their results; unsigned ones have zero for their lower end.
///
/// # Safety
///
/// As for [`clips`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn between<O: Byte>(columns: &FinishedColumns, bytes: __m128i) -> __m128i {
    // SAFETY: the caller vouches for the instructions; sixteen bytes are a vector.
    unsafe {
        let high = columns.high.as_ptr().cast::<__m128i>().read_unaligned();
        if O::IS_SIGNED {
            let low = columns.low.as_ptr().cast::<__m128i>().read_unaligned();
            _mm_max_epi8(_mm_min_epi8(bytes, high), low)
        } else {
            _mm_min_epu8(bytes, high)
        }
    }
}
