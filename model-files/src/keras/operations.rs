//! TensorFlow operations in a functional model (`TFOpLambda`), as Keras layers (NUMERICS.md: R2).
//!
//! An operation with a constant operand becomes a Rescaling. Entries for the batch in a reshape or
//! a transpose are dropped: the reference keeps them, and then rewrites no operation at all.

use serde_json::{Map, Value, json};

use super::calls::Tensor;
use super::config::{Item, Refused};

/// One call of an operation.
struct Call<'a> {
    function: &'a str,
    /// Tensors that it takes, in call order.
    inputs: Vec<Tensor>,
    arguments: Map<String, Value>,
}

/// Returns the Keras layer of an operation and what it takes; the item's name may change to the
/// operation's own.
///
/// One that is not supported keeps its name and gets a class that nobody knows, so that it is
/// listed with all others.
pub(super) fn layer(item: Item, nodes: Option<&Value>) -> Result<(Item, Vec<Tensor>), Refused> {
    let function = item.config.get("function").and_then(Value::as_str);
    let function = function.unwrap_or_default();
    let function = function
        .strip_prefix("compat.v1.")
        .unwrap_or(function)
        .to_owned();
    let call = Call::parse(&item.name, &function, nodes)?;
    let (name, class, config) = match call.translated() {
        Ok((class, config)) => {
            let named = call.arguments.get("name").and_then(Value::as_str);
            let config = config.as_object().cloned().unwrap_or_default();
            (
                named.unwrap_or(&item.name).to_owned(),
                class.to_owned(),
                config,
            )
        }
        Err(Unsupported(what)) => (
            item.name.clone(),
            format!("tf.{function}{what}"),
            Map::new(),
        ),
    };
    let item = Item {
        class,
        name,
        config,
        ..item
    };
    Ok((item, call.inputs))
}

/// What an operation asks for that no layer does, such as ` of an array`.
struct Unsupported(String);

