//! What decides the sums of a layer: the weights and inputs that lead to it without being
//! quantized on the way.

use akida_sim::{QuantizedModel, QuantizedNode, QuantizedOp};
use quantizer_core::layers::IntegerOp;

/// Keys of weight quantizers.
const WEIGHT_KEYS: [&str; 4] = [
    "weight_quantizer",
    "dw_weight_quantizer",
    "pw_weight_quantizer",
    "a_quantizer",
];

/// A layer, and the layers before it up to output quantizers.
pub(super) struct Region {
    /// Nodes with weights, each with the key of a weight quantizer.
    pub(super) weights: Vec<(usize, &'static str)>,
    /// Nodes whose output quantizers make the region's inputs.
    pub(super) producers: Vec<usize>,
    /// The region's nodes, from the layer backwards.
    pub(super) nodes: Vec<usize>,
}

impl Region {
    pub(super) fn of(model: &QuantizedModel, target: usize) -> Self {
        let mut region = Self {
            weights: Vec::new(),
            producers: Vec::new(),
            nodes: Vec::new(),
        };
        let mut open = vec![target];
        while let Some(index) = open.pop() {
            if region.nodes.contains(&index) {
                continue;
            }
            region.nodes.push(index);
            let node = &model.nodes[index];
            let keys = WEIGHT_KEYS.into_iter();
            let keys = keys.filter(|key| has_quantizer(node, key));
            region.weights.extend(keys.map(|key| (index, key)));
            for input in &node.inputs {
                let producer = &model.nodes[*input];
                if has_quantizer(producer, "output_quantizer") {
                    region.producers.push(*input);
                } else if matches!(producer.op, QuantizedOp::Integer(_)) {
                    open.push(*input);
                }
            }
        }
        region.producers.sort_unstable();
        region.producers.dedup();
        region
    }

    /// Returns the only node with weights, if its channels reach the layer each on its own.
    pub(super) fn sole_weights(&self, model: &QuantizedModel) -> Option<usize> {
        let mut nodes = self.weights.iter().map(|(index, _)| *index);
        let first = nodes.next()?;
        let keeps_channels = |index: &usize| {
            let QuantizedOp::Integer(layer) = &model.nodes[*index].op else {
                return false;
            };
            matches!(
                layer.op,
                IntegerOp::ReLU { .. }
                    | IntegerOp::MaxPool2D(_)
                    | IntegerOp::GlobalAveragePooling2D { .. }
                    | IntegerOp::Identity
            )
        };
        let others = self.nodes.iter().filter(|index| **index != first);
        (nodes.all(|index| index == first) && others.copied().all(|i| keeps_channels(&i)))
            .then_some(first)
    }
}

pub(super) fn has_quantizer(node: &QuantizedNode, key: &str) -> bool {
    let config = node.config.as_ref();
    config
        .and_then(|config| config.get(key))
        .is_some_and(serde_json::Value::is_object)
}
