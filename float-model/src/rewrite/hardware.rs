//! Forms that a hardware target can map: pairs, odd kernels, small strided kernels.

use ndarray::{Array4, s};

use super::driver::{Edit, Patch, Rewrite, Skip, View};
use super::window::{Window, embed};
use crate::{Activation, DepthwiseConv2D, DraftNode, Layer, NodeId, Padding};

/// R13: a `Concatenate` of three inputs and more becomes a chain of pairs, from the left.
///
/// The new ones are named `{concat}_{second input}`; the last one keeps the name.
#[derive(Clone, Copy, Debug)]
pub(super) struct SplitConcatenate;

impl Rewrite for SplitConcatenate {
    fn name(&self) -> &'static str {
        "split-concatenate"
    }

    fn propose(&self, view: &View<'_>, id: NodeId) -> Result<Patch, Skip> {
        let node = view.node(id);
        let Layer::Concatenate { axis } = node.layer else {
            return Err(Skip::NoMatch);
        };
        let names = node
            .inputs
            .iter()
            .map(|input| view.node(*input).name.clone());
        let inputs: Vec<String> = names.collect();
        let [first, middle @ .., last] = inputs.as_slice() else {
            return Err(Skip::NoMatch);
        };
        if middle.is_empty() {
            return Err(Skip::NoMatch);
        }
        let mut edits = Vec::new();
        let mut new_names: Vec<String> = Vec::new();
        for second in middle {
            let name = view.fresh_name(format!("{}_{second}", node.name), &new_names);
            let so_far = new_names.last().unwrap_or(first).clone();
            edits.push(Edit::Push(DraftNode {
                name: name.clone(),
                layer: Layer::Concatenate { axis },
                inputs: vec![so_far, second.clone()],
            }));
            new_names.push(name);
        }
        let so_far = new_names.last().unwrap_or(first).clone();
        edits.push(Edit::SetInputs(
            node.name.clone(),
            vec![so_far, last.clone()],
        ));
        Ok(Patch {
            message: format!("its {} inputs are joined in pairs", inputs.len()),
            edits,
        })
    }
}

/// R14: an even 'same' kernel gets a row and a column of zeros.
///
/// At stride 1 kernels of 2, 4 and 6 change, at stride 2 those of 2. A `Conv2D` that the model
/// input feeds (through `Rescaling`s), of 1 or 3 channels, changes at stride 1 and 2 for kernels
/// of 2 and 6. The zeros stand where the border of the odd kernel grows (NUMERICS.md: N14), so
/// the function stays. Dilated kernels do not change: the reference's results are wrong there.
#[derive(Clone, Copy, Debug)]
pub(super) struct EvenToOddKernel;

impl Rewrite for EvenToOddKernel {
    fn name(&self) -> &'static str {
        "even-to-odd-kernel"
    }

    fn propose(&self, view: &View<'_>, id: NodeId) -> Result<Patch, Skip> {
        let node = view.node(id);
        let window = Window::of(&node.layer).ok_or(Skip::NoMatch)?;
        let is_listed = if let Layer::Conv2DTranspose(conv) = &node.layer {
            conv.output_padding.is_none()
        } else {
            !matches!(node.layer, Layer::SeparableConv2D(_))
        };
        if window.padding != Padding::Same || !is_listed {
            return Err(Skip::NoMatch);
        }
        let ([height, width], [stride, _]) = (window.kernel, window.strides);
        let candidates: &[(usize, usize)] = if is_first_of_few_channels(view, id) {
            &[(1, 2), (1, 6), (2, 2), (2, 6)]
        } else {
            &[(1, 2), (1, 4), (1, 6), (2, 2)]
        };
        let is_candidate = |extent| candidates.contains(&(stride, extent));
        if !is_candidate(height) && !is_candidate(width) {
            return Err(Skip::NoMatch);
        }
        if height != width || window.strides != [stride, stride] {
            let [sh, sw] = window.strides;
            return Err(Skip::Blocked(format!(
                "kernel {height}x{width} of strides ({sh}, {sw}) is not square"
            )));
        }
        if window.dilation != [1, 1] {
            let [dh, dw] = window.dilation;
            return Err(Skip::Blocked(format!("is dilated: ({dh}, {dw})")));
        }
        // The window of a transposed convolution slides over its output.
        let image = if matches!(node.layer, Layer::Conv2DTranspose(_)) {
            Some(node.shape.as_slice())
        } else {
            view.input_shape(id)
        };
        let &[rows, columns, _] = image.ok_or(Skip::NoMatch)? else {
            return Err(Skip::NoMatch);
        };
        let top = growth_before(&window, rows, 0)?;
        let left = growth_before(&window, columns, 1)?;
        let odd = height + 1;
        Ok(Patch {
            message: format!("its kernel {height}x{width} is now {odd}x{odd}"),
            edits: vec![Edit::change(node, move |layer| {
                embed(layer, [odd; 2], [top, left]);
            })],
        })
    }
}

