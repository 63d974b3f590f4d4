//! Arrays in `.npy` and `.npz` files: read as streams, written whole.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use flate2::read::DeflateDecoder;
use ndarray::{ArrayD, IxDyn};
use tempfile::NamedTempFile;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::FileError;
use crate::atomic::{self, AtomicFile};
use crate::npy::{Header, write_header};

/// An array whose first axis is read step by step.
pub struct ArrayReader {
    path: PathBuf,
    entry: Option<Entry>,
    header: Header,
    body: Box<dyn Read + Send>,
    next: usize,
}

/// A member of a `.npz` archive.
#[derive(Clone, Debug)]
struct Entry {
    start: u64,
    compressed_size: u64,
    method: CompressionMethod,
}

impl std::fmt::Debug for ArrayReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArrayReader")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl ArrayReader {
    /// Opens a `.npy` file, or an array of a `.npz` file.
    ///
    /// `key` names the array of a `.npz`; without it the first of `defaults` that exists is taken,
    /// or the only array.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is no array, or is shorter than its header says.
    pub fn open(path: &Path, key: Option<&str>, defaults: &[&str]) -> Result<Self, FileError> {
        let mut start = [0; 2];
        let mut file = open(path)?;
        let n = file.read(&mut start).map_err(|e| FileError::io(path, &e))?;
        let entry = if n == 2 && start == *b"PK" {
            Some(find_entry(path, key, defaults)?)
        } else {
            None
        };
        let (header, body) = open_body(path, entry.as_ref())?;
        if header.shape.is_empty() {
            return Err(FileError::invalid(
                path,
                "a single number, expected an array",
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            entry,
            header,
            body,
            next: 0,
        })
    }

    /// Returns the extents of the whole array.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.header.shape
    }

    /// Returns whether elements are integers.
    #[must_use]
    pub fn is_integer(&self) -> bool {
        self.header.element.is_integer()
    }

    /// Goes back to the first item.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn rewind(&mut self) -> Result<(), FileError> {
        let (header, body) = open_body(&self.path, self.entry.as_ref())?;
        self.header = header;
        self.body = body;
        self.next = 0;
        Ok(())
    }

    /// Returns the next items along the first axis: at most `n`, none at the end.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or ends too early.
    pub fn next_batch(&mut self, n: usize) -> Result<ArrayD<f32>, FileError> {
        let element = self.header.element;
        let (bytes, shape) = self.next_bytes(n)?;
        let values = bytes
            .chunks_exact(element.size)
            .map(|bytes| element.float(bytes))
            .collect();
        self.array(shape, values)
    }

    fn next_integers(&mut self, n: usize) -> Result<ArrayD<i64>, FileError> {
        let element = self.header.element;
        let (bytes, shape) = self.next_bytes(n)?;
        let values = bytes
            .chunks_exact(element.size)
            .map(|bytes| element.integer(bytes))
            .collect::<Option<Vec<i64>>>()
            .ok_or_else(|| FileError::invalid(&self.path, "expected integers"))?;
        self.array(shape, values)
    }

    fn array<T>(&self, shape: Vec<usize>, values: Vec<T>) -> Result<ArrayD<T>, FileError> {
        ArrayD::from_shape_vec(IxDyn(&shape), values)
            .map_err(|e| FileError::invalid(&self.path, e.to_string()))
    }

    fn next_bytes(&mut self, n: usize) -> Result<(Vec<u8>, Vec<usize>), FileError> {
        let n_items = self.header.shape[0];
        let n = n.min(n_items - self.next);
        let mut shape = self.header.shape.clone();
        shape[0] = n;
        let n_bytes = Header {
            shape: shape.clone(),
            element: self.header.element,
        }
        .n_bytes()
        .map_err(|e| FileError::invalid(&self.path, e))?;
        // The buffer grows with what is really there, whatever the header claims.
        let mut bytes = Vec::new();
        let limit = u64::try_from(n_bytes).unwrap_or(u64::MAX);
        (&mut self.body)
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(|e| FileError::io(&self.path, &e))?;
        if bytes.len() != n_bytes {
            return Err(FileError::invalid(
                &self.path,
                "the file ends before its array does",
            ));
        }
        self.next += n;
        Ok((bytes, shape))
    }
}

/// Returns a whole array of integers, of a `.npy` or (`key`) a `.npz` file.
///
/// # Errors
///
/// As [`ArrayReader::open`], or the elements are floats.
pub fn read_integers(path: &Path, key: Option<&str>) -> Result<ArrayD<i64>, FileError> {
    let mut reader = ArrayReader::open(path, key, &["y_test", "labels", "y"])?;
    let n_items = reader.shape()[0];
    reader.next_integers(n_items)
}

/// Returns the integers of a vector, or of a single number, in a `.npz` file.
///
/// # Errors
///
/// As [`ArrayReader::open`], or the elements are floats.
pub fn read_small_integers(path: &Path, key: &str) -> Result<Vec<i64>, FileError> {
    let entry = find_entry(path, Some(key), &[])?;
    let (mut header, body) = open_body(path, Some(&entry))?;
    if header.shape.is_empty() {
        header.shape = vec![1];
    }
    let mut reader = ArrayReader {
        path: path.to_owned(),
        entry: Some(entry),
        header,
        body,
        next: 0,
    };
    let n_items = reader.shape()[0];
    Ok(reader.next_integers(n_items)?.into_iter().collect())
}

