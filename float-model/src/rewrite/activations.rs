//! Activations become layers of their own, in the classes that quantization knows.

use super::driver::{Edit, Patch, Rewrite, Skip, View};
use crate::{Activation, Layer, NodeId, ReLU};

/// R1: `conv(activation=f)` becomes `conv`, then `f` as `{conv}_activ`.
///
/// If the layer is a model output, the new one is it instead.
#[derive(Clone, Copy, Debug)]
pub(super) struct SplitActivation;

impl Rewrite for SplitActivation {
    fn name(&self) -> &'static str {
        "split-activation"
    }

    fn propose(&self, view: &View<'_>, id: NodeId) -> Result<Patch, Skip> {
        let node = view.node(id);
        let activation = node.layer.activation().ok_or(Skip::NoMatch)?;
        if activation == Activation::Linear {
            return Err(Skip::NoMatch);
        }
        let name = view.fresh_name(format!("{}_activ", node.name), &[]);
        let message = format!("its activation is now `{name}`");
        let set_linear = |layer: &mut Layer| {
            if let Some(activation) = layer.activation_mut() {
                *activation = Activation::Linear;
            }
        };
        let insert = Edit::InsertAfter {
            after: node.name.clone(),
            name,
            layer: Layer::Activation(activation),
        };
        Ok(Patch {
            message,
            edits: vec![Edit::change(node, set_linear), insert],
        })
    }
}

/// R2: `Activation(relu)` becomes `ReLU`.
///
/// `gelu`, `swish`, `hard_silu` and `leaky_relu` are quantizable as they are; `relu6`, `sigmoid`
/// and the others stay, and stay float.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplaceActivation;

impl Rewrite for ReplaceActivation {
    fn name(&self) -> &'static str {
        "replace-activation"
    }

    fn propose(&self, view: &View<'_>, id: NodeId) -> Result<Patch, Skip> {
        let node = view.node(id);
        if node.layer != Layer::Activation(Activation::Relu) {
            return Err(Skip::NoMatch);
        }
        let replace = |layer: &mut Layer| *layer = Layer::ReLU(ReLU::default());
        Ok(Patch {
            message: "is now a ReLU".to_owned(),
            edits: vec![Edit::change(node, replace)],
        })
    }
}

/// R5: `LeakyReLU`, and `PReLU` of one slope, become `Activation(leaky_relu)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplaceLeakyRelu;

impl Rewrite for ReplaceLeakyRelu {
    fn name(&self) -> &'static str {
        "replace-leaky-relu"
    }

    fn propose(&self, view: &View<'_>, id: NodeId) -> Result<Patch, Skip> {
        let node = view.node(id);
        let alpha = if let Layer::LeakyReLU { alpha } = node.layer {
            alpha
        } else {
            common_slope(&node.layer)?
        };
        let replace = move |layer: &mut Layer| {
            *layer = Layer::Activation(Activation::LeakyRelu { alpha });
        };
        Ok(Patch {
            message: format!("is now a leaky_relu of slope {alpha}"),
            edits: vec![Edit::change(node, replace)],
        })
    }
}

fn common_slope(layer: &Layer) -> Result<f32, Skip> {
    let Layer::PReLU { alpha } = layer else {
        return Err(Skip::NoMatch);
    };
    let first = *alpha.iter().next().ok_or(Skip::NoMatch)?;
    #[expect(
        clippy::float_cmp,
        reason = "slopes are one slope only if they are equal"
    )]
    let other = alpha.iter().find(|slope| **slope != first);
    other.map_or(Ok(first), |other| {
        Err(Skip::Blocked(format!(
            "its slopes differ: {first} and {other}"
        )))
    })
}
