//! What the steps of a layer came to, from the ends of its sums.

use crate::dispatch::{InstructionSet, Job, dispatch};
use crate::finish::{Extremes, Finish};
use crate::isa::Kernels;
use crate::narrow::{NarrowCounts, Steps};

/// What the steps of a layer came to whose sums were finished in one pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// What each step clipped, only the last one, and the largest magnitudes before.
    pub counts: NarrowCounts,
    /// The least result of each channel.
    pub least: Vec<i32>,
    /// The largest result of each channel.
    pub most: Vec<i32>,
}

/// The steps as they are defined, for the ends of the sums: one entry a channel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exact {
    /// Ends of the rectifier, those of an `i32` without one.
    floor: Vec<i32>,
    top: Vec<i32>,
    scale: Vec<i64>,
    half: Vec<i64>,
    right: Vec<u64>,
    /// Sums with bias between which no step but the last clips.
    safe_least: Vec<i32>,
    safe_most: Vec<i32>,
}

impl Exact {
    /// Returns the steps, which [`Finish::new`] accepts.
    pub(crate) fn new(steps: &Steps, channels: usize) -> Self {
        let top = |c: usize| steps.rectify.as_ref().map(|tops| tops[c]);
        let right = |c: usize| {
            let shifts = steps.shift.as_ref();
            u64::from(shifts.map_or(0, |(shifts, _)| shifts[c].unsigned_abs()))
        };
        let scale = |c: usize| steps.scale.as_ref().map_or(1, |(scale, _)| scale[c]);
        let safe = (0..channels).map(|c| safe_sums(steps, c));
        let (safe_least, safe_most) = safe.unzip();
        Self {
            floor: (0..channels)
                .map(|c| top(c).map_or(i32::MIN, |_| 0))
                .collect(),
            top: (0..channels)
                .map(|c| top(c).map_or(i32::MAX, clamped))
                .collect(),
            scale: (0..channels).map(scale).collect(),
            half: (0..channels)
                .map(|c| (1_i64 << right(c)).div_euclid(2))
                .collect(),
            right: (0..channels).map(right).collect(),
            safe_least,
            safe_most,
        }
    }
}

impl Kernels {
    /// Returns what the steps of `finish` came to if their sums came to `extremes`, `None` if a step before the last
    /// clipped one, or any without a shift: then the results are wrong. NUMERICS.md E2.
    ///
    /// # Panics
    ///
    /// Panics if `extremes` are those of another number of channels.
    #[must_use]
    pub fn summarize(self, finish: &Finish, extremes: &Extremes) -> Option<Summary> {
        let n = finish.channels();
        assert!(
            extremes.least.len() >= n && extremes.most.len() >= n,
            "the ends of each channel"
        );
        let mut summary = Summary {
            least: vec![0; n],
            most: vec![0; n],
            ..Summary::default()
        };
        summary.counts.shift.n = extremes.clipped;
        let mut is_safe = true;
        let ends = [&extremes.least, &extremes.most];
        let Summary {
            counts,
            least,
            most,
        } = &mut summary;
        for (sums, results) in ends.into_iter().zip([least, most]) {
            let mut largest = [0; 4];
            dispatch(
                self,
                End {
                    finish,
                    sums: &sums[..n],
                    results,
                    largest: &mut largest,
                    is_safe: &mut is_safe,
                },
            );
            let steps = [
                &mut counts.sum,
                &mut counts.bias,
                &mut counts.scale,
                &mut counts.shift,
            ];
            for (step, largest) in steps.into_iter().zip(largest) {
                step.max_abs = step.max_abs.max(largest);
            }
        }
        is_safe.then_some(summary)
    }
}

/// One end of each channel's sums, bias added.
struct End<'a> {
    finish: &'a Finish,
    sums: &'a [i32],
    results: &'a mut [i32],
    /// Magnitudes of the sum, the sum with bias, the product and the shifted product.
    largest: &'a mut [u64; 4],
    is_safe: &'a mut bool,
}

impl Job for End<'_> {
    fn n_columns(&self) -> usize {
        self.sums.len()
    }

    #[inline(always)]
    fn run<S: InstructionSet, const P: usize, const N: usize>(self, _set: S) {
        let n = self.sums.len();
        let Finish {
            bias,
            least,
            most,
            scale,
            half,
            right,
            exact,
            ..
        } = self.finish;
        let (least, most, scale) = (&least[..n], &most[..n], &scale[..n]);
        let (half, right, results) = (&half[..n], &right[..n], &mut self.results[..n]);
        let (safe_least, safe_most) = (&exact.safe_least[..n], &exact.safe_most[..n]);
        let mut unsafe_sums = 0_u32;
        for c in 0..n {
            let v = self.sums[c];
            unsafe_sums |= u32::from(v < safe_least[c]) | u32::from(v > safe_most[c]);
            // As in `finish`: only the sum with the half stays in an `i32`.
            let scaled = v.max(least[c]).min(most[c]).wrapping_mul(scale[c]);
            results[c] = scaled.wrapping_add(half[c]) >> right[c];
        }
        *self.is_safe &= unsafe_sums == 0;
        let (bias, floor, top) = (&bias[..n], &exact.floor[..n], &exact.top[..n]);
        let (scale, half, right) = (&exact.scale[..n], &exact.half[..n], &exact.right[..n]);
        let (mut sums, mut products) = ([0; 2], [0; 2]);
        for c in 0..n {
            let v = self.sums[c];
            // The bias was added to a sum that is an `i32`.
            sums[0] = sums[0].max(v.wrapping_sub(bias[c]).unsigned_abs());
            sums[1] = sums[1].max(v.unsigned_abs());
            let product = i64::from(v.max(floor[c]).min(top[c])) * scale[c];
            let shifted = (product + half[c]) >> right[c];
            products[0] = products[0].max(product.unsigned_abs());
            products[1] = products[1].max(shifted.unsigned_abs());
        }
        let [sum, with_bias] = sums.map(u64::from);
        *self.largest = [sum, with_bias, products[0], products[1]];
    }
}

/// Returns the least and the largest sum, bias added, at which no step but the last clips.
fn safe_sums(steps: &Steps, channel: usize) -> (i32, i32) {
    let bias = steps.bias.as_ref().map_or(0, |(bias, _)| bias[channel]);
    let (mut least, mut most) = (i64::from(i32::MIN), i64::from(i32::MAX));
    let mut within = |lo: i64, hi: i64| (least, most) = (least.max(lo), most.min(hi));
    if let Some(limit) = steps.sum {
        within(limit.lo.saturating_add(bias), limit.hi.saturating_add(bias));
    }
    if let Some((_, limit)) = &steps.bias {
        within(limit.lo, limit.hi);
    }
    let top = steps.rectify.as_ref().map(|tops| tops[channel]);
    if let Some((scale, limit)) = &steps.scale
        && let q @ 1.. = scale[channel]
    {
        // Products grow with their sums: what the rectifier cuts off cannot clip.
        let (lo, hi) = (
            -(limit.lo.saturating_neg().div_euclid(q)),
            limit.hi.div_euclid(q),
        );
        let lo = if top.is_some() { i64::MIN } else { lo };
        let hi = if top.is_some_and(|top| top <= hi) {
            i64::MAX
        } else {
            hi
        };
        within(lo, hi);
    }
    (clamped(least), clamped(most))
}

fn clamped(v: i64) -> i32 {
    i32::try_from(v).unwrap_or(if v < 0 { i32::MIN } else { i32::MAX })
}
