//! Models from one format to another.

use std::path::Path;

use akida_sim::lower;
use model_files::ModelKind;

use crate::Error;
use crate::files::{AnyModel, check_save_path, is_h5, load, save};
use crate::quantize::tool;

/// Writes the model of `from` in the format that the extension of `to` asks for.
///
/// Float networks become Keras 2 `.h5`; quantized models become QuantizeML's `.h5` or our own
/// format. Returns what the target does not hold, beyond the model: a line each.
///
/// # Errors
///
/// A file cannot be read or written, or the target cannot say what the model holds.
pub fn convert(from: &Path, to: &Path) -> Result<Vec<String>, Error> {
    check_save_path(to)?;
    if is_h5(to) && model_files::detect(from)? == ModelKind::KerasQuantizedH5 {
        let graph = model_files::read_quantized_h5(from)?;
        lower(graph.clone())?; // What no model can be is not written again.
        model_files::write_quantized_h5(&graph, to)?;
        return Ok(Vec::new());
    }
    let mut left_out = Vec::new();
    match load(from)? {
        AnyModel::Float(graph) if is_h5(to) => model_files::write_keras_h5(&graph, to)?,
        AnyModel::Float(_) => {
            return Err(Error::Invalid(format!(
                "{}: this is a float model, which is written as .h5; quantize it first (`bitproof \
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
            if is_h5(to) && digests.into_iter().any(Option::is_some) {
                left_out.push("a .h5 holds no digests of what the model was made from".to_owned());
            }
            save(&model, to)?;
        }
    }
    Ok(left_out)
}
