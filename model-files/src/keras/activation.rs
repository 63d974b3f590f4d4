//! Activations, as names or as objects around them.

use float_model::{Activation, Layer};
use serde_json::Value;

use super::layers::{Config, LayerRefused, Result};
use super::values::{invalid, optional_f32};

/// Returns the layer of class `Softmax`.
pub(super) fn softmax(config: &Config) -> Result<Layer> {
    match config.get("axis") {
        None => Ok(Layer::Softmax),
        Some(axis) if axis.as_i64() == Some(-1) => Ok(Layer::Softmax),
        Some(axis) => Err(LayerRefused::Unsupported(format!(
            "a softmax over axis {axis}"
        ))),
    }
}

/// Returns the activation of a layer; its JSON is a name, or an object around one.
pub(super) fn activation(config: &Config) -> Result<Activation> {
    let value = config.get("activation");
    let name = match value {
        None | Some(Value::Null) => "linear",
        Some(Value::String(name)) => name.as_str(),
        Some(object) => {
            // A registered function, or an object whose class is the function's name.
            let class = object.get("class_name").and_then(Value::as_str);
            let function = object.get("config").and_then(Value::as_str);
            match class {
                Some("function") | None => function,
                Some(_) => class,
            }
            .ok_or_else(|| invalid("activation"))?
        }
    };
    let alpha = optional_f32(config, "alpha")?.unwrap_or(0.2);
    // QuantizeML registers this one; what another package calls by a known name is not known.
    let name = if name == "Custom>hard_silu" {
        "hard_silu"
    } else {
        name
    };
    Ok(match name {
        "linear" => Activation::Linear,
        "relu" => Activation::Relu,
        "relu6" => Activation::Relu6,
        "gelu" => Activation::Gelu { approximate: false },
        "gelu_approximate" => Activation::Gelu { approximate: true },
        "swish" | "silu" => Activation::Swish,
        "hard_silu" | "hard_swish" => Activation::HardSilu,
        "leaky_relu" => Activation::LeakyRelu { alpha },
        "sigmoid" => Activation::Sigmoid,
        "hard_sigmoid" => Activation::HardSigmoid,
        "tanh" => Activation::Tanh,
        "softmax" => Activation::Softmax,
        "log_softmax" => Activation::LogSoftmax,
        "softplus" => Activation::Softplus,
        "softsign" => Activation::Softsign,
        "elu" => Activation::Elu,
        "selu" => Activation::Selu,
        "exponential" => Activation::Exponential,
        other => {
            return Err(LayerRefused::Unsupported(format!(
                "the activation `{other}`"
            )));
        }
    })
}