/// Returns how much the border before an axis grows with the kernel.
fn growth_before(window: &Window, extent: Option<usize>, axis: usize) -> Result<usize, Skip> {
    let odd = Window {
        kernel: window.kernel.map(|extent| extent + 1),
        ..*window
    };
    let (before, _) = window.same_pads(extent, axis)?;
    let (odd_before, _) = odd.same_pads(extent, axis)?;
    Ok(odd_before.saturating_sub(before))
}

fn is_first_of_few_channels(view: &View<'_>, id: NodeId) -> bool {
    let is_few = |conv: &crate::Conv2D| [1, 3].contains(&(conv.kernel.dim().2 * conv.groups));
    if !matches!(view.layer(id), Layer::Conv2D(conv) if is_few(conv)) {
        return false;
    }
    let mut at = view.sole_input(id);
    while let Some(input) = at.filter(|id| matches!(view.layer(*id), Layer::Rescaling(_))) {
        at = view.sole_input(input);
    }
    at.is_some_and(|id| matches!(view.layer(id), Layer::Input(_)))
}

/// R15: a depthwise 'same' convolution of stride 2 with a kernel of 5 or 7 gets stride 1; the
/// rows and columns are dropped by a 3x3 depthwise convolution of stride 2 behind it, a 1 between
/// zeros, named `{X}_identity_dw_conv`.
#[derive(Clone, Copy, Debug)]
pub(super) struct SplitDepthwise;

impl Rewrite for SplitDepthwise {
    fn name(&self) -> &'static str {
        "split-depthwise"
    }

    fn propose(&self, view: &View<'_>, id: NodeId) -> Result<Patch, Skip> {
        let node = view.node(id);
        let Layer::DepthwiseConv2D(conv) = &node.layer else {
            return Err(Skip::NoMatch);
        };
        let (height, width, channels, multiplier) = conv.kernel.dim();
        let is_big = |extent| [5, 7].contains(&extent);
        if conv.strides != [2, 2] || conv.padding != Padding::Same || !is_big(height) {
            return Err(Skip::NoMatch);
        }
        if !is_big(width) {
            return Err(Skip::Blocked(format!(
                "kernel {height}x{width} has a side that is neither 5 nor 7"
            )));
        }
        if conv.dilation != [1, 1] {
            let [dh, dw] = conv.dilation;
            return Err(Skip::Blocked(format!("is dilated: ({dh}, {dw})")));
        }
        if conv.activation != Activation::Linear {
            return Err(Skip::Blocked("has an activation".to_owned()));
        }
        let name = view.fresh_name(format!("{}_identity_dw_conv", node.name), &[]);
        let message = format!("its stride is now that of `{name}`");
        let set_strides = |layer: &mut Layer| {
            if let Layer::DepthwiseConv2D(conv) = layer {
                conv.strides = [1, 1];
            }
        };
        let insert = Edit::InsertAfter {
            after: node.name.clone(),
            name,
            layer: dropping(channels * multiplier),
        };
        Ok(Patch {
            message,
            edits: vec![Edit::change(node, set_strides), insert],
        })
    }
}

fn dropping(channels: usize) -> Layer {
    let mut kernel = Array4::zeros((3, 3, channels, 1));
    kernel.slice_mut(s![1, 1, .., ..]).fill(1.0);
    Layer::DepthwiseConv2D(DepthwiseConv2D {
        kernel,
        bias: None,
        strides: [2, 2],
        padding: Padding::Same,
        dilation: [1, 1],
        activation: Activation::Linear,
    })
}
