//! Calibration samples from files, from memory, or random.

use std::path::PathBuf;

use calibration::{ArraySource, CalibrationError, IntegerRange, RandomSource, SampleSource};
use float_model::Dtype;
use model_files::ArrayReader;
use ndarray::ArrayD;

use crate::Error;

/// Arrays of a `.npz` that are taken for samples without a name being asked for, best first.
const SAMPLE_KEYS: [&str; 3] = ["x_train", "samples", "x"];

/// Where calibration samples come from.
#[derive(Clone, Debug)]
pub enum Samples {
    /// Seeded random integers of the input's type.
    Random,
    /// A `.npy` file, or an array of a `.npz` file; read as a stream.
    File {
        /// The file.
        path: PathBuf,
        /// Name of the array in a `.npz`; by default `x_train`, `samples`, `x`, or the only one.
        key: Option<String>,
    },
    /// Floats, `[samples, ...]`.
    Floats(ArrayD<f32>),
    /// Whole numbers, `[samples, ...]`.
    Integers(ArrayD<f32>),
}

impl Samples {
    /// Returns the stream of the samples.
    pub(crate) fn open(self) -> Result<Box<dyn SampleSource>, Error> {
        match self {
            Self::Floats(samples) => Ok(Box::new(ArraySource::floats(samples))),
            Self::Integers(samples) => Ok(Box::new(ArraySource::integers(samples))),
            Self::File { path, key } => {
                let reader = ArrayReader::open(&path, key.as_deref(), &SAMPLE_KEYS)?;
                Ok(Box::new(FileSource::new(reader)))
            }
            Self::Random => Err(Error::Invalid("random samples need a model".to_owned())),
        }
    }
}

/// Returns random integers over the whole range of `dtype`.
pub(crate) fn random_source(
    seed: u64,
    dtype: Dtype,
    n_samples: usize,
    item_shape: Vec<usize>,
) -> RandomSource {
    let (low, high) = match dtype {
        Dtype::UInt8 | Dtype::Float32 => (0, 255),
        Dtype::Int8 => (-128, 127),
        Dtype::UInt16 => (0, 65_535),
        Dtype::Int16 => (-32_768, 32_767),
        Dtype::Int32 => (-(1 << 23), (1 << 23) - 1),
    };
    RandomSource::new(seed, IntegerRange { low, high }, n_samples, item_shape)
}

/// Samples of a file, one batch in memory.
struct FileSource {
    reader: ArrayReader,
    item_shape: Vec<usize>,
}

impl FileSource {
    fn new(reader: ArrayReader) -> Self {
        let item_shape = reader.shape().get(1..).unwrap_or_default().to_vec();
        Self { reader, item_shape }
    }
}

impl SampleSource for FileSource {
    fn n_samples(&self) -> usize {
        self.reader.shape().first().copied().unwrap_or(0)
    }

    fn item_shape(&self) -> &[usize] {
        &self.item_shape
    }

    fn is_integer(&self) -> bool {
        self.reader.is_integer()
    }

    fn rewind(&mut self) -> Result<(), CalibrationError> {
        self.reader
            .rewind()
            .map_err(|e| CalibrationError::Source(e.to_string()))
    }

    fn next_batch(&mut self, n: usize) -> Result<ArrayD<f32>, CalibrationError> {
        self.reader
            .next_batch(n)
            .map_err(|e| CalibrationError::Source(e.to_string()))
    }
}
