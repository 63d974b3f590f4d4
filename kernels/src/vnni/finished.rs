//! Tiles of sums that become the results of their layer while they are in registers.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m512i, _mm_mask_storeu_epi8, _mm256_mask_storeu_epi8, _mm512_add_epi32,
    _mm512_castsi512_si128, _mm512_castsi512_si256, _mm512_cmpgt_epu8_mask,
    _mm512_cmplt_epi32_mask, _mm512_extracti32x4_epi32, _mm512_extracti64x4_epi64,
    _mm512_load_si512, _mm512_loadu_si512, _mm512_max_epi32, _mm512_min_epi32, _mm512_mullo_epi32,
    _mm512_packs_epi32, _mm512_permutexvar_epi32, _mm512_set_epi32, _mm512_set1_epi32,
    _mm512_srav_epi32, _mm512_store_si512,
};

#[cfg(target_arch = "x86_64")]
use super::packing::{between, pack};
use super::sink::Sink;
#[cfg(target_arch = "x86_64")]
use super::tile::{ROWS, WIDTH};
use crate::finish::{Byte, Extremes, Finish, Tables};
use crate::packed::COLUMNS;
use crate::quads::BYTES;

/// Results of the whole layer, `[pixels, filters]`.
///
/// Sums are scaled as they are and saturate as they are packed, which is exact where no product leaves an `i32`
/// ([`Finish::packs_all`]); what the sums lack is scaled with the half that rounds. NUMERICS.md E2.
pub(super) struct Finished<'a, O> {
    pub(super) finish: &'a Finish,
    pub(super) out: &'a mut [O],
    pub(super) extremes: &'a mut Extremes,
}

/// Sums of a tile, at the address of a vector.
#[cfg(target_arch = "x86_64")]
#[repr(align(64))]
struct Sums([[i32; COLUMNS]; ROWS]);

/// The numbers of a block of columns; those that do not exist clip nothing.
#[repr(C, align(64))]
pub(super) struct FinishedColumns<'a> {
    /// What the sums lack: bias, and what the offset of the activations adds.
    start: [i32; COLUMNS],
    /// The half that rounds, and what the sums lack, scaled.
    half: [i32; COLUMNS],
    /// Ends of the sums so far.
    least: [i32; COLUMNS],
    most: [i32; COLUMNS],
    /// Whether bytes show which results are clipped.
    shows_clips: bool,
    tables: &'a Tables,
    first: usize,
    /// A bit for each column.
    lanes: u32,
    clipped: u64,
}

