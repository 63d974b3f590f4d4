//! Quantized networks written as the `.h5` files of QuantizeML.

use std::collections::BTreeMap;
use std::path::Path;

use akida_sim::{
    CalibratedGraph, CalibratedNode, CalibratedOp, InputQuantizerSpec, QuantizedLayer,
};
use float_model::{Layer, keras_order};
use ndarray::{ArrayD, IxDyn, arr0};
use quantizer_core::PerAxis;
use serde_json::{Map, Value, json};

use super::calls::Tensor;
use super::describe::describe;
use super::write::{Model, SavedLayer, float_layer, refuse_unsayable, write};
use crate::FileError;

/// Weights by name, in Keras' order.
type Weights = Vec<(String, ArrayD<f32>)>;

/// Writes a calibrated network as a `.h5` file that QuantizeML loads, whole or not at all.
///
/// The file holds what the reference's files do: float weights, configurations and ranges. It
/// computes the same integers there as the network does here.
///
/// # Errors
///
/// The file cannot be written, or QuantizeML has no words for a layer.
pub fn write_quantized_h5(graph: &CalibratedGraph, path: &Path) -> Result<(), FileError> {
    let layers = Layers::new(graph);
    let mut saved = Vec::with_capacity(graph.nodes.len());
    for (name, nodes) in layers.in_keras_order(path)? {
        let inputs = nodes.iter().flat_map(|node| &node.inputs);
        let inputs = inputs.map(|input| layers.tensor(input)).collect();
        if let Some(first) = nodes.first() {
            saved.push(layer(path, name, &first.op, inputs)?);
        }
    }
    let outputs = graph.outputs.iter().map(|name| layers.tensor(name));
    let model = Model {
        name: graph.name.clone(),
        layers: saved,
        outputs: outputs.collect(),
    };
    write(&model, path)
}

/// The nodes by the layers that they are in a file.
///
/// Dequantizers `name:0`, `name:1`, ... are one layer `name` that takes and gives a list.
struct Layers<'a> {
    nodes: BTreeMap<&'a str, Vec<&'a CalibratedNode>>,
    outputs: &'a [String],
}

impl<'a> Layers<'a> {
    fn new(graph: &'a CalibratedGraph) -> Self {
        let mut elements = BTreeMap::new();
        for node in &graph.nodes {
            if let (CalibratedOp::Dequantizer, Some(place)) = (&node.op, element(&node.name)) {
                elements.insert(place, node);
            }
        }
        let mut nodes: BTreeMap<&str, Vec<&CalibratedNode>> = BTreeMap::new();
        for ((layer, _), node) in elements {
            nodes.entry(layer).or_default().push(node);
        }
        for node in &graph.nodes {
            let is_element =
                matches!(node.op, CalibratedOp::Dequantizer) && element(&node.name).is_some();
            if !is_element {
                nodes.entry(&node.name).or_default().push(node);
            }
        }
        Self {
            nodes,
            outputs: &graph.outputs,
        }
    }

    /// Returns the tensor that a node gives.
    fn tensor(&self, node: &str) -> Tensor {
        let found = element(node).and_then(|(layer, _)| {
            let nodes = self.nodes.get(layer)?;
            let output = nodes.iter().position(|other| other.name == node)?;
            Some(Tensor {
                output,
                ..Tensor::first(layer)
            })
        });
        found.unwrap_or_else(|| Tensor::first(node))
    }

