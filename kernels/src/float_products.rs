//! The f32 bodies, which end their chains in registers (see [`Ending`]).

use std::array::from_fn;

use crate::chain::Fused;
use crate::dispatch::{InstructionSet, Job};
use crate::ending::Ending;
use crate::plan::{Patch, Pixel, Run, Source};
use crate::products::columns;
use crate::row::{FloatRow, Row};
use crate::tiles::{Tiles, cover};

/// What an f32 product reads besides its plan, and where it goes.
#[derive(Debug)]
pub(crate) struct Floats<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) kernel: &'a [f32],
    /// One value per channel; empty if the plan has no taps outside the image.
    pub(crate) pad: &'a [f32],
    pub(crate) channels: usize,
    pub(crate) patch: &'a Patch,
    pub(crate) ending: Ending<'a>,
    pub(crate) out: &'a mut [f32],
}

impl<'a> Floats<'a> {
    /// Returns the activations that `run` reads for `pixel`, from the first tap's first channel on.
    #[inline(always)]
    fn source(&self, run: &Run, pixel: Pixel) -> &'a [f32] {
        source(run, pixel, (self.x, self.pad), self.channels)
    }
}

/// Returns the activations of `x` or `pad` that `run` reads for `pixel`, from the first tap's first channel on.
#[inline(always)]
pub(crate) fn source<'a>(
    run: &Run,
    pixel: Pixel,
    (x, pad): (&'a [f32], &'a [f32]),
    channels: usize,
) -> &'a [f32] {
    match run.source {
        Source::Image(distance) => &x[pixel.base.wrapping_add(distance) * channels..],
        Source::Pad => pad,
    }
}

/// `out[pixel, filter] = sum of x[pixel + tap, channel] * kernel[tap, channel, filter]`.
#[derive(Debug)]
pub(crate) struct FloatMixing<'a> {
    pub(crate) floats: Floats<'a>,
    pub(crate) filters: usize,
}

impl Job for FloatMixing<'_> {
    #[inline(always)]
    fn n_columns(&self) -> usize {
        self.filters
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(mut self, set: S) {
        let patch = self.floats.patch;
        cover::<_, _, P, N>(&mut self, set, &patch.pixels);
    }
}

impl Tiles for FloatMixing<'_> {
    #[inline(always)]
    fn tile<S: InstructionSet, const P: usize, const N: usize>(
        &mut self,
        set: S,
        pixels: &[Pixel; P],
        column: usize,
    ) {
        let (floats, filters) = (&mut self.floats, self.filters);
        let mut acc = [<S::Row<N> as Row<S, Fused, N>>::zero(set); P];
        for run in &floats.patch.runs {
            let len = run.n_taps * floats.channels;
            let first = run.tap * floats.channels * filters;
            let kernel = &floats.kernel[first..first + len * filters];
            let sources: [&[f32]; P] = from_fn(|p| &floats.source(run, pixels[p])[..len]);
            for k in 0..len {
                let weights = columns(kernel, k * filters + column);
                for (acc, source) in acc.iter_mut().zip(&sources) {
                    acc.step(source[k], weights);
                }
            }
        }
        let places = pixels.each_ref().map(|pixel| pixel.out * filters + column);
        FloatRow::<S, N>::end(&acc, floats.ending.columns(column), &places, floats.out);
    }
}

/// `out[pixel, channel] = sum of x[pixel + tap, channel] * kernel[tap, channel]`.
#[derive(Debug)]
pub(crate) struct FloatPerChannel<'a> {
    pub(crate) floats: Floats<'a>,
}

impl Job for FloatPerChannel<'_> {
    #[inline(always)]
    fn n_columns(&self) -> usize {
        self.floats.channels
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(mut self, set: S) {
        let patch = self.floats.patch;
        cover::<_, _, P, N>(&mut self, set, &patch.pixels);
    }
}

impl Tiles for FloatPerChannel<'_> {
    #[inline(always)]
    fn tile<S: InstructionSet, const P: usize, const N: usize>(
        &mut self,
        set: S,
        pixels: &[Pixel; P],
        column: usize,
    ) {
        let floats = &mut self.floats;
        let channels = floats.channels;
        let mut acc = [<S::Row<N> as Row<S, Fused, N>>::zero(set); P];
        for run in &floats.patch.runs {
            let kernel = &floats.kernel[run.tap * channels..];
            let sources: [&[f32]; P] = from_fn(|p| floats.source(run, pixels[p]));
            for tap in 0..run.n_taps {
                let first = tap * channels + column;
                let weights = columns(kernel, first);
                for (acc, source) in acc.iter_mut().zip(&sources) {
                    acc.step_each(columns(source, first), weights);
                }
            }
        }
        let places = pixels.each_ref().map(|pixel| pixel.out * channels + column);
        FloatRow::<S, N>::end(&acc, floats.ending.columns(column), &places, floats.out);
    }
}
