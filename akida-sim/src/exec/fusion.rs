//! Layers as they run where nobody looks at them: together with their rectifiers, and with channels in any order.

use std::collections::BTreeMap;

use quantizer_core::layers::IntegerLayer;

use super::bounds::Interval;
use super::linear::{LinearPlan, doubling};
use super::order::{Order, Passage, by_shift, passage, reordered};
use super::tensor::Storage;
use super::{NodePlan, count_uses};
use crate::model::{QuantizedModel, QuantizedOp};

/// A layer with weights, with its rectifier if it has one, in one pass.
#[derive(Debug)]
pub(super) struct Fusion {
    /// Node of the layer; its rectifier is the node that has the fusion.
    pub(super) linear: usize,
    pub(super) plan: LinearPlan,
}

/// Lets rectifiers do the work of the layers before them, where no other layer takes their results, and sorts the
/// channels between layers where that is faster.
pub(super) fn fuse(model: &QuantizedModel, intervals: &[Option<Interval>], plans: &mut [NodePlan]) {
    let network = Network {
        model,
        intervals,
        n_uses: count_uses(model),
    };
    for index in 0..model.nodes.len() {
        let out = plans[index].storage.unwrap_or(Storage::I64);
        let Some((linear, rectifier)) = network.rectified(index) else {
            continue;
        };
        let plan = plans[linear.0].linear.as_ref();
        if let Some(plan) = plan.and_then(|plan| plan.rectified(linear.1, rectifier, out)) {
            plans[index].fusion = Some(Fusion {
                linear: linear.0,
                plan,
            });
            plans[linear.0].is_fused = true;
        }
    }
    let orders = network.orders(plans);
    let doubled = network.doubled(plans, &orders);
    let maps = (&orders, &doubled);
    let sorted = (0..model.nodes.len()).filter_map(|index| network.involved(index, plans, maps));
    // All or none: a layer reads the order that another one writes.
    let sorted: Option<Vec<_>> = sorted.map(|place| network.sorted(&place, plans)).collect();
    for (index, fusion) in sorted.unwrap_or_default() {
        plans[index].fusion = Some(fusion);
    }
}

/// A node that reads or writes its channels in another order.
struct Place<'a> {
    index: usize,
    linear: usize,
    /// Node that it reads.
    input: usize,
    inputs: Option<&'a Order>,
    outputs: Option<&'a Order>,
    /// Channels that it reads, and that it writes, twice as large.
    doubled_inputs: Option<&'a Vec<usize>>,
    doubled_outputs: Option<&'a Vec<usize>>,
}

struct Network<'a> {
    model: &'a QuantizedModel,
    intervals: &'a [Option<Interval>],
    n_uses: Vec<usize>,
}

