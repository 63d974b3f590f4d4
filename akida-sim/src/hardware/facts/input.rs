//! The integers that a block takes.

use super::super::blocks::{Block, symbol};
use super::super::expr::{Facts, Value};
use super::super::widths::Width;
use super::{Survey, text, type_name};
use crate::model::{InputKind, QuantizedOp};

/// What is known of the integers that a block takes.
pub(super) struct Input {
    pub(super) width: Option<Width>,
    /// Whether a first convolution takes raw bytes.
    is_pixels: bool,
    /// Whether a first convolution takes bytes of 1 or 3 channels.
    pub(super) is_image: bool,
    /// Whether a first block of 1 or 3 channels has a sequence of the image input layer.
    pub(super) fits_image_layer: bool,
}

impl Input {
    /// Returns what is known of the integers that a block takes.
    pub(super) fn of(survey: &Survey<'_>, block: &Block) -> Self {
        let model = survey.model;
        let operand = block.operands.first().copied();
        let width = operand.and_then(|i| survey.widths[i]);
        let entry = operand.map(|i| &model.nodes[i].op);
        let is_raw = matches!(entry, Some(QuantizedOp::Input(InputKind::Raw { .. })));
        let is_conv = symbol(&model.nodes[block.main]) == "Conv" && block.is_first;
        let channels = model.nodes[block.main].inputs.first();
        let channels = channels.and_then(|i| model.nodes[*i].shape.last().copied().flatten());
        let few = matches!(channels, Some(1 | 3));
        let bytes = Width {
            bits: 8,
            is_signed: false,
        };
        let sequence = block.sequence(model);
        let found = survey.rules.blocks_of(survey.generation, &sequence);
        Self {
            width,
            is_pixels: is_conv && is_raw && width == Some(bytes),
            is_image: is_conv && few && width == Some(bytes),
            fits_image_layer: is_conv && few && found.contains_key("input_conv"),
        }
    }

    pub(super) fn put(&self, facts: &mut Facts) {
        if let Some(width) = self.width {
            facts.insert("ib", Value::Int(width.bits.into()));
            facts.insert("i_signed", Value::Bool(width.is_signed));
            facts.insert("i_type", text(type_name(width)));
        }
        facts.insert("pixels", Value::Bool(self.is_pixels));
        facts.insert("image_input", Value::Bool(self.is_image));
        facts.insert("image_shaped", Value::Bool(self.fits_image_layer));
    }
}
