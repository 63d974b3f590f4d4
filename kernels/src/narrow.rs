//! What happens to integer sums before they leave a layer: saturation, bias, rectifier, integer scale, shift.
//!
//! Each step is one pass over a block that stays in the cache nearest to the core, in `i64`, so that the compiler
//! turns it into vectors; the blocks hold a whole number of pixels, so the per-channel numbers of a step lie beside
//! the values that they meet.

use crate::chain::Activation;
use crate::dispatch::{InstructionSet, Job, dispatch};
use crate::isa::Kernels;

/// Values that a block holds at least, unless there are fewer.
const BLOCK: usize = 512;

/// A closed range to which values saturate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Least value.
    pub lo: i64,
    /// Largest value.
    pub hi: i64,
}

/// The steps of a layer, in this order, each of them optional. Numbers are one a channel.
///
/// ```text
/// v = saturate(v, sum)
/// v = saturate(v + bias)
/// v = min(max(v, 0), top)
/// v = saturate(v * scale)
/// v = saturate((v << left + half) >> right), half = 2^(right - 1), or 0 where right is 0
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Range of the sums.
    pub sum: Option<Limit>,
    /// Bias, and the range of its sum.
    pub bias: Option<(Vec<i64>, Limit)>,
    /// Upper end of a rectifier, `i64::MAX` where it has none.
    pub rectify: Option<Vec<i64>>,
    /// Integer scale, and the range of the products.
    pub scale: Option<(Vec<i64>, Limit)>,
    /// Shift, left if positive and right with a half rounded up if negative, and the range of the results.
    pub shift: Option<(Vec<i32>, Limit)>,
}

/// [`Steps`] made ready for blocks of pixels.
#[derive(Clone, Debug)]
pub struct Narrowing {
    channels: usize,
    /// Values of a block: a multiple of the channels.
    block: usize,
    sum: Option<Limit>,
    bias: Option<(Vec<i64>, Limit)>,
    rectify: Option<Vec<i64>>,
    scale: Option<(Vec<i64>, Limit)>,
    shift: Option<(Shift, Limit)>,
}

/// A shift as a product, a sum and a shift to the right.
#[derive(Clone, Debug)]
struct Shift {
    factor: Vec<i64>,
    half: Vec<i64>,
    right: Vec<u32>,
}

/// Values that were clipped at a step, and the largest magnitude before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clipped {
    /// How many values did not fit.
    pub n: u64,
    /// The largest magnitude.
    pub max_abs: u64,
}

/// What was clipped at each step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NarrowCounts {
    /// At the sums.
    pub sum: Clipped,
    /// At the bias.
    pub bias: Clipped,
    /// At the scale.
    pub scale: Clipped,
    /// At the shift.
    pub shift: Clipped,
}

impl Narrowing {
    /// Returns the steps made ready for `channels` channels, or `None` if a step could leave an `i64`.
    ///
    /// `largest` bounds the magnitude of the values that come in.
    ///
    /// # Panics
    ///
    /// Panics if a step has another number of channels.
    #[must_use]
    pub fn new(steps: &Steps, channels: usize, largest: u64) -> Option<Self> {
        let block = channels * BLOCK.div_ceil(channels.max(1)).max(1);
        let spread = |values: &[i64]| -> Vec<i64> {
            assert_eq!(values.len(), channels, "one number a channel");
            values.iter().copied().cycle().take(block).collect()
        };
        let mut bound = i128::from(largest);
        let fits = |bound: i128| bound < 1 << 62;
        let after = |limit: Limit| i128::from(limit.lo.unsigned_abs().max(limit.hi.unsigned_abs()));
        if let Some(limit) = steps.sum {
            bound = bound.min(after(limit));
        }
        if let Some((bias, limit)) = &steps.bias {
            bound += bias
                .iter()
                .map(|b| i128::from(b.unsigned_abs()))
                .max()
                .unwrap_or(0);
            if !fits(bound) {
                return None;
            }
            bound = bound.min(after(*limit));
        }
        if let Some((scale, limit)) = &steps.scale {
            bound *= scale
                .iter()
                .map(|q| i128::from(q.unsigned_abs()))
                .max()
                .unwrap_or(0)
                .max(1);
            if !fits(bound) {
                return None;
            }
            bound = bound.min(after(*limit));
        }
        let shift = match &steps.shift {
            None => None,
            Some((shift, limit)) => {
                assert_eq!(shift.len(), channels, "one shift a channel");
                let left = shift.iter().copied().max().unwrap_or(0).max(0);
                let right = shift.iter().copied().min().unwrap_or(0).min(0);
                let half = 1_i128
                    .checked_shl(right.unsigned_abs())
                    .unwrap_or(i128::MAX);
                let moved = bound.checked_shl(left.unsigned_abs()).unwrap_or(i128::MAX);
                if left > 62 || right < -62 || !fits(moved.saturating_add(half)) {
                    return None;
                }
                Some((Shift::new(shift, block), *limit))
            }
        };
        Some(Self {
            channels,
            block,
            sum: steps.sum,
            bias: steps
                .bias
                .as_ref()
                .map(|(bias, limit)| (spread(bias), *limit)),
            rectify: steps.rectify.as_deref().map(spread),
            scale: steps
                .scale
                .as_ref()
                .map(|(scale, limit)| (spread(scale), *limit)),
            shift,
        })
    }

