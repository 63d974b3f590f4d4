//! How large a model is, layer by layer.

use float_model::Shape;
use ndarray::ArrayD;
use quantizer_core::layers::IntegerOp;

use crate::model::{QuantizedModel, QuantizedNode, QuantizedOp};
use crate::{Executor, ModelError};

/// How large a layer is, for one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSize {
    /// Name.
    pub name: String,
    /// Class as the reference shows it.
    pub class_name: String,
    /// Bytes of its integer weights at their configured widths, biases left out.
    pub weight_bytes: u64,
    /// Elements of its output, `None` where extents are open.
    pub activations: Option<u64>,
    /// Products of integers.
    pub macs: u64,
}

/// Returns the size of every layer, in the order of the model.
#[must_use]
pub fn sizes(model: &QuantizedModel) -> Vec<LayerSize> {
    let all = model.nodes.iter().map(|node| LayerSize {
        name: node.name.clone(),
        class_name: node.class_name.clone(),
        weight_bytes: node.weight_bits().div_ceil(8),
        activations: elements(&node.shape),
        macs: macs(model, node),
    });
    all.collect()
}

fn elements(shape: &Shape) -> Option<u64> {
    let n = shape
        .iter()
        .copied()
        .try_fold(1_usize, |n, extent| n.checked_mul(extent?));
    u64::try_from(n?).ok()
}

/// Returns the products of a layer; those of a transposed convolution count the pixels that it takes,
/// each of which meets the whole kernel.
fn macs(model: &QuantizedModel, node: &QuantizedNode) -> u64 {
    let QuantizedOp::Integer(layer) = &node.op else {
        return 0;
    };
    let per_pixel = if let IntegerOp::Conv2DTranspose(op) = &layer.op {
        op.kernel.len()
    } else if let IntegerOp::DepthwiseConv2DTranspose(op) = &layer.op {
        op.kernel.len()
    } else {
        return node.multiplications();
    };
    let input = node.inputs.first();
    let input = input.map(|i| model.nodes[*i].shape.as_slice());
    let Some([Some(rows), Some(columns), _]) = input else {
        return 0;
    };
    let products = rows.saturating_mul(*columns).saturating_mul(per_pixel);
    u64::try_from(products).unwrap_or(u64::MAX)
}

/// Returns for each layer the events of all items of `inputs`, `[batch, ...]`: values of its output that
/// are not 0; `None` for floats. Temporal layers start each item from an empty memory.
///
/// # Errors
///
/// Those of [`Executor::run`].
pub fn events(
    model: &QuantizedModel,
    inputs: &ArrayD<f32>,
) -> Result<Vec<Option<u64>>, ModelError> {
    let mut events = vec![None; model.nodes.len()];
    Executor::new(model).run(inputs, &mut |index, tensor| {
        let Some(integers) = tensor.integers() else {
            return;
        };
        let n = integers.iter().filter(|v| **v != 0).count();
        events[index] = u64::try_from(n).ok();
    })?;
    Ok(events)
}
