//! Normalizations folded into the weights before them (NUMERICS.md: R11).

use ndarray::{Array1, Axis};

use super::site::Site;
use super::{Patch, Rewrite, Skip};
use crate::{BatchNormalization, Layer};

/// Folds a BatchNormalization into the layer with weights that it follows.
///
/// ```text
/// g = gamma / sqrt(variance + epsilon);  b' = beta + (b - mean) g;  W' = W g by output channel
/// ```
///
/// in f32; `gamma` counts as 1 and `beta` as 0 where they are absent. Of a separable convolution
/// only the pointwise kernel changes. NUMERICS.md: R11.
pub(super) struct FoldBatchNorm;

impl Rewrite for FoldBatchNorm {
    fn name(&self) -> &'static str {
        "fold-batch-norm"
    }

    fn propose(&self, site: &Site<'_>) -> Result<Patch, Skip> {
        let Layer::BatchNormalization(norm) = site.layer() else {
            return Err(Skip::NoMatch);
        };
        let blocked = |reason: String| Err(Skip::Blocked(reason));
        if !site
            .producer()
            .is_some_and(|before| has_weights(before.layer()))
        {
            return blocked("it does not follow a layer with weights".to_owned());
        }
        let rank = site.node().shape.len();
        if norm.axis != -1 && usize::try_from(norm.axis) != Ok(rank) {
            return blocked(format!("it normalizes axis {}", norm.axis));
        }
        if norm
            .gamma
            .iter()
            .flatten()
            .any(|gamma| gamma.abs().to_bits() == 0)
        {
            return blocked("a gain is zero".to_owned());
        }
        let before = site.own_producer()?;
        if before
            .layer()
            .activation()
            .is_some_and(|a| a != crate::Activation::Linear)
        {
            return blocked(format!("`{}` has an activation", before.name()));
        }
        let (norm, name, target) = (norm.clone(), site.name(), before.name());
        let (removed, place) = (name.clone(), format!("folded into `{target}`"));
        Ok(Patch::new(place.clone(), move |draft| {
            if let Some(node) = draft.node_mut(&target) {
                fold(&mut node.layer, &norm);
            }
            draft.remove(&removed);
        })
        .removing(&name, place))
    }
}

fn has_weights(layer: &Layer) -> bool {
    matches!(
        layer,
        Layer::Conv2D(_)
            | Layer::DepthwiseConv2D(_)
            | Layer::SeparableConv2D(_)
            | Layer::Conv2DTranspose(_)
            | Layer::DepthwiseConv2DTranspose(_)
            | Layer::Dense(_)
    )
}

fn fold(layer: &mut Layer, norm: &BatchNormalization) {
    let gain = gains(norm);
    match layer {
        Layer::Conv2D(conv) => {
            conv.kernel
                .axis_iter_mut(Axis(3))
                .zip(&gain)
                .for_each(|(mut w, g)| w *= *g);
            fold_bias(&mut conv.bias, norm, &gain);
        }
        Layer::SeparableConv2D(conv) => {
            let pointwise = &mut conv.pointwise_kernel;
            pointwise
                .axis_iter_mut(Axis(3))
                .zip(&gain)
                .for_each(|(mut w, g)| w *= *g);
            fold_bias(&mut conv.bias, norm, &gain);
        }
        Layer::Conv2DTranspose(conv) => {
            conv.kernel
                .axis_iter_mut(Axis(2))
                .zip(&gain)
                .for_each(|(mut w, g)| w *= *g);
            fold_bias(&mut conv.bias, norm, &gain);
        }
        Layer::DepthwiseConv2D(conv) | Layer::DepthwiseConv2DTranspose(conv) => {
            let multiplier = conv.kernel.dim().3;
            for ((_, _, c, m), w) in conv.kernel.indexed_iter_mut() {
                *w *= gain[c * multiplier + m];
            }
            fold_bias(&mut conv.bias, norm, &gain);
        }
        Layer::Dense(dense) => {
            dense
                .kernel
                .axis_iter_mut(Axis(1))
                .zip(&gain)
                .for_each(|(mut w, g)| w *= *g);
            fold_bias(&mut dense.bias, norm, &gain);
        }
        _ => {}
    }
}

fn gains(norm: &BatchNormalization) -> Array1<f32> {
    let deviations = norm.variance.map(|v| (v + norm.epsilon).sqrt());
    match &norm.gamma {
        Some(gamma) => gamma / &deviations,
        None => deviations.map(|d| 1.0 / d),
    }
}

fn fold_bias(bias: &mut Option<Array1<f32>>, norm: &BatchNormalization, gain: &Array1<f32>) {
    let old = bias.take().unwrap_or_else(|| Array1::zeros(gain.len()));
    let shifted = (old - &norm.mean) * gain;
    *bias = Some(match &norm.beta {
        Some(beta) => beta + &shifted,
        None => shifted,
    });
}
