//! Samples from files, from folders of images, from memory, or random.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use calibration::{
    ArraySource, CalibrationError, FiniteSource, IntegerRange, Preprocess, PreprocessedSource,
    RandomSource, SampleSource, Skipped, check_batch,
};
use float_model::Dtype;
use model_files::{ArrayReader, Channels, Filter, Fit, ImageOptions, ImageReader, OnBadSample};
use ndarray::ArrayD;

use crate::Error;

/// Where samples come from.
#[derive(Clone, Debug)]
pub enum Samples {
    /// Seeded random integers of the input's type; only for calibration.
    Random,
    /// A `.npy` file, or an array of a `.npz` file; read as a stream.
    File {
        /// The file.
        path: PathBuf,
        /// Name of the array in a `.npz`; by default the [`SampleRole`] says, or the only one.
        key: Option<String>,
    },
    /// A file of nothing but elements, item after item; read as a stream.
    Raw {
        /// The file.
        path: PathBuf,
        /// Type of the elements, see [`ArrayReader::open_raw`].
        dtype: String,
        /// Extents of a sample.
        item_shape: Vec<usize>,
    },
    /// PNG and JPEG files in this order, decoded as a stream. Samples are integers, 0 to 255.
    Images {
        /// The files.
        paths: Arc<[PathBuf]>,
        /// How they become samples.
        settings: ImageSettings,
    },
    /// Floats, `[samples, ...]`.
    Floats(ArrayD<f32>),
    /// Whole numbers, `[samples, ...]`.
    Integers(ArrayD<f32>),
    /// Other samples with a preprocessing.
    Preprocessed {
        /// The other samples.
        samples: Box<Self>,
        /// What is done to them. They are floats then, unless it is [`Preprocess::None`].
        preprocess: Preprocess,
    },
    /// Other samples without those that hold a NaN or an infinity.
    ///
    /// Images never do: what is done with bad ones is in their settings.
    FiniteOnly(Box<Self>),
}

/// How images become samples; extents and channels that are not given are the model's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageSettings {
    /// Rows and columns of a sample; by default those of the model's input.
    pub size: Option<(usize, usize)>,
    /// What is done with images of other extents.
    pub fit: Fit,
    /// How images are resized.
    pub filter: Filter,
    /// Order of the channels, for models with three.
    pub order: ChannelOrder,
    /// What is done with files that cannot be decoded.
    pub on_bad: OnBadSample,
}

/// Order of an image's channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelOrder {
    /// Red, green, blue.
    #[default]
    Rgb,
    /// Blue, green, red.
    Bgr,
}

/// What samples are for: it decides which array of a `.npz` is taken when none is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleRole {
    /// Calibration: `x_train`, `samples`, `x`.
    Calibration,
    /// Inputs of a run: `inputs`, `x_test`, `x`.
    Inputs,
}

impl SampleRole {
    const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Calibration => &["x_train", "samples", "x"],
            Self::Inputs => &["inputs", "x_test", "x"],
        }
    }
}

impl Samples {
    /// Returns the stream of the samples, for a model whose input has extents `input`.
    ///
    /// Extents of an input without the batch, `None` where they are open. They decide how images
    /// are resized and how many channels they have; arrays keep their own extents.
    ///
    /// # Errors
    ///
    /// Files that cannot be read or be right, images for an input that takes none, a
    /// preprocessing that does not fit, and [`Samples::Random`].
    pub fn open(
        self,
        input: &[Option<usize>],
        role: SampleRole,
    ) -> Result<Box<dyn SampleSource>, Error> {
        match self {
            Self::Floats(samples) => Ok(Box::new(ArraySource::floats(samples))),
            Self::Integers(samples) => Ok(Box::new(ArraySource::integers(samples))),
            Self::File { path, key } => {
                let reader = ArrayReader::open(&path, key.as_deref(), role.keys())?;
                Ok(Box::new(FileSource::new(reader)))
            }
            Self::Raw {
                path,
                dtype,
                item_shape,
            } => {
                let reader = ArrayReader::open_raw(&path, &dtype, &item_shape)?;
                Ok(Box::new(FileSource::new(reader)))
            }
            Self::Images { paths, settings } => {
                let reader = ImageReader::new(paths, image_options(&settings, input)?);
                Ok(Box::new(ImageSource::new(reader)))
            }
            Self::Preprocessed {
                samples,
                preprocess,
            } => {
                samples.refuse_reversed_twice(preprocess)?;
                let source = samples.open(input, role)?;
                Ok(Box::new(PreprocessedSource::new(source, preprocess)?))
            }
            Self::FiniteOnly(samples) if samples.are_images() => samples.open(input, role),
            Self::FiniteOnly(samples) => {
                Ok(Box::new(FiniteSource::new(samples.open(input, role)?)))
            }
            Self::Random => Err(Error::Invalid("random samples need a model".to_owned())),
        }
    }

