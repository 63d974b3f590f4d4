//! Files that appear whole or not at all.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

use crate::FileError;

/// A file under a temporary name; it is removed unless [`finish`](Self::finish) renames it.
#[derive(Debug)]
pub(crate) struct AtomicFile {
    writer: BufWriter<NamedTempFile>,
    path: PathBuf,
}

impl AtomicFile {
    /// Creates a temporary file in the folder of `path`.
    pub(crate) fn create(path: &Path) -> Result<Self, FileError> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        refuse_special(path)?;
        let file = builder()
            .tempfile_in(folder)
            .map_err(|e| FileError::io(path, &e))?;
        Ok(Self {
            writer: BufWriter::new(file),
            path: path.to_owned(),
        })
    }

    /// Returns the writer alone, for libraries that take it; see [`from_writer`](Self::from_writer).
    pub(crate) fn into_writer(self) -> BufWriter<NamedTempFile> {
        self.writer
    }

    /// Returns the file again whose writer was taken.
    pub(crate) fn from_writer(writer: BufWriter<NamedTempFile>, path: PathBuf) -> Self {
        Self { writer, path }
    }

    /// Returns where to write.
    pub(crate) fn writer(&mut self) -> &mut BufWriter<NamedTempFile> {
        &mut self.writer
    }

    /// Gives the file its name.
    pub(crate) fn finish(self) -> Result<(), FileError> {
        let Self { writer, path } = self;
        let io = |e: &std::io::Error| FileError::io(&path, e);
        let file = writer.into_inner().map_err(|e| io(e.error()))?;
        file.persist(&path).map_err(|e| io(&e.error))?;
        Ok(())
    }
}

/// Refuses folders and devices: the renamed file would take the place of a device.
fn refuse_special(path: &Path) -> Result<(), FileError> {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(FileError::invalid(
            path,
            "exists and is no regular file; it is not replaced",
        )),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Temporary files are private by default; these get the permissions of other new files, from
/// which the system takes away what the user's mask says.
#[cfg(unix)]
fn builder() -> Builder<'static, 'static> {
    use std::os::unix::fs::PermissionsExt;
    let mut builder = Builder::new();
    builder.permissions(std::fs::Permissions::from_mode(0o666));
    builder
}

#[cfg(not(unix))]
fn builder() -> Builder<'static, 'static> {
    Builder::new()
}

/// Writes `bytes` to `path`, whole or not at all.
///
/// # Errors
///
/// The file cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut file = AtomicFile::create(path)?;
    file.writer()
        .write_all(bytes)
        .map_err(|e| FileError::io(path, &e))?;
    file.finish()
}
