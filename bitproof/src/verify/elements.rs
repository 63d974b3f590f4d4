//! Two tensors, element by element.

use ndarray::{ArrayD, Axis, Dimension};

use super::compare::{Comparison, Element, Number};
use super::sides::{Output, Side};
use crate::Error;

/// What the comparison of two tensors found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) n_elements: u64,
    pub(crate) n_differing: u64,
    pub(crate) largest: f64,
    pub(crate) first: Option<Element>,
}

/// A side, the index of a layer, and what it gives.
type Place<'p, 'm> = (&'p Side<'m>, usize, &'p Output);

/// Compares two outputs, element by element.
pub(crate) fn compare(
    (a, b): (Place<'_, '_>, Place<'_, '_>),
    comparison: Comparison,
    tolerance: f32,
) -> Result<Found, Error> {
    let (x, y) = (a.2, b.2);
    if comparison == Comparison::Integers {
        let (Some(x), Some(y)) = (x.integers(), y.integers()) else {
            return Ok(Found::default());
        };
        same_extents(x.shape(), y.shape())?;
        return Ok(differing_integers(&x, &y));
    }
    let (x, y) = (a.0.meaning(a.1, x)?, b.0.meaning(b.1, y)?);
    same_extents(x.shape(), y.shape())?;
    Ok(differing_reals(&x, &y, tolerance))
}

fn same_extents(a: &[usize], b: &[usize]) -> Result<(), Error> {
    if a == b {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "a layer gives a tensor of {a:?} in A, of {b:?} in B"
    )))
}

#[expect(clippy::cast_precision_loss, reason = "below 2^50, exact")]
fn differing_integers(x: &ArrayD<i64>, y: &ArrayD<i64>) -> Found {
    let mut found = Found::default();
    for ((index, a), b) in x.indexed_iter().zip(y.iter()) {
        found.n_elements += 1;
        if a == b {
            continue;
        }
        found.n_differing += 1;
        found.largest = found.largest.max(a.abs_diff(*b) as f64);
        found.first.get_or_insert_with(|| Element {
            index: index.slice().to_vec(),
            a: Number::Integer(*a),
            b: Number::Integer(*b),
        });
    }
    found
}

/// Compares reals; each input has its own largest magnitude.
///
/// ```text
/// different if |a - b| > tolerance * max(|a|, |b| over the layer's output for this input)
/// ```
///
/// NUMERICS.md: A7.
fn differing_reals(x: &ArrayD<f32>, y: &ArrayD<f32>, tolerance: f32) -> Found {
    let mut found = Found::default();
    let mut limit = 0.0;
    let mut item = None;
    for ((index, a), b) in x.indexed_iter().zip(y.iter()) {
        let index = index.slice();
        let current = index.first().copied();
        if item != Some(current) {
            item = Some(current);
            let number = current.unwrap_or(0);
            let largest = largest(x, number).max(largest(y, number));
            limit = f64::from(tolerance) * f64::from(largest);
        }
        found.n_elements += 1;
        let difference = (f64::from(*a) - f64::from(*b)).abs();
        // Bits tell apart what has no difference: equal infinities and NaN on both sides are alike.
        let alike = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        if alike || difference <= limit {
            continue;
        }
        found.n_differing += 1;
        if difference > found.largest || difference.is_nan() {
            found.largest = difference;
        }
        found.first.get_or_insert_with(|| Element {
            index: index.to_vec(),
            a: Number::Real(*a),
            b: Number::Real(*b),
        });
    }
    found
}

/// Returns the largest finite magnitude of an item.
fn largest(x: &ArrayD<f32>, item: usize) -> f32 {
    if x.ndim() == 0 || item >= x.len_of(Axis(0)) {
        return 0.0;
    }
    let values = x.index_axis(Axis(0), item);
    let finite = values.iter().filter(|v| v.is_finite());
    finite.fold(0.0, |most: f32, v| most.max(v.abs()))
}
