//! Functions of single elements, sums and products.

use float_model::{Activation, Add, BatchNormalization, Dtype, Layer, ReLU, Rescaling};
use ndarray::{Array1, ArrayD, IxDyn};
use quantizer_core::PerAxis;

use super::call::Call;
use super::constant::Constant;
use super::network::{Network, Part, Value, View};
use super::refused::Refused;

/// Relative distance at which a constant of an activation counts as the one meant.
const CLOSE: f32 = 1e-4;

/// Returns the view of the first input.
fn first(network: &mut Network, call: &Call<'_>) -> Result<View, Refused> {
    let name = call
        .input(0)
        .ok_or_else(|| Refused::invalid("has no input"))?;
    network.view(name, &call.layer_name())
}

/// Adds a layer that computes each element on its own.
fn element(network: &mut Network, call: &Call<'_>, layer: Layer) -> Result<Value, Refused> {
    let view = first(network, call)?;
    let layer = network.emit(&call.layer_name(), layer, &[&view.layer])?;
    Ok(Value::View(view.with(layer)))
}

fn activation(network: &mut Network, call: &Call<'_>, f: Activation) -> Result<Value, Refused> {
    element(network, call, Layer::Activation(f))
}

/// `Relu`.
pub(super) fn relu(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    element(network, call, Layer::ReLU(ReLU::default()))
}

/// `Clip`: a rectifier where it starts at zero, and one between two shifts elsewhere.
pub(super) fn clip(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let end = |index: usize, name: &str, default: f32| match call.input(index) {
        Some(input) => Ok(network.constant(input)?.scalar().unwrap_or(f32::NAN)),
        None => Ok::<f32, Refused>(call.float(name, default)),
    };
    let (min, max) = (end(1, "min", f32::MIN)?, end(2, "max", f32::MAX)?);
    if !(min < max && min > f32::MIN) {
        return Err(Refused::unsupported(format!("from {min} to {max}")));
    }
    let view = first(network, call)?;
    if min.abs().to_bits() != 0 {
        return shifted_clip(network, call, &view, (min, max));
    }
    let max_value = (max < f32::MAX).then_some(max);
    let relu = ReLU {
        max_value,
        ..ReLU::default()
    };
    let layer = network.emit(&call.layer_name(), Layer::ReLU(relu), &[&view.layer])?;
    Ok(Value::View(view.with(layer)))
}

/// `clip(x - min, 0, max - min) + min`.
fn shifted_clip(
    network: &mut Network,
    call: &Call<'_>,
    view: &View,
    (min, max): (f32, f32),
) -> Result<Value, Refused> {
    let name = call.layer_name();
    let shift = |by: f32| {
        Layer::Rescaling(Rescaling {
            scale: PerAxis::Tensor(1.0),
            offset: PerAxis::Tensor(by.into()),
        })
    };
    let clip = Layer::ReLU(ReLU {
        max_value: (max < f32::MAX).then_some(max - min),
        ..ReLU::default()
    });
    let from_zero = network.emit(&format!("{name}_from_0"), shift(-min), &[&view.layer])?;
    let clipped = network.emit(&format!("{name}_clip"), clip, &[&from_zero])?;
    let layer = network.emit(&name, shift(min), &[&clipped])?;
    Ok(Value::View(view.with(layer)))
}

/// `LeakyRelu`.
pub(super) fn leaky(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let alpha = call.float("alpha", 0.01);
    element(network, call, Layer::LeakyReLU { alpha })
}

/// `PRelu` with one slope, or one for each channel.
pub(super) fn prelu(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let view = first(network, call)?;
    let name = call.layer_name();
    let slope = call
        .input(1)
        .ok_or_else(|| Refused::invalid("has no slope"))?;
    let slope = network.constant(slope)?.clone();
    let (view, slopes) = by_channel(network, &view, &slope, &name)?;
    let rank = network.shape(&view.layer).len();
    let mut extents = vec![1; rank];
    if let Some(last) = extents.last_mut() {
        *last = slopes.as_slice().len();
    }
    let alpha = ArrayD::from_shape_vec(IxDyn(&extents), slopes.as_slice().to_vec())
        .map_err(|e| Refused::invalid(e.to_string()))?;
    let layer = network.emit(&name, Layer::PReLU { alpha }, &[&view.layer])?;
    Ok(Value::View(view.with(layer)))
}

