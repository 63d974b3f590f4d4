//! One layer on its own, on tensors that the caller makes.

use kernels::Activation;
use ndarray::{ArrayD, IxDyn};
use quantizer_core::layers::Memory;
use quantizer_core::log2::mul_pow2;
use quantizer_core::round::round_half_even;
use quantizer_core::{Counters, PerAxis, QFormat};

use super::bounds::Interval;
use super::room::Room;
use super::tensor::{Storage, Tensor, Values, convert, has_extents, with_ints};
use super::{Batch, Executor, Inputs, ModelMemory, dequantize};
use crate::ModelError;
use crate::model::{QuantizedNode, QuantizedOp};

impl Executor<'_> {
    /// Returns the outputs of node `index`, `[batch, ...]`, that are nearest to the real values `reals`.
    ///
    /// ```text
    /// q = clamp(round_half_even(fl(fl(x / scale) * 2^frac_bits)), lo, hi)
    /// ```
    ///
    /// with the scale and binary point of each channel, and the static interval of the node's
    /// outputs, which is within its value bits. Floats stay as they are. NUMERICS.md: A1.
    ///
    /// # Errors
    ///
    /// No such node, extents that are not those of its outputs, or values that are not finite.
    pub fn represent(&self, index: usize, reals: &ArrayD<f32>) -> Result<Tensor, ModelError> {
        let node = self.node(index)?;
        check_extents(node, reals.shape())?;
        if reals.iter().any(|x| !x.is_finite()) {
            return Err(ModelError::invalid(&node.name, "a value is not finite"));
        }
        let plan = &self.plans[index];
        let (Some(format), Some(storage), Some(interval)) =
            (node.format(), plan.storage, plan.interval)
        else {
            return Ok(Tensor::from_floats(reals.clone()));
        };
        let n_channels = reals.shape().last().copied().unwrap_or(1).max(1);
        let integers = reals.iter().enumerate().map(|(i, x)| {
            let channel = i.rem_euclid(n_channels);
            nearest(*x, &format, channel).clamp(interval.lo, interval.hi)
        });
        Ok(Tensor {
            shape: reals.shape().to_vec(),
            values: convert(Values::I64(integers.collect()), storage),
        })
    }

    /// Returns the real values of an output of node `index`; floats as they are. NUMERICS.md: N12.
    ///
    /// # Errors
    ///
    /// No such node, or a tensor that is none of its outputs.
    pub fn real_values(&self, index: usize, tensor: &Tensor) -> Result<ArrayD<f32>, ModelError> {
        let node = self.node(index)?;
        self.check_output(index, tensor)?;
        match node.format() {
            Some(format) => Ok(dequantize(&node.name, tensor, &format)?.floats()),
            None => Ok(tensor.floats()),
        }
    }

    /// Returns the output of node `index` alone, and what its intermediates did.
    ///
    /// `inputs` are outputs of its producers, in call order, such as [`represent`](Self::represent)
    /// makes them. A temporal layer continues what `memory` remembers of it.
    ///
    /// # Errors
    ///
    /// No such node, an input of the model, which computes nothing, tensors that its producers
    /// cannot give, or a layer that cannot run.
    pub fn run_layer(
        &self,
        index: usize,
        inputs: &[&Tensor],
        memory: &mut ModelMemory,
    ) -> Result<(Tensor, Counters), ModelError> {
        let node = self.node(index)?;
        if matches!(node.op, QuantizedOp::Input(_)) {
            return Err(ModelError::invalid(&node.name, "an input computes nothing"));
        }
        if node.inputs.len() != inputs.len() {
            let (want, got) = (node.inputs.len(), inputs.len());
            let message = format!("takes {want} inputs, got {got}");
            return Err(ModelError::invalid(&node.name, message));
        }
        let batches = inputs.iter().map(|x| x.batch());
        if batches.clone().min() != batches.max() {
            return Err(ModelError::invalid(
                &node.name,
                "inputs have different batches",
            ));
        }
        for (producer, tensor) in node.inputs.iter().zip(inputs) {
            self.check_output(*producer, tensor)?;
        }
        memory
            .integers
            .resize_with(self.model.nodes.len(), Memory::default);
        let mut counters = Counters::default();
        let none = ArrayD::<f32>::zeros(IxDyn(&[0]));
        let inputs = Inputs {
            tensors: inputs.to_vec(),
            ends: None,
        };
        let state = (memory, &mut counters, &mut Room::default());
        let (output, _) = self.run_node(index, &inputs, &Batch::from(&none), state)?;
        Ok((output, counters))
    }

    fn node(&self, index: usize) -> Result<&QuantizedNode, ModelError> {
        let unknown = || ModelError::invalid(&self.model.name, format!("has no node {index}"));
        self.model.nodes.get(index).ok_or_else(unknown)
    }

    /// Checks that a tensor can be an output of node `index`: the kernels rely on its interval.
    fn check_output(&self, index: usize, tensor: &Tensor) -> Result<(), ModelError> {
        let node = self.node(index)?;
        check_extents(node, &tensor.shape)?;
        let plan = &self.plans[index];
        let has_type = plan.storage == storage(&tensor.values);
        let within = |interval: Interval| {
            with_ints!(&tensor.values,
                x => x.iter().all(|v| (interval.lo..=interval.hi).contains(&v.wide())), float => true)
        };
        let has_all = n_values(&tensor.values) == tensor.n_values();
        if has_type && has_all && plan.interval.is_none_or(within) {
            return Ok(());
        }
        Err(ModelError::invalid(&node.name, "cannot give such a tensor"))
    }
}

/// Returns the integer nearest to a real value, not saturated.
fn nearest(x: f32, format: &QFormat, channel: usize) -> i64 {
    let scale = format.scales.as_ref().map(|scales| scales.at(channel));
    let unscaled = scale.map_or(x, |scale| x / scale);
    let frac_bits: &PerAxis<i32> = &format.frac_bits;
    round_half_even(mul_pow2(unscaled, frac_bits.at(channel)))
}

fn check_extents(node: &QuantizedNode, extents: &[usize]) -> Result<(), ModelError> {
    if has_extents(extents, &node.shape) {
        return Ok(());
    }
    let message = format!("has no output of extents {extents:?}");
    Err(ModelError::invalid(&node.name, message))
}

fn storage(values: &Values) -> Option<Storage> {
    match values {
        Values::U8(_) => Some(Storage::U8),
        Values::I8(_) => Some(Storage::I8),
        Values::I16(_) => Some(Storage::I16),
        Values::I32(_) => Some(Storage::I32),
        Values::I64(_) => Some(Storage::I64),
        Values::F32(_) => None,
    }
}

fn n_values(values: &Values) -> usize {
    match values {
        Values::F32(x) => x.len(),
        Values::U8(_) | Values::I8(_) | Values::I16(_) | Values::I32(_) | Values::I64(_) => {
            with_ints!(values, x => x.len(), float => 0)
        }
    }
}
