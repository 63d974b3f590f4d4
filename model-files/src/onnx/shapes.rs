//! Nodes that move elements, and what models compute of shapes.

use float_model::{GlobalAveragePooling2D, Layer, Padding, Pool2D};

use super::call::Call;
use super::constant::{BATCH, Constant, Data};
use super::network::{Network, Value, View};
use super::refused::Refused;

fn input<'a>(call: &Call<'a>) -> Result<&'a str, Refused> {
    call.input(0)
        .ok_or_else(|| Refused::invalid("has no input"))
}

/// Returns an axis counted from the front.
pub(super) fn axis_of(axis: i64, rank: usize) -> Result<usize, Refused> {
    let signed = i64::try_from(rank).unwrap_or(i64::MAX);
    let from_front = if axis < 0 {
        axis.saturating_add(signed)
    } else {
        axis
    };
    usize::try_from(from_front)
        .ok()
        .filter(|axis| *axis < rank)
        .ok_or_else(|| Refused::invalid(format!("axis {axis} of {rank}")))
}

/// Returns axes that are an input from some opset on, and an attribute before.
fn axes(network: &Network, call: &Call<'_>) -> Result<Option<Vec<i64>>, Refused> {
    match call.input(1) {
        Some(name) => {
            let constant = network.constant(name)?;
            let axes = constant.as_integers().map(<[i64]>::to_vec);
            axes.map(Some)
                .ok_or_else(|| Refused::invalid("axes that are no integers"))
        }
        None => Ok(call.ints("axes").map(<[i64]>::to_vec)),
    }
}

/// `Transpose`: the same tensor, seen otherwise.
pub(super) fn transpose(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let view = network.view(input(call)?, &call.layer_name())?;
    let perm = permutation(call, view.rank())?;
    if perm.first() != Some(&0) {
        return Err(Refused::unsupported("moves the batch"));
    }
    let axes = perm.iter().map(|axis| view.axes[*axis]).collect();
    Ok(Value::View(View { axes, ..view }))
}

/// Returns the order of axes that a `Transpose` asks for.
pub(super) fn permutation(call: &Call<'_>, rank: usize) -> Result<Vec<usize>, Refused> {
    let perm = match call.ints("perm") {
        None => (0..rank).rev().collect(),
        Some(perm) => perm
            .iter()
            .map(|axis| axis_of(*axis, rank))
            .collect::<Result<Vec<usize>, _>>()?,
    };
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if sorted.len() != rank || sorted.iter().enumerate().any(|(i, axis)| i != *axis) {
        return Err(Refused::invalid(format!("perm {perm:?} of {rank} axes")));
    }
    Ok(perm)
}

/// `Flatten`.
pub(super) fn flatten(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    if let Value::Flat(view) = network.get(input(call)?)?.clone() {
        return Ok(Value::Flat(view));
    }
    let view = network.view(input(call)?, &call.layer_name())?;
    let axis = axis_of(call.int("axis", 1), view.rank() + 1)?;
    match axis {
        1 => Ok(flat(network, view)),
        _ => Err(Refused::unsupported(format!("axis {axis}"))),
    }
}

/// Returns a tensor with all axes but the batch made one; ours may be one already.
fn flat(network: &Network, view: View) -> Value {
    let ours: Vec<usize> = view.axes.iter().copied().flatten().collect();
    if ours == [0, 1] && network.shape(&view.layer).len() == 1 {
        return Value::View(View::natural(view.layer, 2));
    }
    Value::Flat(view)
}

