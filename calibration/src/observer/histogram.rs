//! Counts of magnitudes in bins whose width follows the largest one.

use quantizer_core::log2::floor_log2;

use super::Percentile;

/// Bins of a histogram.
const BINS: usize = 1 << LOG_BINS;
const LOG_BINS: i32 = 11;

/// How often each magnitude occurs, in `BINS` bins of one width, a power of two.
///
/// ```text
/// 2^(e-1) <= max |x| < 2^e;  w = 2^(e-11);  bin of x = floor(|x| / w)
/// ```
///
/// A larger magnitude doubles `w`, and every two bins become one: the counts are those that a
/// histogram of the last width would have had from the start, so they do not depend on the order
/// of the values. Zero has a count of its own; subnormal numbers are zero, as in N4.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    zeros: u64,
    max: f32,
    /// `None` before the first magnitude above zero.
    scaled: Option<Scaled>,
}

#[derive(Clone, Debug)]
struct Scaled {
    /// `e`: all magnitudes are below `2^e`.
    exponent: i32,
    /// `1 / w`.
    bins_per_one: f64,
    // Invariant: `BINS` counts.
    counts: Vec<u64>,
}

impl Histogram {
    /// Makes room for magnitudes up to `max`.
    pub(super) fn grow(&mut self, max: f32) {
        self.max = self.max.max(max);
        let Some(log) = floor_log2(max) else { return };
        let wanted = log + 1;
        let scaled = self.scaled.get_or_insert_with(|| Scaled {
            exponent: wanted,
            bins_per_one: 0.0,
            counts: vec![0; BINS],
        });
        while scaled.exponent < wanted {
            let counts = &mut scaled.counts;
            for i in 0..BINS {
                let pair = counts.get(2 * i..2 * i + 2).unwrap_or_default();
                counts[i] = pair.iter().sum();
            }
            scaled.exponent += 1;
        }
        scaled.bins_per_one = pow2(LOG_BINS - scaled.exponent);
    }

    /// Counts a value whose magnitude there is room for.
    pub(super) fn count(&mut self, value: f32) {
        let magnitude = value.abs();
        let bin = self
            .scaled
            .as_mut()
            .filter(|_| magnitude >= f32::MIN_POSITIVE)
            .and_then(|scaled| {
                let bin = bin(magnitude, scaled.bins_per_one);
                scaled.counts.get_mut(bin)
            });
        match bin {
            Some(count) => *count += 1,
            None => self.zeros += 1,
        }
    }

    /// Returns an upper bound of the percentile, at most one bin above it.
    ///
    /// ```text
    /// k = ceil(n * percent / 100);  x_k = the k-th smallest |x|, i its bin
    /// result = min((i + 1) * w, max |x|), 0 if x_k = 0
    /// x_k <= result < x_k + w,  w <= max |x| / 1024
    /// ```
    ///
    /// NUMERICS.md: C8.
    pub(super) fn percentile(&self, percentile: Percentile) -> f32 {
        let Some(Scaled {
            exponent, counts, ..
        }) = &self.scaled
        else {
            return 0.0;
        };
        let n = self.zeros + counts.iter().sum::<u64>();
        let rank = percentile.rank(n);
        let mut below = self.zeros;
        if rank <= below {
            return 0.0;
        }
        let mut edge = 0.0;
        for count in counts {
            edge += pow2(*exponent - LOG_BINS);
            below += count;
            if rank <= below {
                break;
            }
        }
        narrowed(edge.min(f64::from(self.max)))
    }

    /// Returns the power of two that quantizes to `value_bits` with the least squared error.
    ///
    /// ```text
    /// candidates 2^k, k = e+1, e, ..., 0 (only 0 if e < 0);  s = 2^(k - vb);  t = (2^vb - 1) * s
    /// error of bin i, centre c = (i + 1/2) * w:
    ///   s <= w and c <= t:  s^2 / 12
    ///   else:               (c - min(s * floor(c / s + 1/2), t))^2 + w^2 / 12
    /// cost(k) = sum of count(i) * error(i), in f64, i ascending;  the first k of the least cost
    /// ```
    ///
    /// 0 if all values are zero. NUMERICS.md: C9.
    pub(super) fn least_squares(&self, value_bits: u8) -> f32 {
        let Some(Scaled {
            exponent, counts, ..
        }) = &self.scaled
        else {
            return 0.0;
        };
        // From 2^(e+1) on no value is clipped; below 2^0 the binary point stays where it is (N5).
        let coarsest = (*exponent + 1).max(0);
        let mut best = (f64::INFINITY, coarsest);
        for k in (0..=coarsest).rev() {
            let cost = cost(counts, *exponent, k, value_bits);
            if cost < best.0 {
                best = (cost, k);
            }
        }
        // Powers from 2^128 on are no floats.
        narrowed(pow2(best.1).min(f64::from(f32::MAX)))
    }
}

/// Returns the squared error of all counted values with the range `2^k`.
#[expect(
    clippy::cast_precision_loss,
    reason = "bins are few; counts beyond 2^53 are rounded"
)]
fn cost(counts: &[u64], exponent: i32, k: i32, value_bits: u8) -> f64 {
    let width = pow2(exponent - LOG_BINS);
    let bits = i32::from(value_bits);
    let step = pow2(k - bits);
    let largest = (pow2(bits) - 1.0) * step;
    let error = |i: usize| {
        let centre = (i as f64 + 0.5) * width;
        if step <= width && centre <= largest {
            return step * step / 12.0;
        }
        let nearest = step * (centre / step + 0.5).floor();
        let miss = centre - nearest.min(largest);
        miss * miss + width * width / 12.0
    };
    let counted = counts.iter().enumerate().filter(|(_, count)| **count > 0);
    counted.map(|(i, count)| *count as f64 * error(i)).sum()
}

/// Returns the bin of a magnitude; the product is exact.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "truncation is the floor of a number of 0 to 2047"
)]
fn bin(magnitude: f32, bins_per_one: f64) -> usize {
    (f64::from(magnitude) * bins_per_one) as usize
}

/// Returns `2^n`, exactly.
///
/// Exponents of floats, bins and bits stay within those of an f64.
fn pow2(n: i32) -> f64 {
    f64::from_bits(u64::from((n.clamp(-1000, 1000) + 1023).unsigned_abs()) << 52)
}

/// Returns an edge of a bin, or a range, as f32.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a multiple of a power of two with at most 11 bits, or an f32 before: exact but for subnormal ones"
)]
fn narrowed(x: f64) -> f32 {
    x as f32
}
