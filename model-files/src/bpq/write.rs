//! Writing.

use std::path::Path;

use akida_sim::{InputKind, QuantizedModel, QuantizedNode, QuantizedOp};
use quantizer_core::QFormat;
use quantizer_core::layers::IntegerLayer;

use super::header::{
    EntryHeader, Header, IntegerHeader, NodeHeader, OpHeader, OutputHeader, ProvenanceHeader,
};
use super::tensors::Written;
use super::{KEY, VERSION};
use crate::keras::describe;
use crate::{FileError, atomic};

/// Writes a quantized model in our own format, whole or not at all.
///
/// # Errors
///
/// The file cannot be written, or the model is not valid, so that nobody could read it.
pub fn write_bpq(model: &QuantizedModel, path: &Path) -> Result<(), FileError> {
    model
        .validate()
        .map_err(|e| FileError::invalid(path, e.to_string()))?;
    let bytes = bytes(model).map_err(|e| FileError::invalid(path, e))?;
    atomic::write(path, &bytes)
}

/// Returns the bytes of the file.
pub(super) fn bytes(model: &QuantizedModel) -> Result<Vec<u8>, String> {
    let mut tensors = Written::default();
    let provenance = &model.provenance;
    let header = Header {
        version: VERSION,
        name: model.name.clone(),
        outputs: model.outputs.clone(),
        provenance: ProvenanceHeader {
            tool: provenance.tool.clone(),
            model_sha256: provenance.model_digest.clone(),
            samples_sha256: provenance.samples_digest.clone(),
            q_config_sha256: provenance.config_digest.clone(),
            seed: provenance.seed,
        },
        nodes: model
            .nodes
            .iter()
            .map(|node| node_header(node, &mut tensors))
            .collect(),
    };
    let text = serde_json::to_string(&header).map_err(|e| e.to_string())?;
    // One key only: the order of several would be random.
    let metadata = [(KEY.to_owned(), text)].into_iter().collect();
    safetensors::serialize(tensors.views()?, Some(metadata)).map_err(|e| e.to_string())
}

fn node_header(node: &QuantizedNode, tensors: &mut Written) -> NodeHeader {
    if let Some(ranges) = &node.ranges {
        tensors.per_axis(format!("{}/range_max", node.name), &ranges.range_max);
        tensors.per_axis(
            format!("{}/rescaling_rate", node.name),
            &ranges.rescaling_rate,
        );
    }
    NodeHeader {
        name: node.name.clone(),
        class_name: node.class_name.clone(),
        inputs: node.inputs.clone(),
        shape: node.shape.clone(),
        trainable_params: node.params.trainable,
        non_trainable_params: node.params.non_trainable,
        config: node.config.clone(),
        has_ranges: node.ranges.is_some(),
        op: op_header(node, tensors),
    }
}

fn op_header(node: &QuantizedNode, tensors: &mut Written) -> OpHeader {
    let name = &node.name;
    match &node.op {
        QuantizedOp::Input(InputKind::Float(dtype)) => OpHeader::FloatInput {
            dtype: dtype.name().to_owned(),
        },
        QuantizedOp::Input(InputKind::Raw { dtype, format }) => OpHeader::RawInput {
            dtype: dtype.name().to_owned(),
            value_bits: format.value_bits.bits(),
        },
        QuantizedOp::InputQuantizer { spec, .. } => {
            tensors.per_axis(format!("{name}/range_min"), &spec.range_min);
            tensors.per_axis(format!("{name}/range_max"), &spec.range_max);
            OpHeader::InputQuantizer {
                bitwidth: spec.bitwidth,
                signed: spec.signed,
            }
        }
        QuantizedOp::Integer(layer) => {
            OpHeader::Integer(Box::new(integer_header(name, layer, tensors)))
        }
        QuantizedOp::Dequantizer(format) => {
            write_format(&format!("{name}/input"), format, tensors);
            OpHeader::Dequantizer {
                value_bits: format.value_bits.bits(),
            }
        }
        QuantizedOp::Float(layer) => {
            let (config, weights) = describe(layer);
            for (weight, array) in &weights {
                tensors.array(format!("{name}/{weight}"), array);
            }
            OpHeader::Float {
                class_name: layer.class_name().to_owned(),
                config,
            }
        }
    }
}

fn integer_header(name: &str, layer: &IntegerLayer, tensors: &mut Written) -> IntegerHeader {
    let mut entries = Vec::with_capacity(layer.entries.len());
    for (i, entry) in layer.entries.iter().enumerate() {
        tensors.per_axis(format!("{name}/entry{i}_shift"), &entry.shift);
        let (stage, value_bits) = (entry.stage.name().to_owned(), entry.value_bits.bits());
        entries.push(EntryHeader { stage, value_bits });
    }
    if let Some(bias) = &layer.bias {
        tensors.per_axis(format!("{name}/bias"), &bias.values);
        tensors.per_axis(format!("{name}/bias_shift"), &bias.shift);
    }
    write_format(&format!("{name}/inner"), &layer.inner, tensors);
    write_format(&format!("{name}/output"), &layer.format, tensors);
    let output = layer.output.as_ref().map(|stage| {
        tensors.per_axis(format!("{name}/output_shift"), &stage.shift);
        if let Some((q, _)) = &stage.multiplier {
            tensors.per_axis(format!("{name}/output_multiplier"), q);
        }
        OutputHeader {
            value_bits: stage.value_bits.bits(),
            buffer_bits: stage.multiplier.as_ref().map(|(_, buffer)| buffer.bits()),
        }
    });
    IntegerHeader {
        kind: super::kind::write(name, &layer.op, tensors),
        entries,
        inner_bits: layer.inner.value_bits.bits(),
        has_bias: layer.bias.is_some(),
        output,
        value_bits: layer.format.value_bits.bits(),
    }
}

fn write_format(prefix: &str, format: &QFormat, tensors: &mut Written) {
    tensors.per_axis(format!("{prefix}_frac_bits"), &format.frac_bits);
    if let Some(scales) = &format.scales {
        tensors.per_axis(format!("{prefix}_scales"), scales);
    }
}
