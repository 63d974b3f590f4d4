//! The ends of the sums of a block of columns.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_load_si256, _mm256_max_epi32, _mm256_min_epi32,
    _mm256_set1_epi32, _mm256_store_si256,
};

use super::packing::COLUMNS;
use crate::finish::{Extremes, Finish};

/// Eight numbers, at the address of a vector.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(super) struct Numbers(pub(super) [i32; COLUMNS]);

/// The least and the largest sum of each column so far, bias added.
pub(super) struct Ends {
    pub(super) first: usize,
    pub(super) bias: Numbers,
    least: Numbers,
    most: Numbers,
}

impl Ends {
    /// Returns those of the columns from `first` on, before any sum.
    pub(super) fn new(finish: &Finish, first: usize) -> Self {
        // The tables are longer than there are channels.
        assert!(first + COLUMNS <= finish.channels(), "columns of the layer");
        Self {
            first,
            bias: Numbers(eight(&finish.bias, first)),
            least: Numbers([i32::MAX; COLUMNS]),
            most: Numbers([i32::MIN; COLUMNS]),
        }
    }

    /// Adds the sums of a tile, and returns its ends, bias added.
    ///
    /// # Safety
    ///
    /// The CPU has AVX2, and the caller is compiled for it.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) unsafe fn add<const N: usize>(&mut self, sums: &[__m256i; N]) -> [__m256i; 2] {
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            let (mut lo, mut hi) = (_mm256_set1_epi32(i32::MAX), _mm256_set1_epi32(i32::MIN));
            for sums in sums {
                lo = _mm256_min_epi32(lo, *sums);
                hi = _mm256_max_epi32(hi, *sums);
            }
            let bias = vector(&self.bias);
            let (lo, hi) = (_mm256_add_epi32(lo, bias), _mm256_add_epi32(hi, bias));
            let least = _mm256_min_epi32(vector(&self.least), lo);
            let most = _mm256_max_epi32(vector(&self.most), hi);
            put(&mut self.least, least);
            put(&mut self.most, most);
            [lo, hi]
        }
    }

    /// Adds the ends to those of the layer.
    pub(super) fn close(&self, extremes: &mut Extremes) {
        extremes.add(self.first, &self.least.0, &self.most.0);
    }
}

/// Returns the numbers of the eight columns from `first` on.
pub(super) fn eight<T: Copy + Default>(table: &[T], first: usize) -> [T; COLUMNS] {
    let mut numbers = [T::default(); COLUMNS];
    numbers.copy_from_slice(&table[first..first + COLUMNS]);
    numbers
}

/// # Safety
///
/// The CPU has AVX2, and the caller is compiled for it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn vector(numbers: &Numbers) -> __m256i {
    // SAFETY: eight numbers are there, at the address of a vector; the caller vouches for the instruction.
    unsafe { _mm256_load_si256(numbers.0.as_ptr().cast()) }
}

/// # Safety
///
/// As for [`vector`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn put(numbers: &mut Numbers, values: __m256i) {
    // SAFETY: there is room for eight numbers, at the address of a vector; the caller vouches for the instruction.
    unsafe { _mm256_store_si256(numbers.0.as_mut_ptr().cast(), values) }
}
