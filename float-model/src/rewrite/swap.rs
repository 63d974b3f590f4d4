//! Layers that change places (NUMERICS.md: R9, R10).

use super::site::Site;
use super::{Patch, Rewrite, Skip};
use crate::{Activation, Draft, Layer};

/// Moves a MaxPool2D before the ReLU (or `leaky_relu`) that it follows. NUMERICS.md: R9.
pub(super) struct PoolBeforeActivation;

impl Rewrite for PoolBeforeActivation {
    fn name(&self) -> &'static str {
        "pool-before-activation"
    }

    fn propose(&self, site: &Site<'_>) -> Result<Patch, Skip> {
        let Layer::MaxPool2D(_) = site.layer() else {
            return Err(Skip::NoMatch);
        };
        let before = site.producer().ok_or(Skip::NoMatch)?;
        // Both must not decrease: then the maximum of the results is the result of the maximum.
        let monotonic = match before.layer() {
            Layer::ReLU(relu) => relu.negative_slope >= 0.0 && relu.threshold.abs().to_bits() == 0,
            Layer::Activation(Activation::LeakyRelu { alpha }) => *alpha >= 0.0,
            _ => return Err(Skip::NoMatch),
        };
        if !monotonic {
            return Err(Skip::Blocked(format!("`{}` can decrease", before.name())));
        }
        let before = site.own_producer()?;
        Ok(swap(&before, site))
    }
}

/// Moves a BatchNormalization before the pooling that it follows. NUMERICS.md: R10.
pub(super) struct NormBeforePool;

impl Rewrite for NormBeforePool {
    fn name(&self) -> &'static str {
        "norm-before-pool"
    }

    fn propose(&self, site: &Site<'_>) -> Result<Patch, Skip> {
        let Layer::BatchNormalization(norm) = site.layer() else {
            return Err(Skip::NoMatch);
        };
        let before = site.producer().ok_or(Skip::NoMatch)?;
        match before.layer() {
            Layer::MaxPool2D(_) => {
                let gains = norm.gamma.iter().flatten();
                if gains.copied().any(|gamma| gamma <= 0.0) {
                    return Err(Skip::Blocked("a gain is not positive".to_owned()));
                }
            }
            Layer::GlobalAveragePooling2D(_) => {}
            _ => return Err(Skip::NoMatch),
        }
        let rank = site.node().shape.len();
        let last = norm.axis == -1 || usize::try_from(norm.axis) == Ok(rank);
        if !last {
            return Err(Skip::Blocked(format!("normalizes axis {}", norm.axis)));
        }
        let before = site.own_producer()?;
        let Patch {
            what,
            removed,
            apply,
        } = swap(&before, site);
        let name = site.name();
        let apply = Box::new(move |draft: &mut Draft| {
            apply(draft);
            if let Some(node) = draft.node_mut(&name)
                && let Layer::BatchNormalization(norm) = &mut node.layer
            {
                norm.axis = -1;
            }
        });
        Ok(Patch {
            what,
            removed,
            apply,
        })
    }
}

/// Returns the patch that puts `second` before `first`, which it follows alone.
fn swap(first: &Site<'_>, second: &Site<'_>) -> Patch {
    let (first, second) = (first.name(), second.name());
    Patch::new(format!("changes places with `{first}`"), move |draft| {
        let input = draft
            .node_mut(&first)
            .and_then(|node| node.inputs.first().cloned());
        let Some(input) = input else { return };
        draft.replace_uses(&second, &first);
        if let Some(node) = draft.node_mut(&second) {
            node.inputs = vec![input];
        }
        if let Some(node) = draft.node_mut(&first) {
            node.inputs = vec![second];
        }
    })
}
