//! Layers with weights: packed once, run block by block.

mod blocks;
pub(super) mod doubling;
mod geometry;
mod operands;
mod products;

use kernels::{Activation, Extremes, Finish};
use std::borrow::Cow;
use std::sync::Arc;

use float_model::{MAX_BATCH_VALUES, Padding};
use quantizer_core::layers::{EntryStage, IntegerLayer, IntegerOp, Memory};
use quantizer_core::{Counters, Stage, StageCount, ValueBits};

use super::bounds::Interval;
use super::elementwise::rectifier_tops;
use super::entry::{count_entry, entered_values, typed_values};
use super::epilogue::{Ends, Epilogue, Tally};
use super::room::Room;
use super::sequence;
use super::tensor::{Int, Storage, Tensor, Values, convert, with_storage};
use super::weights::{Packing, Shape, Weights};
use crate::ModelError;
use blocks::{Blocks, Place};
use geometry::Geometry;
use operands::Operands;
use products::{Finished, Sum};

/// A layer with weights, ready to run.
#[derive(Clone, Debug)]
pub(super) struct LinearPlan {
    kind: Kind,
    /// What happens to the inputs first.
    entry: EntryStage,
    time: Time,
    /// Whether the weights hold the shifts of the entry stage.
    aligns: bool,
    weights: Arc<Weights>,
    /// Type of the entered inputs.
    input: Storage,
    /// Values of the border in the channels of the input.
    border: Option<Values>,
    epilogue: Epilogue,
    out_channels: usize,
    out: Storage,
}

/// Which of the inputs that it sees over time a layer takes.
#[derive(Clone, Copy, Debug)]
enum Time {
    /// Those of the present.
    Now,
    /// The last frames.
    Frames(usize),
    /// The last of each group of steps.
    Subsampled(usize),
}

#[derive(Clone, Debug)]
enum Kind {
    Conv {
        kernel: [usize; 2],
        steps: Steps,
        padding: ConvPadding,
    },
    Depthwise {
        kernel: [usize; 2],
        steps: Steps,
        padding: Padding,
    },
    Separable {
        kernel: [usize; 2],
        steps: Steps,
        padding: Padding,
        pointwise: Box<Weights>,
        inner: ValueBits,
    },
    Transposed {
        kernel: [usize; 2],
        strides: [usize; 2],
        padding: Padding,
        output_padding: Option<[usize; 2]>,
    },
    DepthwiseTransposed {
        kernel: [usize; 2],
        strides: [usize; 2],
    },
    Dense,
}

#[derive(Clone, Copy, Debug)]
struct Steps {
    strides: [usize; 2],
    dilation: [usize; 2],
}

#[derive(Clone, Copy, Debug)]
enum ConvPadding {
    Plain(Padding),
    /// The border of an undilated 'same', filled with values.
    Filled,
}

impl Time {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the layers over time are named"
    )]
    const fn of(op: &IntegerOp) -> Self {
        match op {
            IntegerOp::BufferTempConv { n_frames, .. } => Self::Frames(*n_frames),
            IntegerOp::StatefulProjection { subsample, .. } => Self::Subsampled(*subsample),
            _ => Self::Now,
        }
    }
}

/// What a layer changes beside its output.
pub(super) struct State<'a> {
    pub(super) memory: &'a mut Memory,
    pub(super) counters: &'a mut Counters,
    pub(super) room: &'a mut Room,
}

impl LinearPlan {
    /// Returns the plan of a layer with weights for inputs in `input`; `None` for other layers.
    pub(super) fn new(layer: &IntegerLayer, input: Interval, out: Storage) -> Option<Self> {
        let Operands {
            kind,
            aligns,
            mut weights,
            covered,
            border,
        } = Operands::new(layer, input)?;
        let out_channels = match &kind {
            Kind::Separable { pointwise, .. } => pointwise.channels,
            Kind::Conv { .. }
            | Kind::Depthwise { .. }
            | Kind::Transposed { .. }
            | Kind::DepthwiseTransposed { .. }
            | Kind::Dense => weights.channels,
        };
        let largest = match &kind {
            Kind::Separable { pointwise, .. } => pointwise.largest,
            Kind::Conv { .. }
            | Kind::Depthwise { .. }
            | Kind::Transposed { .. }
            | Kind::DepthwiseTransposed { .. }
            | Kind::Dense => weights.largest,
        };
        let epilogue = Epilogue::new(layer, Some(Stage::Accumulator), out_channels, largest);
        // Wide sums are taken over `i32` inputs and weights only: fewer kernels, rare layers.
        let input = if weights.wide {
            Storage::I32
        } else {
            Storage::of(covered.lo, covered.hi)
        };
        let shape = match &kind {
            Kind::Conv { kernel, .. } => Some(Shape::Product { rows: kernel[0] }),
            Kind::Dense => Some(Shape::Product { rows: 1 }),
            Kind::Depthwise { kernel, .. } => Some(Shape::Depthwise(*kernel)),
            Kind::Separable { .. } | Kind::Transposed { .. } | Kind::DepthwiseTransposed { .. } => {
                None
            }
        };
        let x = covered;
        weights.packing = shape.map(|shape| Packing { shape, x, input });
        let border = border.map(|values| convert(values, input));
        Some(Self {
            kind,
            entry: layer.entries.first()?.clone(),
            time: Time::of(&layer.op),
            aligns,
            weights: Arc::new(weights),
            input,
            border,
            epilogue,
            out_channels,
            out,
        })
    }

