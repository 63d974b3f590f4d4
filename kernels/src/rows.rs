//! The input rows that an output row sees, instead of a copy for each of its pixels.

use std::ops::Range;

use crate::lanes::{Lane, Packable};
use crate::packed::{PackedConv, Patches, RowLayout, Run};

/// Room for the input rows that an output row sees, with their borders: each tap of a kernel row is where the next
/// pixels see it too, so nothing is copied twice.
pub(crate) struct Rows<'a, X, L: Lane> {
    conv: &'a PackedConv<'a, X, L>,
    /// Activations of a row: a whole number of groups.
    pitch: usize,
    /// Which of them come from the input.
    inside: Range<usize>,
    runs: Vec<Run>,
    /// A row of nothing but the border.
    outside: Vec<L::Activation>,
    rows: Vec<L::Activation>,
}

impl<'a, X: Packable<L>, L: Lane> Rows<'a, X, L> {
    /// Returns room for rows of at least `n` pixels; `None` if they are shorter, or neighbouring taps lie apart, or the
    /// kernel's rows do not each begin with a lane.
    pub(crate) fn new(conv: &'a PackedConv<'a, X, L>, n: usize) -> Option<Self> {
        let is_long = conv.window.out_w >= n && conv.window.dilation_w == 1;
        let layout = conv.kernel.layout.filter(|_| is_long)?;
        Some(Self::of(conv, &layout))
    }

    fn of(conv: &'a PackedConv<'a, X, L>, layout: &RowLayout) -> Self {
        let (window, channels) = (&conv.window, conv.channels);
        let width = (window.out_w - 1) * window.stride_w + window.kernel_w;
        let padding = layout.padded - window.kernel_w * channels;
        let pitch = (width * channels + padding).next_multiple_of(L::GROUP);
        let mut outside = outside(conv).repeat(width);
        // What is behind the last tap meets weights of zero.
        outside.resize(pitch, X::zero());
        let start = window.pad_left.min(width);
        let end = width.min(start + window.in_w);
        Self {
            conv,
            pitch,
            inside: start * channels..end * channels,
            runs: layout.runs(window.kernel_h, pitch, L::GROUP),
            rows: outside.repeat(window.kernel_h),
            outside,
        }
    }

    /// Returns what the pixels of an output row see.
    pub(crate) fn fill(&mut self, row: usize) -> Patches<'_, L::Activation> {
        let (window, channels) = (&self.conv.window, self.conv.channels);
        for (i, to) in self.rows.chunks_mut(self.pitch).enumerate() {
            let at = (row * window.stride_h + i * window.dilation_h).checked_sub(window.pad_top);
            let Some(at) = at.filter(|at| *at < window.in_h) else {
                to.copy_from_slice(&self.outside);
                continue;
            };
            let to = &mut to[self.inside.clone()];
            let x = &self.conv.x[at * window.in_w * channels..][..to.len()];
            if let Some(x) = X::as_packed(x) {
                to.copy_from_slice(x);
            } else {
                for (to, x) in to.iter_mut().zip(x) {
                    *to = x.packed();
                }
            }
        }
        Patches {
            x: &self.rows,
            n_pixels: window.out_w,
            stride: window.stride_w * channels,
            runs: &self.runs,
        }
    }
}

/// Returns what the border is.
pub(crate) fn outside<X: Packable<L>, L: Lane>(conv: &PackedConv<'_, X, L>) -> Vec<L::Activation> {
    match conv.pad {
        Some(pad) => pad.iter().map(|v| v.packed()).collect(),
        None => vec![X::zero(); conv.channels],
    }
}
