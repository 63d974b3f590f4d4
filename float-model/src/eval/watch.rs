//! Runs of a network that keep nothing but the largest magnitudes of some layers' outputs.
//!
//! What nobody asks for is not made: a rectifier behind a convolution ends its chains, in registers, and so does the
//! search for the largest magnitude. Tensors stand in buffers that are used again. Large images pass through the first
//! layers one by one, so that their activations stay in the cache; where an image has become small, several go on
//! together, so that weights are read once for all of them.

use std::sync::{Mutex, PoisonError};

use kernels::{Kernels, PackedFloats};
use ndarray::ArrayD;
use rayon::prelude::*;

use super::chains::{self, raise};
use super::tensor::Work;
use super::{activation, pointwise};
use crate::{Activation, Graph, GraphError, Layer, Node, NodeId};

mod pass;

use pass::{Buffers, Pass};

/// Images that pass through the network together at most.
const FEW: usize = 8;

/// Values of an image from which on several pass together.
const SMALL_IMAGE: usize = 1 << 15;

/// The largest magnitudes of some layers' outputs; see [`Graph::watch`].
#[derive(Debug)]
pub struct Watch<'g> {
    graph: &'g Graph,
    /// Each layer once.
    watched: Vec<NodeId>,
    /// Which of them the caller asked for, in its order.
    places: Vec<usize>,
    steps: Vec<Step>,
    /// Steps that images pass one by one.
    n_single: usize,
    /// Buffers of the runs before, one set for each that was at work at the same time.
    buffers: Mutex<Vec<Buffers>>,
}

/// A layer that is computed, perhaps together with the rectifier that follows it.
#[derive(Clone, Debug)]
struct Step {
    /// The layer.
    layer: NodeId,
    /// The layer whose output comes out: the rectifier, or the layer itself.
    output: NodeId,
    /// How the chains end; `None` for a layer that is computed as it stands.
    ends: Option<Rectifier>,
    /// The layer's weights, if they are packed: once for all images.
    packed: Option<PackedFloats>,
}

/// What follows the bias of a chain: the upper end of a rectifier, or nothing.
#[derive(Clone, Copy, Debug)]
struct Rectifier(Option<f32>);

impl Graph {
    /// Returns what runs the network for the largest magnitudes of the layers `watched`.
    ///
    /// Temporal layers start from an empty memory in each run.
    #[must_use]
    pub fn watch(&self, watched: &[NodeId]) -> Watch<'_> {
        let mut places = Vec::with_capacity(watched.len());
        let mut unique: Vec<NodeId> = Vec::with_capacity(watched.len());
        for id in watched {
            let known = unique.iter().position(|known| known == id);
            places.push(known.unwrap_or(unique.len()));
            if known.is_none() {
                unique.push(*id);
            }
        }
        let steps = self.steps(&unique);
        Watch {
            graph: self,
            watched: unique,
            places,
            n_single: self.n_single(&steps),
            steps,
            buffers: Mutex::default(),
        }
    }

    fn steps(&self, watched: &[NodeId]) -> Vec<Step> {
        let consumers = self.consumers();
        let mut is_done = vec![false; self.nodes().len()];
        let mut steps = Vec::with_capacity(self.nodes().len());
        for (id, node) in self.iter() {
            if is_done[id.index()] {
                continue;
            }
            let mut step = Step {
                layer: id,
                output: id,
                ends: own_rectifier(node),
                packed: None,
            };
            let is_watched = watched.contains(&id);
            if let (Some(Rectifier(None)), false, [next]) =
                (step.ends, is_watched, consumers[id.index()].as_slice())
                && let Some(most) = rectifier(&self.node(*next).layer)
            {
                step.output = *next;
                step.ends = Some(Rectifier(Some(most)));
                is_done[next.index()] = true;
            }
            if step.ends.is_some() {
                step.packed = chains::packed(Kernels::active(), &node.layer);
            }
            steps.push(step);
        }
        steps
    }

    /// Returns how many steps lead to the first small image that is the only value then needed.
    fn n_single(&self, steps: &[Step]) -> usize {
        let mut n_uses = self.count_uses();
        let mut n_live = 0_usize;
        for (index, step) in steps.iter().enumerate() {
            n_live += 1;
            for input in &self.node(step.layer).inputs {
                n_uses[input.index()] -= 1;
                n_live -= usize::from(n_uses[input.index()] == 0);
            }
            let extents = self.node(step.output).shape.iter().copied();
            let n_values: Option<usize> = extents.product();
            if n_live == 1 && n_values.is_some_and(|n| n <= SMALL_IMAGE) {
                return index + 1;
            }
        }
        0
    }
}