/// `HardSwish`, `Gelu`, `Tanh` and others.
pub(super) fn function(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let name = call
        .input(0)
        .ok_or_else(|| Refused::invalid("has no input"))?;
    if let Value::Part(Part::ScaledInner, x) = network.get(name)?.clone()
        && call.node.op_type == "Tanh"
    {
        return Ok(Value::Part(Part::Tanh, x));
    }
    let f = match call.node.op_type.as_str() {
        "HardSwish" => Activation::HardSilu,
        "Gelu" => Activation::Gelu {
            approximate: call.text("approximate") == "tanh",
        },
        "Tanh" => Activation::Tanh,
        "Softplus" => Activation::Softplus,
        "Softsign" => Activation::Softsign,
        "Exp" => Activation::Exponential,
        "Elu" if is_close(call.float("alpha", 1.0), 1.0) => Activation::Elu,
        other => {
            return Err(Refused::unsupported(format!(
                "`{other}` with these attributes"
            )));
        }
    };
    activation(network, call, f)
}

/// `Sigmoid`: a layer, and a part of swish.
pub(super) fn sigmoid(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let x = first(network, call)?;
    let layer = Layer::Activation(Activation::Sigmoid);
    let layer = network.emit(&call.layer_name(), layer, &[&x.layer])?;
    network.note_gate(&layer, x.clone(), Activation::Swish);
    Ok(Value::View(x.with(layer)))
}

/// `HardSigmoid`: `clip(alpha * x + beta, 0, 1)`; some are a part of `HardSwish`.
pub(super) fn hard_sigmoid(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let (alpha, beta) = (call.float("alpha", 0.2), call.float("beta", 0.5));
    if is_close(alpha, 0.2) && is_close(beta, 0.5) {
        return activation(network, call, Activation::HardSigmoid);
    }
    let x = first(network, call)?;
    let line = Rescaling {
        scale: PerAxis::Tensor(alpha.into()),
        offset: PerAxis::Tensor(beta.into()),
    };
    let clip = ReLU {
        max_value: Some(1.0),
        ..ReLU::default()
    };
    let name = call.layer_name();
    let scaled = network.emit(
        &format!("{name}_scale"),
        Layer::Rescaling(line),
        &[&x.layer],
    )?;
    let layer = network.emit(&name, Layer::ReLU(clip), &[&scaled])?;
    if is_close(alpha, 1.0 / 6.0) && is_close(beta, 0.5) {
        network.note_gate(&layer, x.clone(), Activation::HardSilu);
    }
    Ok(Value::View(x.with(layer)))
}

/// `Erf`, as a part of gelu.
pub(super) fn erf(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let view = first(network, call)?;
    match network.scaled(&view) {
        Some((x, k)) if is_close(*k, std::f32::consts::FRAC_1_SQRT_2) => {
            Ok(Value::Part(Part::Erf, x.clone()))
        }
        _ => Err(Refused::unsupported("outside a gelu")),
    }
}

/// `Pow`, as a part of gelu.
pub(super) fn pow(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let view = first(network, call)?;
    let exponent = call
        .input(1)
        .ok_or_else(|| Refused::invalid("has no exponent"))?;
    if network
        .constant(exponent)?
        .scalar()
        .is_some_and(|e| is_close(e, 3.0))
    {
        return Ok(Value::Part(Part::Cube, view));
    }
    Err(Refused::unsupported("other powers than the cube of a gelu"))
}

