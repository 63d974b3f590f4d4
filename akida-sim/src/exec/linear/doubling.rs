//! Channels that a depthwise layer writes twice as large, for the convolution that takes them.
//!
//! A convolution multiplies four channels at once if they have one shift; four neighbours of two shifts cost it two
//! products (`kernels::Packed::shifted`; NUMERICS.md E1). Activations of at most seven bits fit a byte as well when they
//! are doubled: then those whose shift is larger by one take part with the shift of the others, and one product is
//! enough. Between the two layers nobody sees it: what channels came to is known from the sums.

use std::collections::BTreeSet;
use std::sync::Arc;

use kernels::{Kernels, Lane};

use super::{Kind, LinearPlan};
use crate::exec::bounds::Interval;
use crate::exec::epilogue::Ends;
use crate::exec::tensor::{Int, Storage};
use crate::exec::weights::is_shorter;

/// Activations that fit a byte when they are doubled.
const SEVEN_BITS: Interval = Interval { lo: 0, hi: 127 };

/// Returns the channels to double, whose shifts are `shifts` in the order in which they are stored: those that share a
/// product with channels of a shift less. `None` if there is none, or words would be faster.
pub(in crate::exec) fn doubled(shifts: &[u32]) -> Option<Vec<usize>> {
    let (mut doubled, mut n_lanes) = (Vec::new(), 0);
    for (number, group) in shifts.chunks(<i8 as Lane>::GROUP).enumerate() {
        let least = group.iter().copied().min().unwrap_or(0);
        let is_next = |(_, shift): &(usize, &u32)| **shift == least + 1;
        let channels = group.iter().enumerate().filter(is_next);
        doubled.extend(channels.map(|(i, _)| number * <i8 as Lane>::GROUP + i));
        let kinds: BTreeSet<u32> = group.iter().copied().collect();
        n_lanes += kinds.len() - usize::from(kinds.contains(&(least + 1)));
    }
    (!doubled.is_empty() && is_shorter(n_lanes, shifts.len())).then_some(doubled)
}

impl LinearPlan {
    /// Returns whether this layer can write channels twice as large: its results are in `out`.
    pub(in crate::exec) fn can_double(&self, out: Interval) -> bool {
        matches!(self.kind, Kind::Depthwise { .. })
            && self.out == Storage::U8
            && SEVEN_BITS.includes(out)
            && self.epilogue.finish().is_some()
            && self.weights.packs_depthwise()
    }

    /// Returns the layer that writes these channels twice as large; it [can](Self::can_double).
    pub(in crate::exec) fn doubling(mut self, channels: &[usize]) -> Self {
        Arc::make_mut(&mut self.weights).doubled = channels.to_vec();
        self
    }

    /// Returns how many channels it writes twice as large.
    #[cfg(test)]
    pub(in crate::exec) fn n_doubled(&self) -> usize {
        self.weights.doubled.len()
    }

    /// Returns whether this layer can take channels that are twice as large.
    pub(in crate::exec) fn can_take_doubled(&self) -> bool {
        let is_pointwise = matches!(self.kind, Kind::Conv { kernel: [1, 1], .. });
        let takes = |covered: Interval| SEVEN_BITS.includes(covered);
        is_pointwise && self.aligns && self.weights.shifted_inputs().is_some_and(takes)
    }

    /// Returns the layer that takes these channels twice as large; it [can](Self::can_take_doubled).
    pub(in crate::exec) fn taking_doubled(mut self, channels: &[usize]) -> Self {
        Arc::make_mut(&mut self.weights).take_doubled(channels);
        self
    }

    /// Doubles the channels of results that were written as they are, and returns what these came to.
    pub(super) fn double<O: Int>(&self, out: &mut [O]) -> Option<Ends> {
        let n_channels = self.out_channels.max(1);
        if self.weights.doubled.is_empty() {
            return None;
        }
        let zero = O::narrow(0);
        let (mut lo, mut hi) = (vec![zero; n_channels], vec![zero; n_channels]);
        Kernels::active().channel_extremes(out, &mut lo, &mut hi);
        for pixel in out.chunks_mut(n_channels) {
            for channel in &self.weights.doubled {
                pixel[*channel] = O::narrow(2 * pixel[*channel].wide());
            }
        }
        Some(Ends::new(&lo, &hi))
    }
}

#[cfg(test)]
mod tests {
    use super::doubled;

    #[test]
    fn groups_of_two_neighbouring_shifts_become_one() {
        assert_eq!(doubled(&[2, 2, 2, 2, 2, 1, 1, 1, 1, 0]), Some(vec![4, 8]));
        assert_eq!(doubled(&[2, 1, 0, 0, 1, 1, 1, 1]), Some(vec![1]));
    }

    #[test]
    fn nothing_is_doubled_where_that_saves_nothing() {
        assert_eq!(
            doubled(&[1, 1, 1, 1, 0, 0, 0, 0]),
            None,
            "groups of a shift"
        );
        assert_eq!(doubled(&[3, 3, 3, 1]), None, "shifts that lie apart");
        assert_eq!(doubled(&[4, 3, 2, 1]), None, "words take fewer products");
        assert_eq!(doubled(&[]), None, "no channels");
    }
}
