//! HDF5: attributes and datasets as the Keras readers need them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use hdf5_pure::{AttrValue, DType, Dataset, Datatype, DatatypeByteOrder, File};
use ndarray::{ArrayD, IxDyn};

use crate::FileError;

/// Most bytes that deflate makes of one; values of one byte are the smallest.
pub(crate) const MOST_INFLATED: u64 = 1032;

/// An HDF5 file in memory.
pub(crate) struct Hdf5 {
    file: File,
    path: PathBuf,
    /// Size of the file: no dataset can hold more.
    size: u64,
}

/// Returns whether the file starts with the signature of HDF5.
pub(crate) fn is_hdf5(path: &Path) -> Result<bool, FileError> {
    use std::io::Read;
    let mut start = [0; 8];
    let mut file = std::fs::File::open(path).map_err(|e| FileError::io(path, &e))?;
    let n = file.read(&mut start).map_err(|e| FileError::io(path, &e))?;
    Ok(n == 8 && start == *b"\x89HDF\r\n\x1a\n")
}

impl Hdf5 {
    /// Reads a file.
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let bytes = std::fs::read(path).map_err(|e| FileError::io(path, &e))?;
        Self::from_bytes(path, bytes)
    }

    /// Reads a file that is in memory, and comes from `path`.
    pub(crate) fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, FileError> {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if let Some(end) = end_of_file(&bytes).filter(|end| *end > size) {
            let message = format!("is cut off: {size} of {end} bytes");
            return Err(FileError::invalid(path, message));
        }
        let file = guarded(path, || File::from_bytes(bytes))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            size,
        })
    }

    /// Returns a string attribute of a group (`/` for the root).
    pub(crate) fn string(&self, group: &str, name: &str) -> Result<Option<String>, FileError> {
        let attr = self.attr(group, name)?;
        Ok(attr.and_then(|attr| attr.as_str().map(str::to_owned)))
    }

    /// Returns a list of strings: an attribute, or `name0`, `name1`, … one after another.
    ///
    /// An empty attribute of any type is an empty list.
    pub(crate) fn strings(
        &self,
        group: &str,
        name: &str,
    ) -> Result<Option<Vec<String>>, FileError> {
        if let Some(attr) = self.attr(group, name)? {
            return Ok(Some(
                attr.as_strings()
                    .map(<[String]>::to_vec)
                    .unwrap_or_default(),
            ));
        }
        let mut all = Vec::new();
        for part in 0.. {
            match self.attr(group, &format!("{name}{part}"))? {
                Some(attr) => all.extend(attr.as_strings().unwrap_or_default().iter().cloned()),
                None if part == 0 => return Ok(None),
                None => break,
            }
        }
        Ok(Some(all))
    }

    /// Returns a dataset as floats.
    pub(crate) fn floats(&self, path: &str) -> Result<ArrayD<f32>, FileError> {
        let dataset = guarded(&self.path, || self.file.dataset(path))?;
        let shape = guarded(&self.path, || dataset.shape())?;
        let invalid = |what: &str| FileError::invalid(&self.path, format!("`{path}`: {what}"));
        let extents = shape
            .iter()
            .map(|n| usize::try_from(*n).ok())
            .collect::<Option<Vec<usize>>>()
            .ok_or_else(|| invalid("extents"))?;
        // Only chunks can be compressed.
        let most_values = match guarded(&self.path, || dataset.chunk_shape())? {
            None => self.size,
            Some(_) => self.size.saturating_mul(MOST_INFLATED),
        };
        let n_values = extents.iter().try_fold(1usize, |n, e| n.checked_mul(*e));
        let n_values = n_values
            .filter(|n| u64::try_from(*n).is_ok_and(|n| n <= most_values))
            .ok_or_else(|| invalid("extents beyond the size of the file"))?;
        let values = self.values(path, &dataset)?;
        if values.len() != n_values {
            return Err(invalid(&format!(
                "{} values for extents {extents:?}",
                values.len()
            )));
        }
        ArrayD::from_shape_vec(IxDyn(&extents), values).map_err(|e| invalid(&e.to_string()))
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "only numbers are read")]
    fn values(&self, path: &str, dataset: &Dataset) -> Result<Vec<f32>, FileError> {
        match guarded(&self.path, || dataset.dtype())? {
            DType::F32
            | DType::F64
            | DType::I8
            | DType::I16
            | DType::I32
            | DType::I64
            | DType::U8
            | DType::U16
            | DType::U32
            | DType::U64 => guarded(&self.path, || dataset.read_f32()),
            DType::Other(datatype) if is_half(&datatype) => {
                let bytes = guarded(&self.path, || dataset.read_raw())?;
                Ok(halves(&bytes, &datatype))
            }
            other => Err(FileError::unsupported(
                &self.path,
                format!("weights of type {other} in `{path}`"),
            )),
        }
    }

    fn attr(&self, group: &str, name: &str) -> Result<Option<AttrValue>, FileError> {
        let attrs = if group == "/" {
            guarded(&self.path, || self.file.root().attrs())?
        } else {
            guarded(&self.path, || self.file.group(group)?.attrs())?
        };
        Ok(attrs.get(name).cloned())
    }

    /// Returns the names of the groups in a group.
    pub(crate) fn groups(&self, group: &str) -> Result<Vec<String>, FileError> {
        guarded(&self.path, || self.file.group(group)?.groups())
    }

    /// Returns the names of the datasets in a group.
    pub(crate) fn datasets(&self, group: &str) -> Result<Vec<String>, FileError> {
        guarded(&self.path, || self.file.group(group)?.datasets())
    }

    /// Returns whether there is a group at `path`.
    pub(crate) fn has_group(&self, path: &str) -> bool {
        guarded(&self.path, || self.file.group(path)).is_ok()
    }
}

