//! [`Finish`] on vectors of sixteen sums.
#![cfg(target_arch = "x86_64")]
#![expect(
    unsafe_code,
    reason = "vector instructions may run only on a CPU that has them"
)]

use std::arch::x86_64::{
    __m512i, _mm512_loadu_si512, _mm512_packs_epi16, _mm512_packs_epi32, _mm512_packus_epi16,
    _mm512_permutexvar_epi32, _mm512_set_epi32,
};

use crate::finish::Byte;

/// Channels of a vector.
pub(super) const WIDTH: usize = 16;

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
