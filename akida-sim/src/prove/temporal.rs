//! Ranges of layers that remember earlier frames or time steps.

use ndarray::Array2;
use quantizer_core::Stage;
use quantizer_core::layers::RecurrentOp;
use quantizer_core::round::shift_half_up;

use super::Range;
use super::bounds::{Propagation, union};

impl Propagation<'_> {
    /// Returns the sums over frames of each channel, every product saturated on its own.
    pub(super) fn frame_sums(&mut self, kernel: &Array2<i32>, x: &[Range]) -> Vec<Range> {
        let bits = self.layer.inner.value_bits;
        let window = frames(x, kernel.nrows());
        let products: Vec<Vec<Range>> = (0..x.len())
            .map(|c| {
                let taps = kernel.column(c).into_iter().zip(&window);
                taps.map(|(w, frame)| frame[c].times(i64::from(*w)))
                    .collect()
            })
            .collect();
        let all = products.iter().map(|channel| union(channel)).collect();
        self.saturate(Stage::Product, all, bits);
        let sum = |channel: &Vec<Range>| {
            let clipped = channel.iter().map(|r| r.map(|v| bits.saturate(v)));
            clipped.fold(Range::ZERO, Range::plus)
        };
        self.saturate(Stage::Accumulator, products.iter().map(sum).collect(), bits)
    }

    /// States are clipped by design, so each may hold its whole width before any step.
    pub(super) fn recurrence(&mut self, op: &RecurrentOp, x: &[Range]) -> Vec<Range> {
        let bits = self.layer.entries[0].value_bits;
        let mut x = x.to_vec();
        if let Some(q) = &op.multiplier {
            let products = x.iter().enumerate();
            let products = products.map(|(c, x)| x.map(|v| v.saturating_mul(q.at(c))));
            let products = products.collect();
            x = self.saturate(Stage::ScaleMultiply, products, bits);
        }
        let shifted = x.iter().enumerate();
        let shifted = shifted.map(|(c, x)| x.map(|v| shift_half_up(v, op.input_shift.at(c))));
        let x = self.saturate(Stage::StateAlign, shifted.collect(), bits);
        let state = Range::of_bits(op.state.value_bits);
        let of = |part: usize| op.factors[part].iter().map(|a| state.times(*a));
        let [real, imag] = [0, 1].map(|part| of(part).collect::<Vec<_>>());
        let each = real.iter().zip(&imag);
        let products = each.clone().map(|(r, i)| r.union(*i)).collect();
        self.saturate(Stage::Product, products, bits);
        let clipped = |r: &Range| r.map(|v| bits.saturate(v));
        let negated = |r: Range| r.times(-1);
        // Two sums for the real part, the second with the input, and one for the imaginary part.
        let sums = each.zip(&x).map(|((r, i), x)| {
            let (r, i) = (clipped(r), clipped(i));
            let difference = r.plus(negated(i));
            let real = clipped(&difference).plus(*x);
            difference.union(real).union(i.plus(r))
        });
        let sums = self.saturate(Stage::StateSum, sums.collect(), bits);
        let shifted = sums
            .iter()
            .map(|s| s.map(|v| shift_half_up(v, op.state.shift.at(0))));
        let states = self.saturate(Stage::OutputRescale, shifted.collect(), op.state.value_bits);
        // The last axis is now that of the two parts.
        vec![union(&states); 2]
    }
}

/// Returns the ranges of each frame of a window; earlier ones may be the zeros of an empty buffer.
pub(super) fn frames(x: &[Range], n_frames: usize) -> Vec<Vec<Range>> {
    let past: Vec<Range> = x.iter().map(|x| x.union(Range::ZERO)).collect();
    let mut window = vec![past; n_frames.saturating_sub(1)];
    window.push(x.to_vec());
    window
}
