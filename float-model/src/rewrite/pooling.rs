//! Pools change places with activations and normalizations.

use super::batch_norm;
use super::driver::{Edit, Pass, Patch, Rewrite, Skip, View};
use crate::{Activation, BatchNormalization, Layer, NodeId};

/// R9: `ReLU -> MaxPool2D` becomes `MaxPool2D -> ReLU`; so does `leaky_relu`.
///
/// A function that never decreases commutes with a maximum. As in the reference, an activation
/// moves behind one pool, not behind a chain of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct SwapActivationMaxPool;

impl Rewrite for SwapActivationMaxPool {
    fn name(&self) -> &'static str {
        "swap-activation-maxpool"
    }

    fn propose(&self, view: &View<'_>, id: NodeId) -> Result<Patch, Skip> {
        let pool = view.node(id);
        if !matches!(pool.layer, Layer::MaxPool2D(_)) {
            return Err(Skip::NoMatch);
        }
        let activation = view.private_input(id, |layer| slope_below(layer).is_some())?;
        let activation = view.node(activation);
        let slope = slope_below(&activation.layer).ok_or(Skip::NoMatch)?;
        let threshold = if let Layer::ReLU(relu) = activation.layer {
            relu.threshold
        } else {
            0.0
        };
        let never_decreases = slope >= 0.0 && threshold >= 0.0;
        if !never_decreases {
            return Err(Skip::Blocked(format!(
                "`{}` decreases somewhere: slope {slope}, threshold {threshold}",
                activation.name
            )));
        }
        Ok(swap(&activation.name, &pool.name, vec![]))
    }
}

/// Returns the slope of the negative side of a rectifier.
fn slope_below(layer: &Layer) -> Option<f32> {
    if let Layer::ReLU(relu) = layer {
        return Some(relu.negative_slope);
    }
    if let Layer::Activation(Activation::LeakyRelu { alpha }) = layer {
        return Some(*alpha);
    }
    None
}

fn swap(first: &str, second: &str, mut edits: Vec<Edit>) -> Patch {
    edits.push(Edit::Swap {
        first: first.to_owned(),
        second: second.to_owned(),
    });
    Patch {
        message: format!("stands before `{first}` now"),
        edits,
    }
}

/// R10: `MaxPool2D | GlobalAveragePooling2D -> BatchNormalization` changes places, so that the
/// normalization may be folded.
///
/// A mean commutes with every affine map of its channel, a maximum only with a growing one: all
/// gammas must be positive then.
#[derive(Clone, Copy, Debug)]
pub(super) struct SwapPoolBatchNorm;

impl Rewrite for SwapPoolBatchNorm {
    fn name(&self) -> &'static str {
        "swap-pool-batchnorm"
    }

    fn pass(&self) -> Pass {
        Pass::UntilStable
    }

    fn propose(&self, view: &View<'_>, id: NodeId) -> Result<Patch, Skip> {
        let node = view.node(id);
        let Layer::BatchNormalization(norm) = &node.layer else {
            return Err(Skip::NoMatch);
        };
        let is_pool = |layer: &Layer| {
            matches!(
                layer,
                Layer::MaxPool2D(_) | Layer::GlobalAveragePooling2D(_)
            )
        };
        let pool = view.node(view.private_input(id, is_pool)?);
        batch_norm::expect_last_axis(node, norm)?;
        if matches!(pool.layer, Layer::MaxPool2D(_)) {
            expect_positive_gammas(norm)?;
        }
        // The rank may change, so the axis is written from the end.
        let last_axis = |layer: &mut Layer| {
            if let Layer::BatchNormalization(norm) = layer {
                norm.axis = -1;
            }
        };
        let edits = vec![Edit::change(node, last_axis)];
        Ok(swap(&pool.name, &node.name, edits))
    }
}

fn expect_positive_gammas(norm: &BatchNormalization) -> Result<(), Skip> {
    let is_positive = |gamma: f32| gamma > 0.0;
    let mut gammas = norm.gamma.iter().flatten().enumerate();
    match gammas.find(|(_, gamma)| !is_positive(**gamma)) {
        Some((c, gamma)) => {
            let reason = format!("gamma[{c}] = {gamma} is not positive");
            Err(Skip::Blocked(reason))
        }
        None => Ok(()),
    }
}
