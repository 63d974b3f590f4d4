//! What the proof says of each layer.

use bitproof::akida_sim::prove::{LayerProof, Proof, StageProof, Verdict};
use bitproof::akida_sim::{QuantizedModel, QuantizedOp};

/// What is known of a layer, the worst of its intermediates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// No input can overflow a buffer; so many bits are never used, `None` if it has no buffer.
    Proved(Option<u32>),
    /// Its ranges let a buffer overflow, but no input was found.
    Possible,
    /// An input overflows a buffer.
    Refuted,
    /// It is computed in float.
    Float,
    /// Integers enter or leave here.
    Border,
}

impl Standing {
    /// Returns the class of the style sheet.
    pub(crate) const fn class(self) -> &'static str {
        match self {
            Self::Proved(_) => "proved",
            Self::Possible => "possible",
            Self::Refuted => "refuted",
            Self::Float => "float",
            Self::Border => "border",
        }
    }

    /// Returns a sign that says the same as the colour.
    pub(crate) const fn sign(self) -> &'static str {
        match self {
            Self::Proved(_) => "✓",
            Self::Possible => "?",
            Self::Refuted => "✗",
            Self::Float => "~",
            Self::Border => "›",
        }
    }

    /// Returns the verdict in words.
    pub(crate) fn words(self) -> String {
        match self {
            Self::Proved(Some(1)) => "proved, 1 bit spare".to_owned(),
            Self::Proved(Some(spare)) => format!("proved, {spare} bits spare"),
            Self::Proved(None) => "no buffer to overflow".to_owned(),
            Self::Possible => "overflow possible, none found".to_owned(),
            Self::Refuted => "refuted: an input overflows".to_owned(),
            Self::Float => "in float".to_owned(),
            Self::Border => "entry or exit".to_owned(),
        }
    }
}

/// Returns the standing of every node of `model`, each with its proof if it has one.
pub(crate) fn standings<'p>(
    model: &QuantizedModel,
    proof: &'p Proof,
) -> Vec<(Standing, Option<&'p LayerProof>)> {
    let mut all: Vec<(Standing, Option<&LayerProof>)> = model
        .nodes
        .iter()
        .map(|node| match &node.op {
            QuantizedOp::Integer(_) => (Standing::Proved(None), None),
            QuantizedOp::Float(_) => (Standing::Float, None),
            QuantizedOp::Input(_)
            | QuantizedOp::InputQuantizer { .. }
            | QuantizedOp::Dequantizer(_) => (Standing::Border, None),
        })
        .collect();
    for layer in &proof.layers {
        if let Some(place) = all.get_mut(layer.node) {
            let standing = if place.0 == Standing::Border {
                Standing::Border
            } else {
                worst(&layer.stages)
            };
            *place = (standing, Some(layer));
        }
    }
    all
}

fn worst(stages: &[StageProof]) -> Standing {
    let is = |wanted: fn(&Verdict) -> bool| stages.iter().any(|s| wanted(&s.verdict));
    if is(|v| matches!(v, Verdict::Refuted(_))) {
        return Standing::Refuted;
    }
    if is(|v| matches!(v, Verdict::Possible { .. })) {
        return Standing::Possible;
    }
    // What is only held may fill its width: a table has an entry for every index.
    let computed = stages.iter().filter(|stage| !stage.bounds.stage.is_held());
    let spare = computed.filter_map(|stage| match &stage.verdict {
        Verdict::Proved { spare_bits } => Some(*spare_bits),
        Verdict::ByDesign | Verdict::Refuted(_) | Verdict::Possible { .. } => None,
    });
    Standing::Proved(spare.min())
}
