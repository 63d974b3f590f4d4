//! Buffers of other widths: the smallest that is proved, and a model with another one.

use quantizer_core::layers::{IntegerLayer, IntegerOp};
use quantizer_core::{Stage, ValueBits};

use super::bounds::{LayerBounds, StageBounds};
use crate::ModelError;
use crate::model::{QuantizedModel, QuantizedOp};

/// Widest buffer of a layer with a single accumulator, the sign included (NUMERICS.md: N15).
const WIDEST_SINGLE: u32 = 28;

/// How the buffer of a layer becomes value bits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Budget {
    /// One bit is the sign, and 28 bits are the most.
    Capped,
    /// One bit is the sign.
    Signed,
    /// All bits hold the value.
    Whole,
}

/// Widest buffer that a q_config takes.
const WIDEST: u32 = 32;

/// Narrowest buffer that a q_config takes.
const NARROWEST: u32 = 12;

/// The smallest widths for which every intermediate of a layer fits, as a q_config takes them.
///
/// Both go together: the buffer of the output quantizer is not narrower than what that of the layer
/// holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmallestBuffers {
    /// `buffer_bitwidth` of the layer; `None` if it has no buffer of its own.
    pub layer: Option<BufferWidth>,
    /// `buffer_bitwidth` of its output quantizer; `None` if that multiplies nothing.
    pub output_quantizer: Option<BufferWidth>,
}

/// The width that a buffer needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferWidth {
    /// Bits, the sign included where the buffer has one.
    pub bits: u32,
    /// The most that such a buffer can have.
    pub most: u32,
}

impl BufferWidth {
    /// Returns whether a buffer can be that wide.
    #[must_use]
    pub const fn is_possible(self) -> bool {
        self.bits <= self.most
    }
}

/// Returns the smallest buffers of a layer for which its ranges are proved, its inputs given; those
/// that its inputs and its outputs ask for, if that is more.
#[must_use]
pub fn smallest_buffers(
    model: &QuantizedModel,
    node: usize,
    bounds: &[LayerBounds],
) -> SmallestBuffers {
    let none = SmallestBuffers {
        layer: None,
        output_quantizer: None,
    };
    let Some((of_node, bounds)) = model.nodes.get(node).zip(bounds.get(node)) else {
        return none;
    };
    let QuantizedOp::Integer(layer) = &of_node.op else {
        return none;
    };
    let needed = |is_wanted: &dyn Fn(&StageBounds) -> bool| {
        let stages = bounds.stages.iter().filter(|stage| is_wanted(stage));
        let channels = stages.flat_map(|stage| &stage.channels);
        channels.map(|range| range.value_bits()).max()
    };
    let own =
        needed(&|stage| !stage.stage.clips_by_design() && stage.stage != Stage::ScaleMultiply);
    let taken = of_node.inputs.iter();
    let taken = taken.filter_map(|input| model.nodes[*input].format());
    let taken = taken.map(|format| u32::from(format.value_bits.bits()));
    // An output quantizer must have something to cut off.
    let narrowed = layer.output.as_ref();
    let narrowed = narrowed.map(|output| u32::from(output.value_bits.bits()) + 1);
    let least = own.into_iter().chain(narrowed).chain(taken).max();
    let own = budget(&layer.op).map(|budget| {
        let sign = u32::from(budget != Budget::Whole);
        let most = if budget == Budget::Capped {
            WIDEST_SINGLE
        } else {
            WIDEST
        };
        let bits = (least.unwrap_or(0) + sign).max(NARROWEST);
        (BufferWidth { bits, most }, bits - sign)
    });
    let held = own.map_or_else(
        || u32::from(layer.inner.value_bits.bits()),
        |(_, held)| held,
    );
    let scaled = needed(&|stage| stage.stage == Stage::ScaleMultiply);
    SmallestBuffers {
        layer: own.map(|(width, _)| width),
        output_quantizer: scaled.map(|scaled| BufferWidth {
            bits: scaled.max(held).max(NARROWEST),
            most: WIDEST,
        }),
    }
}

