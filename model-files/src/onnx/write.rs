//! Models written as ONNX.
//!
//! Inputs and outputs are channels last, as in Keras; images inside are channels first, as ONNX has
//! them. Quantized tensors are integers between `QuantizeLinear` and `DequantizeLinear`, weights are
//! integers before a `DequantizeLinear`.

mod builder;
mod float;
mod integer;
mod products;
mod stages;

use std::path::Path;

use akida_sim::{InputKind, QuantizedModel, QuantizedNode, QuantizedOp};
use float_model::{Dtype, Graph, Layer, Shape};
use prost::Message;

use super::proto;
use super::refused::Refused;
use crate::{FileError, write_file};
use builder::{Builder, Integers, Kind, Value, integer as attribute, value_info};
use float::float_layer;
use integer::{Place, integer_layer};
use stages::{input_quantizer, unit};

/// Writes a quantized model as ONNX, whole or not at all.
///
/// The file needs operators of opset 20 and nothing else, or 21 if integers have more than 8 bits. It computes in float32 what the integers
/// mean, and rounds where they do: its integers are ours while sums stay below 24 bits, and may differ
/// by one step above. Outputs that have no Dequantizer are `int32`.
///
/// # Errors
///
/// The file cannot be written, or ONNX has no words for a layer: all of them are named.
pub fn write_onnx(model: &QuantizedModel, path: &Path) -> Result<(), FileError> {
    let mut export = Export::quantized(model, Integers::Bytes);
    if export.builder.has_words() {
        export = Export::quantized(model, Integers::Words);
    }
    export.finish(&model.name, path)
}

/// Writes a float network as ONNX, whole or not at all.
///
/// # Errors
///
/// The file cannot be written, or a layer is not supported: all of them are named.
pub fn write_float_onnx(graph: &Graph, path: &Path) -> Result<(), FileError> {
    let outputs = graph.outputs().iter().map(|id| graph.node(*id));
    let inputs = graph.inputs().map(|id| graph.node(id));
    let mut export = Export::new(
        outputs.clone().chain(inputs).map(|node| node.name.clone()),
        Integers::Bytes,
    );
    for node in graph.nodes() {
        let inputs = node.inputs.iter().map(|id| id.index());
        let value = if let Layer::Input(input) = &node.layer {
            export.input(&node.name, input.dtype, &node.shape)
        } else {
            export.values(inputs).and_then(|inputs| {
                float_layer(
                    &mut export.builder,
                    &node.name,
                    &node.shape,
                    &node.layer,
                    &inputs,
                )
            })
        };
        export.keep(&node.name, node.layer.class_name(), value);
    }
    for (id, node) in graph.outputs().iter().zip(outputs) {
        if let Some(Some(value)) = export.values.get(id.index()).cloned() {
            export.float_output(&node.name, &value);
        }
    }
    export.finish(graph.name(), path)
}

/// A file while it is made.
struct Export {
    builder: Builder,
    /// Outputs of the nodes so far, `None` where one is refused.
    values: Vec<Option<Value>>,
    problems: Vec<String>,
}

