//! Where samples come from.

use float_model::MAX_BATCH_VALUES;
use ndarray::{ArrayD, Axis, IxDyn, Slice};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::CalibrationError;

/// A sample that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its place among all samples.
    pub index: usize,
    /// Its name, and why.
    pub message: String,
}

/// A stream of samples that can be read again from its start.
///
/// Only the batch that is asked for is in memory.
pub trait SampleSource {
    /// Returns the number of samples, those that will be left out included.
    fn n_samples(&self) -> usize;

    /// Returns the extents of one sample.
    fn item_shape(&self) -> &[usize];

    /// Returns whether the samples are integers.
    fn is_integer(&self) -> bool;

    /// Returns whether the samples are random numbers, not data.
    fn is_random(&self) -> bool {
        false
    }

    /// Returns the samples that were left out so far, in order.
    ///
    /// A batch holds the samples that follow those of the batch before, without these.
    fn skipped(&self) -> &[Skipped] {
        &[]
    }

    /// Goes back to the first sample.
    ///
    /// # Errors
    ///
    /// The samples cannot be read.
    fn rewind(&mut self) -> Result<(), CalibrationError>;

    /// Returns the next samples, `[batch, ...]`: at most `n`, none at the end.
    ///
    /// # Errors
    ///
    /// The samples cannot be read.
    fn next_batch(&mut self, n: usize) -> Result<ArrayD<f32>, CalibrationError>;
}

/// Checks that a batch of `n` samples of these extents can be made.
///
/// # Errors
///
/// It has more than [`MAX_BATCH_VALUES`].
pub fn check_batch(n: usize, item_shape: &[usize]) -> Result<(), CalibrationError> {
    let n_values = item_shape.iter().try_fold(n, |n, e| n.checked_mul(*e));
    if n_values.is_some_and(|n| n <= MAX_BATCH_VALUES) {
        return Ok(());
    }
    Err(CalibrationError::Source(format!(
        "a batch of {n} samples of {item_shape:?} is more than a batch can be: give a smaller one"
    )))
}

/// Samples in memory.
#[derive(Clone, Debug)]
pub struct ArraySource {
    samples: ArrayD<f32>,
    item_shape: Vec<usize>,
    holds_integers: bool,
    next: usize,
}

impl ArraySource {
    /// Returns the source of `samples`, `[samples, ...]`, that are floats.
    #[must_use]
    pub fn floats(samples: ArrayD<f32>) -> Self {
        let item_shape = samples.shape().get(1..).unwrap_or_default().to_vec();
        Self {
            samples,
            item_shape,
            holds_integers: false,
            next: 0,
        }
    }

    /// Returns the source of `samples`, `[samples, ...]`, that are whole numbers.
    #[must_use]
    pub fn integers(samples: ArrayD<f32>) -> Self {
        Self {
            holds_integers: true,
            ..Self::floats(samples)
        }
    }
}

impl SampleSource for ArraySource {
    fn n_samples(&self) -> usize {
        self.samples.shape().first().copied().unwrap_or(0)
    }

    fn item_shape(&self) -> &[usize] {
        &self.item_shape
    }

    fn is_integer(&self) -> bool {
        self.holds_integers
    }

    fn rewind(&mut self) -> Result<(), CalibrationError> {
        self.next = 0;
        Ok(())
    }

    fn next_batch(&mut self, n: usize) -> Result<ArrayD<f32>, CalibrationError> {
        let end = self.n_samples().min(self.next.saturating_add(n));
        let batch = self
            .samples
            .slice_axis(Axis(0), Slice::from(self.next..end))
            .to_owned();
        self.next = end;
        Ok(batch)
    }
}

/// Range of random integers, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntegerRange {
    /// Smallest integer.
    pub low: i32,
    /// Largest integer.
    pub high: i32,
}

/// Uniform random integers from a seeded generator (NUMERICS.md: C3).
///
/// ```text
/// x = low + floor(u * (high - low + 1) / 2^32)
/// ```
///
/// where `u` are the 32-bit words of `ChaCha8` whose key is the seed (`seed_from_u64`). The same
/// samples come again after each rewind, on every machine.
#[derive(Clone, Debug)]
pub struct RandomSource {
    seed: u64,
    rng: ChaCha8Rng,
    range: IntegerRange,
    n_samples: usize,
    item_shape: Vec<usize>,
    next: usize,
}

impl RandomSource {
    /// Returns a source of `n_samples` samples of extents `item_shape`.
    #[must_use]
    pub fn new(seed: u64, range: IntegerRange, n_samples: usize, item_shape: Vec<usize>) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Self {
            seed,
            rng,
            range,
            n_samples,
            item_shape,
            next: 0,
        }
    }

    /// Returns the next `n` numbers.
    ///
    /// The generator's words come in blocks: many at a time cost less than one by one, and are the same.
    fn draw(&mut self, n: usize) -> Vec<f32> {
        let mut numbers = Vec::with_capacity(n);
        let mut block = [0; 4 * WORDS];
        while numbers.len() < n {
            let bytes = &mut block[..4 * WORDS.min(n - numbers.len())];
            self.rng.fill_bytes(bytes);
            let words = bytes.as_chunks().0.iter().copied().map(u32::from_le_bytes);
            numbers.extend(words.map(|word| self.range.scaled(word)));
        }
        numbers
    }
}

/// Words that are drawn together.
const WORDS: usize = 256;

impl IntegerRange {
    /// Returns the integer of the range that a random word stands for.
    #[expect(
        clippy::cast_precision_loss,
        reason = "16-bit integers are exact in a float32"
    )]
    fn scaled(self, word: u32) -> f32 {
        let span = i64::from(self.high) - i64::from(self.low) + 1;
        let scaled = (i64::from(word) * span) >> 32;
        (i64::from(self.low) + scaled) as f32
    }
}

impl SampleSource for RandomSource {
    fn n_samples(&self) -> usize {
        self.n_samples
    }

    fn item_shape(&self) -> &[usize] {
        &self.item_shape
    }

    fn is_integer(&self) -> bool {
        true
    }

    fn is_random(&self) -> bool {
        true
    }

    fn rewind(&mut self) -> Result<(), CalibrationError> {
        self.rng = ChaCha8Rng::seed_from_u64(self.seed);
        self.next = 0;
        Ok(())
    }

    fn next_batch(&mut self, n: usize) -> Result<ArrayD<f32>, CalibrationError> {
        let n = n.min(self.n_samples - self.next);
        check_batch(n, &self.item_shape)?;
        self.next += n;
        let shape: Vec<usize> = std::iter::once(n).chain(self.item_shape.clone()).collect();
        let numbers = self.draw(shape.iter().product());
        ArrayD::from_shape_vec(IxDyn(&shape), numbers)
            .map_err(|error| CalibrationError::Source(error.to_string()))
    }
}
