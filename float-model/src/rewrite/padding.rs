//! Explicit padding that is what 'same' means anyway.

use super::driver::{Edit, Patch, Rewrite, Skip, View};
use super::window::Window;
use crate::{Layer, Node, NodeId, Padding, Pads};

/// R12: `ZeroPadding2D -> valid convolution` becomes a 'same' convolution if, and only if, the
/// pads are those of 'same' (NUMERICS.md: N14).
///
/// The reference compares output extents instead, and so changes the results of the usual pads of
/// 1 on all sides of a 3x3 convolution of stride 2 on an even image. Here they stay.
#[derive(Clone, Copy, Debug)]
pub(super) struct RemoveZeroPadding;

impl Rewrite for RemoveZeroPadding {
    fn name(&self) -> &'static str {
        "remove-zeropadding"
    }

    fn propose(&self, view: &View<'_>, id: NodeId) -> Result<Patch, Skip> {
        let node = view.node(id);
        let Layer::ZeroPadding2D(pads) = node.layer else {
            return Err(Skip::NoMatch);
        };
        let conv = view.node(view.sole_consumer(id)?);
        let window = window(conv)?;
        let extents = view.input_shape(id).ok_or(Skip::NoMatch)?;
        let &[height, width, _] = extents else {
            return Err(Skip::NoMatch);
        };
        let (top, bottom) = window.same_pads(height, 0)?;
        let (left, right) = window.same_pads(width, 1)?;
        let same = Pads {
            top,
            bottom,
            left,
            right,
        };
        if pads != same {
            let (pads, same) = (show(pads), show(same));
            let name = &conv.name;
            return Err(Skip::Blocked(format!(
                "its pads are {pads}; 'same' of `{name}` means {same}"
            )));
        }
        let went = format!("merged into `{}` as padding 'same'", conv.name);
        Ok(Patch {
            message: went.clone(),
            edits: vec![
                Edit::change(conv, set_same),
                Edit::Remove(node.name.clone(), went),
            ],
        })
    }
}

fn show(pads: Pads) -> String {
    let Pads {
        top,
        bottom,
        left,
        right,
    } = pads;
    format!("(({top}, {bottom}), ({left}, {right}))")
}

fn window(node: &Node) -> Result<Window, Skip> {
    let blocked = |reason: String| Err(Skip::Blocked(reason));
    let is_transposed = matches!(node.layer, Layer::Conv2DTranspose(_));
    let Some(window) = Window::of(&node.layer).filter(|_| !is_transposed) else {
        let class = node.layer.class_name();
        return blocked(format!("`{}` ({class}) cannot pad", node.name));
    };
    if window.padding == Padding::Same {
        return blocked(format!("`{}` pads on its own", node.name));
    }
    Ok(window)
}

fn set_same(layer: &mut Layer) {
    if let Layer::Conv2D(conv) = layer {
        conv.padding = Padding::Same;
    } else if let Layer::DepthwiseConv2D(conv) = layer {
        conv.padding = Padding::Same;
    } else if let Layer::SeparableConv2D(conv) = layer {
        conv.padding = Padding::Same;
    }
}
