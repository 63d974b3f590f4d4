//! Interval propagation: a range for each intermediate of each channel that holds for all inputs.

use float_model::{Dtype, Shape};
use quantizer_core::layers::{Border, ConcatAxis, ConvOp, EntryStage, IntegerLayer, IntegerOp};
use quantizer_core::quantizers::OutputStage;
use quantizer_core::round::{shift_half_up, shift_left};
use quantizer_core::{PerAxis, Stage, ValueBits};

use super::temporal::frames;
use super::{Range, products};
use crate::ModelError;
use crate::model::{InputKind, QuantizedModel, QuantizedNode, QuantizedOp};

/// Ranges of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerBounds {
    /// Each intermediate that has a width, in order of execution.
    pub stages: Vec<StageBounds>,
    /// Outputs, one range a channel of the last axis; `None` for floats.
    pub output: Option<Vec<Range>>,
}

/// Ranges of one intermediate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageBounds {
    /// Which one.
    pub stage: Stage,
    /// The width that the hardware gives it, without the sign.
    pub value_bits: ValueBits,
    /// What it can be before it saturates, one range a channel.
    pub channels: Vec<Range>,
}

impl StageBounds {
    /// Returns whether no input can make it saturate.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.channels
            .iter()
            .all(|range| range.fits(self.value_bits))
    }
}

/// Returns the ranges of every layer of `model`, for all integers that its input can hold.
///
/// Each channel has its own range. Sums of products take the exact extremes over the ranges of
/// their inputs; ranges of different elements count as independent.
///
/// # Errors
///
/// A layer whose number of channels is open.
pub fn bound(model: &QuantizedModel) -> Result<Vec<LayerBounds>, ModelError> {
    let mut all: Vec<LayerBounds> = Vec::with_capacity(model.nodes.len());
    for node in &model.nodes {
        let inputs = node.inputs.iter().map(|i| {
            let ranges = all[*i].output.as_deref().unwrap_or_default();
            (ranges, &model.nodes[*i].shape)
        });
        let inputs: Vec<(&[Range], &Shape)> = inputs.collect();
        all.push(layer_bounds(node, &inputs)?);
    }
    Ok(all)
}

fn layer_bounds(
    node: &QuantizedNode,
    inputs: &[(&[Range], &Shape)],
) -> Result<LayerBounds, ModelError> {
    let channels = || {
        let last = node.shape.last().copied().flatten();
        last.ok_or_else(|| ModelError::invalid(&node.name, "has an open number of channels"))
    };
    let mut stages = Vec::new();
    let output = match &node.op {
        QuantizedOp::Input(InputKind::Raw { dtype, format }) => {
            let full = Range::of_bits(format.value_bits);
            let range = match dtype {
                Dtype::UInt8 | Dtype::UInt16 => Range { lo: 0, ..full },
                Dtype::Int8 | Dtype::Int16 | Dtype::Int32 | Dtype::Float32 => full,
            };
            Some(vec![range; channels()?])
        }
        QuantizedOp::InputQuantizer { quantizer, .. } => {
            // Any float may come in and is clipped to the whole width before the zero point.
            let bits = quantizer.value_bits;
            let full = vec![Range::of_bits(bits); channels()?];
            Some(match &quantizer.zero_point {
                None => full,
                Some(zero) => {
                    let moved = full.iter().enumerate();
                    let moved = moved.map(|(c, x)| x.map(|v| v + zero.at(c)));
                    saturated(Stage::ZeroPoint, moved.collect(), bits, &mut stages)
                }
            })
        }
        QuantizedOp::Integer(layer) => Some(Propagation::of(layer, inputs, &mut stages).run(node)?),
        QuantizedOp::Input(InputKind::Float(_))
        | QuantizedOp::Dequantizer(_)
        | QuantizedOp::Float(_) => None,
    };
    Ok(LayerBounds { stages, output })
}