    /// Returns the layers in Keras' order, in which it looks for their weights.
    fn in_keras_order(
        &self,
        path: &Path,
    ) -> Result<Vec<(&'a str, &Vec<&'a CalibratedNode>)>, FileError> {
        let layers: Vec<_> = self
            .nodes
            .iter()
            .map(|(name, nodes)| (*name, nodes))
            .collect();
        let index = |name: &String| {
            let layer = self.tensor(name).layer;
            let found = layers.binary_search_by(|(other, _)| (*other).cmp(layer.as_str()));
            found.map_err(|_| FileError::invalid(path, format!("there is no layer `{name}`")))
        };
        let mut inputs = Vec::with_capacity(layers.len());
        for (_, nodes) in &layers {
            let names = nodes.iter().flat_map(|node| &node.inputs);
            inputs.push(names.map(index).collect::<Result<Vec<usize>, _>>()?);
        }
        let outputs = self.outputs.iter().map(index);
        let outputs = outputs.collect::<Result<Vec<usize>, _>>()?;
        let order = keras_order(&inputs, &outputs).map_err(|i| {
            FileError::invalid(
                path,
                format!("layer `{}` takes its own output", layers[i].0),
            )
        })?;
        Ok(order.into_iter().map(|i| layers[i]).collect())
    }
}

/// Returns layer and index of the name of an element of a list.
fn element(name: &str) -> Option<(&str, usize)> {
    let (layer, index) = name.rsplit_once(':')?;
    Some((layer, index.parse().ok()?))
}

fn layer(
    path: &Path,
    name: &str,
    op: &CalibratedOp,
    inputs: Vec<Tensor>,
) -> Result<SavedLayer, FileError> {
    let (class, config, weights) = match op {
        CalibratedOp::Float(layer) => return float_layer(path, name, layer, inputs),
        CalibratedOp::Dequantizer => ("Dequantizer".to_owned(), Map::new(), Weights::new()),
        CalibratedOp::InputQuantizer(spec) => {
            let (config, weights) = input_quantizer(spec);
            ("InputQuantizer".to_owned(), config, weights)
        }
        CalibratedOp::Quantized(layer) => {
            refuse_unsayable(path, name, &layer.layer)?;
            let (config, weights) = quantized(layer);
            (layer.class_name(), config, weights)
        }
    };
    Ok(SavedLayer {
        class: format!("Custom>{class}"),
        name: name.to_owned(),
        config,
        weights,
        inputs,
    })
}

fn input_quantizer(spec: &InputQuantizerSpec) -> (Map<String, Value>, Weights) {
    let axis = match spec.range_max {
        PerAxis::Tensor(_) => "per-tensor",
        PerAxis::Axis(_) => "per-axis",
    };
    let config = json!({ "bitwidth": spec.bitwidth, "signed": spec.signed, "axis": axis });
    let weights = vec![
        ("range_min".to_owned(), array(&spec.range_min)),
        ("range_max".to_owned(), array(&spec.range_max)),
    ];
    (config.as_object().cloned().unwrap_or_default(), weights)
}

/// Returns configuration and weights: those of the float layer, then those of the quantizers.
fn quantized(layer: &QuantizedLayer) -> (Map<String, Value>, Weights) {
    let (mut config, weights) = describe(&layer.layer);
    if matches!(layer.layer, Layer::ReLU(_)) {
        // The quantized class has no such arguments; lowering refuses other values than 0.
        config.remove("negative_slope");
        config.remove("threshold");
    }
    if let Some(json) = &layer.json {
        config.insert("quant_config".to_owned(), Value::Object(json.clone()));
    }
    let weights = weights
        .into_iter()
        .map(|(name, array)| (name.to_owned(), array));
    let mut weights: Weights = weights.collect();
    if let Some(ranges) = &layer.ranges {
        let of_output = |name: &str| format!("output_quantizer/{name}");
        weights.push((of_output("range_max"), array(&ranges.range_max)));
        weights.push((of_output("rescaling_rate"), array(&ranges.rescaling_rate)));
    }
    (config, weights)
}

/// Returns a scalar, or one value for each channel.
fn array(values: &PerAxis<f32>) -> ArrayD<f32> {
    match values {
        PerAxis::Tensor(value) => arr0(*value).into_dyn(),
        PerAxis::Axis(values) => ArrayD::from_shape_fn(IxDyn(&[values.len()]), |i| values[i[0]]),
    }
}