    /// Returns the plan of this layer and of the rectifier that alone takes its results, which writes `out`; `None` if
    /// that does not go in one pass.
    pub(super) fn rectified(
        &self,
        layer: &IntegerLayer,
        rectifier: &IntegerLayer,
        out: Storage,
    ) -> Option<Self> {
        let IntegerOp::ReLU { max } = &rectifier.op else {
            return None;
        };
        let enters_as_it_is = rectifier.entries.iter().all(EntryStage::is_identity);
        let is_plain = layer.output.is_none() && !matches!(self.kind, Kind::Separable { .. });
        if !(enters_as_it_is && is_plain) || out == Storage::I64 || self.weights.wide {
            return None;
        }
        let tops = rectifier_tops(max.as_ref(), self.out_channels);
        let epilogue = Epilogue::rectified(layer, rectifier, tops, self.weights.largest);
        epilogue.finish()?;
        let plan = self.clone();
        Some(Self {
            epilogue,
            out,
            ..plan
        })
    }

    /// Returns whether the order of its input channels matters to its speed.
    pub(super) fn gains_by_order(&self) -> bool {
        self.aligns && self.weights.has_shifts()
    }

    /// Returns the layer's output, and what its channels came to if that is known; `ends` is what those of `x` did.
    pub(super) fn run(
        &self,
        name: &str,
        x: &Tensor,
        ends: Option<&Ends>,
        state: State<'_>,
    ) -> Result<(Tensor, Option<Ends>), ModelError> {
        let State {
            memory,
            counters,
            room,
        } = state;
        let entry = &self.entry;
        let x = if self.aligns {
            count_entry(name, entry, (x, ends), counters)?;
            typed_values(name, x, self.input)?
        } else {
            entered_values(name, entry, x, Some(self.input), counters)?
        };
        let x = match self.time {
            Time::Now => x,
            Time::Frames(n) => Cow::Owned(sequence::window(name, &x, n, self.input, memory)?),
            Time::Subsampled(n) => Cow::Owned(sequence::subsampled(name, &x, n, self.input)?),
        };
        let geometry = Geometry::new(self, &x.shape).ok_or_else(|| {
            let shape = &x.shape;
            ModelError::invalid(name, format!("cannot run on a tensor of shape {shape:?}"))
        })?;
        let mut extents = geometry.out_shape.iter();
        let n_values = extents.try_fold(1_usize, |n, extent| n.checked_mul(*extent));
        if n_values.is_none_or(|n| n > MAX_BATCH_VALUES) {
            let shape = &geometry.out_shape;
            let message = format!("an output of {shape:?} is more than a batch can be");
            return Err(ModelError::invalid(name, message));
        }
        let one_pass = self
            .epilogue
            .finish()
            .filter(|_| !self.final_weights().wide && !matches!(self.kind, Kind::Separable { .. }));
        Ok(match (self.out, one_pass) {
            (Storage::U8, Some(finish)) => {
                self.finished::<u8>(&x, &geometry, finish, (counters, room))
            }
            (Storage::I8, Some(finish)) => {
                self.finished::<i8>(&x, &geometry, finish, (counters, room))
            }
            (Storage::I16, Some(finish)) => {
                // Rare: a pass more costs less than code of its own for the type.
                let (words, ends) = self.finished::<i32>(&x, &geometry, finish, (counters, room));
                let shorts = typed_values(name, &words, Storage::I16)?.into_owned();
                room.put(words.values);
                (shorts, ends)
            }
            (Storage::I32, Some(finish)) => {
                self.finished::<i32>(&x, &geometry, finish, (counters, room))
            }
            _ => with_storage!(self.out, O => {
                if self.final_weights().wide {
                    self.blocks(&x, &geometry, (counters, room), Self::block::<i64, O>)
                } else {
                    self.blocks(&x, &geometry, (counters, room), Self::block::<i32, O>)
                }
            }),
        })
    }

