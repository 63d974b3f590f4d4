//! `bitproof verify-certificate`.

use std::path::PathBuf;

use anyhow::Result;
use bitproof::verify_certificate;
use clap::Args;
use serde_json::json;

use crate::Answer;
use crate::args::{Format, FormatArgs};

#[derive(Debug, Args)]
pub(crate) struct VerifyCertificateArgs {
    /// The model that the certificate is about
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The certificate that `prove --certificate` wrote
    #[arg(value_name = "CERTIFICATE")]
    certificate: PathBuf,
    #[command(flatten)]
    format: FormatArgs,
}

/// Checks every number of a certificate again.
pub(super) fn run(args: &VerifyCertificateArgs) -> Result<Answer> {
    let outcome = verify_certificate(&args.certificate, &args.model)?;
    let (accepted, proved, buffer_bits, reason) = match &outcome {
        Ok(certificate) => (true, certificate.proved, certificate.buffer_bits, None),
        Err(refused) => (false, false, None, Some(refused.to_string())),
    };
    match args.format.format {
        Format::Json => {
            crate::outln!(
                "{:#}",
                json!({ "accepted": accepted, "proved": proved, "buffer_bits": buffer_bits,
                    "reason": reason })
            );
        }
        Format::Text => crate::outln!(
            "{}",
            match &reason {
                Some(reason) => format!("REFUSED: {reason}"),
                None => accepted_text(proved, buffer_bits),
            }
        ),
    }
    Ok(if accepted { Answer::Yes } else { Answer::No })
}

/// Says what an accepted certificate shows, and of which buffers: those of the model, or others.
fn accepted_text(proved: bool, buffer_bits: Option<u8>) -> String {
    let (whose, one) = match buffer_bits {
        None => (String::new(), "a buffer".to_owned()),
        Some(bits) => (
            format!(" for buffers of {bits} bits, not for the model's own"),
            format!("a buffer of {bits} bits"),
        ),
    };
    if proved {
        format!("accepted{whose}: no input can overflow {one}")
    } else {
        format!("accepted{whose}: its ranges are right, and let {one} overflow")
    }
}