/// `Softmax` and `LogSoftmax` over the channels.
pub(super) fn softmax(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let view = first(network, call)?;
    let rank = view.rank();
    let axis = call.int("axis", if call.opset < 13 { 1 } else { -1 });
    let axis = if axis < 0 {
        axis + i64::try_from(rank).unwrap_or(0)
    } else {
        axis
    };
    let axis = usize::try_from(axis).unwrap_or(usize::MAX);
    if call.opset < 13 && axis + 1 != rank {
        return Err(Refused::unsupported("over several axes"));
    }
    let last = network.shape(&view.layer).len();
    if view.axes.get(axis) != Some(&Some(last)) {
        return Err(Refused::unsupported(format!("over axis {axis}")));
    }
    let layer = match call.node.op_type.as_str() {
        "LogSoftmax" => Layer::Activation(Activation::LogSoftmax),
        _ => Layer::Softmax,
    };
    let layer = network.emit(&call.layer_name(), layer, &[&view.layer])?;
    Ok(Value::View(view.with(layer)))
}

/// `BatchNormalization` of the channels.
pub(super) fn batch_norm(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let view = first(network, call)?;
    let name = call.layer_name();
    let (layer, view) = match view.rank() {
        2 => (
            network.natural(&view, &name)?,
            View::natural(String::new(), 2),
        ),
        rank => (
            network.image(&view, &name)?,
            View::image(String::new(), rank),
        ),
    };
    let vector = |index: usize| -> Result<Array1<f32>, Refused> {
        let input = call
            .input(index)
            .ok_or_else(|| Refused::invalid("has too few inputs"))?;
        Ok(Array1::from_vec(network.constant(input)?.floats()))
    };
    let norm = BatchNormalization {
        gamma: Some(vector(1)?),
        beta: Some(vector(2)?),
        mean: vector(3)?,
        variance: vector(4)?,
        epsilon: call.float("epsilon", 1e-5),
        axis: -1,
    };
    let n_channels = norm.mean.len();
    let others = [
        norm.gamma.as_ref(),
        norm.beta.as_ref(),
        Some(&norm.variance),
    ];
    if let Some(other) = others.into_iter().flatten().find(|v| v.len() != n_channels) {
        let n_others = other.len();
        return Err(Refused::invalid(format!(
            "weights of {n_channels} and of {n_others} channels"
        )));
    }
    let is_positive = |v: &&f32| **v + norm.epsilon > 0.0;
    if let Some(variance) = norm.variance.iter().find(|v| !is_positive(v)) {
        return Err(Refused::invalid(format!("a variance of {variance}")));
    }
    let layer = network.emit(&name, Layer::BatchNormalization(norm), &[&layer])?;
    Ok(Value::View(view.with(layer)))
}

/// `Cast` of constants, to floats, and of inputs to integers that hold them: others would truncate.
pub(super) fn cast(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let name = call
        .input(0)
        .ok_or_else(|| Refused::invalid("has no input"))?;
    let to = call.int("to", 0);
    let is_float = matches!(to, 1 | 10 | 11 | 16);
    match network.get(name)?.clone() {
        Value::Unknown => Err(Refused::Silent),
        Value::Constant(constant) if is_float => Ok(Value::Constant(constant.into_floats())),
        Value::Constant(constant) => constant.into_integers().map(Value::Constant),
        value @ (Value::View(_) | Value::Flat(_) | Value::Part(..)) if is_float => Ok(value),
        Value::View(view) if holds(to, network.layer(&view.layer)) => Ok(Value::View(view)),
        Value::View(_) | Value::Flat(_) | Value::Part(..) => {
            Err(Refused::unsupported(format!("to element type {to}")))
        }
    }
}

