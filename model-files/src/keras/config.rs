//! The JSON of a model: layers by name, inputs by name.

use float_model::{Dtype, Shape};
use serde_json::{Map, Value};

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
    for layer in layers(config)? {
        let mut item = item(layer)?;
        item.inputs = inbound(&item.name, layer.get("inbound_nodes"))?;
        items.push(item);
    }
    let outputs = tensors(config.get("output_layers"))
        .filter(|outputs| !outputs.is_empty())
        .ok_or_else(|| Refused::Invalid("output_layers".to_owned()))?;
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
            let (name, _) = super::implied_input(&item).ok_or_else(|| {
                Refused::Unsupported("a Sequential model without an input shape".to_owned())
            })?;
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
    let class = class.rsplit('>').next().unwrap_or(class).to_owned();
    Ok(Item {
        class,
        name: name.to_owned(),
        config: config.clone(),
        inputs: Vec::new(),
    })
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
        [node] => tensors(Some(node))
            .ok_or_else(|| Refused::Invalid(format!("inbound_nodes of layer `{name}`"))),
        _ => Err(Refused::Unsupported(format!(
            "layer `{name}`, which is shared"
        ))),
    }
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
    extents.iter().map(extent).collect()
}

/// Returns the element type of an input; every float type counts as float32.
pub(super) fn dtype(config: &Map<String, Value>) -> Dtype {
    match config.get("dtype").and_then(Value::as_str) {
        Some("uint8") => Dtype::UInt8,
        Some("int8") => Dtype::Int8,
        Some("uint16") => Dtype::UInt16,
        Some("int16") => Dtype::Int16,
        Some("int32") => Dtype::Int32,
        Some(_) | None => Dtype::Float32,
    }
}
