//! Models from one format to another.

use std::path::Path;

use akida_sim::lower;
use model_files::ModelKind;

use crate::Error;
use crate::files::{AnyModel, check_save_path, is_h5, is_onnx, load, save};
use crate::quantize::tool;

/// Writes the model of `from` in the format that the extension of `to` asks for.
///
/// Float networks become Keras 2 `.h5` or ONNX; quantized models become QuantizeML's `.h5`, ONNX
/// with `QuantizeLinear` and `DequantizeLinear`, or our own format. Returns what the target does not hold, beyond the model: a line each.
///
/// # Errors
///
/// A file cannot be read or written, the two are one file, or the target cannot say what the model holds.
pub fn convert(from: &Path, to: &Path) -> Result<Vec<String>, Error> {
    check_save_path(to, &[from])?;
    if is_h5(to) && model_files::detect(from)? == ModelKind::KerasQuantizedH5 {
        let graph = model_files::read_quantized_h5(from)?;
        lower(graph.clone())?; // What no model can be is not written again.
        model_files::write_quantized_h5(&graph, to)?;
        return Ok(Vec::new());
    }
    let mut left_out = Vec::new();
    match load(from)? {
        AnyModel::Float(graph) if is_h5(to) => model_files::write_keras_h5(&graph, to)?,
        AnyModel::Float(graph) if is_onnx(to) => model_files::write_float_onnx(&graph, to)?,
        AnyModel::Float(_) => {
            return Err(Error::Invalid(format!(
                "{}: this is a float model, which is written as .h5 or .onnx; quantize it first (`bitproof \
             quantize`)",
                from.display()
            )));
        }
        AnyModel::Quantized(mut model) => {
            if model.provenance.tool.is_empty() {
                model.provenance.tool = tool();
            }
            let facts = &model.provenance;
            let digests = [
                &facts.model_digest,
                &facts.samples_digest,
                &facts.config_digest,
            ];
            if digests.into_iter().any(Option::is_some) && (is_h5(to) || is_onnx(to)) {
                let format = if is_h5(to) { "a .h5" } else { "an .onnx" };
                left_out.push(format!(
                    "{format} holds no digests of what the model was made from"
                ));
            }
            if is_onnx(to) {
                left_out.push("an .onnx holds no configuration of the quantizers".to_owned());
            }
            save(&model, to)?;
        }
    }
    Ok(left_out)
}
