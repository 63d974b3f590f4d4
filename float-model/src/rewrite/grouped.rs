//! Grouped convolutions of one channel a group are depthwise ones.

use super::driver::{Edit, Patch, Rewrite, Skip, View};
use crate::{DepthwiseConv2D, Layer, NodeId};

/// R6: `Conv2D` with `groups = filters = channels` becomes `DepthwiseConv2D`.
///
/// The kernel `[height, width, 1, filters]` becomes `[height, width, filters, 1]`. As in the
/// reference, a convolution of one channel to one filter is such a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupedConvToDepthwise;

impl Rewrite for GroupedConvToDepthwise {
    fn name(&self) -> &'static str {
        "grouped-conv-to-depthwise"
    }

    fn propose(&self, view: &View<'_>, id: NodeId) -> Result<Patch, Skip> {
        let node = view.node(id);
        let Layer::Conv2D(conv) = &node.layer else {
            return Err(Skip::NoMatch);
        };
        let (_, _, per_group, filters) = conv.kernel.dim();
        let channels = per_group * conv.groups;
        if conv.groups != filters || filters != channels {
            let groups = conv.groups;
            return Err(match groups {
                1 => Skip::NoMatch,
                _ => Skip::Blocked(format!(
                    "has {groups} groups for {channels} channels and {filters} filters"
                )),
            });
        }
        if conv.padding_value.is_some() {
            return Err(Skip::Blocked("has a padding value".to_owned()));
        }
        Ok(Patch {
            message: format!("is now a DepthwiseConv2D of {filters} channels"),
            edits: vec![Edit::change(node, to_depthwise)],
        })
    }
}

fn to_depthwise(layer: &mut Layer) {
    if let Layer::Conv2D(conv) = layer {
        let kernel = std::mem::take(&mut conv.kernel);
        *layer = Layer::DepthwiseConv2D(DepthwiseConv2D {
            kernel: kernel.permuted_axes([0, 1, 3, 2]),
            bias: conv.bias.take(),
            strides: conv.strides,
            padding: conv.padding,
            dilation: conv.dilation,
            activation: conv.activation,
        });
    }
}