/// Returns whether the integers of ONNX's element type `to` are enough for those of an input.
fn holds(to: i64, layer: Option<&Layer>) -> bool {
    let Some(Layer::Input(input)) = layer else {
        return false;
    };
    let (lo, hi): (i64, i64) = match input.dtype {
        Dtype::UInt8 => (0, 0xFF),
        Dtype::Int8 => (-0x80, 0x7F),
        Dtype::UInt16 => (0, 0xFFFF),
        Dtype::Int16 => (-0x8000, 0x7FFF),
        Dtype::Int32 => (i32::MIN.into(), i32::MAX.into()),
        Dtype::Float32 => return false,
    };
    let (least, most): (i64, i64) = match to {
        2 => (0, 0xFF),
        3 => (-0x80, 0x7F),
        4 => (0, 0xFFFF),
        5 => (-0x8000, 0x7FFF),
        6 => (i32::MIN.into(), i32::MAX.into()),
        7 => (i64::MIN, i64::MAX),
        12 => (0, u32::MAX.into()),
        _ => return false,
    };
    least <= lo && hi <= most
}

/// `Add`, `Sub`, `Mul` and `Div`.
pub(super) fn binary(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let [Some(a), Some(b)] = [0, 1].map(|index| call.input(index)) else {
        return Err(Refused::invalid("takes two inputs"));
    };
    let op = call.node.op_type.as_str();
    match (network.get(a)?.clone(), network.get(b)?.clone()) {
        (Value::Unknown, _) | (_, Value::Unknown) => Err(Refused::Silent),
        (Value::Constant(x), Value::Constant(y)) => {
            super::shapes::arithmetic(op, &x, &y).map(Value::Constant)
        }
        (Value::Part(part, x), Value::Constant(k)) => constant_part(op, part, x, &k),
        (Value::Constant(k), Value::Part(part, x)) if matches!(op, "Add" | "Mul") => {
            constant_part(op, part, x, &k)
        }
        (_, Value::Constant(k)) => with_constant(network, call, a, &k, op),
        (Value::Constant(k), _) => match op {
            "Add" | "Mul" => with_constant(network, call, b, &k, op),
            "Sub" => with_constant(network, call, b, &k, "SubFrom"),
            other => Err(Refused::unsupported(format!(
                "`{other}` of a constant by a tensor"
            ))),
        },
        (Value::Part(part, x), Value::View(y)) | (Value::View(y), Value::Part(part, x)) => {
            joined_part(network, call, part, &x, &y)
        }
        (Value::Part(part, _), _) | (_, Value::Part(part, _)) => Err(Refused::unsupported(
            format!("takes a part of an activation, {part:?}"),
        )),
        (Value::View(_) | Value::Flat(_), Value::View(_) | Value::Flat(_)) => {
            tensors(network, call, a, b)
        }
    }
}

/// Two tensors of the same extents.
fn tensors(network: &mut Network, call: &Call<'_>, a: &str, b: &str) -> Result<Value, Refused> {
    let (name, op) = (call.layer_name(), call.node.op_type.as_str());
    let (x, y) = (network.view(a, &name)?, network.view(b, &name)?);
    if op == "Mul" {
        for (x, y) in [(&x, &y), (&y, &x)] {
            if let Some((_, whole)) = network.gate_of(y).filter(|(of, _)| of == x) {
                let layer = Layer::Activation(*whole);
                let layer = network.emit(&name, layer, &[&x.layer])?;
                return Ok(Value::View(x.with(layer)));
            }
        }
    }
    let (x, y, view) = aligned(network, &x, &y, &name)?;
    let (of_x, of_y) = (network.shape(&x), network.shape(&y));
    let is_one = |n: &Option<usize>| *n == Some(1);
    let stretches = of_x.len() == of_y.len()
        && of_x
            .iter()
            .zip(&of_y)
            .all(|(a, b)| a == b || is_one(a) || is_one(b));
    // An Add that is quantized takes tensors of the same extents.
    if of_x != of_y && (op == "Add" || !stretches) {
        let (x, y) = (of_x, of_y);
        return Err(Refused::unsupported(format!("broadcasts {x:?} and {y:?}")));
    }
    let layer = match op {
        "Add" => Layer::Add(Add::default()),
        "Sub" => Layer::Subtract,
        "Mul" => Layer::Multiply,
        other => return Err(Refused::unsupported(format!("`{other}` of two tensors"))),
    };
    let layer = network.emit(&name, layer, &[&x, &y])?;
    Ok(Value::View(view.with(layer)))
}

