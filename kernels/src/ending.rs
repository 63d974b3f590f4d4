//! What becomes of a chain's sum before it leaves the registers.

use crate::contract::check_per_channel;

/// How the chains of an f32 operation end.
///
/// ```text
/// y   = acc + bias                                   no addition without a bias
/// out = y                                            without `most`
///       most if y >= most, else 0 if y < 0, else y   with `most`; NaN stays NaN
/// ```
#[derive(Debug, Default)]
pub struct Ending<'a> {
    /// One value a column of the output (filter or channel).
    pub bias: Option<&'a [f32]>,
    /// Upper end of a rectifier, positive; infinity is none. `None` rectifies nothing.
    pub most: Option<f32>,
    /// One entry a column, raised to the magnitudes of the output as by
    /// [`largest_magnitudes`](crate::Kernels::largest_magnitudes).
    pub largest: Option<&'a mut [u32]>,
}

impl<'a> Ending<'a> {
    /// Returns the ending that only adds `bias`.
    #[must_use]
    pub const fn of_bias(bias: Option<&'a [f32]>) -> Self {
        Self {
            bias,
            most: None,
            largest: None,
        }
    }

    /// Returns the same ending for another part of the output.
    pub(crate) fn again(&mut self) -> Ending<'_> {
        Ending {
            bias: self.bias,
            most: self.most,
            largest: self.largest.as_deref_mut(),
        }
    }

    /// Checks that there is one value for each of `n_columns`.
    pub(crate) fn check(&self, n_columns: usize) {
        check_per_channel("bias", self.bias, n_columns);
        check_per_channel("largest magnitude", self.largest.as_deref(), n_columns);
        assert!(
            self.most.is_none_or(|most| most > 0.0),
            "the upper end of a rectifier is {:?}",
            self.most
        );
    }

    /// Returns what ends the chains of `N` columns from `column` on.
    #[inline(always)]
    pub(crate) fn columns<const N: usize>(&mut self, column: usize) -> ColumnEnding<'_, N> {
        let (least, most) = match self.most {
            Some(most) => (0.0, most),
            None => (f32::NEG_INFINITY, f32::INFINITY),
        };
        ColumnEnding {
            bias: self
                .bias
                .and_then(|bias| bias[column..column + N].first_chunk()),
            least,
            most,
            largest: match &mut self.largest {
                Some(largest) => largest[column..column + N].first_chunk_mut(),
                None => None,
            },
        }
    }
}

/// The part of an [`Ending`] that `N` columns need.
#[derive(Debug)]
pub(crate) struct ColumnEnding<'a, const N: usize> {
    pub(crate) bias: Option<&'a [f32; N]>,
    /// What replaces all below it.
    pub(crate) least: f32,
    /// What replaces all above it.
    pub(crate) most: f32,
    pub(crate) largest: Option<&'a mut [u32; N]>,
}

impl<const N: usize> ColumnEnding<'_, N> {
    /// Returns the same ending for other pixels.
    #[inline(always)]
    pub(crate) fn again(&mut self) -> ColumnEnding<'_, N> {
        ColumnEnding {
            bias: self.bias,
            least: self.least,
            most: self.most,
            largest: self.largest.as_deref_mut(),
        }
    }

    /// Ends the chain of one column, lane by lane.
    #[inline(always)]
    pub(crate) fn end(&mut self, acc: f32, n: usize) -> f32 {
        let y = self.bias.map_or(acc, |bias| acc + bias[n]);
        let y = if y < self.least { self.least } else { y };
        let y = if y >= self.most { self.most } else { y };
        if let Some(largest) = &mut self.largest {
            largest[n] = largest[n].max(y.to_bits() & MAGNITUDE);
        }
        y
    }
}

/// The bits of an f32 without its sign.
pub(crate) const MAGNITUDE: u32 = u32::MAX >> 1;
