//! What happens to a result before it leaves the layer: saturation, bias, rectifier, output quantizer.

use kernels::{Clipped, Extremes, Finish, Kernels, Limit, NarrowCounts, Narrowing, Steps, Summary};
use quantizer_core::layers::IntegerLayer;
use quantizer_core::round::shift_half_up;
use quantizer_core::{Counters, Stage, StageCount, ValueBits};

use super::tensor::Int;

/// Saturates results, adds the bias and narrows, channel by channel.
#[derive(Clone, Debug)]
pub(super) struct Epilogue {
    /// Stage at which the operation's own results saturate, if they can.
    sum_stage: Option<Stage>,
    steps: Steps,
    /// The steps in vectors; absent where they could leave an `i64`.
    narrowing: Option<Narrowing>,
    /// The steps in one pass; absent where they need more than an `i32`.
    finish: Option<Finish>,
    channels: usize,
}

/// Counts of one worker, merged at the end.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    counts: NarrowCounts,
    elements: u64,
}

/// The least and the largest result of each channel.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    least: Vec<i32>,
    most: Vec<i32>,
}

impl Ends {
    /// Returns these ends of the channels, which may have zero among their results.
    pub(super) fn new<T: Int>(least: &[T], most: &[T]) -> Self {
        let narrow = |ends: &[T]| ends.iter().map(|v| i32::narrow(v.wide())).collect();
        Self {
            least: narrow(least),
            most: narrow(most),
        }
    }

    /// Returns the ends of these results and of others of the same layer.
    pub(super) fn joined(mut self, other: &Self) -> Self {
        let least = self.least.iter_mut().zip(&other.least);
        least.for_each(|(own, other)| *own = (*own).min(*other));
        let most = self.most.iter_mut().zip(&other.most);
        most.for_each(|(own, other)| *own = (*own).max(*other));
        self
    }

    /// Returns the number of channels.
    pub(super) const fn n_channels(&self) -> usize {
        self.least.len()
    }

    /// Returns both ends of each channel, zero between them.
    pub(super) fn with_zero(&self) -> impl Iterator<Item = (i64, i64)> {
        let ends = self.least.iter().zip(&self.most);
        ends.map(|(least, most)| ((*least).min(0).into(), (*most).max(0).into()))
    }
}

impl Epilogue {
    /// Returns the epilogue of `layer`, whose results saturate at `sum_stage` and are at most
    /// `largest` in magnitude.
    pub(super) fn new(
        layer: &IntegerLayer,
        sum_stage: Option<Stage>,
        channels: usize,
        largest: u64,
    ) -> Self {
        let steps = steps(layer, sum_stage, None, channels, layer);
        Self::of(steps, sum_stage, channels, largest)
    }

    /// Returns the epilogue of a rectifier, `tops` being its upper ends.
    pub(super) fn rectifier(layer: &IntegerLayer, tops: Vec<i64>, largest: u64) -> Self {
        let channels = tops.len();
        let steps = steps(layer, None, Some(tops), channels, layer);
        Self::of(steps, None, channels, largest)
    }

    /// Returns the epilogue of `layer` and of the rectifier that alone takes its results.
    pub(super) fn rectified(
        layer: &IntegerLayer,
        rectifier: &IntegerLayer,
        tops: Vec<i64>,
        largest: u64,
    ) -> Self {
        let (stage, channels) = (Some(Stage::Accumulator), tops.len());
        let steps = steps(layer, stage, Some(tops), channels, rectifier);
        Self::of(steps, stage, channels, largest)
    }

    fn of(steps: Steps, sum_stage: Option<Stage>, channels: usize, largest: u64) -> Self {
        let narrowing = Narrowing::new(&steps, channels, largest);
        let finish = Finish::new(&steps, channels, largest);
        Self {
            sum_stage,
            steps,
            narrowing,
            finish,
            channels,
        }
    }

    /// Returns the number of channels.
    pub(super) const fn channels(&self) -> usize {
        self.channels
    }

    /// Returns the steps in one pass, if they can be done so.
    pub(super) const fn finish(&self) -> Option<&Finish> {
        self.finish.as_ref()
    }

    /// Returns the counts and the ends of `n_results` results that were finished in one pass, `None` if a step before the
    /// last shift clipped: then the results are wrong.
    pub(super) fn finished(
        &self,
        extremes: &Extremes,
        n_results: usize,
    ) -> Option<(Tally, Option<Ends>)> {
        if n_results == 0 {
            return Some((Tally::default(), None));
        }
        let finish = self.finish.as_ref()?;
        let summary = Kernels::active().summarize(finish, extremes)?;
        let tally = Tally {
            counts: summary.counts,
            elements: u64::try_from(n_results).unwrap_or(u64::MAX),
        };
        let Summary { least, most, .. } = summary;
        Some((tally, Some(Ends { least, most })))
    }

