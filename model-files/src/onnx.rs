//! ONNX float models.
//!
//! Tensors become channels last: an input `[batch, channels, height, width]` becomes `[batch, height, width,
//! channels]`, and weights follow.

mod call;
mod constant;
mod convolution;
mod dense;
mod elementwise;
mod folding;
mod network;
mod proto;
mod refused;
mod selection;
mod shapes;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

use float_model::{Dtype, Graph, Input, Layer, Shape};
use prost::Message;

use crate::FileError;
use call::Call;
use constant::Constant;
use network::{Network, Part, Value, View};
use refused::Refused;

pub use write::{write_float_onnx, write_onnx};

/// The newest operators that are known.
const LAST_OPSET: i64 = 21;

/// Returns the float network of an ONNX file.
///
/// # Errors
///
/// The file cannot be read, is no ONNX model, or has nodes that cannot be read: all of them are named.
pub fn read_onnx(path: &Path) -> Result<Graph, FileError> {
    let bytes = std::fs::read(path).map_err(|e| FileError::io(path, &e))?;
    let model = proto::Model::decode(bytes.as_slice())
        .map_err(|e| FileError::invalid(path, format!("no ONNX model: {e}")))?;
    drop(bytes);
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    import(&model, folder).map_err(|refused| match refused {
        Refused::Invalid(message) => FileError::invalid(path, message),
        Refused::Unsupported(message) => FileError::unsupported(path, message),
        Refused::Silent => FileError::invalid(path, "no output can be read"),
    })
}

fn import(model: &proto::Model, folder: &Path) -> Result<Graph, Refused> {
    let graph = model.graph.as_ref().filter(|_| model.ir_version > 0);
    let graph = graph.ok_or_else(|| Refused::invalid("no ONNX model: it has no graph"))?;
    let is_quantized = |node: &proto::Node| node.op_type == "DequantizeLinear";
    if graph.node.iter().any(is_quantized) {
        return Err(Refused::unsupported(
            "a quantized ONNX model, which is written but not read: give the float model, or the \
             .bpq.safetensors or .h5 that it was made from",
        ));
    }
    let is_default = |domain: &str| matches!(domain, "" | "ai.onnx");
    let opset = model
        .opset_import
        .iter()
        .find(|set| is_default(&set.domain))
        .map_or(1, |set| set.version);
    if !(7..=LAST_OPSET).contains(&opset) {
        return Err(Refused::unsupported(format!(
            "opset {opset}; known are 7 to {LAST_OPSET}"
        )));
    }
    let mut network = Network::new(graph.name.clone());
    for tensor in &graph.initializer {
        let constant = Constant::read(tensor, folder)?;
        network.allow(constant.len());
        network.set(&tensor.name, Value::Constant(constant));
    }
    enter(&mut network, graph)?;
    let names = graph.node.iter().flat_map(|node| &node.input);
    for name in names.chain(graph.output.iter().map(|output| &output.name)) {
        *network.n_uses.entry(name.clone()).or_default() += 1;
    }
    let mut problems = Vec::new();
    for node in &graph.node {
        let call = Call { node, opset };
        let result = if is_default(&node.domain) {
            constant_node(&call, folder).map_or_else(
                || compute(&mut network, &call),
                |value| value.map(Value::Constant),
            )
        } else {
            Err(Refused::unsupported(format!("domain `{}`", node.domain)))
        };
        let value = result
            .and_then(|value| completed(&mut network, &call, value))
            .unwrap_or_else(|refused| {
                problems.extend(problem(&call, refused));
                Value::Unknown
            });
        if let Some(output) = node.output.first() {
            network.set(output, value);
        }
        for output in node.output.iter().skip(1) {
            // A Split notes its other parts on its own.
            if network.get(output).is_err() {
                network.set(output, Value::Unknown);
            }
        }
    }
    if !problems.is_empty() {
        return Err(Refused::Unsupported(format!(
            "{} node(s): {}",
            problems.len(),
            problems.join("; ")
        )));
    }
    finish(network, graph)
}

/// Returns the network with its outputs: vectors and sequences in ONNX order, images channels last.
///
/// An image that a Transpose made channels last in the file stays as it is.
fn finish(mut network: Network, graph: &proto::Graph) -> Result<Graph, Refused> {
    for output in &graph.output {
        let view = network.view(&output.name, &output.name)?;
        let layer = match view.rank() {
            4 if !view.is_natural() => network.image(&view, &output.name)?,
            _ => network.natural(&view, &output.name)?,
        };
        network.draft.outputs.push(layer);
    }
    Graph::new(network.draft).map_err(|e| Refused::invalid(e.to_string()))
}

