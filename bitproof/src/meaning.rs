//! What the tensors of a quantized model mean beside those of the float network it was made from.
//!
//! Both have layers of the same names, once the float network is rewritten as `quantize` does. Their
//! tensors differ by what calibration moved from a layer into the next: the rates of cross-layer
//! equalization, and the zero point of an unsigned input. NUMERICS.md: A1.

use std::collections::BTreeSet;

use akida_sim::{Executor, QuantizedModel, QuantizedNode, QuantizedOp, Tensor};
use float_model::{
    Graph, HardwareRewrites, Layer, NodeId, SanitizeOptions, Sanitized, Shape, sanitize,
};
use ndarray::ArrayD;
use quantizer_core::PerAxis;
use quantizer_core::layers::IntegerOp;
use quantizer_core::log2::mul_pow2;
use quantizer_core::tensor::int_to_f32;

use crate::Error;

/// A float network as a quantized model has it.
#[derive(Clone, Debug)]
pub(crate) struct Counterpart {
    pub(crate) graph: Graph,
    /// Whether the rewrites for the hardware were done.
    pub(crate) hardware: HardwareRewrites,
}

/// Returns the float network after the rewrites of `quantize`, of which those for the hardware are
/// done if that gives more layers of the names that `model` has.
///
/// # Errors
///
/// A network that the rewrites refuse.
pub fn counterpart(graph: &Graph, model: &QuantizedModel) -> Result<Graph, Error> {
    Ok(rewritten_like(graph, model)?.graph)
}

/// Returns what [`counterpart`] does, and which rewrites made it.
pub(crate) fn rewritten_like(graph: &Graph, model: &QuantizedModel) -> Result<Counterpart, Error> {
    let known: BTreeSet<&str> = model.nodes.iter().map(|node| node.name.as_str()).collect();
    let rewritten = |hardware| -> Result<(usize, Counterpart), Error> {
        let Sanitized { graph, .. } = sanitize(graph.clone(), &SanitizeOptions { hardware })?;
        let names = graph.nodes().iter().map(|node| node.name.as_str());
        let n_known = names.filter(|name| known.contains(name)).count();
        Ok((n_known, Counterpart { graph, hardware }))
    };
    let (with, without) = (
        rewritten(HardwareRewrites::On)?,
        rewritten(HardwareRewrites::Off)?,
    );
    Ok(if without.0 > with.0 {
        without.1
    } else {
        with.1
    })
}

/// Returns, for each node of `model`, the layer of `graph` that computes the same in float.
///
/// The input stands beside an InputQuantizer and the input. Dequantizers have no counterpart.
///
/// # Errors
///
/// A layer of integers that the float network does not have, or has with other extents: it is not
/// the network that the model was made from.
pub(crate) fn pairs(model: &QuantizedModel, graph: &Graph) -> Result<Vec<Option<NodeId>>, Error> {
    let input = graph.inputs().next();
    let mut pairs = Vec::with_capacity(model.nodes.len());
    for node in &model.nodes {
        let pair = match &node.op {
            QuantizedOp::Input(_) | QuantizedOp::InputQuantizer { .. } => input,
            QuantizedOp::Dequantizer(_) => None,
            QuantizedOp::Integer(_) | QuantizedOp::Float(_) => graph.find(&node.name),
        };
        let shape = pair.map(|id| &graph.node(id).shape);
        let problem = match (&node.op, shape) {
            (_, Some(shape)) if !agree(shape, &node.shape) => format!(
                "gives {} in the quantized model, {} in the float one",
                extents(&node.shape),
                extents(shape)
            ),
            (QuantizedOp::Integer(_), None) => "is not in the float model".to_owned(),
            _ => {
                pairs.push(pair);
                continue;
            }
        };
        return Err(Error::Invalid(format!(
            "layer `{}` {problem}, after the rewrites of `quantize`: is this the float model that \
             the quantized one was made from?",
            node.name
        )));
    }
    Ok(pairs)
}

/// Returns whether extents agree; an open one agrees with all.
pub(crate) fn agree(a: &Shape, b: &Shape) -> bool {
    let alike = |(a, b): (&Option<usize>, &Option<usize>)| a.zip(*b).is_none_or(|(a, b)| a == b);
    a.len() == b.len() && a.iter().zip(b).all(alike)
}

/// Returns extents as text.
pub(crate) fn extents(shape: &Shape) -> String {
    let one = |n: &Option<usize>| n.map_or_else(|| "any".to_owned(), |n| n.to_string());
    let all: Vec<String> = shape.iter().map(one).collect();
    format!("[{}]", all.join(", "))
}

