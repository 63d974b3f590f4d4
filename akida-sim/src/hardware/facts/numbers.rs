//! Bit widths, and the integers that conversion writes.

use quantizer_core::layers::{Border, IntegerLayer, IntegerOp};
use quantizer_core::quantizers::AlignedWeights;
use quantizer_core::round::shift_left;
use quantizer_core::{PerAxis, Stage};
use serde_json::Value as Json;

use super::super::blocks::Block;
use super::super::expr::{Facts, Value};
use super::super::widths::is_quantized;
use super::{count, put, text};
use crate::model::{QuantizedModel, QuantizedNode, QuantizedOp};
use crate::prove::LayerBounds;

/// Adds what is known of the integers in a block.
pub(super) fn put_facts(
    model: &QuantizedModel,
    block: &Block,
    bounds: Option<&[LayerBounds]>,
    facts: &mut Facts,
) {
    put_output_stages(model, block, facts);
    for name in ["has_bias", "has_padv", "has_sums", "has_zp"] {
        facts.insert(name, Value::Bool(false));
    }
    let node = &model.nodes[block.main];
    match &node.op {
        QuantizedOp::InputQuantizer { quantizer, .. } => {
            let zero = quantizer.zero_point.as_ref();
            facts.insert("has_zp", Value::Bool(zero.is_some()));
            put_span(facts, ["zp_min", "zp_max"], zero);
        }
        QuantizedOp::Integer(layer) => {
            put_weights(node, layer, facts);
            put_layer(layer, facts);
            if let Some(bounds) = bounds {
                put_sums(&bounds[block.main], facts);
            }
        }
        QuantizedOp::Input(_) | QuantizedOp::Dequantizer(_) | QuantizedOp::Float(_) => {}
    }
    put_recurrent(model, block, facts);
}

fn put_span(facts: &mut Facts, names: [&'static str; 2], values: Option<&PerAxis<i64>>) {
    let values = values.map(PerAxis::as_slice).unwrap_or_default();
    put(
        facts,
        names[0],
        values.iter().min().copied().map(Value::Int),
    );
    put(
        facts,
        names[1],
        values.iter().max().copied().map(Value::Int),
    );
}

/// Returns the bits of a quantizer of the layer's configuration.
fn bits_of(node: &QuantizedNode, quantizer: &str) -> Option<i64> {
    let quantizer = node.config.as_ref()?.get(quantizer)?;
    quantizer.get("bitwidth").and_then(Json::as_i64)
}

fn put_weights(node: &QuantizedNode, layer: &IntegerLayer, facts: &mut Facts) {
    let bits = bits_of(node, "weight_quantizer");
    put(facts, "wb", bits.map(Value::Int));
    for (name, quantizer) in [
        ("wb_dw", "dw_weight_quantizer"),
        ("wb_pw", "pw_weight_quantizer"),
    ] {
        put(facts, name, bits_of(node, quantizer).map(Value::Int));
    }
    if let Some(bits) = bits.filter(|bits| (1..=32).contains(bits)) {
        let most = (1_i64 << (bits - 1)) - 1;
        facts.insert("w_least", Value::Int(-most - 1));
        facts.insert("w_most", Value::Int(most));
    }
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the operations with one kernel are named"
    )]
    let weights: Vec<i32> = match &layer.op {
        IntegerOp::Conv2D(op) => op.kernel.iter().copied().collect(),
        IntegerOp::DepthwiseConv2D(op) => op.kernel.iter().copied().collect(),
        IntegerOp::Conv2DTranspose(op) => op.kernel.iter().copied().collect(),
        IntegerOp::DepthwiseConv2DTranspose(op) => op.kernel.iter().copied().collect(),
        IntegerOp::Dense { kernel }
        | IntegerOp::BufferTempConv { kernel, .. }
        | IntegerOp::DepthwiseBufferTempConv { kernel } => kernel.iter().copied().collect(),
        _ => return,
    };
    put(
        facts,
        "w_min",
        weights.iter().min().map(|w| Value::Int((*w).into())),
    );
    put(
        facts,
        "w_max",
        weights.iter().max().map(|w| Value::Int((*w).into())),
    );
}

fn put_layer(layer: &IntegerLayer, facts: &mut Facts) {
    facts.insert("has_bias", Value::Bool(layer.bias.is_some()));
    if let Some(bias) = &layer.bias {
        let unfit = unfit_bias(bias);
        facts.insert("bias_fits", Value::Bool(unfit.is_none()));
        let found = unfit.map_or_else(|| "in range".to_owned(), |v| v.to_string());
        facts.insert("bias_found", text(found));
    }
    let shifts = layer
        .entries
        .iter()
        .flat_map(|entry| entry.shift.as_slice());
    let largest = shifts.max().copied().unwrap_or(0);
    let name = if matches!(layer.op, IntegerOp::Add) {
        "addshift_max"
    } else {
        "inshift_max"
    };
    facts.insert(name, Value::Int(largest.into()));
    let border = if let IntegerOp::Conv2D(op) = &layer.op
        && let Border::Value(values) = &op.border
    {
        Some(values)
    } else {
        None
    };
    facts.insert("has_padv", Value::Bool(border.is_some()));
    // The border of the input before its shift, which is what conversion writes.
    let shift = layer.entries.first().map(|entry| &entry.shift);
    let border = border.map(|values| match shift {
        None => values.clone(),
        Some(shift) => values.zip(shift, unshifted),
    });
    put_span(facts, ["padv_min", "padv_max"], border.as_ref());
}

