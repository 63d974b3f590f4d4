//! The variables of a layer, in the order in which Keras makes them.

use serde_json::Value;

use super::config::{Item, Tree};

/// A variable of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) name: &'static str,
    pub(super) group: Group,
}

/// Where Keras lists a variable: trainable ones stand first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Trainable,
    Fixed,
}

/// Returns the variables of a layer.
pub(super) fn variables(item: &Item) -> Vec<Variable> {
    let flag = |key: &str, default: bool| {
        item.config
            .get(key)
            .and_then(Value::as_bool)
            .unwrap_or(default)
    };
    let biased = |kernels: &[&'static str], default: bool| {
        let mut names = kernels.to_vec();
        if flag("use_bias", default) {
            names.push("bias");
        }
        names
    };
    let class = item.class.strip_prefix("Quantized").unwrap_or(&item.class);
    let names = match class {
        "Conv2D"
        | "Conv3D"
        | "Convolution3D"
        | "Convolution2D"
        | "PaddedConv2D"
        | "Conv2DTranspose"
        | "Convolution2DTranspose"
        | "Dense"
        | "StatefulProjection" => biased(&["kernel"], true),
        "BufferTempConv" | "DepthwiseBufferTempConv" => biased(&["kernel"], false),
        "DepthwiseConv2D" | "DepthwiseConvolution2D" | "DepthwiseConv2DTranspose" => {
            biased(&["depthwise_kernel"], true)
        }
        "SeparableConv2D" | "SeparableConvolution2D" => {
            biased(&["depthwise_kernel", "pointwise_kernel"], true)
        }
        "BatchNormalization" | "BatchNormalizationV1" => {
            let gamma = flag("scale", true).then_some("gamma");
            let beta = flag("center", true).then_some("beta");
            let moving = ["moving_mean", "moving_variance"];
            gamma.into_iter().chain(beta).chain(moving).collect()
        }
        "PReLU" => vec!["alpha"],
        "StatefulRecurrent" => vec!["A_real", "A_imag"],
        _ => Vec::new(),
    };
    let is_frozen = !flag("trainable", true);
    let variable = |name: &'static str| Variable {
        name,
        group: if is_frozen || name.starts_with("moving_") {
            Group::Fixed
        } else {
            Group::Trainable
        },
    };
    names.into_iter().map(variable).collect()
}

/// Returns the layers that are no models, at any depth, in order.
pub(super) fn leaves(tree: &mut Tree) -> Vec<&mut Item> {
    let mut all = Vec::new();
    for part in &mut tree.parts {
        match &mut part.inner {
            Some(inner) => all.extend(leaves(inner)),
            None => all.push(&mut part.item),
        }
    }
    all
}