/// `Reshape`.
pub(super) fn reshape(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let name = call.layer_name();
    let source = network.get(input(call)?)?.clone();
    let target = call
        .input(1)
        .ok_or_else(|| Refused::unsupported("a shape as an attribute"))?;
    let target = network.constant(target)?.as_integers().map(<[i64]>::to_vec);
    let target = target.ok_or_else(|| Refused::invalid("a shape that is no integers"))?;
    if let Value::Constant(constant) = source {
        return reshaped_constant(constant, &target).map(Value::Constant);
    }
    let Some((batch, items)) = target.split_first() else {
        return Err(Refused::unsupported("to a scalar"));
    };
    let is_flat = matches!(items, [_]);
    if let (Value::Flat(view), true) = (&source, is_flat) {
        return Ok(Value::Flat(view.clone()));
    }
    let view = network.view(input(call)?, &name)?;
    let extents: Vec<Option<usize>> = (1..view.rank())
        .map(|axis| network.extent(&view, axis))
        .collect();
    let total = extents
        .iter()
        .try_fold(1_usize, |n, e| e.map(|e| n.saturating_mul(e)));
    let items = resolved(items, &extents, total)?;
    let keeps_batch = match *batch {
        BATCH | 0 => true,
        -1 => {
            items
                .iter()
                .try_fold(1_usize, |n, e| e.map(|e| n.saturating_mul(e)))
                == total
                && total.is_some()
        }
        n => usize::try_from(n).is_ok_and(|n| network.batch == Some(n)),
    };
    if !keeps_batch {
        return Err(Refused::unsupported(format!(
            "to {target:?}, which moves the batch"
        )));
    }
    if is_flat {
        return Ok(flat(network, view));
    }
    if let Some(axes) = same_but_units(&view, &extents, &items) {
        return Ok(Value::View(View { axes, ..view }));
    }
    let natural = network.natural(&view, &name)?;
    let target_shape = items
        .iter()
        .map(|n| n.map_or(-1, |n| isize::try_from(n).unwrap_or(isize::MAX)))
        .collect();
    let layer = network.emit(&name, Layer::Reshape { target_shape }, &[&natural])?;
    Ok(Value::View(View::natural(layer, items.len() + 1)))
}

/// Returns the extents that a target asks for, one of them open at most.
fn resolved(
    target: &[i64],
    extents: &[Option<usize>],
    total: Option<usize>,
) -> Result<Vec<Option<usize>>, Refused> {
    let mut items = Vec::with_capacity(target.len());
    for (axis, n) in target.iter().enumerate() {
        items.push(match *n {
            0 => extents.get(axis).copied().flatten(),
            -1 => None,
            n => Some(usize::try_from(n).map_err(|_| Refused::invalid(format!("to {target:?}")))?),
        });
    }
    let known: usize = items
        .iter()
        .flatten()
        .fold(1_usize, |n, e| n.saturating_mul(*e));
    if let (Some(total), 1) = (total, items.iter().filter(|n| n.is_none()).count())
        && let Some(open) = items.iter_mut().find(|n| n.is_none())
    {
        *open = total.checked_div(known);
    }
    if items.iter().filter(|n| n.is_none()).count() > 1 {
        return Err(Refused::unsupported(format!(
            "to {target:?}: several open extents"
        )));
    }
    Ok(items)
}

/// Returns the axes of a tensor that only gains or loses extents of 1.
fn same_but_units(
    view: &View,
    extents: &[Option<usize>],
    items: &[Option<usize>],
) -> Option<Vec<Option<usize>>> {
    let is_unit = |n: &Option<usize>| *n == Some(1);
    let real = extents
        .iter()
        .zip(&view.axes[1..])
        .filter(|(n, _)| !is_unit(n));
    let mut real = real.peekable();
    let mut axes = vec![view.axes[0]];
    for item in items {
        if is_unit(item) {
            axes.push(None);
            continue;
        }
        let (extent, axis) = real.next()?;
        if extent != item || extent.is_none() {
            return None;
        }
        axes.push(*axis);
    }
    real.peek().is_none().then_some(axes)
}

fn reshaped_constant(constant: Constant, target: &[i64]) -> Result<Constant, Refused> {
    let len: usize = constant.shape.iter().product();
    let extents: Vec<Option<usize>> = constant.shape.iter().copied().map(Some).collect();
    let shape: Option<Vec<usize>> = resolved(target, &extents, Some(len))?.into_iter().collect();
    let shape = shape.filter(|s| s.iter().try_fold(1_usize, |n, e| n.checked_mul(*e)) == Some(len));
    let shape = shape.ok_or_else(|| Refused::invalid(format!("a constant to {target:?}")))?;
    Ok(Constant { shape, ..constant })
}

