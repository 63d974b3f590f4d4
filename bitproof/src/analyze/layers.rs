//! Every layer beside the float network's: within the quantized model, and on its own.

use std::collections::BTreeMap;

use akida_sim::{ModelMemory, QuantizedModel, QuantizedOp, Tensor};
use float_model::{Graph, GraphMemory, NodeId, apply_step};
use ndarray::{ArrayD, Axis};
use quantizer_core::Counters;

use super::metrics::{ChannelUse, Deviation, Place, Usage};
use crate::Error;
use crate::meaning::{Meaning, pairs};

/// Samples that pass together: the float tensors of all layers are in memory for so many.
const FEW: usize = 4;

/// How a model deviates from its float network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelDeviation {
    /// Samples.
    pub n_items: usize,
    /// Layers that have a counterpart in the float network, in the order of the model.
    pub layers: Vec<LayerDeviation>,
    /// The outputs of the model.
    pub output: Deviation,
}

/// How one layer deviates from that of the float network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerDeviation {
    /// Index of the node in the model.
    pub node: usize,
    /// Its name.
    pub name: String,
    /// Its class.
    pub class_name: String,
    /// On its own: both take the activations of the float network, quantized. `None` for what takes
    /// no integers.
    pub alone: Option<Deviation>,
    /// Within the quantized model, with the errors of all layers before.
    pub cumulative: Deviation,
    /// How its integers are used, within the quantized model; `None` for floats.
    pub usage: Option<Usage>,
    /// Intermediates that overflowed a buffer, within the quantized model: no width of weights or
    /// activations makes up for that.
    pub n_overflows: u64,
}

/// Runs samples through a quantized model and its float network.
///
/// Memory does not grow with the number of samples. A model that remembers earlier steps takes the
/// samples as the steps of one sequence.
#[derive(Debug)]
pub struct Analysis<'a> {
    graph: &'a Graph,
    meaning: Meaning<'a>,
    pairs: Vec<Option<NodeId>>,
    /// For each node its place in the result.
    places: Vec<Option<usize>>,
    result: ModelDeviation,
    memory: Memories,
}

/// What temporal layers remember: of both networks, as a whole and layer by layer.
#[derive(Debug, Default)]
struct Memories {
    float: GraphMemory,
    quantized: ModelMemory,
    float_alone: GraphMemory,
    quantized_alone: ModelMemory,
}

impl<'a> Analysis<'a> {
    /// Starts with no samples. `graph` is what [`counterpart`](crate::counterpart) returns.
    ///
    /// # Errors
    ///
    /// A float network that the model was not made from.
    pub fn new(model: &'a QuantizedModel, graph: &'a Graph) -> Result<Self, Error> {
        let pairs = pairs(model, graph)?;
        let mut places = vec![None; model.nodes.len()];
        let mut layers = Vec::new();
        for (index, node) in model.nodes.iter().enumerate() {
            // The input is the same on both sides.
            if pairs[index].is_none() || matches!(node.op, QuantizedOp::Input(_)) {
                continue;
            }
            places[index] = Some(layers.len());
            layers.push(LayerDeviation {
                node: index,
                name: node.name.clone(),
                class_name: node.class_name.clone(),
                ..LayerDeviation::default()
            });
        }
        Ok(Self {
            graph,
            meaning: Meaning::new(model),
            pairs,
            places,
            result: ModelDeviation {
                layers,
                ..ModelDeviation::default()
            },
            memory: Memories::default(),
        })
    }

    /// Runs a batch, `[batch, ...]`.
    ///
    /// # Errors
    ///
    /// A batch that one of the networks does not take, or values that are not finite.
    pub fn add(&mut self, batch: &ArrayD<f32>) -> Result<(), Error> {
        let size = if self.meaning.model.is_temporal() {
            1
        } else {
            FEW
        };
        for few in batch.axis_chunks_iter(Axis(0), size) {
            self.add_few(&few.to_owned())?;
        }
        Ok(())
    }

    /// Returns what was found.
    #[must_use]
    pub fn finish(self) -> ModelDeviation {
        self.result
    }

