//! Bit widths, integer ranges and saturation (NUMERICS.md: N1).

use std::fmt;

use crate::NumericsError;

/// Whether a width counts a sign bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// One bit is the sign.
    Signed,
    /// All bits hold the value.
    Unsigned,
}

/// Width of a quantized quantity in bits, the sign bit included; in 1..=32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BitWidth(u8); // Invariant: in 1..=32.

impl BitWidth {
    /// The largest width.
    pub const MAX: u8 = 32;

    /// Returns the width of `bits`.
    ///
    /// # Errors
    ///
    /// `bits` is outside 1..=32.
    pub fn new(bits: u8) -> Result<Self, NumericsError> {
        if (1..=Self::MAX).contains(&bits) {
            Ok(Self(bits))
        } else {
            Err(NumericsError::BitWidth { bits })
        }
    }

    /// Returns the number of bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Returns the bits without the sign.
    ///
    /// # Errors
    ///
    /// A signed width of 1 leaves no bit for the value.
    pub fn value_bits(self, sign: Sign) -> Result<ValueBits, NumericsError> {
        match sign {
            Sign::Unsigned => ValueBits::new(self.0),
            Sign::Signed if self.0 > 1 => ValueBits::new(self.0 - 1),
            Sign::Signed => Err(NumericsError::BitWidth { bits: self.0 }),
        }
    }
}

/// Number of bits of an integer without its sign; in 1..=48.
///
/// ```text
/// range of n value bits: [-2^n, 2^n - 1]
/// ```
///
/// An unsigned quantity of n bits has n value bits, and the same range: nothing forbids negative
/// values, they just do not occur. NUMERICS.md: N1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ValueBits(u8); // Invariant: in 1..=48.

impl ValueBits {
    /// The largest number of value bits.
    pub const MAX: u8 = 48;

    /// Returns a number of value bits.
    ///
    /// # Errors
    ///
    /// `bits` is outside 1..=48.
    pub fn new(bits: u8) -> Result<Self, NumericsError> {
        if (1..=Self::MAX).contains(&bits) {
            Ok(Self(bits))
        } else {
            Err(NumericsError::ValueBits { bits })
        }
    }

    /// Returns the number of bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Returns `2^n - 1`, the largest integer.
    #[must_use]
    pub const fn int_max(self) -> i64 {
        (1 << self.0) - 1
    }

    /// Returns `-2^n`, the smallest integer.
    #[must_use]
    pub const fn int_min(self) -> i64 {
        -(1 << self.0)
    }

    /// Returns the nearest integer in `[-2^n, 2^n - 1]`.
    #[must_use]
    pub fn saturate(self, value: i64) -> i64 {
        value.clamp(self.int_min(), self.int_max())
    }

    /// Returns whether `value` is in `[-2^n, 2^n - 1]`.
    #[must_use]
    pub const fn contains(self, value: i64) -> bool {
        self.int_min() <= value && value <= self.int_max()
    }
}

impl fmt::Display for ValueBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
