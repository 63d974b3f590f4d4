//! Networks over clips become networks over frames that remember.

use ndarray::{Axis, s};

use super::driver::{Edit, Patch, Rewrite, Skip, View};
use crate::{
    BufferTempConv, Conv2D, Conv3D, DepthwiseBufferTempConv, DepthwiseConv2D,
    GlobalAveragePooling2D, Layer, NodeId, Padding, Pads, Pool3D, Volume, item_axis,
};

/// R4: a network over clips `[time, height, width, channels]` becomes one over frames.
///
/// ```text
/// Conv3D of 1 x h x w                       -> Conv2D, or DepthwiseConv2D where groups = filters = channels
/// ZeroPadding3D ((t - 1, 0), (0, 0), (0, 0)),
///   then Conv3D of t x 1 x 1                -> BufferTempConv, or DepthwiseBufferTempConv
/// AveragePooling3D of 1 x H x W             -> GlobalAveragePooling2D
/// input, Reshape, Permute, BatchNormalization: without the time axis
/// ```
///
/// Run on the frames of a clip one after another, it gives the outputs of the clip one after another.
/// All layers change or none: what looks ahead, or mixes frames in another way, is named.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClipsToFrames;

impl Rewrite for ClipsToFrames {
    fn name(&self) -> &'static str {
        "clips-to-frames"
    }

    fn propose(&self, view: &View<'_>, id: NodeId) -> Result<Patch, Skip> {
        let Layer::Input(input) = view.layer(id) else {
            return Err(Skip::NoMatch);
        };
        let is_conv = |layer: &Layer| matches!(layer, Layer::Volume(Volume::Conv3D(_)));
        let has_conv = view.graph().nodes().iter().any(|node| is_conv(&node.layer));
        if input.shape.len() != 4 || !has_conv {
            return Err(Skip::NoMatch);
        }
        if view.graph().inputs().count() != 1 {
            return Err(Skip::Blocked("the network has several inputs".to_owned()));
        }
        let (mut edits, mut problems) = (Vec::new(), Vec::new());
        for (id, node) in view.graph().iter() {
            match of_frames(view, id) {
                Ok(Step::Same) => {}
                Ok(Step::Becomes(layer)) => {
                    let layer = *layer;
                    edits.push(Edit::change(node, move |old| *old = layer));
                }
                Ok(Step::Goes(went)) => edits.push(Edit::Remove(node.name.clone(), went)),
                Err(reason) => problems.push(format!("`{}` {reason}", node.name)),
            }
        }
        if !problems.is_empty() {
            return Err(Skip::Blocked(problems.join("; ")));
        }
        Ok(Patch {
            message: "takes frames now, one after another: run it with --sequence".to_owned(),
            edits,
        })
    }
}

/// What becomes of a layer.
enum Step {
    Same,
    Becomes(Box<Layer>),
    Goes(String),
}

impl Step {
    fn becomes(layer: Layer) -> Self {
        Self::Becomes(Box::new(layer))
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the classes that have a form for frames are named"
)]
fn of_frames(view: &View<'_>, id: NodeId) -> Result<Step, String> {
    let node = view.node(id);
    let rank = node.shape.len();
    match &node.layer {
        Layer::Input(input) => {
            let mut input = input.clone();
            input.shape.remove(0);
            Ok(Step::becomes(Layer::Input(input)))
        }
        Layer::Volume(Volume::Conv3D(conv)) => convolution(view, id, conv),
        Layer::Volume(Volume::ZeroPadding3D(pads)) => padding(view, id, *pads),
        Layer::Volume(Volume::AveragePool3D(pool)) => average(view, id, *pool),
        Layer::BatchNormalization(norm) => match item_axis(&node.name, norm.axis, rank) {
            Ok(axis) if axis + 1 == rank => {
                let mut norm = norm.clone();
                norm.axis = -1;
                Ok(Step::becomes(Layer::BatchNormalization(norm)))
            }
            _ => Err("normalizes another axis than the channels".to_owned()),
        },
        Layer::Reshape { target_shape } => reshape(view, id, target_shape),
        Layer::Permute { dims } => match dims.split_first() {
            Some((1, rest)) if !rest.is_empty() => Ok(Step::becomes(Layer::Permute {
                dims: rest.iter().map(|axis| axis.saturating_sub(1)).collect(),
            })),
            _ => Err("moves the time axis".to_owned()),
        },
        Layer::PReLU { alpha } => {
            if alpha.ndim() < 2 || alpha.len_of(Axis(0)) != 1 {
                return Err("has other slopes for other frames".to_owned());
            }
            let alpha = alpha.index_axis(Axis(0), 0).to_owned();
            Ok(Step::becomes(Layer::PReLU { alpha }))
        }
        Layer::ReLU(_)
        | Layer::LeakyReLU { .. }
        | Layer::Activation(_)
        | Layer::Softmax
        | Layer::Rescaling(_)
        | Layer::Dropout { .. }
        | Layer::Dense(_)
            if rank > 1 =>
        {
            Ok(Step::Same)
        }
        other => Err(format!(
            "is of class {}, which has no form for frames",
            other.class_name()
        )),
    }
}

