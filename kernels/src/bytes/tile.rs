//! Tiles of sums of eight columns.

/// Pixels of the largest tile: their sums, the weights of four lanes, a scale and three products fill the registers.
pub(super) const ROWS: usize = 8;

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::blocks;

#[cfg(target_arch = "x86_64")]
mod avx2 {
    #![expect(
        unsafe_code,
        reason = "vector instructions may run only on a CPU that has them"
    )]

    use std::arch::x86_64::{
        __m256i, _mm256_add_epi16, _mm256_add_epi32, _mm256_load_si256, _mm256_madd_epi16,
        _mm256_maddubs_epi16, _mm256_set1_epi32, _mm256_setzero_si256,
    };

    use super::super::layout::{Interleaved, Run};
    use super::super::packing::{Block, Sum};
    use super::super::sink::Sink;

    /// Gives the products of patches with the kernel to the sink; the first patch is its pixel number `pixel`.
    #[target_feature(enable = "avx2,fma,popcnt")]
    pub(in super::super) fn blocks<S: Sink>(
        blocks: &[Block],
        patches: &Interleaved,
        pixel: usize,
        (sink, columns): (&mut S, &mut [S::Columns]),
    ) {
        for (block, columns) in blocks.iter().zip(columns) {
            for run in patches.runs() {
                let run = Run {
                    pixel: pixel + run.pixel,
                    ..run
                };
                any_tiles(block, &run, (sink, &mut *columns));
            }
        }
    }

    #[target_feature(enable = "avx2,fma,popcnt")]
    fn any_tiles<S: Sink>(block: &Block, run: &Run<'_>, to: (&mut S, &mut S::Columns)) {
        match run.n_rows {
            1 => tiles::<S, 1>(block, run, to),
            2 => tiles::<S, 2>(block, run, to),
            3 => tiles::<S, 3>(block, run, to),
            4 => tiles::<S, 4>(block, run, to),
            5 => tiles::<S, 5>(block, run, to),
            6 => tiles::<S, 6>(block, run, to),
            7 => tiles::<S, 7>(block, run, to),
            8 => tiles::<S, 8>(block, run, to),
            _ => {}
        }
    }

    /// Gives the sums of tiles of `N` patches to the sink.
    // Never inlined: among other code the compiler does not keep all sums in registers.
    #[target_feature(enable = "avx2,fma,popcnt")]
    #[inline(never)]
    fn tiles<S: Sink, const N: usize>(
        block: &Block,
        run: &Run<'_>,
        (sink, columns): (&mut S, &mut S::Columns),
    ) {
        assert!(
            block.tile_len == run.tile_len,
            "patches as the kernel meets them"
        );
        for (x, tile) in run.groups.chunks_exact(run.tile_len).zip(0..) {
            let mut acc = [_mm256_setzero_si256(); N];
            // SAFETY: this function is compiled for the instructions, and the groups that a lane meets are in the tile.
            unsafe {
                for sum in &block.quads {
                    add(&mut acc, x, sum);
                }
                for sum in &block.pairs {
                    add(&mut acc, x, sum);
                }
                for sum in &block.alone {
                    add(&mut acc, x, sum);
                }
            }
            // SAFETY: this function is compiled for the instructions.
            unsafe { sink.take(columns, run.pixel + tile * N, &acc) };
        }
    }

    /// Adds the products of lanes to the sums of `N` patches.
    ///
    /// # Safety
    ///
    /// The CPU has AVX2, and the caller is compiled for it. The groups that the lanes meet are in the tile.
    #[inline(always)]
    unsafe fn add<const L: usize, const N: usize>(acc: &mut [__m256i; N], x: &[i32], sum: &Sum<L>) {
        // SAFETY: the weights of a lane are an aligned vector; the caller vouches for all others.
        unsafe {
            let weights = sum
                .weights
                .each_ref()
                .map(|w| _mm256_load_si256(w.0.as_ptr().cast()));
            let scale = _mm256_set1_epi32(sum.scale);
            let x = sum
                .starts
                .map(|start| x.as_ptr().wrapping_add(start as usize));
            for (row, acc) in acc.iter_mut().enumerate() {
                let mut words = _mm256_maddubs_epi16(group(x[0].wrapping_add(row)), weights[0]);
                for lane in 1..L {
                    let x = group(x[lane].wrapping_add(row));
                    words = _mm256_add_epi16(words, _mm256_maddubs_epi16(x, weights[lane]));
                }
                *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(words, scale));
            }
        }
    }

    /// Returns the four activations at `x` for each column.
    ///
    /// # Safety
    ///
    /// They are there; the CPU has AVX2, and the caller is compiled for it.
    #[inline(always)]
    unsafe fn group(x: *const i32) -> __m256i {
        // SAFETY: the caller vouches for the group and for the instruction.
        unsafe { _mm256_set1_epi32(x.read()) }
    }
}
