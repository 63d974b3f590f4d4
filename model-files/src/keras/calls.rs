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

/// Returns the tensors that the only call of layer `name` takes, in order.
pub(super) fn inbound(name: &str, nodes: Option<&Value>) -> Result<Vec<Tensor>, Refused> {
    let nodes = nodes
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    match nodes {
        [] => Ok(Vec::new()),
        [Value::Object(node)] => keras_3(name, node),
        [node] => keras_2(name, node),
        // Some versions leave out the list of calls when there is one tensor.
        [Value::String(_), ..] => {
            let nodes = Value::Array(nodes.to_vec());
            keras_2(name, &Value::Array(vec![nodes]))
        }
        _ => Err(Refused::Unsupported(format!(
            "layer `{name}`, which is shared"
        ))),
    }
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

/// Returns the tensors of `[[layer, call, output], ...]`, or of one flat triple.
pub(super) fn tensors(value: Option<&Value>) -> Option<Vec<Tensor>> {
    let list = value?.as_array()?;
    if list.first().is_some_and(Value::is_string) {
        return Some(vec![Tensor::parse(list)?]);
    }
    list.iter().map(|t| Tensor::parse(t.as_array()?)).collect()
}

fn invalid(name: &str) -> Refused {
    Refused::Invalid(format!("inbound_nodes of layer `{name}`"))
}