/// A class and its configuration.
type Translated = Result<(&'static str, Value), Unsupported>;

impl<'a> Call<'a> {
    /// Parses `[[layer, node, tensor, arguments]]`, or a list of such lists.
    fn parse(name: &str, function: &'a str, nodes: Option<&Value>) -> Result<Self, Refused> {
        let invalid = || Refused::Invalid(format!("inbound_nodes of layer `{name}`"));
        let several = || Refused::Unsupported(format!("layer `{name}`, which is shared"));
        let nodes = nodes.and_then(Value::as_array).ok_or_else(invalid)?;
        let [node] = nodes.as_slice() else {
            return Err(several());
        };
        let node = node.as_array().ok_or_else(invalid)?;
        let is_flat = node.first().is_some_and(Value::is_string);
        let tensors: Vec<&[Value]> = if is_flat {
            vec![node.as_slice()]
        } else {
            let lists = node.iter().map(|t| t.as_array().map(Vec::as_slice));
            lists.collect::<Option<_>>().ok_or_else(invalid)?
        };
        let mut call = Self {
            function,
            inputs: Vec::new(),
            arguments: Map::new(),
        };
        for tensor in tensors {
            call.inputs.push(Tensor::parse(tensor).ok_or_else(invalid)?);
            if let Some(arguments) = tensor.get(3).and_then(Value::as_object) {
                let arguments = arguments.iter().map(|(k, v)| (k.clone(), v.clone()));
                call.arguments.extend(arguments);
            }
        }
        // A second operand that is a tensor stands among the arguments.
        if let Some(second) = call.arguments.get("y").and_then(Value::as_array) {
            call.inputs.push(Tensor::parse(second).ok_or_else(invalid)?);
        }
        Ok(call)
    }

    fn translated(&self) -> Translated {
        let activation = |name: &str| Ok(("Activation", json!({ "activation": name })));
        match self.function {
            "nn.relu" => Ok(("ReLU", json!({}))),
            "nn.relu6" => Ok(("ReLU", json!({ "max_value": 6.0 }))),
            "nn.silu" | "nn.swish" => activation("swish"),
            "nn.gelu" if self.flag("approximate") => activation("gelu_approximate"),
            "nn.gelu" => activation("gelu"),
            "nn.softmax" if self.is_last_axis() => activation("softmax"),
            "math.sigmoid" | "nn.sigmoid" | "sigmoid" => activation("sigmoid"),
            "math.tanh" | "nn.tanh" | "tanh" => activation("tanh"),
            "nn.elu" => activation("elu"),
            "nn.selu" => activation("selu"),
            "nn.leaky_relu" => {
                let alpha = self.arguments.get("alpha").and_then(Value::as_f64);
                let alpha = alpha.unwrap_or(0.2);
                Ok((
                    "Activation",
                    json!({ "activation": "leaky_relu", "alpha": alpha }),
                ))
            }
            "math.add" | "__operators__.add" => self.binary("Add", |c| (1.0, c)),
            "math.subtract" | "__operators__.sub" => self.binary("Subtract", |c| (1.0, -c)),
            "math.multiply" | "__operators__.mul" => self.binary("Multiply", |c| (c, 0.0)),
            "math.truediv" | "math.divide" | "__operators__.truediv" if self.inputs.len() == 1 => {
                self.binary("Multiply", |c| (1.0 / c, 0.0))
            }
            "concat" if self.inputs.len() > 1 => {
                let axis = self.arguments.get("axis").and_then(Value::as_i64);
                Ok(("Concatenate", json!({ "axis": axis.unwrap_or(0) })))
            }
            "reshape" => self.reshape(),
            "transpose" => self.transpose(),
            "math.reduce_mean" => self.mean(),
            _ => Err(Unsupported(String::new())),
        }
    }

    /// Returns a merge of two layers, or the Rescaling that a constant operand makes.
    fn binary(&self, class: &'static str, rescaling: impl Fn(f64) -> (f64, f64)) -> Translated {
        if self.inputs.len() == 2 {
            return Ok((class, json!({})));
        }
        let constant = self.arguments.get("y").and_then(Value::as_f64);
        let constant = constant.ok_or_else(|| Unsupported(" of an array".to_owned()))?;
        let (scale, offset) = rescaling(constant);
        if !(scale.is_finite() && offset.is_finite()) {
            return Err(Unsupported(format!(" of {constant}")));
        }
        Ok(("Rescaling", json!({ "scale": scale, "offset": offset })))
    }

    fn reshape(&self) -> Translated {
        let target = self.integers("shape").unwrap_or_default();
        match target.split_first() {
            Some((_, item)) if !item.is_empty() => Ok(("Reshape", json!({ "target_shape": item }))),
            _ => Err(Unsupported(" to that shape".to_owned())),
        }
    }

    fn transpose(&self) -> Translated {
        let perm = self.integers("perm").unwrap_or_default();
        match perm.split_first() {
            Some((0, dims)) if !dims.is_empty() => Ok(("Permute", json!({ "dims": dims }))),
            _ => Err(Unsupported(" that moves the batch".to_owned())),
        }
    }

    fn mean(&self) -> Translated {
        let axes = self.integers("axis").unwrap_or_default();
        if axes == [1, 2] || axes == [-3, -2] {
            let keepdims = self.flag("keepdims");
            return Ok(("GlobalAveragePooling2D", json!({ "keepdims": keepdims })));
        }
        Err(Unsupported(
            " over other axes than height and width".to_owned(),
        ))
    }

    fn integers(&self, key: &str) -> Option<Vec<i64>> {
        let list = self.arguments.get(key)?.as_array()?;
        list.iter().map(Value::as_i64).collect()
    }

    fn flag(&self, key: &str) -> bool {
        self.arguments.get(key).and_then(Value::as_bool) == Some(true)
    }

    fn is_last_axis(&self) -> bool {
        matches!(
            self.arguments.get("axis").map(Value::as_i64),
            None | Some(Some(-1) | None)
        )
    }
}
