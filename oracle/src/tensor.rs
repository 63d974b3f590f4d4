//! Tensors as plain vectors.

use std::fmt;

/// One value for the tensor, or one a channel; a single entry stands for all.
pub type Vector<T> = Vec<T>;

/// Integers `[batch, ..., channels]` with their format.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Extents, channels last.
    pub shape: Vec<usize>,
    /// Integers, row-major.
    pub values: Vec<i128>,
    /// Bits without the sign.
    pub value_bits: u32,
    /// Binary points: one, or one a channel.
    pub frac_bits: Vector<i32>,
    /// Scales: none for a FixedPoint; one, or one a channel for a QFloat.
    pub scales: Option<Vector<f32>>,
}

/// An operation that the definitions refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// Returns the entry of channel `c`; a single one stands for all.
pub(crate) fn at<T: Copy>(values: &[T], c: usize) -> T {
    if values.len() == 1 {
        values[0]
    } else {
        values[c]
    }
}

/// Returns `f` of two vectors, channel by channel.
pub(crate) fn both<A: Copy, B: Copy, C>(a: &[A], b: &[B], f: impl Fn(A, B) -> C) -> Vec<C> {
    (0..a.len().max(b.len()))
        .map(|c| f(at(a, c), at(b, c)))
        .collect()
}

impl Tensor {
    /// Returns the number of channels.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Returns `f(value, channel)` for each value.
    pub(crate) fn mapped(&self, f: impl Fn(i128, usize) -> i128) -> Vec<i128> {
        let n = self.channels();
        self.values
            .iter()
            .enumerate()
            .map(|(i, v)| f(*v, i.rem_euclid(n)))
            .collect()
    }
}
