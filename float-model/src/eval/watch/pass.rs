//! One pass of a few images through the network.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use kernels::Kernels;

use super::super::chains::{self, Ends};
use super::super::temporal::Memory;
use super::super::tensor::{Tensor, Work};
use super::super::{compute, output_extents, pointwise};
use super::{Rectifier, Step, Watch};
use crate::{GraphError, Layer, NodeId};

/// Buffers that no value is in.
#[derive(Debug, Default)]
pub(super) struct Buffers(Vec<Vec<f32>>);

/// Buffers that are kept at most: some layers bring their own, which would pile up from pass to pass.
const KEPT: usize = 8;

/// Bytes of a line of the cache. A vector that straddles two costs as much as two vectors.
const LINE: usize = 64;

/// Elements of a line.
const LINE_LEN: usize = LINE.div_euclid(size_of::<f32>());

impl Buffers {
    /// Returns a buffer with at least `len` elements from the start of a line on, of any values.
    fn take(&mut self, len: usize) -> Vec<f32> {
        let len = len + LINE_LEN;
        let fits = |(_, buffer): &(usize, &Vec<f32>)| buffer.len() >= len;
        let sizes = || self.0.iter().enumerate();
        let best = sizes()
            .filter(fits)
            .min_by_key(|(_, buffer)| buffer.len())
            .or_else(|| sizes().max_by_key(|(_, buffer)| buffer.len()))
            .map(|(index, _)| index);
        let mut buffer = best
            .map(|index| self.0.swap_remove(index))
            .unwrap_or_default();
        if buffer.len() < len {
            buffer.resize(len, 0.0);
        }
        buffer
    }

    /// Keeps a buffer, the largest of those that there are.
    fn put(&mut self, buffer: Vec<f32>) {
        self.0.push(buffer);
        if self.0.len() > KEPT {
            let smallest = (0..self.0.len()).min_by_key(|index| self.0[*index].len());
            smallest.map(|index| self.0.swap_remove(index));
        }
    }

    /// Returns how many values the buffers have room for.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.0.iter().map(Vec::capacity).sum()
    }
}

/// The output of a layer, a part of a buffer.
#[derive(Debug)]
struct Value<'a> {
    extents: Vec<usize>,
    buffer: Cow<'a, [f32]>,
    /// Where the elements start.
    start: usize,
}

impl<'a> Value<'a> {
    /// Returns the value whose elements are all of `elements`.
    const fn whole(extents: Vec<usize>, elements: Cow<'a, [f32]>) -> Self {
        Self {
            extents,
            buffer: elements,
            start: 0,
        }
    }

    /// Returns a value of any elements, from the start of a line on.
    fn in_lines(extents: Vec<usize>, buffers: &mut Buffers) -> Self {
        let buffer = buffers.take(len_of(&extents));
        Self {
            start: line_start(&buffer),
            extents,
            buffer: Cow::Owned(buffer),
        }
    }

    fn elements(&self) -> &[f32] {
        &self.buffer[self.start..][..len_of(&self.extents)]
    }

    /// Returns the elements of a value that no one else has.
    fn elements_mut(&mut self) -> &mut [f32] {
        let len = len_of(&self.extents);
        &mut self.buffer.to_mut()[self.start..][..len]
    }

    fn tensor(&self) -> Tensor<'_> {
        Tensor {
            extents: self.extents.clone(),
            data: Cow::Borrowed(self.elements()),
        }
    }
}

fn len_of(extents: &[usize]) -> usize {
    extents.iter().product()
}

/// Returns the first element of `buffer` that starts a line, or 0 if no such is near.
fn line_start(buffer: &[f32]) -> usize {
    let start = buffer.as_ptr().align_offset(LINE);
    if start < LINE_LEN { start } else { 0 }
}

