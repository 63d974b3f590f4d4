//! How an operation is cut into register tiles.

use crate::dispatch::{InstructionSet, Job};
use crate::plan::Pixel;

/// Tiles of pixels whose inputs stay in the cache while all columns pass over them.
const TILES_PER_GROUP: usize = 32;

/// Pixels of a tile where there are not enough for a large one.
const SMALL: usize = 4;

/// An operation that computes its output in tiles of pixels by columns (filters or channels).
///
/// Elements are independent, so a tile may compute some that another tile computes too: that is how edges are covered
/// without partial tiles.
pub(crate) trait Tiles: Job {
    /// Computes columns `column..column + N` of `P` pixels.
    fn tile<S: InstructionSet, const P: usize, const N: usize>(
        &mut self,
        set: S,
        pixels: &[Pixel; P],
        column: usize,
    );
}

/// Computes all columns of `pixels`, in tiles of `P` by `N` and smaller ones at the edges.
#[inline(always)]
pub(crate) fn cover<T: Tiles, S: InstructionSet, const P: usize, const N: usize>(
    tiles: &mut T,
    set: S,
    pixels: &[Pixel],
) {
    for group in pixels.chunks(TILES_PER_GROUP * P) {
        if tiles.n_columns() >= N {
            strips::<T, S, P, N>(tiles, set, group);
        } else if N == 16 && tiles.n_columns() >= 8 {
            strips::<T, S, P, 8>(tiles, set, group);
        } else {
            strips::<T, S, P, 1>(tiles, set, group);
        }
    }
}

#[inline(always)]
fn strips<T: Tiles, S: InstructionSet, const P: usize, const N: usize>(
    tiles: &mut T,
    set: S,
    pixels: &[Pixel],
) {
    if pixels.len() >= P {
        strips_of_pixels::<T, S, P, N>(tiles, set, pixels);
    } else if P > SMALL && pixels.len() >= SMALL {
        strips_of_pixels::<T, S, SMALL, N>(tiles, set, pixels);
    } else {
        strips_of_pixels::<T, S, 1, N>(tiles, set, pixels);
    }
}

#[inline(always)]
fn strips_of_pixels<T: Tiles, S: InstructionSet, const P: usize, const N: usize>(
    tiles: &mut T,
    set: S,
    pixels: &[Pixel],
) {
    for column in starts(tiles.n_columns(), N) {
        for start in starts(pixels.len(), P) {
            if let Some(block) = pixels[start..].first_chunk() {
                tiles.tile::<S, P, N>(set, block, column);
            }
        }
    }
}

/// Returns where blocks of `block` start that cover `0..total`; the last one is moved back to end at `total`.
///
/// `total` must be at least `block`, or 0.
#[inline(always)]
fn starts(total: usize, block: usize) -> impl Iterator<Item = usize> {
    (0..total.div_ceil(block)).map(move |idx| (idx * block).min(total - block))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::Portable;

    /// Counts how often each element is computed.
    struct Counter {
        n_columns: usize,
        counts: Vec<usize>,
    }

    impl Job for Counter {
        fn n_columns(&self) -> usize {
            self.n_columns
        }

        fn run<S: InstructionSet, const P: usize, const N: usize>(self, _: S) {}
    }

    impl Tiles for Counter {
        fn tile<S: InstructionSet, const P: usize, const N: usize>(
            &mut self,
            _: S,
            pixels: &[Pixel; P],
            column: usize,
        ) {
            for pixel in pixels {
                for n in 0..N {
                    assert!(
                        column + n < self.n_columns,
                        "column {column} + {n} of {}",
                        self.n_columns
                    );
                    self.counts[pixel.out * self.n_columns + column + n] += 1;
                }
            }
        }
    }

    fn check<const P: usize, const N: usize>(n_pixels: usize, n_columns: usize) {
        let pixels: Vec<Pixel> = (0..n_pixels).map(|out| Pixel { base: out, out }).collect();
        let mut counter = Counter {
            n_columns,
            counts: vec![0; n_pixels * n_columns],
        };
        cover::<_, _, P, N>(&mut counter, Portable, &pixels);
        assert!(
            counter.counts.iter().all(|&count| (1..=4).contains(&count)),
            "{n_pixels} pixels, {n_columns} columns: {:?}",
            counter.counts
        );
    }

    #[test]
    fn tiles_cover_every_element() {
        for n_pixels in (0..30).chain([191, 192, 193, 200]) {
            for n_columns in 0..40 {
                check::<4, 8>(n_pixels, n_columns);
                check::<6, 16>(n_pixels, n_columns);
                check::<6, 64>(n_pixels, n_columns + 60);
            }
        }
    }
}
