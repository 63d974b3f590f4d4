//! Layers that say the same with less (NUMERICS.md: R6, R7, R12).

use quantizer_core::geometry::same_pads;

use super::site::Site;
use super::{Patch, Rewrite, Skip};
use crate::{DepthwiseConv2D, Layer, Padding};

/// Makes a DepthwiseConv2D of a Conv2D with one channel and one filter a group. NUMERICS.md: R6.
pub(super) struct GroupedToDepthwise;

impl Rewrite for GroupedToDepthwise {
    fn name(&self) -> &'static str {
        "grouped-to-depthwise"
    }

    fn propose(&self, site: &Site<'_>) -> Result<Patch, Skip> {
        let Layer::Conv2D(conv) = site.layer() else {
            return Err(Skip::NoMatch);
        };
        if conv.groups == 1 {
            return Err(Skip::NoMatch);
        }
        let (_, _, per_group, filters) = conv.kernel.dim();
        if per_group != 1 || filters != conv.groups || conv.padding_value.is_some() {
            let groups = conv.groups;
            let reason = format!("{filters} filters and {groups} groups of {per_group} channels");
            return Err(Skip::Blocked(reason));
        }
        let name = site.name();
        Ok(Patch::new("becomes a DepthwiseConv2D", move |draft| {
            let Some(node) = draft.node_mut(&name) else {
                return;
            };
            if let Layer::Conv2D(conv) = &mut node.layer {
                let kernel = std::mem::take(&mut conv.kernel);
                node.layer = Layer::DepthwiseConv2D(DepthwiseConv2D {
                    kernel: kernel.permuted_axes([0, 1, 3, 2]),
                    bias: conv.bias.take(),
                    strides: conv.strides,
                    padding: conv.padding,
                    dilation: conv.dilation,
                    activation: conv.activation,
                });
            }
        }))
    }
}

/// Removes a Reshape or Flatten that only another one follows. NUMERICS.md: R7.
pub(super) struct RemoveReshape;

impl Rewrite for RemoveReshape {
    fn name(&self) -> &'static str {
        "remove-reshape"
    }

    fn propose(&self, site: &Site<'_>) -> Result<Patch, Skip> {
        let is_reshape = |layer: &Layer| matches!(layer, Layer::Reshape { .. } | Layer::Flatten);
        if !is_reshape(site.layer()) {
            return Err(Skip::NoMatch);
        }
        let next = site.sole_consumer().filter(|next| is_reshape(next.layer()));
        let next = next.ok_or(Skip::NoMatch)?.name();
        let name = site.name();
        let removed = name.clone();
        Ok(
            Patch::new(format!("removed before `{next}`"), move |draft| {
                draft.remove(&removed);
            })
            .removing(&name, format!("removed: `{next}` reshapes anyway")),
        )
    }
}

/// Makes 'same' of a 'valid' window behind a ZeroPadding2D with just those pads.
///
/// The reference also accepts pads that shift the result; here they must be those of 'same'
/// exactly, otherwise the layer stays. NUMERICS.md: R12.
pub(super) struct RemoveZeroPadding;

impl Rewrite for RemoveZeroPadding {
    fn name(&self) -> &'static str {
        "remove-zero-padding"
    }

    fn propose(&self, site: &Site<'_>) -> Result<Patch, Skip> {
        let Layer::ZeroPadding2D(pads) = site.layer() else {
            return Err(Skip::NoMatch);
        };
        let blocked = |reason: String| Err(Skip::Blocked(reason));
        let Some(next) = site.sole_consumer() else {
            return blocked("its output is used more than once".to_owned());
        };
        let Some((kernel, strides, dilation)) = valid_window(next.layer()) else {
            return blocked(format!("`{}` is no 'valid' convolution", next.name()));
        };
        let &[Some(h), Some(w), _] = site.input_shape() else {
            return blocked("the extents of its input are open".to_owned());
        };
        let rows = same_pads(h, kernel[0], strides[0], dilation[0]);
        let cols = same_pads(w, kernel[1], strides[1], dilation[1]);
        if (rows, cols) != ((pads.top, pads.bottom), (pads.left, pads.right)) {
            return blocked(format!(
                "its pads (({}, {}), ({}, {})) are not those of 'same', ({rows:?}, {cols:?})",
                pads.top, pads.bottom, pads.left, pads.right
            ));
        }
        let (name, conv) = (site.name(), next.name());
        let (pad, target) = (name.clone(), conv.clone());
        Ok(
            Patch::new(format!("`{conv}` pads by 'same'"), move |draft| {
                draft.remove(&pad);
                if let Some(node) = draft.node_mut(&target) {
                    set_same(&mut node.layer);
                }
            })
            .removing(&name, format!("became the 'same' padding of `{conv}`")),
        )
    }
}

type Window = ([usize; 2], [usize; 2], [usize; 2]);

/// Returns kernel, strides and dilation of a 'valid' convolution.
fn valid_window(layer: &Layer) -> Option<Window> {
    let (kernel, strides, dilation, padding) = match layer {
        Layer::Conv2D(conv) if conv.padding_value.is_none() => {
            (conv.kernel.dim(), conv.strides, conv.dilation, conv.padding)
        }
        Layer::DepthwiseConv2D(conv) => {
            (conv.kernel.dim(), conv.strides, conv.dilation, conv.padding)
        }
        Layer::SeparableConv2D(conv) => (
            conv.depthwise_kernel.dim(),
            conv.strides,
            conv.dilation,
            conv.padding,
        ),
        _ => return None,
    };
    (padding == Padding::Valid).then_some(([kernel.0, kernel.1], strides, dilation))
}

fn set_same(layer: &mut Layer) {
    match layer {
        Layer::Conv2D(conv) => conv.padding = Padding::Same,
        Layer::DepthwiseConv2D(conv) => conv.padding = Padding::Same,
        Layer::SeparableConv2D(conv) => conv.padding = Padding::Same,
        _ => {}
    }
}
