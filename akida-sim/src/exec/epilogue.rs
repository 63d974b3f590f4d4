//! What happens to a sum before it leaves the layer: saturation, bias, output quantizer.

use quantizer_core::layers::IntegerLayer;
use quantizer_core::round::shift_half_up;
use quantizer_core::{Counters, PerAxis, Stage, StageCount, ValueBits};

/// Saturates sums, adds the bias and narrows, channel by channel.
#[derive(Clone, Debug)]
pub(super) struct Epilogue {
    /// Stage at which the operation's own results saturate, if they can.
    sum_stage: Option<Stage>,
    inner: ValueBits,
    bias: Option<Vec<i64>>,
    output: Option<Narrowing>,
}

#[derive(Clone, Debug)]
struct Narrowing {
    multiplier: Option<(PerAxis<i64>, ValueBits)>,
    shift: PerAxis<i32>,
    value_bits: ValueBits,
}

/// Counts of one worker, merged at the end.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    sum: StageCount,
    bias: StageCount,
    scale: StageCount,
    rescale: StageCount,
}

impl Epilogue {
    /// Returns the epilogue of `layer` whose sums saturate at `sum_stage`.
    pub(super) fn new(layer: &IntegerLayer, sum_stage: Option<Stage>, n_channels: usize) -> Self {
        let inner = layer.inner.value_bits;
        let bias = layer.bias.as_ref().map(|bias| {
            let aligned = bias.aligned(inner);
            (0..n_channels).map(|c| aligned.at(c)).collect()
        });
        let output = layer.output.as_ref().map(|stage| Narrowing {
            multiplier: stage.multiplier.clone(),
            shift: stage.shift.clone(),
            value_bits: stage.value_bits,
        });
        Self {
            sum_stage,
            inner,
            bias,
            output,
        }
    }

    /// Returns the layer's output for the result `sum` of its operation in `channel`.
    #[inline]
    pub(super) fn apply(&self, sum: i64, channel: usize, tally: &mut Tally) -> i64 {
        let mut v = sum;
        if self.sum_stage.is_some() {
            v = tally.sum.saturate(v, self.inner);
        }
        if let Some(bias) = &self.bias {
            v = tally.bias.saturate(v + bias[channel], self.inner);
        }
        let Some(output) = &self.output else { return v };
        if let Some((q, buffer)) = &output.multiplier {
            v = tally
                .scale
                .saturate(v.saturating_mul(q.at(channel)), *buffer);
        }
        let shifted = shift_half_up(v, output.shift.at(channel));
        tally.rescale.saturate(shifted, output.value_bits)
    }

    /// Adds the counts of a worker under the stages of this layer.
    pub(super) fn count(&self, tally: &Tally, counters: &mut Counters) {
        if let Some(stage) = self.sum_stage {
            counters.add(stage, tally.sum);
        }
        if self.bias.is_some() {
            counters.add(Stage::BiasAdd, tally.bias);
        }
        let Some(output) = &self.output else { return };
        if output.multiplier.is_some() {
            counters.add(Stage::ScaleMultiply, tally.scale);
        }
        counters.add(Stage::OutputRescale, tally.rescale);
    }
}

impl Tally {
    /// Adds the counts of another worker.
    pub(super) fn merge(&mut self, other: &Self) {
        self.sum.merge(other.sum);
        self.bias.merge(other.bias);
        self.scale.merge(other.scale);
        self.rescale.merge(other.rescale);
    }
}