fn convolution(view: &View<'_>, id: NodeId, conv: &Conv3D) -> Result<Step, String> {
    let (kt, kh, kw, per_group, filters) = conv.kernel.dim();
    let is_depthwise = conv.groups > 1 && per_group == 1 && filters == conv.groups;
    if conv.groups != 1 && !is_depthwise {
        let groups = conv.groups;
        return Err(format!("has {groups} groups for {filters} filters"));
    }
    let [st, strides @ ..] = conv.strides;
    let [_, dilation @ ..] = conv.dilation;
    if kt == 1 && st == 1 {
        let kernel = conv.kernel.index_axis(Axis(0), 0).to_owned();
        let (bias, padding, activation) = (conv.bias.clone(), conv.padding, conv.activation);
        return Ok(Step::becomes(if is_depthwise {
            Layer::DepthwiseConv2D(DepthwiseConv2D {
                kernel: kernel.permuted_axes([0, 1, 3, 2]),
                bias,
                strides,
                padding,
                dilation,
                activation,
            })
        } else {
            Layer::Conv2D(Conv2D {
                kernel,
                bias,
                strides,
                padding,
                dilation,
                groups: 1,
                activation,
                padding_value: None,
            })
        }));
    }
    if (kh, kw) != (1, 1) || conv.strides != [1; 3] || conv.dilation != [1; 3] {
        let ([a, b, c], [d, e, f]) = (conv.strides, conv.dilation);
        return Err(format!(
            "has a kernel {kt}x{kh}x{kw} of strides ({a}, {b}, {c}) and dilation ({d}, {e}, {f}): \
             only 1xHxW and Tx1x1 without both have a form for frames"
        ));
    }
    if view
        .sole_input(id)
        .and_then(|pads| window_behind(view, pads))
        != Some(id)
    {
        return Err(format!(
            "does not look back only: it needs a ZeroPadding3D of (({}, 0), (0, 0), (0, 0)) of its own",
            kt - 1
        ));
    }
    let bias = conv.bias.clone();
    Ok(Step::becomes(if is_depthwise {
        let kernel = conv.kernel.slice(s![.., 0, 0, 0, ..]).to_owned();
        Layer::DepthwiseBufferTempConv(DepthwiseBufferTempConv { kernel, bias })
    } else {
        let kernel = conv.kernel.as_standard_layout().into_owned();
        let kernel = kernel
            .into_shape_with_order((1, 1, kt * per_group, filters))
            .map_err(|e| e.to_string())?;
        let n_frames = kt;
        Layer::BufferTempConv(BufferTempConv {
            kernel,
            bias,
            n_frames,
        })
    }))
}

/// Returns the convolution over time whose frames before the first `pads` makes, and nothing else.
fn window_behind(view: &View<'_>, pads: NodeId) -> Option<NodeId> {
    let Layer::Volume(Volume::ZeroPadding3D(pads_of)) = view.layer(pads) else {
        return None;
    };
    let next = view.sole_consumer(pads).ok()?;
    let Layer::Volume(Volume::Conv3D(conv)) = view.layer(next) else {
        return None;
    };
    let before = conv.kernel.dim().0.checked_sub(1)?;
    let fits =
        before > 0 && conv.padding == Padding::Valid && *pads_of == [(before, 0), (0, 0), (0, 0)];
    fits.then_some(next)
}

fn padding(view: &View<'_>, id: NodeId, pads: [(usize, usize); 3]) -> Result<Step, String> {
    if let Some(conv) = window_behind(view, id) {
        let conv = &view.node(conv).name;
        return Ok(Step::Goes(format!("the empty buffer of `{conv}`")));
    }
    let [(0, 0), (top, bottom), (left, right)] = pads else {
        return Err(format!(
            "adds frames ({}, {}) that no convolution over time behind it needs",
            pads[0].0, pads[0].1
        ));
    };
    Ok(Step::becomes(Layer::ZeroPadding2D(Pads {
        top,
        bottom,
        left,
        right,
    })))
}

fn average(view: &View<'_>, id: NodeId, pool: Pool3D) -> Result<Step, String> {
    let [pt, ph, pw] = pool.pool_size;
    let covers = match view.input_shape(id) {
        Some([_, Some(h), Some(w), _]) => (pt, ph, pw) == (1, *h, *w),
        _ => false,
    };
    if !covers || pool.strides != pool.pool_size {
        return Err(format!(
            "has a window {pt}x{ph}x{pw} that is not one whole frame"
        ));
    }
    let gap = GlobalAveragePooling2D { keepdims: true };
    Ok(Step::becomes(Layer::GlobalAveragePooling2D(gap)))
}

fn reshape(view: &View<'_>, id: NodeId, target: &[isize]) -> Result<Step, String> {
    let time = view
        .input_shape(id)
        .and_then(|shape| shape.first().copied());
    let time = time.flatten().and_then(|n| isize::try_from(n).ok());
    match target.split_first() {
        Some((first, rest)) if !rest.is_empty() => {
            let is_open = *first == -1 && rest.iter().all(|n| *n > 0);
            if Some(*first) != time && !is_open {
                return Err("touches the time axis".to_owned());
            }
            Ok(Step::becomes(Layer::Reshape {
                target_shape: rest.to_vec(),
            }))
        }
        _ => Err("touches the time axis".to_owned()),
    }
}
