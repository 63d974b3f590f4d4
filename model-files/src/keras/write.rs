//! Networks written as Keras 2 `.h5` files.

use std::collections::BTreeMap;
use std::path::Path;

use float_model::{Activation, Graph, Layer};
use hdf5_pure::{AttrValue, FileBuilder, GroupBuilder};
use ndarray::ArrayD;
use serde_json::{Map, Value, json};

use super::calls::Tensor;
use super::describe::describe;
use crate::{FileError, atomic};

/// Version of Keras whose files these are like.
const KERAS_VERSION: &str = "2.15.0";

/// A model as a file says it; layers stand in Keras' order.
pub(super) struct Model {
    pub(super) name: String,
    pub(super) layers: Vec<SavedLayer>,
    pub(super) outputs: Vec<Tensor>,
}

/// A layer as a file says it.
pub(super) struct SavedLayer {
    pub(super) class: String,
    pub(super) name: String,
    pub(super) config: Map<String, Value>,
    /// Weights by name, in Keras' order.
    pub(super) weights: Vec<(String, ArrayD<f32>)>,
    pub(super) inputs: Vec<Tensor>,
}

/// Writes a float network as a Keras 2 `.h5` file, whole or not at all.
///
/// # Errors
///
/// The file cannot be written, or a layer has no words in Keras 2.
pub fn write_keras_h5(graph: &Graph, path: &Path) -> Result<(), FileError> {
    let tensor = |id: float_model::NodeId| Tensor::first(&graph.node(id).name);
    let mut layers = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        let inputs = node.inputs.iter().map(|id| tensor(*id)).collect();
        layers.push(float_layer(path, &node.name, &node.layer, inputs)?);
    }
    let model = Model {
        name: graph.name().to_owned(),
        layers,
        outputs: graph.outputs().iter().map(|id| tensor(*id)).collect(),
    };
    write(&model, path)
}

/// Returns a layer in float.
pub(super) fn float_layer(
    path: &Path,
    name: &str,
    layer: &Layer,
    inputs: Vec<Tensor>,
) -> Result<SavedLayer, FileError> {
    refuse_unsayable(path, name, layer)?;
    let (config, weights) = describe(layer);
    let weights = weights.into_iter();
    Ok(SavedLayer {
        class: class_name(layer),
        name: name.to_owned(),
        config,
        weights: weights
            .map(|(name, array)| (name.to_owned(), array))
            .collect(),
        inputs,
    })
}

/// Refuses what Keras has no words for.
pub(super) fn refuse_unsayable(path: &Path, name: &str, layer: &Layer) -> Result<(), FileError> {
    let function = if let Layer::Activation(function) = layer {
        Some(*function)
    } else {
        layer.activation()
    };
    if function == Some(Activation::Gelu { approximate: true }) {
        let message = format!("layer `{name}`: the approximated gelu, for which Keras has no name");
        return Err(FileError::unsupported(path, message));
    }
    Ok(())
}

/// Writes a model, whole or not at all.
pub(super) fn write(model: &Model, path: &Path) -> Result<(), FileError> {
    let names: Vec<String> = model
        .layers
        .iter()
        .map(|layer| layer.name.clone())
        .collect();
    let mut tree = Tree::default();
    model.layers.iter().for_each(|layer| tree.add_layer(layer));
    let mut builder = FileBuilder::new();
    let mut root = builder.create_group("model_weights");
    root.set_attr("layer_names", strings(&names));
    root.set_attr("backend", text("tensorflow"));
    root.set_attr("keras_version", text(KERAS_VERSION));
    tree.write(&mut root);
    builder.add_group(root.finish());
    builder.set_attr("model_config", text(&ascii(&model_config(model))));
    builder.set_attr("keras_version", text(KERAS_VERSION));
    builder.set_attr("backend", text("tensorflow"));
    let bytes = builder
        .finish()
        .map_err(|e| FileError::invalid(path, e.to_string()))?;
    atomic::write(path, &bytes)
}

