//! Matrix products of patches and packed kernels, tile by tile.

#[cfg(target_arch = "x86_64")]
use super::sink::Ends;
use super::sink::Sink;
use super::{COLUMNS, Lane, Packed};
#[cfg(target_arch = "x86_64")]
use super::{Line, Run};

/// Rows of the largest tile: 24 accumulators leave room for two vectors of weights, one of activations, and for the
/// results of the tile before, which are finished meanwhile.
pub(super) const ROWS: usize = 12;

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

/// Where a tile of sums goes.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// First column.
    pub(super) first: usize,
    /// First pixel.
    pub(super) pixel: usize,
    pub(super) n_rows: usize,
}

/// Sums of a tile, at an address of which no load crosses a cache line.
#[cfg(target_arch = "x86_64")]
#[repr(align(64))]
pub(super) struct Sums(pub(super) [[i32; COLUMNS]; ROWS]);

/// The tile that was computed last, whose sums the sink takes while the next is computed.
#[cfg(target_arch = "x86_64")]
struct Waiting {
    place: Place,
    /// Its sums, and room for those of the next tile.
    sums: [Sums; 2],
    /// Which of both.
    now: usize,
}

#[cfg(target_arch = "x86_64")]
impl Waiting {
    /// Returns the sums that wait, and room for the next.
    #[inline(always)]
    const fn sums(&mut self) -> (&Sums, &mut Sums) {
        let [first, second] = &mut self.sums;
        if self.now == 0 {
            (first, second)
        } else {
            (second, first)
        }
    }
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
    // Heights of tiles differ by one at most: a low tile waits for its few sums.
    let n_tiles = n_pixels.div_ceil(ROWS);
    let (n_rows, n_high) = (
        n_pixels.div_euclid(n_tiles.max(1)),
        n_pixels.rem_euclid(n_tiles.max(1)),
    );
    let n_low = n_rows * (n_tiles - n_high);
    let mut waiting = Waiting {
        place: Place {
            first: 0,
            pixel: 0,
            n_rows: 0,
        },
        sums: [const { Sums([[0; COLUMNS]; ROWS]) }; 2],
        now: 0,
    };
    for block in 0..kernel.filters.div_ceil(COLUMNS) {
        let first = block * COLUMNS;
        let mut start = [0; COLUMNS];
        let bias = sink.bias(first).unwrap_or(&[0; COLUMNS]);
        let column_sums = kernel.sums[first..].iter().zip(bias);
        for (start, (sum, bias)) in start.iter_mut().zip(column_sums) {
            *start = sum.wrapping_mul(-offset).wrapping_add(*bias);
        }
        let operands = Operands {
            runs: &kernel.runs,
            weights: &kernel.weights[block * block_len..(block + 1) * block_len],
            start,
            stride,
            first,
        };
        let (low, high) = patches.split_at(n_low * stride);
        any_tiles::<L, S>(&operands, n_rows, (low, pixel), sink, &mut waiting);
        let pixel = pixel + n_low;
        any_tiles::<L, S>(&operands, n_rows + 1, (high, pixel), sink, &mut waiting);
    }
    // SAFETY: this function is compiled for the instructions.
    unsafe { sink.take(waiting.place, waiting.sums().0, 0) };
}