    /// Returns the number of channels.
    #[must_use]
    pub const fn channels(&self) -> usize {
        self.channels
    }
}

impl Shift {
    fn new(shift: &[i32], block: usize) -> Self {
        let left = |s: i32| 1_i64 << s.max(0).unsigned_abs();
        let right = |s: i32| s.min(0).unsigned_abs();
        let half = |s: i32| match right(s) {
            0 => 0,
            right => 1_i64 << (right - 1),
        };
        let shifts = || shift.iter().copied().cycle().take(block);
        Self {
            factor: shifts().map(left).collect(),
            half: shifts().map(half).collect(),
            right: shifts().map(right).collect(),
        }
    }
}

impl Kernels {
    /// Writes the narrowed `values`, `[pixels, channels]`, into `out` and returns what was clipped.
    ///
    /// Results that do not fit in `O` keep their low bits: the caller chooses `O` by the last range.
    ///
    /// # Panics
    ///
    /// Panics if the lengths differ or are no whole number of pixels.
    #[must_use]
    pub fn narrow<A: Activation, O: Activation>(
        self,
        narrowing: &Narrowing,
        values: &[A],
        out: &mut [O],
    ) -> NarrowCounts {
        assert_eq!(values.len(), out.len(), "a result for each value");
        assert!(
            values.len().checked_rem(narrowing.channels.max(1)) == Some(0),
            "whole pixels"
        );
        let mut counts = NarrowCounts::default();
        let mut buffer = vec![0; narrowing.block.min(values.len())];
        let blocks = values
            .chunks(narrowing.block.max(1))
            .zip(out.chunks_mut(narrowing.block.max(1)));
        for (values, out) in blocks {
            dispatch(
                self,
                Block {
                    narrowing,
                    values,
                    out,
                    buffer: &mut buffer,
                    counts: &mut counts,
                },
            );
        }
        counts
    }
}

/// One block of values.
struct Block<'a, A, O> {
    narrowing: &'a Narrowing,
    values: &'a [A],
    out: &'a mut [O],
    buffer: &'a mut [i64],
    counts: &'a mut NarrowCounts,
}

impl<A: Activation, O: Activation> Job for Block<'_, A, O> {
    fn n_columns(&self) -> usize {
        BLOCK
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(self, _set: S) {
        let Self {
            narrowing,
            values,
            out,
            buffer,
            counts,
        } = self;
        let buffer = &mut buffer[..values.len()];
        for (wide, value) in buffer.iter_mut().zip(values) {
            *wide = value.wide();
        }
        if let Some(limit) = narrowing.sum {
            saturate(buffer, limit, &mut counts.sum);
        }
        if let Some((bias, limit)) = &narrowing.bias {
            for (v, bias) in buffer.iter_mut().zip(bias) {
                *v += bias;
            }
            saturate(buffer, *limit, &mut counts.bias);
        }
        if let Some(tops) = &narrowing.rectify {
            for (v, top) in buffer.iter_mut().zip(tops) {
                *v = (*v).max(0).min(*top);
            }
        }
        if let Some((scale, limit)) = &narrowing.scale {
            for (v, scale) in buffer.iter_mut().zip(scale) {
                *v *= scale;
            }
            saturate(buffer, *limit, &mut counts.scale);
        }
        if let Some((shift, limit)) = &narrowing.shift {
            let steps = shift.factor.iter().zip(&shift.half).zip(&shift.right);
            for (v, ((factor, half), right)) in buffer.iter_mut().zip(steps) {
                *v = (*v * factor + half) >> right;
            }
            saturate(buffer, *limit, &mut counts.shift);
        }
        for (out, v) in out.iter_mut().zip(buffer) {
            *out = O::low_bits(*v);
        }
    }
}

/// Saturates the values and counts.
#[inline(always)]
fn saturate(values: &mut [i64], limit: Limit, clipped: &mut Clipped) {
    let (mut n, mut lo, mut hi) = (0_i64, 0_i64, 0_i64);
    for v in values {
        let inside = (*v).max(limit.lo).min(limit.hi);
        n += i64::from(inside != *v);
        lo = lo.min(*v);
        hi = hi.max(*v);
        *v = inside;
    }
    clipped.n += n.unsigned_abs();
    clipped.max_abs = clipped
        .max_abs
        .max(lo.unsigned_abs())
        .max(hi.unsigned_abs());
}

impl Clipped {
    /// Adds what was clipped elsewhere.
    pub fn merge(&mut self, other: Self) {
        self.n += other.n;
        self.max_abs = self.max_abs.max(other.max_abs);
    }
}

impl NarrowCounts {
    /// Adds what was clipped elsewhere; the order does not matter.
    pub fn merge(&mut self, other: &Self) {
        self.sum.merge(other.sum);
        self.bias.merge(other.bias);
        self.scale.merge(other.scale);
        self.shift.merge(other.shift);
    }
}
