//! Kernels, strides, borders and extents.

use quantizer_core::geometry::{Padding, same_pads};
use quantizer_core::layers::{Border, IntegerLayer, IntegerOp, PoolOp};

use super::super::blocks::Block;
use super::super::expr::{Facts, Value};
use super::{count, n_elements, put, shape_name, text};
use crate::model::{QuantizedModel, QuantizedNode, QuantizedOp};

/// A kernel that moves over an image.
struct Window {
    kernel: [usize; 2],
    strides: [usize; 2],
    dilation: [usize; 2],
    border: Side,
    channels: usize,
    groups: usize,
    filters: usize,
}

/// What a border looks like to hardware.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Same,
    Valid,
}

/// Adds what is known of the main layer's window and of the pooling.
pub(super) fn put_facts(model: &QuantizedModel, block: &Block, facts: &mut Facts) {
    let node = &model.nodes[block.main];
    let input = node.inputs.first().map(|i| &model.nodes[*i]);
    if let QuantizedOp::Integer(layer) = &node.op {
        if let Some(window) = window(layer) {
            put_window(&window, node, input, facts);
        }
        put_other(layer, input, model, block, facts);
    }
    put_pool(model, block, facts);
}

fn window(layer: &IntegerLayer) -> Option<Window> {
    let side = |padding: Padding| match padding {
        Padding::Same => Side::Same,
        Padding::Valid => Side::Valid,
    };
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the operations with a window are named"
    )]
    let window = match &layer.op {
        IntegerOp::Conv2D(op) => {
            let (h, w, channels, filters) = op.kernel.dim();
            let border = match &op.border {
                Border::Valid => Side::Valid,
                Border::Same | Border::Value(_) => Side::Same,
            };
            let (strides, dilation) = (op.strides, op.dilation);
            Window {
                kernel: [h, w],
                strides,
                dilation,
                border,
                channels,
                groups: 1,
                filters,
            }
        }
        IntegerOp::DepthwiseConv2D(op) => {
            let (h, w, channels) = op.kernel.dim();
            Window {
                kernel: [h, w],
                strides: op.strides,
                dilation: op.dilation,
                border: side(op.padding),
                channels,
                groups: channels,
                filters: channels,
            }
        }
        IntegerOp::SeparableConv2D {
            depthwise,
            pointwise,
        } => {
            let (h, w, channels) = depthwise.kernel.dim();
            Window {
                kernel: [h, w],
                strides: depthwise.strides,
                dilation: depthwise.dilation,
                border: side(depthwise.padding),
                channels,
                groups: 1,
                filters: pointwise.ncols(),
            }
        }
        IntegerOp::Conv2DTranspose(op) => {
            let (h, w, channels, filters) = op.kernel.dim();
            Window {
                kernel: [h, w],
                strides: op.strides,
                dilation: [1, 1],
                border: side(op.padding),
                channels,
                groups: 1,
                filters,
            }
        }
        IntegerOp::DepthwiseConv2DTranspose(op) => {
            let (h, w, channels) = op.kernel.dim();
            Window {
                kernel: [h, w],
                strides: op.strides,
                dilation: [1, 1],
                border: Side::Same,
                channels,
                groups: channels,
                filters: channels,
            }
        }
        _ => return None,
    };
    Some(window)
}

fn put_window(
    window: &Window,
    node: &QuantizedNode,
    input: Option<&QuantizedNode>,
    facts: &mut Facts,
) {
    let names = [("k0", "k1"), ("s0", "s1"), ("dil0", "dil1")];
    for ((a, b), pair) in names
        .into_iter()
        .zip([window.kernel, window.strides, window.dilation])
    {
        facts.insert(a, count(pair[0]));
        facts.insert(b, count(pair[1]));
    }
    facts.insert("cin", count(window.channels));
    facts.insert("groups", count(window.groups));
    facts.insert("f", count(window.filters));
    put_extents(input, facts);
    if let [o0, o1, _] = node.shape.as_slice() {
        put(facts, "o0", o0.map(count));
        put(facts, "o1", o1.map(count));
    }
    let extents = input.and_then(|input| match input.shape.as_slice() {
        [d0, d1, _] => d0.zip(*d1),
        _ => None,
    });
    // A border of nothing is that of both rules.
    let no_pads = extents.map(|(d0, d1)| {
        let pads = |n, axis: usize| {
            same_pads(
                n,
                window.kernel[axis],
                window.strides[axis].max(1),
                window.dilation[axis],
            )
        };
        pads(d0, 0) == (0, 0) && pads(d1, 1) == (0, 0)
    });
    let is_point = window.kernel == [1, 1];
    let is_same = window.border == Side::Same || is_point;
    facts.insert("pad_word", text(if is_same { "same" } else { "valid" }));
    let by_amounts = if is_same { Some(true) } else { no_pads };
    put(
        facts,
        "pad",
        by_amounts.map(|same| text(if same { "same" } else { "valid" })),
    );
}

fn put_extents(input: Option<&QuantizedNode>, facts: &mut Facts) {
    if let Some([d0, d1, _]) = input.map(|input| input.shape.as_slice()) {
        put(facts, "d0", d0.map(count));
        put(facts, "d1", d1.map(count));
    }
}

/// Facts of layers that have no window.
fn put_other(
    layer: &IntegerLayer,
    input: Option<&QuantizedNode>,
    model: &QuantizedModel,
    block: &Block,
    facts: &mut Facts,
) {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the operations with such facts are named"
    )]
    match &layer.op {
        IntegerOp::Dense { .. } => {
            let first = block.operands.first().map(|i| &model.nodes[*i].shape);
            put(facts, "n_in", first.and_then(n_elements).map(count));
            if let Some(input) = input {
                let is_flat = matches!(input.shape.as_slice(), [_] | [Some(1), Some(1), _]);
                facts.insert("flat", Value::Bool(is_flat));
                facts.insert("dense_input", text(shape_name(&input.shape)));
            }
        }
        IntegerOp::BufferTempConv { kernel, n_frames } => {
            facts.insert("fifo", count(*n_frames));
            facts.insert("f", count(kernel.ncols()));
            put(
                facts,
                "cin",
                kernel.nrows().checked_div(*n_frames).map(count),
            );
            put_extents(input, facts);
        }
        IntegerOp::DepthwiseBufferTempConv { kernel } => {
            facts.insert("fifo", count(kernel.nrows()));
            facts.insert("f", count(kernel.ncols()));
            facts.insert("cin", count(kernel.ncols()));
            put_extents(input, facts);
        }
        _ => {}
    }
}

fn put_pool(model: &QuantizedModel, block: &Block, facts: &mut Facts) {
    let mut pool = "none";
    for &i in &block.layers {
        let QuantizedOp::Integer(layer) = &model.nodes[i].op else {
            continue;
        };
        if let IntegerOp::MaxPool2D(op) = &layer.op {
            pool = "max";
            let PoolOp {
                pool_size,
                strides,
                padding,
            } = op;
            facts.insert("ps0", count(pool_size[0]));
            facts.insert("ps1", count(pool_size[1]));
            facts.insert("pst0", count(strides[0]));
            facts.insert("pst1", count(strides[1]));
            let word = if *padding == Padding::Same {
                "same"
            } else {
                "valid"
            };
            facts.insert("pool_pad", text(word));
        } else if matches!(layer.op, IntegerOp::GlobalAveragePooling2D { .. }) {
            pool = "gap";
        }
    }
    facts.insert("pool", text(pool));
}
