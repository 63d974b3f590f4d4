//! Float evaluation (NUMERICS.md: F1).
//!
//! Every output element is computed by one fixed sequence of f32 operations, whatever the CPU, the
//! number of threads, and the other images of the batch. Sums of products are one chain of fused
//! multiply-adds (see `kernels`); all else is stated at the function that computes it, and is
//! never fused.

mod activation;
mod chains;
mod conv;
mod layout;
mod merge;
mod pointwise;
mod pool;
mod temporal;
mod tensor;
mod volume;
mod watch;

use std::borrow::Cow;

use kernels::Kernels;
use ndarray::{ArrayD, IxDyn};

use crate::shape::{MAX_BATCH_VALUES, infer_shape};
use crate::{Activation, Graph, GraphError, Layer, Node, NodeId, Shape};

use temporal::Memory;
use tensor::Tensor;

pub use temporal::GraphMemory;
pub use watch::Watch;

impl Graph {
    /// Returns the outputs of the network, in the order of [`outputs`](Self::outputs).
    ///
    /// `inputs` holds one tensor `[batch, ...]` for each input layer, in the order of
    /// [`inputs`](Self::inputs). `observer` is called once for each layer, input layers included,
    /// in the order of [`nodes`](Self::nodes), with the layer's output `[batch, ...]`. A tensor
    /// is freed after the last layer that takes it. Temporal layers start from an empty memory.
    /// NUMERICS.md: F1.
    ///
    /// # Errors
    ///
    /// Another number of tensors than inputs, extents that differ from those of the input layer,
    /// batches that differ, or an output that does not fit in memory.
    pub fn run(
        &self,
        inputs: &[&ArrayD<f32>],
        observer: &mut dyn FnMut(NodeId, &ArrayD<f32>),
    ) -> Result<Vec<ArrayD<f32>>, GraphError> {
        self.run_step(inputs, &mut GraphMemory::default(), observer)
    }

    /// Returns the outputs for the next inputs of a sequence, as [`run`](Self::run).
    ///
    /// `memory` is what the temporal layers remember of the steps before; one that is new is
    /// empty. Item `i` of each batch continues item `i` of the batch before.
    ///
    /// # Errors
    ///
    /// Those of [`run`](Self::run), and a batch of other extents than the one before.
    pub fn run_step(
        &self,
        inputs: &[&ArrayD<f32>],
        memory: &mut GraphMemory,
        observer: &mut dyn FnMut(NodeId, &ArrayD<f32>),
    ) -> Result<Vec<ArrayD<f32>>, GraphError> {
        self.run_with(Kernels::active(), inputs, memory, observer)
    }

    /// Returns the first output of a network of one input `[batch, ...]`.
    ///
    /// # Errors
    ///
    /// Those of [`run`](Self::run).
    pub fn predict(&self, input: &ArrayD<f32>) -> Result<ArrayD<f32>, GraphError> {
        let outputs = self.run(&[input], &mut |_, _| ())?;
        outputs.into_iter().next().ok_or(GraphError::Empty)
    }

    fn run_with(
        &self,
        kernels: Kernels,
        inputs: &[&ArrayD<f32>],
        memory: &mut GraphMemory,
        observer: &mut dyn FnMut(NodeId, &ArrayD<f32>),
    ) -> Result<Vec<ArrayD<f32>>, GraphError> {
        let mut values: Vec<Option<Cow<'_, ArrayD<f32>>>> = vec![None; self.nodes().len()];
        for (id, input) in self.check_inputs(inputs)? {
            values[id.index()] = Some(Cow::Borrowed(input));
        }
        let mut n_uses = self.count_uses();
        for (id, node) in self.iter() {
            if let Some(value) = rectified(kernels, node, &n_uses, &mut values) {
                values[id.index()] = Some(Cow::Owned(value));
            } else if values[id.index()].is_none() {
                let args: Vec<&ArrayD<f32>> = node
                    .inputs
                    .iter()
                    .filter_map(|input| values[input.index()].as_deref())
                    .collect();
                let memory = memory.of(id.index());
                let value = apply_with(kernels, &node.name, &node.layer, &args, memory)?;
                values[id.index()] = Some(Cow::Owned(value));
            }
            if let Some(value) = &values[id.index()] {
                observer(id, value);
            }
            for input in &node.inputs {
                n_uses[input.index()] -= 1;
                if n_uses[input.index()] == 0 {
                    values[input.index()] = None;
                }
            }
        }
        let outputs = self.outputs().iter().map(|id| {
            let value = values[id.index()].clone().ok_or(GraphError::Empty)?;
            Ok(value.into_owned())
        });
        outputs.collect()
    }