impl Watch<'_> {
    /// Returns the largest magnitudes of each watched layer for `input`, `[batch, ...]`.
    ///
    /// There is one entry for each channel, the last axis: the bits of an f32 without its sign. They order as the floats do,
    /// infinity above all numbers and NaN above infinity. The entries do not depend on the order of the images, nor on
    /// how many run together. NUMERICS.md: F1.
    ///
    /// # Errors
    ///
    /// Those of [`Graph::run`] with this one input.
    pub fn run(&self, input: &ArrayD<f32>) -> Result<Vec<Vec<u32>>, GraphError> {
        self.run_with(Kernels::active(), input)
    }

    fn run_with(&self, kernels: Kernels, input: &ArrayD<f32>) -> Result<Vec<Vec<u32>>, GraphError> {
        self.graph.check_inputs(&[input])?;
        let input = input.as_standard_layout();
        let item = &input.shape()[1..];
        let len = item.iter().product::<usize>().max(1);
        let images = input.as_slice().unwrap_or_default();
        let n_threads = rayon::current_num_threads();
        let n_images = images.len().div_euclid(len);
        let few = n_images.div_ceil(n_threads).clamp(1, FEW);
        let work = if n_images.div_ceil(few) >= n_threads {
            Work::Whole
        } else {
            Work::Divided
        };
        let groups: Vec<&[f32]> = images.chunks(few * len).collect();
        let largest = groups.into_par_iter().map(|images| {
            let mut pass = Pass::new(self, (kernels, work), self.take_buffers());
            pass.group(images, item)?;
            let (largest, buffers) = pass.into_parts();
            self.buffers().push(buffers);
            Ok::<_, GraphError>(largest)
        });
        let mut merged = vec![Vec::new(); self.watched.len()];
        for part in largest.collect::<Result<Vec<_>, _>>()? {
            for (merged, part) in merged.iter_mut().zip(&part) {
                merged.resize(part.len(), 0);
                raise(merged, part);
            }
        }
        let places = self.places.iter();
        Ok(places.map(|place| merged[*place].clone()).collect())
    }

    fn buffers(&self) -> std::sync::MutexGuard<'_, Vec<Buffers>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_buffers(&self) -> Buffers {
        self.buffers().pop().unwrap_or_default()
    }
}

/// Returns the fused rectifier of a layer whose outputs are chains, and that `chains` computes; `None` for any other.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the layers of chains are named"
)]
fn own_rectifier(node: &Node) -> Option<Rectifier> {
    let is_of_chains = match &node.layer {
        Layer::Conv2D(conv) => conv.groups == 1,
        Layer::DepthwiseConv2D(_) | Layer::Dense(_) => true,
        _ => false,
    };
    let activation = node.layer.activation().filter(|_| is_of_chains)?;
    match activation {
        Activation::Linear => Some(Rectifier(None)),
        other => Some(Rectifier(Some(activation::plain_top(other)?))),
    }
}

/// Returns the upper end of a layer that is a rectifier, 0 below 0, and nothing else.
#[expect(clippy::wildcard_enum_match_arm, reason = "the rectifiers are named")]
fn rectifier(layer: &Layer) -> Option<f32> {
    match layer {
        Layer::ReLU(relu) => pointwise::plain_top(*relu),
        Layer::Activation(activation) => activation::plain_top(*activation),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
