//! Which taps of a window read the image: all that the position of an output can change about it.

use std::collections::BTreeSet;

use float_model::Padding;
use quantizer_core::geometry::{same_pads, transposed_crop, transposed_extent, window_extent};
use quantizer_core::layers::{Border, ConvOp};

/// Which taps of one axis read a pixel of the image, for some output position.
pub(super) type Taps = Vec<bool>;

/// Returns the sets of an axis of a convolution whose input has `n` pixels, any number if `None`.
pub(super) fn conv_taps(
    op: &ConvOp,
    n: Option<usize>,
    axis: usize,
    kernel: usize,
) -> BTreeSet<Taps> {
    let (stride, dilation) = (op.strides[axis], op.dilation[axis]);
    match &op.border {
        Border::Same => window_taps(n, kernel, stride, dilation, Padding::Same),
        Border::Valid => window_taps(n, kernel, stride, dilation, Padding::Valid),
        Border::Value(_) => {
            let Some(n) = n else {
                return open_window(kernel, dilation, Padding::Same);
            };
            let (before, after) = same_pads(n, kernel, stride, 1);
            let padded = n + before + after;
            let out = window_extent(padded, kernel, stride, dilation, Padding::Valid);
            taps(out.unwrap_or(0), kernel, |o, t| {
                let at = o * stride + t * dilation;
                (before..before + n).contains(&at)
            })
        }
    }
}

/// Returns the sets of an axis of a sliding window.
pub(super) fn window_taps(
    n: Option<usize>,
    kernel: usize,
    stride: usize,
    dilation: usize,
    padding: Padding,
) -> BTreeSet<Taps> {
    let Some(n) = n else {
        return open_window(kernel, dilation, padding);
    };
    let before = match padding {
        Padding::Same => same_pads(n, kernel, stride, dilation).0,
        Padding::Valid => 0,
    };
    let out = window_extent(n, kernel, stride, dilation, padding).unwrap_or(0);
    taps(out, kernel, |o, t| {
        let at = o * stride + t * dilation;
        (before..before + n).contains(&at)
    })
}

/// Returns the sets of an axis of a transposed window.
pub(super) fn transposed_taps(
    n: Option<usize>,
    kernel: usize,
    stride: usize,
    padding: Padding,
    output_padding: Option<usize>,
) -> BTreeSet<Taps> {
    let Some(n) = n else {
        let mut sets = runs(kernel, stride);
        if stride > kernel || output_padding.is_some() {
            sets.insert(vec![false; kernel]);
        }
        return sets;
    };
    let out = transposed_extent(n, kernel, stride, padding, output_padding).unwrap_or(0);
    let crop = transposed_crop(n, out, kernel, stride, padding);
    taps(out, kernel, |o, t| {
        let distance = (o + crop).checked_sub(t);
        distance.is_some_and(|d| d.checked_rem(stride) == Some(0) && d.div_euclid(stride) < n)
    })
}

/// Returns which taps are inside at each of `out` positions, every set once.
fn taps(out: usize, kernel: usize, is_inside: impl Fn(usize, usize) -> bool) -> BTreeSet<Taps> {
    let at = |o: usize| (0..kernel).map(|t| is_inside(o, t)).collect();
    (0..out).map(at).collect()
}

/// Returns the sets of a sliding window over any number of pixels.
///
/// A 'valid' window lies inside. Any other reads a run of its taps; none at all only where the gaps
/// of a dilated one hold the whole image.
fn open_window(kernel: usize, dilation: usize, padding: Padding) -> BTreeSet<Taps> {
    match padding {
        Padding::Valid => BTreeSet::from([vec![true; kernel]]),
        Padding::Same => {
            let mut sets = runs(kernel, 1);
            if dilation > 1 {
                sets.insert(vec![false; kernel]);
            }
            sets
        }
    }
}

/// Returns every run of taps that are `step` apart, of one tap at least.
///
/// An output of a transposed window takes the taps whose distance to it is a multiple of the stride:
/// one class of remainders, of which an image of any extent shows any run.
fn runs(kernel: usize, step: usize) -> BTreeSet<Taps> {
    let starts = 0..kernel;
    let run = |first: usize, last: usize| {
        let mut set = vec![false; kernel];
        for t in (first..=last).step_by(step.max(1)) {
            set[t] = true;
        }
        set
    };
    let ends = |first: usize| (first..kernel).step_by(step.max(1));
    starts
        .flat_map(|first| ends(first).map(move |last| (first, last)))
        .map(|(first, last)| run(first, last))
        .collect()
}

#[cfg(test)]
mod tests {
    use ndarray::Array4;
    use quantizer_core::PerAxis;

    use super::*;

    /// Returns the sets of every extent up to `most`.
    fn every_extent(most: usize, sets: impl Fn(Option<usize>) -> BTreeSet<Taps>) -> BTreeSet<Taps> {
        (1..=most).flat_map(|n| sets(Some(n))).collect()
    }

    #[test]
    fn an_open_extent_shows_what_every_extent_shows() {
        for (kernel, stride) in (1..6).flat_map(|k| (1..8).map(move |s| (k, s))) {
            for padding in [Padding::Same, Padding::Valid] {
                for dilation in 1..5 {
                    let sets = |n| window_taps(n, kernel, stride, dilation, padding);
                    let seen = every_extent(40, sets);
                    assert!(seen.is_subset(&sets(None)), "{kernel} {stride} {dilation}");
                    let none = vec![false; kernel];
                    let is_dense = padding == Padding::Valid || dilation == 1;
                    assert!(
                        !is_dense || !sets(None).contains(&none),
                        "{kernel} {stride}"
                    );
                }
                for extra in [None, Some(0), Some(1), Some(3)] {
                    let sets = |n| transposed_taps(n, kernel, stride, padding, extra);
                    let seen = every_extent(40, sets);
                    assert!(seen.is_subset(&sets(None)), "{kernel} {stride} {extra:?}");
                    if padding == Padding::Valid && extra.is_none() {
                        assert_eq!(seen, sets(None), "{kernel} {stride}: nothing in excess");
                    }
                }
            }
            for dilation in 1..5 {
                let op = ConvOp {
                    kernel: Array4::zeros((kernel, 1, 1, 1)),
                    strides: [stride, 1],
                    dilation: [dilation, 1],
                    border: Border::Value(PerAxis::Tensor(1)),
                };
                let sets = |n| conv_taps(&op, n, 0, kernel);
                let seen = every_extent(40, sets);
                assert!(seen.is_subset(&sets(None)), "{kernel} {stride} {dilation}");
            }
        }
    }
}
