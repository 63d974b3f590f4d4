//! Digests of files, for provenance.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Returns the SHA-256 of a file in hex; the file is read as a stream.
///
/// # Errors
///
/// The file cannot be read.
pub fn sha256_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
    }
    Ok(hex(hasher))
}

/// Returns one digest in hex for files in their order: of a single file its SHA-256, of several
/// the SHA-256 of their digests in hex, each with a line feed behind it.
///
/// # Errors
///
/// A file cannot be read; the error names it.
pub fn sha256_files(paths: &[&Path]) -> io::Result<String> {
    let named = |path: &Path| {
        sha256_file(path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
    };
    if let [path] = paths {
        return named(path);
    }
    let mut hasher = Sha256::new();
    for path in paths {
        hasher.update(named(path)?);
        hasher.update("\n");
    }
    Ok(hex(hasher))
}

fn hex(hasher: Sha256) -> String {
    let digest = hasher.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