    fn check_inputs<'a>(
        &self,
        inputs: &[&'a ArrayD<f32>],
    ) -> Result<Vec<(NodeId, &'a ArrayD<f32>)>, GraphError> {
        let ids: Vec<NodeId> = self.inputs().collect();
        if ids.len() != inputs.len() {
            let expected = ids.iter().map(|id| self.node(*id).name.clone()).collect();
            let given = inputs.len();
            return Err(GraphError::WrongInputs { expected, given });
        }
        let batch = inputs.first().and_then(|x| x.shape().first());
        for (id, x) in ids.iter().zip(inputs) {
            let node = self.node(*id);
            let fits = x.ndim() == node.shape.len() + 1
                && std::iter::zip(&x.shape()[1..], &node.shape)
                    .all(|(got, want)| want.is_none_or(|want| want == *got));
            if !fits {
                let (got, want) = (x.shape(), display_shape(&node.shape));
                let message = format!("expects a batch of {want}, got a tensor of {got:?}");
                return Err(GraphError::invalid(&node.name, message));
            }
            if x.shape().first() != batch {
                let message = "has another batch than the first input of the model";
                return Err(GraphError::invalid(&node.name, message));
            }
        }
        Ok(std::iter::zip(ids, inputs.iter().copied()).collect())
    }

    /// Counts, for each node, its consumers and the outputs that it is.
    fn count_uses(&self) -> Vec<usize> {
        let mut n_uses = vec![0; self.nodes().len()];
        let inputs = self.nodes().iter().flat_map(|node| &node.inputs);
        for id in inputs.chain(self.outputs()) {
            n_uses[id.index()] += 1;
        }
        n_uses
    }
}

/// Returns the output `[batch, ...]` of one layer; `name` is for errors.
///
/// A fused activation is included. NUMERICS.md: F1.
///
/// # Errors
///
/// Inputs whose number, extents or batches do not fit the layer, an input layer, which computes
/// nothing, or an output that does not fit in memory.
pub fn apply(
    name: &str,
    layer: &Layer,
    inputs: &[&ArrayD<f32>],
) -> Result<ArrayD<f32>, GraphError> {
    let memory = &mut Memory::default();
    apply_with(Kernels::active(), name, layer, inputs, memory)
}

/// Returns the output of one layer of a sequence, as [`apply`]; `index` is its place in `memory`.
///
/// # Errors
///
/// Those of [`apply`], and a batch of other extents than the one before.
pub fn apply_step(
    name: &str,
    layer: &Layer,
    inputs: &[&ArrayD<f32>],
    (memory, index): (&mut GraphMemory, usize),
) -> Result<ArrayD<f32>, GraphError> {
    apply_with(Kernels::active(), name, layer, inputs, memory.of(index))
}

fn apply_with(
    kernels: Kernels,
    name: &str,
    layer: &Layer,
    inputs: &[&ArrayD<f32>],
    memory: &mut Memory,
) -> Result<ArrayD<f32>, GraphError> {
    let shapes: Vec<&[usize]> = inputs.iter().map(|x| x.shape()).collect();
    let extents = output_extents(name, layer, &shapes)?;
    let tensors: Vec<Tensor<'_>> = inputs.iter().map(|x| Tensor::new(x)).collect();
    let out = compute(kernels, name, layer, (&tensors, &extents), memory)?;
    ArrayD::from_shape_vec(IxDyn(&extents), out)
        .map_err(|error| GraphError::invalid(name, format!("output {extents:?}: {error}")))
}

