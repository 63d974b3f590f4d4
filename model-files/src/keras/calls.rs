//! Calls of layers, as Keras 2 and Keras 3 write them.

use serde_json::{Map, Value};

use super::config::Refused;

/// Class of the objects that stand for tensors in Keras 3.
const KERAS_3_TENSOR: &str = "__keras_tensor__";

/// An output of a call of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) layer: String,
    /// Index of the call.
    pub(super) call: u64,
    /// Index of the output.
    pub(super) output: usize,
}

impl Tensor {
    /// Returns the first output of the first call of a layer.
    pub(super) fn first(layer: &str) -> Self {
        Self {
            layer: layer.to_owned(),
            call: 0,
            output: 0,
        }
    }

    /// Parses `[layer, call, output, ...]`.
    pub(super) fn parse(list: &[Value]) -> Option<Self> {
        let [layer, call, output, ..] = list else {
            return None;
        };
        Some(Self {
            layer: layer.as_str()?.to_owned(),
            call: call.as_u64()?,
            output: usize::try_from(output.as_u64()?).ok()?,
        })
    }
}

/// Returns the tensors that each call of layer `name` takes, in order; a layer that is shared has
/// several.
pub(super) fn inbound(name: &str, nodes: Option<&Value>) -> Result<Vec<Vec<Tensor>>, Refused> {
    let nodes = nodes
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    // Some versions leave out the list of calls when there is one tensor.
    if let [Value::String(_), ..] = nodes {
        let nodes = Value::Array(nodes.to_vec());
        return Ok(vec![keras_2(name, &Value::Array(vec![nodes]))?]);
    }
    let call = |node: &Value| match node.as_object() {
        Some(node) => keras_3(name, node),
        None => keras_2(name, node),
    };
    nodes.iter().map(call).collect()
}

/// Parses a call of Keras 2: `[[layer, call, output, arguments], ...]`.
fn keras_2(name: &str, node: &Value) -> Result<Vec<Tensor>, Refused> {
    let invalid = || invalid(name);
    let mut tensors = Vec::new();
    for tensor in node.as_array().ok_or_else(invalid)? {
        let tensor = tensor.as_array().ok_or_else(invalid)?;
        tensors.push(Tensor::parse(tensor).ok_or_else(invalid)?);
        let arguments = tensor.iter().skip(3).filter_map(Value::as_object);
        arguments
            .into_iter()
            .try_for_each(|all| refuse_arguments(name, all))?;
    }
    Ok(tensors)
}

/// Parses a call of Keras 3: `{"args": [...], "kwargs": {...}}`.
fn keras_3(name: &str, node: &Map<String, Value>) -> Result<Vec<Tensor>, Refused> {
    if let Some(arguments) = node.get("kwargs").and_then(Value::as_object) {
        refuse_arguments(name, arguments)?;
    }
    let mut tensors = Vec::new();
    for argument in arguments(name, node)? {
        match argument {
            Argument::Tensor(tensor) => tensors.push(tensor),
            Argument::Constant(value) => {
                return Err(Refused::Unsupported(format!(
                    "layer `{name}` is called with the constant {value}"
                )));
            }
        }
    }
    Ok(tensors)
}

/// What a call of Keras 3 takes.
pub(super) enum Argument<'a> {
    Tensor(Tensor),
    Constant(&'a Value),
}

/// Returns the positional arguments of a call of Keras 3, those in lists too; `null` is none.
pub(super) fn arguments<'a>(
    name: &str,
    node: &'a Map<String, Value>,
) -> Result<Vec<Argument<'a>>, Refused> {
    let mut open: Vec<&Value> = Vec::new();
    let args = node.get("args").and_then(Value::as_array);
    open.extend(args.into_iter().flatten().rev());
    let mut found = Vec::new();
    while let Some(value) = open.pop() {
        match value {
            Value::Null => {}
            Value::Array(list) => open.extend(list.iter().rev()),
            Value::Object(object)
                if object.get("class_name").and_then(Value::as_str) == Some(KERAS_3_TENSOR) =>
            {
                let history = object.get("config").and_then(|c| c.get("keras_history"));
                let history = history.and_then(Value::as_array);
                let tensor = history.and_then(|list| Tensor::parse(list));
                found.push(Argument::Tensor(tensor.ok_or_else(|| invalid(name))?));
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                found.push(Argument::Constant(value));
            }
        }
    }
    Ok(found)
}

/// Refuses arguments by name that change what a layer computes.
fn refuse_arguments(name: &str, arguments: &Map<String, Value>) -> Result<(), Refused> {
    let idle = |value: &Value| matches!(value, Value::Null | Value::Bool(false));
    match arguments.iter().find(|(_, value)| !idle(value)) {
        None => Ok(()),
        Some((key, value)) => Err(Refused::Unsupported(format!(
            "layer `{name}` is called with `{key}` = {value}"
        ))),
    }
}

/// Returns the tensors of `[[layer, call, output], ...]`, of one flat triple, or of an object whose
/// values are triples.
pub(super) fn tensors(value: Option<&Value>) -> Option<Vec<Tensor>> {
    let triple = |value: &Value| Tensor::parse(value.as_array()?);
    match value? {
        Value::Object(named) => named.values().map(triple).collect(),
        Value::Array(list) if list.first().is_some_and(Value::is_string) => {
            Some(vec![Tensor::parse(list)?])
        }
        Value::Array(list) => list.iter().map(triple).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn invalid(name: &str) -> Refused {
    Refused::Invalid(format!("inbound_nodes of layer `{name}`"))
}