/// Returns two layers with the same axes, and how they are seen.
pub(super) fn aligned(
    network: &mut Network,
    x: &View,
    y: &View,
    name: &str,
) -> Result<(String, String, View), Refused> {
    if x.axes == y.axes {
        return Ok((x.layer.clone(), y.layer.clone(), x.clone()));
    }
    if x.rank() == 4 && y.rank() == 4 {
        let view = View::image(String::new(), 4);
        return Ok((network.image(x, name)?, network.image(y, name)?, view));
    }
    let rank = x.rank().max(y.rank());
    let view = View::natural(String::new(), rank);
    Ok((network.natural(x, name)?, network.natural(y, name)?, view))
}

/// A tensor and a constant: a bias, or a Rescaling.
fn with_constant(
    network: &mut Network,
    call: &Call<'_>,
    input: &str,
    constant: &Constant,
    op: &str,
) -> Result<Value, Refused> {
    let name = call.layer_name();
    let view = network.view(input, &name)?;
    let is_only_use = network.is_only_use(input, &view.layer);
    let (view, values) = by_channel(network, &view, constant, &name)?;
    let is_finite = |v: &&f32| (if op == "Div" { 1.0 / **v } else { **v }).is_finite();
    if let Some(v) = values.as_slice().iter().find(|v| !is_finite(v)) {
        return Err(Refused::invalid(format!("`{op}` with a constant {v}")));
    }
    if matches!(op, "Add") && is_only_use && becomes_bias(network, &view, &values) {
        return Ok(Value::View(view));
    }
    let wide = |f: fn(f64) -> f64| values.map(|v| f(f64::from(v)));
    let one = |v: f64| PerAxis::Tensor(v);
    let (scale, offset) = match op {
        "Add" => (one(1.0), wide(|v| v)),
        "Sub" => (one(1.0), wide(|v| -v)),
        "SubFrom" => (one(-1.0), wide(|v| v)),
        "Mul" => (wide(|v| v), one(0.0)),
        "Div" => (wide(|v| 1.0 / v), one(0.0)),
        other => return Err(Refused::unsupported(format!("`{other}` with a constant"))),
    };
    let layer = Layer::Rescaling(Rescaling { scale, offset });
    let layer = network.emit(&name, layer, &[&view.layer])?;
    if let (PerAxis::Tensor(k), "Mul" | "Div") = (&values, op) {
        let k = if op == "Mul" { *k } else { 1.0 / *k };
        network.note_scaled(&layer, view.clone(), k);
    }
    Ok(Value::View(view.with(layer)))
}

/// Makes a constant the bias of the layer before, if it can have one.
fn becomes_bias(network: &mut Network, view: &View, values: &PerAxis<f32>) -> bool {
    let n = network
        .shape(&view.layer)
        .last()
        .copied()
        .flatten()
        .unwrap_or(0);
    let bias = match network.layer_mut(&view.layer) {
        Some(Layer::Conv2D(conv)) => &mut conv.bias,
        Some(Layer::DepthwiseConv2D(conv) | Layer::DepthwiseConv2DTranspose(conv)) => {
            &mut conv.bias
        }
        Some(Layer::Conv2DTranspose(conv)) => &mut conv.bias,
        Some(Layer::Dense(dense)) => &mut dense.bias,
        _ => return false,
    };
    if bias.is_some() {
        return false;
    }
    *bias = Some((0..n).map(|c| values.at(c)).collect());
    true
}

