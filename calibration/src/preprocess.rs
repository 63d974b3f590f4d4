//! What is done to samples before the network sees them (NUMERICS.md: C6).

use std::str::FromStr;

use ndarray::ArrayD;

use crate::{CalibrationError, SampleSource, Skipped};

/// Means of blue, green and red that 'caffe' takes away.
const CAFFE_MEANS: [f32; 3] = [103.939, 116.779, 123.68];
/// Means of red, green and blue that 'torch' takes away.
const TORCH_MEANS: [f32; 3] = [0.485, 0.456, 0.406];
/// Standard deviations of red, green and blue that 'torch' divides by.
const TORCH_DEVIATIONS: [f32; 3] = [0.229, 0.224, 0.225];

/// A preprocessing of samples, as in Keras' `preprocess_input`.
///
/// Each operation is one in f32, with the constants rounded to f32. NUMERICS.md: C6.
///
/// ```text
/// none          x
/// tf            fl(fl(x / 127.5) - 1)
/// caffe         channels reversed, RGB to BGR; then fl(x - mean), means 103.939, 116.779, 123.68
/// torch         fl(fl(fl(x / 255) - mean) / deviation),
///               means 0.485, 0.456, 0.406, deviations 0.229, 0.224, 0.225
/// scale,offset  fl(fl(x * scale) + offset)
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Preprocess {
    /// Nothing; integers stay integers.
    #[default]
    None,
    /// To -1 to 1.
    Tf,
    /// Blue, green and red, each less its mean.
    Caffe,
    /// Red, green and blue, normalized by mean and deviation.
    Torch,
    /// A product and a sum.
    Affine {
        /// Factor.
        scale: f32,
        /// What is added after the product.
        offset: f32,
    },
}

impl Preprocess {
    /// Changes the values of samples whose last axis has `n_channels`.
    ///
    /// # Errors
    ///
    /// A preprocessing of colours for samples without three channels.
    pub fn apply(self, values: &mut [f32], n_channels: usize) -> Result<(), CalibrationError> {
        self.check(n_channels)?;
        match self {
            Self::None => {}
            Self::Tf => values.iter_mut().for_each(|x| *x = *x / 127.5 - 1.0),
            Self::Caffe => values.chunks_exact_mut(3).for_each(|pixel| {
                pixel.reverse();
                pixel
                    .iter_mut()
                    .zip(CAFFE_MEANS)
                    .for_each(|(x, mean)| *x -= mean);
            }),
            Self::Torch => values.chunks_exact_mut(3).for_each(|pixel| {
                let constants = TORCH_MEANS.into_iter().zip(TORCH_DEVIATIONS);
                for (x, (mean, deviation)) in pixel.iter_mut().zip(constants) {
                    *x = (*x / 255.0 - mean) / deviation;
                }
            }),
            Self::Affine { scale, offset } => {
                values.iter_mut().for_each(|x| *x = *x * scale + offset);
            }
        }
        Ok(())
    }

    /// Checks that samples whose last axis has `n_channels` can be preprocessed.
    ///
    /// # Errors
    ///
    /// A preprocessing of colours for samples without three channels.
    pub fn check(self, n_channels: usize) -> Result<(), CalibrationError> {
        let of_colours = match self {
            Self::Caffe | Self::Torch => true,
            Self::None | Self::Tf | Self::Affine { .. } => false,
        };
        if of_colours && n_channels != 3 {
            return Err(CalibrationError::Source(format!(
                "preprocessing {self} needs three channels, the samples have {n_channels}"
            )));
        }
        Ok(())
    }
}

impl std::fmt::Display for Preprocess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Tf => f.write_str("tf"),
            Self::Caffe => f.write_str("caffe"),
            Self::Torch => f.write_str("torch"),
            Self::Affine { scale, offset } => write!(f, "{scale},{offset}"),
        }
    }
}

impl FromStr for Preprocess {
    type Err = CalibrationError;

    fn from_str(text: &str) -> Result<Self, CalibrationError> {
        let affine = |text: &str| {
            let (scale, offset) = text.split_once(',')?;
            let number = |text: &str| text.trim().parse().ok().filter(|x: &f32| x.is_finite());
            Some(Self::Affine {
                scale: number(scale)?,
                offset: number(offset)?,
            })
        };
        match text {
            "none" => Ok(Self::None),
            "tf" => Ok(Self::Tf),
            "caffe" => Ok(Self::Caffe),
            "torch" => Ok(Self::Torch),
            other => affine(other).ok_or_else(|| {
                CalibrationError::Source(format!(
                    "no preprocessing `{other}`: use none, tf, caffe, torch, or two numbers \
                     scale,offset"
                ))
            }),
        }
    }
}

/// Samples with a preprocessing; they are floats.
pub struct PreprocessedSource {
    source: Box<dyn SampleSource>,
    preprocess: Preprocess,
}

impl std::fmt::Debug for PreprocessedSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreprocessedSource")
            .field("preprocess", &self.preprocess)
            .finish_non_exhaustive()
    }
}

impl PreprocessedSource {
    /// Returns `source` with a preprocessing.
    ///
    /// # Errors
    ///
    /// A preprocessing of colours for samples without three channels.
    pub fn new(
        source: Box<dyn SampleSource>,
        preprocess: Preprocess,
    ) -> Result<Self, CalibrationError> {
        preprocess.check(n_channels(source.item_shape()))?;
        Ok(Self { source, preprocess })
    }
}

fn n_channels(shape: &[usize]) -> usize {
    shape.last().copied().unwrap_or(1)
}

impl SampleSource for PreprocessedSource {
    fn n_samples(&self) -> usize {
        self.source.n_samples()
    }

    fn item_shape(&self) -> &[usize] {
        self.source.item_shape()
    }

    fn is_integer(&self) -> bool {
        self.preprocess == Preprocess::None && self.source.is_integer()
    }

    fn is_random(&self) -> bool {
        self.source.is_random()
    }

    fn skipped(&self) -> &[Skipped] {
        self.source.skipped()
    }

    fn rewind(&mut self) -> Result<(), CalibrationError> {
        self.source.rewind()
    }

    fn next_batch(&mut self, n: usize) -> Result<ArrayD<f32>, CalibrationError> {
        let batch = self.source.next_batch(n)?;
        let shape = batch.raw_dim();
        let channels = n_channels(self.source.item_shape());
        // A batch in another order than rows first is copied into it.
        let mut values: Vec<f32> = if batch.is_standard_layout() {
            batch.into_raw_vec_and_offset().0
        } else {
            batch.iter().copied().collect()
        };
        self.preprocess.apply(&mut values, channels)?;
        ArrayD::from_shape_vec(shape, values).map_err(|e| CalibrationError::Source(e.to_string()))
    }
}
