//! Where tiles of sums go.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_max_epi32, _mm256_min_epi32, _mm256_storeu_si256,
};

#[cfg(target_arch = "x86_64")]
use super::ends::vector;
use super::ends::{Ends, Numbers, eight};
use super::packing::COLUMNS;
use crate::finish::{Extremes, Finish};

/// Takes tiles of sums, a block of eight columns after the other.
pub(super) trait Sink {
    /// What it has for the columns of a block.
    type Columns;

    /// Returns what it has for the eight columns from `first` on, of which others had `n_seen` already.
    fn columns(&self, first: usize, n_seen: usize) -> Self::Columns;

    /// Takes the sums of the pixels from `pixel` on.
    ///
    /// # Safety
    ///
    /// The CPU has AVX2, and the caller is compiled for it.
    #[cfg(target_arch = "x86_64")]
    unsafe fn take<const N: usize>(
        &mut self,
        columns: &mut Self::Columns,
        pixel: usize,
        sums: &[__m256i; N],
    );

    /// Ends a block of columns.
    fn close(&mut self, columns: &Self::Columns);
}

/// Sums as they are, `[pixels, filters]`.
pub(super) struct Plain<'a> {
    pub(super) out: &'a mut [i32],
    pub(super) filters: usize,
}

impl Sink for Plain<'_> {
    /// The first column.
    type Columns = usize;

    fn columns(&self, first: usize, _: usize) -> usize {
        assert!(first + COLUMNS <= self.filters, "columns of the layer");
        first
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn take<const N: usize>(
        &mut self,
        first: &mut usize,
        pixel: usize,
        sums: &[__m256i; N],
    ) {
        let filters = self.filters;
        let out = self.out[pixel * filters..][..N * filters].as_mut_ptr();
        // SAFETY: each of the rows has eight columns from the first on. The caller vouches for the instruction.
        unsafe {
            let mut out = out.add(*first);
            for sums in sums {
                _mm256_storeu_si256(out.cast(), *sums);
                out = out.wrapping_add(filters);
            }
        }
    }

    fn close(&mut self, _: &usize) {}
}

/// Results that are sums between two ends, `[pixels, filters]`; none of these steps is counted. NUMERICS.md E2.
pub(super) struct Bounded<'a> {
    pub(super) finish: &'a Finish,
    pub(super) out: &'a mut [i32],
    pub(super) extremes: &'a mut Extremes,
}

/// What [`Bounded`] has for a block of columns.
pub(super) struct BoundedColumns {
    ends: Ends,
    /// Ends of the results.
    low: Numbers,
    high: Numbers,
}

impl Sink for Bounded<'_> {
    type Columns = BoundedColumns;

    fn columns(&self, first: usize, _: usize) -> BoundedColumns {
        BoundedColumns {
            ends: Ends::new(self.finish, first),
            low: Numbers(eight(&self.finish.least, first)),
            high: Numbers(eight(&self.finish.most, first)),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn take<const N: usize>(
        &mut self,
        columns: &mut BoundedColumns,
        pixel: usize,
        sums: &[__m256i; N],
    ) {
        let filters = self.finish.channels();
        let out = self.out[pixel * filters..][..N * filters].as_mut_ptr();
        // SAFETY: each of the rows has the columns of the block. The caller vouches for the instructions.
        unsafe {
            columns.ends.add(sums);
            let mut out = out.add(columns.ends.first);
            for sums in sums {
                let sums = _mm256_add_epi32(*sums, vector(&columns.ends.bias));
                let sums = _mm256_max_epi32(sums, vector(&columns.low));
                let sums = _mm256_min_epi32(sums, vector(&columns.high));
                _mm256_storeu_si256(out.cast(), sums);
                out = out.wrapping_add(filters);
            }
        }
    }

    fn close(&mut self, columns: &BoundedColumns) {
        columns.ends.close(self.extremes);
    }
}