/// Returns a line about a node, if there is something to say.
fn problem(call: &Call<'_>, refused: Refused) -> Option<String> {
    let (name, op) = (call.layer_name(), &call.node.op_type);
    match refused {
        Refused::Silent => None,
        Refused::Unsupported(why) => Some(format!("`{name}` ({op}): {why}")),
        Refused::Invalid(why) => Some(format!("`{name}` ({op}) cannot be right: {why}")),
    }
}

/// Makes the layer of an activation whose last part was found.
fn completed(network: &mut Network, call: &Call<'_>, value: Value) -> Result<Value, Refused> {
    let Value::Part(Part::Whole(activation), x) = value else {
        return Ok(value);
    };
    let layer = network.emit(
        &call.layer_name(),
        Layer::Activation(activation),
        &[&x.layer],
    )?;
    Ok(Value::View(x.with(layer)))
}

/// Returns the value of a `Constant`, `None` for another node.
fn constant_node(call: &Call<'_>, folder: &Path) -> Option<Result<Constant, Refused>> {
    if call.node.op_type != "Constant" {
        return None;
    }
    Some(
        match (
            call.tensor(),
            call.ints("value_ints"),
            call.ints("value_int"),
        ) {
            (Some(tensor), _, _) => Constant::read(tensor, folder),
            (None, Some(values), _) => Ok(Constant::integers(values.to_vec())),
            (None, None, Some(_)) => Ok(Constant {
                shape: Vec::new(),
                data: constant::Data::Integers(vec![call.int("value_int", 0)]),
            }),
            (None, None, None) => Ok(Constant {
                shape: Vec::new(),
                data: constant::Data::Floats(vec![call.float("value_float", 0.0)]),
            }),
        },
    )
}

/// Returns what a node computes.
fn compute(network: &mut Network, call: &Call<'_>) -> Result<Value, Refused> {
    let view = |result: Result<View, Refused>| result.map(Value::View);
    if let Some(constant) = folding::fold(network, call) {
        let constant = constant?;
        network.spend(constant.len())?;
        return Ok(Value::Constant(constant));
    }
    match call.node.op_type.as_str() {
        "Conv" => view(convolution::conv(network, call)),
        "ConvTranspose" => view(convolution::conv_transpose(network, call)),
        "MaxPool" | "AveragePool" => view(convolution::pool(network, call)),
        "GlobalAveragePool" => view(convolution::global_average(network, call)),
        "GlobalMaxPool" => view(convolution::global_max(network, call)),
        "Pad" => view(convolution::pad(network, call)),
        "Resize" | "Upsample" => view(convolution::up_sample(network, call)),
        "Gemm" => view(dense::gemm(network, call)),
        "MatMul" => view(dense::mat_mul(network, call)),
        "Relu" => elementwise::relu(network, call),
        "Clip" => elementwise::clip(network, call),
        "LeakyRelu" => elementwise::leaky(network, call),
        "PRelu" => elementwise::prelu(network, call),
        "Sigmoid" => elementwise::sigmoid(network, call),
        "HardSigmoid" => elementwise::hard_sigmoid(network, call),
        "Erf" => elementwise::erf(network, call),
        "Pow" => elementwise::pow(network, call),
        "HardSwish" | "Gelu" | "Tanh" | "Elu" | "Softplus" | "Softsign" | "Exp" => {
            elementwise::function(network, call)
        }
        "Softmax" | "LogSoftmax" => elementwise::softmax(network, call),
        "BatchNormalization" => elementwise::batch_norm(network, call),
        "Add" | "Sub" | "Mul" | "Div" => elementwise::binary(network, call),
        "Transpose" => shapes::transpose(network, call),
        "Flatten" => shapes::flatten(network, call),
        "Reshape" => shapes::reshape(network, call),
        "Squeeze" => shapes::squeeze(network, call),
        "Unsqueeze" => shapes::unsqueeze(network, call),
        "Concat" => shapes::concat(network, call),
        "ReduceMean" | "ReduceMax" => shapes::reduce(network, call),
        "Shape" => shapes::shape(network, call),
        "Gather" => shapes::gather(network, call),
        "Slice" => selection::slice(network, call),
        "Split" => selection::split(network, call),
        "Cast" => elementwise::cast(network, call),
        "Identity" | "Dropout" => {
            let name = call
                .input(0)
                .ok_or_else(|| Refused::invalid("has no input"))?;
            match network.get(name)?.clone() {
                Value::Unknown => Err(Refused::Silent),
                value
                @ (Value::Constant(_) | Value::View(_) | Value::Flat(_) | Value::Part(..)) => {
                    Ok(value)
                }
            }
        }
        _ => Err(Refused::unsupported("no layer computes it")),
    }
}

