//! Arrays written as `.npy` and `.npz` files, whole or not at all.

use std::io::Write;
use std::path::{Path, PathBuf};

use ndarray::ArrayD;
use tempfile::NamedTempFile;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use crate::FileError;
use crate::atomic::{self, AtomicFile};
use crate::npy::write_header;
use crate::spool::Spool;

/// Longer members need the 64-bit fields of zip.
const LARGEST_PLAIN_MEMBER: usize = 1 << 31;

/// Writes an array of floats as `.npy`, whole or not at all.
///
/// # Errors
///
/// The file cannot be written.
pub fn write_npy_f32(path: &Path, array: &ArrayD<f32>) -> Result<(), FileError> {
    let bytes = encoded("<f4", array.shape(), array.iter().map(|v| v.to_le_bytes()))
        .map_err(|e| FileError::io(path, &e))?;
    atomic::write(path, &bytes)
}

/// Writes array `index` of a spool as `.npy`, whole or not at all.
///
/// # Errors
///
/// The file cannot be written, or the spool not read.
pub fn write_npy_spooled(path: &Path, spool: &mut Spool, index: usize) -> Result<(), FileError> {
    let mut file = AtomicFile::create(path)?;
    spool
        .copy(index, file.writer())
        .map_err(|e| FileError::io(path, &e))?;
    file.finish()
}

/// Writes arrays to a `.npz` file, which appears whole or not at all.
///
/// The same arrays give the same bytes.
pub struct NpzWriter {
    path: PathBuf,
    zip: ZipWriter<std::io::BufWriter<NamedTempFile>>,
}

impl std::fmt::Debug for NpzWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NpzWriter")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl NpzWriter {
    /// Starts a file.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn create(path: &Path) -> Result<Self, FileError> {
        let zip = ZipWriter::new(AtomicFile::create(path)?.into_writer());
        Ok(Self {
            path: path.to_owned(),
            zip,
        })
    }

    /// Adds an array of floats.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn f32(&mut self, name: &str, array: &ArrayD<f32>) -> Result<(), FileError> {
        self.add(
            name,
            encoded("<f4", array.shape(), array.iter().map(|v| v.to_le_bytes())),
        )
    }

    /// Adds an array of integers: as int32 if all fit, else as int64.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn integers(&mut self, name: &str, array: &ArrayD<i64>) -> Result<(), FileError> {
        let narrow = array
            .iter()
            .map(|v| i32::try_from(*v))
            .collect::<Result<Vec<i32>, _>>();
        let bytes = match narrow {
            Ok(narrow) => encoded("<i4", array.shape(), narrow.iter().map(|v| v.to_le_bytes())),
            Err(_) => encoded("<i8", array.shape(), array.iter().map(|v| v.to_le_bytes())),
        };
        self.add(name, bytes)
    }

    /// Gives the file its name.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn finish(self) -> Result<(), FileError> {
        let Self { path, zip } = self;
        let writer = zip
            .finish()
            .map_err(|e| FileError::invalid(&path, e.to_string()))?;
        AtomicFile::from_writer(writer, path).finish()
    }

    /// Adds array `index` of a spool; one without elements is a vector of no float.
    ///
    /// # Errors
    ///
    /// The file cannot be written, or the spool not read.
    pub fn spooled(
        &mut self,
        name: &str,
        spool: &mut Spool,
        index: usize,
    ) -> Result<(), FileError> {
        self.start(name, spool.n_bytes(index))?;
        let io = |e: &std::io::Error| FileError::io(&self.path, e);
        spool.copy(index, &mut self.zip).map_err(|e| io(&e))
    }

    fn add(&mut self, name: &str, bytes: std::io::Result<Vec<u8>>) -> Result<(), FileError> {
        let bytes = bytes.map_err(|e| FileError::io(&self.path, &e))?;
        self.start(name, bytes.len())?;
        self.zip
            .write_all(&bytes)
            .map_err(|e| FileError::io(&self.path, &e))
    }

    /// Starts a member of about `n_bytes`.
    fn start(&mut self, name: &str, n_bytes: usize) -> Result<(), FileError> {
        // One fixed time, so that the same arrays give the same bytes.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(DateTime::default())
            .large_file(n_bytes > LARGEST_PLAIN_MEMBER);
        self.zip
            .start_file(format!("{name}.npy"), options)
            .map_err(|e| FileError::invalid(&self.path, e.to_string()))
    }
}

fn encoded<const N: usize>(
    descr: &str,
    shape: &[usize],
    elements: impl Iterator<Item = [u8; N]>,
) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    write_header(&mut bytes, descr, shape)?;
    elements.for_each(|element| bytes.extend(element));
    Ok(bytes)
}
