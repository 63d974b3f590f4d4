//! Matrix products of patches and packed kernels, tile by tile.

#[cfg(target_arch = "x86_64")]
use super::sink::Ends;
use super::sink::Sink;
use crate::lanes::Lane;
#[cfg(target_arch = "x86_64")]
use crate::packed::Line;
use crate::packed::{COLUMNS, Packed, Run};

/// Rows of the largest tile: 24 accumulators leave room for two vectors of weights, one of activations, and for the
/// results of the tile before, which are finished meanwhile.
pub(super) const ROWS: usize = 12;

/// Activations that pixels see, as the packed kernel takes them.
#[derive(Clone, Copy)]
pub(super) struct Patches<'a, A> {
    pub(super) x: &'a [A],
    pub(super) n_pixels: usize,
    /// Distance from a pixel to the next; patches may overlap.
    pub(super) stride: usize,
    /// Which activations of a patch the lanes of the kernel meet, in their order.
    pub(super) runs: &'a [Run],
    /// What the instruction adds to the activations.
    pub(super) offset: i32,
}

impl<'a, A> Patches<'a, A> {
    pub(super) const fn new(
        x: &'a [A],
        n_pixels: usize,
        (stride, runs, offset): (usize, &'a [Run], i32),
    ) -> Self {
        Self {
            x,
            n_pixels,
            stride,
            runs,
            offset,
        }
    }
}

/// Writes the products of patches with the packed kernel; the first patch is pixel number `pixel` of the sink.
#[cfg(target_arch = "x86_64")]
pub(super) fn product<L: Lane, S: Sink>(
    kernel: &Packed<L>,
    patches: &Patches<'_, L::Activation>,
    pixel: usize,
    sink: &mut S,
) {
    // SAFETY: the caller checked that the CPU has AVX-512 VNNI (`packs`).
    unsafe { blocks(kernel, patches, pixel, sink) }
}

/// There is no VNNI on this target; `Kernels::packs` is false.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn product<L: Lane, S: Sink>(
    _: &Packed<L>,
    _: &Patches<'_, L::Activation>,
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
    patches: &Patches<'_, L::Activation>,
    pixel: usize,
    sink: &mut S,
) {
    let block_len = 2 * kernel.n_lanes();
    let heights = Heights::of(patches.n_pixels);
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
            *start = sum.wrapping_mul(-patches.offset).wrapping_add(*bias);
        }
        let operands = Operands {
            patches: *patches,
            weights: &kernel.weights[block * block_len..(block + 1) * block_len],
            start,
            first,
        };
        let mut from = 0;
        for (n_tiles, n_rows) in heights.0 {
            let tiles = Tiles {
                from,
                n_tiles,
                pixel: pixel + from,
            };
            any_tiles::<L, S>(&operands, n_rows, &tiles, sink, &mut waiting);
            from += n_tiles * n_rows;
        }
    }
    // SAFETY: this function is compiled for the instructions.
    unsafe { sink.take(waiting.place, waiting.sums().0, 0) };
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
    /// What is added to each sum.
    start: [i32; COLUMNS],
    /// First column.
    first: usize,
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn any_tiles<L: Lane, S: Sink>(
    operands: &Operands<'_, L::Activation>,
    n_rows: usize,
    at: &Tiles,
    sink: &mut S,
    waiting: &mut Waiting,
) {
    macro_rules! tiles {
        ($($n:literal)*) => {
            match n_rows {
                $($n => tiles::<L, S, $n>(operands, at, sink, waiting),)*
                _ => {}
            }
        };
    }
    tiles!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// Computes the sums of tiles of `N` patches; the sink takes those that wait, and the last tile waits.
// Never inlined: among other code the compiler does not keep all sums in registers, and takes three times as long.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
#[inline(never)]
fn tiles<L: Lane, S: Sink, const N: usize>(
    operands: &Operands<'_, L::Activation>,
    at: &Tiles,
    sink: &mut S,
    waiting: &mut Waiting,
) {
    use std::arch::x86_64::{
        _mm512_add_epi32, _mm512_loadu_si512, _mm512_setzero_si512, _mm512_store_si512,
    };
    let Patches {
        x, stride, runs, ..
    } = operands.patches;
    let last = runs.iter().map(|run| (run.first + run.n_groups) * L::GROUP);
    let reach = (N - 1) * stride + last.max().unwrap_or(0);
    for tile in 0..at.n_tiles {
        let x = &x[(at.from + tile * N) * stride..][..reach];
        let place = waiting.place;
        let (sums, next) = waiting.sums();
        let mut pairs = sink.pairs(place, sums);
        let n_pairs = pairs.len();
        let mut weights = operands.weights.as_chunks::<2>().0.iter();
        // The first tile fetches the weights of the next block of columns, the others what they have.
        let ahead = if tile == 0 { operands.weights.len() } else { 0 };
        // SAFETY: this function is compiled for the instructions. The last patch reads what is before `reach`, so that
        // `step` reads groups that are there. `start` has 32 numbers, and a row of sums has room for 32, aligned.
        unsafe {
            let mut acc = [[_mm512_setzero_si512(); 2]; N];
            for run in runs {
                let mut x = x.as_ptr().add(run.first * L::GROUP);
                let n_both = run.n_groups.min(pairs.len());
                // Two loops without a branch inside: the compiler keeps the sums in registers.
                for lines in weights.by_ref().take(n_both) {
                    step::<L, N>(&mut acc, (x, stride), lines, ahead);
                    x = x.add(L::GROUP);
                    S::take_pair(&mut pairs);
                }
                for lines in weights.by_ref().take(run.n_groups - n_both) {
                    step::<L, N>(&mut acc, (x, stride), lines, ahead);
                    x = x.add(L::GROUP);
                }
                for _ in 0..run.shift {
                    // Sums take half as long as shifts, and most shifts are by one. Not flattened: the compiler keeps
                    // the sums in registers if it sees each of them.
                    for acc in &mut acc {
                        acc[0] = _mm512_add_epi32(acc[0], acc[0]);
                        acc[1] = _mm512_add_epi32(acc[1], acc[1]);
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
                pixel: at.pixel + tile * N,
                n_rows: N,
            };
            if S::WATCHES {
                sink.watch(place, next, &ends);
            }
            waiting.place = place;
        }
        waiting.now ^= 1;
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
    (mut x, mut stride): (*const L::Activation, usize),
    lines: &[Line; 2],
    ahead: usize,
) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch, _mm512_load_si512, _mm512_set1_epi32};
    // SAFETY: the four bytes of a group, four `u8` or two `i16`, are there for each patch; a pair of lines is 128
    // aligned bytes.
    unsafe {
        // Steps from row to row: a pointer for each row would not fit in the registers, and the compiler would set up
        // all of them for every run if it knew that the distance stays the same.
        std::arch::asm!("/* {0} */", inout(reg) stride, options(nomem, nostack, preserves_flags));
        let next = lines.as_ptr().wrapping_add(ahead);
        _mm_prefetch::<_MM_HINT_T1>(next.cast());
        _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(1).cast());
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
