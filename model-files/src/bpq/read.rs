//! Reading: every reference, extent and width is checked before a model is made of it.

use std::path::Path;

use akida_sim::{
    InputKind, InputQuantizerSpec, OutputRanges, Provenance, QuantizedModel, QuantizedNode,
    QuantizedOp,
};
use float_model::{Dtype, ParamCount};
use quantizer_core::layers::{EntryStage, IntegerLayer};
use quantizer_core::quantizers::{AlignedWeights, InputQuantizer, OutputStage};
use quantizer_core::{BitWidth, PerAxis, QFormat, Sign, Stage, ValueBits};
use safetensors::SafeTensors;

use super::header::{Header, IntegerHeader, NodeHeader, OpHeader};
use super::tensors::Read;
use super::{KEY, VERSION};
use crate::FileError;
use crate::keras::layer_of;

/// Returns the quantized model of a file in our own format.
///
/// # Errors
///
/// The file cannot be read, has another version, or does not describe a model that can run.
pub fn read_bpq(path: &Path) -> Result<QuantizedModel, FileError> {
    let bytes = std::fs::read(path).map_err(|e| FileError::io(path, &e))?;
    let invalid = |message: String| FileError::invalid(path, message);
    let text = header_text(&bytes).map_err(invalid)?;
    let version = version(&text).map_err(invalid)?;
    if version != Some(VERSION.into()) {
        let version = version.map_or_else(|| "none".to_owned(), |v| v.to_string());
        return Err(FileError::unsupported(
            path,
            format!("version {version} of the format; this bitproof reads {VERSION}"),
        ));
    }
    model(&text, &bytes).map_err(invalid)
}

/// Returns the JSON text of a file.
fn header_text(bytes: &[u8]) -> Result<String, String> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    let text = metadata.metadata().as_ref().and_then(|map| map.get(KEY));
    text.cloned()
        .ok_or_else(|| "a safetensors file that bitproof did not write".to_owned())
}

/// Returns the version alone: what else a version holds is its own affair.
fn version(text: &str) -> Result<Option<u64>, String> {
    let json: serde_json::Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    Ok(json.get("version").and_then(serde_json::Value::as_u64))
}

fn model(text: &str, bytes: &[u8]) -> Result<QuantizedModel, String> {
    let header: Header = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
    let mut tensors = Read::new(file);
    let mut nodes: Vec<QuantizedNode> = Vec::with_capacity(header.nodes.len());
    for node in header.nodes {
        let name = node.name.clone();
        let node = read_node(node, &nodes, &mut tensors);
        nodes.push(node.map_err(|e| format!("layer `{name}`: {e}"))?);
    }
    if header.outputs.is_empty() || header.outputs.iter().any(|i| *i >= nodes.len()) {
        return Err("an output that is no layer".to_owned());
    }
    tensors.finish()?;
    let provenance = header.provenance;
    let model = QuantizedModel {
        name: header.name,
        nodes,
        outputs: header.outputs,
        provenance: Provenance {
            tool: provenance.tool,
            model_digest: provenance.model_sha256,
            samples_digest: provenance.samples_sha256,
            config_digest: provenance.q_config_sha256,
            seed: provenance.seed,
        },
    };
    model.validate().map_err(|e| e.to_string())?;
    Ok(model)
}

fn read_node(
    header: NodeHeader,
    before: &[QuantizedNode],
    tensors: &mut Read<'_>,
) -> Result<QuantizedNode, String> {
    if header.inputs.iter().any(|i| *i >= before.len()) {
        return Err("takes a layer that does not stand before it".to_owned());
    }
    let name = header.name;
    let ranges = match header.has_ranges {
        false => None,
        true => Some(OutputRanges {
            range_max: tensors.per_axis(&format!("{name}/range_max"))?,
            rescaling_rate: tensors.per_axis(&format!("{name}/rescaling_rate"))?,
        }),
    };
    let op = read_op(&name, header.op, tensors)?;
    Ok(QuantizedNode {
        name,
        class_name: header.class_name,
        inputs: header.inputs,
        shape: header.shape,
        op,
        config: header.config,
        ranges,
        params: ParamCount {
            trainable: header.trainable_params,
            non_trainable: header.non_trainable_params,
        },
    })
}

