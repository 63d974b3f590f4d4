//! Identity convolutions, which give a hardware target a place to rescale (NUMERICS.md: R16).
//!
//! Each is a 1x1 `Conv2D` without bias whose kernel is the identity matrix, for at most
//! [`MAX_CHANNELS`] channels. The reference has a fifth rule, for an `Add` or `Concatenate` that
//! takes one layer twice; there it fails always, so it is left out here.

use ndarray::Array4;

use super::driver::{Edit, Patch, Rewrite, Skip, View};
use crate::{Activation, Conv2D, DraftNode, Layer, Node, NodeId, Padding};

/// Most channels that an identity convolution may have.
const MAX_CHANNELS: usize = 2048;

/// R16a: after the `Add` of `Add -> ReLU -> GlobalAveragePooling2D`.
#[derive(Clone, Copy, Debug)]
pub(super) struct AfterAddReluGap;

impl Rewrite for AfterAddReluGap {
    fn name(&self) -> &'static str {
        "identity-conv-add-relu-gap"
    }

    fn propose(&self, view: &View<'_>, id: NodeId) -> Result<Patch, Skip> {
        let is_gap = |layer: &Layer| matches!(layer, Layer::GlobalAveragePooling2D(_));
        let is_match = matches!(view.layer(id), Layer::Add(_))
            && matches!(view.consumers(id), [relu]
                if matches!(view.layer(*relu), Layer::ReLU(_))
                && matches!(view.consumers(*relu), [gap] if is_gap(view.layer(*gap))));
        if !is_match {
            return Err(Skip::NoMatch);
        }
        insert_after(view, id)
    }
}

/// R16b: after an `Add` or `Concatenate` of images that feeds no convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct AfterMerge;

impl Rewrite for AfterMerge {
    fn name(&self) -> &'static str {
        "identity-conv-merge"
    }

    fn propose(&self, view: &View<'_>, id: NodeId) -> Result<Patch, Skip> {
        let node = view.node(id);
        let is_merge = matches!(node.layer, Layer::Add(_) | Layer::Concatenate { .. });
        // A SeparableConv2D is none of them in the reference, and gets an identity before it.
        let is_conv = |id: &NodeId| {
            matches!(
                view.layer(*id),
                Layer::Conv2D(_)
                    | Layer::DepthwiseConv2D(_)
                    | Layer::Conv2DTranspose(_)
                    | Layer::DepthwiseConv2DTranspose(_)
            )
        };
        if !is_merge || node.shape.len() != 3 || view.consumers(id).iter().any(is_conv) {
            return Err(Skip::NoMatch);
        }
        insert_after(view, id)
    }
}

/// R16c: after the first block (convolution, then activations and pools) of a model of one input
/// of 1 or 3 channels, if several layers take its output.
#[derive(Clone, Copy, Debug)]
pub(super) struct AfterStem;

impl Rewrite for AfterStem {
    fn name(&self) -> &'static str {
        "identity-conv-stem"
    }

    fn propose(&self, view: &View<'_>, id: NodeId) -> Result<Patch, Skip> {
        let graph = view.graph();
        let is_entry = |layer: &Layer| matches!(layer, Layer::Input(_) | Layer::Rescaling(_));
        let first = graph.iter().find(|(_, node)| !is_entry(&node.layer));
        let Some((stem, node)) = first else {
            return Err(Skip::NoMatch);
        };
        let Layer::Conv2D(conv) = &node.layer else {
            return Err(Skip::NoMatch);
        };
        let channels = conv.kernel.dim().2 * conv.groups;
        if graph.inputs().count() != 1 || ![1, 3].contains(&channels) {
            return Err(Skip::NoMatch);
        }
        let mut end = stem;
        while let [next] = view.consumers(end) {
            let is_inside = matches!(
                view.layer(*next),
                Layer::ReLU(_) | Layer::MaxPool2D(_) | Layer::Activation(_)
            );
            if !is_inside {
                break;
            }
            end = *next;
        }
        if id != end || view.consumers(end).len() < 2 {
            return Err(Skip::NoMatch);
        }
        insert_after(view, id)
    }
}

/// R16e: while more than two layers take an image, the last two of them take an identity
/// convolution of it, which counts as one from then on.
///
/// It is named `{X}_identity_conv_{n}`, `n` being the number of consumers before.
#[derive(Clone, Copy, Debug)]
pub(super) struct AfterFanOut;

impl Rewrite for AfterFanOut {
    fn name(&self) -> &'static str {
        "identity-conv-fan-out"
    }

    fn propose(&self, view: &View<'_>, id: NodeId) -> Result<Patch, Skip> {
        let node = view.node(id);
        let is_input = matches!(node.layer, Layer::Input(_));
        let n_consumers = view.consumers(id).len();
        if is_input || node.shape.len() != 3 || n_consumers <= 2 {
            return Err(Skip::NoMatch);
        }
        let layer = identity_conv(node)?;
        let names = view
            .consumers(id)
            .iter()
            .map(|id| view.node(*id).name.clone());
        let mut consumers: Vec<String> = names.collect();
        let mut edits = Vec::new();
        while consumers.len() > 2 {
            let base = format!("{}_identity_conv_{}", node.name, consumers.len());
            let name = view.fresh_name(base, &consumers);
            edits.push(Edit::Push(DraftNode {
                name: name.clone(),
                layer: layer.clone(),
                inputs: vec![node.name.clone()],
            }));
            for consumer in consumers.split_off(consumers.len() - 2) {
                edits.push(Edit::Rewire {
                    consumer,
                    from: node.name.clone(),
                    to: name.clone(),
                });
            }
            consumers.push(name);
        }
        Ok(Patch {
            message: format!("its {n_consumers} consumers take it in pairs"),
            edits,
        })
    }
}

/// Inserts an identity convolution between `id` and all its consumers.
///
/// As in the reference, a model output stays one, unless nothing else would take the convolution.
fn insert_after(view: &View<'_>, id: NodeId) -> Result<Patch, Skip> {
    let node = view.node(id);
    let layer = identity_conv(node)?;
    let after = node.name.clone();
    let name = view.fresh_name(format!("{after}_identity_conv"), &[]);
    let message = format!("`{name}` stands behind it now");
    let edits = if view.consumers(id).is_empty() {
        vec![Edit::InsertAfter { after, name, layer }]
    } else {
        let push = Edit::Push(DraftNode {
            name: name.clone(),
            layer,
            inputs: vec![after.clone()],
        });
        let rewire = view.consumers(id).iter().map(|consumer| Edit::Rewire {
            consumer: view.node(*consumer).name.clone(),
            from: after.clone(),
            to: name.clone(),
        });
        std::iter::once(push).chain(rewire).collect()
    };
    Ok(Patch { message, edits })
}

fn identity_conv(node: &Node) -> Result<Layer, Skip> {
    let channels = node.shape.last().copied().flatten();
    let channels = channels.ok_or_else(|| Skip::Blocked("its channels are open".to_owned()))?;
    if channels > MAX_CHANNELS {
        return Err(Skip::Blocked(format!(
            "has {channels} channels, more than {MAX_CHANNELS}"
        )));
    }
    let is_diagonal = |c, filter| if c == filter { 1.0 } else { 0.0 };
    let shape = (1, 1, channels, channels);
    Ok(Layer::Conv2D(Conv2D {
        kernel: Array4::from_shape_fn(shape, |(_, _, c, filter)| is_diagonal(c, filter)),
        bias: None,
        strides: [1, 1],
        padding: Padding::Valid,
        dilation: [1, 1],
        groups: 1,
        activation: Activation::Linear,
        padding_value: None,
    }))
}
