//! Where tiles of sums go.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256i, __m512i, _mm256_storeu_si256, _mm512_castsi512_si256, _mm512_cmplt_epi32_mask,
    _mm512_extracti64x4_epi64, _mm512_max_epi32, _mm512_min_epi32, _mm512_set1_epi32,
    _mm512_storeu_si512,
};

#[cfg(target_arch = "x86_64")]
use super::finish::{WIDTH, load, pack};
#[cfg(target_arch = "x86_64")]
use super::tile::{Place, Sums};
#[cfg(target_arch = "x86_64")]
use crate::finish::Tables;
use crate::finish::{Byte, Extremes, Finish};
use crate::packed::COLUMNS;

/// Takes tiles of sums, a block of columns after the other.
pub(super) trait Sink {
    /// Returns the number of results.
    fn len(&self) -> usize;

    /// Returns what is added to the sums of the columns from `first` on.
    fn bias(&self, first: usize) -> Option<&[i32]>;

    /// Returns the pairs of rows that [`take_pair`](Self::take_pair) can take.
    #[cfg(target_arch = "x86_64")]
    fn pairs(&mut self, place: Place, sums: &Sums) -> Pairs;

    /// Takes the next pair of rows; without a branch.
    ///
    /// # Safety
    ///
    /// A pair is left, and nobody used the sums or the sink since [`pairs`](Self::pairs). The CPU has the instruction set
    /// of this module, and the caller is compiled for it.
    #[cfg(target_arch = "x86_64")]
    unsafe fn take_pair(pairs: &mut Pairs);

    /// Takes the rows of a tile from number `row` on.
    ///
    /// # Safety
    ///
    /// The CPU has the instruction set of this module, and the caller is compiled for it.
    #[cfg(target_arch = "x86_64")]
    unsafe fn take(&mut self, place: Place, sums: &Sums, row: usize);

    /// Whether the sink wants to know what the sums of a tile were.
    const WATCHES: bool;

    /// Sees the sums of a tile and their ends.
    ///
    /// # Safety
    ///
    /// As for [`take`](Self::take).
    #[cfg(target_arch = "x86_64")]
    unsafe fn watch(&mut self, place: Place, sums: &Sums, ends: &Ends);
}

/// The least and the largest sums of the columns of a tile.
#[cfg(target_arch = "x86_64")]
pub(super) struct Ends {
    lo: [__m512i; 2],
    hi: [__m512i; 2],
}

#[cfg(target_arch = "x86_64")]
impl Ends {
    /// Returns the ends of no sums.
    ///
    /// # Safety
    ///
    /// The CPU has AVX-512 F, and the caller is compiled for it.
    #[inline(always)]
    pub(super) unsafe fn nothing() -> Self {
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            Self {
                lo: [_mm512_set1_epi32(i32::MAX); 2],
                hi: [_mm512_set1_epi32(i32::MIN); 2],
            }
        }
    }

    /// Adds the sums of a pixel.
    ///
    /// # Safety
    ///
    /// As for [`nothing`](Self::nothing).
    #[inline(always)]
    pub(super) unsafe fn add(&mut self, sums: [__m512i; 2]) {
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            self.lo[0] = _mm512_min_epi32(self.lo[0], sums[0]);
            self.lo[1] = _mm512_min_epi32(self.lo[1], sums[1]);
            self.hi[0] = _mm512_max_epi32(self.hi[0], sums[0]);
            self.hi[1] = _mm512_max_epi32(self.hi[1], sums[1]);
        }
    }

    /// Adds them to `extremes`; returns whether the last step clips one.
    ///
    /// # Safety
    ///
    /// As for [`nothing`](Self::nothing).
    #[inline(always)]
    unsafe fn merge(&self, finish: &Finish, extremes: &mut Extremes, first: usize) -> bool {
        let mut clips = 0;
        for (part, (lo, hi)) in self.lo.iter().zip(&self.hi).enumerate() {
            let from = first + part * WIDTH;
            let columns = from..from + WIDTH;
            let (least, most) = (
                &mut extremes.least[columns.clone()],
                &mut extremes.most[columns.clone()],
            );
            // SAFETY: the caller vouches for the instructions; a store of sixteen numbers has room for them.
            unsafe {
                clips |= _mm512_cmplt_epi32_mask(*lo, load(&finish.clips_below[columns.clone()]));
                clips |= _mm512_cmplt_epi32_mask(load(&finish.clips_above[columns]), *hi);
                let lo = _mm512_min_epi32(load(least), *lo);
                let hi = _mm512_max_epi32(load(most), *hi);
                _mm512_storeu_si512(least.as_mut_ptr().cast(), lo);
                _mm512_storeu_si512(most.as_mut_ptr().cast(), hi);
            }
        }
        clips != 0
    }
}

