//! PNG and JPEG images as samples, decoded on worker threads, in order.
//!
//! PNG pixels are those of every other decoder. JPEG leaves its decoders free to round: pixels can
//! differ from Pillow's by up to 4 levels. Where bits have to agree with another tool, use PNG.

mod decode;
mod list;
mod resample;

use std::path::PathBuf;
use std::sync::Arc;

use ndarray::{ArrayD, IxDyn};
use rayon::prelude::*;

pub use list::{ImageList, LabelledImages, glob_images, images_in, labelled_images};
pub use resample::Filter;

use crate::FileError;

/// Images that are decoded at once, so that a large batch does not hold all of its bytes twice.
const DECODED_AT_ONCE: usize = 32;

/// How images become samples of one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageOptions {
    /// Rows of a sample.
    pub height: usize,
    /// Columns of a sample.
    pub width: usize,
    /// What the last axis holds.
    pub channels: Channels,
    /// What is done with images of other extents.
    pub fit: Fit,
    /// How images are resized.
    pub filter: Filter,
    /// What is done with files that cannot be decoded.
    pub on_bad: OnBadSample,
}

/// What the last axis of an image sample holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Channels {
    /// One channel. Of colours it is Pillow's `L`:
    /// `(19595 * red + 38470 * green + 7471 * blue + 32768) >> 16`.
    Gray,
    /// Red, green, blue; gray images have it three times.
    #[default]
    Rgb,
    /// Blue, green, red.
    Bgr,
}

impl Channels {
    /// Returns the extent of the last axis.
    #[must_use]
    pub const fn count(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::Rgb | Self::Bgr => 3,
        }
    }
}

/// What is done with images of other extents than the samples'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fit {
    /// Resized to the sample's extents, whatever the aspect, as Keras' `load_img` does.
    #[default]
    Stretch,
    /// Resized with their aspect kept, then cut at the centre.
    ///
    /// The shorter side becomes `shorter` and the longer one `floor(longer * shorter / side)`;
    /// with `None` the image just covers the sample. The cut starts at the floor of half the
    /// difference.
    Crop {
        /// The shorter side before the cut, such as 256 for samples of 224.
        shorter: Option<usize>,
    },
    /// Refused: they are bad samples.
    Exact,
}

/// What is done with a sample that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBadSample {
    /// It is an error.
    #[default]
    Stop,
    /// It is left out and counted.
    Skip,
}

/// An image that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadImage {
    /// Its place in the list of images.
    pub index: usize,
    /// Its file, and what is wrong with it.
    pub error: FileError,
}

/// A stream of images; only the batch that is asked for is in memory.
#[derive(Clone, Debug)]
pub struct ImageReader {
    paths: Arc<[PathBuf]>,
    options: ImageOptions,
    item_shape: [usize; 3],
    next: usize,
    // Invariant: sorted by index, no index twice.
    bad: Vec<BadImage>,
}

impl ImageReader {
    /// Returns a reader of `paths` in their order.
    #[must_use]
    pub fn new(paths: impl Into<Arc<[PathBuf]>>, options: ImageOptions) -> Self {
        Self {
            paths: paths.into(),
            options,
            item_shape: [options.height, options.width, options.channels.count()],
            next: 0,
            bad: Vec::new(),
        }
    }

    /// Returns the number of files, whether they can be decoded or not.
    #[must_use]
    pub fn n_images(&self) -> usize {
        self.paths.len()
    }

    /// Returns the extents of a sample, `[height, width, channels]`.
    #[must_use]
    pub const fn item_shape(&self) -> &[usize; 3] {
        &self.item_shape
    }

    /// Returns the images that were left out so far, in order.
    #[must_use]
    pub fn bad(&self) -> &[BadImage] {
        &self.bad
    }

    /// Goes back to the first image.
    pub const fn rewind(&mut self) {
        self.next = 0;
    }

    /// Returns the next images, `[batch, height, width, channels]`, values 0 to 255: at most `n`,
    /// none at the end.
    ///
    /// # Errors
    ///
    /// A file that cannot be decoded, with [`OnBadSample::Stop`]: the first one in order.
    pub fn next_batch(&mut self, n: usize) -> Result<ArrayD<f32>, FileError> {
        let n = n.min(self.paths.len() - self.next);
        let item: usize = self.item_shape.iter().product();
        let mut values = Vec::new();
        let mut taken = 0;
        while taken < n && self.next < self.paths.len() {
            let wanted = (n - taken).min(DECODED_AT_ONCE);
            let end = self.paths.len().min(self.next + wanted);
            let decoded: Vec<Result<Vec<u8>, FileError>> = self.paths[self.next..end]
                .par_iter()
                .map(|path| decode::sample(path, &self.options))
                .collect();
            for (index, image) in (self.next..end).zip(decoded) {
                match image {
                    Ok(pixels) => {
                        debug_assert_eq!(pixels.len(), item, "extents of a sample");
                        values.extend(pixels.into_iter().map(f32::from));
                        taken += 1;
                    }
                    Err(error) => self.refuse(index, error)?,
                }
            }
            self.next = end;
        }
        let [height, width, channels] = self.item_shape;
        let shape = IxDyn(&[taken, height, width, channels]);
        ArrayD::from_shape_vec(shape, values).map_err(|e| {
            let path = self.paths.first().cloned().unwrap_or_default();
            FileError::invalid(&path, e.to_string())
        })
    }

    /// Counts a bad image, or stops at it.
    fn refuse(&mut self, index: usize, error: FileError) -> Result<(), FileError> {
        match self.options.on_bad {
            OnBadSample::Stop => return Err(error),
            OnBadSample::Skip => {}
        }
        // A later pass over the images meets the same ones again.
        if let Err(place) = self.bad.binary_search_by_key(&index, |bad| bad.index) {
            self.bad.insert(place, BadImage { index, error });
        }
        Ok(())
    }
}
