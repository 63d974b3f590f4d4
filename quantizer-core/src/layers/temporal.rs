//! Layers that remember earlier frames or time steps (NUMERICS.md: N28, N29).

use ndarray::{Array2, ArrayD, Axis, IxDyn, Slice, concatenate};

use super::RecurrentOp;
use crate::bits::ValueBits;
use crate::counters::{Counters, Stage};
use crate::round::shift_half_up;
use crate::{NumericsError, StageCount};

/// What a temporal layer remembers; empty before the first frame.
///
/// A BufferTempConv keeps its last frames, `[batch, height, width, (frames - 1) * channels]`, a
/// StatefulRecurrent its state, `[batch, channels, 2]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory(Option<ArrayD<i64>>);

impl Memory {
    /// Returns the window of the last `n_frames` frames, `[..., n_frames * channels]`, the oldest
    /// first, and remembers `frame`, `[..., channels]`. Frames before the first are zeros.
    ///
    /// # Errors
    ///
    /// A frame of other extents than the one before, or no frame at all.
    pub fn push(
        &mut self,
        frame: &ArrayD<i64>,
        n_frames: usize,
    ) -> Result<ArrayD<i64>, NumericsError> {
        let refused = |message: &str| NumericsError::Invalid(message.to_owned());
        let kept = n_frames
            .checked_sub(1)
            .ok_or_else(|| refused("a window of no frame"))?;
        let last = Axis(frame.ndim().saturating_sub(1));
        let channels = frame.shape().last().copied().unwrap_or(0);
        let past = self.0.take().unwrap_or_else(|| {
            let mut extents = frame.shape().to_vec();
            if let Some(n) = extents.last_mut() {
                *n *= kept;
            }
            ArrayD::zeros(IxDyn(&extents))
        });
        let window = concatenate(last, &[past.view(), frame.view()])
            .map_err(|_| refused("a frame of other extents than the one before"))?;
        if window.shape().last() != Some(&(n_frames * channels)) {
            return Err(refused("a frame of other extents than the one before"));
        }
        let rest = Slice::from(channels..);
        self.0 = Some(window.slice_axis(last, rest).to_owned());
        Ok(window)
    }

    /// Returns the state `[batch, channels, 2]`, zeros before the first time step.
    fn state(&mut self, batch: usize, channels: usize) -> Result<ArrayD<i64>, NumericsError> {
        let extents = [batch, channels, 2];
        let state = self
            .0
            .take()
            .unwrap_or_else(|| ArrayD::zeros(IxDyn(&extents)));
        if state.shape() == extents {
            return Ok(state);
        }
        Err(NumericsError::Invalid(
            "a batch of other extents than the one before".to_owned(),
        ))
    }
}

/// Returns the sums over the frames of `window`, `[..., frames * channels]`, each product
/// saturated on its own.
pub(super) fn depthwise_frames(
    window: &ArrayD<i64>,
    kernel: &Array2<i32>,
    bits: ValueBits,
    counters: &mut Counters,
) -> Result<ArrayD<i64>, NumericsError> {
    let (n_frames, channels) = kernel.dim();
    let mut extents = window.shape().to_vec();
    if extents.pop() != Some(n_frames * channels) {
        return Err(NumericsError::Invalid(format!(
            "a frame of shape {:?} for {channels} channels",
            window.shape()
        )));
    }
    extents.push(channels);
    let flat: Vec<i64> = window.iter().copied().collect();
    let mut count = StageCount::default();
    let mut sums = Vec::with_capacity(extents.iter().product());
    for pixel in flat.chunks_exact((n_frames * channels).max(1)) {
        for ch in 0..channels {
            let products = (0..n_frames).map(|t| {
                let product = pixel[t * channels + ch] * i64::from(kernel[[t, ch]]);
                count.saturate(product, bits)
            });
            sums.push(products.sum::<i64>());
        }
    }
    counters.add(Stage::Product, count);
    ArrayD::from_shape_vec(IxDyn(&extents), sums).map_err(|e| NumericsError::Invalid(e.to_string()))
}

/// Returns the states `[batch, time, channels, 2]` for inputs `[batch, time, channels]`.
pub(super) fn recur(
    x: &ArrayD<i64>,
    op: &RecurrentOp,
    bits: ValueBits,
    memory: &mut Memory,
    counters: &mut Counters,
) -> Result<ArrayD<i64>, NumericsError> {
    let &[batch, time, channels] = x.shape() else {
        return Err(NumericsError::Invalid(format!(
            "time steps of shape {:?}",
            x.shape()
        )));
    };
    if op.factors.iter().any(|part| part.len() != channels) {
        return Err(NumericsError::Invalid(format!("{channels} channels")));
    }
    let mut state = memory.state(batch, channels)?;
    let mut states = ArrayD::zeros(IxDyn(&[batch, time, channels, 2]));
    for b in 0..batch {
        for t in 0..time {
            for c in 0..channels {
                let input = op.aligned(x[[b, t, c]], c, bits, counters);
                let old = [state[[b, c, 0]], state[[b, c, 1]]];
                let new = op.step(old, input, c, bits, counters);
                for (part, v) in new.into_iter().enumerate() {
                    state[[b, c, part]] = v;
                    states[[b, t, c, part]] = v;
                }
            }
        }
    }
    memory.0 = Some(state);
    Ok(states)
}

/// Returns every `subsample`-th time step of `[batch, time, ...]`, the last of each group.
pub(super) fn subsampled(x: &ArrayD<i64>, subsample: usize) -> Result<ArrayD<i64>, NumericsError> {
    let time = x.shape().get(1).copied().unwrap_or(0);
    if x.ndim() < 3 || time.checked_rem(subsample) != Some(0) {
        return Err(NumericsError::Invalid(format!(
            "time steps of shape {:?} in groups of {subsample}",
            x.shape()
        )));
    }
    let step = isize::try_from(subsample).unwrap_or(isize::MAX);
    let start = step - 1;
    Ok(x.slice_axis(Axis(1), Slice::new(start, None, step))
        .to_owned())
}

impl RecurrentOp {
    /// Returns an input at the binary point of the sums.
    fn aligned(&self, x: i64, c: usize, bits: ValueBits, counters: &mut Counters) -> i64 {
        let scaled = match &self.multiplier {
            None => x,
            Some(q) => counters.saturate(Stage::ScaleMultiply, x.saturating_mul(q.at(c)), bits),
        };
        let shifted = shift_half_up(scaled, self.input_shift.at(c));
        counters.saturate(Stage::StateAlign, shifted, bits)
    }

    /// Returns the next real and imaginary parts of channel `c`.
    fn step(
        &self,
        [re, im]: [i64; 2],
        x: i64,
        c: usize,
        bits: ValueBits,
        counters: &mut Counters,
    ) -> [i64; 2] {
        let [ar, ai] = [self.factors[0][c], self.factors[1][c]];
        let mut product = |a: i64, b: i64| counters.saturate(Stage::Product, a * b, bits);
        let [rr, ii, ri, ir] = [
            product(re, ar),
            product(im, ai),
            product(re, ai),
            product(im, ar),
        ];
        let difference = counters.saturate(Stage::StateSum, rr - ii, bits);
        let real = counters.saturate(Stage::StateSum, difference + x, bits);
        let imag = counters.saturate(Stage::StateSum, ri + ir, bits);
        [real, imag].map(|v| self.state.apply(v, 0, counters))
    }
}
