//! Passes over what enters a layer: whole numbers of floats, and the extremes of channels.

use crate::chain::Activation;
use crate::dispatch::{InstructionSet, Job, dispatch};
use crate::isa::Kernels;

impl Kernels {
    /// Writes floats as integers into `out`; returns whether all are whole numbers in `lo..=hi`. If not, what is
    /// written is unspecified.
    ///
    /// The caller chooses a type that holds `lo..=hi`.
    ///
    /// # Panics
    ///
    /// Panics if the lengths differ.
    #[must_use]
    pub fn whole_numbers<T: Activation>(
        self,
        x: &[f32],
        (lo, hi): (i32, i32),
        out: &mut [T],
    ) -> bool {
        assert_eq!(x.len(), out.len(), "an integer for each float");
        let mut fits = true;
        let fits_now = &mut fits;
        dispatch(
            self,
            Whole {
                x,
                range: (lo, hi),
                out,
                fits: fits_now,
            },
        );
        fits
    }

    /// Returns whether all of `x` are whole numbers in `lo..=hi`.
    #[must_use]
    pub fn are_whole_numbers(self, x: &[f32], (lo, hi): (i32, i32)) -> bool {
        let mut fits = true;
        let fits_now = &mut fits;
        dispatch(
            self,
            AreWhole {
                x,
                range: (lo, hi),
                fits: fits_now,
            },
        );
        fits
    }

    /// Lowers `least` and raises `most`, one entry a channel, to the values of `x`, `[pixels, channels]`.
    ///
    /// # Panics
    ///
    /// Panics if `least` and `most` have other lengths, or `x` is no whole number of pixels.
    pub fn channel_extremes<T: Activation>(self, x: &[T], least: &mut [T], most: &mut [T]) {
        assert_eq!(least.len(), most.len(), "both ends of each channel");
        assert!(x.len().checked_rem(least.len()) == Some(0), "whole pixels");
        dispatch(self, Ends { x, least, most });
    }
}

impl Kernels {
    /// Adds the pixels of `x`, `[pixels, channels]`, to `sums`, `[channels]`. NUMERICS.md N21.
    ///
    /// The caller knows that the sums fit.
    ///
    /// # Panics
    ///
    /// Panics if `x` is no whole number of pixels.
    pub fn sum_pixels<T: Activation + Into<i64>>(self, x: &[T], sums: &mut [i64]) {
        assert!(x.len().checked_rem(sums.len()) == Some(0), "whole pixels");
        dispatch(self, Pixels { x, sums });
    }
}

struct Pixels<'a, T> {
    x: &'a [T],
    sums: &'a mut [i64],
}

impl<T: Activation + Into<i64>> Job for Pixels<'_, T> {
    fn n_columns(&self) -> usize {
        self.x.len()
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(self, _set: S) {
        for pixel in self.x.chunks_exact(self.sums.len()) {
            for (sum, v) in self.sums.iter_mut().zip(pixel) {
                *sum = sum.wrapping_add((*v).into());
            }
        }
    }
}

/// Values that are compared side by side at least.
const WIDTH: usize = 256;

struct Whole<'a, T> {
    x: &'a [f32],
    range: (i32, i32),
    out: &'a mut [T],
    fits: &'a mut bool,
}

impl<T: Activation> Job for Whole<'_, T> {
    fn n_columns(&self) -> usize {
        self.x.len()
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(self, _set: S) {
        let (lo, hi) = self.range;
        *self.fits = if lo >= -SHORT && hi <= SHORT {
            short(self.x, (lo, hi), self.out)
        } else {
            long(self.x, (lo, hi), self.out)
        };
    }
}

struct AreWhole<'a> {
    x: &'a [f32],
    range: (i32, i32),
    fits: &'a mut bool,
}

impl Job for AreWhole<'_> {
    fn n_columns(&self) -> usize {
        self.x.len()
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(self, _set: S) {
        let (lo, hi) = self.range;
        // Nothing is kept of the numbers: a few places for them stay in the nearest cache.
        let mut room = [0_i32; WIDTH];
        *self.fits = self.x.chunks(WIDTH).fold(true, |all, x| {
            let out = &mut room[..x.len()];
            all & if lo >= -SHORT && hi <= SHORT {
                short(x, (lo, hi), out)
            } else {
                long(x, (lo, hi), out)
            }
        });
    }
}

/// Magnitudes of whole numbers that stay themselves when [`MAGIC`] is added.
const SHORT: i32 = 1 << 22;

/// A float of this size ends with its ones: what is added to it is rounded to a whole number, which is then how many
/// steps the float is above it.
const MAGIC: f32 = 12_582_912.0;

/// As [`Kernels::whole_numbers`], in vectors, for magnitudes up to [`SHORT`].
#[expect(
    clippy::cast_precision_loss,
    clippy::float_cmp,
    reason = "both ends are exact, and a number that comes back unchanged was whole"
)]
#[inline(always)]
fn short<T: Activation>(x: &[f32], (lo, hi): (i32, i32), out: &mut [T]) -> bool {
    let (lo, hi) = (lo as f32, hi as f32);
    let mut wrong = 0_u32;
    for (out, v) in out.iter_mut().zip(x) {
        let moved = *v + MAGIC;
        let integer = moved.to_bits().wrapping_sub(MAGIC.to_bits()).cast_signed();
        let fits = (moved - MAGIC == *v) & (*v >= lo) & (*v <= hi);
        wrong |= u32::from(!fits);
        *out = T::low_bits(i64::from(integer));
    }
    wrong == 0
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    reason = "a number that comes back unchanged was whole"
)]
#[inline(always)]
fn long<T: Activation>(x: &[f32], (lo, hi): (i32, i32), out: &mut [T]) -> bool {
    let mut wrong = 0_u32;
    for (out, v) in out.iter_mut().zip(x) {
        let integer = *v as i32;
        // The largest `i32` is no f32: 2^31 would come back too.
        let fits =
            (integer as f32 == *v) & (*v < -(i32::MIN as f32)) & (integer >= lo) & (integer <= hi);
        wrong |= u32::from(!fits);
        *out = T::low_bits(i64::from(integer));
    }
    wrong == 0
}

struct Ends<'a, T> {
    x: &'a [T],
    least: &'a mut [T],
    most: &'a mut [T],
}

impl<T: Activation> Job for Ends<'_, T> {
    fn n_columns(&self) -> usize {
        self.x.len()
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(self, _set: S) {
        // Several pixels side by side fill the vectors, however few channels they have.
        let n = self.least.len();
        let width = n * WIDTH.div_ceil(n.max(1));
        let (mut least, mut most) = (
            self.least.repeat(width.div_ceil(n)),
            self.most.repeat(width.div_ceil(n)),
        );
        for pixels in self.x.chunks(width) {
            let (least, most) = (&mut least[..pixels.len()], &mut most[..pixels.len()]);
            for ((least, most), v) in least.iter_mut().zip(most).zip(pixels) {
                *least = (*least).min(*v);
                *most = (*most).max(*v);
            }
        }
        for (i, (low, high)) in least.into_iter().zip(most).enumerate() {
            let channel = i.rem_euclid(n);
            self.least[channel] = self.least[channel].min(low);
            self.most[channel] = self.most[channel].max(high);
        }
    }
}