    fn add_few(&mut self, batch: &ArrayD<f32>) -> Result<(), Error> {
        let mut floats: Vec<Option<ArrayD<f32>>> = vec![None; self.graph.nodes().len()];
        let memory = &mut self.memory;
        let float_outputs =
            self.graph
                .run_step(&[batch], &mut memory.float, &mut |id, x: &ArrayD<f32>| {
                    floats[id.index()] = Some(x.clone());
                })?;
        let (meaning, places, layers) = (&self.meaning, &self.places, &mut self.result.layers);
        let mut single = Single {
            meaning,
            graph: self.graph,
            pairs: &self.pairs,
            floats: &floats,
            entered: BTreeMap::new(),
            memory: (&mut memory.quantized_alone, &mut memory.float_alone),
        };
        let mut failed = None;
        let executor = &meaning.executor;
        let run = executor.run_step(batch, &mut memory.quantized, &mut |index, tensor| {
            single.keep(index, tensor);
            let layer = places[index].and_then(|place| layers.get_mut(place));
            if let Some(layer) = layer.filter(|_| failed.is_none()) {
                failed = measure(layer, tensor, &mut single).err();
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        for layer in layers.iter_mut() {
            let counters = run.counters.get(layer.node);
            layer.n_overflows += counters.map_or(0, Counters::overflows);
        }
        let indices = &meaning.model.outputs;
        for ((index, output), float) in indices.iter().zip(&run.outputs).zip(&float_outputs) {
            let values = meaning.of(*index, output)?;
            let all = &mut self.result.output;
            let pairs = float.iter().zip(values.iter());
            pairs.for_each(|(x, y)| all.add(*x, *y, Place::Inside));
        }
        self.result.n_items += batch.len_of(Axis(0));
        Ok(())
    }
}

/// Adds what a layer gave within the model, and what it gives alone.
fn measure(
    layer: &mut LayerDeviation,
    tensor: &Tensor,
    single: &mut Single<'_>,
) -> Result<(), Error> {
    let index = layer.node;
    let Some(float) = single.float(index) else {
        return Ok(());
    };
    let value_bits = single.meaning.model.nodes[index]
        .format()
        .map(|format| format.value_bits.bits());
    if let (Some(bits), Some(integers)) = (value_bits, tensor.integers()) {
        let usage = layer.usage.get_or_insert_with(|| Usage {
            value_bits: bits,
            ..Usage::default()
        });
        count_use(usage, &integers, float);
    }
    let values = single.meaning.of(index, tensor)?;
    add_all(
        &mut layer.cumulative,
        float,
        &values,
        &ends(tensor, value_bits),
    );
    if let Some((tensor, float)) = single.run(index)? {
        let values = single.meaning.of(index, &tensor)?;
        let alone = layer.alone.get_or_insert_with(Deviation::default);
        add_all(alone, &float, &values, &ends(&tensor, value_bits));
    }
    Ok(())
}

fn add_all(all: &mut Deviation, float: &ArrayD<f32>, values: &ArrayD<f32>, places: &[Place]) {
    let places = places
        .iter()
        .copied()
        .chain(std::iter::repeat(Place::Inside));
    for ((x, y), place) in float.iter().zip(values.iter()).zip(places) {
        all.add(*x, *y, place);
    }
}

/// Returns which integers are at an end of their range; nothing for floats.
fn ends(tensor: &Tensor, value_bits: Option<u8>) -> Vec<Place> {
    let (Some(bits), Some(integers)) = (value_bits, tensor.integers()) else {
        return Vec::new();
    };
    let all = integers.iter();
    all.map(|v| place(*v, bits)).collect()
}

fn place(v: i64, value_bits: u8) -> Place {
    let limit = 1_i64 << value_bits.min(62);
    if v == -limit || v == limit - 1 {
        Place::AtEnd
    } else {
        Place::Inside
    }
}

fn count_use(usage: &mut Usage, integers: &ArrayD<i64>, float: &ArrayD<f32>) {
    let n_channels = integers.shape().last().copied().unwrap_or(1).max(1);
    usage.channels.resize_with(n_channels, ChannelUse::default);
    let bits = usage.value_bits;
    for (i, (v, x)) in integers.iter().zip(float.iter()).enumerate() {
        usage.n += 1;
        usage.n_at_end += u64::from(place(*v, bits) == Place::AtEnd);
        let channel = &mut usage.channels[i.rem_euclid(n_channels)];
        channel.lo = channel.lo.min(*v);
        channel.hi = channel.hi.max(*v);
        channel.float_max = channel.float_max.max(x.abs());
    }
}

/// Runs layers on the activations of the float network.
struct Single<'s> {
    meaning: &'s Meaning<'s>,
    graph: &'s Graph,
    pairs: &'s [Option<NodeId>],
    floats: &'s [Option<ArrayD<f32>>],
    /// What enters the model is quantized once, not again from its float value.
    entered: BTreeMap<usize, Tensor>,
    memory: (&'s mut ModelMemory, &'s mut GraphMemory),
}

impl<'s> Single<'s> {
    fn keep(&mut self, index: usize, tensor: &Tensor) {
        let op = &self.meaning.model.nodes[index].op;
        if matches!(
            op,
            QuantizedOp::Input(_) | QuantizedOp::InputQuantizer { .. }
        ) {
            self.entered.insert(index, tensor.clone());
        }
    }

    /// Returns the float network's output beside node `index`.
    fn float(&self, index: usize) -> Option<&'s ArrayD<f32>> {
        let id = self.pairs.get(index).copied().flatten()?;
        self.floats.get(id.index())?.as_ref()
    }

    /// Returns the output of a layer of integers and of its float counterpart, both on the float
    /// network's activations, quantized as the layers before quantize them.
    fn run(&mut self, index: usize) -> Result<Option<(Tensor, ArrayD<f32>)>, Error> {
        let node = &self.meaning.model.nodes[index];
        let id = self.pairs.get(index).copied().flatten();
        let (QuantizedOp::Integer(_), Some(id)) = (&node.op, id) else {
            return Ok(None);
        };
        let mut tensors = Vec::with_capacity(node.inputs.len());
        for producer in &node.inputs {
            match (self.entered.get(producer), self.float(*producer)) {
                (Some(tensor), _) => tensors.push(tensor.clone()),
                (None, Some(float)) => tensors.push(self.meaning.represent(*producer, float)?),
                (None, None) => return Ok(None),
            }
        }
        let mut reals = Vec::with_capacity(tensors.len());
        for (producer, tensor) in node.inputs.iter().zip(&tensors) {
            reals.push(self.meaning.of(*producer, tensor)?);
        }
        let inputs: Vec<&Tensor> = tensors.iter().collect();
        let (quantized, float) = (&mut *self.memory.0, &mut *self.memory.1);
        let (output, _) = self.meaning.executor.run_layer(index, &inputs, quantized)?;
        let layer = &self.graph.node(id).layer;
        let reals: Vec<&ArrayD<f32>> = reals.iter().collect();
        let expected = apply_step(&node.name, layer, &reals, (float, id.index()))?;
        Ok(Some((output, expected)))
    }
}
