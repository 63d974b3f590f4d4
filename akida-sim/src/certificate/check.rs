//! The checker: a second, small computation of every range, which shares no code with the prover.
//!
//! Numbers are `i128`, rounding and saturation are written out, and each layer is checked against
//! the ranges that the certificate itself gives for its inputs. A certificate is accepted only if
//! every number in it is the one found here. Read this file first, then `layer`, `sums`, `span`.

mod layer;
mod span;
mod sums;

use std::fmt;

use float_model::Dtype;
use quantizer_core::Stage;

use super::{CERTIFICATE_VERSION, Certificate, CertifiedLayer, Ends};
use crate::model::{InputKind, QuantizedModel, QuantizedNode, QuantizedOp};
use layer::{Found, Input};
use span::{Span, each, full};

/// Why a certificate is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRefused(String);

impl fmt::Display for CertificateRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CertificateRefused {}

type Checked<T> = Result<T, String>;

/// Checks every number of a certificate against `model`, whose file has the digest `sha256`.
///
/// # Errors
///
/// The first number that is not what it must be, with its layer.
pub fn check(
    certificate: &Certificate,
    model: &QuantizedModel,
    sha256: &str,
) -> Result<(), CertificateRefused> {
    checked(certificate, model, sha256).map_err(CertificateRefused)
}

fn checked(certificate: &Certificate, model: &QuantizedModel, sha256: &str) -> Checked<()> {
    ensure(certificate.version == CERTIFICATE_VERSION, || {
        format!("version {} is not known", certificate.version)
    })?;
    ensure(certificate.model_sha256 == sha256, || {
        "it was made for another model file".to_owned()
    })?;
    ensure(certificate.layers.len() == model.nodes.len(), || {
        "it has another number of layers than the model".to_owned()
    })?;
    let mut proved = true;
    for (node, layer) in model.nodes.iter().zip(&certificate.layers) {
        proved &= check_layer(node, layer, model, certificate)
            .map_err(|message| format!("layer `{}`: {message}", node.name))?;
    }
    ensure(certificate.proved == proved, || {
        format!("it says proved: {}, which is not so", certificate.proved)
    })
}

/// Checks one layer; returns whether none of its buffers can overflow.
fn check_layer(
    node: &QuantizedNode,
    claimed: &CertifiedLayer,
    model: &QuantizedModel,
    certificate: &Certificate,
) -> Checked<bool> {
    ensure(claimed.name == node.name, || {
        format!("called `{}` there", claimed.name)
    })?;
    let mut found = Found::default();
    let channels = node.shape.last().copied().flatten().unwrap_or(0);
    let output = match &node.op {
        QuantizedOp::Input(InputKind::Raw { dtype, format }) => {
            let (low, high) = full(format.value_bits.bits());
            let is_unsigned = matches!(dtype, Dtype::UInt8 | Dtype::UInt16);
            Some(vec![(if is_unsigned { 0 } else { low }, high); channels])
        }
        QuantizedOp::InputQuantizer { quantizer, .. } => {
            let bits = quantizer.value_bits.bits();
            let any = vec![full(bits); channels];
            Some(match &quantizer.zero_point {
                None => any,
                Some(zero) => {
                    let moved = each(&any, |v, c| v + i128::from(zero.at(c)));
                    found.clip(Stage::ZeroPoint, bits, moved)
                }
            })
        }
        QuantizedOp::Integer(layer) => {
            let inputs = node.inputs.iter().map(|i| {
                let ends = certificate.layers[*i].output.as_ref();
                Ok((spans(ends.ok_or("takes floats")?)?, &model.nodes[*i].shape))
            });
            let inputs = inputs.collect::<Checked<Vec<_>>>()?;
            let inputs: Vec<Input<'_>> = inputs.iter().map(|(x, s)| (&x[..], &s[..])).collect();
            Some(found.layer(layer, &inputs, &node.shape)?)
        }
        QuantizedOp::Input(InputKind::Float(_))
        | QuantizedOp::Dequantizer(_)
        | QuantizedOp::Float(_) => None,
    };
    compare("its output", claimed.output.as_ref(), output.as_deref())?;
    compare_stages(claimed, &found)
}

/// Compares the intermediates of a layer; returns whether none of its buffers can overflow.
fn compare_stages(claimed: &CertifiedLayer, found: &Found) -> Checked<bool> {
    ensure(claimed.stages.len() == found.0.len(), || {
        "other intermediates".to_owned()
    })?;
    let mut fits = true;
    for (claimed, (stage, bits, values)) in claimed.stages.iter().zip(&found.0) {
        let name = stage.name();
        let same = claimed.stage == name && claimed.value_bits == *bits;
        ensure(same, || {
            format!("another intermediate than {name} of {bits} bits")
        })?;
        compare(name, Some(&claimed.ends), Some(values))?;
        let (low, high) = full(*bits);
        let inside = values.iter().all(|(lo, hi)| low <= *lo && *hi <= high);
        // An OutputQuantizer and an InputQuantizer clip because their format says so.
        let clips = matches!(stage, Stage::OutputRescale | Stage::ZeroPoint);
        fits &= inside || clips;
    }
    Ok(fits)
}

fn spans(ends: &Ends) -> Checked<Vec<Span>> {
    ensure(ends.lo.len() == ends.hi.len(), || {
        "ends of different lengths".to_owned()
    })?;
    let pairs = ends.lo.iter().zip(&ends.hi);
    Ok(pairs.map(|(lo, hi)| ((*lo).into(), (*hi).into())).collect())
}

fn compare(what: &str, claimed: Option<&Ends>, found: Option<&[Span]>) -> Checked<()> {
    let (claimed, found) = match (claimed, found) {
        (None, None) => return Ok(()),
        (Some(claimed), Some(found)) => (spans(claimed)?, found),
        _ => return Err(format!("{what} is there in one place only")),
    };
    ensure(claimed.len() == found.len(), || {
        format!("{what} of {} channels, not {}", claimed.len(), found.len())
    })?;
    for (channel, (claimed, found)) in claimed.iter().zip(found).enumerate() {
        ensure(claimed == found, || {
            format!("{what}, channel {channel}: {claimed:?} is claimed, {found:?} is right")
        })?;
    }
    Ok(())
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Checked<()> {
    if holds { Ok(()) } else { Err(message()) }
}
