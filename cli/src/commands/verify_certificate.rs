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
    let (accepted, proved, reason) = match &outcome {
        Ok(certificate) => (true, certificate.proved, None),
        Err(refused) => (false, false, Some(refused.to_string())),
    };
    match args.format.format {
        Format::Json => {
            crate::outln!(
                "{:#}",
                json!({ "accepted": accepted, "proved": proved, "reason": reason })
            );
        }
        Format::Text => crate::outln!(
            "{}",
            match &reason {
                Some(reason) => format!("REFUSED: {reason}"),
                None if proved => "accepted: no input can overflow a buffer".to_owned(),
                None => "accepted: its ranges are right, and let a buffer overflow".to_owned(),
            }
        ),
    }
    Ok(if accepted { Answer::Yes } else { Answer::No })
}
