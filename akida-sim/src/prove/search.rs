//! The search for network inputs that make an intermediate saturate.
//!
//! From a result that a range lets overflow, signs are followed back to the network's input: each
//! input element goes to the end that pushes the result outwards. One step of this is exact for
//! layers whose inputs are the network's; deeper ones are climbed by repeating it where the last
//! step led, from several starts.

use ndarray::{ArrayD, Axis, IxDyn};
use quantizer_core::Stage;
use quantizer_core::layers::IntegerLayer;
use quantizer_core::log2::mul_pow2;
use quantizer_core::tensor::int_to_f32;

use super::bounds::LayerBounds;
use super::gradient::{Gradient, at_stage, backward, stage_extents};
use super::replay::{Replay, Trace};
use super::{Range, Witness, places};
use crate::ModelError;
use crate::model::{InputKind, QuantizedModel, QuantizedOp};

/// Runs that take a witness further once it is found.
const FURTHER_RUNS: usize = 2;

/// Places of an intermediate that are tried one by one, at most, and elements of an input for which
/// they are.
const MOST_PLACES: usize = 200;
const MOST_PIXELS: usize = 4096;

/// An intermediate that shall overflow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) node: usize,
    pub(super) stage: Stage,
    pub(super) channel: usize,
    /// Whether it shall pass the upper end.
    pub(super) upward: bool,
}

/// Climbs from inputs of a model to others that take an intermediate further outwards.
pub(super) struct Search<'m> {
    pub(super) model: &'m QuantizedModel,
    replay: Replay<'m>,
    pub(super) bounds: &'m [LayerBounds],
    entry: Entry,
    random: u64,
}

/// Returns how far a witness takes its target outwards.
fn reach(witness: &Witness, target: Target) -> i64 {
    let mut channels = witness.channels.iter();
    let value = channels.find(|(channel, _)| *channel == target.channel);
    let outwards = |(_, v): &(usize, i64)| {
        if target.upward {
            *v
        } else {
            v.saturating_neg()
        }
    };
    value.map_or(i64::MIN, outwards)
}

/// Where integers enter the network.
struct Entry {
    node: usize,
    /// Shape of a batch of one.
    shape: Vec<usize>,
}

impl<'m> Search<'m> {
    /// Returns the search of `model`, `None` if its input has open extents or is all in float.
    pub(super) fn new(replay: Replay<'m>, bounds: &'m [LayerBounds], seed: u64) -> Option<Self> {
        let model = replay.model;
        let node = model.nodes.iter().position(|node| {
            matches!(
                node.op,
                QuantizedOp::Input(InputKind::Raw { .. }) | QuantizedOp::InputQuantizer { .. }
            )
        })?;
        let extents = model.nodes[node].shape.iter().copied();
        let shape = std::iter::once(Some(1)).chain(extents);
        let entry = Entry {
            node,
            shape: shape.collect::<Option<_>>()?,
        };
        Some(Self {
            model,
            replay,
            bounds,
            entry,
            random: seed,
        })
    }

    /// Looks for a witness of `target` within `runs` runs, and takes the one found a few steps
    /// further: to the end of its range where the network's input decides the sums alone.
    pub(super) fn climb(
        &mut self,
        target: Target,
        runs: usize,
    ) -> Result<Option<Witness>, ModelError> {
        let mut best: Option<Witness> = None;
        let mut left = runs;
        let mut x = self.middle();
        let mut place = self.first_place(target);
        while left > 0 {
            left -= 1;
            let trace = self.run(&x)?;
            let found = self.replay.witness(target.node, target.stage, &trace)?;
            let is_better = found.as_ref().is_some_and(|w| {
                best.as_ref()
                    .is_none_or(|b| reach(w, target) > reach(b, target))
            });
            if best.is_some() && !is_better {
                return Ok(best);
            }
            if is_better {
                left = left.min(FURTHER_RUNS);
                best = found;
            }
            let gradient = self.gradient(target, &trace, place);
            let next = self.extreme(&x, gradient.as_ref(), target.upward);
            if next != x && gradient.is_some() {
                x = next;
            } else if best.is_some() {
                return Ok(best);
            } else {
                // Nothing moves any more: another start, another place of the image.
                place += 1;
                x = if (runs - left).rem_euclid(2) == 1 {
                    self.middle()
                } else {
                    self.random_input()
                };
            }
        }
        Ok(best)
    }

    /// Returns the place of an intermediate whose extreme is farthest out, if it stands directly
    /// behind the network's input and is small enough to try every place; the middle otherwise.
    fn first_place(&self, target: Target) -> usize {
        let node = &self.model.nodes[target.node];
        let (QuantizedOp::Integer(layer), true) =
            (&node.op, node.inputs.first() == Some(&self.entry.node))
        else {
            return 0;
        };
        let x = self.middle();
        let places = self.n_places(target, layer, &[&x]);
        if places > MOST_PLACES || x.len() > MOST_PIXELS {
            return 0;
        }
        let reached = |place: usize| -> Option<f64> {
            let gradient = self
                .seeded(target, layer, &[&x], place)?
                .into_iter()
                .next()?;
            let ends = self.extreme(&x, Some(&gradient), target.upward);
            let sum: f64 = gradient
                .iter()
                .zip(&ends)
                .map(|(g, v)| f64::from(*g) * f64::from(int_to_f32(*v)))
                .sum();
            Some(if target.upward { sum } else { -sum })
        };
        let all = (0..places).filter_map(|place| Some((place, reached(place)?)));
        let best = all.reduce(|a, b| if b.1 > a.1 { b } else { a });
        best.map_or(0, |(place, _)| place)
    }

