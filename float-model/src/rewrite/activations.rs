//! Activations become layers of their own, in the classes that quantization knows.

use super::driver::{Edit, Patch, Rewrite, Skip, View};
use crate::{Activation, Layer, NodeId, ReLU};
use quantizer_core::PerAxis;

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

/// R3: `x * relu6(x + 3) / 6`, written with operations, becomes `Activation(hard_silu)`.
///
/// The operations are Rescalings here: `+ 3` and `* 1/6`. The new layer is named `activation`,
/// with a number where there are several: as in the reference, the last one has none.
#[derive(Clone, Copy, Debug)]
pub(super) struct RebuildHardSilu;

impl Rewrite for RebuildHardSilu {
    fn name(&self) -> &'static str {
        "rebuild-hard-silu"
    }

    fn propose(&self, view: &View<'_>, id: NodeId) -> Result<Patch, Skip> {
        let gate = hard_silu(view, id).ok_or(Skip::NoMatch)?;
        let mut later = view.graph().iter().skip_while(|(other, _)| *other != id);
        later.next();
        let base = match later
            .filter(|(id, _)| hard_silu(view, *id).is_some())
            .count()
        {
            0 => "activation".to_owned(),
            n => format!("activation_{n}"),
        };
        let product = view.node(id);
        let name = view.fresh_name(base, &[]);
        let message = format!("with the operations before it, is now `{name}`");
        let mut edits = vec![
            Edit::change(product, |layer| {
                *layer = Layer::Activation(Activation::HardSilu);
            }),
            Edit::SetInputs(
                product.name.clone(),
                vec![view.node(gate.input).name.clone()],
            ),
        ];
        for inner in gate.inner {
            let inner = view.node(inner).name.clone();
            edits.push(Edit::Drop(inner, format!("part of `{name}`")));
        }
        edits.push(Edit::Rename(product.name.clone(), name));
        Ok(Patch { message, edits })
    }
}

/// The layers of a hard silu that is written with operations.
struct Gate {
    input: NodeId,
    inner: [NodeId; 3],
}

fn hard_silu(view: &View<'_>, id: NodeId) -> Option<Gate> {
    let ([a, b], Layer::Multiply) = (view.node(id).inputs.as_slice(), view.layer(id)) else {
        return None;
    };
    let gate = |input: NodeId, scaled: NodeId| {
        let inner = |id: NodeId| view.sole_consumer(id).is_ok().then(|| view.sole_input(id));
        let rectifier = inner(scaled).flatten()?;
        let shifted = inner(rectifier).flatten()?;
        let source = inner(shifted).flatten()?;
        let relu6 = ReLU {
            max_value: Some(6.0),
            ..ReLU::default()
        };
        let matches = source == input
            && is_rescaling(view.layer(scaled), 1.0 / 6.0, 0.0)
            && *view.layer(rectifier) == Layer::ReLU(relu6)
            && is_rescaling(view.layer(shifted), 1.0, 3.0);
        matches.then_some(Gate {
            input,
            inner: [scaled, rectifier, shifted],
        })
    };
    gate(*a, *b).or_else(|| gate(*b, *a))
}

#[expect(clippy::cast_possible_truncation, reason = "compared as float32")]
fn is_rescaling(layer: &Layer, scale: f64, offset: f64) -> bool {
    let Layer::Rescaling(rescaling) = layer else {
        return false;
    };
    let is = |values: &PerAxis<f64>, want: f64| matches!(values, PerAxis::Tensor(v) if (*v as f32).to_bits() == (want as f32).to_bits());
    is(&rescaling.scale, scale) && is(&rescaling.offset, offset)
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
