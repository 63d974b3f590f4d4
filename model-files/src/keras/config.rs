//! The JSON of a model: layers by name, inputs by name.

use std::collections::BTreeMap;

use float_model::{Dtype, Shape};
use serde_json::{Map, Value};

use super::calls::{self, Tensor};
use super::weights::Weights;
use super::{keras_3, operations, quantized};

/// Most elements of one input; more is no sample, and products of extents could overflow.
const LARGEST_INPUT: usize = 1 << 32;

/// One layer as the file writes it.
#[derive(Clone, Debug, Default)]
pub(super) struct Item {
    /// Class without the prefix of custom classes.
    pub(super) class: String,
    pub(super) name: String,
    pub(super) config: Map<String, Value>,
    /// Names of the layers that it takes; none until the model is flattened.
    pub(super) inputs: Vec<String>,
    pub(super) weights: Weights,
}

/// A model in one level: what its layers take, and where its outputs are.
#[derive(Clone, Debug)]
pub(super) struct ModelConfig {
    pub(super) name: String,
    pub(super) items: Vec<Item>,
    pub(super) outputs: Vec<String>,
}

/// A model as the file writes it.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) name: String,
    pub(super) parts: Vec<Part>,
    /// Names of its input layers.
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<Tensor>,
}

/// A layer of a model, which may be a model itself.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) item: Item,
    /// What its first call takes.
    pub(super) calls: Vec<Tensor>,
    /// What the calls after it take, where the layer is shared.
    pub(super) repeats: Vec<Vec<Tensor>>,
    pub(super) inner: Option<Box<Tree>>,
}

/// Why a model's JSON is refused.
#[derive(Debug)]
pub(super) enum Refused {
    Invalid(String),
    Unsupported(String),
}

impl Tree {
    /// Returns the model of a JSON text: `model_config`, `config.json`, or what `to_json` gives.
    pub(super) fn parse(text: &str) -> Result<Self, Refused> {
        let value: Value = serde_json::from_str(text)
            .map_err(|e| Refused::Invalid(format!("model_config: {e}")))?;
        model(&value)
    }
}

fn model(value: &Value) -> Result<Tree, Refused> {
    let class =
        class(value).ok_or_else(|| Refused::Invalid("a model without a class".to_owned()))?;
    let config = value
        .get("config")
        .ok_or_else(|| Refused::Invalid("model_config has no config".to_owned()))?;
    match class.as_str() {
        "Functional" | "Model" => functional(config),
        "Sequential" => sequential(value, config),
        other => Err(Refused::Unsupported(format!("a model of class `{other}`"))),
    }
}

fn functional(config: &Value) -> Result<Tree, Refused> {
    let mut parts = Vec::new();
    let mut renamed = BTreeMap::new();
    for layer in layers(config)? {
        let mut part = part(layer)?;
        let nodes = layer.get("inbound_nodes");
        if part.inner.is_none() && keras_3::is_bare_operation(&part.item, nodes) {
            part.item.class = format!("{}{}", keras_3::OPERATION, part.item.class);
        }
        if part.item.class == "TFOpLambda" {
            let before = part.item.name.clone();
            (part.item, part.calls) = operations::layer(part.item, nodes)?;
            if part.item.name != before {
                renamed.insert(before, part.item.name.clone());
            }
        } else if part.item.class.starts_with(keras_3::OPERATION) {
            (part.item, part.calls) = keras_3::operation(part.item, nodes)?;
        } else if part.inner.is_some() || quantized::is_known(&part.item.class) {
            // Calls of classes that are not known have their own forms; they are refused later.
            let mut calls = calls::inbound(&part.item.name, nodes)?.into_iter();
            part.calls = calls.next().unwrap_or_default();
            part.repeats = calls.collect();
        }
        parts.push(part);
    }
    let ends = |key: &str| {
        let ends = calls::tensors(config.get(key)).filter(|ends| !ends.is_empty());
        ends.ok_or_else(|| Refused::Invalid(key.to_owned()))
    };
    let mut outputs = ends("output_layers")?;
    let called = parts.iter_mut().flat_map(|part| {
        part.calls
            .iter_mut()
            .chain(part.repeats.iter_mut().flatten())
    });
    for tensor in called.chain(outputs.iter_mut()) {
        if let Some(new) = renamed.get(&tensor.layer) {
            tensor.layer.clone_from(new);
        }
    }
    let inputs = match config.get("input_layers") {
        None => Vec::new(),
        Some(_) => ends("input_layers")?,
    };
    Ok(Tree {
        name: model_name(config),
        parts,
        inputs: inputs.into_iter().map(|tensor| tensor.layer).collect(),
        outputs,
    })
}

fn sequential(value: &Value, config: &Value) -> Result<Tree, Refused> {
    let mut parts: Vec<Part> = Vec::new();
    for layer in layers(config)? {
        let mut part = part(layer)?;
        if parts.is_empty() && part.item.class != "InputLayer" {
            parts.push(implied_input(value, config, &part));
        }
        part.calls = parts
            .last()
            .map(|part| vec![Tensor::first(&part.item.name)])
            .unwrap_or_default();
        parts.push(part);
    }
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
        return Err(Refused::Invalid("a model without layers".to_owned()));
    };
    Ok(Tree {
        name: model_name(config),
        inputs: vec![first.item.name.clone()],
        outputs: vec![Tensor::first(&last.item.name)],
        parts,
    })
}

