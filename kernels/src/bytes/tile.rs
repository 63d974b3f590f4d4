//! Tiles of sums of eight columns.

/// Pixels of the largest tile: their sums, the weights of a line, ones and two products fill the registers.
pub(super) const ROWS: usize = 10;

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::rows;

#[cfg(target_arch = "x86_64")]
mod avx2 {
    #![expect(
        unsafe_code,
        reason = "vector instructions may run only on a CPU that has them"
    )]

    use std::arch::x86_64::{
        __m256i, _mm_cvtsi32_si128, _mm256_add_epi16, _mm256_add_epi32, _mm256_load_si256,
        _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi16, _mm256_set1_epi32,
        _mm256_setzero_si256, _mm256_sll_epi32, _mm256_storeu_si256,
    };

    use super::super::packing::{Block, COLUMNS, GROUP};
    use super::ROWS;

    /// Writes the sums of patches of `stride` bytes into `sums`, `[patches, 8]`.
    #[target_feature(enable = "avx2,fma")]
    pub(in super::super) fn rows(block: &Block, patches: &[u8], stride: usize, sums: &mut [i32]) {
        let n_pixels = sums.len().div_euclid(COLUMNS);
        let n_tiles = n_pixels.div_ceil(ROWS);
        let mut from = 0;
        // Heights of tiles differ by one at most.
        for number in 1..=n_tiles {
            let to = (number * n_pixels).div_euclid(n_tiles);
            let patches = &patches[from * stride..to * stride];
            let sums = &mut sums[from * COLUMNS..to * COLUMNS];
            match to - from {
                1 => tile::<1>(block, patches, stride, sums),
                2 => tile::<2>(block, patches, stride, sums),
                3 => tile::<3>(block, patches, stride, sums),
                4 => tile::<4>(block, patches, stride, sums),
                5 => tile::<5>(block, patches, stride, sums),
                6 => tile::<6>(block, patches, stride, sums),
                7 => tile::<7>(block, patches, stride, sums),
                8 => tile::<8>(block, patches, stride, sums),
                9 => tile::<9>(block, patches, stride, sums),
                _ => tile::<ROWS>(block, patches, stride, sums),
            }
            from = to;
        }
    }

    /// Writes the sums of `N` patches.
    // Never inlined: among other code the compiler does not keep all sums in registers.
    #[target_feature(enable = "avx2,fma")]
    #[inline(never)]
    fn tile<const N: usize>(block: &Block, patches: &[u8], stride: usize, sums: &mut [i32]) {
        assert!(
            patches.len() == N * stride && sums.len() == N * COLUMNS,
            "sums of whole patches"
        );
        assert!(block.patch_len == stride, "patches of the kernel");
        let ones = _mm256_set1_epi16(1);
        let mut acc = [_mm256_setzero_si256(); N];
        let mut lines = block.weights.iter().zip(&block.starts);
        for part in &block.parts {
            for (line, [first, second]) in lines.by_ref().take(part.n_pairs) {
                // SAFETY: a line has two vectors, at a multiple of their size. The groups of a line are among those of a
                // patch, which is the invariant of the block, and there are `N` patches, `stride` apart.
                unsafe {
                    let w = line.0.as_ptr().cast::<__m256i>();
                    let (w0, w1) = (_mm256_load_si256(w), _mm256_load_si256(w.add(1)));
                    let mut x = patches.as_ptr().wrapping_add(*first as usize);
                    let next = (*second as usize).wrapping_sub(*first as usize);
                    for acc in &mut acc {
                        let a = _mm256_maddubs_epi16(group(x), w0);
                        let b = _mm256_maddubs_epi16(group(x.wrapping_add(next)), w1);
                        let both = _mm256_madd_epi16(_mm256_add_epi16(a, b), ones);
                        *acc = _mm256_add_epi32(*acc, both);
                        x = x.wrapping_add(stride);
                    }
                }
            }
            for (line, starts) in lines.by_ref().take(part.n_alone) {
                let halves = line.0.as_chunks::<{ GROUP * COLUMNS }>().0;
                for (half, start) in halves.iter().zip(starts) {
                    // SAFETY: as above.
                    unsafe {
                        let w = _mm256_load_si256(half.as_ptr().cast());
                        let mut x = patches.as_ptr().wrapping_add(*start as usize);
                        for acc in &mut acc {
                            let a = _mm256_maddubs_epi16(group(x), w);
                            *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(a, ones));
                            x = x.wrapping_add(stride);
                        }
                    }
                }
            }
            if part.shift > 0 {
                let shift = _mm_cvtsi32_si128(part.shift.cast_signed());
                for acc in &mut acc {
                    *acc = _mm256_sll_epi32(*acc, shift);
                }
            }
        }
        for (acc, sums) in acc.iter().zip(sums.as_chunks_mut::<COLUMNS>().0) {
            // SAFETY: there is room for eight sums; the store is unaligned.
            unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), *acc) };
        }
    }

    /// Returns the four activations at `x` for each column.
    ///
    /// # Safety
    ///
    /// They are there; the CPU has AVX2, and the caller is compiled for it.
    #[inline(always)]
    unsafe fn group(x: *const u8) -> __m256i {
        // SAFETY: the caller vouches for the bytes and for the instruction; the load is unaligned.
        unsafe { _mm256_set1_epi32(x.cast::<i32>().read_unaligned()) }
    }
}
