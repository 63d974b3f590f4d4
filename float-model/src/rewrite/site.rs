//! A layer with its surroundings, as rewrites look at it.

use super::Skip;
use crate::{Graph, Layer, Node, NodeId};

/// A layer with its surroundings.
#[derive(Clone, Copy)]
pub(super) struct Site<'g> {
    graph: &'g Graph,
    consumers: &'g [Vec<NodeId>],
    id: NodeId,
}

impl<'g> Site<'g> {
    pub(super) fn new(graph: &'g Graph, consumers: &'g [Vec<NodeId>], id: NodeId) -> Self {
        Self {
            graph,
            consumers,
            id,
        }
    }

    pub(super) fn node(&self) -> &'g Node {
        self.graph.node(self.id)
    }

    pub(super) fn layer(&self) -> &'g Layer {
        &self.node().layer
    }

    pub(super) fn name(&self) -> String {
        self.node().name.clone()
    }

    pub(super) fn is_output(&self) -> bool {
        self.graph.outputs().contains(&self.id)
    }

    /// Returns the layers that take the output; one that takes it twice stands there twice.
    pub(super) fn consumers(&self) -> impl Iterator<Item = Site<'g>> {
        let (graph, consumers) = (self.graph, self.consumers);
        consumers[self.id.index()].iter().map(move |id| Site {
            graph,
            consumers,
            id: *id,
        })
    }

    pub(super) fn n_consumers(&self) -> usize {
        self.consumers[self.id.index()].len()
    }

    /// Returns the only layer that takes the output, if the model does not return it too.
    pub(super) fn sole_consumer(&self) -> Option<Self> {
        if self.n_consumers() == 1 && !self.is_output() {
            self.consumers().next()
        } else {
            None
        }
    }

    /// Returns the producer of the only input.
    pub(super) fn producer(&self) -> Option<Self> {
        match self.node().inputs.as_slice() {
            [id] => Some(Self { id: *id, ..*self }),
            _ => None,
        }
    }

    /// Returns the producer of the only input, which nothing else may take.
    pub(super) fn own_producer(&self) -> Result<Self, Skip> {
        let producer = self.producer().ok_or(Skip::NoMatch)?;
        if producer.sole_consumer().is_some() {
            return Ok(producer);
        }
        Err(Skip::Blocked(format!(
            "the output of `{}` is also used elsewhere",
            producer.name()
        )))
    }

    pub(super) fn n_inputs(&self) -> usize {
        self.graph.inputs().count()
    }

    /// Returns whether the model has a layer called `name`.
    pub(super) fn exists(&self, name: &str) -> bool {
        self.graph.find(name).is_some()
    }

    /// Returns `name`, or `name_k` with the least `k` that no layer has.
    pub(super) fn free_name(&self, name: String) -> String {
        if !self.exists(&name) {
            return name;
        }
        (1_usize..)
            .map(|k| format!("{name}_{k}"))
            .find(|candidate| !self.exists(candidate))
            .unwrap_or(name)
    }

    /// Returns the extents of one input item of a layer with one input.
    pub(super) fn input_shape(&self) -> &'g [Option<usize>] {
        match self.node().inputs.first() {
            Some(id) => &self.graph.node(*id).shape,
            None => &[],
        }
    }
}
