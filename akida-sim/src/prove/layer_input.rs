//! Inputs of a single layer that make one of its intermediates overflow.

use ndarray::{ArrayD, IxDyn};
use quantizer_core::layers::IntegerLayer;

use super::LayerWitness;
use super::gradient::Gradient;
use super::replay::Extremes;
use super::search::{Search, Target};
use crate::model::QuantizedOp;

/// Places at which an intermediate is tried; the definition takes its time for a large layer, where
/// the middle must do.
const PLACES: usize = 3;

/// Products of a large layer.
const MANY_PRODUCTS: u64 = 20_000_000;

impl Search<'_> {
    /// Returns inputs of the target's layer, within their ranges, that make it overflow: computed by
    /// the layer's definition, not only bounded. `None` if none is found, or extents are open.
    pub(super) fn layer_input(&self, target: Target) -> Option<LayerWitness> {
        let node = &self.model.nodes[target.node];
        let QuantizedOp::Integer(layer) = &node.op else {
            return None;
        };
        let producers = node.inputs.iter().map(|i| {
            let extents = self.model.nodes[*i].shape.iter().copied();
            let shape = std::iter::once(Some(1)).chain(extents);
            shape.collect::<Option<Vec<usize>>>()
        });
        let shapes: Vec<Vec<usize>> = producers.collect::<Option<_>>()?;
        let mut inputs: Vec<ArrayD<i64>> = shapes
            .iter()
            .map(|shape| ArrayD::zeros(IxDyn(shape)))
            .collect();
        let is_large = node.multiplications() > MANY_PRODUCTS;
        for place in 0..if is_large { 1 } else { PLACES } {
            inputs = self.ends(target, (layer, place), &inputs)?;
            let channels = overflows(layer, &inputs, target);
            if !channels.is_empty() {
                return Some(LayerWitness { inputs, channels });
            }
        }
        None
    }

    /// Returns the ends of the inputs' ranges that push the target outwards.
    fn ends(
        &self,
        target: Target,
        (layer, place): (&IntegerLayer, usize),
        inputs: &[ArrayD<i64>],
    ) -> Option<Vec<ArrayD<i64>>> {
        let borrowed: Vec<&ArrayD<i64>> = inputs.iter().collect();
        let gradients = self.seeded(target, layer, &borrowed, place)?;
        let producers = &self.model.nodes[target.node].inputs;
        let ends = producers.iter().zip(&gradients);
        ends.map(|(input, gradient)| self.end(*input, gradient, target.upward))
            .collect()
    }

    fn end(&self, input: usize, gradient: &Gradient, upward: bool) -> Option<ArrayD<i64>> {
        let ranges = self.bounds[input].output.as_ref()?;
        let n_channels = ranges.len().max(1);
        let ends = gradient.iter().enumerate().map(|(i, g)| {
            let range = ranges[i.rem_euclid(n_channels)];
            let push = if upward { *g } else { -*g };
            if push > 0.0 {
                range.hi
            } else if push < 0.0 {
                range.lo
            } else {
                0.clamp(range.lo, range.hi)
            }
        });
        ArrayD::from_shape_vec(gradient.raw_dim(), ends.collect()).ok()
    }
}

/// Returns the channels that overflow, each with its worst value.
fn overflows(layer: &IntegerLayer, inputs: &[ArrayD<i64>], target: Target) -> Vec<(usize, i64)> {
    let mut extremes = Extremes::default();
    let borrowed: Vec<&ArrayD<i64>> = inputs.iter().collect();
    match layer.run(&borrowed, &mut extremes) {
        Ok(_) => extremes.overflows(target.stage),
        Err(_) => Vec::new(),
    }
}