/// Returns the input that a Sequential model does not write; it may have no shape.
fn implied_input(value: &Value, config: &Value, first: &Part) -> Part {
    let mut item = Item {
        class: "InputLayer".to_owned(),
        name: format!("{}_input", first.item.name),
        config: first.item.config.clone(),
        ..Item::default()
    };
    let built = config.get("build_input_shape").or_else(|| {
        let build = value.get("build_config");
        build.and_then(|build| build.get("input_shape"))
    });
    let inner = first.inner.as_ref().and_then(|inner| {
        let input = inner.inputs.first()?;
        inner.parts.iter().find(|part| part.item.name == *input)
    });
    if !has_shape(&item.config) {
        if let Some(inner) = inner {
            item.config = inner.item.config.clone();
        } else if let Some(built) = built {
            item.config
                .insert("batch_input_shape".to_owned(), built.clone());
        }
    }
    Part {
        item,
        calls: Vec::new(),
        repeats: Vec::new(),
        inner: None,
    }
}

fn layers(config: &Value) -> Result<&Vec<Value>, Refused> {
    config
        .get("layers")
        .and_then(Value::as_array)
        .ok_or_else(|| Refused::Invalid("model_config has no layers".to_owned()))
}

fn model_name(config: &Value) -> String {
    config
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or("model")
        .to_owned()
}

fn part(layer: &Value) -> Result<Part, Refused> {
    let config = layer.get("config").and_then(Value::as_object);
    let (Some(class), Some(config)) = (class(layer), config) else {
        return Err(Refused::Invalid(
            "a layer without class_name or config".to_owned(),
        ));
    };
    let name = layer
        .get("name")
        .or_else(|| config.get("name"))
        .and_then(Value::as_str);
    let name = name.ok_or_else(|| Refused::Invalid("a layer without a name".to_owned()))?;
    let inner = match class.as_str() {
        "Functional" | "Model" | "Sequential" => Some(Box::new(model(layer)?)),
        _ => None,
    };
    let mut item = Item {
        class,
        name: name.to_owned(),
        config: if inner.is_some() {
            Map::new()
        } else {
            config.clone()
        },
        ..Item::default()
    };
    keras_3::translate(&mut item)?;
    Ok(Part {
        item,
        calls: Vec::new(),
        repeats: Vec::new(),
        inner,
    })
}

/// Returns the class of a layer without QuantizeML's prefix.
///
/// A class of another package, or a custom class that merely has a known name, keeps its prefix:
/// what it computes is not known.
fn class(layer: &Value) -> Option<String> {
    let class = layer.get("class_name")?.as_str()?;
    // In `.keras` files the prefix stands in the registered name alone.
    let registered = layer.get("registered_name").and_then(Value::as_str);
    let full = registered
        .filter(|name| name.contains('>'))
        .unwrap_or(class);
    let module = layer
        .get("module")
        .and_then(Value::as_str)
        .unwrap_or("keras");
    if keras_3::is_operation(module) {
        return Some(format!("{}{class}", keras_3::OPERATION));
    }
    Some(match full.strip_prefix("Custom>") {
        Some(own) if quantized::is_own_class(own) => own.to_owned(),
        Some(_) => full.to_owned(),
        None if !is_of_keras(module) => format!("{module}>{class}"),
        None => full.to_owned(),
    })
}

/// Returns whether a module is one of Keras' own.
fn is_of_keras(module: &str) -> bool {
    let package = module.split('.').next().unwrap_or(module);
    matches!(package, "keras" | "tf_keras" | "builtins")
}

/// Returns whether an input says its shape, whatever it is.
pub(super) fn has_shape(config: &Map<String, Value>) -> bool {
    config.contains_key("batch_input_shape") || config.contains_key("batch_shape")
}

/// Returns the extents of `batch_input_shape`, without the batch.
pub(super) fn batch_input_shape(config: &Map<String, Value>) -> Option<Shape> {
    let shape = config
        .get("batch_input_shape")
        .or_else(|| config.get("batch_shape"))?;
    let extents = shape.as_array()?.get(1..)?;
    let extent = |n: &Value| {
        if n.is_null() {
            return Some(None);
        }
        n.as_u64().and_then(|n| usize::try_from(n).ok()).map(Some)
    };
    let shape: Shape = extents.iter().map(extent).collect::<Option<_>>()?;
    let n_elements = shape
        .iter()
        .flatten()
        .try_fold(1usize, |n, extent| n.checked_mul(*extent));
    n_elements
        .is_some_and(|n| n <= LARGEST_INPUT)
        .then_some(shape)
}

/// Returns the element type of an input; every float type counts as float32.
///
/// The error is the name of a type that is no input of a network here.
pub(super) fn dtype(config: &Map<String, Value>) -> Result<Dtype, String> {
    Ok(match dtype_name(config) {
        Some("uint8") => Dtype::UInt8,
        Some("int8") => Dtype::Int8,
        Some("uint16") => Dtype::UInt16,
        Some("int16") => Dtype::Int16,
        Some("int32") => Dtype::Int32,
        // A layer that stands for its input may have a policy, such as `mixed_float16`.
        Some(name) if !name.contains("float") => return Err(name.to_owned()),
        Some(_) | None => Dtype::Float32,
    })
}

/// Returns the name of a type, or of the policy that stands for it.
pub(super) fn dtype_name(config: &Map<String, Value>) -> Option<&str> {
    let dtype = config.get("dtype")?;
    dtype
        .as_str()
        .or_else(|| dtype.get("config")?.get("name")?.as_str())
}
