//! Tiles of sums whose results stay in an `i32`.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_mask_storeu_epi32, _mm512_max_epi32, _mm512_min_epi32,
    _mm512_set1_epi32,
};

#[cfg(target_arch = "x86_64")]
use super::finished::{put, vector};
use super::sink::Sink;
#[cfg(target_arch = "x86_64")]
use super::tile::WIDTH;
use crate::finish::{Extremes, Finish};
use crate::packed::COLUMNS;

/// Results that are sums between two ends, `[pixels, filters]`; none of these steps is counted. NUMERICS.md E2.
pub(super) struct Bounded<'a> {
    pub(super) finish: &'a Finish,
    pub(super) out: &'a mut [i32],
    pub(super) extremes: &'a mut Extremes,
}

/// The numbers of a block of columns.
#[repr(C, align(64))]
pub(super) struct BoundedColumns {
    /// What the sums lack: bias, and what the offset of the activations adds.
    start: [i32; COLUMNS],
    /// Ends of the results.
    low: [i32; COLUMNS],
    high: [i32; COLUMNS],
    /// Ends of the sums so far.
    least: [i32; COLUMNS],
    most: [i32; COLUMNS],
    first: usize,
    n: usize,
}

impl Sink for Bounded<'_> {
    type Columns = BoundedColumns;

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
    ) -> BoundedColumns {
        let finish = self.finish;
        // The tables have whole blocks of channels.
        let of = |table: &[i32]| std::array::from_fn(|i| table[first + i]);
        let mut columns = BoundedColumns {
            start: of(&finish.bias),
            low: of(&finish.least),
            high: of(&finish.most),
            least: [i32::MAX; COLUMNS],
            most: [i32::MIN; COLUMNS],
            first,
            n,
        };
        if let Some(start) = start {
            for (own, start) in columns.start.iter_mut().zip(start) {
                *own = own.wrapping_add(*start);
            }
        }
        columns
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn take<const N: usize, const V: usize>(
        &mut self,
        columns: &mut BoundedColumns,
        pixel: usize,
        sums: &[[__m512i; V]; N],
    ) {
        let filters = self.finish.channels();
        let out = self.out[pixel * filters..][..N * filters].as_mut_ptr();
        // SAFETY: each of the rows has `n` columns from the first on, and no more are written. The caller vouches for
        // the instructions.
        unsafe {
            let mut ends = [[_mm512_set1_epi32(i32::MAX), _mm512_set1_epi32(i32::MIN)]; V];
            let mut out = out.add(columns.first);
            for sums in sums {
                for (part, (ends, sums)) in ends.iter_mut().zip(sums).enumerate() {
                    let from = part * WIDTH;
                    let lanes = u16::MAX >> WIDTH.saturating_sub(columns.n - from);
                    let sums = _mm512_add_epi32(*sums, vector(&columns.start, part));
                    ends[0] = _mm512_min_epi32(ends[0], sums);
                    ends[1] = _mm512_max_epi32(ends[1], sums);
                    let sums = _mm512_max_epi32(sums, vector(&columns.low, part));
                    let sums = _mm512_min_epi32(sums, vector(&columns.high, part));
                    _mm512_mask_storeu_epi32(out.add(from), lanes, sums);
                }
                out = out.wrapping_add(filters);
            }
            for (part, [lo, hi]) in ends.into_iter().enumerate() {
                let least = _mm512_min_epi32(vector(&columns.least, part), lo);
                let most = _mm512_max_epi32(vector(&columns.most, part), hi);
                put(&mut columns.least, part, least);
                put(&mut columns.most, part, most);
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn close(&mut self, columns: &BoundedColumns) {
        self.extremes
            .add(columns.first, &columns.least, &columns.most);
    }
}
