//! What Keras 3 writes in other words than Keras 2.

use serde_json::{Map, Value, json};

use super::calls::{Argument, Tensor, arguments};
use super::config::{Item, Refused, dtype_name};

/// Prefix of the classes of operations (`keras.ops`) among the layers of a model.
pub(super) const OPERATION: &str = "keras.ops.";

/// Returns whether a module holds operations.
pub(super) fn is_operation(module: &str) -> bool {
    module.starts_with("keras.src.ops") || module.starts_with("keras.ops")
}

/// Returns whether an entry of a model is an operation whose module the file does not say.
///
/// A `.h5` file writes the operation `Add` and the layer `Add` alike, but for what every layer has.
pub(super) fn is_bare_operation(item: &Item, nodes: Option<&Value>) -> bool {
    let first = nodes.and_then(|nodes| nodes.get(0));
    first.is_some_and(Value::is_object)
        && !item.class.starts_with(OPERATION)
        && !item.config.contains_key("trainable")
        && !item.config.contains_key("dtype")
}

/// Says a layer's configuration in the words of Keras 2, where they differ.
pub(super) fn translate(item: &mut Item) -> Result<(), Refused> {
    let policy = item.config.get("dtype").and_then(|d| d.get("class_name"));
    let policy = policy.and_then(Value::as_str).unwrap_or_default();
    let is_keras_3 = policy == "DTypePolicy";
    if policy.starts_with("Quantized") || policy == "GPTQDTypePolicy" || policy == "AWQDTypePolicy"
    {
        let name = dtype_name(&item.config).unwrap_or(policy);
        return Err(Refused::Unsupported(format!(
            "layer `{}`, whose weights Keras quantized ({name})",
            item.name
        )));
    }
    // Keras 2 computes `0.2 x + 0.5`, Keras 3 `x / 6 + 0.5`.
    if is_keras_3 && item.config.get("activation").and_then(Value::as_str) == Some("hard_sigmoid") {
        return Err(Refused::Unsupported(format!(
            "layer `{}`: the hard_sigmoid of Keras 3",
            item.name
        )));
    }
    Ok(())
}

/// Returns the layer of an operation of Keras 3 (`keras.ops`, or an operator of Python), and what
/// it takes.
///
/// One that is not supported keeps its class, which nobody knows.
pub(super) fn operation(item: Item, nodes: Option<&Value>) -> Result<(Item, Vec<Tensor>), Refused> {
    let node = match nodes.and_then(Value::as_array).map(Vec::as_slice) {
        Some([Value::Object(node)]) => node,
        Some([_, _, ..]) => {
            let message = format!("layer `{}`, which is shared", item.name);
            return Err(Refused::Unsupported(message));
        }
        _ => {
            let message = format!("inbound_nodes of layer `{}`", item.name);
            return Err(Refused::Invalid(message));
        }
    };
    let mut tensors = Vec::new();
    let mut operands = Vec::new();
    for argument in arguments(&item.name, node)? {
        match argument {
            Argument::Tensor(tensor) => {
                tensors.push(tensor);
                operands.push(None);
            }
            Argument::Constant(value) => operands.push(Some(value.as_f64())),
        }
    }
    let no_names = node
        .get("kwargs")
        .and_then(Value::as_object)
        .is_none_or(Map::is_empty);
    let name = item.class.strip_prefix(OPERATION).unwrap_or_default();
    let (class, config) = match translated(name, &operands).filter(|_| no_names) {
        Some((class, config)) => (class.to_owned(), config),
        None => (item.class.clone(), json!({})),
    };
    let config = config.as_object().cloned().unwrap_or_default();
    let item = Item {
        class,
        config,
        ..item
    };
    Ok((item, tensors))
}

/// Returns class and configuration; `operands` holds the constants (`None` for a tensor).
fn translated(name: &str, operands: &[Option<Option<f64>>]) -> Option<(&'static str, Value)> {
    let rescaling = |scale: f64, offset: f64| {
        let finite = scale.is_finite() && offset.is_finite();
        finite.then(|| ("Rescaling", json!({ "scale": scale, "offset": offset })))
    };
    let activation = |name: &str| Some(("Activation", json!({ "activation": name })));
    match (name, operands) {
        ("Add", [None, None]) => Some(("Add", json!({}))),
        ("Subtract", [None, None]) => Some(("Subtract", json!({}))),
        ("Multiply", [None, None]) => Some(("Multiply", json!({}))),
        ("Add", [None, Some(Some(c))] | [Some(Some(c)), None]) => rescaling(1.0, *c),
        ("Multiply", [None, Some(Some(c))] | [Some(Some(c)), None]) => rescaling(*c, 0.0),
        ("Subtract", [None, Some(Some(c))]) => rescaling(1.0, -c),
        ("Subtract", [Some(Some(c)), None]) => rescaling(-1.0, *c),
        ("Divide" | "TrueDivide", [None, Some(Some(c))]) => rescaling(1.0 / c, 0.0),
        ("Relu", [None]) => Some(("ReLU", json!({}))),
        ("Relu6", [None]) => Some(("ReLU", json!({ "max_value": 6.0 }))),
        ("Silu", [None]) => activation("swish"),
        ("Sigmoid", [None]) => activation("sigmoid"),
        ("Tanh", [None]) => activation("tanh"),
        ("HardSilu", [None]) => activation("hard_silu"),
        _ => None,
    }
}
