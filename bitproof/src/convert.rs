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
/// format.
///
/// # Errors
///
/// A file cannot be read or written, or the target cannot say what the model holds.
pub fn convert(from: &Path, to: &Path) -> Result<(), Error> {
    check_save_path(to)?;
    if is_h5(to) && model_files::detect(from)? == ModelKind::KerasQuantizedH5 {
        let graph = model_files::read_quantized_h5(from)?;
        lower(graph.clone())?; // What no model can be is not written again.
        return Ok(model_files::write_quantized_h5(&graph, to)?);
    }
    match load(from)? {
        AnyModel::Float(graph) if is_h5(to) => Ok(model_files::write_keras_h5(&graph, to)?),
        AnyModel::Float(_) => Err(Error::Invalid(format!(
            "{}: this is a float model, which is written as .h5; quantize it first (`bitproof \
             quantize`)",
            from.display()
        ))),
        AnyModel::Quantized(mut model) => {
            if model.provenance.tool.is_empty() {
                model.provenance.tool = tool();
            }
            save(&model, to)
        }
    }
}
