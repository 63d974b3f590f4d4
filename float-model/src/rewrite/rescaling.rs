//! Scales for each channel and offsets, moved into the first layer (NUMERICS.md: R8).

use ndarray::Array1;
use quantizer_core::PerAxis;

use super::site::Site;
use super::{Patch, Rewrite, Skip};
use crate::{Conv2D, Dense, Layer, Padding, Rescaling};

/// Leaves a Rescaling with nothing but a scalar scale.
///
/// ```text
/// W (s x + o) + b:  b' = b + sum W o;  s a vector: W' = W s, scale 1;  offset 0
/// 'same' border of a Conv2D: padding value -o, or -o / s if s is a vector
/// ```
///
/// NUMERICS.md: R8.
pub(super) struct AlignRescaling;

impl Rewrite for AlignRescaling {
    fn name(&self) -> &'static str {
        "align-rescaling"
    }

    fn propose(&self, site: &Site<'_>) -> Result<Patch, Skip> {
        let Layer::Rescaling(rescaling) = site.layer() else {
            return Err(Skip::NoMatch);
        };
        let no_offset = rescaling
            .offset
            .as_slice()
            .iter()
            .all(|o| o.abs().to_bits() == 0);
        if rescaling.scale.is_per_tensor() && no_offset {
            return Err(Skip::NoMatch);
        }
        let blocked = |reason: &str| Err(Skip::Blocked(reason.to_owned()));
        let Some(next) = site.sole_consumer() else {
            return blocked("its output is used more than once");
        };
        match next.layer() {
            Layer::Conv2D(conv) if conv.groups == 1 && conv.padding_value.is_none() => {}
            Layer::Dense(_) => {}
            _ => return blocked("neither a plain Conv2D nor a Dense follows"),
        }
        if rescaling.scale.as_slice().contains(&0.0) {
            return blocked("a scale is zero");
        }
        let (name, target) = (site.name(), next.name());
        let rescaling = rescaling.clone();
        let what = format!("scale and offset move into `{target}`");
        Ok(Patch::new(what, move |draft| {
            if let Some(node) = draft.node_mut(&target) {
                if let Layer::Conv2D(conv) = &mut node.layer {
                    fold_into_conv(conv, &rescaling);
                } else if let Layer::Dense(dense) = &mut node.layer {
                    fold_into_dense(dense, &rescaling);
                }
            }
            if let Some(node) = draft.node_mut(&name) {
                let scale = match rescaling.scale {
                    PerAxis::Tensor(scale) => scale,
                    PerAxis::Axis(_) => 1.0,
                };
                let (scale, offset) = (PerAxis::Tensor(scale), PerAxis::Tensor(0.0));
                node.layer = Layer::Rescaling(Rescaling { scale, offset });
            }
        }))
    }
}

fn fold_into_conv(conv: &mut Conv2D, rescaling: &Rescaling) {
    let filters = conv.kernel.dim().3;
    let bias = conv.bias.get_or_insert_with(|| Array1::zeros(filters));
    for ((_, _, c, f), w) in conv.kernel.indexed_iter_mut() {
        bias[f] += *w * narrow(channel(&rescaling.offset, c));
        if !rescaling.scale.is_per_tensor() {
            *w *= narrow(channel(&rescaling.scale, c));
        }
    }
    if conv.padding == Padding::Same {
        conv.padding = Padding::Valid;
        conv.padding_value = Some(border(rescaling));
    }
}

fn fold_into_dense(dense: &mut Dense, rescaling: &Rescaling) {
    let units = dense.kernel.ncols();
    let bias = dense.bias.get_or_insert_with(|| Array1::zeros(units));
    for ((c, u), w) in dense.kernel.indexed_iter_mut() {
        bias[u] += *w * narrow(channel(&rescaling.offset, c));
        if !rescaling.scale.is_per_tensor() {
            *w *= narrow(channel(&rescaling.scale, c));
        }
    }
}

/// Returns what the border must hold for its rescaled value to be zero, as the layer sees it.
///
/// Equal offsets become one value; a division by several scales then gives several again.
fn border(rescaling: &Rescaling) -> Vec<f32> {
    let negated = rescaling.offset.map(|o| 0.0 - o);
    let collapsed = negated.uniform().map_or(negated, PerAxis::Tensor);
    let values = match &rescaling.scale {
        PerAxis::Tensor(_) => collapsed,
        scales @ PerAxis::Axis(_) => collapsed.zip(scales, |o, s| o / s),
    };
    values.as_slice().iter().copied().map(narrow).collect()
}

fn channel(values: &PerAxis<f64>, c: usize) -> f64 {
    if values.n_values() == 1 {
        values.at(0)
    } else {
        values.at(c)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "weights are float32")]
const fn narrow(x: f64) -> f32 {
    x as f32
}
