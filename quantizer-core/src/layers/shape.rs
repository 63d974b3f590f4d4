//! Layers that move integers (NUMERICS.md: N24, N25).

use ndarray::{ArrayD, Axis, IxDyn, concatenate};

use super::ConcatAxis;
use crate::NumericsError;

/// Returns the inputs one after another along `axis`.
pub(super) fn concatenated(
    inputs: &[ArrayD<i64>],
    axis: ConcatAxis,
) -> Result<ArrayD<i64>, NumericsError> {
    let rank = inputs.first().map_or(0, ArrayD::ndim);
    let axis = match axis {
        ConcatAxis::Channels => rank.saturating_sub(1),
        ConcatAxis::Leading(axis) => axis,
    };
    if axis == 0 || axis >= rank {
        return Err(NumericsError::Invalid(format!(
            "axis {axis} of rank {rank}"
        )));
    }
    let views: Vec<_> = inputs.iter().map(|x| x.view()).collect();
    concatenate(Axis(axis), &views).map_err(|e| NumericsError::Invalid(e.to_string()))
}

/// Returns `x` with the extents of its items replaced; one of them may be -1.
pub(super) fn reshaped(x: &ArrayD<i64>, target: &[isize]) -> Result<ArrayD<i64>, NumericsError> {
    let refused = || {
        let shape = x.shape();
        NumericsError::Invalid(format!("items of shape {:?} as {target:?}", &shape[1..]))
    };
    let batch = x.shape().first().copied().ok_or_else(refused)?;
    let known: usize = target
        .iter()
        .filter_map(|d| usize::try_from(*d).ok())
        .product();
    let open = x.shape()[1..]
        .iter()
        .product::<usize>()
        .checked_div(known)
        .ok_or_else(refused)?;
    let dims = target.iter().map(|d| usize::try_from(*d).unwrap_or(open));
    let shape: Vec<usize> = std::iter::once(batch).chain(dims).collect();
    x.as_standard_layout()
        .into_owned()
        .into_shape_with_order(IxDyn(&shape))
        .map_err(|_| refused())
}

/// Returns `x` with the axes of its items in the order `dims`, counted from 1.
pub(super) fn permuted(x: &ArrayD<i64>, dims: &[usize]) -> Result<ArrayD<i64>, NumericsError> {
    if x.ndim() != dims.len() + 1 {
        return Err(NumericsError::Invalid(format!(
            "dims {dims:?} of a tensor of rank {}",
            x.ndim()
        )));
    }
    let axes: Vec<usize> = std::iter::once(0).chain(dims.iter().copied()).collect();
    let moved = x.clone().permuted_axes(IxDyn(&axes));
    Ok(moved.as_standard_layout().into_owned())
}

/// Returns index `token` of `axis`, which disappears.
pub(super) fn extracted(
    x: &ArrayD<i64>,
    token: usize,
    axis: usize,
) -> Result<ArrayD<i64>, NumericsError> {
    if axis == 0 || x.shape().get(axis).is_none_or(|n| token >= *n) {
        return Err(NumericsError::Invalid(format!(
            "token {token} of axis {axis} of a tensor of shape {:?}",
            x.shape()
        )));
    }
    Ok(x.index_axis(Axis(axis), token).to_owned())
}