/// Returns `[batch, ...]` of the output, after the checks that the computations rely on.
fn output_extents(
    name: &str,
    layer: &Layer,
    inputs: &[&[usize]],
) -> Result<Vec<usize>, GraphError> {
    let invalid = |message: String| GraphError::invalid(name, message);
    let mut shapes: Vec<Shape> = Vec::with_capacity(inputs.len());
    let mut batch = None;
    for x in inputs {
        let Some((n, item)) = x.split_first() else {
            return Err(invalid("an input has no batch axis".to_owned()));
        };
        if *batch.get_or_insert(*n) != *n {
            return Err(invalid("inputs have different batches".to_owned()));
        }
        shapes.push(item.iter().copied().map(Some).collect());
    }
    let item = infer_shape(name, layer, &shapes.iter().collect::<Vec<_>>())?;
    let extents: Option<Vec<usize>> = std::iter::once(batch).chain(item).collect();
    let extents = extents.ok_or_else(|| invalid("an input layer computes nothing".to_owned()))?;
    let n_values = extents.iter().try_fold(1_usize, |n, e| n.checked_mul(*e));
    if n_values.is_none_or(|n| n > MAX_BATCH_VALUES) {
        return Err(invalid(format!(
            "an output of {extents:?} is more than a batch can be: give a smaller one"
        )));
    }
    Ok(extents)
}