fn model_config(model: &Model) -> Value {
    let layer = |layer: &SavedLayer| {
        let mut config = layer.config.clone();
        config.insert("name".to_owned(), layer.name.clone().into());
        let inputs = layer
            .inputs
            .iter()
            .map(|t| json!([t.layer, t.call, t.output, {}]));
        let inputs: Vec<Value> = inputs.collect();
        let inbound = if inputs.is_empty() {
            json!([])
        } else {
            json!([inputs])
        };
        json!({ "class_name": layer.class, "config": config, "name": layer.name,
            "inbound_nodes": inbound })
    };
    let layers: Vec<Value> = model.layers.iter().map(layer).collect();
    let inputs = model
        .layers
        .iter()
        .filter(|layer| layer.class == "InputLayer");
    let inputs: Vec<Value> = inputs.map(|layer| json!([layer.name, 0, 0])).collect();
    let outputs = model
        .outputs
        .iter()
        .map(|t| json!([t.layer, t.call, t.output]));
    let outputs: Vec<Value> = outputs.collect();
    json!({
        "class_name": "Functional",
        "config": {
            "name": model.name,
            "trainable": true,
            "layers": layers,
            "input_layers": inputs,
            "output_layers": outputs,
        }
    })
}

/// Returns JSON text without characters beyond ASCII.
fn ascii(value: &Value) -> String {
    let escape = |c: char| {
        if c.is_ascii() {
            c.to_string()
        } else {
            c.encode_utf16(&mut [0; 2])
                .iter()
                .map(|unit| format!("\\u{unit:04x}"))
                .collect()
        }
    };
    value.to_string().chars().map(escape).collect()
}

/// Groups by path component: a `/` in a layer's name nests.
#[derive(Default)]
struct Tree {
    groups: BTreeMap<String, Self>,
    weight_names: Option<Vec<String>>,
    datasets: Vec<(String, ArrayD<f32>)>,
}

impl Tree {
    /// Adds the group of a layer; a weight's name repeats the layer's name as a path.
    fn add_layer(&mut self, layer: &SavedLayer) {
        let path = |name: &str| format!("{}/{name}:0", layer.name);
        let group = self.at(&layer.name);
        let names = layer.weights.iter().map(|(name, _)| path(name));
        group.weight_names = Some(names.collect());
        for (name, array) in &layer.weights {
            let path = path(name);
            let (folder, name) = path.rsplit_once('/').unwrap_or_default();
            let datasets = &mut group.at(folder).datasets;
            datasets.push((name.to_owned(), array.clone()));
        }
    }

    fn at(&mut self, path: &str) -> &mut Self {
        path.split('/').fold(self, |tree, part| {
            tree.groups.entry(part.to_owned()).or_default()
        })
    }

    fn write(&self, group: &mut GroupBuilder) {
        if let Some(names) = &self.weight_names {
            group.set_attr("weight_names", strings(names));
        }
        for (name, array) in &self.datasets {
            let shape: Vec<u64> = array
                .shape()
                .iter()
                .map(|n| u64::try_from(*n).unwrap_or(0))
                .collect();
            let values: Vec<f32> = array.iter().copied().collect();
            group
                .create_dataset(name)
                .with_f32_data(&values)
                .with_shape(&shape);
        }
        for (name, tree) in &self.groups {
            let mut inner = group.create_group(name);
            tree.write(&mut inner);
            group.add_group(inner.finish());
        }
    }
}

fn text(value: &str) -> AttrValue {
    AttrValue::VarLenAsciiString(value.to_owned())
}

/// Returns a list of strings as h5py writes it; an empty one is an empty array of floats.
fn strings(values: &[String]) -> AttrValue {
    if values.is_empty() {
        AttrValue::F64Array(Vec::new())
    } else {
        AttrValue::VarLenAsciiStringArray(values.to_vec())
    }
}

/// Returns the class as files name it: with a prefix for those that QuantizeML registers.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "only these are custom classes"
)]
fn class_name(layer: &Layer) -> String {
    let custom = match layer {
        Layer::Conv2D(conv) => conv.padding_value.is_some(),
        Layer::DepthwiseConv2DTranspose(_)
        | Layer::StatefulProjection(_)
        | Layer::BufferTempConv(_)
        | Layer::DepthwiseBufferTempConv(_)
        | Layer::StatefulRecurrent(_)
        | Layer::ExtractToken { .. } => true,
        Layer::Add(add) => add.average,
        _ => false,
    };
    let prefix = if custom { "Custom>" } else { "" };
    format!("{prefix}{}", layer.class_name())
}
