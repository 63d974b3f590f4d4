//! Explicit padding that a convolution or a pool can do on its own.

use super::driver::{Edit, Patch, Rewrite, Skip, View};
use super::window::{Window, embed};
use crate::{DraftNode, Layer, Node, NodeId, Padding, Pool2D};

/// R12: `ZeroPadding2D -> valid convolution` becomes a 'same' convolution (NUMERICS.md: N14).
///
/// If the pads are not those of 'same', rows and columns of zeros in the kernel move its window to
/// where it was. The reference compares output extents alone, and so changes the results of the
/// usual pads of 1 on all sides of a 3x3 convolution of stride 2 on an even image. Where no kernel
/// has the window (the image grows, or a dilated kernel), the padding stays.
///
/// Zeros around an image of a rectifier never win a maximum. So a pool takes them in as well: as
/// 'same', or as a pool of stride 1 with a 1x1 pool behind it that drops rows and columns.
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
        let next = view.node(view.sole_consumer(id)?);
        let extents = view.input_shape(id).ok_or(Skip::NoMatch)?;
        let &[height, width, _] = extents else {
            return Err(Skip::NoMatch);
        };
        let border = Border {
            extents: [height, width],
            pads: [(pads.top, pads.bottom), (pads.left, pads.right)],
        };
        let (went, mut edits) = if let Layer::MaxPool2D(pool) = next.layer {
            border.into_pool(view, id, (next, pool))?
        } else {
            border.into_convolution(next)?
        };
        edits.push(Edit::Remove(node.name.clone(), went.clone()));
        Ok(Patch {
            message: went,
            edits,
        })
    }
}

/// An image and the zeros around it, rows and columns.
struct Border {
    extents: [Option<usize>; 2],
    /// Before and after.
    pads: [(usize, usize); 2],
}

impl Border {
    /// Returns what becomes of the padding, and the edits that make it so.
    fn into_convolution(self, conv: &Node) -> Result<(String, Vec<Edit>), Skip> {
        let window = window(conv)?;
        let same = self.same(&window)?;
        let name = &conv.name;
        if self.pads == same {
            let went = format!("merged into `{name}` as padding 'same'");
            return Ok((went, vec![Edit::change(conv, set_same)]));
        }
        let Some([(height, top), (width, left)]) = self.wider(&window) else {
            return Err(Skip::Blocked(self.refusal(name, same)));
        };
        let [kh, kw] = window.kernel;
        let went = format!(
            "merged into `{name}` as padding 'same': its kernel {kh}x{kw} is now {height}x{width}, zeros move it"
        );
        let change = move |layer: &mut Layer| {
            embed(layer, [height, width], [top, left]);
            set_same(layer);
        };
        Ok((went, vec![Edit::change(conv, change)]))
    }

    fn into_pool(
        self,
        view: &View<'_>,
        id: NodeId,
        (node, pool): (&Node, Pool2D),
    ) -> Result<(String, Vec<Edit>), Skip> {
        let name = &node.name;
        if pool.padding == Padding::Same {
            return Err(Skip::Blocked(format!("`{name}` pads on its own")));
        }
        if !is_rectified(view, id) {
            return Err(Skip::Blocked(format!(
                "zeros may win in `{name}`: its image may be negative"
            )));
        }
        let window = Window {
            kernel: pool.pool_size,
            strides: pool.strides,
            dilation: [1, 1],
            padding: pool.padding,
        };
        let same = self.same(&window)?;
        let set = |pool| move |layer: &mut Layer| *layer = Layer::MaxPool2D(pool);
        let as_same = |strides| Pool2D {
            strides,
            padding: Padding::Same,
            ..pool
        };
        if self.pads == same {
            let went = format!("merged into `{name}` as padding 'same'");
            return Ok((went, vec![Edit::change(node, set(as_same(pool.strides)))]));
        }
        let is_centred = (0..2).all(|axis| {
            let before = self.pads[axis].0;
            pool.pool_size[axis] == 2 * before + 1 && self.keeps_count(&window, axis)
        });
        let source = view.sole_input(id).ok_or(Skip::NoMatch)?;
        if !is_centred {
            return Err(Skip::Blocked(self.refusal(name, same)));
        }
        let every = view.fresh_name(format!("{name}_every_pixel"), &[]);
        let went = format!("merged into `{every}`, of which `{name}` takes rows and columns");
        let drop = Pool2D {
            pool_size: [1, 1],
            ..pool
        };
        let edits = vec![
            Edit::change(node, set(drop)),
            Edit::SetInputs(name.clone(), vec![every.clone()]),
            Edit::Push(DraftNode {
                name: every,
                layer: Layer::MaxPool2D(as_same([1, 1])),
                inputs: vec![view.node(source).name.clone()],
            }),
        ];
        Ok((went, edits))
    }