/// Returns by how much the outputs of each node are larger than those of the float network.
///
/// ```text
/// rate(node) = rescaling_rate of its output quantizer, 1 without one
///              * rate(its input)       if it passes channels on: pooling, Flatten, Reshape, Dropout
/// ```
///
/// The weights of all other layers have the rate of their inputs divided out. NUMERICS.md: A1.
pub(crate) fn rates(model: &QuantizedModel) -> Vec<PerAxis<f32>> {
    let mut rates: Vec<PerAxis<f32>> = Vec::with_capacity(model.nodes.len());
    for node in &model.nodes {
        let input = node.inputs.first().and_then(|i| rates.get(*i));
        let passed = input.filter(|_| passes_channels(node)).cloned();
        let own = node.ranges.as_ref().map(|r| r.rescaling_rate.clone());
        rates.push(match (passed, own) {
            (Some(passed), Some(own)) => product(&passed, &own),
            (Some(rate), None) | (None, Some(rate)) => rate,
            (None, None) => PerAxis::Tensor(1.0),
        });
    }
    rates
}

fn product(a: &PerAxis<f32>, b: &PerAxis<f32>) -> PerAxis<f32> {
    let n = a.n_values().max(b.n_values());
    let both = (0..n).map(|channel| repeated(a, channel) * repeated(b, channel));
    PerAxis::Axis(both.collect())
}

/// Returns the value of a channel; channels repeat after a Flatten.
pub(crate) fn repeated(values: &PerAxis<f32>, channel: usize) -> f32 {
    let all = values.as_slice();
    let place = channel.checked_rem(all.len());
    place.and_then(|i| all.get(i)).copied().unwrap_or(1.0)
}

fn passes_channels(node: &QuantizedNode) -> bool {
    match &node.op {
        QuantizedOp::Dequantizer(_) => true,
        QuantizedOp::Integer(layer) => matches!(
            layer.op,
            IntegerOp::Identity
                | IntegerOp::MaxPool2D(_)
                | IntegerOp::GlobalAveragePooling2D { .. }
                | IntegerOp::Flatten
                | IntegerOp::Reshape { .. }
        ),
        QuantizedOp::Float(layer) => matches!(
            layer.as_ref(),
            Layer::Dropout { .. }
                | Layer::MaxPool2D(_)
                | Layer::GlobalAveragePooling2D(_)
                | Layer::Flatten
                | Layer::Reshape { .. }
        ),
        QuantizedOp::Input(_) | QuantizedOp::InputQuantizer { .. } => false,
    }
}

/// A model's tensors as the values that its float network has there.
#[derive(Debug)]
pub(crate) struct Meaning<'m> {
    pub(crate) model: &'m QuantizedModel,
    pub(crate) executor: Executor<'m>,
    rates: Vec<PerAxis<f32>>,
}

impl<'m> Meaning<'m> {
    pub(crate) fn new(model: &'m QuantizedModel) -> Self {
        Self {
            model,
            executor: Executor::new(model),
            rates: rates(model),
        }
    }

    /// Returns what an output of node `index` stands for in the float network.
    ///
    /// ```text
    /// fl(real value / rate);  fl(real value - fl(zero_point * 2^-frac_bits)) of an InputQuantizer
    /// ```
    pub(crate) fn of(&self, index: usize, tensor: &Tensor) -> Result<ArrayD<f32>, Error> {
        let mut reals = self.executor.real_values(index, tensor)?;
        let n_channels = channels(&reals);
        if let Some(zero) = self.zero_point(index) {
            by_channel(&mut reals, n_channels, |x, c| x - repeated(&zero, c));
        }
        if let Some(rate) = self.rate(index) {
            by_channel(&mut reals, n_channels, |x, c| x / repeated(rate, c));
        }
        Ok(reals)
    }

    /// Returns the output of node `index` that is nearest to floats of the float network.
    pub(crate) fn represent(&self, index: usize, x: &ArrayD<f32>) -> Result<Tensor, Error> {
        let Some(rate) = self.rate(index) else {
            return Ok(self.executor.represent(index, x)?);
        };
        let mut scaled = x.clone();
        let n_channels = channels(x);
        by_channel(&mut scaled, n_channels, |x, c| x * repeated(rate, c));
        Ok(self.executor.represent(index, &scaled)?)
    }

    /// Returns the rate of a node, if it is not 1.
    fn rate(&self, index: usize) -> Option<&PerAxis<f32>> {
        let is_one = |rate: &f32| rate.to_bits() == 1.0_f32.to_bits();
        let rate = self.rates.get(index)?;
        (!rate.as_slice().iter().all(is_one)).then_some(rate)
    }

    fn zero_point(&self, index: usize) -> Option<PerAxis<f32>> {
        let QuantizedOp::InputQuantizer { quantizer, .. } = &self.model.nodes.get(index)?.op else {
            return None;
        };
        let zero = quantizer.zero_point.as_ref()?;
        Some(zero.zip(&quantizer.frac_bits, |zero, frac_bits| {
            mul_pow2(int_to_f32(zero), -frac_bits)
        }))
    }
}

fn channels(x: &ArrayD<f32>) -> usize {
    x.shape().last().copied().unwrap_or(1).max(1)
}

fn by_channel(x: &mut ArrayD<f32>, n_channels: usize, f: impl Fn(f32, usize) -> f32) {
    let values = x.iter_mut().enumerate();
    values.for_each(|(i, x)| *x = f(*x, i.rem_euclid(n_channels)));
}
