//! Normalizations go into the weights before them.

use ndarray::{Array1, Axis};

use super::driver::{Edit, Pass, Patch, Rewrite, Skip, View};
use crate::shape::item_axis;
use crate::{Activation, BatchNormalization, Layer, Node, NodeId};

/// R11: `conv -> BatchNormalization` becomes `conv`.
///
/// With `b = 0` where there is no bias, `gamma = 1` and `beta = 0` where they are absent, each
/// operation rounded to f32:
///
/// ```text
/// g  = gamma / sqrt(variance + epsilon)
/// b' = beta + (b - mean) * g
/// W' = W * g      on the axis of output channels; of a SeparableConv2D the pointwise kernel
/// ```
///
/// A channel with `gamma = 0` would get a kernel of zeros, which cannot be quantized: refused, as
/// in the reference. Unlike there, the other normalizations are folded all the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoldBatchNorm;

impl Rewrite for FoldBatchNorm {
    fn name(&self) -> &'static str {
        "fold-batchnorm"
    }

    fn pass(&self) -> Pass {
        Pass::UntilStable
    }

    fn propose(&self, view: &View<'_>, id: NodeId) -> Result<Patch, Skip> {
        let node = view.node(id);
        let Layer::BatchNormalization(norm) = &node.layer else {
            return Err(Skip::NoMatch);
        };
        let target = view.sole_input(id).ok_or(Skip::NoMatch)?;
        let conv = view.node(target);
        if !can_take(&conv.layer) {
            let class = conv.layer.class_name();
            let reason = format!("`{}` ({class}) has no weights to take it in", conv.name);
            return Err(Skip::Blocked(reason));
        }
        if conv
            .layer
            .activation()
            .is_some_and(|f| f != Activation::Linear)
        {
            let reason = format!("`{}` has an activation", conv.name);
            return Err(Skip::Blocked(reason));
        }
        view.sole_consumer(target)?;
        expect_last_axis(node, norm)?;
        let gain = gains(norm)?;
        let (mean, beta) = (norm.mean.clone(), norm.beta.clone());
        let went = format!("folded into `{}`", conv.name);
        let fold = move |layer: &mut Layer| Fold { gain, mean, beta }.apply(layer);
        Ok(Patch {
            message: went.clone(),
            edits: vec![
                Edit::change(conv, fold),
                Edit::Remove(node.name.clone(), went),
            ],
        })
    }
}

/// Returns whether a layer has weights that a gain of each output channel can go into.
const fn can_take(layer: &Layer) -> bool {
    matches!(
        layer,
        Layer::Conv2D(_)
            | Layer::DepthwiseConv2D(_)
            | Layer::DepthwiseConv2DTranspose(_)
            | Layer::SeparableConv2D(_)
            | Layer::Conv2DTranspose(_)
            | Layer::Dense(_)
            | Layer::BufferTempConv(_)
            | Layer::DepthwiseBufferTempConv(_)
    )
}

/// Fails unless the normalization is one of the last axis.
pub(super) fn expect_last_axis(node: &Node, norm: &BatchNormalization) -> Result<(), Skip> {
    let rank = node.shape.len();
    let axis = item_axis(&node.name, norm.axis, rank).ok();
    if axis.map(|axis| axis + 1) == Some(rank) {
        return Ok(());
    }
    let axis = norm.axis;
    Err(Skip::Blocked(format!(
        "normalizes axis {axis}, which is not the last"
    )))
}

/// Returns `gamma / sqrt(variance + epsilon)`.
fn gains(norm: &BatchNormalization) -> Result<Array1<f32>, Skip> {
    let n = norm.mean.len();
    let lengths = [
        norm.gamma.as_ref(),
        norm.beta.as_ref(),
        Some(&norm.variance),
    ];
    if let Some(other) = lengths
        .into_iter()
        .flatten()
        .find(|values| values.len() != n)
    {
        let reason = format!("has {n} means, but {} other values", other.len());
        return Err(Skip::Blocked(reason));
    }
    let gain = |c: usize, variance: f32| {
        let gamma = norm.gamma.as_ref().map_or(1.0, |gamma| gamma[c]);
        let deviation = (variance + norm.epsilon).sqrt();
        let gain = gamma / deviation;
        if gamma == 0.0 {
            return Err(Skip::Blocked(format!("gamma[{c}] is 0")));
        }
        if !gain.is_finite() || deviation == 0.0 {
            return Err(Skip::Blocked(format!(
                "gain[{c}] = {gamma} / {deviation} is not finite"
            )));
        }
        Ok(gain)
    };
    let gains = norm.variance.iter().enumerate();
    gains.map(|(c, variance)| gain(c, *variance)).collect()
}

/// An affine map `gain * (x - mean) + beta` of each output channel.
struct Fold {
    gain: Array1<f32>,
    mean: Array1<f32>,
    beta: Option<Array1<f32>>,
}

impl Fold {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "`can_take` names the same classes"
    )]
    fn apply(&self, layer: &mut Layer) {
        match layer {
            Layer::Conv2D(conv) => {
                conv.kernel *= &self.gain;
                self.fold_bias(&mut conv.bias);
            }
            Layer::DepthwiseConv2D(conv) | Layer::DepthwiseConv2DTranspose(conv) => {
                // Cell [.., .., c, m] of the kernel makes output channel c * multiplier + m.
                for mut row in conv.kernel.outer_iter_mut() {
                    for mut position in row.outer_iter_mut() {
                        for (weight, gain) in position.iter_mut().zip(&self.gain) {
                            *weight *= gain;
                        }
                    }
                }
                self.fold_bias(&mut conv.bias);
            }
            Layer::SeparableConv2D(conv) => {
                conv.pointwise_kernel *= &self.gain;
                self.fold_bias(&mut conv.bias);
            }
            Layer::Conv2DTranspose(conv) => {
                conv.kernel *= &self.gain.view().insert_axis(Axis(1));
                self.fold_bias(&mut conv.bias);
            }
            Layer::Dense(dense) => {
                dense.kernel *= &self.gain;
                self.fold_bias(&mut dense.bias);
            }
            Layer::BufferTempConv(conv) => {
                conv.kernel *= &self.gain;
                self.fold_bias(&mut conv.bias);
            }
            Layer::DepthwiseBufferTempConv(conv) => {
                conv.kernel *= &self.gain;
                self.fold_bias(&mut conv.bias);
            }
            _ => {}
        }
    }

    fn fold_bias(&self, bias: &mut Option<Array1<f32>>) {
        let old = |c: usize| bias.as_ref().map_or(0.0, |bias| bias[c]);
        let beta = |c: usize| self.beta.as_ref().map_or(0.0, |beta| beta[c]);
        let new = |c: usize| beta(c) + (old(c) - self.mean[c]) * self.gain[c];
        *bias = Some(Array1::from_shape_fn(self.gain.len(), new));
    }
}