impl<'a, O: Byte> Sink for Finished<'a, O> {
    type Columns = FinishedColumns<'a>;

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
    ) -> FinishedColumns<'a> {
        let tables = &self.finish.tables[first.div_euclid(COLUMNS)];
        let mut columns = FinishedColumns {
            start: tables.bias,
            half: tables.half,
            least: [i32::MAX; COLUMNS],
            most: [i32::MIN; COLUMNS],
            shows_clips: self.finish.shows_clips::<O>(),
            tables,
            first,
            lanes: u32::MAX >> (COLUMNS - n),
            clipped: 0,
        };
        let Some(start) = start else {
            return columns;
        };
        for part in 0..COLUMNS.div_euclid(WIDTH) {
            // SAFETY: the caller vouches for the instructions; `start` has 32 numbers.
            unsafe {
                let start = _mm512_loadu_si512(start[part * WIDTH..].as_ptr().cast());
                let scaled = _mm512_mullo_epi32(start, vector(&tables.scale, part));
                let start = _mm512_add_epi32(vector(&columns.start, part), start);
                let half = _mm512_add_epi32(vector(&columns.half, part), scaled);
                put(&mut columns.start, part, start);
                put(&mut columns.half, part, half);
            }
        }
        columns
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn take<const N: usize, const V: usize>(
        &mut self,
        columns: &mut FinishedColumns<'_>,
        pixel: usize,
        sums: &[[__m512i; V]; N],
    ) {
        let filters = self.finish.channels();
        let out = self.out[pixel * filters..][..N * filters].as_mut_ptr();
        // SAFETY: each of the rows has the columns of the block, and no others are written; an `O` is a byte. The
        // caller vouches for the instructions.
        unsafe {
            let ends = add_ends(columns, sums);
            let clips = clips(columns, &ends);
            let counts_bytes = clips && columns.shows_clips;
            if clips && !counts_bytes {
                // Stored one by one: a copy of the array would give the sums an address, and keep them in memory.
                let mut stored = Sums([[0; COLUMNS]; ROWS]);
                for (stored, sums) in stored.0.iter_mut().zip(sums) {
                    for (part, sums) in sums.iter().enumerate() {
                        put(stored, part, *sums);
                    }
                }
                count_clipped::<V>(columns, &stored.0[..N]);
            }
            let out = out.add(columns.first).cast::<i8>();
            let mut n_shown = 0;
            // No loop: if the compiler did not flatten it, it would keep the sums in memory, those of the products, too.
            macro_rules! vectors {
                ($($number:literal)*) => {
                    $(if $number * per_vector(V) < N {
                        let row = $number * per_vector(V);
                        let n_rows = per_vector(V).min(N - row);
                        let bytes = results::<O, N, V>(columns, sums, row);
                        if counts_bytes {
                            let own = u64::MAX >> (BYTES - n_rows * V * WIDTH);
                            let shown = _mm512_load_si512(columns.tables.packing.shown.as_ptr().cast());
                            n_shown += (own & _mm512_cmpgt_epu8_mask(bytes, shown)).count_ones();
                        }
                        let bytes = between::<O>(&columns.tables.packing, bytes);
                        let out = out.wrapping_add(row * filters);
                        store::<V>(bytes, (out, filters), (n_rows, columns.lanes));
                    })*
                };
            }
            const { assert!(ROWS <= 12, "all rows of a tile") };
            vectors!(0 1 2 3 4 5);
            columns.clipped += u64::from(n_shown);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn close(&mut self, columns: &FinishedColumns<'_>) {
        self.extremes
            .add(columns.first, &columns.least, &columns.most);
        self.extremes.clipped += columns.clipped;
    }
}

/// Returns the pixels of a vector of bytes, of `n_vectors` vectors of sums each.
const fn per_vector(n_vectors: usize) -> usize {
    4_usize.div_euclid(n_vectors)
}

/// Adds the ends of the sums of a tile, and returns them for each vector.
///
/// # Safety
///
/// The CPU has the instruction set of this module, and the caller is compiled for it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn add_ends<const N: usize, const V: usize>(
    columns: &mut FinishedColumns<'_>,
    sums: &[[__m512i; V]; N],
) -> [[__m512i; 2]; V] {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let mut ends = [[_mm512_set1_epi32(i32::MAX), _mm512_set1_epi32(i32::MIN)]; V];
        for sums in sums {
            for (ends, sums) in ends.iter_mut().zip(sums) {
                ends[0] = _mm512_min_epi32(ends[0], *sums);
                ends[1] = _mm512_max_epi32(ends[1], *sums);
            }
        }
        for (part, ends) in ends.iter_mut().enumerate() {
            let start = vector(&columns.start, part);
            ends[0] = _mm512_add_epi32(ends[0], start);
            ends[1] = _mm512_add_epi32(ends[1], start);
            let least = _mm512_min_epi32(vector(&columns.least, part), ends[0]);
            let most = _mm512_max_epi32(vector(&columns.most, part), ends[1]);
            put(&mut columns.least, part, least);
            put(&mut columns.most, part, most);
        }
        ends
    }
}

/// Returns whether the last step clips a sum of a tile with these ends.
///
/// # Safety
///
/// As for [`add_ends`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn clips<const V: usize>(columns: &FinishedColumns<'_>, ends: &[[__m512i; 2]; V]) -> bool {
    let mut clips = 0;
    for (part, [lo, hi]) in ends.iter().enumerate() {
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            clips |= _mm512_cmplt_epi32_mask(*lo, vector(&columns.tables.below, part));
            clips |= _mm512_cmplt_epi32_mask(vector(&columns.tables.above, part), *hi);
        }
    }
    clips != 0
}

