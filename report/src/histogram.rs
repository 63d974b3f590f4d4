//! Histograms whose bins grow with the values: nothing needs to be known before.

/// Bins, at most.
const MAX_BINS: f64 = 256.0;

/// Bins are numbered by integers that a double holds exactly: below 2^52.
const MAX_INDEX: f64 = 4_503_599_627_370_496.0;

/// Width of the finest bins of floats, 2^-40.
const FINEST: f64 = 1.0 / 1_099_511_627_776.0;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// Integers: a bin holds one or a power of two of them.
    Integers,
    /// Floats: the width of a bin is a power of two.
    Floats,
}

/// Numbers of values in bins of one width.
///
/// ```text
/// bin i holds the values in [i * width, (i + 1) * width); width is the least power of two for
/// which all values seen lie in 256 bins
/// ```
///
/// The result does not depend on the order of the values.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    grid: Grid,
    width: f64,
    /// Index of the first bin.
    first: i64,
    counts: Vec<u64>,
    /// Least and largest finite value.
    range: Option<(f64, f64)>,
    n_values: u64,
    n_zeros: u64,
}

impl Histogram {
    /// Returns the histogram of no values.
    #[must_use]
    pub fn new(grid: Grid) -> Self {
        Self {
            grid,
            width: match grid {
                Grid::Integers => 1.0,
                Grid::Floats => FINEST,
            },
            first: 0,
            counts: Vec::new(),
            range: None,
            n_values: 0,
            n_zeros: 0,
        }
    }

    /// Counts values; those that are not finite are left out.
    pub fn add(&mut self, values: impl Iterator<Item = f64> + Clone) {
        let finite = values.filter(|v| v.is_finite());
        let seen = finite
            .clone()
            .fold(None, |range, v| Some(widened(range, v)));
        let Some((lo, hi)) = seen else { return };
        let range = widened(Some(widened(self.range, lo)), hi);
        self.range = Some(range);
        self.grow(range);
        for v in finite {
            self.n_values += 1;
            self.n_zeros += u64::from(v == 0.0);
            let bin = usize::try_from(index(v, self.width) - self.first).unwrap_or(0);
            if let Some(count) = self.counts.get_mut(bin) {
                *count += 1;
            }
        }
    }

    /// Widens the bins until they hold the range, and makes room.
    fn grow(&mut self, (lo, hi): (f64, f64)) {
        let start = self.width;
        while (hi / self.width).floor() - (lo / self.width).floor() >= MAX_BINS
            || lo.abs().max(hi.abs()) / self.width >= MAX_INDEX
        {
            self.width *= 2.0;
        }
        let first = index(lo, self.width);
        let n_bins = usize::try_from(index(hi, self.width) - first + 1).unwrap_or(0);
        let mut counts = vec![0; n_bins];
        for (i, count) in (self.first..).zip(&self.counts).filter(|(_, n)| **n > 0) {
            // The middle of a bin lies in the bin that takes it over: both start at multiples.
            let middle = (to_float(i) + 0.5) * start;
            let bin = usize::try_from(index(middle, self.width) - first).unwrap_or(0);
            if let Some(place) = counts.get_mut(bin) {
                *place += count;
            }
        }
        self.first = first;
        self.counts = counts;
    }

    /// Returns what is counted.
    #[must_use]
    pub const fn grid(&self) -> Grid {
        self.grid
    }

    /// Returns the bins that are not empty: start, width and number of values.
    pub fn bins(&self) -> impl Iterator<Item = (f64, f64, u64)> {
        let bins = (self.first..).zip(&self.counts);
        let filled = bins.filter(|(_, count)| **count > 0);
        filled.map(|(i, count)| (to_float(i) * self.width, self.width, *count))
    }

    /// Returns the least and the largest value, `None` without values.
    #[must_use]
    pub const fn range(&self) -> Option<(f64, f64)> {
        self.range
    }

    /// Returns the number of values.
    #[must_use]
    pub const fn n_values(&self) -> u64 {
        self.n_values
    }

    /// Returns the number of values that are 0.
    #[must_use]
    pub const fn n_zeros(&self) -> u64 {
        self.n_zeros
    }
}

fn widened(range: Option<(f64, f64)>, v: f64) -> (f64, f64) {
    range.map_or((v, v), |(lo, hi)| (lo.min(v), hi.max(v)))
}

/// Returns the number of the bin that holds `v`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "whole and below 2^52: widths are chosen so"
)]
fn index(v: f64, width: f64) -> i64 {
    (v / width).floor() as i64
}

#[expect(clippy::cast_precision_loss, reason = "numbers of bins are below 2^52")]
const fn to_float(index: i64) -> f64 {
    index as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(grid: Grid, values: &[f64]) -> Histogram {
        let mut histogram = Histogram::new(grid);
        histogram.add(values.iter().copied());
        histogram
    }

    #[test]
    fn few_integers_have_a_bin_each() {
        let histogram = of(Grid::Integers, &[-3.0, 0.0, 0.0, 4.0]);
        let bins: Vec<_> = histogram.bins().collect();
        assert_eq!(
            bins,
            [(-3.0, 1.0, 1), (0.0, 1.0, 2), (4.0, 1.0, 1)],
            "one integer a bin"
        );
        assert_eq!(histogram.n_zeros(), 2, "zeros");
    }

    #[test]
    fn the_order_of_values_does_not_matter() {
        let values: Vec<f64> = (0..3000)
            .map(|i| f64::from((i * 7919) % 3001 - 1400) / 7.0)
            .collect();
        let at_once = of(Grid::Floats, &values);
        let mut one_by_one = Histogram::new(Grid::Floats);
        for v in values.iter().rev() {
            one_by_one.add(std::iter::once(*v));
        }
        assert_eq!(at_once, one_by_one, "the same bins");
        let total: u64 = at_once.bins().map(|(_, _, count)| count).sum();
        assert_eq!(total, 3000, "every value is in a bin");
        assert!(at_once.bins().count() <= 256, "256 bins at most");
        for (start, width, count) in at_once.bins() {
            let inside = values
                .iter()
                .filter(|v| (start..start + width).contains(*v));
            assert_eq!(u64::try_from(inside.count()), Ok(count), "bin at {start}");
        }
    }

    #[test]
    fn extreme_values_end() {
        let huge = of(
            Grid::Floats,
            &[f64::from(f32::MAX), f64::from(f32::MIN), f64::NAN, 1e-45],
        );
        assert_eq!(huge.n_values(), 3, "a NaN is left out");
        let far = of(Grid::Floats, &[1e30, 1e30]);
        assert_eq!(far.bins().count(), 1, "one bin far from zero");
        assert_eq!(of(Grid::Floats, &[]).range(), None, "no value, no range");
    }
}
