//! Ranges of integers.

use quantizer_core::ValueBits;

/// A closed range of integers, `lo <= hi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Least value.
    pub lo: i64,
    /// Largest value.
    pub hi: i64,
}

impl Range {
    /// The range of zero alone.
    pub const ZERO: Self = Self { lo: 0, hi: 0 };

    /// Returns the range of all integers of `bits` value bits.
    #[must_use]
    pub fn of_bits(bits: ValueBits) -> Self {
        Self {
            lo: bits.int_min(),
            hi: bits.int_max(),
        }
    }

    /// Returns whether every value fits in `bits` value bits.
    #[must_use]
    pub fn fits(self, bits: ValueBits) -> bool {
        bits.contains(self.lo) && bits.contains(self.hi)
    }

    /// Returns the least number of value bits that hold every value.
    ///
    /// ```text
    /// n with -2^n <= lo and hi <= 2^n - 1
    /// ```
    #[must_use]
    pub fn value_bits(self) -> u32 {
        let bits = |v: i64| {
            // -2^n needs n bits: one less than its magnitude.
            let magnitude = if v < 0 { !v } else { v };
            i64::BITS - magnitude.leading_zeros()
        };
        bits(self.lo).max(bits(self.hi))
    }

    /// Returns the least range that holds both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self {
            lo: self.lo.min(other.lo),
            hi: self.hi.max(other.hi),
        }
    }

    /// Returns the range of `f` of every value; `f` never decreases.
    pub(super) fn map(self, mut f: impl FnMut(i64) -> i64) -> Self {
        Self {
            lo: f(self.lo),
            hi: f(self.hi),
        }
    }

    /// Returns the range of `weight * value`.
    pub(super) fn times(self, weight: i64) -> Self {
        let (a, b) = (self.lo * weight, self.hi * weight);
        Self {
            lo: a.min(b),
            hi: a.max(b),
        }
    }

    /// Returns the range of a sum of two values.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            lo: self.lo + other.lo,
            hi: self.hi + other.hi,
        }
    }
}