impl Export {
    fn new(reserved: impl IntoIterator<Item = String>, integers: Integers) -> Self {
        Self {
            builder: Builder::new(reserved, integers),
            values: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn quantized(model: &QuantizedModel, integers: Integers) -> Self {
        let names = model.outputs.iter().filter_map(|i| model.nodes.get(*i));
        let inputs = model
            .nodes
            .iter()
            .filter(|node| matches!(node.op, QuantizedOp::Input(_)));
        let reserved = names.chain(inputs).map(|node| node.name.clone());
        let mut export = Self::new(reserved, integers);
        for node in &model.nodes {
            let value = export.quantized_node(model, node);
            export.keep(&node.name, &node.class_name, value);
        }
        for node in model.outputs.iter().filter_map(|i| model.nodes.get(*i)) {
            export.output(model, node);
        }
        export
    }

    fn keep(&mut self, name: &str, class_name: &str, value: Result<Value, Refused>) {
        let value = value.map_err(|refused| match refused {
            Refused::Invalid(why) | Refused::Unsupported(why) => {
                self.problems
                    .push(format!("`{name}` ({class_name}): {why}"));
            }
            Refused::Silent => {}
        });
        self.values.push(value.ok());
    }

    fn values(&self, indices: impl Iterator<Item = usize>) -> Result<Vec<Value>, Refused> {
        let value = |i: usize| self.values.get(i).cloned().flatten();
        indices.map(|i| value(i).ok_or(Refused::Silent)).collect()
    }

    fn quantized_node(
        &mut self,
        model: &QuantizedModel,
        node: &QuantizedNode,
    ) -> Result<Value, Refused> {
        let inputs = self.values(node.inputs.iter().copied())?;
        let first = || inputs.first().ok_or(Refused::Silent);
        let b = &mut self.builder;
        match &node.op {
            QuantizedOp::Input(InputKind::Float(dtype) | InputKind::Raw { dtype, .. }) => {
                let x = self.input(&node.name, *dtype, &node.shape)?;
                let bits = node.format().map(|format| format.value_bits.bits());
                Ok(x.bounded(bits.map_or(0, |bits| 1_i128 << bits)))
            }
            QuantizedOp::InputQuantizer { quantizer, .. } => {
                input_quantizer(b, &node.name, first()?, quantizer)
            }
            QuantizedOp::Integer(layer) => {
                let place = Place {
                    name: &node.name,
                    shape: &node.shape,
                    layer,
                };
                let formats = node.inputs.iter().map(|i| model.nodes[*i].format());
                let inputs: Option<Vec<_>> = inputs
                    .into_iter()
                    .zip(formats)
                    .map(|(value, format)| Some((value, format?)))
                    .collect();
                let inputs = inputs.ok_or_else(|| Refused::invalid("a float input"))?;
                integer_layer(b, place, &inputs)
            }
            QuantizedOp::Dequantizer(format) => {
                let x = first()?;
                let Some(scales) = &format.scales else {
                    return Ok(x.clone());
                };
                let scales = b.per_channel(&format!("{}/scales", node.name), x, scales);
                Ok(b.map("Mul", &node.name, x, &[&scales], Vec::new()))
            }
            QuantizedOp::Float(layer) => float_layer(b, &node.name, &node.shape, layer, &inputs),
        }
    }

    fn input(&mut self, name: &str, dtype: Dtype, shape: &Shape) -> Result<Value, Refused> {
        let kind = match dtype {
            Dtype::Float32 => Kind::Float,
            Dtype::UInt8 => Kind::UInt8,
            Dtype::Int8 => Kind::Int8,
            Dtype::UInt16 => Kind::UInt16,
            Dtype::Int16 => Kind::Int16,
            Dtype::Int32 => return Err(Refused::unsupported("an input of int32")),
        };
        self.builder.graph.input.push(value_info(name, kind, shape));
        let x = Value::last(name.to_owned(), shape);
        if kind == Kind::Float {
            return Ok(x);
        }
        let to_float = vec![attribute("to", Kind::Float as i64)];
        Ok(self.builder.map("Cast", name, &x, &[], to_float))
    }

    fn output(&mut self, model: &QuantizedModel, node: &QuantizedNode) {
        let index = model.nodes.iter().position(|other| other.name == node.name);
        let Some(Some(value)) = index.and_then(|i| self.values.get(i)).cloned() else {
            return;
        };
        let Some(format) = node.format() else {
            self.float_output(&node.name, &value);
            return;
        };
        let b = &mut self.builder;
        let value = b.channels_last(&value);
        let digits = format.frac_bits.map(|frac| unit(-frac));
        let digits = b.per_channel(&format!("{}/digits", node.name), &value, &digits);
        let scaled = b.map("Mul", &node.name, &value, &[&digits], Vec::new());
        let rounded = b.map("Round", &node.name, &scaled, &[], Vec::new());
        let to_int = vec![attribute("to", Kind::Int32 as i64)];
        b.call_named("Cast", &node.name, &[&rounded.name], to_int);
        let info = value_info(&node.name, Kind::Int32, &node.shape);
        b.graph.output.push(info);
    }

    fn float_output(&mut self, name: &str, value: &Value) {
        let b = &mut self.builder;
        let value = b.channels_last(value);
        let is_input = value.name == name;
        if !is_input {
            b.call_named("Identity", name, &[&value.name], Vec::new());
        }
        let info = value_info(name, Kind::Float, &value.shape);
        b.graph.output.push(info);
    }

    fn finish(self, name: &str, path: &Path) -> Result<(), FileError> {
        if !self.problems.is_empty() {
            let problems = self.problems.join("\n  ");
            let message = format!("ONNX has no words for\n  {problems}");
            return Err(FileError::unsupported(path, message));
        }
        let (ir_version, version) = self.builder.integers.versions();
        let mut graph = self.builder.graph;
        name.clone_into(&mut graph.name);
        let model = proto::Model {
            ir_version,
            producer_name: "bitproof".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(graph),
            opset_import: vec![proto::OperatorSet {
                domain: String::new(),
                version,
            }],
        };
        write_file(path, &model.encode_to_vec())
    }
}
