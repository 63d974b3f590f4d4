//! Extremes of batches: moving (NUMERICS.md: C1) and running ones (C7).

use kernels::Kernels;
use ndarray::ArrayD;
use quantizer_core::PerAxis;

use super::{Observer, ObserverKind};
use crate::{Granularity, InputRange};

/// Weight of a new batch: `fl(1.0 - 0.9)`, the subtraction in f64, as in the reference.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the one rounding to float32"
)]
const DELTA: f32 = (1.0_f64 - 0.9) as f32;

/// A moving maximum (or minimum) of batches.
///
/// ```text
/// first batch: r = m
/// then:        r = fl(r - fl(fl(r - m) * fl(1 - 0.9)))
/// ```
///
/// All in f32, not fused. The reference tells the first batch by its state being exactly 1.0, and
/// so forgets a first batch of 1.0; here it is a flag. NUMERICS.md: C1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MovingMax {
    state: Option<PerAxis<f32>>,
}

impl MovingMax {
    /// Takes the extremes `batch` of the next batch, always of the same form.
    pub fn update(&mut self, batch: PerAxis<f32>) {
        self.state = Some(match &self.state {
            None => batch,
            Some(state) => state.zip(&batch, |r, m| r - (r - m) * DELTA),
        });
    }

    /// Returns the current extremes, `None` before the first batch.
    #[must_use]
    pub const fn get(&self) -> Option<&PerAxis<f32>> {
        self.state.as_ref()
    }
}

/// Extremes over all batches so far.
#[derive(Clone, Debug)]
pub(crate) enum Running {
    Moving(MovingMax),
    Max(Option<PerAxis<f32>>),
    Min(Option<PerAxis<f32>>),
}

impl Running {
    pub(crate) fn moving() -> Self {
        Self::Moving(MovingMax::default())
    }

    pub(crate) const fn max() -> Self {
        Self::Max(None)
    }

    /// Takes the extremes of the next batch.
    fn update(&mut self, batch: PerAxis<f32>) {
        match self {
            Self::Moving(state) => state.update(batch),
            Self::Max(state) => *state = Some(folded(state.as_ref(), batch, f32::max)),
            Self::Min(state) => *state = Some(folded(state.as_ref(), batch, f32::min)),
        }
    }

    const fn get(&self) -> Option<&PerAxis<f32>> {
        match self {
            Self::Moving(state) => state.get(),
            Self::Max(state) | Self::Min(state) => state.as_ref(),
        }
    }
}

fn folded(
    state: Option<&PerAxis<f32>>,
    batch: PerAxis<f32>,
    f: impl FnMut(f32, f32) -> f32,
) -> PerAxis<f32> {
    match state {
        None => batch,
        Some(state) => state.zip(&batch, f),
    }
}

/// The extreme magnitudes of outputs.
#[derive(Debug)]
pub(super) struct Magnitudes {
    granularity: Granularity,
    state: Running,
}

impl Magnitudes {
    pub(super) const fn new(granularity: Granularity, state: Running) -> Self {
        Self { granularity, state }
    }
}

impl Observer for Magnitudes {
    fn update(&mut self, outputs: &ArrayD<f32>) {
        let largest = magnitudes(outputs, self.granularity);
        self.state.update(largest.map(f32::from_bits));
    }

    fn range(&self) -> Option<PerAxis<f32>> {
        self.state.get().cloned()
    }

    fn takes_magnitudes(&self) -> Option<Granularity> {
        Some(self.granularity)
    }

    fn update_magnitudes(&mut self, largest: PerAxis<f32>) {
        self.state.update(largest);
    }
}

/// The extremes of a model's input.
///
/// Moving ones for the moving maximum, else those of all samples: a percentile of an input would
/// clip it, and an input has bounds of its own.
#[derive(Debug)]
pub(crate) struct InputObserver {
    granularity: Granularity,
    min: Running,
    max: Running,
}

impl InputObserver {
    pub(crate) fn new(granularity: Granularity, kind: ObserverKind) -> Self {
        let (min, max) = match kind {
            ObserverKind::MovingMax => (Running::moving(), Running::moving()),
            ObserverKind::Max | ObserverKind::Percentile(_) | ObserverKind::Mse => {
                (Running::Min(None), Running::max())
            }
        };
        Self {
            granularity,
            min,
            max,
        }
    }

    pub(crate) fn update(&mut self, batch: &ArrayD<f32>) {
        let of = |start, f: fn(f32, f32) -> f32| extremes(batch, self.granularity, start, f);
        let (min, max) = (of(f32::INFINITY, f32::min), of(f32::NEG_INFINITY, f32::max));
        self.min.update(min);
        self.max.update(max);
    }

    pub(crate) fn range(&self) -> Option<InputRange> {
        let (min, max) = self.min.get().cloned().zip(self.max.get().cloned())?;
        Some(InputRange { min, max })
    }
}

/// Returns the bits of the largest magnitudes: infinity is above all numbers, and NaN above it.
pub(super) fn magnitudes(x: &ArrayD<f32>, granularity: Granularity) -> PerAxis<u32> {
    let n_channels = x.shape().last().copied().unwrap_or(1).max(1);
    let x = x.as_standard_layout();
    let mut largest = vec![0; n_channels];
    Kernels::active().largest_magnitudes(x.as_slice().unwrap_or_default(), &mut largest);
    of_channels(largest, granularity)
}

/// Returns the range that goes with the largest magnitudes of the channels, bits as of [`magnitudes`].
pub(crate) fn of_channels(largest: Vec<u32>, granularity: Granularity) -> PerAxis<u32> {
    match granularity {
        Granularity::PerTensor => PerAxis::Tensor(largest.into_iter().max().unwrap_or(0)),
        Granularity::PerAxis => PerAxis::Axis(largest),
    }
}

/// Folds `f` over the tensor, or over each channel.
fn extremes(
    x: &ArrayD<f32>,
    granularity: Granularity,
    start: f32,
    f: impl Fn(f32, f32) -> f32,
) -> PerAxis<f32> {
    match granularity {
        Granularity::PerTensor => PerAxis::Tensor(x.iter().copied().fold(start, f)),
        Granularity::PerAxis => {
            let n_channels = x.shape().last().copied().unwrap_or(1);
            let mut ranges = vec![start; n_channels];
            let x = x.as_standard_layout();
            let flat = x.as_slice().unwrap_or_default();
            for pixel in flat.chunks_exact(n_channels.max(1)) {
                for (range, v) in ranges.iter_mut().zip(pixel) {
                    *range = f(*range, *v);
                }
            }
            PerAxis::Axis(ranges)
        }
    }
}