/// Returns `model` as if every buffer of the hardware had `bits` bits.
///
/// Layers with a single accumulator keep to 28 bits at most. Weights, scales and shifts stay.
///
/// # Errors
///
/// A width that a layer cannot have, such as one below that of its inputs; the layer is named.
pub fn with_buffer_bits(model: &QuantizedModel, bits: u8) -> Result<QuantizedModel, ModelError> {
    let mut model = model.clone();
    for index in 0..model.nodes.len() {
        let producers = model.nodes[index].inputs.clone();
        let widths: Vec<Option<ValueBits>> = producers
            .iter()
            .map(|i| model.nodes[*i].format().map(|format| format.value_bits))
            .collect();
        let node = &mut model.nodes[index];
        let name = node.name.clone();
        let QuantizedOp::Integer(layer) = &mut node.op else {
            continue;
        };
        let refused = |message: String| ModelError::invalid(&name, message);
        let width = width(&layer.op, bits).map_err(|e| refused(e.to_string()))?;
        let own = match width {
            Some(width) => width,
            // Without a buffer a layer keeps the width of what it takes.
            None => widths
                .iter()
                .flatten()
                .copied()
                .max()
                .unwrap_or(layer.inner.value_bits),
        };
        if widths.iter().flatten().any(|input| *input > own) {
            let message = format!("a buffer of {bits} bits is narrower than its inputs");
            return Err(refused(message));
        }
        set_width(layer, own, width.is_some());
        if let Some(stage) = &mut layer.output
            && let Some((_, buffer)) = &mut stage.multiplier
        {
            let wide = ValueBits::new(bits).map_err(|e| refused(e.to_string()))?;
            if wide < own {
                let message = format!("an output quantizer of {bits} bits cannot hold its sums");
                return Err(refused(message));
            }
            *buffer = wide;
        }
    }
    Ok(model)
}

fn set_width(layer: &mut IntegerLayer, width: ValueBits, has_buffer: bool) {
    if matches!(
        layer.op,
        IntegerOp::LookUp { .. } | IntegerOp::StatefulRecurrent(_)
    ) {
        if has_buffer {
            layer
                .entries
                .iter_mut()
                .for_each(|entry| entry.value_bits = width);
        }
        return;
    }
    layer
        .entries
        .iter_mut()
        .for_each(|entry| entry.value_bits = width);
    layer.inner.value_bits = width;
    if layer.output.is_none() {
        layer.format.value_bits = width;
    }
}

/// Returns the value bits of a buffer of `bits` bits, `None` for a layer without one.
fn width(op: &IntegerOp, bits: u8) -> Result<Option<ValueBits>, quantizer_core::NumericsError> {
    let widest = u8::try_from(WIDEST_SINGLE).unwrap_or(u8::MAX);
    let bits = match budget(op) {
        None => return Ok(None),
        Some(Budget::Capped) => bits.min(widest).saturating_sub(1),
        Some(Budget::Signed) => bits.saturating_sub(1),
        Some(Budget::Whole) => bits,
    };
    ValueBits::new(bits).map(Some)
}

const fn budget(op: &IntegerOp) -> Option<Budget> {
    match op {
        IntegerOp::Conv2D(_)
        | IntegerOp::DepthwiseConv2D(_)
        | IntegerOp::Conv2DTranspose(_)
        | IntegerOp::DepthwiseConv2DTranspose(_)
        | IntegerOp::Dense { .. }
        | IntegerOp::StatefulProjection { .. } => Some(Budget::Capped),
        IntegerOp::SeparableConv2D { .. }
        | IntegerOp::BufferTempConv { .. }
        | IntegerOp::DepthwiseBufferTempConv { .. }
        | IntegerOp::StatefulRecurrent(_)
        | IntegerOp::Add => Some(Budget::Signed),
        IntegerOp::ReLU { .. } | IntegerOp::GlobalAveragePooling2D { .. } => Some(Budget::Whole),
        IntegerOp::LookUp { .. }
        | IntegerOp::MaxPool2D(_)
        | IntegerOp::Concatenate(_)
        | IntegerOp::Flatten
        | IntegerOp::Reshape { .. }
        | IntegerOp::Permute { .. }
        | IntegerOp::ExtractToken { .. }
        | IntegerOp::Identity => None,
    }
}