/// Returns the integer that `shift` makes `v` of; `v` itself if there is none.
fn unshifted(v: i64, shift: u32) -> i64 {
    if v == 0 || v.trailing_zeros() >= shift {
        v.checked_shr(shift).unwrap_or(0)
    } else {
        v
    }
}

/// Returns the first bias that is no `b << shift` with `b` of 8 bits and a sign.
fn unfit_bias(bias: &AlignedWeights) -> Option<i64> {
    let all = bias.values.zip(&bias.shift, |v, shift| (v, shift));
    let unfit = all
        .as_slice()
        .iter()
        .find(|(v, shift)| !is_shifted(*v, *shift, -128..=127));
    unfit.map(|(v, shift)| shift_left(*v, *shift))
}

/// Returns whether `v << shift` is a number of `range`, shifted left by at most 255.
fn is_shifted(v: i64, shift: u32, range: std::ops::RangeInclusive<i64>) -> bool {
    let (mut v, mut shift) = (v, shift);
    while !range.contains(&v) && v & 1 == 0 {
        v >>= 1;
        shift += 1;
    }
    range.contains(&v) && shift <= 255
}

/// Facts of the output quantizers and clips in a block.
fn put_output_stages(model: &QuantizedModel, block: &Block, facts: &mut Facts) {
    let (mut scales, mut shifts, mut least) = (Vec::new(), Vec::new(), i64::MIN);
    for &i in &block.layers {
        let QuantizedOp::Integer(layer) = &model.nodes[i].op else {
            continue;
        };
        if let IntegerOp::ReLU { max: Some(max) } = &layer.op {
            let unfit = max.as_slice().iter().find(|m| !is_shifted(**m, 0, 0..=255));
            facts.insert("max_fits", Value::Bool(unfit.is_none()));
            let found = unfit.map_or_else(|| "in range".to_owned(), i64::to_string);
            facts.insert("max_found", text(found));
        }
        let Some(stage) = &layer.output else { continue };
        // The reference keeps scaled sums in as many value bits as their buffer has bits.
        let mut own = -i64::from(layer.inner.value_bits.bits());
        if let Some((q, width)) = &stage.multiplier {
            scales.extend_from_slice(q.as_slice());
            own = 1 - i64::from(width.bits());
        }
        shifts.extend(stage.shift.as_slice().iter().map(|s| i64::from(*s)));
        least = least.max(own);
    }
    facts.insert("has_scale", Value::Bool(!scales.is_empty()));
    put_span(
        facts,
        ["scale_min", "scale_max"],
        Some(&PerAxis::Axis(scales)),
    );
    facts.insert("has_shift", Value::Bool(!shifts.is_empty()));
    facts.insert("shift_least", Value::Int(least));
    put_span(
        facts,
        ["shift_min", "shift_max"],
        Some(&PerAxis::Axis(shifts)),
    );
}

/// Facts of the sums of the main layer, for all inputs of the model.
fn put_sums(bounds: &LayerBounds, facts: &mut Facts) {
    let sums = [
        Stage::DepthwiseAccumulator,
        Stage::Accumulator,
        Stage::BiasAdd,
        Stage::Sum,
        Stage::StateSum,
    ];
    let stages = bounds
        .stages
        .iter()
        .filter(|stage| sums.contains(&stage.stage));
    let bits = stages
        .flat_map(|stage| &stage.channels)
        .map(|range| range.value_bits() + 1)
        .max();
    facts.insert("has_sums", Value::Bool(bits.is_some()));
    put(facts, "sum_bits", bits.map(|bits| Value::Int(bits.into())));
}

/// Facts of the projections around a recurrence.
fn put_recurrent(model: &QuantizedModel, block: &Block, facts: &mut Facts) {
    let projections = block.layers.iter().filter_map(|i| {
        let node = &model.nodes[*i];
        let QuantizedOp::Integer(layer) = &node.op else {
            return None;
        };
        let IntegerOp::StatefulProjection { subsample, .. } = &layer.op else {
            return None;
        };
        Some((node, layer, *subsample))
    });
    let projections: Vec<_> = projections.collect();
    let Some((node, layer, subsample)) = projections.first() else {
        return;
    };
    facts.insert("ssm_bias", Value::Bool(layer.bias.is_some()));
    facts.insert("ssm_quantized", Value::Bool(is_quantized(node)));
    facts.insert("ssm_subsample", count(*subsample));
    let widths = projections
        .iter()
        .map(|(_, layer, _)| layer.inner.value_bits);
    let same = widths.clone().min() == widths.max();
    facts.insert("ssm_same_buffers", Value::Bool(same));
}
