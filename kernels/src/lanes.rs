//! The types that instructions multiply several of at once: what weights and activations of a lane are.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "vector instructions may run only on a CPU that has them"
    )
)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m512i, _mm512_dpbusd_epi32, _mm512_dpwssd_epi32};

use crate::isa::Isa;

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
