//! Matrix products of patches and packed words, tile by tile.
#![cfg(target_arch = "x86_64")]

use crate::lanes::Lane;
use crate::packed::{COLUMNS as BLOCK, Line, Packed, Patches};

/// The kernel's part of a block of columns.
struct Operands<'a, A> {
    patches: &'a Patches<'a, A>,
    /// Two lines a lane, which are all columns of the block.
    weights: &'a [[Line; 2]],
    /// The first column of the tile in the block.
    column: usize,
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

            use super::{BLOCK, Lane, Operands, Packed, Patches};

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
                patches: &Patches<'_, L::Activation>,
                out: &mut [i32],
                columns: Range<usize>,
            ) {
                let filters = kernel.filters;
                let n_pixels = patches.n_pixels;
                assert_eq!(out.len(), n_pixels * filters, "sums of all pixels");
                let n_tiles = n_pixels.div_ceil(ROWS);
                let (weights, n_lanes) = (kernel.weights.as_chunks().0, kernel.n_lanes());
                let mut spare = [0; ROWS * COLUMNS];
                for first in columns.clone().step_by(COLUMNS) {
                    let block = first.div_euclid(BLOCK);
                    let operands = Operands {
                        patches,
                        weights: &weights[block * n_lanes..(block + 1) * n_lanes],
                        column: first.rem_euclid(BLOCK),
                    };
                    let n = COLUMNS.min(columns.end - first);
                    let mut from = 0;
                    // Heights of tiles differ by one at most.
                    for tile in 1..=n_tiles {
                        let to = (tile * n_pixels).div_euclid(n_tiles);
                        let pixels = from..to;
                        let out = &mut out[from * filters + first..to * filters];
                        if n == COLUMNS {
                            any_rows::<L>(&operands, pixels, (out, filters));
                        } else {
                            any_rows::<L>(&operands, pixels, (&mut spare, COLUMNS));
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
                operands: &Operands<'_, L::Activation>,
                pixels: Range<usize>,
                out: (&mut [i32], usize),
            ) {
                match pixels.len() {
                    $($n => rows::<L, $n>(operands, pixels.start, out),)*
                    _ => {}
                }
            }

            /// Writes the sums of `N` patches from number `first` on into rows of `out`, whose starts have the given
            /// distance.
            // Never inlined: among other code the compiler does not keep all sums in registers.
            #[target_feature(enable = $features)]
            #[inline(never)]
            fn rows<L: Lane, const N: usize>(
                operands: &Operands<'_, L::Activation>,
                first: usize,
                (out, distance): (&mut [i32], usize),
            ) {
                let Operands { patches, weights, column } = *operands;
                let Patches { x, stride, runs, .. } = *patches;
                let ends = runs.iter().map(|run| (run.first + run.n_groups) * L::GROUP);
                let x = &x[first * stride..][..(N - 1) * stride + ends.max().unwrap_or(0)];
                assert!(
                    column.is_multiple_of(COLUMNS) && column + COLUMNS <= BLOCK,
                    "columns of the block"
                );
                let mut acc = [[$zero(); 2]; N];
                let mut weights = weights.iter();
                for run in runs {
                    let mut at = run.first * L::GROUP;
                    for lines in weights.by_ref().take(run.n_groups) {
                        // SAFETY: the lines are 32 lanes of four bytes, of which `column` and those after it are
                        // `COLUMNS`; vectors of them start at multiples of their size. No group of the last patch ends
                        // behind `x`, so patch `i` has the two words of a group at `i * stride + at`.
                        unsafe {
                            let w = lines.as_ptr().cast::<i32>().add(column);
                            let (w0, w1) = ($load(w.cast()), $load(w.add(WIDTH).cast()));
                            let mut lane = x.as_ptr().add(at);
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
    avx2, "avx2,fma,popcnt", 8, [1 2 3 4 5 6],
    _mm256_setzero_si256, _mm256_set1_epi32, _mm256_load_si256, _mm256_storeu_si256, _mm256_madd_epi16,
    _mm256_add_epi32, _mm256_sll_epi32
);
tiles!(
    avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,popcnt", 16, [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
    _mm512_setzero_si512, _mm512_set1_epi32, _mm512_load_si512, _mm512_storeu_si512, _mm512_madd_epi16,
    _mm512_add_epi32, _mm512_sll_epi32
);
