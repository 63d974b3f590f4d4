//! Activations in the order in which tiles of sums meet them.

use super::packing::GROUP;
use super::tile::ROWS;

/// Patches of some pixels, group beside group: `[tiles][groups][ROWS]`, each group four bytes.
///
/// So the activations that one lane meets lie side by side, at distances that the compiler knows: no addresses are
/// computed where they are multiplied.
pub(super) struct Interleaved {
    groups: Vec<i32>,
    /// Groups of a patch.
    n_groups: usize,
    heights: Heights,
}

/// Neighbouring tiles of one height.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'a> {
    /// The groups of all of them, whole tiles even if they are lower.
    pub(super) groups: &'a [i32],
    /// Groups of a tile, in all its rows.
    pub(super) tile_len: usize,
    pub(super) n_rows: usize,
    /// The first pixel.
    pub(super) pixel: usize,
}

/// How many tiles have how many rows: heights differ by one at most, since a low tile waits for its few sums.
#[derive(Clone, Copy, Debug)]
struct Heights([(usize, usize); 2]);

impl Heights {
    fn of(n_pixels: usize) -> Self {
        let n_tiles = n_pixels.div_ceil(ROWS).max(1);
        let (low, n_high) = (n_pixels.div_euclid(n_tiles), n_pixels.rem_euclid(n_tiles));
        Self([(n_tiles - n_high, low), (n_high, low + 1)])
    }
}

impl Interleaved {
    /// Returns room for patches of `stride` bytes, a whole number of groups, of `n_tiles` tiles.
    pub(super) fn new(stride: usize, n_tiles: usize) -> Self {
        let n_groups = stride.div_euclid(GROUP);
        Self {
            groups: vec![0; n_tiles * n_groups * ROWS],
            n_groups,
            heights: Heights::of(0),
        }
    }

    /// Takes patches `[pixels, stride]`, not more than there is room for, and returns their largest activation.
    pub(super) fn fill(&mut self, patches: &[u8]) -> u8 {
        let stride = self.n_groups * GROUP;
        self.heights = Heights::of(patches.len().div_euclid(stride));
        let (mut patches, mut most) = (patches, 0);
        let mut tiles = self.groups.chunks_mut(self.n_groups * ROWS);
        for (n_tiles, n_rows) in self.heights.0 {
            for tile in tiles.by_ref().take(n_tiles) {
                let (rows, others) = patches.split_at(n_rows * stride);
                most = most.max(interleave(rows, stride, tile));
                patches = others;
            }
        }
        most
    }

    /// Returns the tiles.
    pub(super) fn runs(&self) -> impl Iterator<Item = Run<'_>> {
        let tile_len = self.n_groups * ROWS;
        let (mut pixel, mut groups) = (0, self.groups.as_slice());
        self.heights.0.into_iter().map(move |(n_tiles, n_rows)| {
            let (own, others) = groups.split_at(n_tiles * tile_len);
            let run = Run {
                groups: own,
                tile_len,
                n_rows,
                pixel,
            };
            pixel += n_tiles * n_rows;
            groups = others;
            run
        })
    }
}

/// Writes the groups of one to [`ROWS`] patches of `stride` bytes into a tile, in which rows that do not exist hold
/// anything; returns the largest byte.
#[cfg(target_arch = "x86_64")]
fn interleave(patches: &[u8], stride: usize, tile: &mut [i32]) -> u8 {
    // SAFETY: an `Interleaved` is made after `check_pairs` only, for kernels of AVX2: a `Kernels` exists only for a set
    // that was detected on this CPU.
    unsafe { avx2::interleave(patches, stride, tile) }
}

/// There is no AVX2 on this target; `Kernels::packs_pairs` is false.
#[cfg(not(target_arch = "x86_64"))]
fn interleave(_: &[u8], _: usize, _: &mut [i32]) -> u8 {
    0
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    #![expect(
        unsafe_code,
        reason = "vector instructions may run only on a CPU that has them"
    )]

    use std::arch::x86_64::{
        __m256i, _mm256_loadu_si256, _mm256_max_epu8, _mm256_permute2x128_si256,
        _mm256_setzero_si256, _mm256_storeu_si256, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64,
        _mm256_unpacklo_epi32, _mm256_unpacklo_epi64,
    };

    use super::super::packing::GROUP;
    use super::super::tile::ROWS;

    /// Groups of a vector. A tile has as many rows.
    const WIDTH: usize = ROWS;

    /// As [`interleave`](super::interleave).
    #[target_feature(enable = "avx2,fma,popcnt")]
    pub(super) fn interleave(patches: &[u8], stride: usize, tile: &mut [i32]) -> u8 {
        let n_rows = patches.len().div_euclid(stride);
        let n_groups = stride.div_euclid(GROUP);
        assert!(
            (1..=ROWS).contains(&n_rows) && tile.len() == n_groups * ROWS,
            "a tile"
        );
        if n_groups < WIDTH {
            for (row, patch) in patches.chunks_exact(stride).enumerate() {
                let groups = patch.as_chunks::<GROUP>().0;
                for (group, place) in groups.iter().zip(tile[row..].iter_mut().step_by(ROWS)) {
                    *place = i32::from_le_bytes(*group);
                }
            }
            return patches.iter().fold(0, |most, v| most.max(*v));
        }
        let row = |row: usize| patches[row.min(n_rows - 1) * stride..][..stride].as_ptr();
        let rows: [*const u8; ROWS] = std::array::from_fn(row);
        let mut most = _mm256_setzero_si256();
        // The last groups may be written twice.
        for first in (0..n_groups).step_by(WIDTH) {
            let first = first.min(n_groups - WIDTH);
            // SAFETY: each of the rows has `n_groups` groups, and the tile has a place in each row for each of them; loads
            // and stores are unaligned.
            unsafe {
                let to = tile.as_mut_ptr().add(first * ROWS);
                let groups = rows.map(|row| _mm256_loadu_si256(row.add(first * GROUP).cast()));
                let pairs = groups.as_chunks::<2>().0;
                for [a, b] in pairs {
                    most = _mm256_max_epu8(most, _mm256_max_epu8(*a, *b));
                }
                for (group, column) in turned(groups).into_iter().enumerate() {
                    _mm256_storeu_si256(to.add(group * ROWS).cast(), column);
                }
            }
        }
        let mut bytes = [0; 32];
        // SAFETY: a vector has 32 bytes; the store is unaligned.
        unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), most) };
        bytes.into_iter().fold(0, |most, v| most.max(v))
    }

    /// Returns the columns of eight rows of eight numbers.
    #[target_feature(enable = "avx2,fma,popcnt")]
    #[inline]
    fn turned(rows: [__m256i; WIDTH]) -> [__m256i; WIDTH] {
        let [a, b, c, d, e, f, g, h] = rows;
        let half = |a, b, c, d| {
            let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
            [
                _mm256_unpacklo_epi64(ab, cd),
                _mm256_unpackhi_epi64(ab, cd),
                _mm256_unpacklo_epi64(ab_high, cd_high),
                _mm256_unpackhi_epi64(ab_high, cd_high),
            ]
        };
        let (top, bottom) = (half(a, b, c, d), half(e, f, g, h));
        std::array::from_fn(|i| {
            let (top, bottom) = (top[i & 3], bottom[i & 3]);
            if i < 4 {
                _mm256_permute2x128_si256::<0x20>(top, bottom)
            } else {
                _mm256_permute2x128_si256::<0x31>(top, bottom)
            }
        })
    }
}
