//! Arrays that grow on disk.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ndarray::ArrayD;

use crate::FileError;
use crate::npy::write_header;

/// Arrays that grow batch by batch in a temporary file: only one batch of them is in memory.
///
/// The file is gone when the spool is.
#[derive(Debug)]
pub struct Spool {
    /// The file that the arrays are for, which errors name.
    target: PathBuf,
    file: BufWriter<File>,
    /// Bytes in the file.
    length: u64,
    arrays: Vec<Option<Spooled>>,
}

/// One array, `[items, ...]`.
#[derive(Debug)]
struct Spooled {
    elements: Elements,
    item_shape: Vec<usize>,
    n_items: usize,
    /// Where each batch stands in the file, and its number of elements.
    batches: Vec<(u64, usize)>,
}

/// What the elements of an array are; in the file floats take 4 bytes, integers 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Elements {
    Floats,
    /// Integers, and whether all fit in an `i32`.
    Integers {
        are_narrow: bool,
    },
}

impl Elements {
    /// Returns the type of the elements in NumPy's words, and their bytes.
    const fn written(self) -> (&'static str, usize) {
        match self {
            Self::Floats => ("<f4", 4),
            Self::Integers { are_narrow: true } => ("<i4", 4),
            Self::Integers { are_narrow: false } => ("<i8", 8),
        }
    }
}

impl Spool {
    /// Returns `n_arrays` arrays without elements, beside the file `target` that they are for.
    ///
    /// # Errors
    ///
    /// There is no place for a temporary file.
    pub fn new(target: &Path, n_arrays: usize) -> Result<Self, FileError> {
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let file = tempfile::tempfile_in(folder).map_err(|e| FileError::io(target, &e))?;
        Ok(Self {
            target: target.to_owned(),
            file: BufWriter::new(file),
            length: 0,
            arrays: (0..n_arrays).map(|_| None).collect(),
        })
    }

    /// Adds a batch of floats, `[items, ...]`, to array `index`.
    ///
    /// # Errors
    ///
    /// The file cannot be written, or items before had other extents or were integers.
    pub fn push_f32(&mut self, index: usize, batch: &ArrayD<f32>) -> Result<(), FileError> {
        self.grow(index, batch.shape(), Elements::Floats)?;
        let elements = batch.iter().map(|v| v.to_le_bytes());
        self.write(elements)
    }

    /// Adds a batch of integers, `[items, ...]`, to array `index`.
    ///
    /// # Errors
    ///
    /// The file cannot be written, or items before had other extents or were floats.
    pub fn push_integers(&mut self, index: usize, batch: &ArrayD<i64>) -> Result<(), FileError> {
        let are_narrow = batch.iter().all(|v| i32::try_from(*v).is_ok());
        self.grow(index, batch.shape(), Elements::Integers { are_narrow })?;
        let elements = batch.iter().map(|v| v.to_le_bytes());
        self.write(elements)
    }

    /// Returns whether array `index` holds floats, `None` if it holds nothing.
    #[must_use]
    pub fn holds_floats(&self, index: usize) -> Option<bool> {
        let array = self.arrays.get(index)?.as_ref()?;
        Some(array.elements == Elements::Floats)
    }

    fn grow(&mut self, index: usize, shape: &[usize], kind: Elements) -> Result<(), FileError> {
        let misfit = || FileError::invalid(&self.target, format!("array {index}: {shape:?}"));
        let (n_items, item_shape) = shape.split_first().ok_or_else(misfit)?;
        let place = self.arrays.get_mut(index).ok_or_else(|| {
            FileError::invalid(&self.target, format!("there is no array {index}"))
        })?;
        let array = place.get_or_insert_with(|| Spooled {
            elements: kind,
            item_shape: item_shape.to_vec(),
            n_items: 0,
            batches: Vec::new(),
        });
        array.elements = match (array.elements, kind) {
            (Elements::Floats, Elements::Floats) => Elements::Floats,
            (Elements::Integers { are_narrow: a }, Elements::Integers { are_narrow: b }) => {
                Elements::Integers { are_narrow: a && b }
            }
            (Elements::Floats, Elements::Integers { .. })
            | (Elements::Integers { .. }, Elements::Floats) => {
                let message = format!("array {index} is of floats and of integers");
                return Err(FileError::invalid(&self.target, message));
            }
        };
        if array.item_shape != item_shape {
            let first = &array.item_shape;
            let message = format!("array {index}: items of {first:?} and of {item_shape:?}");
            return Err(FileError::invalid(&self.target, message));
        }
        array.n_items += n_items;
        array.batches.push((self.length, shape.iter().product()));
        Ok(())
    }

    fn write<const N: usize>(
        &mut self,
        elements: impl Iterator<Item = [u8; N]>,
    ) -> Result<(), FileError> {
        for element in elements {
            let written = self.file.write_all(&element);
            written.map_err(|e| FileError::io(&self.target, &e))?;
            self.length += u64::try_from(N).unwrap_or(0);
        }
        Ok(())
    }

    /// Returns about how many bytes [`copy`](Self::copy) writes.
    pub(crate) fn n_bytes(&self, index: usize) -> usize {
        let array = self.arrays.get(index).and_then(Option::as_ref);
        array.map_or(0, |array| {
            let (_, width) = array.elements.written();
            let n_elements: usize = array.batches.iter().map(|(_, n)| n).sum();
            n_elements.saturating_mul(width)
        })
    }

    /// Writes array `index` as `.npy`; one without elements is a vector of no float.
    pub(crate) fn copy(&mut self, index: usize, out: &mut impl Write) -> io::Result<()> {
        self.file.flush()?;
        let Some(array) = self.arrays.get(index).and_then(Option::as_ref) else {
            return write_header(out, Elements::Floats.written().0, &[0]);
        };
        let shape: Vec<usize> = std::iter::once(array.n_items)
            .chain(array.item_shape.iter().copied())
            .collect();
        write_header(out, array.elements.written().0, &shape)?;
        let stored = match array.elements {
            Elements::Floats => 4,
            Elements::Integers { .. } => 8,
        };
        let file = self.file.get_mut();
        for (start, n_elements) in &array.batches {
            let mut bytes = vec![0; n_elements * stored];
            file.seek(SeekFrom::Start(*start))?;
            file.read_exact(&mut bytes)?;
            if array.elements == (Elements::Integers { are_narrow: true }) {
                // The lower half of a little-endian integer is the integer, if it fits.
                bytes = bytes
                    .chunks_exact(8)
                    .flat_map(|b| &b[..4])
                    .copied()
                    .collect();
            }
            out.write_all(&bytes)?;
        }
        file.seek(SeekFrom::End(0))?;
        Ok(())
    }
}
