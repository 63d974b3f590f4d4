//! Arrays in `.npy` and `.npz` files, read as streams.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::CrcReader;
use flate2::read::DeflateDecoder;
use ndarray::{ArrayD, IxDyn};
use zip::{CompressionMethod, ZipArchive};

use crate::FileError;
use crate::npy::{Element, Header};

/// An array whose first axis is read step by step.
pub struct ArrayReader {
    path: PathBuf,
    place: Place,
    header: Header,
    body: Box<dyn Read + Send>,
    next: usize,
}

/// Where the elements of an array stand in its file.
#[derive(Clone, Debug)]
enum Place {
    /// Behind the header of a `.npy` file.
    Npy,
    /// In a `.npz` file.
    Member(Entry),
    /// From the first byte on; this is what a header would say.
    Raw(Header),
}

/// A member of a `.npz` archive.
#[derive(Clone, Debug)]
struct Entry {
    start: u64,
    compressed_size: u64,
    size: u64,
    crc: u32,
    method: CompressionMethod,
}

/// The content of a member, which fails at its end if the checksum is another one.
struct Member<R> {
    reader: CrcReader<R>,
    left: u64,
    crc: u32,
}

impl<R: Read> Read for Member<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = (&mut self.reader).take(self.left).read(buffer)?;
        let before = self.left;
        self.left -= u64::try_from(n).unwrap_or(0);
        if before > 0 && self.left == 0 && self.reader.crc().sum() != self.crc {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                "the checksum of an array is wrong: the file is damaged",
            ));
        }
        Ok(n)
    }
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
        let place = if n == 2 && start == *b"PK" {
            Place::Member(find_entry(path, key, defaults)?)
        } else {
            Place::Npy
        };
        let (header, body) = open_body(path, &place)?;
        if header.shape.is_empty() {
            return Err(FileError::invalid(
                path,
                "a single number, expected an array",
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            place,
            header,
            body,
            next: 0,
        })
    }

    /// Opens a file that holds nothing but elements, item after item.
    ///
    /// `dtype` is their type: `uint8`, `int8`, `uint16` to `int64`, `float16`, `float32`,
    /// `float64`, little-endian; or NumPy's text for it, such as `>f4` for big-endian.
    ///
    /// # Errors
    ///
    /// The file cannot be read, its size is no multiple of an item's, or there is no such type.
    pub fn open_raw(path: &Path, dtype: &str, item_shape: &[usize]) -> Result<Self, FileError> {
        let invalid = |message: String| FileError::invalid(path, message);
        let mut header = Header {
            shape: std::iter::once(1)
                .chain(item_shape.iter().copied())
                .collect(),
            element: Element::named(dtype).map_err(invalid)?,
        };
        let item_bytes = header.n_bytes().map_err(invalid)?;
        let size = open(path)?
            .metadata()
            .map_err(|e| FileError::io(path, &e))?
            .len();
        let size = usize::try_from(size).map_err(|_| invalid("too large a file".to_owned()))?;
        if item_bytes == 0 || size.checked_rem(item_bytes) != Some(0) {
            return Err(invalid(format!(
                "{size} bytes are no whole number of items of shape {item_shape:?} and type \
                 {dtype}, {item_bytes} bytes each"
            )));
        }
        header.shape[0] = size.div_euclid(item_bytes);
        let place = Place::Raw(header);
        let (header, body) = open_body(path, &place)?;
        Ok(Self {
            path: path.to_owned(),
            place,
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
        let (header, body) = open_body(&self.path, &self.place)?;
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
        let values = element.floats(&bytes);
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
            .map_err(|e| read_error(&self.path, &e))?;
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
    let place = Place::Member(find_entry(path, Some(key), &[])?);
    let (mut header, body) = open_body(path, &place)?;
    if header.shape.is_empty() {
        header.shape = vec![1];
    }
    let mut reader = ArrayReader {
        path: path.to_owned(),
        place,
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
                    "holds several arrays, name one of them: {}",
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
        size: entry.size(),
        crc: entry.crc32(),
        method,
    })
}

/// Returns the header and the elements of an array from its start.
fn open_body(path: &Path, place: &Place) -> Result<(Header, Box<dyn Read + Send>), FileError> {
    match place {
        Place::Npy => open_npy(path),
        Place::Member(entry) => open_member(path, entry),
        Place::Raw(header) => Ok((header.clone(), Box::new(BufReader::new(open(path)?)))),
    }
}

fn open_npy(path: &Path) -> Result<(Header, Box<dyn Read + Send>), FileError> {
    let invalid = |message: String| FileError::invalid(path, message);
    let file = open(path)?;
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
    Ok((header, Box::new(body)))
}

fn open_member(path: &Path, entry: &Entry) -> Result<(Header, Box<dyn Read + Send>), FileError> {
    let invalid = |message: String| FileError::invalid(path, message);
    let mut file = open(path)?;
    file.seek(SeekFrom::Start(entry.start))
        .map_err(|e| FileError::io(path, &e))?;
    let raw = BufReader::new(file).take(entry.compressed_size);
    let inflated: Box<dyn Read + Send> = if entry.method == CompressionMethod::Deflated {
        Box::new(DeflateDecoder::new(raw))
    } else {
        Box::new(raw)
    };
    let mut body = Member {
        reader: CrcReader::new(inflated),
        left: entry.size,
        crc: entry.crc,
    };
    let header = Header::read(&mut body).map_err(invalid)?;
    let n_bytes = header.n_bytes().map_err(invalid)?;
    if u64::try_from(n_bytes) != Ok(body.left) {
        return Err(invalid(format!(
            "an array of {n_bytes} bytes in {} bytes",
            body.left
        )));
    }
    Ok((header, Box::new(body)))
}

/// Returns the error of reading elements; damaged content is not the operating system's fault.
fn read_error(path: &Path, error: &std::io::Error) -> FileError {
    use std::io::ErrorKind;
    let damage = [
        ErrorKind::InvalidData,
        ErrorKind::InvalidInput,
        ErrorKind::UnexpectedEof,
    ];
    if damage.contains(&error.kind()) {
        FileError::invalid(path, error.to_string())
    } else {
        FileError::io(path, error)
    }
}