/// A few images on their way through the network.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    watch: &'a Watch<'a>,
    kernels: Kernels,
    work: Work,
    values: Vec<Option<Value<'a>>>,
    n_uses: Vec<usize>,
    buffers: Buffers,
    /// The largest magnitudes so far, for each watched layer; empty before the first.
    largest: Vec<Vec<u32>>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        watch: &'a Watch<'a>,
        (kernels, work): (Kernels, Work),
        buffers: Buffers,
    ) -> Self {
        Self {
            watch,
            kernels,
            work,
            values: Vec::new(),
            n_uses: Vec::new(),
            buffers,
            largest: vec![Vec::new(); watch.watched.len()],
        }
    }

    pub(super) fn into_parts(mut self) -> (Vec<Vec<u32>>, Buffers) {
        self.clear();
        (self.largest, self.buffers)
    }

    /// Takes the images, of extents `item`, through all steps.
    pub(super) fn group(&mut self, images: &'a [f32], item: &[usize]) -> Result<(), GraphError> {
        let watch = self.watch;
        let len = item.iter().product::<usize>().max(1);
        let n_images = images.len().div_euclid(len);
        let (single, together) = watch.steps.split_at(watch.n_single);
        let Some(last) = single.last().filter(|_| n_images > 1) else {
            return self.part(images, item, &watch.steps);
        };
        let mut joined: Option<Value<'a>> = None;
        for (index, image) in images.chunks(len).enumerate() {
            self.part(image, item, single)?;
            let Some(value) = self.values[last.output.index()].take() else {
                continue;
            };
            let len = value.elements().len();
            let joined = joined.get_or_insert_with(|| {
                let mut extents = value.extents.clone();
                extents[0] = n_images;
                Value::in_lines(extents, &mut self.buffers)
            });
            joined.elements_mut()[index * len..][..len].copy_from_slice(value.elements());
            self.keep(value);
        }
        self.values[last.output.index()] = joined;
        self.steps(together)
    }

    /// Takes images through `steps` from the first on.
    fn part(
        &mut self,
        images: &'a [f32],
        item: &[usize],
        steps: &[Step],
    ) -> Result<(), GraphError> {
        self.clear();
        let graph = self.watch.graph;
        self.n_uses = graph.count_uses();
        self.values.resize_with(graph.nodes().len(), || None);
        let len = item.iter().product::<usize>().max(1);
        let mut extents = vec![images.len().div_euclid(len)];
        extents.extend_from_slice(item);
        for id in graph.inputs() {
            let value = Value::whole(extents.clone(), Cow::Borrowed(images));
            self.values[id.index()] = Some(value);
        }
        self.steps(steps)
    }

    fn steps(&mut self, steps: &[Step]) -> Result<(), GraphError> {
        for step in steps {
            if self.values[step.output.index()].is_none() {
                self.step(step)?;
            } else {
                self.observe(step.output);
            }
            for input in &self.watch.graph.node(step.layer).inputs {
                self.n_uses[input.index()] -= 1;
                if self.n_uses[input.index()] == 0
                    && let Some(value) = self.values[input.index()].take()
                {
                    self.keep(value);
                }
            }
        }
        Ok(())
    }

    /// Computes one step, whose inputs are there.
    fn step(&mut self, step: &Step) -> Result<(), GraphError> {
        let node = self.watch.graph.node(step.layer);
        if let Some(value) = self.in_place(&node.layer, &node.inputs) {
            self.values[step.output.index()] = Some(value);
            self.observe(step.output);
            return Ok(());
        }
        let inputs = node.inputs.iter();
        let inputs: Vec<Tensor<'_>> = inputs
            .filter_map(|input| self.values[input.index()].as_ref().map(Value::tensor))
            .collect();
        let shapes: Vec<&[usize]> = inputs.iter().map(|x| x.extents.as_slice()).collect();
        let extents = output_extents(&node.name, &node.layer, &shapes)?;
        let n_values = len_of(&extents);
        let (value, is_observed) = match (step.ends, inputs.first()) {
            (Some(Rectifier(most)), Some(x)) if n_values > 0 => {
                let mut out = Value::in_lines(extents.clone(), &mut self.buffers);
                let mut watched = self.watch.watched.iter();
                let place = watched.position(|id| *id == step.output);
                let largest = place.map(|place| {
                    let mut largest = std::mem::take(&mut self.largest[place]);
                    largest.resize(extents.last().copied().unwrap_or(1), 0);
                    Mutex::new(largest)
                });
                let ends = Ends {
                    kernels: self.kernels,
                    work: self.work,
                    most,
                    largest: largest.as_ref(),
                    packed: step
                        .packed
                        .as_ref()
                        .filter(|packed| packed.suits(self.kernels)),
                };
                chained(ends, &node.layer, x, &extents, out.elements_mut());
                if let (Some(place), Some(largest)) = (place, largest) {
                    let largest = largest.into_inner();
                    self.largest[place] = largest.unwrap_or_else(PoisonError::into_inner);
                }
                (out, true)
            }
            _ => {
                let memory = &mut Memory::default();
                let operands = (inputs.as_slice(), extents.as_slice());
                let out = compute(self.kernels, &node.name, &node.layer, operands, memory)?;
                (Value::whole(extents, Cow::Owned(out)), false)
            }
        };
        self.values[step.output.index()] = Some(value);
        if !is_observed {
            self.observe(step.output);
        }
        Ok(())
    }

    /// Returns the output of a layer that changes its input, which nothing else takes, where it is.
    fn in_place(&mut self, layer: &Layer, inputs: &[NodeId]) -> Option<Value<'a>> {
        let (&Layer::ReLU(relu), [input]) = (layer, inputs) else {
            return None;
        };
        let is_alone = self.n_uses[input.index()] == 1;
        let place = &mut self.values[input.index()];
        let is_owned = |value: &mut Value<'_>| matches!(value.buffer, Cow::Owned(_));
        let mut value = place.take_if(|value| is_alone && is_owned(value))?;
        if pointwise::relu_in_place(self.kernels, relu, value.elements_mut()) {
            return Some(value);
        }
        *place = Some(value);
        None
    }

    /// Takes the largest magnitudes of a value, if it is watched.
    fn observe(&mut self, id: NodeId) {
        let watched = self.watch.watched.iter().position(|watched| *watched == id);
        let (Some(index), Some(value)) = (watched, &self.values[id.index()]) else {
            return;
        };
        let tensor = value.tensor();
        let largest = &mut self.largest[index];
        largest.resize(tensor.last().max(1), 0);
        self.kernels.largest_magnitudes(&tensor.data, largest);
    }

    /// Keeps the buffer of a value for the next one.
    fn keep(&mut self, value: Value<'a>) {
        if let Cow::Owned(buffer) = value.buffer {
            self.buffers.put(buffer);
        }
    }

    fn clear(&mut self) {
        for value in std::mem::take(&mut self.values).into_iter().flatten() {
            self.keep(value);
        }
    }
}

/// Computes a layer whose outputs are chains.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a step has ends for these layers only"
)]
fn chained(ends: Ends<'_>, layer: &Layer, x: &Tensor<'_>, extents: &[usize], out: &mut [f32]) {
    match layer {
        Layer::Conv2D(conv) => chains::conv2d(ends, conv, x, extents, out),
        Layer::DepthwiseConv2D(conv) => chains::depthwise(ends, conv, x, extents, out),
        Layer::Dense(dense) => chains::dense(ends, dense, x, out),
        _ => {}
    }
}