/// Counts the sums of a tile that the last step clips.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,popcnt")]
#[cold]
#[inline(never)]
fn count_clipped<const V: usize>(columns: &mut FinishedColumns<'_>, sums: &[[i32; COLUMNS]]) {
    let tables = columns.tables;
    let mut clipped = 0;
    for part in 0..V {
        // SAFETY: this function is compiled for the instructions.
        unsafe {
            let start = vector(&columns.start, part);
            let (below, above) = (vector(&tables.below, part), vector(&tables.above, part));
            for sums in sums {
                let sums = _mm512_add_epi32(vector(sums, part), start);
                let clips =
                    _mm512_cmplt_epi32_mask(sums, below) | _mm512_cmplt_epi32_mask(above, sums);
                clipped += clips.count_ones();
            }
        }
    }
    columns.clipped += u64::from(clipped);
}

/// Returns the results of the pixels of a vector from `row` on, as they saturate; behind the last row it repeats.
///
/// # Safety
///
/// The CPU has the instruction set of this module, and the caller is compiled for it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn results<O: Byte, const N: usize, const V: usize>(
    columns: &FinishedColumns<'_>,
    sums: &[[__m512i; V]; N],
    row: usize,
) -> __m512i {
    // SAFETY: the caller vouches for the instructions; 64 bytes are an aligned vector.
    unsafe {
        let mut quad = [sums[row][0]; 4];
        for (i, quad) in quad.iter_mut().enumerate() {
            let (row, part) = ((row + i.div_euclid(V)).min(N - 1), i.rem_euclid(V));
            let scaled = _mm512_mullo_epi32(sums[row][part], vector(&columns.tables.scale, part));
            let scaled = _mm512_add_epi32(scaled, vector(&columns.half, part));
            *quad = _mm512_srav_epi32(scaled, vector(&columns.tables.right, part));
        }
        let [a, b, c, d] = quad;
        let bytes = pack::<O>(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
        // Packing works inside 128 bits: four bytes of each vector stand side by side.
        let order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
        _mm512_permutexvar_epi32(order, bytes)
    }
}

/// Writes the bytes `lanes` of each of the pixels of a vector.
///
/// # Safety
///
/// As for [`results`]; there is room for these bytes in each of the rows, which are `filters` apart.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "there are no more lanes than columns"
)]
unsafe fn store<const V: usize>(
    bytes: __m512i,
    (out, filters): (*mut i8, usize),
    (n_rows, lanes): (usize, u32),
) {
    // SAFETY: the caller vouches for the instructions and the room.
    unsafe {
        if V == 2 {
            _mm256_mask_storeu_epi8(out, lanes, _mm512_castsi512_si256(bytes));
            if n_rows > 1 {
                let row = _mm512_extracti64x4_epi64::<1>(bytes);
                _mm256_mask_storeu_epi8(out.wrapping_add(filters), lanes, row);
            }
            return;
        }
        let lanes = lanes as u16;
        _mm_mask_storeu_epi8(out, lanes, _mm512_castsi512_si128(bytes));
        if n_rows > 1 {
            let row = _mm512_extracti32x4_epi32::<1>(bytes);
            _mm_mask_storeu_epi8(out.wrapping_add(filters), lanes, row);
        }
        if n_rows > 2 {
            let row = _mm512_extracti32x4_epi32::<2>(bytes);
            _mm_mask_storeu_epi8(out.wrapping_add(2 * filters), lanes, row);
        }
        if n_rows > 3 {
            let row = _mm512_extracti32x4_epi32::<3>(bytes);
            _mm_mask_storeu_epi8(out.wrapping_add(3 * filters), lanes, row);
        }
    }
}

/// Returns vector `part` of the numbers of a block, whose address is that of a vector.
///
/// # Safety
///
/// The CPU has AVX-512 F, and the caller is compiled for it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn vector(numbers: &[i32; COLUMNS], part: usize) -> __m512i {
    // SAFETY: sixteen numbers are there, aligned as the block is; the caller vouches for the instruction.
    unsafe { _mm512_load_si512(numbers[part * WIDTH..][..WIDTH].as_ptr().cast()) }
}

/// # Safety
///
/// As for [`vector`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn put(numbers: &mut [i32; COLUMNS], part: usize, values: __m512i) {
    // SAFETY: there is room for sixteen numbers, aligned as the block is; the caller vouches for the instruction.
    unsafe { _mm512_store_si512(numbers[part * WIDTH..][..WIDTH].as_mut_ptr().cast(), values) }
}
