//! How many bits the integers have that layers hand on.

use float_model::Dtype;
use quantizer_core::layers::IntegerOp;
use serde_json::Value as Json;

use crate::model::{InputKind, QuantizedModel, QuantizedNode, QuantizedOp};

/// The integers that a layer hands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Width {
    /// Bits, the sign among them.
    pub(super) bits: u32,
    pub(super) is_signed: bool,
}

/// Returns the bits of an output quantizer, if the layer has one whose bits are known.
pub(super) fn output_quantizer(node: &QuantizedNode) -> Option<&serde_json::Map<String, Json>> {
    node.config.as_ref()?.get("output_quantizer")?.as_object()
}

/// Returns whether a layer narrows its outputs.
pub(super) fn is_quantized(node: &QuantizedNode) -> bool {
    let by_stage = matches!(&node.op, QuantizedOp::Integer(layer) if layer.output.is_some());
    by_stage || output_quantizer(node).is_some()
}

/// Returns the integers that each layer hands on, `None` where they are not known.
pub(super) fn widths(model: &QuantizedModel) -> Vec<Option<Width>> {
    let mut widths: Vec<Option<Width>> = Vec::with_capacity(model.nodes.len());
    for node in &model.nodes {
        let inputs: Vec<Option<Width>> = node.inputs.iter().map(|i| widths[*i]).collect();
        widths.push(width(node, &inputs));
    }
    widths
}

fn width(node: &QuantizedNode, inputs: &[Option<Width>]) -> Option<Width> {
    match &node.op {
        QuantizedOp::Input(InputKind::Raw { dtype, .. }) => of_dtype(*dtype),
        QuantizedOp::InputQuantizer { spec, .. } => Some(Width {
            bits: spec.bitwidth.into(),
            is_signed: spec.signed,
        }),
        QuantizedOp::Integer(_) if is_quantized(node) => {
            let quantizer = output_quantizer(node)?;
            let bits = quantizer.get("bitwidth")?.as_u64()?;
            let signed = quantizer.get("signed");
            Some(Width {
                bits: u32::try_from(bits).ok()?,
                is_signed: signed.is_none_or(|s| *s != Json::Bool(false)),
            })
        }
        QuantizedOp::Integer(layer) if passes_on(&layer.op) => {
            let nothing = Width {
                bits: 0,
                is_signed: false,
            };
            inputs.iter().try_fold(nothing, |all, one| {
                one.map(|one| Width {
                    bits: all.bits.max(one.bits),
                    is_signed: all.is_signed || one.is_signed,
                })
            })
        }
        QuantizedOp::Integer(layer) => Some(Width {
            bits: u32::from(layer.inner.value_bits.bits()) + 1,
            is_signed: true,
        }),
        QuantizedOp::Input(InputKind::Float(_))
        | QuantizedOp::Dequantizer(_)
        | QuantizedOp::Float(_) => None,
    }
}

fn of_dtype(dtype: Dtype) -> Option<Width> {
    let (bits, is_signed) = match dtype {
        Dtype::Float32 => return None,
        Dtype::UInt8 => (8, false),
        Dtype::Int8 => (8, true),
        Dtype::UInt16 => (16, false),
        Dtype::Int16 => (16, true),
        Dtype::Int32 => (32, true),
    };
    Some(Width { bits, is_signed })
}

/// Returns whether an operation hands on the integers that it takes.
const fn passes_on(op: &IntegerOp) -> bool {
    matches!(
        op,
        IntegerOp::MaxPool2D(_)
            | IntegerOp::Concatenate(_)
            | IntegerOp::Flatten
            | IntegerOp::Reshape { .. }
            | IntegerOp::Permute { .. }
            | IntegerOp::ExtractToken { .. }
            | IntegerOp::Identity
    )
}
