//! Layers of sequences, and layers that run as the scalar definition.

use ndarray::ArrayD;
use quantizer_core::layers::{IntegerLayer, Memory};
use quantizer_core::{Counters, NumericsError};

use super::tensor::{Storage, Tensor, convert};
use crate::ModelError;

/// Returns the window of the last frames of entered inputs, in the type `storage`.
pub(super) fn window(
    name: &str,
    x: &Tensor,
    n_frames: usize,
    storage: Storage,
    memory: &mut Memory,
) -> Result<Tensor, ModelError> {
    let window = memory.push(&integers(name, x)?, n_frames);
    Ok(tensor(
        window.map_err(|e| ModelError::layer(name, e))?,
        storage,
    ))
}

/// Returns the last time step of each group, in the type `storage`.
pub(super) fn subsampled(
    name: &str,
    x: &Tensor,
    subsample: usize,
    storage: Storage,
) -> Result<Tensor, ModelError> {
    let &[batch, time, channels] = x.shape.as_slice() else {
        let message = format!("takes time steps, not a tensor {:?}", x.shape);
        return Err(ModelError::invalid(name, message));
    };
    if time.checked_rem(subsample) != Some(0) {
        let message = format!("takes {time} time steps in groups of {subsample}");
        return Err(ModelError::invalid(name, message));
    }
    let x = integers(name, x)?;
    let steps = time.div_euclid(subsample);
    let kept = ArrayD::from_shape_fn(vec![batch, steps, channels], |at| {
        x[[at[0], (at[1] + 1) * subsample - 1, at[2]]]
    });
    Ok(tensor(kept, storage))
}

/// Returns the output of a layer by its scalar definition: for layers that are rare, or that only
/// move integers.
pub(super) fn run_scalar(
    name: &str,
    layer: &IntegerLayer,
    inputs: &[&Tensor],
    storage: Storage,
    (memory, counters): (&mut Memory, &mut Counters),
) -> Result<Tensor, ModelError> {
    let arrays = inputs
        .iter()
        .map(|x| integers(name, x))
        .collect::<Result<Vec<_>, _>>()?;
    let arrays: Vec<&ArrayD<i64>> = arrays.iter().collect();
    let output = layer.run_step(&arrays, memory, counters);
    let output = output.map_err(|e: NumericsError| ModelError::layer(name, e))?;
    Ok(tensor(output, storage))
}

fn integers(name: &str, x: &Tensor) -> Result<ArrayD<i64>, ModelError> {
    x.integers()
        .ok_or_else(|| ModelError::invalid(name, "takes integers, not floats"))
}

fn tensor(x: ArrayD<i64>, storage: Storage) -> Tensor {
    let shape = x.shape().to_vec();
    let values = super::Values::I64(x.as_standard_layout().iter().copied().collect());
    Tensor {
        shape,
        values: convert(values, storage),
    }
}
