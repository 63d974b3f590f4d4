//! Certificates: every range of a proof, in a form that another program can check.

mod check;

use serde::{Deserialize, Serialize};

use crate::ModelError;
use crate::model::QuantizedModel;
use crate::prove::{LayerBounds, Range, bound, with_buffer_bits};

pub use check::{CertificateRefused, check};

/// The version that is written, and the only one that is read.
pub const CERTIFICATE_VERSION: u32 = 1;

/// Every range of a proof.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Version of the format.
    pub version: u32,
    /// Name and version of the tool that made it.
    pub tool: String,
    /// SHA-256 of the model's file, in hex.
    pub model_sha256: String,
    /// Width that every buffer was given instead of the model's own.
    pub buffer_bits: Option<u8>,
    /// Whether no input can overflow a buffer.
    pub proved: bool,
    /// Layers in the order of the model's nodes.
    pub layers: Vec<CertifiedLayer>,
}

/// Ranges of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CertifiedLayer {
    /// Name of the layer.
    pub name: String,
    /// Each intermediate that has a width, in order of execution.
    pub stages: Vec<CertifiedStage>,
    /// Outputs; absent for floats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Ends>,
}

/// Ranges of one intermediate.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CertifiedStage {
    /// Name of the intermediate, such as `bias_add`.
    pub stage: String,
    /// The width that the hardware gives it, without the sign.
    pub value_bits: u8,
    /// What it can be before it saturates.
    #[serde(flatten)]
    pub ends: Ends,
}

/// Closed ranges, one a channel.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Ends {
    /// Least values.
    pub lo: Vec<i64>,
    /// Largest values.
    pub hi: Vec<i64>,
}

/// Returns the certificate of a model, or of the model as if every buffer had `buffer_bits` bits.
///
/// # Errors
///
/// What [`bound`] and [`with_buffer_bits`] refuse.
pub fn certify(
    model: &QuantizedModel,
    model_sha256: String,
    buffer_bits: Option<u8>,
) -> Result<Certificate, ModelError> {
    let bounds = match buffer_bits {
        None => bound(model)?,
        Some(bits) => bound(&with_buffer_bits(model, bits)?)?,
    };
    let stages = bounds.iter().flat_map(|layer| &layer.stages);
    let proved = stages
        .filter(|stage| !stage.stage.clips_by_design())
        .all(|stage| stage.fits());
    let layers = model.nodes.iter().zip(&bounds);
    Ok(Certificate {
        version: CERTIFICATE_VERSION,
        tool: format!("bitproof {}", env!("CARGO_PKG_VERSION")),
        model_sha256,
        buffer_bits,
        proved,
        layers: layers
            .map(|(node, bounds)| certified(&node.name, bounds))
            .collect(),
    })
}

fn certified(name: &str, bounds: &LayerBounds) -> CertifiedLayer {
    let stages = bounds.stages.iter().map(|stage| CertifiedStage {
        stage: stage.stage.name().to_owned(),
        value_bits: stage.value_bits.bits(),
        ends: ends(&stage.channels),
    });
    CertifiedLayer {
        name: name.to_owned(),
        stages: stages.collect(),
        output: bounds.output.as_deref().map(ends),
    }
}

fn ends(ranges: &[Range]) -> Ends {
    Ends {
        lo: ranges.iter().map(|range| range.lo).collect(),
        hi: ranges.iter().map(|range| range.hi).collect(),
    }
}
