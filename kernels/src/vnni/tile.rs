//! Matrix products of patches and packed kernels, tile by tile.

use super::sink::Sink;
use super::{COLUMNS, Lane, Packed};
#[cfg(target_arch = "x86_64")]
use super::{Line, Run};

/// Rows of the largest tile: 28 accumulators leave room for two vectors of weights and one of activations.
pub(super) const ROWS: usize = 14;

/// Writes the products of patches, whose rows are whole groups, with the packed kernel; the first patch is pixel
/// number `pixel` of the sink.
#[cfg(target_arch = "x86_64")]
pub(super) fn product<L: Lane, S: Sink>(
    kernel: &Packed<L>,
    patches: (&[L::Activation], usize),
    offset: i32,
    pixel: usize,
    sink: &mut S,
) {
    // SAFETY: the caller checked that the CPU has AVX-512 VNNI (`packs`).
    unsafe { blocks(kernel, patches, offset, pixel, sink) }
}

/// There is no VNNI on this target; `Kernels::packs` is false.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn product<L: Lane, S: Sink>(
    _: &Packed<L>,
    _: (&[L::Activation], usize),
    _: i32,
    _: usize,
    _: &mut S,
) {
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn blocks<L: Lane, S: Sink>(
    kernel: &Packed<L>,
    (patches, n_pixels): (&[L::Activation], usize),
    offset: i32,
    pixel: usize,
    sink: &mut S,
) {
    let stride = kernel.rows.next_multiple_of(L::GROUP);
    let block_len = 2 * kernel.n_lanes();
    let mut tile_sums = Tile([[0; COLUMNS]; ROWS]);
    for block in 0..kernel.filters.div_ceil(COLUMNS) {
        let first = block * COLUMNS;
        let weights = &kernel.weights[block * block_len..(block + 1) * block_len];
        let mut start = [0; COLUMNS];
        let bias = sink.bias(first).unwrap_or(&[0; COLUMNS]);
        let sums = kernel.sums[first..].iter().zip(bias);
        for (start, (sum, bias)) in start.iter_mut().zip(sums) {
            *start = sum.wrapping_mul(-offset).wrapping_add(*bias);
        }
        // SAFETY: this function is compiled for the instructions.
        let mut lanes = unsafe { sink.open(first) };
        let operands = Operands {
            runs: &kernel.runs,
            weights,
            start,
        };
        // Heights of tiles differ by one at most: a low tile waits for its few sums.
        let n_tiles = n_pixels.div_ceil(ROWS);
        let mut from = 0;
        for tile in 1..=n_tiles {
            let to = (tile * n_pixels).div_euclid(n_tiles);
            let sums = &mut tile_sums.0[..to - from];
            any_rows::<L>(
                &operands,
                &patches[from * stride..to * stride],
                stride,
                sums,
            );
            // SAFETY: this function is compiled for the instructions.
            unsafe { sink.take(&mut lanes, pixel + from, first, sums) };
            from = to;
        }
        // SAFETY: this function is compiled for the instructions.
        unsafe { sink.close(lanes, first) };
    }
}

/// Sums of a tile, at an address of which no load crosses a cache line.
#[cfg(target_arch = "x86_64")]
#[repr(align(64))]
struct Tile([[i32; COLUMNS]; ROWS]);

/// The kernel's part of a block of columns.
#[cfg(target_arch = "x86_64")]
struct Operands<'a> {
    runs: &'a [Run],
    weights: &'a [Line],
    /// What is added to each sum.
    start: [i32; COLUMNS],
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn any_rows<L: Lane>(
    operands: &Operands<'_>,
    patches: &[L::Activation],
    stride: usize,
    sums: &mut [[i32; COLUMNS]],
) {
    macro_rules! rows {
        ($($n:literal)*) => {
            match sums.len() {
                $($n => rows::<L, $n>(operands, patches, stride, sums),)*
                _ => {}
            }
        };
    }
    rows!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

/// Writes the sums of `N` patches.
// Never inlined: among other code the compiler does not keep all sums in registers, and takes three times as long.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
#[inline(never)]
fn rows<L: Lane, const N: usize>(
    operands: &Operands<'_>,
    patches: &[L::Activation],
    stride: usize,
    sums: &mut [[i32; COLUMNS]],
) {
    use std::arch::x86_64::{
        _mm512_add_epi32, _mm512_load_si512, _mm512_loadu_si512, _mm512_set1_epi32,
        _mm512_setzero_si512, _mm512_sllv_epi32, _mm512_storeu_si512,
    };
    let Operands {
        runs,
        weights,
        start,
    } = operands;
    assert_eq!(patches.len(), N * stride, "whole rows of patches");
    assert_eq!(sums.len(), N, "a row of sums for each patch");
    let mut weights = weights.as_chunks::<2>().0.iter();
    // SAFETY: each load stays inside its slice. `start` has 32 numbers, a pair of lines 128 aligned bytes. The groups of
    // a run are among those of a patch (`last`), so row `i` of the patches has the four bytes of a group, four `u8` or
    // two `i16`, at `i * stride + group * GROUP`. Other loads and stores are unaligned.
    unsafe {
        let mut acc = [[_mm512_setzero_si512(); 2]; N];
        for run in *runs {
            let last = (run.first + run.n_groups) * L::GROUP;
            assert!(last <= stride, "groups of a patch");
            let mut a = patches.as_ptr().add(run.first * L::GROUP);
            for lines in weights.by_ref().take(run.n_groups) {
                // Steps from row to row: a pointer for each row would not fit in the registers, and the compiler would
                // set up all of them for every run if it knew that the distance stays the same.
                let mut stride = stride;
                std::arch::asm!("/* {0} */", inout(reg) stride, options(nomem, nostack, preserves_flags));
                let mut lane = a;
                let w0 = _mm512_load_si512(lines[0].0.as_ptr().cast());
                let w1 = _mm512_load_si512(lines[1].0.as_ptr().cast());
                for acc in &mut acc {
                    let x = _mm512_set1_epi32(lane.cast::<i32>().read_unaligned());
                    lane = lane.wrapping_add(stride);
                    acc[0] = L::step(acc[0], x, w0);
                    acc[1] = L::step(acc[1], x, w1);
                }
                a = a.add(L::GROUP);
            }
            if run.shift > 0 {
                let shift = _mm512_set1_epi32(run.shift.cast_signed());
                // Not flattened: the compiler keeps the sums in registers if it sees each of them.
                for acc in &mut acc {
                    acc[0] = _mm512_sllv_epi32(acc[0], shift);
                    acc[1] = _mm512_sllv_epi32(acc[1], shift);
                }
            }
        }
        let start = [
            _mm512_loadu_si512(start.as_ptr().cast()),
            _mm512_loadu_si512(start.as_ptr().add(16).cast()),
        ];
        for (sums, acc) in sums.iter_mut().zip(&acc) {
            let to = sums.as_mut_ptr();
            _mm512_storeu_si512(to.cast(), _mm512_add_epi32(acc[0], start[0]));
            _mm512_storeu_si512(to.add(16).cast(), _mm512_add_epi32(acc[1], start[1]));
        }
    }
}