    /// Writes the layer's outputs for results `[pixels, channels]`.
    pub(super) fn run<A: Int, O: Int>(&self, results: &[A], out: &mut [O], tally: &mut Tally) {
        tally.elements += u64::try_from(results.len()).unwrap_or(u64::MAX);
        if let Some(narrowing) = &self.narrowing {
            let counts = Kernels::active().narrow(narrowing, results, out);
            tally.counts.merge(&counts);
            return;
        }
        let pixels = results.chunks(self.channels.max(1));
        for (results, out) in pixels.zip(out.chunks_mut(self.channels.max(1))) {
            for (channel, (v, out)) in results.iter().zip(out).enumerate() {
                *out = O::low_bits(self.exact(v.wide(), channel, &mut tally.counts));
            }
        }
    }

    /// Returns one output where the steps do not fit in vectors: wide shifts come in `i128`.
    fn exact(&self, result: i64, channel: usize, counts: &mut NarrowCounts) -> i64 {
        let mut v = result;
        if let Some(limit) = self.steps.sum {
            v = saturate(v, limit, &mut counts.sum);
        }
        if let Some((bias, limit)) = &self.steps.bias {
            v = saturate(v + bias[channel], *limit, &mut counts.bias);
        }
        if let Some(tops) = &self.steps.rectify {
            v = v.max(0).min(tops[channel]);
        }
        if let Some((q, limit)) = &self.steps.scale {
            v = saturate(v.saturating_mul(q[channel]), *limit, &mut counts.scale);
        }
        if let Some((shift, limit)) = &self.steps.shift {
            v = saturate(shift_half_up(v, shift[channel]), *limit, &mut counts.shift);
        }
        v
    }

    /// Adds the counts of a worker under the stages of this layer.
    pub(super) fn count(&self, tally: &Tally, counters: &mut Counters) {
        let counts = &tally.counts;
        let steps = &self.steps;
        let stages = [
            (self.sum_stage, counts.sum),
            (steps.bias.as_ref().map(|_| Stage::BiasAdd), counts.bias),
            (
                steps.scale.as_ref().map(|_| Stage::ScaleMultiply),
                counts.scale,
            ),
            (
                steps.shift.as_ref().map(|_| Stage::OutputRescale),
                counts.shift,
            ),
        ];
        for (stage, clipped) in stages {
            // A stage that saw no value does not occur.
            if let Some(stage) = stage.filter(|_| tally.elements > 0) {
                let count = StageCount {
                    saturated: clipped.n,
                    elements: tally.elements,
                    max_abs: clipped.max_abs,
                };
                counters.add(stage, count);
            }
        }
    }
}

impl Tally {
    /// Adds the counts of another worker.
    pub(super) fn merge(&mut self, other: &Self) {
        self.counts.merge(&other.counts);
        self.elements += other.elements;
    }
}

fn limit(bits: ValueBits) -> Limit {
    Limit {
        lo: bits.int_min(),
        hi: bits.int_max(),
    }
}

fn saturate(v: i64, limit: Limit, clipped: &mut Clipped) -> i64 {
    let inside = v.clamp(limit.lo, limit.hi);
    clipped.n += u64::from(inside != v);
    clipped.max_abs = clipped.max_abs.max(v.unsigned_abs());
    inside
}

/// Returns the steps of `layer`, whose results saturate at `sum_stage`, with a rectifier and an output quantizer, which
/// is that of `last`.
fn steps(
    layer: &IntegerLayer,
    sum_stage: Option<Stage>,
    tops: Option<Vec<i64>>,
    channels: usize,
    last: &IntegerLayer,
) -> Steps {
    let inner = layer.inner.value_bits;
    let output = last.output.as_ref();
    let each = |f: &dyn Fn(usize) -> i64| (0..channels).map(f).collect();
    Steps {
        sum: sum_stage.map(|_| limit(inner)),
        bias: layer.bias.as_ref().map(|bias| {
            let aligned = bias.aligned(inner);
            (each(&|c| aligned.at(c)), limit(inner))
        }),
        rectify: tops,
        scale: output.and_then(|stage| {
            let (q, buffer) = stage.multiplier.as_ref()?;
            Some((each(&|c| q.at(c)), limit(*buffer)))
        }),
        shift: output.map(|stage| {
            let shift = (0..channels).map(|c| stage.shift.at(c)).collect();
            (shift, limit(stage.value_bits))
        }),
    }
}
