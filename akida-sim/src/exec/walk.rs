//! What is there while images pass through a network.

use quantizer_core::Counters;

use super::epilogue::Ends;
use super::room::Room;
use super::tensor::Tensor;
use super::{Run, count_uses};
use crate::ModelError;
use crate::model::QuantizedModel;

/// The tensors that later layers take, and the counts so far; an entry for each node.
pub(super) struct Walk {
    pub(super) n_uses: Vec<usize>,
    pub(super) tensors: Vec<Option<Tensor>>,
    /// What the channels of these tensors came to, where their layers know it.
    pub(super) ends: Vec<Option<Ends>>,
    pub(super) counters: Vec<Counters>,
}

impl Walk {
    /// Returns what is there before the first layer.
    pub(super) fn new(model: &QuantizedModel) -> Self {
        let n = model.nodes.len();
        Self {
            n_uses: count_uses(model),
            tensors: (0..n).map(|_| None).collect(),
            ends: (0..n).map(|_| None).collect(),
            counters: vec![Counters::default(); n],
        }
    }

    /// Adds other images that are as far: of both, there is the output of node `at` alone. Its buffer goes to `room`.
    pub(super) fn join(
        &mut self,
        mut other: Self,
        at: usize,
        room: &mut Room,
    ) -> Result<(), ModelError> {
        let counters = self.counters.iter_mut().zip(&other.counters);
        counters.for_each(|(own, other)| own.merge(other));
        if let (Some(own), Some(other)) = (&mut self.tensors[at], other.tensors[at].take()) {
            own.append(&other)?;
            room.put(other.values);
        }
        self.ends[at] = match (self.ends[at].take(), other.ends[at].take()) {
            (Some(own), Some(other)) => Some(own.joined(&other)),
            (None, _) | (_, None) => None,
        };
        Ok(())
    }

    /// Returns what came out.
    pub(super) fn end(self, model: &QuantizedModel) -> Run {
        let outputs = model.outputs.iter();
        Run {
            outputs: outputs.filter_map(|i| self.tensors[*i].clone()).collect(),
            counters: self.counters,
        }
    }
}
