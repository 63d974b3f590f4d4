//! Sums of the products of turned columns with the weights, of 16 channels of some pixels.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::{
    __m256i, _mm256_add_epi16, _mm256_add_epi32, _mm256_load_si256, _mm256_madd_epi16,
    _mm256_maddubs_epi16, _mm256_set1_epi16, _mm256_setzero_si256, _mm256_store_si256,
    _mm256_unpackhi_epi8, _mm256_unpackhi_epi16, _mm256_unpacklo_epi8, _mm256_unpacklo_epi16,
};

use super::weights::{Bytes, Line, group};
use super::{Band, Turned, n_pairs};

/// Turned columns, and which of them an output meets.
pub(super) struct Columns<'a> {
    turned: &'a [Turned],
    /// Columns of a pair of rows.
    n_turned: usize,
    /// Where those of the first pair are among those of all pairs.
    first_pair: usize,
    n_pairs: usize,
    kernel_w: usize,
    pub(super) stride: usize,
    pub(super) dilation: usize,
}

impl<'a> Columns<'a> {
    /// Returns the columns of a band.
    pub(super) fn new(band: &Band<'_>, turned: &'a [Turned]) -> Self {
        let window = &band.plan.window;
        Self {
            turned,
            n_turned: band.n_turned(),
            first_pair: band.first_pair,
            n_pairs: n_pairs(window),
            kernel_w: window.kernel_w,
            stride: window.stride_w,
            dilation: window.dilation_w,
        }
    }

    /// Returns the columns of a pair of rows that `n` outputs meet from `first` on.
    #[inline(always)]
    fn pair(&self, pair: usize, (first, n): (usize, usize), steps: [usize; 3]) -> &'a [Turned] {
        let [kernel_w, stride, dilation] = steps;
        let number = self.first_pair + pair;
        let number = if number < self.n_pairs {
            number
        } else {
            number - self.n_pairs
        };
        let from = &self.turned[number * self.n_turned + first * stride..];
        &from[..(n - 1) * stride + (kernel_w - 1) * dilation + 1]
    }
}

/// Sums of `R` rows of `C` pixels of 16 channels: two vectors each.
pub(super) type Sums<const R: usize, const C: usize> = [[[__m256i; 2]; C]; R];

/// A way to multiply.
pub(super) trait Taps: Copy {
    /// Returns the sums of `R` rows of the `C` pixels from `first` on, of half `half` of the channels.
    ///
    /// # Safety
    ///
    /// The CPU has AVX2, and the caller is compiled for it.
    unsafe fn sums<const R: usize, const C: usize>(
        self,
        columns: &Columns<'_>,
        place: (usize, usize),
    ) -> Sums<R, C>;
}

/// Bytes, with a kernel of 3x3 that is moved by `S` columns and not dilated; zero stands for any steps.
#[derive(Clone, Copy)]
pub(super) struct OfBytes<'a, const S: usize>(pub(super) &'a [[Bytes; 2]; 2]);

impl<const S: usize> Taps for OfBytes<'_, S> {
    #[inline(always)]
    unsafe fn sums<const R: usize, const C: usize>(
        self,
        columns: &Columns<'_>,
        (half, first): (usize, usize),
    ) -> Sums<R, C> {
        let steps = if S > 0 {
            [3, S, 1]
        } else {
            [3, columns.stride, columns.dilation]
        };
        let [_, stride, dilation] = steps;
        let turned = [
            columns.pair(0, (first, C), steps),
            columns.pair(1, (first, C), steps),
        ];
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            let mut acc = [[[_mm256_setzero_si256(); 2]; C]; R];
            for (r, acc) in acc.iter_mut().enumerate() {
                let [a, b] = &self.0[r][half].starts;
                *acc = [[load(a), load(b)]; C];
            }
            for tap in 0..3 {
                for pair in 0..2 {
                    for (r, acc) in acc.iter_mut().enumerate() {
                        let weights = load(&self.0[r][half].taps[tap][pair]);
                        for (c, acc) in acc.iter_mut().enumerate() {
                            let x = load(&turned[pair][c * stride + tap * dilation][half]);
                            let acc = &mut acc[group(tap, pair)];
                            *acc = _mm256_add_epi16(*acc, _mm256_maddubs_epi16(x, weights));
                        }
                    }
                }
            }
            let ones = _mm256_set1_epi16(1);
            for acc in acc.as_flattened_mut() {
                let [a, b] = *acc;
                acc[0] = _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), ones);
                acc[1] = _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), ones);
            }
            acc
        }
    }
}

/// Words, with any kernel.
#[derive(Clone, Copy)]
pub(super) struct OfWords<'a>(pub(super) &'a [[Vec<[Line; 2]>; 2]; 2]);

impl Taps for OfWords<'_> {
    #[inline(always)]
    unsafe fn sums<const R: usize, const C: usize>(
        self,
        columns: &Columns<'_>,
        (half, first): (usize, usize),
    ) -> Sums<R, C> {
        let &Columns {
            kernel_w,
            stride,
            dilation,
            ..
        } = columns;
        let n_pairs = self.0[0][half].len().div_euclid(kernel_w);
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            let zero = _mm256_setzero_si256();
            let mut acc = [[[zero; 2]; C]; R];
            for pair in 0..n_pairs {
                let turned = columns.pair(pair, (first, C), [kernel_w, stride, dilation]);
                for tap in 0..kernel_w {
                    for c in 0..C {
                        let x = load(&turned[c * stride + tap * dilation][half]);
                        let low = _mm256_unpacklo_epi8(x, zero);
                        let high = _mm256_unpackhi_epi8(x, zero);
                        for (r, acc) in acc.iter_mut().enumerate() {
                            let lines = &self.0[r][half][pair * kernel_w + tap];
                            let [a, b] = &mut acc[c];
                            *a = _mm256_add_epi32(*a, _mm256_madd_epi16(low, load(&lines[0])));
                            *b = _mm256_add_epi32(*b, _mm256_madd_epi16(high, load(&lines[1])));
                        }
                    }
                }
            }
            acc
        }
    }
}

/// # Safety
///
/// The CPU has AVX2, and the caller is compiled for it.
#[inline(always)]
pub(super) unsafe fn load(line: &Line) -> __m256i {
    // SAFETY: a line is an aligned vector.
    unsafe { _mm256_load_si256(line.0.as_ptr().cast()) }
}

/// # Safety
///
/// The CPU has AVX2, and the caller is compiled for it.
#[inline(always)]
pub(super) unsafe fn put(line: &mut Line, values: __m256i) {
    // SAFETY: a line is an aligned vector.
    unsafe { _mm256_store_si256(line.0.as_mut_ptr().cast(), values) };
}
