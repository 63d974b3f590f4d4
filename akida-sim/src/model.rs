//! The quantized model: integers, shifts and scales.

use float_model::{Dtype, Layer, ParamCount, Shape, Summary, SummaryRow};
use quantizer_core::QFormat;
use quantizer_core::layers::{IntegerLayer, IntegerOp};
use quantizer_core::quantizers::InputQuantizer;
use serde_json::{Map, Value};

use crate::calibrated::{InputQuantizerSpec, OutputRanges};

/// A quantized network, complete without float weights.
///
/// Layers that stay in float keep theirs. Nodes stand in Keras' order, which is topological.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedModel {
    /// Name of the model.
    pub name: String,
    /// The layers; inputs stand before their consumers.
    pub nodes: Vec<QuantizedNode>,
    /// Indices of the layers whose outputs the model returns.
    pub outputs: Vec<usize>,
    /// Where the model comes from.
    pub provenance: Provenance,
}

/// A layer in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedNode {
    /// Unique name.
    pub name: String,
    /// Class name as the reference shows it, such as `QuantizedConv2D`.
    pub class_name: String,
    /// Indices of the producers of its inputs, in call order.
    pub inputs: Vec<usize>,
    /// Extents of one output item, without the batch.
    pub shape: Shape,
    /// What it does.
    pub op: QuantizedOp,
    /// Its configuration as `dump_config` writes it.
    pub config: Option<Map<String, Value>>,
    /// Calibrated ranges of its output quantizer.
    pub ranges: Option<OutputRanges>,
    /// Numbers of parameters, as the reference counts them.
    pub params: ParamCount,
}

/// What a layer does.
#[derive(Clone, Debug, PartialEq)]
pub enum QuantizedOp {
    /// Entry of the network.
    Input(InputKind),
    /// Float to integers.
    InputQuantizer {
        /// The arithmetic.
        quantizer: InputQuantizer,
        /// The calibrated ranges that it was made from.
        spec: InputQuantizerSpec,
    },
    /// Integers to integers.
    Integer(Box<IntegerLayer>),
    /// Integers of this format to float.
    Dequantizer(QFormat),
    /// Float to float.
    Float(Box<Layer>),
}

/// What the network takes.
#[derive(Clone, Debug, PartialEq)]
pub enum InputKind {
    /// Floats: an InputQuantizer or a float layer follows.
    Float(Dtype),
    /// Integers of a type, used as they are.
    Raw {
        /// The type.
        dtype: Dtype,
        /// Their format: no fractional bits, value bits of the type.
        format: QFormat,
    },
}

/// Where a quantized model comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// Name and version of the tool that made it.
    pub tool: String,
    /// SHA-256 of the float model's file, in hex.
    pub model_digest: Option<String>,
    /// SHA-256 of the samples' file, in hex.
    pub samples_digest: Option<String>,
    /// SHA-256 of the `q_config` file, in hex.
    pub config_digest: Option<String>,
    /// Seed of random samples.
    pub seed: Option<u64>,
}

impl QuantizedNode {
    /// Returns the format of the outputs, `None` for a float tensor.
    #[must_use]
    pub fn format(&self) -> Option<QFormat> {
        match &self.op {
            QuantizedOp::Input(InputKind::Raw { format, .. }) => Some(format.clone()),
            QuantizedOp::InputQuantizer { quantizer, .. } => Some(quantizer.format()),
            QuantizedOp::Integer(layer) => Some(layer.format.clone()),
            QuantizedOp::Input(InputKind::Float(_))
            | QuantizedOp::Dequantizer(_)
            | QuantizedOp::Float(_) => None,
        }
    }
}

impl QuantizedNode {
    /// Returns the products of integers that one item takes, 0 where extents are open.
    #[must_use]
    pub fn multiplications(&self) -> u64 {
        let QuantizedOp::Integer(layer) = &self.op else {
            return 0;
        };
        let pixels = self
            .shape
            .iter()
            .rev()
            .skip(1)
            .copied()
            .product::<Option<usize>>();
        let per_pixel = match &layer.op {
            IntegerOp::Conv2D(op) => op.kernel.len(),
            IntegerOp::DepthwiseConv2D(op) => op.kernel.len(),
            IntegerOp::SeparableConv2D {
                depthwise,
                pointwise,
            } => depthwise.kernel.len() + pointwise.len(),
            IntegerOp::Conv2DTranspose(op) => op.kernel.len(),
            IntegerOp::DepthwiseConv2DTranspose(op) => op.kernel.len(),
            IntegerOp::Dense { kernel }
            | IntegerOp::StatefulProjection { kernel, .. }
            | IntegerOp::BufferTempConv { kernel, .. }
            | IntegerOp::DepthwiseBufferTempConv { kernel } => kernel.len(),
            IntegerOp::StatefulRecurrent(op) => 4 * op.factors[0].len(),
            IntegerOp::ReLU { .. }
            | IntegerOp::LookUp { .. }
            | IntegerOp::MaxPool2D(_)
            | IntegerOp::GlobalAveragePooling2D { .. }
            | IntegerOp::Add
            | IntegerOp::Concatenate(_)
            | IntegerOp::Flatten
            | IntegerOp::Reshape { .. }
            | IntegerOp::Permute { .. }
            | IntegerOp::ExtractToken { .. }
            | IntegerOp::Identity => 0,
        };
        let products = pixels.unwrap_or(0).saturating_mul(per_pixel);
        u64::try_from(products).unwrap_or(u64::MAX)
    }