    /// Returns the gradient of the network's integers for one result of the target.
    fn gradient(&self, target: Target, trace: &Trace, place: usize) -> Option<Gradient> {
        let nodes = &self.model.nodes;
        let mut open: Vec<Option<Gradient>> = vec![None; nodes.len()];
        for index in (self.entry.node + 1..=target.node).rev() {
            let QuantizedOp::Integer(layer) = &nodes[index].op else {
                continue;
            };
            let inputs: Vec<&ArrayD<i64>> = nodes[index]
                .inputs
                .iter()
                .filter_map(|i| trace.tensors[*i].as_ref())
                .collect();
            if inputs.len() != nodes[index].inputs.len() {
                continue;
            }
            let gradients = if index == target.node {
                self.seeded(target, layer, &inputs, place)?
            } else if let Some(gradient) = open[index].take() {
                backward(layer, &inputs, gradient)
            } else {
                continue;
            };
            for (input, gradient) in nodes[index].inputs.iter().zip(gradients) {
                match &mut open[*input] {
                    Some(sum) => *sum += &gradient,
                    none => *none = Some(gradient),
                }
            }
        }
        open[self.entry.node].take()
    }

    /// Returns the number of places at which an intermediate is tried.
    fn n_places(&self, target: Target, layer: &IntegerLayer, inputs: &[&ArrayD<i64>]) -> usize {
        let extents = self.output_extents(target.node);
        let extents = extents.map(|output| stage_extents(layer, inputs, (target.stage, &output)));
        extents.map_or(1, |extents| places::count(&extents))
    }

    fn output_extents(&self, node: usize) -> Option<Vec<usize>> {
        let output = self.model.nodes[node].shape.iter().copied();
        std::iter::once(Some(1)).chain(output).collect()
    }

    /// Returns the gradients of the target layer's inputs; `place` counts places of the image,
    /// from the middle on.
    pub(super) fn seeded(
        &self,
        target: Target,
        layer: &IntegerLayer,
        inputs: &[&ArrayD<i64>],
        place: usize,
    ) -> Option<Vec<Gradient>> {
        let output = self.output_extents(target.node)?;
        let extents = stage_extents(layer, inputs, (target.stage, &output));
        let at = places::place(&extents, target.channel, place)?;
        Some(at_stage(layer, inputs, (target.stage, &extents, &at)))
    }

    /// Returns the input whose elements stand at the ends that push the result outwards.
    fn extreme(&self, x: &ArrayD<i64>, gradient: Option<&Gradient>, upward: bool) -> ArrayD<i64> {
        let Some(gradient) = gradient else {
            return x.clone();
        };
        let mut next = x.clone();
        let n_channels = x.shape().last().copied().unwrap_or(1).max(1);
        for (i, (v, g)) in next.iter_mut().zip(gradient).enumerate() {
            let range = self.range(i.rem_euclid(n_channels));
            let push = if upward { *g } else { -*g };
            if push > 0.0 {
                *v = range.hi;
            } else if push < 0.0 {
                *v = range.lo;
            }
        }
        next
    }

    fn range(&self, channel: usize) -> Range {
        let ranges = self.bounds[self.entry.node]
            .output
            .as_deref()
            .unwrap_or_default();
        ranges.get(channel).copied().unwrap_or(Range::ZERO)
    }

    fn middle(&self) -> ArrayD<i64> {
        self.filled(|range| (range.lo + range.hi).div_euclid(2))
    }

    fn random_input(&mut self) -> ArrayD<i64> {
        let mut state = self.random;
        let x = self.filled(|range| {
            // SplitMix64: named, portable, and good enough to choose starts.
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let width = range.hi.abs_diff(range.lo) + 1;
            range
                .lo
                .saturating_add_unsigned((z ^ (z >> 31)).rem_euclid(width))
        });
        self.random = state;
        x
    }

    fn filled(&self, mut value: impl FnMut(Range) -> i64) -> ArrayD<i64> {
        let shape = &self.entry.shape;
        let n_channels = shape.last().copied().unwrap_or(1).max(1);
        let n: usize = shape.iter().product();
        let values = (0..n).map(|i| value(self.range(i.rem_euclid(n_channels))));
        let values = values.collect();
        ArrayD::from_shape_vec(IxDyn(shape), values).unwrap_or_else(|_| ArrayD::zeros(IxDyn(shape)))
    }

    fn run(&self, x: &ArrayD<i64>) -> Result<Trace, ModelError> {
        self.replay.run(self.network_input(x))
    }

    /// Returns the network input that gives the integers `x`.
    fn network_input(&self, x: &ArrayD<i64>) -> ArrayD<f32> {
        let QuantizedOp::InputQuantizer { quantizer, .. } = &self.model.nodes[self.entry.node].op
        else {
            return x.mapv(int_to_f32);
        };
        let n_channels = x.len_of(Axis(x.ndim() - 1)).max(1);
        let mut index = 0_usize;
        x.map(|v| {
            let c = index;
            index = (index + 1).rem_euclid(n_channels);
            let zero = quantizer.zero_point.as_ref().map_or(0, |zero| zero.at(c));
            mul_pow2(int_to_f32(v - zero), -quantizer.frac_bits.at(c))
        })
    }
}