/// Returns the elements of the output, row-major. Arity, ranks and weights are checked.
fn compute(
    kernels: Kernels,
    name: &str,
    layer: &Layer,
    (inputs, extents): (&[Tensor<'_>], &[usize]),
    memory: &mut Memory,
) -> Result<Vec<f32>, GraphError> {
    let Some(x) = inputs.first() else {
        return Err(GraphError::invalid(name, "has no input"));
    };
    if extents.contains(&0) {
        return Ok(Vec::new());
    }
    let refused = |message: String| GraphError::invalid(name, message);
    let mut out = match layer {
        Layer::Input(_) => x.to_vec(),
        Layer::Conv2D(layer) => conv::conv2d(kernels, layer, x, extents),
        Layer::DepthwiseConv2D(layer) => conv::depthwise(kernels, layer, x, extents),
        Layer::SeparableConv2D(layer) => conv::separable(kernels, layer, x, extents),
        Layer::Conv2DTranspose(layer) => conv::transpose(kernels, layer, x, extents),
        Layer::DepthwiseConv2DTranspose(layer) => {
            conv::depthwise_transpose(kernels, layer, x, extents)
        }
        Layer::Dense(layer) => conv::dense(kernels, layer, x, extents),
        Layer::StatefulProjection(layer) => {
            let steps = x.every(layer.subsample);
            conv::dense(kernels, &layer.dense, &steps, extents)
        }
        Layer::BatchNormalization(layer) => pointwise::normalize(name, layer, x)?,
        Layer::ReLU(relu) => pointwise::relu(kernels, *relu, x),
        Layer::LeakyReLU { alpha } => pointwise::map(x, |x| activation::leaky(*alpha, x)),
        Layer::PReLU { alpha } => pointwise::prelu(name, alpha, x)?,
        Layer::Activation(activation) => activation::activate(*activation, x.to_vec(), x.last()),
        Layer::Softmax => activation::activate(Activation::Softmax, x.to_vec(), x.last()),
        Layer::Rescaling(layer) => pointwise::rescale(name, layer, x)?,
        Layer::MaxPool2D(pool) => pool::max(*pool, x, extents),
        Layer::AveragePool2D(pool) => pool::average(*pool, x, extents),
        Layer::GlobalAveragePooling2D(_) => pool::global_average(x, extents),
        Layer::Add(add) => merge::add(*add, inputs, extents),
        Layer::Multiply => merge::fold(inputs, extents, |a, b| a * b),
        Layer::Subtract => merge::fold(inputs, extents, |a, b| a - b),
        Layer::Concatenate { axis } => merge::concatenate(name, *axis, inputs)?,
        Layer::Volume(layer) => volume::volume(layer, x, extents),
        Layer::ZeroPadding2D(pads) => layout::zero_pad(*pads, x, extents),
        Layer::UpSampling2D { size } => layout::up_sample(*size, x, extents),
        Layer::Permute { dims } => layout::permute(dims, x),
        Layer::ExtractToken { token, axis } => layout::extract(name, *token, *axis, x)?,
        Layer::BufferTempConv(conv) => {
            temporal::frames(kernels, conv, x, extents, memory).map_err(refused)?
        }
        Layer::DepthwiseBufferTempConv(conv) => {
            temporal::depthwise_frames(conv, x, memory).map_err(refused)?
        }
        Layer::StatefulRecurrent(recurrent) => {
            temporal::recur(recurrent, x, memory).map_err(refused)?
        }
        Layer::Flatten | Layer::Reshape { .. } | Layer::Dropout { .. } => x.to_vec(),
    };
    if let Some(fused) = layer.activation() {
        let n_last = extents.last().copied().unwrap_or(1);
        out = activation::activate(fused, out, n_last);
    }
    Ok(out)
}

/// Returns the output of a rectifier that alone takes its input: in the same memory. `None` for any other layer.
fn rectified(
    kernels: Kernels,
    node: &Node,
    n_uses: &[usize],
    values: &mut [Option<Cow<'_, ArrayD<f32>>>],
) -> Option<ArrayD<f32>> {
    let (&Layer::ReLU(relu), [input]) = (&node.layer, node.inputs.as_slice()) else {
        return None;
    };
    let place = &mut values[input.index()];
    let is_alone = n_uses[input.index()] == 1 && matches!(place, Some(Cow::Owned(_)));
    let mut x = place.take_if(|_| is_alone)?.into_owned();
    let is_done = x
        .as_slice_mut()
        .is_some_and(|x| pointwise::relu_in_place(kernels, relu, x));
    if !is_done {
        *place = Some(Cow::Owned(x));
        return None;
    }
    Some(x)
}

/// Returns `[28, 28, 3]`, with `None` for an open extent.
fn display_shape(shape: &Shape) -> String {
    let extents: Vec<String> = shape
        .iter()
        .map(|n| n.map_or_else(|| "None".to_owned(), |n| n.to_string()))
        .collect();
    format!("[{}]", extents.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Convolution, GraphBuilder};

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let mut b = GraphBuilder::new("instruction sets");
        let x = b.input("input", [9, 11, 3]);
        let x = b.conv2d("conv", x, 37, Convolution::new(3).strides(2).same());
        let x = b.depthwise_conv2d("dw", x, Convolution::new(3).same());
        let x = b.conv2d_transpose("up", x, 19, Convolution::new(3).strides(2).same());
        let x = b.depthwise_conv2d_transpose("dw_up", x, Convolution::new(3).strides(2));
        let x = b.dense("dense", x, 23);
        let graph = b.build([x]).unwrap();
        let image = ArrayD::from_shape_fn(vec![2, 9, 11, 3], |index| {
            let sum = index[0] * 31 + index[1] * 7 + index[2] * 13 + index[3] * 5;
            (f32::from(u8::try_from(sum.rem_euclid(97)).unwrap()) - 40.0) / 37.0
        });
        let run = |kernels| {
            let outputs = graph
                .run_with(
                    kernels,
                    &[&image],
                    &mut GraphMemory::default(),
                    &mut |_, _| (),
                )
                .unwrap();
            outputs[0].iter().map(|x| x.to_bits()).collect::<Vec<u32>>()
        };
        let expected = run(Kernels::new(kernels::Isa::Portable).unwrap());
        for kernels in Kernels::available() {
            assert_eq!(run(kernels), expected, "{:?}", kernels.isa());
        }
    }
}