/// Returns the size that the superblock says, for the versions that Keras writes.
fn end_of_file(bytes: &[u8]) -> Option<u64> {
    let place = match bytes.get(8)? {
        0 => 40,
        1 => 44,
        2 | 3 => 28,
        _ => return None,
    };
    let end = bytes.get(place..place + 8)?;
    // A base address other than zero moves it; Keras writes none.
    end.try_into().ok().map(u64::from_le_bytes)
}

/// Returns whether a type that the library has no name for is the 16-bit float of IEEE 754.
fn is_half(datatype: &Datatype) -> bool {
    matches!(
        datatype,
        Datatype::FloatingPoint { size: 2, byte_order, layout }
            if *byte_order != DatatypeByteOrder::Vax
                && layout.exponent_size == 5
                && layout.mantissa_size == 10
                && layout.exponent_bias == 15
    )
}

fn halves(bytes: &[u8], datatype: &Datatype) -> Vec<f32> {
    let big_endian = matches!(
        datatype,
        Datatype::FloatingPoint {
            byte_order: DatatypeByteOrder::BigEndian,
            ..
        }
    );
    let half = |pair: &[u8; 2]| {
        let bits = if big_endian {
            u16::from_be_bytes(*pair)
        } else {
            u16::from_le_bytes(*pair)
        };
        half::f16::from_bits(bits).to_f32()
    };
    bytes.as_chunks().0.iter().map(half).collect()
}

/// Runs a call of the HDF5 library; what it refuses, or panics at, is an invalid file.
///
/// The library promises errors for broken files. A panic in it would be its fault, but must not be
/// ours: the file is still nothing but invalid.
fn guarded<T>(
    path: &Path,
    f: impl FnOnce() -> Result<T, hdf5_pure::Error>,
) -> Result<T, FileError> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(FileError::invalid(path, error.to_string())),
        Err(_) => Err(FileError::invalid(path, "a broken HDF5 file")),
    }
}