/// The ranges of one integer layer in the making.
pub(super) struct Propagation<'a> {
    pub(super) layer: &'a IntegerLayer,
    inputs: Vec<(Vec<Range>, &'a Shape)>,
    stages: &'a mut Vec<StageBounds>,
}

impl<'a> Propagation<'a> {
    /// Takes the inputs through their entry stages.
    fn of(
        layer: &'a IntegerLayer,
        inputs: &[(&[Range], &'a Shape)],
        stages: &'a mut Vec<StageBounds>,
    ) -> Self {
        let mut this = Self {
            layer,
            inputs: Vec::with_capacity(inputs.len()),
            stages,
        };
        for ((x, shape), entry) in inputs.iter().zip(&layer.entries) {
            let entered = this.enter(entry, x);
            this.inputs.push((entered, shape));
        }
        this
    }

    fn enter(&mut self, entry: &EntryStage, x: &[Range]) -> Vec<Range> {
        if entry.is_identity() {
            return x.to_vec();
        }
        let shifted = x.iter().enumerate();
        let shifted = shifted.map(|(c, x)| x.map(|v| shift_left(v, entry.shift.at(c))));
        let shifted = shifted.collect();
        self.saturate(entry.stage, shifted, entry.value_bits)
    }

    /// Notes the ranges of a stage and returns them saturated.
    pub(super) fn saturate(
        &mut self,
        stage: Stage,
        channels: Vec<Range>,
        bits: ValueBits,
    ) -> Vec<Range> {
        saturated(stage, channels, bits, self.stages)
    }

    /// Notes the ranges of a stage at which nothing saturates: what it takes always fits.
    fn note(&mut self, stage: Stage, channels: impl Iterator<Item = Range>, bits: ValueBits) {
        self.stages.push(StageBounds {
            stage,
            value_bits: bits,
            channels: channels.collect(),
        });
    }

    /// Notes what an operation holds before it computes: a padded image, frames, indices.
    fn held(&mut self, x: &[Range]) {
        let bits = self.layer.inner.value_bits;
        match &self.layer.op {
            IntegerOp::Conv2D(ConvOp {
                border: Border::Value(border),
                ..
            }) => {
                let padded = x.iter().enumerate();
                let padded = padded.map(|(c, x)| x.union(Range::from(border.at(c))));
                self.note(Stage::PaddedInput, padded, bits);
            }
            IntegerOp::BufferTempConv { .. } | IntegerOp::DepthwiseBufferTempConv { .. } => {
                let frames = x.iter().map(|x| x.union(Range::ZERO));
                self.note(Stage::Frames, frames, bits);
            }
            IntegerOp::LookUp { .. } => {
                let bits = self.layer.entries[0].value_bits;
                self.note(Stage::LookUpIndex, x.iter().copied(), bits);
            }
            IntegerOp::Conv2D(_)
            | IntegerOp::DepthwiseConv2D(_)
            | IntegerOp::SeparableConv2D { .. }
            | IntegerOp::Conv2DTranspose(_)
            | IntegerOp::DepthwiseConv2DTranspose(_)
            | IntegerOp::Dense { .. }
            | IntegerOp::StatefulProjection { .. }
            | IntegerOp::StatefulRecurrent(_)
            | IntegerOp::ReLU { .. }
            | IntegerOp::MaxPool2D(_)
            | IntegerOp::GlobalAveragePooling2D { .. }
            | IntegerOp::Add
            | IntegerOp::Concatenate(_)
            | IntegerOp::Flatten
            | IntegerOp::Reshape { .. }
            | IntegerOp::Permute { .. }
            | IntegerOp::ExtractToken { .. }
            | IntegerOp::Identity => {}
        }
    }

    fn run(mut self, node: &QuantizedNode) -> Result<Vec<Range>, ModelError> {
        let mut y = self.operation(node)?;
        let inner = self.layer.inner.value_bits;
        if let Some(bias) = &self.layer.bias {
            let bias = bias.aligned(inner);
            let sums = y.iter().enumerate();
            let sums = sums.map(|(c, y)| y.plus(bias.at(c).into())).collect();
            y = self.saturate(Stage::BiasAdd, sums, inner);
        }
        if let Some(output) = &self.layer.output {
            y = self.narrow(output, y);
        }
        Ok(y)
    }

    fn narrow(&mut self, output: &OutputStage, mut y: Vec<Range>) -> Vec<Range> {
        if let Some((q, buffer)) = &output.multiplier {
            let products = y.iter().enumerate();
            // A scale is positive; the definition saturates the product of wide sums to an i64.
            let products = products.map(|(c, y)| y.map(|v| v.saturating_mul(q.at(c))));
            y = self.saturate(Stage::ScaleMultiply, products.collect(), *buffer);
        }
        let shifted = y.iter().enumerate();
        let shifted = shifted.map(|(c, y)| y.map(|v| shift_half_up(v, output.shift.at(c))));
        self.saturate(Stage::OutputRescale, shifted.collect(), output.value_bits)
    }

    fn operation(&mut self, node: &QuantizedNode) -> Result<Vec<Range>, ModelError> {
        let bits = self.layer.inner.value_bits;
        let (x, shape) = match self.inputs.first() {
            Some((x, shape)) => (x.clone(), *shape),
            None => return Err(ModelError::invalid(&node.name, "has no input")),
        };
        let layer = self.layer;
        self.held(&x);
        let mut sums = |sums, stage| self.saturate(stage, sums, bits);
        Ok(match &layer.op {
            IntegerOp::Conv2D(op) => sums(products::conv2d(op, &x, shape), Stage::Accumulator),
            IntegerOp::DepthwiseConv2D(op) => {
                sums(products::depthwise(op, &x, shape), Stage::Accumulator)
            }
            IntegerOp::SeparableConv2D {
                depthwise,
                pointwise,
            } => {
                let inner = products::depthwise(depthwise, &x, shape);
                let inner = sums(inner, Stage::DepthwiseAccumulator);
                sums(products::dense(pointwise, &inner), Stage::Accumulator)
            }
            IntegerOp::Conv2DTranspose(op) => {
                sums(products::transposed(op, &x, shape), Stage::Accumulator)
            }
            IntegerOp::DepthwiseConv2DTranspose(op) => {
                let acc = products::depthwise_transposed(op, &x, shape);
                sums(acc, Stage::Accumulator)
            }
            IntegerOp::Dense { kernel } | IntegerOp::StatefulProjection { kernel, .. } => {
                sums(products::dense(kernel, &x), Stage::Accumulator)
            }
            IntegerOp::BufferTempConv { kernel, n_frames } => {
                let window = frames(&x, *n_frames).concat();
                sums(products::dense(kernel, &window), Stage::Accumulator)
            }
            IntegerOp::DepthwiseBufferTempConv { kernel } => self.frame_sums(kernel, &x),
            IntegerOp::StatefulRecurrent(op) => return Ok(self.recurrence(op, &x)),
            IntegerOp::ReLU { max } => rectified(&x, max.as_ref()),
            IntegerOp::LookUp { table } => x.iter().map(|x| looked_up(*x, table)).collect(),
            IntegerOp::GlobalAveragePooling2D { .. } => {
                let area = shape.iter().take(2).copied().collect::<Option<Vec<_>>>();
                let area = area.map(|hw| hw.into_iter().product::<usize>());
                let area = area.and_then(|area| i64::try_from(area).ok());
                let open = || ModelError::invalid(&node.name, "sums an open number of pixels");
                let area = area.ok_or_else(open)?;
                let all = x.iter().map(|x| x.times(area)).collect();
                sums(all, Stage::PoolSum)
            }
            IntegerOp::Add => {
                let second = self.inputs.get(1).map(|(second, _)| second.clone());
                let second = second.unwrap_or_default();
                let total = x.iter().zip(&second).map(|(a, b)| a.plus(*b)).collect();
                self.saturate(Stage::Sum, total, bits)
            }
            IntegerOp::Concatenate(axis) => self.concatenated(*axis),
            IntegerOp::Flatten | IntegerOp::Reshape { .. } => reshaped(&x, shape, &node.shape)
                .ok_or_else(|| ModelError::invalid(&node.name, "has open extents"))?,
            IntegerOp::Permute { dims } if dims.last() == Some(&dims.len()) => x,
            IntegerOp::Permute { .. } => {
                let n = node.shape.last().copied().flatten().unwrap_or(1);
                vec![union(&x); n]
            }
            IntegerOp::ExtractToken { token, axis } if *axis == shape.len() => {
                // The channels of the result are another axis; each holds this channel's values.
                let n = node.shape.last().copied().flatten().unwrap_or(1);
                vec![x.get(*token).copied().unwrap_or(union(&x)); n]
            }
            IntegerOp::ExtractToken { .. } | IntegerOp::MaxPool2D(_) | IntegerOp::Identity => x,
        })
    }

    fn concatenated(&self, axis: ConcatAxis) -> Vec<Range> {
        let all = self.inputs.iter().map(|(x, _)| x.clone());
        match axis {
            ConcatAxis::Channels => all.collect::<Vec<_>>().concat(),
            ConcatAxis::Leading(_) => {
                let united = |a: Vec<Range>, b: Vec<Range>| {
                    let pairs = a.into_iter().zip(b);
                    pairs.map(|(a, b)| a.union(b)).collect()
                };
                all.reduce(united).unwrap_or_default()
            }
        }
    }
}

/// Notes the ranges of a stage and returns them saturated.
fn saturated(
    stage: Stage,
    channels: Vec<Range>,
    bits: ValueBits,
    stages: &mut Vec<StageBounds>,
) -> Vec<Range> {
    let clipped = channels.iter().map(|r| r.map(|v| bits.saturate(v)));
    let clipped = clipped.collect();
    stages.push(StageBounds {
        stage,
        value_bits: bits,
        channels,
    });
    clipped
}

fn rectified(x: &[Range], max: Option<&PerAxis<i64>>) -> Vec<Range> {
    let rectify = |v: i64, c: usize| max.map_or(v.max(0), |max| v.max(0).min(max.at(c)));
    let channels = x.iter().enumerate();
    channels.map(|(c, x)| x.map(|v| rectify(v, c))).collect()
}

fn looked_up(x: Range, table: &[i32]) -> Range {
    let half = i64::try_from(table.len().div_euclid(2)).unwrap_or(0);
    let index = |v: i64| usize::try_from(v + half).unwrap_or(0).min(table.len());
    let reached = table[index(x.lo)..index(x.hi + 1)].iter();
    let reached = reached.map(|v| Range::from(i64::from(*v)));
    reached.reduce(Range::union).unwrap_or(Range::ZERO)
}

pub(super) fn union(x: &[Range]) -> Range {
    x.iter()
        .copied()
        .reduce(Range::union)
        .unwrap_or(Range::ZERO)
}

/// Returns the ranges of the channels of a row-major reshape; `None` if an extent is open.
fn reshaped(x: &[Range], from: &Shape, to: &Shape) -> Option<Vec<Range>> {
    let n_elements: usize = from.iter().copied().product::<Option<usize>>()?;
    let n_channels = to.last().copied().flatten()?;
    let mut channels: Vec<Option<Range>> = vec![None; n_channels];
    for element in 0..n_elements {
        let range = x[element.rem_euclid(x.len())];
        let channel = &mut channels[element.rem_euclid(n_channels)];
        *channel = Some(channel.map_or(range, |seen| seen.union(range)));
    }
    Some(
        channels
            .into_iter()
            .map(|c| c.unwrap_or(Range::ZERO))
            .collect(),
    )
}