    /// Returns the files that the samples are read from, in order.
    #[must_use]
    pub fn files(&self) -> Vec<&Path> {
        match self {
            Self::File { path, .. } | Self::Raw { path, .. } => vec![path],
            Self::Images { paths, .. } => paths.iter().map(PathBuf::as_path).collect(),
            Self::Preprocessed { samples, .. } | Self::FiniteOnly(samples) => samples.files(),
            Self::Random | Self::Floats(_) | Self::Integers(_) => Vec::new(),
        }
    }

    /// Returns whether these are random samples.
    #[must_use]
    pub fn is_random(&self) -> bool {
        match self {
            Self::Random => true,
            Self::Preprocessed { samples, .. } | Self::FiniteOnly(samples) => samples.is_random(),
            Self::File { .. }
            | Self::Raw { .. }
            | Self::Images { .. }
            | Self::Floats(_)
            | Self::Integers(_) => false,
        }
    }

    /// Returns whether these are image files.
    #[must_use]
    pub fn are_images(&self) -> bool {
        match self {
            Self::Images { .. } => true,
            Self::Preprocessed { samples, .. } | Self::FiniteOnly(samples) => samples.are_images(),
            Self::Random
            | Self::File { .. }
            | Self::Raw { .. }
            | Self::Floats(_)
            | Self::Integers(_) => false,
        }
    }

    /// Refuses 'caffe', which makes BGR of RGB, on images that are BGR already.
    fn refuse_reversed_twice(&self, preprocess: Preprocess) -> Result<(), Error> {
        if let Self::Images { settings, .. } = self
            && settings.order == ChannelOrder::Bgr
            && preprocess == Preprocess::Caffe
        {
            return Err(Error::Invalid(
                "preprocessing caffe makes BGR of RGB: read the images as RGB".to_owned(),
            ));
        }
        Ok(())
    }
}

/// Returns how images become samples of a model's input.
fn image_options(settings: &ImageSettings, input: &[Option<usize>]) -> Result<ImageOptions, Error> {
    let refused = |message: String| Err(Error::Invalid(message));
    let [height, width, channels] = input else {
        return refused(format!(
            "images have height, width and channels, the model's input has {} extents",
            input.len()
        ));
    };
    let extents = settings.size.or(height.zip(*width));
    let Some((height, width)) = extents else {
        return refused(
            "the model's input has open extents: say how large images are (--image-size)"
                .to_owned(),
        );
    };
    let channels = match (channels, settings.order) {
        (Some(1), ChannelOrder::Rgb) => Channels::Gray,
        (Some(1), ChannelOrder::Bgr) => {
            return refused("the model's input has one channel, which has no order".to_owned());
        }
        (Some(3) | None, ChannelOrder::Rgb) => Channels::Rgb,
        (Some(3) | None, ChannelOrder::Bgr) => Channels::Bgr,
        (Some(n), _) => {
            return refused(format!(
                "images have 1 or 3 channels, the model's input has {n}"
            ));
        }
    };
    Ok(ImageOptions {
        height,
        width,
        channels,
        fit: settings.fit,
        filter: settings.filter,
        on_bad: settings.on_bad,
    })
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

/// Images, one batch in memory.
struct ImageSource {
    reader: ImageReader,
    skipped: Vec<Skipped>,
}

impl ImageSource {
    const fn new(reader: ImageReader) -> Self {
        Self {
            reader,
            skipped: Vec::new(),
        }
    }
}

impl SampleSource for ImageSource {
    fn n_samples(&self) -> usize {
        self.reader.n_images()
    }

    fn item_shape(&self) -> &[usize] {
        self.reader.item_shape()
    }

    fn is_integer(&self) -> bool {
        true
    }

    fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    fn rewind(&mut self) -> Result<(), CalibrationError> {
        self.reader.rewind();
        Ok(())
    }

    fn next_batch(&mut self, n: usize) -> Result<ArrayD<f32>, CalibrationError> {
        check_batch(n.min(self.n_samples()), self.item_shape())?;
        let batch = self
            .reader
            .next_batch(n)
            .map_err(|e| CalibrationError::Source(e.to_string()))?;
        if self.reader.bad().len() != self.skipped.len() {
            let skipped = self.reader.bad().iter().map(|bad| Skipped {
                index: bad.index,
                message: bad.error.to_string(),
            });
            self.skipped = skipped.collect();
        }
        Ok(batch)
    }
}
