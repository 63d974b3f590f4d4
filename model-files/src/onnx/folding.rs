//! Constants that nodes make of constants: what models compute of extents and pads.

use ndarray::{ArrayD, Axis, IxDyn};

use super::call::Call;
use super::constant::{Constant, Data};
use super::network::{Network, Value};
use super::refused::Refused;
use super::shapes::axis_of;

/// Most elements of a constant that no file holds.
const MOST_ELEMENTS: i64 = 1 << 12;

/// What a `Slice` takes of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) axis: usize,
    start: i64,
    end: i64,
    step: i64,
}

impl Part {
    /// Returns the indices that are taken of an axis of `n`.
    pub(super) fn indices(self, n: usize) -> Vec<usize> {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        let from_front = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
        let (start, end) = (from_front(self.start), from_front(self.end));
        let is_forward = self.step > 0;
        let (mut at, end) = if is_forward {
            (start.clamp(0, n), end.clamp(0, n))
        } else {
            (start.clamp(-1, n - 1), end.clamp(-1, n - 1))
        };
        let mut indices = Vec::new();
        while (is_forward && at < end) || (!is_forward && at > end) {
            indices.extend(usize::try_from(at));
            at = at.saturating_add(self.step);
        }
        indices
    }
}

/// Returns what a node makes of constants alone; `None` if it takes a tensor, or is of another kind.
pub(super) fn fold(network: &Network, call: &Call<'_>) -> Option<Result<Constant, Refused>> {
    let constant = match network.get(call.input(0)?).ok()? {
        Value::Constant(constant) => constant,
        Value::View(_) | Value::Flat(_) | Value::Part(..) | Value::Unknown => return None,
    };
    match call.node.op_type.as_str() {
        "ConstantOfShape" => Some(filled(call, constant)),
        "Transpose" => Some(transposed(call, constant)),
        "Slice" => Some(sliced(network, call, constant)),
        _ => None,
    }
}

fn filled(call: &Call<'_>, shape: &Constant) -> Result<Constant, Refused> {
    let extents = shape.as_integers().unwrap_or_default();
    let n_elements = extents.iter().try_fold(1_i64, |n, e| n.checked_mul(*e));
    let n_elements = n_elements.filter(|n| (0..=MOST_ELEMENTS).contains(n));
    let shape: Option<Vec<usize>> = extents.iter().map(|n| usize::try_from(*n).ok()).collect();
    let (Some(n_elements), Some(shape)) = (n_elements, shape) else {
        return Err(Refused::unsupported(format!("of extents {extents:?}")));
    };
    let n_elements = usize::try_from(n_elements).unwrap_or(0);
    let value = call
        .tensor()
        .map(|tensor| Constant::read(tensor, std::path::Path::new("")));
    let data = match value.transpose()?.map(|value| value.data) {
        None => Data::Floats(vec![0.0; n_elements]),
        Some(Data::Floats(values)) => {
            Data::Floats(vec![values.first().copied().unwrap_or(0.0); n_elements])
        }
        Some(Data::Integers(values)) => {
            Data::Integers(vec![values.first().copied().unwrap_or(0); n_elements])
        }
    };
    Ok(Constant { shape, data })
}

fn transposed(call: &Call<'_>, constant: &Constant) -> Result<Constant, Refused> {
    let rank = constant.shape.len();
    let perm = super::shapes::permutation(call, rank)?;
    rearranged(constant, |indices| Ok(indices.permuted_axes(IxDyn(&perm))))
}

fn sliced(network: &Network, call: &Call<'_>, constant: &Constant) -> Result<Constant, Refused> {
    let parts = parts(network, call, constant.shape.len())?;
    rearranged(constant, |indices| {
        Ok(parts.iter().fold(indices, |indices, part| {
            let taken = part.indices(indices.len_of(Axis(part.axis)));
            indices.select(Axis(part.axis), &taken)
        }))
    })
}

/// Returns what a `Slice` takes of each axis: inputs from opset 10 on, attributes before.
pub(super) fn parts(network: &Network, call: &Call<'_>, rank: usize) -> Result<Vec<Part>, Refused> {
    let numbers = |index: usize, attribute: &str| -> Result<Option<Vec<i64>>, Refused> {
        match call.input(index) {
            Some(name) => Ok(network.constant(name)?.as_integers().map(<[i64]>::to_vec)),
            None => Ok(call.ints(attribute).map(<[i64]>::to_vec)),
        }
    };
    let starts = numbers(1, "starts")?.ok_or_else(|| Refused::invalid("has no starts"))?;
    let ends = numbers(2, "ends")?.ok_or_else(|| Refused::invalid("has no ends"))?;
    let axes = numbers(3, "axes")?.unwrap_or_else(|| {
        (0..rank)
            .filter_map(|axis| i64::try_from(axis).ok())
            .collect()
    });
    let steps = numbers(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    let n = starts.len();
    if ends.len() != n || axes.len() < n || steps.len() != n || steps.contains(&0) {
        return Err(Refused::invalid(
            "starts, ends, axes and steps do not agree",
        ));
    }
    (0..n)
        .map(|i| {
            Ok(Part {
                axis: axis_of(axes[i], rank)?,
                start: starts[i],
                end: ends[i],
                step: steps[i],
            })
        })
        .collect()
}

/// Returns the elements of a constant at the indices that `f` makes of all of them.
fn rearranged(
    constant: &Constant,
    f: impl Fn(ArrayD<usize>) -> Result<ArrayD<usize>, Refused>,
) -> Result<Constant, Refused> {
    let all: Vec<usize> = (0..constant.shape.iter().product()).collect();
    let all = ArrayD::from_shape_vec(IxDyn(&constant.shape), all)
        .map_err(|e| Refused::invalid(e.to_string()))?;
    let taken = f(all)?;
    let data = match &constant.data {
        Data::Floats(values) => Data::Floats(taken.iter().map(|i| values[*i]).collect()),
        Data::Integers(values) => Data::Integers(taken.iter().map(|i| values[*i]).collect()),
    };
    Ok(Constant {
        shape: taken.shape().to_vec(),
        data,
    })
}
