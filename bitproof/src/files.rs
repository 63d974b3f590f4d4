//! Models from and to files, whatever their format.

use std::path::{Path, PathBuf};

use akida_sim::{CalibratedGraph, QuantizedModel, lower};
use float_model::Graph;
use model_files::ModelKind;

use crate::recover::recovered;
use crate::{Error, Quantized};

/// A model of either kind.
#[derive(Clone, Debug)]
pub enum AnyModel {
    /// A float network.
    Float(Graph),
    /// A quantized model.
    Quantized(Box<QuantizedModel>),
}

/// Returns the model of a file; its content tells the format.
///
/// # Errors
///
/// The file cannot be read, or its model cannot be right.
pub fn load(path: &Path) -> Result<AnyModel, Error> {
    match model_files::detect(path)? {
        ModelKind::KerasFloatH5 => Ok(AnyModel::Float(model_files::read_keras_h5(path)?)),
        ModelKind::KerasArchive => Ok(AnyModel::Float(model_files::read_keras_archive(path)?)),
        ModelKind::Onnx => Ok(AnyModel::Float(model_files::read_onnx(path)?)),
        ModelKind::KerasQuantizedH5 => {
            let graph = model_files::read_quantized_h5(path)?;
            Ok(AnyModel::Quantized(Box::new(lower(graph)?)))
        }
        ModelKind::Bpq => Ok(AnyModel::Quantized(Box::new(model_files::read_bpq(path)?))),
    }
}

/// Returns the float network of a file.
///
/// # Errors
///
/// The file cannot be read, or holds a quantized model.
pub fn load_float(path: &Path) -> Result<Graph, Error> {
    match load(path)? {
        AnyModel::Float(graph) => Ok(graph),
        AnyModel::Quantized(_) => Err(Error::Invalid(format!(
            "{}: the model is quantized already; quantize the float model again, with the edited \
             configuration",
            path.display()
        ))),
    }
}

/// Returns the quantized model of a file.
///
/// # Errors
///
/// The file cannot be read, or holds a float network.
pub fn load_quantized(path: &Path) -> Result<QuantizedModel, Error> {
    match load(path)? {
        AnyModel::Quantized(model) => Ok(*model),
        AnyModel::Float(_) => Err(Error::Invalid(format!(
            "{}: this is a float model; quantize it first (`bitproof quantize`)",
            path.display()
        ))),
    }
}

/// Returns the quantized model of a file with float weights and ranges, as far as it has them.
///
/// QuantizeML's `.h5` holds them. For our own format they are made from the integers: weights that
/// become these integers again, and are no closer to the original ones than that.
///
/// # Errors
///
/// As [`load_quantized`], and layers of which no float weights are known.
pub fn load_calibrated(path: &Path) -> Result<CalibratedGraph, Error> {
    if let ModelKind::KerasQuantizedH5 = model_files::detect(path)? {
        return Ok(model_files::read_quantized_h5(path)?);
    }
    recovered(&load_quantized(path)?)
}

/// Writes a quantized model, under a temporary name first; the extension chooses the format.
///
/// `.h5` is QuantizeML's: its float weights are made from the integers, and the model is refused if
/// they would not become the same integers again. [`save_quantized`] has no need to. `.onnx` is ONNX
/// with `QuantizeLinear` and `DequantizeLinear`. All else is our own format.
///
/// # Errors
///
/// The file cannot be written, its extension asks for a format that is not written, or the format
/// cannot say the model.
pub fn save(model: &QuantizedModel, path: &Path) -> Result<(), Error> {
    check_save_path(path, &[])?;
    if is_h5(path) {
        return Ok(model_files::write_quantized_h5(&recovered(model)?, path)?);
    }
    if is_onnx(path) {
        return Ok(model_files::write_onnx(model, path)?);
    }
    Ok(model_files::write_bpq(model, path)?)
}

/// Writes what [`quantize`](fn@crate::quantize) made, as [`save`] does.
///
/// # Errors
///
/// As [`save`].
pub fn save_quantized(quantized: &Quantized, path: &Path) -> Result<(), Error> {
    if !is_h5(path) {
        return save(&quantized.model, path);
    }
    check_save_path(path, &[])?;
    Ok(model_files::write_quantized_h5(
        &quantized.calibrated,
        path,
    )?)
}

/// Returns whether a path asks for the format of Keras and QuantizeML.
pub(crate) fn is_h5(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("h5"))
}

/// Returns whether a path asks for ONNX.
pub(crate) fn is_onnx(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("onnx"))
}

/// Checks that [`save`] can write to `path`, before any work is done for it.
///
/// `reads` are the files that the work reads: none of them is replaced.
///
/// # Errors
///
/// The extension asks for a format that is not written, and what [`check_place`] refuses.
pub fn check_save_path(path: &Path, reads: &[&Path]) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if !(name.ends_with(".safetensors") || is_h5(path) || is_onnx(path)) {
        return Err(Error::Invalid(format!(
            "{}: quantized models are written as .bpq.safetensors, .h5 or .onnx",
            path.display()
        )));
    }
    check_place(path, &["safetensors", "h5", "onnx"], reads)
}

/// Checks that a file can be written to `path`, before any work is done for it.
///
/// `reads` are the files that the work reads: none of them is replaced.
///
/// # Errors
///
/// An extension that is none of `extensions`, a folder that does not exist, or one of `reads`.
pub fn check_place(path: &Path, extensions: &[&str], reads: &[&Path]) -> Result<(), Error> {
    let refused = |message: String| Err(Error::Invalid(format!("{}: {message}", path.display())));
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
    if !extensions.iter().any(|e| e.eq_ignore_ascii_case(extension)) {
        let wanted = extensions.join(" or .");
        return refused(format!("expected a file name that ends in .{wanted}"));
    }
    let folder = folder_of(path);
    if !folder.is_dir() {
        return refused(format!("there is no folder {}", folder.display()));
    }
    if reads.iter().any(|read| place(read) == place(path)) {
        return refused("would replace a file that is read".to_owned());
    }
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Returns the file that a path names, whether it exists or not.
fn place(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| {
        let folder = folder_of(path).canonicalize();
        folder.map_or_else(
            |_| path.to_owned(),
            |folder| folder.join(path.file_name().unwrap_or_default()),
        )
    })
}
