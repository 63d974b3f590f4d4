//! What becomes of the outputs that a calibration sees: one range for each site.

mod distribution;
mod extremes;
mod histogram;

use std::fmt;
use std::str::FromStr;

use ndarray::ArrayD;
use quantizer_core::PerAxis;

pub use extremes::MovingMax;

use crate::{CalibrationError, Granularity};
use distribution::Distribution;
use extremes::Magnitudes;
pub(crate) use extremes::{InputObserver, Running, of_channels};

/// Fractions of a percentile that are told apart: millionths of a percent.
const MILLIONTHS: u32 = 1_000_000;

/// Watches the outputs of a layer, batch after batch, in memory that does not grow.
///
/// The range is one number, or one for each channel. It depends on the outputs and on nothing
/// else: not on threads, and but for the moving maximum not on batches or their order.
pub trait Observer: fmt::Debug {
    /// Takes the outputs of a batch, `[batch, ..., channels]`, which are finite.
    fn update(&mut self, outputs: &ArrayD<f32>);

    /// Returns the range, `None` before the first batch.
    fn range(&self) -> Option<PerAxis<f32>>;

    /// Returns the form of the batch's largest magnitudes, if they are all that it needs.
    fn takes_magnitudes(&self) -> Option<Granularity> {
        None
    }

    /// Takes the largest magnitudes of a batch instead of the batch.
    fn update_magnitudes(&mut self, _largest: PerAxis<f32>) {}
}

/// Which observer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ObserverKind {
    /// The moving maximum of the reference. NUMERICS.md: C1.
    #[default]
    MovingMax,
    /// The largest magnitude. NUMERICS.md: C7.
    Max,
    /// A magnitude that all but a few outputs do not exceed. NUMERICS.md: C8.
    Percentile(Percentile),
    /// The power of two with the least squared error. NUMERICS.md: C9.
    Mse,
}

impl ObserverKind {
    /// Returns an observer for outputs that are quantized to `value_bits`, without the sign.
    #[must_use]
    pub fn observer(self, granularity: Granularity, value_bits: u8) -> Box<dyn Observer> {
        match self {
            Self::MovingMax => Box::new(Magnitudes::new(granularity, Running::moving())),
            Self::Max => Box::new(Magnitudes::new(granularity, Running::max())),
            Self::Percentile(percentile) => {
                Box::new(Distribution::percentile(granularity, percentile))
            }
            Self::Mse => Box::new(Distribution::mse(granularity, value_bits)),
        }
    }
}

impl fmt::Display for ObserverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MovingMax => f.write_str("moving-max"),
            Self::Max => f.write_str("max"),
            Self::Percentile(percentile) => write!(f, "percentile:{percentile}"),
            Self::Mse => f.write_str("mse"),
        }
    }
}

impl FromStr for ObserverKind {
    type Err = CalibrationError;

    fn from_str(text: &str) -> Result<Self, CalibrationError> {
        match text {
            "moving-max" => Ok(Self::MovingMax),
            "max" => Ok(Self::Max),
            "percentile" => Ok(Self::Percentile(Percentile::default())),
            "mse" => Ok(Self::Mse),
            other => match other.strip_prefix("percentile:") {
                Some(percentile) => Ok(Self::Percentile(percentile.parse()?)),
                None => Err(CalibrationError::Source(format!(
                    "no observer `{other}`: use moving-max, max, percentile, percentile:99.9 or mse"
                ))),
            },
        }
    }
}

/// A percentage above 0 and up to 100, with up to six decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentile {
    /// Millionths of a percent. Invariant: 1 to 100 * 10^6.
    millionths: u32,
}

impl Percentile {
    /// Returns how many of `n` values the percentile covers: `ceil(n * percent / 100)`, exactly.
    fn rank(self, n: u64) -> u64 {
        let product = u128::from(n) * u128::from(self.millionths);
        let rank = product.div_ceil(u128::from(100 * MILLIONTHS));
        u64::try_from(rank).unwrap_or(n)
    }
}

impl Default for Percentile {
    /// Returns 99.99 percent.
    fn default() -> Self {
        Self {
            millionths: 99_990_000,
        }
    }
}

impl fmt::Display for Percentile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.millionths.div_euclid(MILLIONTHS);
        let fraction = self.millionths.rem_euclid(MILLIONTHS);
        let text = format!("{whole}.{fraction:06}");
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl FromStr for Percentile {
    type Err = CalibrationError;

    fn from_str(text: &str) -> Result<Self, CalibrationError> {
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let read = || {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
            if fraction.len() > 6 || fraction.is_empty() || !digits(whole) || !digits(fraction) {
                return None;
            }
            let whole: u32 = whole.parse().ok().filter(|whole| *whole <= 100)?;
            let fraction: u32 = format!("{fraction:0<6}").parse().ok()?;
            Some(whole * MILLIONTHS + fraction)
        };
        match read() {
            Some(millionths @ 1..=100_000_000) => Ok(Self { millionths }),
            Some(_) | None => Err(CalibrationError::Source(format!(
                "no percentile `{text}`: use a number above 0 and up to 100, with at most six \
                 decimals"
            ))),
        }
    }
}