/// Pairs of rows that are taken while other sums are computed.
#[cfg(target_arch = "x86_64")]
pub(super) struct Pairs {
    left: usize,
    sums: *const [i32; COLUMNS],
    tables: *const Tables,
    out: *mut u8,
    filters: usize,
}

#[cfg(target_arch = "x86_64")]
impl Pairs {
    pub(super) const fn len(&self) -> usize {
        self.left
    }
}

/// Sums as they are, `[pixels, filters]`.
pub(super) struct Plain<'a> {
    pub(super) out: &'a mut [i32],
    pub(super) filters: usize,
}

impl Sink for Plain<'_> {
    const WATCHES: bool = false;

    fn len(&self) -> usize {
        self.out.len()
    }

    fn bias(&self, _first: usize) -> Option<&[i32]> {
        None
    }

    #[cfg(target_arch = "x86_64")]
    fn pairs(&mut self, _: Place, _: &Sums) -> Pairs {
        // Copies take no time that is worth it.
        Pairs {
            left: 0,
            sums: std::ptr::null(),
            tables: std::ptr::null(),
            out: std::ptr::null_mut(),
            filters: 0,
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn take_pair(_: &mut Pairs) {}

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn take(&mut self, place: Place, sums: &Sums, row: usize) {
        let n = COLUMNS.min(self.filters - place.first);
        let rows = self.out[(place.pixel + row) * self.filters..].chunks_mut(self.filters);
        for (out, sums) in rows.zip(&sums.0[row..place.n_rows]) {
            out[place.first..place.first + n].copy_from_slice(&sums[..n]);
        }
    }

    #[cfg(target_arch = "x86_64")]
    unsafe fn watch(&mut self, _: Place, _: &Sums, _: &Ends) {}
}

/// Results of the whole layer, `[pixels, filters]`.
pub(super) struct Finished<'a, O> {
    pub(super) finish: &'a Finish,
    pub(super) out: &'a mut [O],
    pub(super) extremes: &'a mut Extremes,
}

