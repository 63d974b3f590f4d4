//! The widths of a layer's buffers: the model's own, or those of hardware with other buffers.

use quantizer_core::layers::{IntegerLayer, IntegerOp};

use super::{Checked, ensure};

/// A buffer of a single accumulator has no more bits (NUMERICS.md: N15).
const SINGLE_ACCUMULATOR: u8 = 28;

/// No buffer holds more beside the sign: a model with wider ones is refused when it is read.
const WIDEST: u8 = 48;

/// Widths of one layer, without the sign.
pub(super) struct Widths {
    /// Of the inputs after their shift.
    pub(super) entries: Vec<u8>,
    /// At which sums saturate.
    pub(super) inner: u8,
    /// Of the product with the scale of the output, if there is one.
    pub(super) product: Option<u8>,
    /// Of what leaves the layer.
    pub(super) outgoing: u8,
}

impl Widths {
    /// Returns the widths that the model itself has.
    fn of(layer: &IntegerLayer) -> Self {
        let output = layer.output.as_ref();
        let product = output.and_then(|output| output.multiplier.as_ref());
        let entries = layer.entries.iter();
        Self {
            entries: entries.map(|entry| entry.value_bits.bits()).collect(),
            inner: layer.inner.value_bits.bits(),
            product: product.map(|(_, buffer)| buffer.bits()),
            outgoing: layer.format.value_bits.bits(),
        }
    }

    /// Returns the widths of a layer that takes inputs of `taken` bits, on hardware whose buffers
    /// have `buffer_bits` bits, or those of the model.
    ///
    /// # Errors
    ///
    /// Buffers that the layer cannot have.
    pub(super) fn new(
        layer: &IntegerLayer,
        taken: &[Option<u8>],
        buffer_bits: Option<u8>,
    ) -> Checked<Self> {
        let mut widths = Self::of(layer);
        let Some(bits) = buffer_bits else {
            return Ok(widths);
        };
        let widest_input = taken.iter().copied().flatten().max();
        let own = room(&layer.op, bits)
            .or(widest_input)
            .unwrap_or(widths.inner);
        ensure((1..=WIDEST).contains(&own), || {
            format!("no buffer has {bits} bits")
        })?;
        ensure(widest_input.is_none_or(|input| input <= own), || {
            format!("a buffer of {bits} bits does not hold its inputs")
        })?;
        if widths.product.is_some() {
            let holds = (own..=WIDEST).contains(&bits);
            ensure(holds, || {
                format!("a buffer of {bits} bits does not hold its products")
            })?;
            widths.product = Some(bits);
        }
        if matches!(layer.op, IntegerOp::LookUp { .. }) {
            return Ok(widths);
        }
        widths.entries.fill(own);
        // States have a format of their own.
        if !matches!(layer.op, IntegerOp::StatefulRecurrent(_)) {
            widths.inner = own;
            if layer.output.is_none() {
                widths.outgoing = own;
            }
        }
        Ok(widths)
    }
}

/// Returns what a buffer of `bits` bits holds beside the sign; `None` for a layer without a buffer.
fn room(op: &IntegerOp, bits: u8) -> Option<u8> {
    let signed = bits.saturating_sub(1);
    match op {
        IntegerOp::Conv2D(_)
        | IntegerOp::DepthwiseConv2D(_)
        | IntegerOp::Conv2DTranspose(_)
        | IntegerOp::DepthwiseConv2DTranspose(_)
        | IntegerOp::Dense { .. }
        | IntegerOp::StatefulProjection { .. } => Some(signed.min(SINGLE_ACCUMULATOR - 1)),
        IntegerOp::Add
        | IntegerOp::SeparableConv2D { .. }
        | IntegerOp::StatefulRecurrent(_)
        | IntegerOp::BufferTempConv { .. }
        | IntegerOp::DepthwiseBufferTempConv { .. } => Some(signed),
        // What they give is never negative, or counted without a sign of its own.
        IntegerOp::GlobalAveragePooling2D { .. } | IntegerOp::ReLU { .. } => Some(bits),
        IntegerOp::Identity
        | IntegerOp::LookUp { .. }
        | IntegerOp::MaxPool2D(_)
        | IntegerOp::Flatten
        | IntegerOp::Reshape { .. }
        | IntegerOp::Permute { .. }
        | IntegerOp::ExtractToken { .. }
        | IntegerOp::Concatenate(_) => None,
    }
}