    /// Returns the bits of the layer's integer weights at their configured widths.
    #[must_use]
    pub fn weight_bits(&self) -> u64 {
        let QuantizedOp::Integer(layer) = &self.op else {
            return 0;
        };
        let width = |key: &str| -> u64 {
            let quantizer = self.config.as_ref().and_then(|config| config.get(key));
            quantizer
                .and_then(|q| q.get("bitwidth"))
                .and_then(Value::as_u64)
                .unwrap_or(8)
        };
        let bits = |n_weights: usize, key| u64::try_from(n_weights).unwrap_or(0) * width(key);
        match &layer.op {
            IntegerOp::Conv2D(op) => bits(op.kernel.len(), "weight_quantizer"),
            IntegerOp::DepthwiseConv2D(op) => bits(op.kernel.len(), "weight_quantizer"),
            IntegerOp::SeparableConv2D {
                depthwise,
                pointwise,
            } => {
                bits(depthwise.kernel.len(), "dw_weight_quantizer")
                    + bits(pointwise.len(), "pw_weight_quantizer")
            }
            IntegerOp::Conv2DTranspose(op) => bits(op.kernel.len(), "weight_quantizer"),
            IntegerOp::DepthwiseConv2DTranspose(op) => bits(op.kernel.len(), "weight_quantizer"),
            IntegerOp::Dense { kernel }
            | IntegerOp::StatefulProjection { kernel, .. }
            | IntegerOp::BufferTempConv { kernel, .. }
            | IntegerOp::DepthwiseBufferTempConv { kernel } => {
                bits(kernel.len(), "weight_quantizer")
            }
            IntegerOp::StatefulRecurrent(op) => {
                bits(op.factors.iter().map(Vec::len).sum(), "a_quantizer")
            }
            IntegerOp::ReLU { .. }
            | IntegerOp::MaxPool2D(_)
            | IntegerOp::GlobalAveragePooling2D { .. }
            | IntegerOp::Add
            | IntegerOp::LookUp { .. }
            | IntegerOp::Concatenate(_)
            | IntegerOp::Permute { .. }
            | IntegerOp::ExtractToken { .. }
            | IntegerOp::Flatten
            | IntegerOp::Reshape { .. }
            | IntegerOp::Identity => 0,
        }
    }
}

/// Returns the name under which a summary shows a node: Dequantizers of several outputs,
/// `dequantizer:0`, `dequantizer:1`, ..., are one layer in the reference.
fn row_name(node: &QuantizedNode) -> &str {
    match (&node.op, node.name.rsplit_once(':')) {
        (QuantizedOp::Dequantizer(_), Some((layer, index))) if index.parse::<usize>().is_ok() => {
            layer
        }
        _ => &node.name,
    }
}

impl QuantizedModel {
    /// Returns the configuration of every quantized layer, as the reference's `dump_config`.
    #[must_use]
    pub fn dump_config(&self) -> Map<String, Value> {
        let entries = self.nodes.iter().filter_map(|node| {
            node.config
                .clone()
                .map(|config| (node.name.clone(), Value::Object(config)))
        });
        entries.collect()
    }

    /// Returns the layers with their output shapes and numbers of parameters; calibrated ranges
    /// count as parameters that are not trained, as in the reference.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut summary = Summary {
            name: self.name.clone(),
            ..Summary::default()
        };
        for node in &self.nodes {
            summary.trainable_params += node.params.trainable;
            summary.non_trainable_params += node.params.non_trainable;
            let name = row_name(node);
            let shape = std::iter::once(None).chain(node.shape.clone()).collect();
            let inputs = node.inputs.iter().map(|i| self.nodes[*i].name.clone());
            if let Some(row) = summary.layers.iter_mut().find(|row| row.name == name) {
                row.output_shapes.push(shape);
                row.inputs.extend(inputs);
                continue;
            }
            summary.layers.push(SummaryRow {
                name: name.to_owned(),
                class_name: node.class_name.clone(),
                output_shapes: vec![shape],
                params: node.params.trainable + node.params.non_trainable,
                inputs: inputs.collect(),
            });
        }
        summary
    }

    /// Returns the bits of all integer weights at their configured widths, biases left out.
    #[must_use]
    pub fn weight_bits(&self) -> u64 {
        self.nodes.iter().map(QuantizedNode::weight_bits).sum()
    }

    /// Returns whether a layer remembers earlier steps of a sequence.
    #[must_use]
    pub fn is_temporal(&self) -> bool {
        let temporal = |op: &IntegerOp| {
            matches!(
                op,
                IntegerOp::BufferTempConv { .. }
                    | IntegerOp::DepthwiseBufferTempConv { .. }
                    | IntegerOp::StatefulRecurrent(_)
            )
        };
        self.nodes.iter().any(|node| match &node.op {
            QuantizedOp::Integer(layer) => temporal(&layer.op),
            QuantizedOp::Float(layer) => layer.is_temporal(),
            QuantizedOp::Input(_)
            | QuantizedOp::InputQuantizer { .. }
            | QuantizedOp::Dequantizer(_) => false,
        })
    }

    /// Returns the node called `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&QuantizedNode> {
        self.nodes.iter().find(|node| node.name == name)
    }
}