    /// Returns the results of a layer whose steps are one pass; where more than its last step clips, it is done again
    /// step by step.
    fn finished<O: Finished>(
        &self,
        x: &Tensor,
        geometry: &Geometry,
        finish: &Finish,
        (counters, room): (&mut Counters, &mut Room),
    ) -> (Tensor, Option<Ends>) {
        let mut out = room.take::<O>(geometry.out_shape.iter().product());
        let blocks = Blocks::of(self, geometry, room.is_shared);
        let mut all = Extremes::new(finish);
        let run = |place: Place<'_>, out: &mut [O], extremes: &mut Extremes| {
            O::finish(self, &x.values, &place, (finish, out, extremes));
        };
        if room.is_shared {
            blocks.each(&mut out, |place, out| run(place, out, &mut all));
        } else {
            let block = |place: Place<'_>, out: &mut [O]| {
                let mut extremes = Extremes::new(finish);
                run(place, out, &mut extremes);
                extremes
            };
            let extremes = blocks.each_in_parallel(&mut out, &block);
            extremes.iter().for_each(|extremes| all.merge(extremes));
        }
        let Some((tally, ends)) = self.epilogue.finished(&all, out.len()) else {
            room.put(O::values(out));
            return self.blocks(x, geometry, (counters, room), Self::block::<i32, O>);
        };
        self.epilogue.count(&tally, counters);
        let tensor = Tensor {
            shape: geometry.out_shape.clone(),
            values: O::values(out),
        };
        (tensor, ends)
    }

    fn final_weights(&self) -> &Weights {
        match &self.kind {
            Kind::Separable { pointwise, .. } => pointwise,
            Kind::Conv { .. }
            | Kind::Depthwise { .. }
            | Kind::Transposed { .. }
            | Kind::DepthwiseTransposed { .. }
            | Kind::Dense => &self.weights,
        }
    }

    /// Returns the results of a layer step by step, and what its channels came to if the next layer cannot see it.
    fn blocks<O: Int>(
        &self,
        x: &Tensor,
        geometry: &Geometry,
        (counters, room): (&mut Counters, &mut Room),
        block: impl Fn(&Self, &Tensor, Place<'_>, &mut [O]) -> (Tally, StageCount) + Sync,
    ) -> (Tensor, Option<Ends>) {
        let mut out = room.take::<O>(geometry.out_shape.iter().product());
        let blocks = Blocks::of(self, geometry, room.is_shared);
        let (mut tally, mut inner) = (Tally::default(), StageCount::default());
        let mut add = |(block, depthwise): (Tally, StageCount)| {
            tally.merge(&block);
            inner.merge(depthwise);
        };
        let run = |place: Place<'_>, out: &mut [O]| block(self, x, place, out);
        if room.is_shared {
            blocks.each(&mut out, |place, out| add(run(place, out)));
        } else {
            let results = blocks.each_in_parallel(&mut out, &run);
            results.into_iter().for_each(add);
        }
        if matches!(self.kind, Kind::Separable { .. }) {
            counters.add(Stage::DepthwiseAccumulator, inner);
        }
        self.epilogue.count(&tally, counters);
        let ends = self.double(&mut out);
        let tensor = Tensor {
            shape: geometry.out_shape.clone(),
            values: O::values(out),
        };
        (tensor, ends)
    }

    fn block<A: Sum, O: Int>(
        &self,
        x: &Tensor,
        place: Place<'_>,
        out: &mut [O],
    ) -> (Tally, StageCount) {
        let mut sums = vec![A::ZERO; out.len()];
        let mut inner = StageCount::default();
        if let Kind::Separable {
            pointwise,
            inner: bits,
            ..
        } = &self.kind
        {
            let channels = self.weights.channels;
            let n_pixels = out.len().div_euclid(self.out_channels.max(1));
            let mut depthwise = vec![0i32; n_pixels * channels];
            self.depthwise_sums(&x.values, &place, *bits, &mut depthwise, &mut inner);
            A::dense(
                &Values::I32(depthwise.into()),
                pointwise,
                channels,
                &mut sums,
            );
        } else {
            A::product(self, &x.values, &place, &mut sums);
        }
        let mut tally = Tally::default();
        self.epilogue.run(&sums, out, &mut tally);
        (tally, inner)
    }

    /// Writes the saturated sums of a separable convolution's depthwise half.
    fn depthwise_sums(
        &self,
        x: &Values,
        place: &Place<'_>,
        bits: ValueBits,
        out: &mut [i32],
        count: &mut StageCount,
    ) {
        if self.weights.wide {
            let mut sums = vec![0i64; out.len()];
            i64::product(self, x, place, &mut sums);
            let narrowed = sums
                .iter()
                .map(|sum| i32::narrow(count.saturate(*sum, bits)));
            out.iter_mut().zip(narrowed).for_each(|(out, v)| *out = v);
        } else {
            i32::product(self, x, place, out);
            out.iter_mut()
                .for_each(|v| *v = i32::narrow(count.saturate(v.wide(), bits)));
        }
    }
}
