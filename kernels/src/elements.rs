//! Passes over f32 elements: rectifiers and largest magnitudes.

use crate::dispatch::{InstructionSet, Job, dispatch};
use crate::ending::MAGNITUDE;
use crate::isa::Kernels;

impl Kernels {
    /// Writes the rectified `x` into `out`.
    ///
    /// ```text
    /// out = most if x >= most, else 0 if x < 0, else x
    /// ```
    ///
    /// NaN stays NaN. `most` is positive; infinity is no upper end.
    ///
    /// # Panics
    ///
    /// Panics if the lengths differ.
    pub fn rectify_f32(self, x: &[f32], most: f32, out: &mut [f32]) {
        assert_eq!(x.len(), out.len(), "a result for each element");
        dispatch(self, Rectify { x, most, out });
    }

    /// Rectifies `x` where it is, as [`rectify_f32`](Self::rectify_f32).
    pub fn rectify_f32_in_place(self, x: &mut [f32], most: f32) {
        dispatch(self, RectifyInPlace { x, most });
    }

    /// Raises `largest`, one entry a channel, to the magnitudes of `x`, `[pixels, channels]`.
    ///
    /// Magnitudes are bits of f32 without the sign: they order as the floats do, infinity above all numbers and NaN
    /// above infinity.
    ///
    /// # Panics
    ///
    /// Panics if `x` is no whole number of pixels.
    pub fn largest_magnitudes(self, x: &[f32], largest: &mut [u32]) {
        assert!(
            x.len().checked_rem(largest.len()) == Some(0),
            "whole pixels"
        );
        dispatch(self, Magnitudes { x, largest });
    }
}

struct Rectify<'a> {
    x: &'a [f32],
    most: f32,
    out: &'a mut [f32],
}

impl Job for Rectify<'_> {
    fn n_columns(&self) -> usize {
        self.x.len()
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(self, _set: S) {
        let most = self.most;
        for (out, x) in self.out.iter_mut().zip(self.x) {
            let positive = if *x < 0.0 { 0.0 } else { *x };
            *out = if positive >= most { most } else { positive };
        }
    }
}

struct RectifyInPlace<'a> {
    x: &'a mut [f32],
    most: f32,
}

impl Job for RectifyInPlace<'_> {
    fn n_columns(&self) -> usize {
        self.x.len()
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(self, _set: S) {
        let most = self.most;
        for x in self.x {
            let positive = if *x < 0.0 { 0.0 } else { *x };
            *x = if positive >= most { most } else { positive };
        }
    }
}

struct Magnitudes<'a> {
    x: &'a [f32],
    largest: &'a mut [u32],
}

impl Job for Magnitudes<'_> {
    fn n_columns(&self) -> usize {
        self.largest.len()
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(self, _set: S) {
        let Self { x, largest } = self;
        let n_channels = largest.len();
        if n_channels >= NARROW {
            return raise(largest, x);
        }
        // Several pixels of few channels side by side.
        let mut groups = [0; NARROW * GROUP];
        let groups = &mut groups[..n_channels * GROUP];
        let (whole, rest) = x.split_at(x.len() - x.len() % groups.len());
        raise(groups, whole);
        raise(largest, rest);
        for group in groups.chunks_exact(n_channels) {
            for (largest, group) in largest.iter_mut().zip(group) {
                *largest = (*largest).max(*group);
            }
        }
    }
}

/// Fewest channels whose pixels are worth vectors of their own.
const NARROW: usize = 16;

/// Pixels side by side where there are fewer channels.
const GROUP: usize = 16;

/// Raises `largest` to the magnitudes of `x`, which is a whole number of times as long.
#[inline(always)]
fn raise(largest: &mut [u32], x: &[f32]) {
    for x in x.chunks_exact(largest.len()) {
        for (largest, x) in largest.iter_mut().zip(x) {
            *largest = (*largest).max(x.to_bits() & MAGNITUDE);
        }
    }
}
