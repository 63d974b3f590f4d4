//! How an operation is cut into register tiles.

use crate::plan::Pixel;

/// Pixels whose inputs stay in the cache while all columns pass over them, in tiles.
const TILES_PER_GROUP: usize = 16;

/// An operation that computes its output in tiles of pixels by columns (filters or channels).
///
/// Elements are independent, so a tile may compute some that another tile computes too: that is how edges are covered
/// without partial tiles.
pub(crate) trait Tiles {
    /// Columns of the output.
    fn n_columns(&self) -> usize;

    /// Computes columns `column..column + N` of `P` pixels.
    fn tile<const P: usize, const N: usize>(&mut self, pixels: &[Pixel; P], column: usize);
}

/// Computes all columns of `pixels`, in tiles of `P` by `N` and smaller ones at the edges.
#[inline(always)]
pub(crate) fn cover<T: Tiles, const P: usize, const N: usize>(tiles: &mut T, pixels: &[Pixel]) {
    for group in pixels.chunks(TILES_PER_GROUP * P) {
        let n_columns = tiles.n_columns();
        if n_columns >= N {
            strip::<T, P, N>(tiles, group);
        } else if N > 16 && n_columns >= 16 {
            strip::<T, P, 16>(tiles, group);
        } else if N > 8 && n_columns >= 8 {
            strip::<T, P, 8>(tiles, group);
        } else {
            strip::<T, P, 1>(tiles, group);
        }
    }
}

#[inline(always)]
fn strip<T: Tiles, const P: usize, const N: usize>(tiles: &mut T, pixels: &[Pixel]) {
    for column in starts(tiles.n_columns(), N) {
        let (blocks, rest) = pixels.as_chunks::<P>();
        for block in blocks {
            tiles.tile::<P, N>(block, column);
        }
        if rest.is_empty() {
            continue;
        }
        let small = if P > 4 && pixels.len() >= 4 { 4 } else { 1 };
        let covered_by_small = pixels.len() - rest.len().max(small);
        for start in starts(pixels.len() - covered_by_small, small) {
            let pixels = &pixels[covered_by_small + start..];
            if let Some(block) = pixels.first_chunk::<4>().filter(|_| small == 4) {
                tiles.tile::<4, N>(block, column);
            } else if let Some(block) = pixels.first_chunk::<1>() {
                tiles.tile::<1, N>(block, column);
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