impl<O: Byte> Sink for Finished<'_, O> {
    const WATCHES: bool = true;

    fn len(&self) -> usize {
        self.out.len()
    }

    fn bias(&self, first: usize) -> Option<&[i32]> {
        Some(&self.finish.bias[first..first + COLUMNS])
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn pairs(&mut self, place: Place, sums: &Sums) -> Pairs {
        let filters = self.finish.channels();
        let n_rows = if filters - place.first >= COLUMNS {
            place.n_rows
        } else if filters < COLUMNS {
            // What a row writes behind its end is written again by the next row: there must be one.
            let last = self.out.len().saturating_sub(COLUMNS).div_euclid(filters);
            place.n_rows.min((last + 1).saturating_sub(place.pixel))
        } else {
            0
        };
        let out = &mut self.out[place.pixel * filters..][..place.n_rows * filters];
        Pairs {
            left: n_rows >> 1,
            sums: sums.0.as_ptr(),
            tables: &self.finish.tables[place.first.div_euclid(COLUMNS)],
            out: out.as_mut_ptr().wrapping_add(place.first).cast(),
            filters,
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn take_pair(pairs: &mut Pairs) {
        let mut offset = 0_usize;
        // SAFETY: the offset stays zero. The compiler does not know it, and leaves the tables in memory instead of in
        // registers, which the sums of the next tile need. A pair is left: its sums are there, and so are 32 bytes for
        // its results in each of two rows. The caller vouches for the instructions.
        unsafe {
            std::arch::asm!("/* {0} */", inout(reg) offset, options(nomem, nostack, preserves_flags));
            let tables = &*pairs.tables.byte_add(offset);
            let rows = [&*pairs.sums, &*pairs.sums.add(1)];
            let [row, next] = results::<O>(tables, rows);
            _mm256_storeu_si256(pairs.out.cast(), row);
            _mm256_storeu_si256(pairs.out.add(pairs.filters).cast(), next);
            pairs.out = pairs.out.wrapping_add(2 * pairs.filters);
            pairs.sums = pairs.sums.add(2);
        }
        pairs.left -= 1;
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn take(&mut self, place: Place, sums: &Sums, row: usize) {
        // SAFETY: the caller vouches for the instructions.
        unsafe { take_rows(self, place, sums, row) };
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn watch(&mut self, place: Place, sums: &Sums, ends: &Ends) {
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            if ends.merge(self.finish, self.extremes, place.first) {
                count_clipped(self.finish, self.extremes, place, sums);
            }
        }
    }
}

/// Takes the rows of a tile from number `row` on.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
#[inline(never)]
fn take_rows<O: Byte>(sink: &mut Finished<'_, O>, place: Place, sums: &Sums, row: usize) {
    let filters = sink.finish.channels();
    let n = COLUMNS.min(filters - place.first);
    let tables = &sink.finish.tables[place.first.div_euclid(COLUMNS)];
    let rows = sink.out[(place.pixel + row) * filters..].chunks_mut(filters);
    for (out, sums) in rows.zip(&sums.0[row..place.n_rows]) {
        // SAFETY: this function is compiled for the instructions; a store of 32 bytes has room for them.
        unsafe {
            let [bytes, _] = results::<O>(tables, [sums, sums]);
            let out = &mut out[place.first..place.first + n];
            if n == COLUMNS {
                _mm256_storeu_si256(out.as_mut_ptr().cast(), bytes);
            } else {
                let mut all = [O::low_byte(0); COLUMNS];
                _mm256_storeu_si256(all.as_mut_ptr().cast(), bytes);
                out.copy_from_slice(&all[..n]);
            }
        }
    }
}

/// Counts the sums of a tile that the last step clips.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
#[inline(never)]
fn count_clipped(finish: &Finish, extremes: &mut Extremes, place: Place, sums: &Sums) {
    let mut clipped = 0;
    for from in [0, WIDTH] {
        let columns = place.first + from..place.first + from + WIDTH;
        // SAFETY: this function is compiled for the instructions.
        unsafe {
            let below = load(&finish.clips_below[columns.clone()]);
            let above = load(&finish.clips_above[columns]);
            for sums in &sums.0[..place.n_rows] {
                let sums = load(&sums[from..]);
                let clips =
                    _mm512_cmplt_epi32_mask(sums, below) | _mm512_cmplt_epi32_mask(above, sums);
                clipped += clips.count_ones();
            }
        }
    }
    extremes.clipped += u64::from(clipped);
}

/// Returns the results of the sums of two rows.
///
/// A function, as closures are not compiled for the instructions.
///
/// # Safety
///
/// The CPU has the instruction set of this module, and the caller is compiled for it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn results<O: Byte>(tables: &Tables, rows: [&[i32; COLUMNS]; 2]) -> [__m256i; 2] {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let low = half(tables, rows, 0);
        let high = half(tables, rows, WIDTH);
        let bytes = pack::<O>([[low[0], high[0]], [low[1], high[1]]]);
        [
            _mm512_castsi512_si256(bytes),
            _mm512_extracti64x4_epi64::<1>(bytes),
        ]
    }
}
/// Returns the results of sixteen columns of two rows.
///
/// A function, as closures are not compiled for the instructions.
///
/// # Safety
///
/// The CPU has the instruction set of this module, and the caller is compiled for it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn half(tables: &Tables, rows: [&[i32; COLUMNS]; 2], from: usize) -> [__m512i; 2] {
    use std::arch::x86_64::{_mm512_add_epi32, _mm512_mullo_epi32, _mm512_srav_epi32};
    let columns = from..from + WIDTH;
    // SAFETY: the caller vouches for the instructions; a store of sixteen numbers has room for them.
    unsafe {
        let [a, b] = [
            load(&rows[0][columns.clone()]),
            load(&rows[1][columns.clone()]),
        ];
        let (least, most) = (
            load(&tables.least[columns.clone()]),
            load(&tables.most[columns.clone()]),
        );
        let (a, b) = (_mm512_max_epi32(a, least), _mm512_max_epi32(b, least));
        let (a, b) = (_mm512_min_epi32(a, most), _mm512_min_epi32(b, most));
        let scale = load(&tables.scale[columns.clone()]);
        let (a, b) = (_mm512_mullo_epi32(a, scale), _mm512_mullo_epi32(b, scale));
        let half = load(&tables.half[columns.clone()]);
        let (a, b) = (_mm512_add_epi32(a, half), _mm512_add_epi32(b, half));
        let right = load(&tables.right[columns]);
        [_mm512_srav_epi32(a, right), _mm512_srav_epi32(b, right)]
    }
}