impl<'a> Network<'a> {
    fn layer(&self, index: usize) -> Option<&'a IntegerLayer> {
        match &self.model.nodes.get(index)?.op {
            QuantizedOp::Integer(layer) => Some(layer),
            QuantizedOp::Input(_)
            | QuantizedOp::InputQuantizer { .. }
            | QuantizedOp::Dequantizer(_)
            | QuantizedOp::Float(_) => None,
        }
    }

    /// Returns the layer whose results node `index` alone takes, and the layer of the node.
    fn rectified(&self, index: usize) -> Option<((usize, &'a IntegerLayer), &'a IntegerLayer)> {
        let &[linear] = self.model.nodes[index].inputs.as_slice() else {
            return None;
        };
        let is_alone = self.n_uses[linear] == 1;
        let layer = self.layer(linear).filter(|_| is_alone)?;
        Some(((linear, layer), self.layer(index)?))
    }

    /// Returns the orders of the channels that nodes write, by node.
    fn orders(&self, plans: &[NodePlan]) -> BTreeMap<usize, Order> {
        let mut orders = BTreeMap::new();
        for index in 0..self.model.nodes.len() {
            let linear = linear_of(index, plans);
            let sorts = linear_plan(index, plans).is_some_and(LinearPlan::gains_by_order);
            let order = self.layer(linear).filter(|_| sorts).and_then(by_shift);
            if let (Some(order), [input]) = (order, self.model.nodes[linear].inputs.as_slice()) {
                for node in self.path(*input, plans).unwrap_or_default() {
                    orders.insert(node, order.clone());
                }
            }
        }
        orders
    }

    /// Returns the channels that nodes write twice as large, by node; `orders` are those of the channels.
    fn doubled(
        &self,
        plans: &[NodePlan],
        orders: &BTreeMap<usize, Order>,
    ) -> BTreeMap<usize, Vec<usize>> {
        let mut doubled = BTreeMap::new();
        for index in 0..self.model.nodes.len() {
            let linear = linear_of(index, plans);
            let takes = linear_plan(index, plans).is_some_and(LinearPlan::can_take_doubled);
            let (Some(layer), &[input]) = (
                self.layer(linear),
                self.model.nodes[linear].inputs.as_slice(),
            ) else {
                continue;
            };
            let writes = self.intervals[input]
                .zip(linear_plan(input, plans))
                .is_some_and(|(out, plan)| plan.can_double(out));
            if let (Some(order), [entry], true) =
                (orders.get(&input), &*layer.entries, takes && writes)
            {
                let shifts: Vec<u32> = order.iter().map(|c| entry.shift.at(*c)).collect();
                doubled.extend(doubling::doubled(&shifts).map(|channels| (input, channels)));
            }
        }
        doubled
    }

    /// Returns the nodes whose outputs change their order if node `index` does: itself, and those behind depthwise
    /// layers up to one that may write any order. `None` if there is no such layer, or others look at a result.
    fn path(&self, mut index: usize, plans: &[NodePlan]) -> Option<Vec<usize>> {
        let mut path = Vec::new();
        loop {
            let linear = linear_of(index, plans);
            linear_plan(index, plans)?;
            if self.n_uses[index] != 1 {
                return None;
            }
            path.push(index);
            match passage(self.layer(linear)?) {
                Passage::Ends => return Some(path),
                Passage::Keeps => index = *self.model.nodes[linear].inputs.first()?,
                Passage::Fixed => return None,
            }
        }
    }

    fn involved<'o>(
        &self,
        index: usize,
        plans: &[NodePlan],
        (orders, doubled): (&'o BTreeMap<usize, Order>, &'o BTreeMap<usize, Vec<usize>>),
    ) -> Option<Place<'o>> {
        linear_plan(index, plans)?;
        let linear = linear_of(index, plans);
        let input = *self.model.nodes[linear].inputs.first()?;
        let (inputs, outputs) = (orders.get(&input), orders.get(&index));
        (inputs.is_some() || outputs.is_some()).then_some(Place {
            index,
            linear,
            input,
            inputs,
            outputs,
            doubled_inputs: doubled.get(&input),
            doubled_outputs: doubled.get(&index),
        })
    }

    /// Returns how a node runs that reads or writes its channels in another order; `None` if it cannot.
    fn sorted(&self, place: &Place<'_>, plans: &[NodePlan]) -> Option<(usize, Fusion)> {
        let &Place { index, linear, .. } = place;
        let layer = reordered(self.layer(linear)?, place.inputs, place.outputs)?;
        let storage = |node: usize| plans[node].storage.unwrap_or(Storage::I64);
        let mut plan = LinearPlan::new(&layer, self.intervals[place.input]?, storage(linear))?;
        if index != linear {
            let rectifier = reordered(self.layer(index)?, None, place.outputs)?;
            plan = plan.rectified(&layer, &rectifier, storage(index))?;
        }
        if let Some(channels) = place.doubled_inputs {
            plan = plan.taking_doubled(channels);
        }
        if let Some(channels) = place.doubled_outputs {
            plan = plan.doubling(channels);
        }
        Some((index, Fusion { linear, plan }))
    }
}

/// Returns the node of the layer with weights that does the work of node `index`.
fn linear_of(index: usize, plans: &[NodePlan]) -> usize {
    plans[index].fusion.as_ref().map_or(index, |f| f.linear)
}

/// Returns the plan that does the work of node `index`; `None` if it does none, or has no weights.
fn linear_plan(index: usize, plans: &[NodePlan]) -> Option<&LinearPlan> {
    let plan = &plans[index];
    let own = plan.linear.as_ref().filter(|_| !plan.is_fused);
    plan.fusion.as_ref().map(|f| &f.plan).or(own)
}

#[cfg(test)]
mod tests {
    use config_schema::LayerConfig;
    use float_model::{Activation, Conv2D, DepthwiseConv2D, Dtype, Input, Layer, Padding, ReLU};
    use kernels::Kernels;
    use ndarray::Array4;
    use quantizer_core::PerAxis;
    use serde_json::json;

    use crate::exec::Executor;
    use crate::{
        CalibratedGraph, CalibratedNode, CalibratedOp, OutputRanges, QuantizedLayer, lower,
    };

    fn node(name: &str, input: Option<&str>, op: CalibratedOp) -> CalibratedNode {
        CalibratedNode {
            name: name.to_owned(),
            inputs: input.map(str::to_owned).into_iter().collect(),
            op,
        }
    }

    fn quantized(layer: Layer) -> CalibratedOp {
        let entry = json!({ "weight_quantizer": { "bitwidth": 8 }, "buffer_bitwidth": 32 });
        CalibratedOp::Quantized(Box::new(QuantizedLayer {
            layer,
            config: LayerConfig::parse(entry.as_object().unwrap()).unwrap(),
            json: None,
            ranges: None,
        }))
    }

