//! The bodies: products that mix channels, products per channel, and maxima.

use std::array::from_fn;

use crate::chain::{Activation, Chain};
use crate::dispatch::{InstructionSet, Job};
use crate::plan::{Patch, Pixel, Run, Source};
use crate::row::Row;
use crate::tiles::{Tiles, cover};

/// What a product reads besides its plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factors<'a, C: Chain> {
    pub(crate) x: &'a [C::X],
    pub(crate) kernel: &'a [C::W],
    /// One value per channel; empty if the plan has no taps outside the image.
    pub(crate) pad: &'a [C::X],
    /// One value per column.
    pub(crate) bias: Option<&'a [C::A]>,
}

impl<'a, C: Chain> Factors<'a, C> {
    /// Returns the activations that `run` reads for `pixel`, from the first tap's first channel on.
    #[inline(always)]
    fn source(&self, run: &Run, pixel: Pixel, channels: usize) -> &'a [C::X] {
        match run.source {
            Source::Image(distance) => &self.x[pixel.base.wrapping_add(distance) * channels..],
            Source::Pad => self.pad,
        }
    }

    #[inline(always)]
    fn store<const N: usize>(&self, acc: &[C::A; N], column: usize, out: &mut [C::A]) {
        match self.bias {
            None => out.copy_from_slice(acc),
            Some(bias) => {
                let bias = &bias[column..column + N];
                for idx in 0..N {
                    out[idx] = C::add_bias(acc[idx], bias[idx]);
                }
            }
        }
    }
}

/// Returns the `N` elements from `first` on.
#[inline(always)]
pub(crate) fn columns<T, const N: usize>(values: &[T], first: usize) -> &[T; N] {
    match values[first..first + N].first_chunk() {
        Some(columns) => columns,
        None => unreachable!("a slice of N elements is an array of N elements"),
    }
}

/// `out[pixel, filter] = sum of x[pixel + tap, channel] * kernel[tap, channel, filter]`.
#[derive(Debug)]
pub(crate) struct Mixing<'a, C: Chain> {
    pub(crate) factors: Factors<'a, C>,
    pub(crate) channels: usize,
    pub(crate) filters: usize,
    pub(crate) patch: &'a Patch,
    pub(crate) out: &'a mut [C::A],
}

impl<C: Chain> Job for Mixing<'_, C> {
    #[inline(always)]
    fn n_columns(&self) -> usize {
        self.filters
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(mut self, set: S) {
        let patch = self.patch;
        cover::<_, _, P, N>(&mut self, set, &patch.pixels);
    }
}

impl<C: Chain> Tiles for Mixing<'_, C> {
    #[inline(always)]
    fn tile<S: InstructionSet, const P: usize, const N: usize>(
        &mut self,
        set: S,
        pixels: &[Pixel; P],
        column: usize,
    ) {
        let mut acc = [C::Row::<S, N>::zero(set); P];
        for run in &self.patch.runs {
            let len = run.n_taps * self.channels;
            let first = run.tap * self.channels * self.filters;
            let kernel = &self.factors.kernel[first..first + len * self.filters];
            let sources: [&[C::X]; P] =
                from_fn(|p| &self.factors.source(run, pixels[p], self.channels)[..len]);
            for k in 0..len {
                let weights = columns(kernel, k * self.filters + column);
                for (acc, source) in acc.iter_mut().zip(&sources) {
                    acc.step(source[k], weights);
                }
            }
        }
        for (pixel, acc) in pixels.iter().zip(&acc) {
            let out = &mut self.out[pixel.out * self.filters + column..][..N];
            self.factors.store(&acc.values(), column, out);
        }
    }
}

/// `out[pixel, channel] = sum of x[pixel + tap, channel] * kernel[tap, channel]`.
#[derive(Debug)]
pub(crate) struct PerChannel<'a, C: Chain> {
    pub(crate) factors: Factors<'a, C>,
    pub(crate) channels: usize,
    pub(crate) patch: &'a Patch,
    pub(crate) out: &'a mut [C::A],
}

impl<C: Chain> Job for PerChannel<'_, C> {
    #[inline(always)]
    fn n_columns(&self) -> usize {
        self.channels
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(mut self, set: S) {
        let patch = self.patch;
        cover::<_, _, P, N>(&mut self, set, &patch.pixels);
    }
}

impl<C: Chain> Tiles for PerChannel<'_, C> {
    #[inline(always)]
    fn tile<S: InstructionSet, const P: usize, const N: usize>(
        &mut self,
        set: S,
        pixels: &[Pixel; P],
        column: usize,
    ) {
        let mut acc = [C::Row::<S, N>::zero(set); P];
        for run in &self.patch.runs {
            let kernel = &self.factors.kernel[run.tap * self.channels..];
            let sources: [&[C::X]; P] =
                from_fn(|p| self.factors.source(run, pixels[p], self.channels));
            for tap in 0..run.n_taps {
                let first = tap * self.channels + column;
                let weights = columns(kernel, first);
                for (acc, source) in acc.iter_mut().zip(&sources) {
                    acc.step_each(columns(source, first), weights);
                }
            }
        }
        for (pixel, acc) in pixels.iter().zip(&acc) {
            let out = &mut self.out[pixel.out * self.channels + column..][..N];
            self.factors.store(&acc.values(), column, out);
        }
    }
}

/// `out[pixel, channel] = maximum of x[pixel + tap, channel]`.
#[derive(Debug)]
pub(crate) struct Maximum<'a, X> {
    pub(crate) x: &'a [X],
    pub(crate) channels: usize,
    pub(crate) patch: &'a Patch,
    pub(crate) out: &'a mut [X],
}

impl<X: Activation> Job for Maximum<'_, X> {
    #[inline(always)]
    fn n_columns(&self) -> usize {
        self.channels
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(mut self, set: S) {
        let patch = self.patch;
        cover::<_, _, P, N>(&mut self, set, &patch.pixels);
    }
}

impl<X: Activation> Tiles for Maximum<'_, X> {
    #[inline(always)]
    fn tile<S: InstructionSet, const P: usize, const N: usize>(
        &mut self,
        _: S,
        pixels: &[Pixel; P],
        column: usize,
    ) {
        let mut max = [[X::MIN; N]; P];
        for run in &self.patch.runs {
            let Source::Image(distance) = run.source else {
                continue;
            };
            for p in 0..P {
                let first = pixels[p].base.wrapping_add(distance) * self.channels + column;
                for tap in 0..run.n_taps {
                    let x = &self.x[first + tap * self.channels..][..N];
                    for n in 0..N {
                        max[p][n] = max[p][n].max(x[n]);
                    }
                }
            }
        }
        for (pixel, max) in pixels.iter().zip(&max) {
            self.out[pixel.out * self.channels + column..][..N].copy_from_slice(max);
        }
    }
}
