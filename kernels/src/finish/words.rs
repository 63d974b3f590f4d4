//! [`Finish`] where results stay in an `i32`: they take the places of their sums.

use super::{Extremes, Finish};
use crate::dispatch::{InstructionSet, Job, dispatch};
use crate::isa::Kernels;

impl Kernels {
    /// Turns sums `[pixels, channels]` into their results, and adds what they were to `extremes`. NUMERICS.md E2.
    ///
    /// # Panics
    ///
    /// Panics if there is no whole number of pixels, or `extremes` are those of fewer channels.
    pub fn finish_in_place(self, finish: &Finish, values: &mut [i32], extremes: &mut Extremes) {
        assert!(
            values.len().checked_rem(finish.channels) == Some(0),
            "whole pixels"
        );
        dispatch(
            self,
            InPlace {
                finish,
                values,
                extremes,
            },
        );
    }
}

struct InPlace<'a> {
    finish: &'a Finish,
    values: &'a mut [i32],
    extremes: &'a mut Extremes,
}

impl Job for InPlace<'_> {
    fn n_columns(&self) -> usize {
        self.finish.channels
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(self, _set: S) {
        if self.finish.shifts {
            self.shifted();
        } else {
            self.bounded();
        }
    }
}

impl InPlace<'_> {
    /// Results that are sums between two ends; none of these steps is counted.
    #[inline(always)]
    fn bounded(self) {
        let (finish, extremes) = (self.finish, self.extremes);
        let n = finish.channels;
        let (bias, least, most) = (&finish.bias[..n], &finish.least[..n], &finish.most[..n]);
        let (lo, hi) = (&mut extremes.least[..n], &mut extremes.most[..n]);
        for pixel in self.values.chunks_exact_mut(n) {
            for c in 0..n {
                let v = pixel[c].wrapping_add(bias[c]);
                lo[c] = lo[c].min(v);
                hi[c] = hi[c].max(v);
                pixel[c] = v.max(least[c]).min(most[c]);
            }
        }
    }

    #[inline(always)]
    fn shifted(self) {
        let (finish, extremes) = (self.finish, self.extremes);
        let n = finish.channels;
        let (bias, least, most) = (&finish.bias[..n], &finish.least[..n], &finish.most[..n]);
        let (scale, half, right) = (&finish.scale[..n], &finish.half[..n], &finish.right[..n]);
        let (below, above) = (&finish.clips_below[..n], &finish.clips_above[..n]);
        let (lo, hi) = (&mut extremes.least[..n], &mut extremes.most[..n]);
        for pixel in self.values.chunks_exact_mut(n) {
            let mut clipped = 0_u32;
            for c in 0..n {
                let v = pixel[c].wrapping_add(bias[c]);
                lo[c] = lo[c].min(v);
                hi[c] = hi[c].max(v);
                clipped += u32::from(v < below[c]) + u32::from(v > above[c]);
                // Only the sum with the half stays in an `i32`: a product may leave it by less than that.
                let scaled = v.max(least[c]).min(most[c]).wrapping_mul(scale[c]);
                pixel[c] = scaled.wrapping_add(half[c]) >> right[c];
            }
            extremes.clipped += u64::from(clipped);
        }
    }
}
