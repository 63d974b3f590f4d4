//! What a layer may do around its operation.

use quantizer_core::layers::{EntryStage, IntegerLayer, IntegerOp};

use super::{Checked, ensure};

/// Checks that a layer has only the stages that the executor runs: the scalar definition and the
/// prover apply all that a layer has.
pub(super) fn check_stages(layer: &IntegerLayer) -> Checked {
    let stages = Stages::of(&layer.op);
    let is_aligned = layer.entries.iter().all(EntryStage::is_identity);
    ensure(stages.aligns || is_aligned, || {
        "shifts of inputs that it does not align".to_owned()
    })?;
    let inner = layer.inner.value_bits;
    let fits = layer.entries.iter().all(|entry| entry.value_bits <= inner);
    ensure(!stages.keeps || fits, || {
        "integers that pass unchanged are wider than its result".to_owned()
    })?;
    ensure(stages.has_weights || layer.bias.is_none(), || {
        "a bias without weights".to_owned()
    })?;
    ensure(stages.narrows || layer.output.is_none(), || {
        "an output quantizer of integers that only move".to_owned()
    })
}

/// What a layer does around its operation.
struct Stages {
    /// Shifts its inputs to a common binary point.
    aligns: bool,
    /// Gives integers of its inputs, or some of them, unchanged.
    keeps: bool,
    /// Can add a bias.
    has_weights: bool,
    /// Can have an output quantizer.
    narrows: bool,
}

impl Stages {
    const fn of(op: &IntegerOp) -> Self {
        let (aligns, keeps, has_weights, narrows) = match op {
            IntegerOp::Conv2D(_)
            | IntegerOp::DepthwiseConv2D(_)
            | IntegerOp::SeparableConv2D { .. }
            | IntegerOp::Conv2DTranspose(_)
            | IntegerOp::DepthwiseConv2DTranspose(_)
            | IntegerOp::Dense { .. }
            | IntegerOp::StatefulProjection { .. }
            | IntegerOp::BufferTempConv { .. }
            | IntegerOp::DepthwiseBufferTempConv { .. }
            | IntegerOp::StatefulRecurrent(_) => (true, false, true, true),
            IntegerOp::Add | IntegerOp::GlobalAveragePooling2D { .. } => (true, false, false, true),
            IntegerOp::ReLU { .. } => (false, true, false, true),
            IntegerOp::LookUp { .. } => (false, false, false, true),
            IntegerOp::Flatten => (true, true, false, false),
            IntegerOp::MaxPool2D(_)
            | IntegerOp::Concatenate(_)
            | IntegerOp::Reshape { .. }
            | IntegerOp::Permute { .. }
            | IntegerOp::ExtractToken { .. }
            | IntegerOp::Identity => (false, true, false, false),
        };
        Self {
            aligns,
            keeps,
            has_weights,
            narrows,
        }
    }
}