/// `Squeeze`.
pub(super) fn squeeze(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let axes = axes(network, call)?;
    if let Value::Constant(constant) = network.get(input(call)?)?.clone() {
        let len = constant.shape.iter().product();
        let shape = if len == 1 { Vec::new() } else { vec![len] };
        return Ok(Value::Constant(Constant { shape, ..constant }));
    }
    let view = network.view(input(call)?, &call.layer_name())?;
    let rank = view.rank();
    let dropped = match axes {
        Some(axes) => axes
            .iter()
            .map(|a| axis_of(*a, rank))
            .collect::<Result<Vec<usize>, _>>()?,
        None => (1..rank)
            .filter(|axis| network.extent(&view, *axis) == Some(1))
            .collect(),
    };
    if dropped
        .iter()
        .any(|axis| *axis == 0 || network.extent(&view, *axis) != Some(1))
    {
        return Err(Refused::unsupported(format!("axes {dropped:?}")));
    }
    let kept = view
        .axes
        .iter()
        .enumerate()
        .filter(|(axis, _)| !dropped.contains(axis));
    let axes = kept.map(|(_, ours)| *ours).collect();
    Ok(Value::View(View { axes, ..view }))
}

/// `Unsqueeze`.
pub(super) fn unsqueeze(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let axes = axes(network, call)?.ok_or_else(|| Refused::invalid("has no axes"))?;
    if let Value::Constant(constant) = network.get(input(call)?)?.clone() {
        let mut shape = constant.shape.clone();
        shape.extend(std::iter::repeat_n(1, axes.len()));
        return match shape.iter().filter(|n| **n != 1).count() {
            0 => Ok(Value::Constant(Constant {
                shape: vec![1],
                ..constant
            })),
            _ => Err(Refused::unsupported("a constant")),
        };
    }
    let view = network.view(input(call)?, &call.layer_name())?;
    let rank = view.rank() + axes.len();
    let added = axes
        .iter()
        .map(|a| axis_of(*a, rank))
        .collect::<Result<Vec<usize>, _>>()?;
    if added.contains(&0) {
        return Err(Refused::unsupported("before the batch"));
    }
    let mut ours = view.axes.iter();
    let axes = (0..rank).map(|axis| {
        if added.contains(&axis) {
            None
        } else {
            ours.next().copied().flatten()
        }
    });
    let axes = axes.collect();
    Ok(Value::View(View { axes, ..view }))
}

/// `Concat`.
pub(super) fn concat(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let name = call.layer_name();
    let inputs = &call.node.input;
    let constants: Result<Vec<Constant>, Refused> = inputs
        .iter()
        .map(|i| network.constant(i).cloned())
        .collect();
    if let Ok(constants) = constants {
        let integers: Option<Vec<Vec<i64>>> = constants
            .iter()
            .map(|c| c.as_integers().map(<[i64]>::to_vec))
            .collect();
        let all = integers
            .ok_or_else(|| Refused::unsupported("float constants"))?
            .concat();
        return Ok(Value::Constant(Constant::integers(all)));
    }
    if let [only] = inputs.as_slice() {
        return network.view(only, &name).map(Value::View);
    }
    let views: Vec<View> = inputs
        .iter()
        .map(|i| network.view(i, &name))
        .collect::<Result<_, _>>()?;
    let first = views
        .first()
        .ok_or_else(|| Refused::invalid("has no input"))?
        .clone();
    let axis = axis_of(call.int("axis", 0), first.rank())?;
    let mut view = first.clone();
    let mut layers = Vec::with_capacity(views.len());
    let same = views.iter().all(|v| v.axes == first.axes) && first.axes[axis].is_some();
    for other in &views {
        layers.push(if same {
            other.layer.clone()
        } else if first.rank() == 4 {
            view = View::image(String::new(), 4);
            network.image(other, &name)?
        } else {
            view = View::natural(String::new(), first.rank());
            network.natural(other, &name)?
        });
    }
    let ours = view.axes[axis].filter(|axis| *axis > 0);
    let axis = ours.and_then(|axis| isize::try_from(axis).ok());
    let axis = axis.ok_or_else(|| Refused::unsupported("along the batch"))?;
    // Keras counts the channels from the end.
    let rank = isize::try_from(network.shape(&layers[0]).len()).unwrap_or(0);
    let axis = if axis == rank { -1 } else { axis };
    let names: Vec<&str> = layers.iter().map(String::as_str).collect();
    let layer = network.emit(&name, Layer::Concatenate { axis }, &names)?;
    Ok(Value::View(view.with(layer)))
}

