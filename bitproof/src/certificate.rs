//! Certificates as files.

use std::path::Path;

use akida_sim::QuantizedModel;
use akida_sim::certificate::{Certificate, CertificateRefused, certify, check};

use crate::{Error, load_quantized, sha256_file};

/// A certificate is not larger than this: about 200 bytes for each channel of 2^20.
const LARGEST_CERTIFICATE: u64 = 1 << 28;

/// Writes the certificate of `model`, read from `model_path`, to `path`; with `buffer_bits` that of
/// hardware whose buffers all have so many bits.
///
/// # Errors
///
/// A file that cannot be read or written, or a model whose ranges cannot be computed.
pub fn write_certificate(
    path: &Path,
    model_path: &Path,
    model: &QuantizedModel,
    buffer_bits: Option<u8>,
) -> Result<(), Error> {
    let digest = digest(model_path)?;
    let certificate = certify(model, digest, buffer_bits)?;
    let mut text = serde_json::to_string_pretty(&certificate)
        .map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))?;
    text.push('\n');
    Ok(model_files::write_file(path, text.as_bytes())?)
}

/// Checks every number of the certificate at `path` against the model at `model_path`.
///
/// Returns the certificate, or why it is not accepted.
///
/// # Errors
///
/// A file that cannot be read, or is no certificate.
pub fn verify_certificate(
    path: &Path,
    model_path: &Path,
) -> Result<Result<Certificate, CertificateRefused>, Error> {
    let invalid = |message: String| Error::Invalid(format!("{}: {message}", path.display()));
    let size = std::fs::metadata(path)
        .map_err(|e| invalid(e.to_string()))?
        .len();
    if size > LARGEST_CERTIFICATE {
        return Err(invalid(format!("{size} bytes are no certificate")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| invalid(e.to_string()))?;
    let certificate: Certificate =
        serde_json::from_str(&text).map_err(|e| invalid(format!("no certificate: {e}")))?;
    let model = load_quantized(model_path)?;
    let checked = check(&certificate, &model, &digest(model_path)?);
    Ok(checked.map(|()| certificate))
}

fn digest(path: &Path) -> Result<String, Error> {
    sha256_file(path).map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))
}