    /// Returns the pads that 'same' means.
    fn same(&self, window: &Window) -> Result<[(usize, usize); 2], Skip> {
        let [height, width] = self.extents;
        Ok([window.same_pads(height, 0)?, window.same_pads(width, 1)?])
    }

    /// Returns whether a window takes as many steps on the padded axis as 'same' does.
    fn keeps_count(&self, window: &Window, axis: usize) -> bool {
        let (stride, kernel) = (window.strides[axis], window.kernel[axis]);
        let (before, after) = self.pads[axis];
        let Some(n) = self.extents[axis] else {
            return stride == 1 && before + after + 1 == kernel;
        };
        let steps = (n + before + after).checked_sub(kernel);
        let steps = steps.and_then(|room| room.checked_div(stride));
        steps.is_some_and(|steps| steps + 1 == n.div_ceil(stride))
    }

    /// Returns the extents of a kernel, odd if possible, and where the present one lies in it, so
    /// that the pads of 'same' let it begin where it does now.
    fn wider(&self, window: &Window) -> Option<[(usize, usize); 2]> {
        let keeps = (0..2).all(|axis| self.keeps_count(window, axis));
        if window.dilation != [1, 1] || !keeps {
            return None;
        }
        let placed = |axis: usize, wide: usize| {
            let odd = Window {
                kernel: [wide; 2],
                ..*window
            };
            let (before, _) = odd.same_pads(self.extents[axis], axis).ok()?;
            let offset = before.checked_sub(self.pads[axis].0)?;
            (offset + window.kernel[axis] <= wide).then_some((wide, offset))
        };
        let widths = |axis: usize| {
            let (kernel, stride) = (window.kernel[axis], window.strides[axis]);
            let widths = kernel..=kernel + 2 * stride;
            let odd = widths.clone().filter(|wide| wide.rem_euclid(2) == 1);
            odd.chain(widths.filter(|wide| wide.rem_euclid(2) == 0))
        };
        // A square kernel stays square if it can.
        let [height, width] = window.kernel;
        let square = widths(0).find_map(|wide| Some([placed(0, wide)?, placed(1, wide)?]));
        if let (true, Some(square)) = (height == width, square) {
            return Some(square);
        }
        let side = |axis| widths(axis).find_map(|wide| placed(axis, wide));
        Some([side(0)?, side(1)?])
    }

    fn refusal(&self, name: &str, same: [(usize, usize); 2]) -> String {
        format!(
            "its pads are {}; 'same' of `{name}` means {}, and no zeros in it make up for that",
            show(self.pads),
            show(same)
        )
    }
}

fn show([(top, bottom), (left, right)]: [(usize, usize); 2]) -> String {
    format!("(({top}, {bottom}), ({left}, {right}))")
}

/// Returns whether the image that `id` takes has no negative element.
fn is_rectified(view: &View<'_>, id: NodeId) -> bool {
    let mut at = view.sole_input(id);
    while let Some(input) = at {
        let layer = view.layer(input);
        if let Layer::ReLU(relu) = layer {
            return relu.negative_slope.abs().to_bits() == 0 && relu.threshold >= 0.0;
        }
        if !matches!(layer, Layer::MaxPool2D(_) | Layer::Dropout { .. }) {
            return false;
        }
        at = view.sole_input(input);
    }
    false
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