/// `ReduceMean` and `ReduceMax` over height and width.
pub(super) fn reduce(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let name = call.layer_name();
    let view = network.view(input(call)?, &name)?;
    let rank = view.rank();
    let axes = axes(network, call)?.ok_or_else(|| Refused::unsupported("over all axes"))?;
    let axes = axes
        .iter()
        .map(|a| axis_of(*a, rank))
        .collect::<Result<Vec<usize>, _>>()?;
    let shape = network.shape(&view.layer);
    let mut ours: Vec<usize> = axes.iter().filter_map(|axis| view.axes[*axis]).collect();
    ours.sort_unstable();
    // What is left besides the batch is our last axis, the channels.
    if shape.len() != 3 || (ours != [1, 2] && !(rank == 3 && ours == [2] && shape[0] == Some(1))) {
        return Err(Refused::unsupported(format!("over axes {axes:?}")));
    }
    let keeps = call.int("keepdims", 1) != 0;
    let is_max = call.node.op_type == "ReduceMax";
    let layer = if is_max {
        let [Some(h), Some(w), _] = shape.as_slice() else {
            return Err(Refused::unsupported("over open extents"));
        };
        Layer::MaxPool2D(Pool2D {
            pool_size: [*h, *w],
            strides: [*h, *w],
            padding: Padding::Valid,
        })
    } else {
        Layer::GlobalAveragePooling2D(GlobalAveragePooling2D { keepdims: false })
    };
    let layer = network.emit(&name, layer, &[&view.layer])?;
    let channels = if is_max { 3 } else { 1 };
    let new_axes = view
        .axes
        .iter()
        .enumerate()
        .filter_map(|(axis, ours)| match ours {
            _ if axes.contains(&axis) => keeps.then_some(None),
            Some(0) => Some(Some(0)),
            Some(_) => Some(Some(channels)),
            None => Some(None),
        });
    let axes = new_axes.collect();
    Ok(Value::View(View { layer, axes }))
}

/// `Shape`: what is known of it; the batch is a number that no extent has.
pub(super) fn shape(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let view = network.view(input(call)?, &call.layer_name())?;
    let mut extents = vec![BATCH];
    for axis in 1..view.rank() {
        let extent = network.extent(&view, axis);
        let extent = extent.ok_or_else(|| Refused::unsupported("of open extents"))?;
        extents.push(i64::try_from(extent).unwrap_or(i64::MAX));
    }
    let bound = |name: &str, default: usize| -> usize {
        let given = call.ints(name).is_some() || call.int(name, i64::MAX) != i64::MAX;
        if given {
            axis_of(call.int(name, 0), view.rank() + 1).unwrap_or(default)
        } else {
            default
        }
    };
    let (start, end) = (bound("start", 0), bound("end", view.rank()));
    let part = extents.get(start..end).unwrap_or_default().to_vec();
    Ok(Value::Constant(Constant::integers(part)))
}

/// `Gather` of a shape.
pub(super) fn gather(network: &Network, call: &Call<'_>) -> Result<Value, Refused> {
    let constant = network.constant(input(call)?)?;
    let values = constant
        .as_integers()
        .ok_or_else(|| Refused::unsupported("of floats"))?;
    let name = call
        .input(1)
        .ok_or_else(|| Refused::invalid("has no indices"))?;
    let indices = network.constant(name)?;
    let picked = indices
        .as_integers()
        .unwrap_or_default()
        .iter()
        .map(|i| axis_of(*i, values.len()).map(|i| values[i]))
        .collect::<Result<_, _>>()?;
    Ok(Value::Constant(Constant {
        shape: indices.shape.clone(),
        data: Data::Integers(picked),
    }))
}

/// Arithmetic of constants of one element.
pub(super) fn arithmetic(op: &str, a: &Constant, b: &Constant) -> Result<Constant, Refused> {
    let refused = || Refused::unsupported(format!("`{op}` of constants"));
    let (Some([a]), Some([b])) = (a.as_integers(), b.as_integers()) else {
        return Err(refused());
    };
    if [*a, *b].contains(&BATCH) {
        return Err(refused());
    }
    let value = match op {
        "Add" => a.checked_add(*b),
        "Sub" => a.checked_sub(*b),
        "Mul" => a.checked_mul(*b),
        "Div" => a.checked_div(*b),
        _ => None,
    };
    Ok(Constant::integers(vec![value.ok_or_else(refused)?]))
}
