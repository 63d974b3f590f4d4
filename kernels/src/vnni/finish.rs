//! [`Finish`] on vectors of sixteen sums.
#![cfg(target_arch = "x86_64")]
#![expect(
    unsafe_code,
    reason = "vector instructions may run only on a CPU that has them"
)]

use std::arch::x86_64::{
    __m512i, _mm_storeu_si128, _mm512_add_epi32, _mm512_cmplt_epi32_mask, _mm512_cvtepi32_epi8,
    _mm512_loadu_si512, _mm512_max_epi32, _mm512_min_epi32, _mm512_mullo_epi32, _mm512_packs_epi16,
    _mm512_packs_epi32, _mm512_packus_epi16, _mm512_permutexvar_epi32, _mm512_set_epi32,
    _mm512_set1_epi32, _mm512_srav_epi32, _mm512_storeu_si512,
};

use crate::finish::{Byte, Extremes, Finish};

/// Channels of a vector.
pub(super) const WIDTH: usize = 16;

/// The tables of sixteen channels, and what their sums were so far.
#[derive(Clone, Copy)]
pub(super) struct FinishLanes {
    least: __m512i,
    most: __m512i,
    scale: __m512i,
    half: __m512i,
    right: __m512i,
    below: __m512i,
    above: __m512i,
    seen: Seen,
    clipped: u64,
    may_clip: bool,
}

/// The least and the largest sums of sixteen channels.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    lo: __m512i,
    hi: __m512i,
}

/// Returns the first sixteen numbers.
///
/// # Safety
///
/// The CPU has AVX-512 F, and the caller is compiled for it.
#[inline(always)]
pub(super) unsafe fn load(values: &[i32]) -> __m512i {
    assert!(values.len() >= WIDTH, "sixteen numbers");
    // SAFETY: sixteen numbers are there; the caller vouches for the instruction.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

impl Seen {
    /// Returns the extremes of no sums.
    ///
    /// # Safety
    ///
    /// The CPU has AVX-512 F, and the caller is compiled for it.
    #[inline(always)]
    pub(super) unsafe fn nothing() -> Self {
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            Self {
                lo: _mm512_set1_epi32(i32::MAX),
                hi: _mm512_set1_epi32(i32::MIN),
            }
        }
    }
}

impl FinishLanes {
    /// Returns the tables of the channels from `first` on.
    ///
    /// # Safety
    ///
    /// The CPU has AVX-512 F, and the caller is compiled for it.
    #[inline(always)]
    pub(super) unsafe fn new(finish: &Finish, extremes: &Extremes, first: usize) -> Self {
        let right = &finish.right[first..first + WIDTH];
        // SAFETY: sixteen numbers are there; the caller vouches for the instructions.
        unsafe {
            Self {
                least: load(&finish.least[first..]),
                most: load(&finish.most[first..]),
                scale: load(&finish.scale[first..]),
                half: load(&finish.half[first..]),
                right: _mm512_loadu_si512(right.as_ptr().cast()),
                below: load(&finish.clips_below[first..]),
                above: load(&finish.clips_above[first..]),
                seen: Seen {
                    lo: load(&extremes.least[first..]),
                    hi: load(&extremes.most[first..]),
                },
                clipped: 0,
                may_clip: finish.may_clip,
            }
        }
    }

    /// Returns the results of sums, bias added, as `i32`, and adds the sums to `seen`.
    ///
    /// # Safety
    ///
    /// The CPU has AVX-512 F, and the caller is compiled for it.
    #[inline(always)]
    pub(super) unsafe fn results(&self, sums: __m512i, seen: &mut Seen) -> __m512i {
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            seen.lo = _mm512_min_epi32(seen.lo, sums);
            seen.hi = _mm512_max_epi32(seen.hi, sums);
            let v = _mm512_min_epi32(_mm512_max_epi32(sums, self.least), self.most);
            let scaled = _mm512_add_epi32(_mm512_mullo_epi32(v, self.scale), self.half);
            _mm512_srav_epi32(scaled, self.right)
        }
    }

    /// Adds what the sums of a few pixels were; they are looked at again only if one of them clipped.
    ///
    /// # Safety
    ///
    /// The CPU has AVX-512 F, and the caller is compiled for it.
    #[inline(always)]
    pub(super) unsafe fn add<'a>(&mut self, seen: &Seen, sums: impl Iterator<Item = &'a [i32]>) {
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            self.seen.lo = _mm512_min_epi32(self.seen.lo, seen.lo);
            self.seen.hi = _mm512_max_epi32(self.seen.hi, seen.hi);
            if self.may_clip && self.clips(seen.lo) | self.clips(seen.hi) != 0 {
                // No closure: it would not be compiled for the instructions.
                for sums in sums {
                    self.clipped += u64::from(self.clips(load(sums)).count_ones());
                }
            }
        }
    }

    /// Returns the channels whose results the last step clips.
    ///
    /// # Safety
    ///
    /// The CPU has AVX-512 F, and the caller is compiled for it.
    #[inline(always)]
    unsafe fn clips(&self, sums: __m512i) -> u16 {
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            _mm512_cmplt_epi32_mask(self.above, sums) | _mm512_cmplt_epi32_mask(sums, self.below)
        }
    }

    /// Writes what the sums were to `extremes`.
    ///
    /// # Safety
    ///
    /// The CPU has AVX-512 F, and the caller is compiled for it.
    #[inline(always)]
    pub(super) unsafe fn count(&self, extremes: &mut Extremes, first: usize) {
        let least = &mut extremes.least[first..first + WIDTH];
        let most = &mut extremes.most[first..first + WIDTH];
        extremes.clipped += self.clipped;
        // SAFETY: sixteen numbers have room; the caller vouches for the instructions.
        unsafe {
            _mm512_storeu_si512(least.as_mut_ptr().cast(), self.seen.lo);
            _mm512_storeu_si512(most.as_mut_ptr().cast(), self.seen.hi);
        }
    }
}

/// Writes the bytes of sixteen results that fit into `out`: at most sixteen.
///
/// # Safety
///
/// The CPU has AVX-512 F, and the caller is compiled for it.
#[inline(always)]
pub(super) unsafe fn store<O: Byte>(results: __m512i, out: &mut [O]) {
    // SAFETY: the caller vouches for the instructions; a store of sixteen bytes has sixteen bytes of room.
    unsafe {
        let bytes = _mm512_cvtepi32_epi8(results);
        if out.len() >= WIDTH {
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
        } else {
            let mut all = [O::low_byte(0); WIDTH];
            _mm_storeu_si128(all.as_mut_ptr().cast(), bytes);
            let n = out.len();
            out.copy_from_slice(&all[..n]);
        }
    }
}

/// Returns the bytes of two rows of 32 results that fit, the first row in the low half.
///
/// # Safety
///
/// The CPU has AVX-512 BW, and the caller is compiled for it.
#[inline(always)]
pub(super) unsafe fn pack<O: Byte>([row, next]: [[__m512i; 2]; 2]) -> __m512i {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let row = _mm512_packs_epi32(row[0], row[1]);
        let next = _mm512_packs_epi32(next[0], next[1]);
        let bytes = if O::IS_SIGNED {
            _mm512_packs_epi16(row, next)
        } else {
            _mm512_packus_epi16(row, next)
        };
        // Packing works inside 128 bits: four bytes of each vector stand side by side.
        let order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
        _mm512_permutexvar_epi32(order, bytes)
    }
}
