//! Layers of several inputs.

use super::tensor::Tensor;
use crate::shape::item_axis;
use crate::{Add, GraphError};

/// Returns the sum of the inputs, from the first to the last, each addition rounded to f32;
/// multiplied by 0.5 for an average. NUMERICS.md: N22.
pub(super) fn add(add: Add, inputs: &[Tensor<'_>], extents: &[usize]) -> Vec<f32> {
    let mut out = fold(inputs, extents, |a, b| a + b);
    if add.average {
        for x in &mut out {
            *x *= 0.5;
        }
    }
    out
}

/// Returns `f(f(x_0, x_1), x_2) ...`, element by element; extents of 1 are repeated.
pub(super) fn fold(
    inputs: &[Tensor<'_>],
    extents: &[usize],
    f: impl Fn(f32, f32) -> f32,
) -> Vec<f32> {
    let mut tensors = inputs.iter();
    let Some(first) = tensors.next() else {
        return Vec::new();
    };
    let mut out = broadcast(first, extents);
    for tensor in tensors {
        if tensor.extents == extents {
            for (a, b) in out.iter_mut().zip(tensor.data.iter()) {
                *a = f(*a, *b);
            }
        } else {
            for (a, b) in out.iter_mut().zip(broadcast(tensor, extents)) {
                *a = f(*a, b);
            }
        }
    }
    out
}

/// Returns the inputs one after another along `axis`, counted with the batch axis.
/// NUMERICS.md: N25.
pub(super) fn concatenate(
    name: &str,
    axis: isize,
    inputs: &[Tensor<'_>],
) -> Result<Vec<f32>, GraphError> {
    let rank = inputs.first().map_or(0, |x| x.extents.len() - 1);
    let axis = item_axis(name, axis, rank)? + 1;
    let run = |x: &Tensor<'_>| x.extents[axis..].iter().product::<usize>();
    let n_runs: usize = inputs[0].extents[..axis].iter().product();
    let mut out = Vec::with_capacity(inputs.iter().map(|x| x.data.len()).sum());
    for index in 0..n_runs {
        for x in inputs {
            let run = run(x);
            out.extend_from_slice(&x.data[index * run..(index + 1) * run]);
        }
    }
    Ok(out)
}

/// Returns the elements of `x` repeated along each axis of extent 1 to fill `extents`.
fn broadcast(x: &Tensor<'_>, extents: &[usize]) -> Vec<f32> {
    if x.extents == extents {
        return x.to_vec();
    }
    let mut out = x.to_vec();
    // From the last axis on, each run of elements is repeated as its axis needs.
    let mut run = 1;
    for (&have, &want) in x.extents.iter().zip(extents).rev() {
        if have == want {
            run *= want;
        } else {
            out = out
                .chunks(run)
                .flat_map(|chunk| chunk.repeat(want))
                .collect();
            run *= want;
        }
    }
    out
}