/// Adds the network's inputs.
fn enter(network: &mut Network, graph: &proto::Graph) -> Result<(), Refused> {
    for input in &graph.input {
        if network.get(&input.name).is_ok() {
            continue; // An initializer, listed among the inputs as old files do.
        }
        let tensor = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
        let tensor = tensor
            .ok_or_else(|| Refused::unsupported(format!("input `{}` is no tensor", input.name)))?;
        let dims = tensor
            .shape
            .as_ref()
            .map(|shape| shape.dim.as_slice())
            .unwrap_or_default();
        let dims: Vec<Option<usize>> = dims
            .iter()
            .map(|d| {
                d.dim_value
                    .and_then(|n| usize::try_from(n).ok())
                    .filter(|n| *n > 0)
            })
            .collect();
        let Some((batch, item)) = dims.split_first() else {
            return Err(Refused::unsupported(format!(
                "input `{}` without extents",
                input.name
            )));
        };
        network.batch = *batch;
        let dtype = dtype(tensor.elem_type).ok_or_else(|| {
            Refused::unsupported(format!(
                "input `{}` of element type {}",
                input.name, tensor.elem_type
            ))
        })?;
        let is_image = dims.len() == 4 && !enters_channels_last(graph, &input.name);
        let is_sequence = dims.len() == 3 && reaches_conv(graph, &input.name);
        let shape: Shape = match *item {
            [c, h, w] if is_image => vec![h, w, c],
            [c, l] if is_sequence => vec![Some(1), l, c],
            _ => item.to_vec(),
        };
        let layer = network.emit(
            input.name.trim_start_matches('/'),
            Layer::Input(Input { shape, dtype }),
            &[],
        )?;
        let view = if is_image || is_sequence {
            View::image(layer, dims.len())
        } else {
            View::natural(layer, dims.len())
        };
        network.set(&input.name, Value::View(view));
    }
    Ok(())
}

/// Returns the type of ONNX's number, `None` for one that no input can have.
const fn dtype(elem_type: i32) -> Option<Dtype> {
    match elem_type {
        1 | 10 | 11 | 16 => Some(Dtype::Float32),
        2 => Some(Dtype::UInt8),
        3 => Some(Dtype::Int8),
        4 => Some(Dtype::UInt16),
        5 => Some(Dtype::Int16),
        6 => Some(Dtype::Int32),
        _ => None,
    }
}

/// Returns whether an image enters as `[batch, height, width, channels]`: the first node that cares transposes it.
fn enters_channels_last(graph: &proto::Graph, input: &str) -> bool {
    first_that_cares(graph, input).is_some_and(|node| {
        let perm = node.attribute.iter().find(|a| a.name == "perm");
        node.op_type == "Transpose" && perm.is_some_and(|perm| perm.ints == [0, 3, 1, 2])
    })
}

fn reaches_conv(graph: &proto::Graph, input: &str) -> bool {
    first_that_cares(graph, input)
        .is_some_and(|node| matches!(node.op_type.as_str(), "Conv" | "ConvTranspose"))
}

/// Returns the first node behind `input`, past those that compute single elements.
fn first_that_cares<'a>(graph: &'a proto::Graph, input: &str) -> Option<&'a proto::Node> {
    let mut takers: BTreeMap<&str, &proto::Node> = BTreeMap::new();
    for node in graph.node.iter().rev() {
        for name in &node.input {
            takers.insert(name, node);
        }
    }
    let mut name = input;
    for _ in 0..graph.node.len() {
        let node = *takers.get(name)?;
        let passes = matches!(
            node.op_type.as_str(),
            "Cast" | "Identity" | "Add" | "Sub" | "Mul" | "Div" | "Dropout" | "BatchNormalization"
        );
        if !passes {
            return Some(node);
        }
        name = node.output.first()?;
    }
    None
}