fn open(path: &Path) -> Result<File, FileError> {
    File::open(path).map_err(|e| FileError::io(path, &e))
}

fn find_entry(path: &Path, key: Option<&str>, defaults: &[&str]) -> Result<Entry, FileError> {
    let invalid = |message: String| FileError::invalid(path, message);
    let mut archive =
        ZipArchive::new(BufReader::new(open(path)?)).map_err(|e| invalid(e.to_string()))?;
    let mut names: Vec<String> = archive
        .file_names()
        .filter_map(|name| name.ok()?.strip_suffix(".npy").map(str::to_owned))
        .collect();
    names.sort();
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let chosen = match key {
        Some(key) if has(key) => key.to_owned(),
        Some(key) => {
            return Err(invalid(format!(
                "has no array `{key}`; it has {}",
                names.join(", ")
            )));
        }
        None => match (defaults.iter().find(|name| has(name)), names.as_slice()) {
            (Some(name), _) => (*name).to_owned(),
            (None, [only]) => only.clone(),
            (None, _) => {
                return Err(invalid(format!(
                    "name one of its arrays: {}",
                    names.join(", ")
                )));
            }
        },
    };
    let entry = archive
        .by_name(&format!("{chosen}.npy"))
        .map_err(|e| invalid(e.to_string()))?;
    let method = entry.compression();
    if method != CompressionMethod::Stored && method != CompressionMethod::Deflated {
        return Err(FileError::unsupported(
            path,
            format!("compression {method}"),
        ));
    }
    let start = entry
        .data_start()
        .ok_or_else(|| invalid("a broken archive".to_owned()))?;
    Ok(Entry {
        start,
        compressed_size: entry.compressed_size(),
        method,
    })
}

/// Returns the header and the elements of an array from its start.
fn open_body(
    path: &Path,
    entry: Option<&Entry>,
) -> Result<(Header, Box<dyn Read + Send>), FileError> {
    let invalid = |message: String| FileError::invalid(path, message);
    let mut file = open(path)?;
    let Some(entry) = entry else {
        let size = file.metadata().map_err(|e| FileError::io(path, &e))?.len();
        let mut body = BufReader::new(file);
        let header = Header::read(&mut body).map_err(invalid)?;
        let position = body
            .stream_position()
            .map_err(|e| FileError::io(path, &e))?;
        let n_bytes = header.n_bytes().map_err(invalid)?;
        if u64::try_from(n_bytes).map_or(true, |n| n > size - position.min(size)) {
            return Err(invalid("the file ends before its array does".to_owned()));
        }
        return Ok((header, Box::new(body)));
    };
    file.seek(SeekFrom::Start(entry.start))
        .map_err(|e| FileError::io(path, &e))?;
    let raw = BufReader::new(file).take(entry.compressed_size);
    let mut body: Box<dyn Read + Send> = if entry.method == CompressionMethod::Deflated {
        Box::new(DeflateDecoder::new(raw))
    } else {
        Box::new(raw)
    };
    let header = Header::read(&mut body).map_err(invalid)?;
    Ok((header, body))
}

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

    fn add(&mut self, name: &str, bytes: std::io::Result<Vec<u8>>) -> Result<(), FileError> {
        let bytes = bytes.map_err(|e| FileError::io(&self.path, &e))?;
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        self.zip
            .start_file(format!("{name}.npy"), options)
            .map_err(|e| FileError::invalid(&self.path, e.to_string()))?;
        self.zip
            .write_all(&bytes)
            .map_err(|e| FileError::io(&self.path, &e))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::npy::Element;

    #[test]
    fn headers_are_those_of_numpy() {
        let element = |shape: &[usize]| {
            let mut bytes = Vec::new();
            write_header(&mut bytes, "<f4", shape).unwrap();
            assert_eq!(bytes.len() % 64, 0, "length of the header");
            let header = Header::read(&mut bytes.as_slice()).unwrap();
            assert_eq!(header.shape, shape, "shape");
            String::from_utf8_lossy(&bytes[10..]).into_owned()
        };
        assert!(element(&[]).contains("'shape': ()"), "a scalar");
        assert!(element(&[3]).contains("'shape': (3,)"), "a vector");
        assert!(element(&[3, 4]).contains("'shape': (3, 4)"), "a matrix");
    }

    #[test]
    fn elements_of_every_type_are_read() {
        let element = |kind, size, big_endian| Element::for_tests(kind, size, big_endian);
        assert_eq!(
            element('i', 2, false).integer(&[0xFE, 0xFF]),
            Some(-2),
            "int16"
        );
        assert_eq!(
            element('i', 2, true).integer(&[0xFF, 0xFE]),
            Some(-2),
            "int16, big-endian"
        );
        assert_eq!(
            element('u', 8, false).integer(&[0xFF; 8]),
            None,
            "beyond i64"
        );
        assert_eq!(
            element('f', 2, false).float(&[0x00, 0x3C]).to_bits(),
            1f32.to_bits(),
            "half"
        );
        let bytes = 0.1f64.to_be_bytes();
        assert_eq!(
            element('f', 8, true).float(&bytes).to_bits(),
            0.1f32.to_bits(),
            "double"
        );
    }
}