fn read_op(name: &str, header: OpHeader, tensors: &mut Read<'_>) -> Result<QuantizedOp, String> {
    Ok(match header {
        OpHeader::FloatInput { dtype } => QuantizedOp::Input(InputKind::Float(read_dtype(&dtype)?)),
        OpHeader::RawInput { dtype, value_bits } => {
            let format = QFormat::fixed(bits(value_bits)?, PerAxis::Tensor(0));
            QuantizedOp::Input(InputKind::Raw {
                dtype: read_dtype(&dtype)?,
                format,
            })
        }
        OpHeader::InputQuantizer { bitwidth, signed } => {
            let spec = InputQuantizerSpec {
                bitwidth,
                signed,
                range_min: tensors.per_axis(&format!("{name}/range_min"))?,
                range_max: tensors.per_axis(&format!("{name}/range_max"))?,
            };
            let sign = if signed { Sign::Signed } else { Sign::Unsigned };
            let width = BitWidth::new(bitwidth).map_err(|e| e.to_string())?;
            let quantizer = InputQuantizer::new(width, sign, &spec.range_min, &spec.range_max)
                .map_err(|e| e.to_string())?;
            QuantizedOp::InputQuantizer { quantizer, spec }
        }
        OpHeader::Integer(header) => {
            QuantizedOp::Integer(Box::new(read_integer(name, *header, tensors)?))
        }
        OpHeader::Dequantizer { value_bits } => {
            QuantizedOp::Dequantizer(read_format(&format!("{name}/input"), value_bits, tensors)?)
        }
        OpHeader::Float { class_name, config } => {
            let mut weight = |key: &str| {
                let path = format!("{name}/{key}");
                if tensors.has(&path) {
                    tensors.array::<f32>(&path).map(Some)
                } else {
                    Ok(None)
                }
            };
            QuantizedOp::Float(Box::new(layer_of(&class_name, &config, &mut weight)?))
        }
    })
}

fn read_integer(
    name: &str,
    header: IntegerHeader,
    tensors: &mut Read<'_>,
) -> Result<IntegerLayer, String> {
    let mut entries = Vec::with_capacity(header.entries.len());
    for (i, entry) in header.entries.iter().enumerate() {
        let stage = Stage::ALL
            .into_iter()
            .find(|stage| stage.name() == entry.stage);
        entries.push(EntryStage {
            stage: stage.ok_or_else(|| format!("a stage `{}`", entry.stage))?,
            shift: tensors.per_axis(&format!("{name}/entry{i}_shift"))?,
            value_bits: bits(entry.value_bits)?,
        });
    }
    let bias = match header.has_bias {
        false => None,
        true => Some(AlignedWeights {
            values: tensors.per_axis(&format!("{name}/bias"))?,
            shift: tensors.per_axis(&format!("{name}/bias_shift"))?,
        }),
    };
    let output = match header.output {
        None => None,
        Some(output) => Some(OutputStage {
            multiplier: match output.buffer_bits {
                None => None,
                Some(buffer) => Some((
                    tensors.per_axis(&format!("{name}/output_multiplier"))?,
                    bits(buffer)?,
                )),
            },
            shift: tensors.per_axis(&format!("{name}/output_shift"))?,
            value_bits: bits(output.value_bits)?,
        }),
    };
    Ok(IntegerLayer {
        entries,
        op: super::kind::read(name, header.kind, tensors)?,
        bias,
        inner: read_format(&format!("{name}/inner"), header.inner_bits, tensors)?,
        output,
        format: read_format(&format!("{name}/output"), header.value_bits, tensors)?,
    })
}

fn read_format(prefix: &str, value_bits: u8, tensors: &mut Read<'_>) -> Result<QFormat, String> {
    let scales_name = format!("{prefix}_scales");
    let scales: Option<PerAxis<f32>> = if tensors.has(&scales_name) {
        Some(tensors.per_axis(&scales_name)?)
    } else {
        None
    };
    if scales
        .iter()
        .flat_map(PerAxis::as_slice)
        .any(|scale| !scale.is_finite())
    {
        return Err(format!("tensor `{scales_name}` is not finite"));
    }
    let frac_bits = tensors.per_axis(&format!("{prefix}_frac_bits"))?;
    Ok(QFormat {
        value_bits: bits(value_bits)?,
        frac_bits,
        scales,
    })
}

fn bits(n: u8) -> Result<ValueBits, String> {
    ValueBits::new(n).map_err(|e| e.to_string())
}

fn read_dtype(name: &str) -> Result<Dtype, String> {
    let all = [
        Dtype::Float32,
        Dtype::UInt8,
        Dtype::Int8,
        Dtype::UInt16,
        Dtype::Int16,
        Dtype::Int32,
    ];
    all.into_iter()
        .find(|d| d.name() == name)
        .ok_or_else(|| format!("an input of type `{name}`"))
}
