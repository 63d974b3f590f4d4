//! The JSON of a model: layers by name, inputs by name.

use std::collections::BTreeMap;

use float_model::{Dtype, Shape};
use serde_json::{Map, Value};

use super::{operations, quantized};

/// Most elements of one input; more is no sample, and products of extents could overflow.
const LARGEST_INPUT: usize = 1 << 32;

/// One layer as the file writes it.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Class without the prefix of custom classes.
    pub(super) class: String,
    pub(super) name: String,
    pub(super) config: Map<String, Value>,
    pub(super) inputs: Vec<String>,
}

/// A model as the file writes it.
#[derive(Clone, Debug)]
pub(super) struct ModelConfig {
    pub(super) name: String,
    pub(super) items: Vec<Item>,
    pub(super) outputs: Vec<String>,
}

/// Why a model's JSON is refused.
#[derive(Debug)]
pub(super) enum Refused {
    Invalid(String),
    Unsupported(String),
}

impl ModelConfig {
    /// Returns the model of the text of `model_config`.
    pub(super) fn parse(text: &str) -> Result<Self, Refused> {
        let value: Value = serde_json::from_str(text)
            .map_err(|e| Refused::Invalid(format!("model_config: {e}")))?;
        let class = value
            .get("class_name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let config = value
            .get("config")
            .ok_or_else(|| Refused::Invalid("model_config has no config".to_owned()))?;
        match class {
            "Functional" | "Model" => functional(config),
            "Sequential" => sequential(config),
            other => Err(Refused::Unsupported(format!("a model of class `{other}`"))),
        }
    }
}

fn functional(config: &Value) -> Result<ModelConfig, Refused> {
    let mut items = Vec::new();
    let mut renamed = BTreeMap::new();
    for layer in layers(config)? {
        let mut item = item(layer)?;
        let nodes = layer.get("inbound_nodes");
        if item.class == "TFOpLambda" {
            let before = item.name.clone();
            item = operations::layer(item, nodes)?;
            if item.name != before {
                renamed.insert(before, item.name.clone());
            }
        } else if quantized::is_known(&item.class) {
            // Calls of classes that are not known have their own forms; they are refused later.
            item.inputs = inbound(&item.name, nodes)?;
        }
        items.push(item);
    }
    let new_name = |name: &mut String| {
        if let Some(new) = renamed.get(name.as_str()) {
            name.clone_from(new);
        }
    };
    let inputs = items.iter_mut().flat_map(|item| item.inputs.iter_mut());
    inputs.for_each(new_name);
    let mut outputs = tensors(config.get("output_layers"))
        .filter(|outputs| !outputs.is_empty())
        .ok_or_else(|| Refused::Invalid("output_layers".to_owned()))?;
    outputs.iter_mut().for_each(new_name);
    Ok(ModelConfig {
        name: model_name(config),
        items,
        outputs,
    })
}

fn sequential(config: &Value) -> Result<ModelConfig, Refused> {
    let mut items: Vec<Item> = Vec::new();
    for layer in layers(config)? {
        let mut item = item(layer)?;
        if items.is_empty() && item.class != "InputLayer" {
            if batch_input_shape(&item.config).is_none() {
                return Err(Refused::Unsupported(
                    "a Sequential model without an input shape".to_owned(),
                ));
            }
            let name = format!("{}_input", item.name);
            let config = item.config.clone();
            let class = "InputLayer".to_owned();
            items.push(Item {
                class,
                name,
                config,
                inputs: Vec::new(),
            });
        }
        item.inputs = items
            .last()
            .map(|item| vec![item.name.clone()])
            .unwrap_or_default();
        items.push(item);
    }
    let last = items
        .last()
        .ok_or_else(|| Refused::Invalid("a model without layers".to_owned()))?;
    let outputs = vec![last.name.clone()];
    Ok(ModelConfig {
        name: model_name(config),
        items,
        outputs,
    })
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

fn item(layer: &Value) -> Result<Item, Refused> {
    let class = layer.get("class_name").and_then(Value::as_str);
    let config = layer.get("config").and_then(Value::as_object);
    let (Some(class), Some(config)) = (class, config) else {
        return Err(Refused::Invalid(
            "a layer without class_name or config".to_owned(),
        ));
    };
    let name = layer
        .get("name")
        .or_else(|| config.get("name"))
        .and_then(Value::as_str);
    let name = name.ok_or_else(|| Refused::Invalid("a layer without a name".to_owned()))?;
    Ok(Item {
        class: plain_class(class).to_owned(),
        name: name.to_owned(),
        config: config.clone(),
        inputs: Vec::new(),
    })
}

/// Returns the class without QuantizeML's prefix.
///
/// A class of another package, or a custom class that merely has a known name, keeps its prefix:
/// what it computes is not known.
fn plain_class(class: &str) -> &str {
    match class.strip_prefix("Custom>") {
        Some(own) if quantized::is_own_class(own) => own,
        Some(_) | None => class,
    }
}

/// Returns the producers of a layer's only call.
fn inbound(name: &str, nodes: Option<&Value>) -> Result<Vec<String>, Refused> {
    let nodes = nodes
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    match nodes {
        [] => Ok(Vec::new()),
        [Value::Object(_)] => Err(Refused::Unsupported(
            "a model saved by Keras 3; save it with tf_keras or Keras 2".to_owned(),
        )),
        [node] => call(name, node),
        // Some versions leave out the list of calls when there is one tensor.
        [Value::String(_), ..] => {
            let nodes = Value::Array(nodes.to_vec());
            call(name, &Value::Array(vec![nodes]))
        }
        _ => Err(Refused::Unsupported(format!(
            "layer `{name}`, which is shared"
        ))),
    }
}

/// Returns the producers of a call: `[[name, node, tensor, arguments], ...]`.
fn call(name: &str, node: &Value) -> Result<Vec<String>, Refused> {
    let invalid = || Refused::Invalid(format!("inbound_nodes of layer `{name}`"));
    for tensor in node.as_array().ok_or_else(invalid)? {
        let tensor = tensor.as_array().map(Vec::as_slice);
        let Some([_, node, index, arguments @ ..]) = tensor else {
            return Err(invalid());
        };
        if node.as_u64() != Some(0) || index.as_u64() != Some(0) {
            return Err(Refused::Unsupported(format!(
                "layer `{name}` takes a second call or a second output of a layer"
            )));
        }
        let arguments = arguments.iter().filter_map(Value::as_object).flatten();
        let idle = |value: &Value| matches!(value, Value::Null | Value::Bool(false));
        if let Some((key, value)) = arguments.into_iter().find(|(_, value)| !idle(value)) {
            return Err(Refused::Unsupported(format!(
                "layer `{name}` is called with `{key}` = {value}"
            )));
        }
    }
    tensors(Some(node)).ok_or_else(invalid)
}

/// Returns the layer names of `[[name, node, tensor, ...], ...]`, or of one flat triple.
fn tensors(value: Option<&Value>) -> Option<Vec<String>> {
    let list = value?.as_array()?;
    if let Some(name) = list.first().and_then(Value::as_str) {
        return Some(vec![name.to_owned()]);
    }
    list.iter()
        .map(|t| Some(t.as_array()?.first()?.as_str()?.to_owned()))
        .collect()
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
    Ok(match config.get("dtype").and_then(Value::as_str) {
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
