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
/// the SHA-256 of their digests in hex, each with a line feed behind it. One of several that cannot
/// be read, a bad sample that was left out, has the text `unreadable` instead.
///
/// # Errors
///
/// The only file cannot be read; the error names it.
pub fn sha256_files(paths: &[&Path]) -> io::Result<String> {
    if let [path] = paths {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        return sha256_file(path).map_err(named);
    }
    let mut hasher = Sha256::new();
    for path in paths {
        hasher.update(sha256_file(path).as_deref().unwrap_or("unreadable"));
        hasher.update("\n");
    }
    Ok(hex(hasher))
}

fn hex(hasher: Sha256) -> String {
    let digest = hasher.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
