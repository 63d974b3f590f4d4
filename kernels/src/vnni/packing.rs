//! Results that saturate as they are packed to bytes.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::{
    __m512i, _mm512_load_si512, _mm512_max_epi8, _mm512_min_epi8, _mm512_min_epu8,
    _mm512_packs_epi16, _mm512_packus_epi16,
};

use crate::finish::{Byte, Packing};

/// Returns the saturated bytes of two vectors of words.
///
/// # Safety
///
/// The CPU has AVX-512 BW, and the caller is compiled for it.
#[inline(always)]
pub(super) unsafe fn pack<O: Byte>(low: __m512i, high: __m512i) -> __m512i {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        if O::IS_SIGNED {
            _mm512_packs_epi16(low, high)
        } else {
            _mm512_packus_epi16(low, high)
        }
    }
}

/// Returns bytes between the ends of their results; unsigned ones have zero for their lower end
/// ([`Finish::packs_all`](crate::finish::Finish)).
///
/// # Safety
///
/// As for [`pack`].
#[inline(always)]
pub(super) unsafe fn between<O: Byte>(packing: &Packing, bytes: __m512i) -> __m512i {
    // SAFETY: the caller vouches for the instructions; 64 bytes are an aligned vector.
    unsafe {
        let high = _mm512_load_si512(packing.high.as_ptr().cast());
        if O::IS_SIGNED {
            let low = _mm512_load_si512(packing.low.as_ptr().cast());
            _mm512_max_epi8(_mm512_min_epi8(bytes, high), low)
        } else {
            _mm512_min_epu8(bytes, high)
        }
    }
}
