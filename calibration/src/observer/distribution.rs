//! Observers that keep a histogram for each range.

use ndarray::ArrayD;
use quantizer_core::PerAxis;

use super::extremes::magnitudes;
use super::histogram::Histogram;
use super::{Observer, Percentile};
use crate::Granularity;

/// Ranges from histograms of magnitudes, 16 KiB each.
#[derive(Debug)]
pub(super) struct Distribution {
    granularity: Granularity,
    rule: Rule,
    /// One, or one for each channel; none before the first batch.
    histograms: Vec<Histogram>,
}

/// What is read from a histogram.
#[derive(Clone, Copy, Debug)]
enum Rule {
    Percentile(Percentile),
    LeastSquares { value_bits: u8 },
}

impl Distribution {
    pub(super) const fn percentile(granularity: Granularity, percentile: Percentile) -> Self {
        Self {
            granularity,
            rule: Rule::Percentile(percentile),
            histograms: Vec::new(),
        }
    }

    pub(super) const fn mse(granularity: Granularity, value_bits: u8) -> Self {
        Self {
            granularity,
            rule: Rule::LeastSquares { value_bits },
            histograms: Vec::new(),
        }
    }
}

impl Observer for Distribution {
    fn update(&mut self, outputs: &ArrayD<f32>) {
        let n_ranges = match self.granularity {
            Granularity::PerTensor => 1,
            Granularity::PerAxis => outputs.shape().last().copied().unwrap_or(1).max(1),
        };
        self.histograms.resize_with(n_ranges, Histogram::default);
        let maxima = magnitudes(outputs, self.granularity);
        for (histogram, max) in self.histograms.iter_mut().zip(maxima.as_slice()) {
            histogram.grow(f32::from_bits(*max));
        }
        let outputs = outputs.as_standard_layout();
        let flat = outputs.as_slice().unwrap_or_default();
        for pixel in flat.chunks_exact(n_ranges) {
            let counted = self.histograms.iter_mut().zip(pixel);
            counted.for_each(|(histogram, v)| histogram.count(*v));
        }
    }

    fn range(&self) -> Option<PerAxis<f32>> {
        let range = |histogram: &Histogram| match self.rule {
            Rule::Percentile(percentile) => histogram.percentile(percentile),
            Rule::LeastSquares { value_bits } => histogram.least_squares(value_bits),
        };
        let first = self.histograms.first()?;
        Some(match self.granularity {
            Granularity::PerTensor => PerAxis::Tensor(range(first)),
            Granularity::PerAxis => PerAxis::Axis(self.histograms.iter().map(range).collect()),
        })
    }
}
