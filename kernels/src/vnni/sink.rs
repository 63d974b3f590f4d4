//! Where tiles of sums go.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m512i, _mm512_add_epi32, _mm512_loadu_si512, _mm512_mask_storeu_epi32};

#[cfg(target_arch = "x86_64")]
use super::tile::WIDTH;
use crate::packed::COLUMNS;

/// Takes tiles of sums, a block of columns after the other.
pub(super) trait Sink {
    /// What it has for the columns of a block.
    type Columns;

    /// Returns the number of results.
    fn len(&self) -> usize;

    /// Returns what it has for the `n` columns from `first` on; `start` is what their sums lack, if
    /// they lack anything.
    ///
    /// # Safety
    ///
    /// The CPU has the instruction set of this module, and the caller is compiled for it.
    #[cfg(target_arch = "x86_64")]
    unsafe fn columns(
        &self,
        first: usize,
        n: usize,
        start: Option<&[i32; COLUMNS]>,
    ) -> Self::Columns;

    /// Takes the sums of the pixels from `pixel` on, `V` vectors of columns each.
    ///
    /// # Safety
    ///
    /// As for [`columns`](Self::columns).
    #[cfg(target_arch = "x86_64")]
    unsafe fn take<const N: usize, const V: usize>(
        &mut self,
        columns: &mut Self::Columns,
        pixel: usize,
        sums: &[[__m512i; V]; N],
    );

    /// Ends a block of columns.
    ///
    /// # Safety
    ///
    /// As for [`columns`](Self::columns).
    #[cfg(target_arch = "x86_64")]
    unsafe fn close(&mut self, columns: &Self::Columns);
}

/// Sums as they are, `[pixels, filters]`.
pub(super) struct Plain<'a> {
    pub(super) out: &'a mut [i32],
    pub(super) filters: usize,
}

/// What [`Plain`] has for a block of columns.
pub(super) struct PlainColumns {
    first: usize,
    n: usize,
    start: [i32; COLUMNS],
}

impl Sink for Plain<'_> {
    type Columns = PlainColumns;

    fn len(&self) -> usize {
        self.out.len()
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn columns(
        &self,
        first: usize,
        n: usize,
        start: Option<&[i32; COLUMNS]>,
    ) -> PlainColumns {
        PlainColumns {
            first,
            n,
            start: start.copied().unwrap_or([0; COLUMNS]),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn take<const N: usize, const V: usize>(
        &mut self,
        columns: &mut PlainColumns,
        pixel: usize,
        sums: &[[__m512i; V]; N],
    ) {
        let filters = self.filters;
        let out = self.out[pixel * filters..][..N * filters].as_mut_ptr();
        // SAFETY: each of the rows has `n` columns from the first on, and no more are written; `start` has 32 numbers.
        // The caller vouches for the instructions.
        unsafe {
            let mut out = out.add(columns.first);
            for sums in sums {
                for (part, sums) in sums.iter().enumerate() {
                    let from = part * WIDTH;
                    let lanes = u16::MAX >> WIDTH.saturating_sub(columns.n - from);
                    let start = _mm512_loadu_si512(columns.start[from..].as_ptr().cast());
                    let sums = _mm512_add_epi32(*sums, start);
                    _mm512_mask_storeu_epi32(out.add(from), lanes, sums);
                }
                out = out.wrapping_add(filters);
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn close(&mut self, _: &PlainColumns) {}
}
