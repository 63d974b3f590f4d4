//! Layers in the sizes that the hardware has (NUMERICS.md: R13, R14, R15).

use ndarray::{Array4, s};

use super::site::Site;
use super::{Patch, Rewrite, Skip};
use crate::{Activation, DepthwiseConv2D, DraftNode, Layer, Padding};

/// Makes a chain of pairs of a Concatenate with more than two inputs. NUMERICS.md: R13.
pub(super) struct SplitConcatenate;

impl Rewrite for SplitConcatenate {
    fn name(&self) -> &'static str {
        "split-concatenate"
    }

    fn propose(&self, site: &Site<'_>) -> Result<Patch, Skip> {
        let Layer::Concatenate { axis } = site.layer() else {
            return Err(Skip::NoMatch);
        };
        if site.node().inputs.len() < 3 {
            return Err(Skip::NoMatch);
        }
        let (axis, name) = (*axis, site.name());
        let what = format!("becomes {} of two inputs", site.node().inputs.len() - 1);
        Ok(Patch::new(what, move |draft| {
            let Some(node) = draft.node_mut(&name) else {
                return;
            };
            let mut inputs = std::mem::take(&mut node.inputs).into_iter();
            let (Some(mut left), Some(last)) = (inputs.next(), inputs.next_back()) else {
                return;
            };
            for right in inputs {
                let pair = format!("{name}_{right}");
                let inputs = vec![left, right];
                let layer = Layer::Concatenate { axis };
                draft.nodes.push(DraftNode {
                    name: pair.clone(),
                    layer,
                    inputs,
                });
                left = pair;
            }
            if let Some(node) = draft.node_mut(&name) {
                node.inputs = vec![left, last];
            }
        }))
    }
}

/// Makes odd kernels of even ones, with a row and a column of zeros. NUMERICS.md: R14.
pub(super) struct EvenToOddKernel;

impl Rewrite for EvenToOddKernel {
    fn name(&self) -> &'static str {
        "even-to-odd-kernel"
    }

    fn propose(&self, site: &Site<'_>) -> Result<Patch, Skip> {
        let (kernel, strides, dilation, padding) = match site.layer() {
            Layer::Conv2D(conv) if conv.padding_value.is_none() => {
                (conv.kernel.dim(), conv.strides, conv.dilation, conv.padding)
            }
            Layer::DepthwiseConv2D(conv) => {
                (conv.kernel.dim(), conv.strides, conv.dilation, conv.padding)
            }
            _ => return Err(Skip::NoMatch),
        };
        let (kh, kw, channels, _) = kernel;
        if padding != Padding::Same || kh % 2 == 1 {
            return Err(Skip::NoMatch);
        }
        let blocked = |reason: String| Err(Skip::Blocked(reason));
        if kh != kw || strides[0] != strides[1] {
            return blocked(format!("a kernel of {kh}x{kw} with strides {strides:?}"));
        }
        if dilation != [1, 1] {
            return blocked("a dilated kernel would read other pixels".to_owned());
        }
        let first = matches!(site.layer(), Layer::Conv2D(_))
            && [1, 3].contains(&channels)
            && is_fed_by_input(site);
        let convertible = match (first, strides[0]) {
            (true, 1 | 2) => [2, 6].contains(&kh),
            (false, 1) => [2, 4, 6].contains(&kh),
            (false, 2) => kh == 2,
            _ => false,
        };
        if !convertible {
            return blocked(format!("a kernel of {kh}x{kw} with stride {}", strides[0]));
        }
        let &[Some(h), Some(w), _] = site.input_shape() else {
            return blocked("the extents of its input are open".to_owned());
        };
        let offset = if strides[0] == 1 {
            [1, 1]
        } else {
            [h % 2, w % 2]
        };
        let name = site.name();
        Ok(Patch::new(
            format!("{kh}x{kh} becomes {0}x{0}", kh + 1),
            move |draft| {
                let Some(node) = draft.node_mut(&name) else {
                    return;
                };
                if let Layer::Conv2D(conv) = &mut node.layer {
                    conv.kernel = grown(&conv.kernel, offset);
                } else if let Layer::DepthwiseConv2D(conv) = &mut node.layer {
                    conv.kernel = grown(&conv.kernel, offset);
                }
            },
        ))
    }
}

fn is_fed_by_input(site: &Site<'_>) -> bool {
    let mut at = site.producer();
    while let Some(before) = at {
        match before.layer() {
            Layer::Input(_) => return true,
            Layer::Rescaling(_) => at = before.producer(),
            _ => return false,
        }
    }
    false
}

fn grown(kernel: &Array4<f32>, [row, col]: [usize; 2]) -> Array4<f32> {
    let (kh, kw, c, f) = kernel.dim();
    let mut larger = Array4::zeros((kh + 1, kw + 1, c, f));
    larger
        .slice_mut(s![row..row + kh, col..col + kw, .., ..])
        .assign(kernel);
    larger
}

/// Makes two layers of a large depthwise convolution of stride 2. NUMERICS.md: R15.
pub(super) struct SplitStridedDepthwise;

impl Rewrite for SplitStridedDepthwise {
    fn name(&self) -> &'static str {
        "split-strided-depthwise"
    }

    fn propose(&self, site: &Site<'_>) -> Result<Patch, Skip> {
        let Layer::DepthwiseConv2D(conv) = site.layer() else {
            return Err(Skip::NoMatch);
        };
        let (kh, kw, channels, multiplier) = conv.kernel.dim();
        let large = [5, 7].contains(&kh) && kh == kw && multiplier == 1;
        if conv.strides != [2, 2] || conv.padding != Padding::Same || !large {
            return Err(Skip::NoMatch);
        }
        if conv.dilation != [1, 1] {
            return Err(Skip::Blocked("a dilated kernel".to_owned()));
        }
        let name = site.name();
        let split = site.free_name(format!("{name}_identity_dw_conv"));
        let mut kernel = Array4::zeros((3, 3, channels, 1));
        // 'same' pads both windows alike, so the centre of the 3x3 meets the old output on even and
        // on odd extents.
        kernel.slice_mut(s![1, 1, .., ..]).fill(1.0);
        let follower = Layer::DepthwiseConv2D(DepthwiseConv2D {
            kernel,
            bias: None,
            strides: [2, 2],
            padding: Padding::Same,
            dilation: [1, 1],
            activation: Activation::Linear,
        });
        Ok(Patch::new(
            format!("the stride moves to `{split}`"),
            move |draft| {
                if let Some(node) = draft.node_mut(&name)
                    && let Layer::DepthwiseConv2D(conv) = &mut node.layer
                {
                    conv.strides = [1, 1];
                }
                draft.insert_after(&name, &split, follower);
            },
        ))
    }
}
