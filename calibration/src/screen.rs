//! Samples that are left out because they hold a NaN or an infinity.

use ndarray::{ArrayD, Axis};

use crate::run::every;
use crate::{CalibrationError, SampleSource, Skipped};

/// Samples without those that hold a NaN or an infinity.
pub struct FiniteSource {
    source: Box<dyn SampleSource>,
    /// Samples that were read since the last rewind, left out or not.
    n_read: usize,
    // Invariant: sorted by index, no index twice.
    skipped: Vec<Skipped>,
}

impl std::fmt::Debug for FiniteSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FiniteSource")
            .field("skipped", &self.skipped)
            .finish_non_exhaustive()
    }
}

impl FiniteSource {
    /// Returns the finite samples of `source`, which itself leaves out none.
    #[must_use]
    pub const fn new(source: Box<dyn SampleSource>) -> Self {
        Self {
            source,
            n_read: 0,
            skipped: Vec::new(),
        }
    }

    fn skip(&mut self, index: usize) {
        let place = self.skipped.binary_search_by_key(&index, |s| s.index);
        if let Err(place) = place {
            let message = format!("sample {index} holds a NaN or an infinity");
            self.skipped.insert(place, Skipped { index, message });
        }
    }
}

impl SampleSource for FiniteSource {
    fn n_samples(&self) -> usize {
        self.source.n_samples()
    }

    fn item_shape(&self) -> &[usize] {
        self.source.item_shape()
    }

    fn is_integer(&self) -> bool {
        self.source.is_integer()
    }

    fn is_random(&self) -> bool {
        self.source.is_random()
    }

    fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    fn rewind(&mut self) -> Result<(), CalibrationError> {
        self.n_read = 0;
        self.source.rewind()
    }

    fn next_batch(&mut self, n: usize) -> Result<ArrayD<f32>, CalibrationError> {
        let mut finite: Option<ArrayD<f32>> = None;
        loop {
            let taken = finite.as_ref().map_or(0, |batch| batch.len_of(Axis(0)));
            let batch = self.source.next_batch(n - taken)?;
            let n_items = batch.len_of(Axis(0));
            let mut keep = Vec::with_capacity(n_items);
            for (i, item) in batch.outer_iter().enumerate() {
                if every(&item, f32::is_finite) {
                    keep.push(i);
                } else {
                    self.skip(self.n_read + i);
                }
            }
            self.n_read += n_items;
            let kept = if keep.len() == n_items {
                batch
            } else {
                batch.select(Axis(0), &keep)
            };
            finite = Some(match finite {
                None => kept,
                Some(finite) => ndarray::concatenate(Axis(0), &[finite.view(), kept.view()])
                    .map_err(|e| CalibrationError::Source(e.to_string()))?,
            });
            if let Some(finite) = finite.take_if(|batch| n_items == 0 || batch.len_of(Axis(0)) == n)
            {
                return Ok(finite);
            }
        }
    }
}
