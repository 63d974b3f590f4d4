//! Matrix products of patches and packed kernels, tile by tile.

use super::sink::Sink;
use crate::lanes::Lane;
#[cfg(target_arch = "x86_64")]
use crate::packed::{COLUMNS, Line};
use crate::packed::{Packed, Patches};

/// Rows of the largest tile: 24 accumulators leave room for two vectors of weights and one of activations, and for the
/// numbers of the last steps.
pub(super) const ROWS: usize = 12;

/// Columns of a vector of sums.
#[cfg(target_arch = "x86_64")]
pub(super) const WIDTH: usize = 16;

/// Writes the products of patches with the packed kernel; the first patch is pixel number `pixel` of the sink, and
/// `offset` what the instruction adds to the activations.
#[cfg(target_arch = "x86_64")]
pub(super) fn product<L: Lane, S: Sink>(
    kernel: &Packed<L>,
    (patches, offset): (&Patches<'_, L::Activation>, i32),
    pixel: usize,
    sink: &mut S,
) {
    // SAFETY: the caller checked that the CPU has AVX-512 VNNI (`packs`).
    unsafe { blocks(kernel, (patches, offset), pixel, sink) }
}

/// There is no VNNI on this target; `Kernels::packs` is false.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn product<L: Lane, S: Sink>(
    _: &Packed<L>,
    _: (&Patches<'_, L::Activation>, i32),
    _: usize,
    _: &mut S,
) {
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,popcnt")]
fn blocks<L: Lane, S: Sink>(
    kernel: &Packed<L>,
    (patches, offset): (&Patches<'_, L::Activation>, i32),
    pixel: usize,
    sink: &mut S,
) {
    let block_len = 2 * kernel.n_lanes();
    let heights = Heights::of(patches.n_pixels);
    for block in 0..kernel.filters.div_ceil(COLUMNS) {
        let first = block * COLUMNS;
        let operands = Operands {
            patches: *patches,
            weights: &kernel.weights[block * block_len..(block + 1) * block_len],
            n_columns: COLUMNS.min(kernel.filters - first),
        };
        let mut columns = columns(kernel, offset, first, sink);
        let mut from = 0;
        for (n_tiles, n_rows) in heights.0 {
            let tiles = Tiles {
                from,
                n_tiles,
                pixel: pixel + from,
            };
            any_tiles::<L, S>(&operands, n_rows, &tiles, (sink, &mut columns));
            from += n_tiles * n_rows;
        }
        // SAFETY: this function is compiled for the instructions.
        unsafe { sink.close(&columns) };
    }
}

/// Returns what the sink has for the columns from `first` on.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,popcnt")]
fn columns<L: Lane, S: Sink>(
    kernel: &Packed<L>,
    offset: i32,
    first: usize,
    sink: &S,
) -> S::Columns {
    let mut start = [0; COLUMNS];
    if offset != 0 {
        for (start, sum) in start.iter_mut().zip(&kernel.sums[first..]) {
            *start = sum.wrapping_mul(-offset);
        }
    }
    let start = Some(&start).filter(|_| offset != 0);
    let n = COLUMNS.min(kernel.filters - first);
    // SAFETY: this function is compiled for the instructions.
    unsafe { sink.columns(first, n, start) }
}

/// How many tiles have how many rows: heights differ by a pair at most, since a low tile waits for its few sums.
struct Heights([(usize, usize); 3]);

impl Heights {
    /// Rows of a pair are finished together: only the last tile may have an odd number.
    fn of(n_pixels: usize) -> Self {
        let n_pairs = n_pixels.div_ceil(2);
        let n_tiles = (2 * n_pairs).div_ceil(ROWS).max(1);
        let (n, n_high) = (n_pairs.div_euclid(n_tiles), n_pairs.rem_euclid(n_tiles));
        let (low, high) = (2 * n, 2 * n + 2);
        match (n_pixels & 1, n_high) {
            (0, _) => Self([(n_tiles - n_high, low), (n_high, high), (0, 0)]),
            (_, 0) => Self([(n_tiles - 1, low), (1, low - 1), (0, 0)]),
            _ => Self([(n_tiles - n_high, low), (n_high - 1, high), (1, high - 1)]),
        }
    }
}

/// A block of columns.
#[cfg(target_arch = "x86_64")]
struct Operands<'a, A> {
    patches: Patches<'a, A>,
    weights: &'a [Line],
    n_columns: usize,
}

/// Neighbouring tiles of one height.
#[cfg(target_arch = "x86_64")]
struct Tiles {
    /// First patch.
    from: usize,
    n_tiles: usize,
    /// Number of its pixel for the sink.
    pixel: usize,
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,popcnt")]
fn any_tiles<L: Lane, S: Sink>(
    operands: &Operands<'_, L::Activation>,
    n_rows: usize,
    at: &Tiles,
    to: (&mut S, &mut S::Columns),
) {
    macro_rules! tiles {
        ($($n:literal)*) => {
            match (n_rows, operands.n_columns <= WIDTH) {
                $(
                    ($n, false) => tiles::<L, S, $n, 2>(operands, at, to),
                    ($n, true) => tiles::<L, S, $n, 1>(operands, at, to),
                )*
                _ => {}
            }
        };
    }
    tiles!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// Computes the sums of tiles of `N` patches and `V` vectors of columns, and gives them to the sink.
// Never inlined: among other code the compiler does not keep all sums in registers, and takes three times as long.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,popcnt")]
#[inline(never)]
fn tiles<L: Lane, S: Sink, const N: usize, const V: usize>(
    operands: &Operands<'_, L::Activation>,
    at: &Tiles,
    (sink, columns): (&mut S, &mut S::Columns),
) {
    use std::arch::x86_64::{_mm512_add_epi32, _mm512_setzero_si512};
    let Patches {
        x, stride, runs, ..
    } = operands.patches;
    let last = runs.iter().map(|run| (run.first + run.n_groups) * L::GROUP);
    let reach = (N - 1) * stride + last.max().unwrap_or(0);
    for tile in 0..at.n_tiles {
        let x = &x[(at.from + tile * N) * stride..][..reach];
        let mut weights = operands.weights.as_chunks::<2>().0.iter();
        // The first tile fetches the weights of the next block of columns, the others what they have.
        let ahead = if tile == 0 { operands.weights.len() } else { 0 };
        // SAFETY: this function is compiled for the instructions. The last patch reads what is before `reach`, so that
        // `step` reads groups that are there.
        unsafe {
            let mut acc = [[_mm512_setzero_si512(); V]; N];
            for run in runs {
                let mut x = x.as_ptr().add(run.first * L::GROUP);
                for lines in weights.by_ref().take(run.n_groups) {
                    step::<L, N, V>(&mut acc, (x, stride), lines, ahead);
                    x = x.add(L::GROUP);
                }
                for _ in 0..run.shift {
                    // Sums take half as long as shifts, and most shifts are by one. Not flattened: the compiler keeps
                    // the sums in registers if it sees each of them.
                    for acc in &mut acc {
                        for acc in acc {
                            *acc = _mm512_add_epi32(*acc, *acc);
                        }
                    }
                }
            }
            sink.take(columns, at.pixel + tile * N, &acc);
        }
    }
}

/// Adds the products of a group of activations of `N` patches with a pair of lines of weights, or with the first.
///
/// # Safety
///
/// The CPU has the instruction set of this module, and the caller is compiled for it. At `x + i * stride`, `i < N`, there
/// are the activations of a group.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn step<L: Lane, const N: usize, const V: usize>(
    acc: &mut [[std::arch::x86_64::__m512i; V]; N],
    (mut x, mut stride): (*const L::Activation, usize),
    lines: &[Line; 2],
    ahead: usize,
) {
    use std::arch::x86_64::{
        _MM_HINT_T1, _mm_prefetch, _mm512_load_si512, _mm512_set1_epi32, _mm512_setzero_si512,
    };
    // SAFETY: the four bytes of a group, four `u8` or two `i16`, are there for each patch; a pair of lines is 128
    // aligned bytes.
    unsafe {
        // Steps from row to row: a pointer for each row would not fit in the registers, and the compiler would set up
        // all of them for every run if it knew that the distance stays the same.
        std::arch::asm!("/* {0} */", inout(reg) stride, options(nomem, nostack, preserves_flags));
        let next = lines.as_ptr().wrapping_add(ahead);
        let mut weights = [_mm512_setzero_si512(); V];
        for (v, (weights, line)) in weights.iter_mut().zip(lines).enumerate() {
            _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(v).cast());
            *weights = _mm512_load_si512(line.0.as_ptr().cast());
        }
        for acc in acc {
            let group = _mm512_set1_epi32(x.cast::<i32>().read_unaligned());
            x = x.wrapping_add(stride);
            for (acc, weights) in acc.iter_mut().zip(weights) {
                *acc = L::step(*acc, group, weights);
            }
        }
    }
}