    #[test]
    fn a_rectifier_that_writes_no_bytes_is_fused_unless_others_take_its_input() {
        let input = Layer::Input(Input {
            shape: vec![Some(4), Some(4), Some(3)],
            dtype: Dtype::UInt8,
        });
        let conv = conv(3, 5);
        let graph = |outputs: &[&str]| CalibratedGraph {
            name: "wide".to_owned(),
            nodes: vec![
                node("input", None, CalibratedOp::Float(Box::new(input.clone()))),
                node("conv", Some("input"), quantized(conv.clone())),
                node(
                    "relu",
                    Some("conv"),
                    quantized(Layer::ReLU(ReLU::default())),
                ),
                node("dequantizer", Some("relu"), CalibratedOp::Dequantizer),
                node("other", Some("conv"), CalibratedOp::Dequantizer),
            ],
            outputs: outputs.iter().map(|name| (*name).to_owned()).collect(),
        };
        let is_fused = |outputs: &[&str]| {
            let mut graph = graph(outputs);
            graph
                .nodes
                .retain(|node| node.name != "other" || outputs.contains(&"other"));
            let model = lower(graph).unwrap();
            let relu = model.nodes.iter().position(|node| node.name == "relu");
            Executor::new(&model).plans[relu.unwrap()].fusion.is_some()
        };
        assert!(is_fused(&["dequantizer"]), "one that is alone");
        assert!(!is_fused(&["dequantizer", "other"]), "one that is not");
    }

    /// Returns a convolution of one weight everywhere.
    fn conv(channels: usize, filters: usize) -> Layer {
        Layer::Conv2D(Conv2D {
            kernel: Array4::from_elem((1, 1, channels, filters), 0.5),
            bias: None,
            strides: [1, 1],
            padding: Padding::Same,
            dilation: [1, 1],
            groups: 1,
            activation: Activation::Linear,
            padding_value: None,
        })
    }

    /// Returns a rectifier with seven bits and these ranges.
    fn rectifier(ranges: &[f32]) -> CalibratedOp {
        let entry = json!({
            "buffer_bitwidth": 32,
            "output_quantizer": {
                "bitwidth": 7, "signed": false, "axis": "per-axis", "buffer_bitwidth": 32,
            },
        });
        let range_max = PerAxis::Axis(ranges.to_vec());
        CalibratedOp::Quantized(Box::new(QuantizedLayer {
            layer: Layer::ReLU(ReLU::default()),
            config: LayerConfig::parse(entry.as_object().unwrap()).unwrap(),
            json: None,
            ranges: Some(OutputRanges {
                rescaling_rate: range_max.map(|_| 1.0),
                range_max,
            }),
        }))
    }

    #[test]
    fn channels_lie_doubled_between_depthwise_and_pointwise_layers() {
        let input = Layer::Input(Input {
            shape: vec![Some(4), Some(4), Some(3)],
            dtype: Dtype::UInt8,
        });
        let depthwise = Layer::DepthwiseConv2D(DepthwiseConv2D {
            kernel: Array4::from_elem((3, 3, 8, 1), 0.5),
            bias: None,
            strides: [1, 1],
            padding: Padding::Same,
            dilation: [1, 1],
            activation: Activation::Linear,
        });
        // Five channels are shifted by one, which is a group of four and one that shares a group with the others.
        let ranges = [100.0, 200.0, 200.0, 100.0, 200.0, 200.0, 100.0, 200.0];
        let model = CalibratedGraph {
            name: "separated".to_owned(),
            nodes: vec![
                node("input", None, CalibratedOp::Float(Box::new(input))),
                node("conv", Some("input"), quantized(conv(3, 8))),
                node("relu", Some("conv"), rectifier(&[100.0; 8])),
                node("depthwise", Some("relu"), quantized(depthwise)),
                node("relu_depthwise", Some("depthwise"), rectifier(&ranges)),
                node("pointwise", Some("relu_depthwise"), quantized(conv(8, 8))),
                node("dequantizer", Some("pointwise"), CalibratedOp::Dequantizer),
            ],
            outputs: vec!["dequantizer".to_owned()],
        };
        let model = lower(model).unwrap();
        let executor = Executor::new(&model);
        let writer = model.nodes.iter().position(|n| n.name == "relu_depthwise");
        let fusion = executor.plans[writer.unwrap()].fusion.as_ref().unwrap();
        let expected = usize::from(Kernels::active().packs_depthwise());
        assert_eq!(
            fusion.plan.n_doubled(),
            expected,
            "channels of a group of four"
        );
    }
}
