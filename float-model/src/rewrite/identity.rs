//! Identity convolutions where the hardware needs a layer with weights (NUMERICS.md: R16).
//!
//! The reference has one more rule, for an Add or Concatenate that takes one output twice; it
//! fails there whenever it should apply, and is left out here.

use ndarray::Array4;

use super::site::Site;
use super::{Patch, Rewrite, Skip};
use crate::{Activation, Conv2D, Draft, DraftNode, Layer, Padding};

/// More channels than this get no identity convolution.
const MAX_CHANNELS: usize = 2048;

/// Inserts one between an Add and the ReLU before a global pooling.
pub(super) struct AfterAddBeforePooling;

impl Rewrite for AfterAddBeforePooling {
    fn name(&self) -> &'static str {
        "identity-conv-before-pooling"
    }

    fn propose(&self, site: &Site<'_>) -> Result<Patch, Skip> {
        let Layer::Add(_) = site.layer() else {
            return Err(Skip::NoMatch);
        };
        let relu = site
            .sole_consumer()
            .filter(|next| matches!(next.layer(), Layer::ReLU(_)));
        let pooling = relu.and_then(|relu| relu.sole_consumer());
        match pooling.map(|pooling| matches!(pooling.layer(), Layer::GlobalAveragePooling2D(_))) {
            Some(true) => insert(site, format!("{}_identity_conv", site.name())),
            Some(false) | None => Err(Skip::NoMatch),
        }
    }
}

/// Inserts one after an Add or Concatenate that no convolution follows.
pub(super) struct AfterMerge;

impl Rewrite for AfterMerge {
    fn name(&self) -> &'static str {
        "identity-conv-after-merge"
    }

    fn propose(&self, site: &Site<'_>) -> Result<Patch, Skip> {
        let merges = matches!(site.layer(), Layer::Add(_) | Layer::Concatenate { .. });
        if !merges || site.node().shape.len() != 3 {
            return Err(Skip::NoMatch);
        }
        if site.consumers().any(|next| is_convolution(next.layer())) {
            return Err(Skip::NoMatch);
        }
        insert(site, format!("{}_identity_conv", site.name()))
    }
}

fn is_convolution(layer: &Layer) -> bool {
    matches!(
        layer,
        Layer::Conv2D(_)
            | Layer::DepthwiseConv2D(_)
            | Layer::Conv2DTranspose(_)
            | Layer::DepthwiseConv2DTranspose(_)
    )
}

/// Inserts one after the block of the first convolution, if several layers take its output.
pub(super) struct AfterFirstBlock;

impl Rewrite for AfterFirstBlock {
    fn name(&self) -> &'static str {
        "identity-conv-after-first-block"
    }

    fn propose(&self, site: &Site<'_>) -> Result<Patch, Skip> {
        let Layer::Input(_) = site.layer() else {
            return Err(Skip::NoMatch);
        };
        if site.n_inputs() != 1 {
            return Err(Skip::NoMatch);
        }
        let mut at = site.sole_consumer().ok_or(Skip::NoMatch)?;
        while matches!(at.layer(), Layer::Rescaling(_)) {
            at = at.sole_consumer().ok_or(Skip::NoMatch)?;
        }
        let Layer::Conv2D(conv) = at.layer() else {
            return Err(Skip::NoMatch);
        };
        if ![1, 3].contains(&(conv.kernel.dim().2 * conv.groups)) {
            return Err(Skip::NoMatch);
        }
        while let Some(next) = at.sole_consumer() {
            let skipped = matches!(
                next.layer(),
                Layer::ReLU(_) | Layer::MaxPool2D(_) | Layer::Activation(_)
            );
            if !skipped {
                break;
            }
            at = next;
        }
        if at.n_consumers() < 2 {
            return Err(Skip::NoMatch);
        }
        insert(&at, format!("{}_identity_conv", at.name()))
    }
}

/// Inserts one for the last two consumers, while there are more than two.
pub(super) struct ForManyConsumers;

impl Rewrite for ForManyConsumers {
    fn name(&self) -> &'static str {
        "identity-conv-for-many-consumers"
    }

    fn propose(&self, site: &Site<'_>) -> Result<Patch, Skip> {
        let n_consumers = site.n_consumers();
        if site.node().shape.len() != 3 || n_consumers < 3 {
            return Err(Skip::NoMatch);
        }
        let layer = identity(site)?;
        let source = site.name();
        let name = site.free_name(format!("{source}_identity_conv_{n_consumers}"));
        let takers: Vec<String> = site
            .consumers()
            .skip(n_consumers - 2)
            .map(|c| c.name())
            .collect();
        let what = format!("`{name}` feeds `{}`", takers.join("` and `"));
        Ok(Patch::new(what, move |draft: &mut Draft| {
            for taker in &takers {
                if let Some(node) = draft.node_mut(taker)
                    && let Some(input) = node.inputs.iter_mut().rfind(|input| **input == source)
                {
                    input.clone_from(&name);
                }
            }
            draft.nodes.push(DraftNode {
                name,
                layer,
                inputs: vec![source],
            });
        }))
    }
}

fn insert(site: &Site<'_>, name: String) -> Result<Patch, Skip> {
    let layer = identity(site)?;
    let source = site.name();
    let name = site.free_name(name);
    Ok(Patch::new(format!("inserts `{name}`"), move |draft| {
        draft.insert_after(&source, &name, layer);
    }))
}

/// Returns the 1x1 convolution that leaves the output of `site` as it is.
fn identity(site: &Site<'_>) -> Result<Layer, Skip> {
    let channels = site.node().shape.last().copied().flatten();
    let channels = channels.ok_or_else(|| Skip::Blocked("its channels are open".to_owned()))?;
    if channels > MAX_CHANNELS {
        return Err(Skip::Blocked(format!(
            "{channels} channels, more than {MAX_CHANNELS}"
        )));
    }
    let kernel = Array4::from_shape_fn(
        (1, 1, channels, channels),
        |(_, _, i, o)| {
            if i == o { 1.0 } else { 0.0 }
        },
    );
    Ok(Layer::Conv2D(Conv2D {
        kernel,
        bias: None,
        strides: [1, 1],
        padding: Padding::Same,
        dilation: [1, 1],
        groups: 1,
        activation: Activation::Linear,
        padding_value: None,
    }))
}
