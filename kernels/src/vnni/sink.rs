//! Where tiles of sums go.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m512i;

use super::COLUMNS;
#[cfg(target_arch = "x86_64")]
use super::finish::{FinishLanes, Seen, WIDTH, load, pack, store_halves};
use crate::finish::{Byte, Extremes, Finish};

/// Takes tiles of sums, a block of columns after the other.
pub(super) trait Sink {
    /// What is known of the columns of a block.
    type Lanes;

    /// Returns the number of results.
    fn len(&self) -> usize;

    /// Returns what is added to the sums of the columns from `first` on.
    fn bias(&self, first: usize) -> Option<&[i32]>;

    /// Begins the block of columns from `first` on.
    ///
    /// # Safety
    ///
    /// The CPU has the instruction set of this module, and the caller is compiled for it.
    #[cfg(target_arch = "x86_64")]
    unsafe fn open(&self, first: usize) -> Self::Lanes;

    /// Takes the sums of the columns from `first` on, one row a pixel, the first being number `pixel`.
    ///
    /// # Safety
    ///
    /// As for [`open`](Self::open).
    #[cfg(target_arch = "x86_64")]
    unsafe fn take(
        &mut self,
        lanes: &mut Self::Lanes,
        pixel: usize,
        first: usize,
        sums: &[[i32; COLUMNS]],
    );

    /// Ends the block of columns from `first` on.
    ///
    /// # Safety
    ///
    /// As for [`open`](Self::open).
    #[cfg(target_arch = "x86_64")]
    unsafe fn close(&mut self, lanes: Self::Lanes, first: usize);
}

/// Sums as they are, `[pixels, filters]`.
pub(super) struct Plain<'a> {
    pub(super) out: &'a mut [i32],
    pub(super) filters: usize,
}

impl Sink for Plain<'_> {
    type Lanes = ();

    fn len(&self) -> usize {
        self.out.len()
    }

    fn bias(&self, _first: usize) -> Option<&[i32]> {
        None
    }

    #[cfg(target_arch = "x86_64")]
    unsafe fn open(&self, _first: usize) {}

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn take(&mut self, (): &mut (), pixel: usize, first: usize, sums: &[[i32; COLUMNS]]) {
        let n = COLUMNS.min(self.filters - first);
        let rows = self.out[pixel * self.filters..].chunks_mut(self.filters);
        for (row, sums) in rows.zip(sums) {
            row[first..first + n].copy_from_slice(&sums[..n]);
        }
    }

    #[cfg(target_arch = "x86_64")]
    unsafe fn close(&mut self, (): (), _first: usize) {}
}

/// Results of the whole layer, `[pixels, filters]`.
pub(super) struct Finished<'a, O> {
    pub(super) finish: &'a Finish,
    pub(super) out: &'a mut [O],
    pub(super) extremes: &'a mut Extremes,
}

impl<O: Byte> Sink for Finished<'_, O> {
    #[cfg(target_arch = "x86_64")]
    type Lanes = [FinishLanes; 2];
    #[cfg(not(target_arch = "x86_64"))]
    type Lanes = ();

    fn len(&self) -> usize {
        self.out.len()
    }

    fn bias(&self, first: usize) -> Option<&[i32]> {
        Some(&self.finish.bias[first..first + COLUMNS])
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn open(&self, first: usize) -> [FinishLanes; 2] {
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            [
                FinishLanes::new(self.finish, self.extremes, first),
                FinishLanes::new(self.finish, self.extremes, first + WIDTH),
            ]
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn take(
        &mut self,
        lanes: &mut [FinishLanes; 2],
        pixel: usize,
        first: usize,
        sums: &[[i32; COLUMNS]],
    ) {
        let filters = self.finish.channels();
        let n = COLUMNS.min(filters - first);
        // Copies: the compiler keeps what nobody points to in registers.
        let tables = *lanes;
        let out = self.out[pixel * filters..].chunks_mut(2 * filters);
        // SAFETY: the caller vouches for the instructions.
        let mut seen = unsafe { [Seen::nothing(), Seen::nothing()] };
        for (pair, out) in sums.chunks(2).zip(out) {
            // SAFETY: the caller vouches for the instructions.
            unsafe {
                let row = row_results(&tables, &mut seen, &pair[0]);
                let next = match pair.get(1) {
                    Some(sums) => row_results(&tables, &mut seen, sums),
                    None => row,
                };
                let bytes = pack::<O>([row, next]);
                let (row, next) = out.split_at_mut(filters);
                let next = if pair.len() == 2 {
                    next.get_mut(first..first + n)
                } else {
                    None
                };
                store_halves(bytes, &mut row[first..first + n], next);
            }
        }
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            lanes[0].add(&seen[0], sums.iter().map(|sums| &sums[..WIDTH]));
            lanes[1].add(&seen[1], sums.iter().map(|sums| &sums[WIDTH..]));
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn close(&mut self, lanes: [FinishLanes; 2], first: usize) {
        for (lanes, first) in lanes.iter().zip([first, first + WIDTH]) {
            // SAFETY: the caller vouches for the instructions.
            unsafe { lanes.count(self.extremes, first) };
        }
    }
}

/// Returns the results of the sums of a pixel.
///
/// A function, as closures are not compiled for the instructions.
///
/// # Safety
///
/// The CPU has the instruction set of this module, and the caller is compiled for it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn row_results(
    tables: &[FinishLanes; 2],
    seen: &mut [Seen; 2],
    sums: &[i32; COLUMNS],
) -> [__m512i; 2] {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        [
            tables[0].results(load(&sums[..WIDTH]), &mut seen[0]),
            tables[1].results(load(&sums[WIDTH..]), &mut seen[1]),
        ]
    }
}
