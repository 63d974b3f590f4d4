//! How samples become batches (NUMERICS.md: C2).

use crate::CalibrationError;

/// Batches of a calibration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPlan {
    /// Samples in a batch; the last one of an epoch can be smaller.
    pub batch_size: usize,
    /// Batches in an epoch.
    pub steps: usize,
    /// Passes over the samples.
    pub epochs: usize,
}

impl BatchPlan {
    /// Returns the plan for `num_samples` of `available` samples.
    ///
    /// ```text
    /// steps = ceil(num_samples / batch_size)
    /// ```
    ///
    /// As in the reference the last batch is whole where samples are left: 3 samples in batches of
    /// 4 use 4 samples. NUMERICS.md: C2.
    ///
    /// # Errors
    ///
    /// A zero, or more samples asked for than there are.
    pub fn new(
        available: usize,
        num_samples: usize,
        batch_size: usize,
        epochs: usize,
    ) -> Result<Self, CalibrationError> {
        let numbers = [
            ("the number of samples", num_samples),
            ("the batch size", batch_size),
            ("the number of epochs", epochs),
        ];
        if let Some((what, _)) = numbers.into_iter().find(|(_, n)| *n == 0) {
            return Err(CalibrationError::Zero { what });
        }
        if num_samples > available {
            return Err(CalibrationError::TooFewSamples {
                asked: num_samples,
                available,
            });
        }
        Ok(Self {
            batch_size,
            steps: num_samples.div_ceil(batch_size),
            epochs,
        })
    }
}

/// Returns the batch size that the reference takes when none is given.
///
/// ```text
/// ceil(available / num_samples)
/// ```
///
/// With all samples asked for, these are batches of one: each sample weighs a tenth, and the
/// result depends on about the last twenty. NUMERICS.md: C2.
#[must_use]
pub fn reference_batch_size(available: usize, num_samples: usize) -> usize {
    available.div_ceil(num_samples.max(1)).max(1)
}