/// Returns a view whose last axis is the one along which `constant` varies, and its values.
fn by_channel(
    network: &mut Network,
    view: &View,
    constant: &Constant,
    name: &str,
) -> Result<(View, PerAxis<f32>), Refused> {
    let values = constant.floats();
    if let [value] = values.as_slice() {
        return Ok((view.clone(), PerAxis::Tensor(*value)));
    }
    let rank = view.rank();
    let (length, shape) = (values.len(), &constant.shape);
    let refused =
        || Refused::unsupported(format!("a constant of extents {shape:?} for {rank} axes"));
    let from_end = shape
        .iter()
        .rev()
        .position(|n| *n == length)
        .ok_or_else(refused)?;
    let axis = rank
        .checked_sub(from_end + 1)
        .filter(|axis| *axis > 0)
        .ok_or_else(refused)?;
    if network.extent(view, axis) != Some(length) {
        return Err(refused());
    }
    let last = network.shape(&view.layer).len();
    if view.axes[axis] == Some(last) {
        return Ok((view.clone(), PerAxis::Axis(values)));
    }
    let view = if axis + 1 == rank {
        View::natural(network.natural(view, name)?, rank)
    } else if axis == 1 && matches!(rank, 3 | 4) {
        View::image(network.image(view, name)?, rank)
    } else {
        return Err(refused());
    };
    Ok((view, PerAxis::Axis(values)))
}

/// A part of an activation and a constant.
fn constant_part(op: &str, part: Part, x: View, k: &Constant) -> Result<Value, Refused> {
    let Some(k) = k.scalar() else {
        return Err(Refused::unsupported(
            "a part of an activation with a vector",
        ));
    };
    let next = match (op, part) {
        ("Add", Part::Erf) if is_close(k, 1.0) => Part::OnePlus { approximate: false },
        ("Add", Part::Tanh) if is_close(k, 1.0) => Part::OnePlus { approximate: true },
        ("Mul", Part::OnePlus { approximate }) if is_close(k, 0.5) => Part::Half { approximate },
        ("Mul", Part::Cube) if is_close(k, 0.044_715) => Part::ScaledCube,
        ("Mul", Part::Inner) if is_close(k, 0.797_884_6) => Part::ScaledInner,
        ("Mul", Part::TimesOnePlus { approximate }) if is_close(k, 0.5) => {
            Part::Whole(Activation::Gelu { approximate })
        }
        ("Div", Part::TimesOnePlus { approximate }) if is_close(k, 2.0) => {
            Part::Whole(Activation::Gelu { approximate })
        }
        _ => {
            return Err(Refused::unsupported(format!(
                "`{op}` of {k} and a part of an activation, {part:?}"
            )));
        }
    };
    Ok(Value::Part(next, x))
}

/// A part of an activation of `x`, and a tensor: `x` itself, or its half.
fn joined_part(
    network: &mut Network,
    call: &Call<'_>,
    part: Part,
    x: &View,
    y: &View,
) -> Result<Value, Refused> {
    let is_x = x == y;
    let is_half = network
        .scaled(y)
        .is_some_and(|(of, k)| of == x && is_close(*k, 0.5));
    let whole = |f| Ok(Value::Part(Part::Whole(f), x.clone()));
    match (call.node.op_type.as_str(), part) {
        ("Mul", Part::OnePlus { approximate }) if is_half => {
            whole(Activation::Gelu { approximate })
        }
        ("Mul", Part::Half { approximate }) if is_x => whole(Activation::Gelu { approximate }),
        ("Mul", Part::OnePlus { approximate }) if is_x => {
            Ok(Value::Part(Part::TimesOnePlus { approximate }, x.clone()))
        }
        ("Add", Part::ScaledCube) if is_x => Ok(Value::Part(Part::Inner, x.clone())),
        (op, _) => Err(Refused::unsupported(format!(
            "`{op}` of a part of an activation, {part:?}"
        ))),
    }
}

fn is_close(a: f32, b: f32) -> bool {
    (a - b).abs() <= CLOSE * b.abs()
}
