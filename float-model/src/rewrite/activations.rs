//! Activations as layers of their own (NUMERICS.md: R1, R2, R5).

use super::site::Site;
use super::{Patch, Rewrite, Skip};
use crate::{Activation, Layer, ReLU};

/// Splits a fused activation off its layer: `X` becomes `X` and `X_activ`. NUMERICS.md: R1.
pub(super) struct SplitActivation;

impl Rewrite for SplitActivation {
    fn name(&self) -> &'static str {
        "split-activation"
    }

    fn propose(&self, site: &Site<'_>) -> Result<Patch, Skip> {
        let activation = site.layer().activation().ok_or(Skip::NoMatch)?;
        if activation == Activation::Linear {
            return Err(Skip::NoMatch);
        }
        let name = site.name();
        let split = site.free_name(format!("{name}_activ"));
        Ok(Patch::new(
            format!("the activation becomes `{split}`"),
            move |draft| {
                if let Some(node) = draft.node_mut(&name) {
                    set_linear(&mut node.layer);
                }
                draft.insert_after(&name, &split, Layer::Activation(activation));
            },
        ))
    }
}

fn set_linear(layer: &mut Layer) {
    match layer {
        Layer::Conv2D(conv) => conv.activation = Activation::Linear,
        Layer::DepthwiseConv2D(conv) | Layer::DepthwiseConv2DTranspose(conv) => {
            conv.activation = Activation::Linear;
        }
        Layer::SeparableConv2D(conv) => conv.activation = Activation::Linear,
        Layer::Conv2DTranspose(conv) => conv.activation = Activation::Linear,
        Layer::Dense(dense) => dense.activation = Activation::Linear,
        _ => {}
    }
}

/// Makes a ReLU of the activation `relu`. NUMERICS.md: R2.
pub(super) struct ActivationToReLU;

impl Rewrite for ActivationToReLU {
    fn name(&self) -> &'static str {
        "replace-activation"
    }

    fn propose(&self, site: &Site<'_>) -> Result<Patch, Skip> {
        if *site.layer() != Layer::Activation(Activation::Relu) {
            return Err(Skip::NoMatch);
        }
        Ok(replace(site, "a ReLU", Layer::ReLU(ReLU::default())))
    }
}

/// Makes an activation of LeakyReLU, and of PReLU with a common slope. NUMERICS.md: R5.
pub(super) struct LayerToActivation;

impl Rewrite for LayerToActivation {
    fn name(&self) -> &'static str {
        "replace-custom-activation"
    }

    fn propose(&self, site: &Site<'_>) -> Result<Patch, Skip> {
        let alpha = if let Layer::LeakyReLU { alpha } = site.layer() {
            *alpha
        } else if let Layer::PReLU { alpha } = site.layer() {
            let mut slopes = alpha.iter().copied();
            let first = slopes.next().ok_or(Skip::NoMatch)?;
            if slopes.any(|slope| slope.to_bits() != first.to_bits()) {
                return Err(Skip::Blocked("its slopes differ".to_owned()));
            }
            first
        } else {
            return Err(Skip::NoMatch);
        };
        Ok(replace(
            site,
            "the activation leaky_relu",
            Layer::Activation(Activation::LeakyRelu { alpha }),
        ))
    }
}

fn replace(site: &Site<'_>, what: &str, layer: Layer) -> Patch {
    let name = site.name();
    Patch::new(format!("becomes {what}"), move |draft| {
        if let Some(node) = draft.node_mut(&name) {
            node.layer = layer;
        }
    })
}