/// The kernel's part of a block of columns.
#[cfg(target_arch = "x86_64")]
struct Operands<'a> {
    runs: &'a [Run],
    weights: &'a [Line],
    /// What is added to each sum.
    start: [i32; COLUMNS],
    /// Activations of a patch.
    stride: usize,
    /// First column.
    first: usize,
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn any_tiles<L: Lane, S: Sink>(
    operands: &Operands<'_>,
    n_rows: usize,
    patches: (&[L::Activation], usize),
    sink: &mut S,
    waiting: &mut Waiting,
) {
    if patches.0.is_empty() {
        return;
    }
    macro_rules! tiles {
        ($($n:literal)*) => {
            match n_rows {
                $($n => tiles::<L, S, $n>(operands, patches, sink, waiting),)*
                _ => {}
            }
        };
    }
    tiles!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// Computes the sums of tiles of `N` patches, the first being pixel number `pixel`; the sink takes those that wait, and
/// the last tile waits.
// Never inlined: among other code the compiler does not keep all sums in registers, and takes three times as long.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
#[inline(never)]
fn tiles<L: Lane, S: Sink, const N: usize>(
    operands: &Operands<'_>,
    (patches, mut pixel): (&[L::Activation], usize),
    sink: &mut S,
    waiting: &mut Waiting,
) {
    use std::arch::x86_64::{
        _mm512_add_epi32, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512,
        _mm512_sllv_epi32, _mm512_store_si512,
    };
    let stride = operands.stride;
    for patches in patches.chunks_exact(N * stride) {
        let place = waiting.place;
        let (sums, next) = waiting.sums();
        let mut pairs = sink.pairs(place, sums);
        let n_pairs = pairs.len();
        let mut weights = operands.weights.as_chunks::<2>().0.iter();
        // SAFETY: this function is compiled for the instructions. The groups of a run are among those of a patch
        // (`last`), so that `step` reads them. `start` has 32 numbers, and a row of sums has room for 32, aligned.
        unsafe {
            let mut acc = [[_mm512_setzero_si512(); 2]; N];
            for run in operands.runs {
                let last = (run.first + run.n_groups) * L::GROUP;
                assert!(last <= stride, "groups of a patch");
                let mut x = patches.as_ptr().add(run.first * L::GROUP);
                let n_both = run.n_groups.min(pairs.len());
                // Two loops without a branch inside: the compiler keeps the sums in registers.
                for lines in weights.by_ref().take(n_both) {
                    step::<L, N>(&mut acc, x, stride, lines);
                    x = x.add(L::GROUP);
                    S::take_pair(&mut pairs);
                }
                for lines in weights.by_ref().take(run.n_groups - n_both) {
                    step::<L, N>(&mut acc, x, stride, lines);
                    x = x.add(L::GROUP);
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
                _mm512_loadu_si512(operands.start.as_ptr().cast()),
                _mm512_loadu_si512(operands.start.as_ptr().add(16).cast()),
            ];
            let mut ends = Ends::nothing();
            for (sums, acc) in next.0.iter_mut().zip(&acc) {
                let to = sums.as_mut_ptr();
                let v = [
                    _mm512_add_epi32(acc[0], start[0]),
                    _mm512_add_epi32(acc[1], start[1]),
                ];
                _mm512_store_si512(to.cast(), v[0]);
                _mm512_store_si512(to.add(16).cast(), v[1]);
                if S::WATCHES {
                    ends.add(v);
                }
            }
            // Now that no sums are in registers, there may be calls.
            let n_taken = 2 * (n_pairs - pairs.len());
            if n_taken < place.n_rows {
                sink.take(place, sums, n_taken);
            }
            let place = Place {
                first: operands.first,
                pixel,
                n_rows: N,
            };
            if S::WATCHES {
                sink.watch(place, next, &ends);
            }
            waiting.place = place;
        }
        waiting.now ^= 1;
        pixel += N;
    }
}

/// Adds the products of a group of activations of `N` patches with a pair of lines of weights.
///
/// # Safety
///
/// The CPU has the instruction set of this module, and the caller is compiled for it. At `x + i * stride`, `i < N`, there
/// are the activations of a group.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn step<L: Lane, const N: usize>(
    acc: &mut [[std::arch::x86_64::__m512i; 2]; N],
    x: *const L::Activation,
    stride: usize,
    lines: &[Line; 2],
) {
    use std::arch::x86_64::{_mm512_load_si512, _mm512_set1_epi32};
    let (mut x, mut stride) = (x, stride);
    // SAFETY: the four bytes of a group, four `u8` or two `i16`, are there for each patch; a pair of lines is 128
    // aligned bytes.
    unsafe {
        // Steps from row to row: a pointer for each row would not fit in the registers, and the compiler would set up
        // all of them for every run if it knew that the distance stays the same.
        std::arch::asm!("/* {0} */", inout(reg) stride, options(nomem, nostack, preserves_flags));
        let w0 = _mm512_load_si512(lines[0].0.as_ptr().cast());
        let w1 = _mm512_load_si512(lines[1].0.as_ptr().cast());
        for acc in acc {
            let group = _mm512_set1_epi32(x.cast::<i32>().read_unaligned());
            x = x.wrapping_add(stride);
            acc[0] = L::step(acc[0], group, w0);
            acc[1] = L::step(acc[1], group, w1);
        }
    }
}
