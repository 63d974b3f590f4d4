//! The order in which channels are stored between layers.
//!
//! A convolution whose input channels have several binary points multiplies the channels of one shift together
//! (`kernels::Packed::shifted`; NUMERICS.md E1). That is cheapest where they are neighbours. Between layers nobody sees the order of the
//! channels, so the layers before such a convolution write them sorted: the filters of a convolution are written in
//! another order, and the depthwise convolutions on the way keep it.

use ndarray::Axis;
use quantizer_core::layers::{Border, ConvOp, IntegerLayer, IntegerOp};
use quantizer_core::quantizers::{AlignedWeights, OutputStage};
use quantizer_core::{PerAxis, QFormat};

/// Position `i` holds channel `order[i]`.
pub(super) type Order = Vec<usize>;

/// Returns the order that puts channels of one shift side by side, `None` if that is how they are.
pub(super) fn by_shift(layer: &IntegerLayer) -> Option<Order> {
    let is_product = matches!(layer.op, IntegerOp::Conv2D(_) | IntegerOp::Dense { .. });
    let shifts = layer
        .entries
        .first()
        .filter(|_| is_product)?
        .shift
        .as_slice();
    let mut order: Order = (0..shifts.len()).collect();
    order.sort_by_key(|channel| std::cmp::Reverse(shifts[*channel]));
    (!order.is_sorted()).then_some(order)
}

/// What a layer does to the order of its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// It may write any order.
    Ends,
    /// It writes the order that it reads.
    Keeps,
    /// Its order is fixed.
    Fixed,
}

/// Returns what a layer does to the order of its channels.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the layers that take other orders are named"
)]
pub(super) const fn passage(layer: &IntegerLayer) -> Passage {
    match layer.op {
        IntegerOp::Conv2D(_) => Passage::Ends,
        IntegerOp::DepthwiseConv2D(_) => Passage::Keeps,
        _ => Passage::Fixed,
    }
}

/// Returns the layer that reads and writes its channels in other orders; `None` if it cannot.
pub(super) fn reordered(
    layer: &IntegerLayer,
    inputs: Option<&Order>,
    outputs: Option<&Order>,
) -> Option<IntegerLayer> {
    let mut new = layer.clone();
    if let Some(order) = inputs {
        for entry in &mut new.entries {
            entry.shift = picked(&entry.shift, order);
        }
    }
    if let Some(order) = outputs {
        new.bias = layer.bias.as_ref().map(|bias| AlignedWeights {
            values: picked(&bias.values, order),
            shift: picked(&bias.shift, order),
        });
        new.inner = format(&layer.inner, order);
        new.format = format(&layer.format, order);
        new.output = layer.output.as_ref().map(|stage| OutputStage {
            multiplier: stage
                .multiplier
                .as_ref()
                .map(|(q, bits)| (picked(q, order), *bits)),
            shift: picked(&stage.shift, order),
            value_bits: stage.value_bits,
        });
    }
    new.op = operation(&layer.op, inputs, outputs)?;
    Some(new)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the layers that take other orders are named"
)]
fn operation(op: &IntegerOp, inputs: Option<&Order>, outputs: Option<&Order>) -> Option<IntegerOp> {
    Some(match op {
        IntegerOp::Conv2D(op) => {
            let mut kernel = op.kernel.clone();
            if let Some(order) = inputs {
                kernel = kernel.select(Axis(2), order);
            }
            if let Some(order) = outputs {
                kernel = kernel.select(Axis(3), order);
            }
            let border = match (&op.border, inputs) {
                (Border::Value(values), Some(order)) => Border::Value(picked(values, order)),
                (border, _) => border.clone(),
            };
            IntegerOp::Conv2D(ConvOp {
                kernel,
                strides: op.strides,
                dilation: op.dilation,
                border,
            })
        }
        IntegerOp::DepthwiseConv2D(op) if inputs == outputs => {
            let mut op = op.clone();
            if let Some(order) = outputs {
                op.kernel = op.kernel.select(Axis(2), order);
            }
            IntegerOp::DepthwiseConv2D(op)
        }
        IntegerOp::Dense { kernel } if outputs.is_none() => IntegerOp::Dense {
            kernel: match inputs {
                Some(order) if order.len() == kernel.nrows() => kernel.select(Axis(0), order),
                Some(_) => return None,
                None => kernel.clone(),
            },
        },
        IntegerOp::ReLU { max } => IntegerOp::ReLU {
            max: match (max, outputs) {
                (Some(max), Some(order)) => Some(picked(max, order)),
                (max, _) => max.clone(),
            },
        },
        _ => return None,
    })
}

fn format(format: &QFormat, order: &Order) -> QFormat {
    QFormat {
        value_bits: format.value_bits,
        frac_bits: picked(&format.frac_bits, order),
        scales: format.scales.as_ref().map(|scales| picked(scales, order)),
    }
}

/// Returns the values of the channels in another order; one value serves all channels in any.
fn picked<T: Copy>(values: &PerAxis<T>, order: &Order) -> PerAxis<T> {
    match values {
        PerAxis::Axis(values) if values.len() == order.len() => {
            PerAxis::Axis(order.iter().map(|channel| values[*channel]).collect())
        }
        PerAxis::Axis(_) | PerAxis::Tensor(_) => values.clone(),
    }
}
