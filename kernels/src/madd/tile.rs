//! Matrix products of patches and packed words, tile by tile.
#![cfg(target_arch = "x86_64")]

use crate::lanes::Lane;
use crate::packed::{COLUMNS as BLOCK, Line, Packed, Run};

/// The kernel's part of a block of columns.
struct Operands<'a> {
    runs: &'a [Run],
    /// Two lines a lane, which are all columns of the block.
    weights: &'a [[Line; 2]],
    /// The first column of the tile in the block.
    column: usize,
    /// Words of a patch.
    stride: usize,
}

/// Defines the module of an instruction set: tiles of two vectors of `$width` columns, and up to as many rows as leave
/// room for two vectors of weights, one of activations and one of products.
macro_rules! tiles {
    (
        $name:ident, $features:literal, $width:literal, [$($n:literal)*],
        $zero:ident, $splat:ident, $load:ident, $store:ident, $madd:ident, $add:ident, $shift:ident
    ) => {
        pub(super) mod $name {
            use std::arch::x86_64::{$zero, $splat, $load, $store, $madd, $add, $shift, _mm_cvtsi32_si128};
            use std::ops::Range;

            use super::{BLOCK, Lane, Operands, Packed};

            /// Columns of a vector.
            const WIDTH: usize = $width;

            /// Columns of a tile.
            pub(crate) const COLUMNS: usize = 2 * WIDTH;

            /// Rows of the largest tile.
            pub(crate) const ROWS: usize = {
                let rows = [$($n),*];
                rows[rows.len() - 1]
            };

            /// Writes the products of patches, whose rows are whole groups, into the columns `columns` of `out`,
            /// `[patches, filters]`. They begin at a multiple of `COLUMNS`, and end likewise or with the last filter.
            #[target_feature(enable = $features)]
            pub(crate) fn blocks<L: Lane>(
                kernel: &Packed<L>,
                patches: &[L::Activation],
                out: &mut [i32],
                columns: Range<usize>,
            ) {
                let filters = kernel.filters;
                let stride = kernel.patch_len();
                let n_pixels = out.len().div_euclid(filters);
                let n_tiles = n_pixels.div_ceil(ROWS);
                let (weights, n_lanes) = (kernel.weights.as_chunks().0, kernel.n_lanes());
                let mut spare = [0; ROWS * COLUMNS];
                for first in columns.clone().step_by(COLUMNS) {
                    let block = first.div_euclid(BLOCK);
                    let operands = Operands {
                        runs: &kernel.runs,
                        weights: &weights[block * n_lanes..(block + 1) * n_lanes],
                        column: first.rem_euclid(BLOCK),
                        stride,
                    };
                    let n = COLUMNS.min(columns.end - first);
                    let mut from = 0;
                    // Heights of tiles differ by one at most.
                    for tile in 1..=n_tiles {
                        let to = (tile * n_pixels).div_euclid(n_tiles);
                        let patches = &patches[from * stride..to * stride];
                        let out = &mut out[from * filters + first..to * filters];
                        if n == COLUMNS {
                            any_rows::<L>(&operands, patches, to - from, (out, filters));
                        } else {
                            any_rows::<L>(&operands, patches, to - from, (&mut spare, COLUMNS));
                            let rows = out.chunks_mut(filters).zip(spare.chunks(COLUMNS));
                            for (out, sums) in rows {
                                out[..n].copy_from_slice(&sums[..n]);
                            }
                        }
                        from = to;
                    }
                }
            }

            #[target_feature(enable = $features)]
            fn any_rows<L: Lane>(
                operands: &Operands<'_>,
                patches: &[L::Activation],
                n: usize,
                out: (&mut [i32], usize),
            ) {
                match n {
                    $($n => rows::<L, $n>(operands, patches, out),)*
                    _ => {}
                }
            }

            /// Writes the sums of `N` patches into rows of `out`, whose starts have the given distance.
            // Never inlined: among other code the compiler does not keep all sums in registers.
            #[target_feature(enable = $features)]
            #[inline(never)]
            fn rows<L: Lane, const N: usize>(
                operands: &Operands<'_>,
                patches: &[L::Activation],
                (out, distance): (&mut [i32], usize),
            ) {
                let Operands { runs, weights, column, stride } = *operands;
                assert_eq!(patches.len(), N * stride, "whole rows of patches");
                assert!(
                    column.is_multiple_of(COLUMNS) && column + COLUMNS <= BLOCK,
                    "columns of the block"
                );
                let mut acc = [[$zero(); 2]; N];
                let mut weights = weights.iter();
                for run in runs {
                    let last = (run.first + run.n_groups) * L::GROUP;
                    assert!(last <= stride, "groups of a patch");
                    let mut at = run.first * L::GROUP;
                    for lines in weights.by_ref().take(run.n_groups) {
                        // SAFETY: the lines are 32 lanes of four bytes, of which `column` and those after it are
                        // `COLUMNS`; vectors of them start at multiples of their size. The groups of a run are among
                        // those of a patch (`last`), so row `i` of the patches has the two words of a group at
                        // `i * stride + at`.
                        unsafe {
                            let w = lines.as_ptr().cast::<i32>().add(column);
                            let (w0, w1) = ($load(w.cast()), $load(w.add(WIDTH).cast()));
                            let mut lane = patches.as_ptr().add(at);
                            for acc in &mut acc {
                                let x = $splat(lane.cast::<i32>().read_unaligned());
                                lane = lane.wrapping_add(stride);
                                acc[0] = $add(acc[0], $madd(x, w0));
                                acc[1] = $add(acc[1], $madd(x, w1));
                            }
                        }
                        at += L::GROUP;
                    }
                    if run.shift > 0 {
                        let shift = _mm_cvtsi32_si128(run.shift.cast_signed());
                        for acc in &mut acc {
                            acc[0] = $shift(acc[0], shift);
                            acc[1] = $shift(acc[1], shift);
                        }
                    }
                }
                for (acc, i) in acc.iter().zip(0..) {
                    let to = out[i * distance..][..COLUMNS].as_mut_ptr();
                    // SAFETY: there are `COLUMNS` sums, two vectors; the stores are unaligned.
                    unsafe {
                        $store(to.cast(), acc[0]);
                        $store(to.add(WIDTH).cast(), acc[1]);
                    }
                }
            }
        }
    };
}

tiles!(
    avx2, "avx2,fma", 8, [1 2 3 4 5 6],
    _mm256_setzero_si256, _mm256_set1_epi32, _mm256_load_si256, _mm256_storeu_si256, _mm256_madd_epi16,
    _mm256_add_epi32, _mm256_sll_epi32
);
tiles!(
    avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma", 16, [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
    _mm512_setzero_si512, _mm512_set1_epi32, _mm512_load_si512, _mm512_storeu_si512, _mm512_madd_epi16,
    _mm512_add_epi32, _mm512_sll_epi32
);
