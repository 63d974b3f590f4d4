//! Runs of single inputs in the simulator: what makes a witness of an input.

use ndarray::ArrayD;
use quantizer_core::{Observe, Stage, ValueBits};

use super::{Range, Witness};
use crate::model::{QuantizedModel, QuantizedOp};
use crate::{Executor, ModelError};

/// Extremes of the intermediates of one layer, channel by channel.
#[derive(Debug, Default)]
pub(super) struct Extremes(std::collections::BTreeMap<(Stage, usize), (Range, ValueBits)>);

impl Observe for Extremes {
    fn see(&mut self, stage: Stage, channel: usize, value: i64, value_bits: ValueBits) {
        let seen = Range::from(value);
        let entry = self.0.entry((stage, channel)).or_insert((seen, value_bits));
        entry.0 = entry.0.union(seen);
    }
}

impl Extremes {
    /// Returns the channels of `stage` that overflow, each with its worst value.
    pub(super) fn overflows(&self, stage: Stage) -> Vec<(usize, i64)> {
        let of_stage = self.0.iter().filter(|((s, _), _)| *s == stage);
        let worst = of_stage.filter_map(|((_, channel), (range, bits))| {
            let outside = [range.lo, range.hi]
                .into_iter()
                .filter(|v| !bits.contains(*v));
            let worst = outside.max_by_key(|v| v.unsigned_abs())?;
            Some((*channel, worst))
        });
        worst.collect()
    }
}

/// One run: the network's input and every layer's integers.
pub(super) struct Trace {
    pub(super) input: ArrayD<f32>,
    pub(super) tensors: Vec<Option<ArrayD<i64>>>,
    counters: Vec<quantizer_core::Counters>,
}

/// Runs a model on single inputs and keeps every layer's integers.
pub(super) struct Replay<'m> {
    pub(super) model: &'m QuantizedModel,
    pub(super) executor: Executor<'m>,
}

impl<'m> Replay<'m> {
    pub(super) fn new(model: &'m QuantizedModel) -> Self {
        let executor = Executor::new(model);
        Self { model, executor }
    }

    /// Returns the witness that one item of samples is for an intermediate, if it makes that overflow.
    pub(super) fn item(
        &self,
        item: &ArrayD<f32>,
        node: usize,
        stage: Stage,
    ) -> Result<Option<Witness>, ModelError> {
        let trace = self.run(item.clone())?;
        self.witness(node, stage, &trace)
    }

    /// Returns the witness of a run, if its layer overflows there.
    pub(super) fn witness(
        &self,
        node: usize,
        stage: Stage,
        trace: &Trace,
    ) -> Result<Option<Witness>, ModelError> {
        let overflows = trace.counters[node]
            .get(stage)
            .is_some_and(|c| c.saturated > 0);
        let QuantizedOp::Integer(layer) = &self.model.nodes[node].op else {
            return Ok(None);
        };
        if !overflows {
            return Ok(None);
        }
        // The scalar definition says which channels: the executor only counts.
        let inputs: Vec<&ArrayD<i64>> = self.model.nodes[node]
            .inputs
            .iter()
            .filter_map(|i| trace.tensors[*i].as_ref())
            .collect();
        let mut extremes = Extremes::default();
        let run = layer.run(&inputs, &mut extremes);
        run.map_err(|e| ModelError::layer(&self.model.nodes[node].name, e))?;
        Ok(Some(Witness {
            input: trace.input.clone(),
            channels: extremes.overflows(stage),
        }))
    }

    /// Runs a batch of one.
    pub(super) fn run(&self, input: ArrayD<f32>) -> Result<Trace, ModelError> {
        let mut tensors = vec![None; self.model.nodes.len()];
        let run = self.executor.run(&input, &mut |index, tensor| {
            tensors[index] = tensor.integers();
        })?;
        Ok(Trace {
            input,
            tensors,
            counters: run.counters,
        })
    }
}
