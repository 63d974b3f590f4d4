//! Readers and writers, one module a format.
//!
//! Readers take hostile files: they return an error that names the file, never panic, and never
//! allocate more than the file's size justifies. Files are written under a temporary name in the
//! target folder and renamed.

mod array_writer;
mod arrays;
mod atomic;
mod bpq;
mod error;
mod hdf5;
mod images;
mod keras;
mod npy;
mod onnx;
mod spool;

use std::fs::File;
use std::io::Read;
use std::path::Path;

pub use array_writer::{NpzWriter, write_npy_f32, write_npy_spooled};
pub use arrays::{ArrayReader, read_integers, read_small_integers};
pub use atomic::write as write_file;
pub use bpq::{read_bpq, write_bpq};
pub use error::FileError;
pub use images::{
    BadImage, Channels, Filter, Fit, ImageList, ImageOptions, ImageReader, LabelledImages,
    OnBadSample, glob_images, images_in, labelled_images,
};
pub use keras::{
    read_keras_archive, read_keras_h5, read_quantized_h5, write_keras_h5, write_quantized_h5,
};
pub use onnx::{read_onnx, write_float_onnx, write_onnx};
pub use spool::Spool;

/// What a model file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelKind {
    /// A float network in a `.h5` file of Keras, or its weights with the JSON beside them.
    KerasFloatH5,
    /// A float network in a `.keras` archive.
    KerasArchive,
    /// A quantized network saved by QuantizeML.
    KerasQuantizedH5,
    /// A quantized network in our own format.
    Bpq,
    /// A float network of ONNX.
    Onnx,
}

/// Returns what a model file holds, by its content.
///
/// # Errors
///
/// The file cannot be read, or is of a format that is not supported.
pub fn detect(path: &Path) -> Result<ModelKind, FileError> {
    let unsupported = |what: &str| FileError::unsupported(path, what);
    if path.is_dir() {
        return Err(unsupported(if path.join("saved_model.pb").is_file() {
            "a SavedModel; save the model as .h5 or .keras"
        } else {
            "a folder; a model is a file"
        }));
    }
    let mut start = [0; 16];
    let mut file = File::open(path).map_err(|e| FileError::io(path, &e))?;
    let n = file.read(&mut start).map_err(|e| FileError::io(path, &e))?;
    let start = &start[..n];
    if hdf5::is_hdf5(path)? {
        let quantized = keras::is_quantized(path)?;
        return Ok(if quantized {
            ModelKind::KerasQuantizedH5
        } else {
            ModelKind::KerasFloatH5
        });
    }
    if start.len() > 8 && start[8] == b'{' {
        return Ok(ModelKind::Bpq);
    }
    if start.starts_with(b"PK") {
        if keras::is_archive(path)? {
            return Ok(ModelKind::KerasArchive);
        }
        return Err(unsupported("a zip archive that is no .keras file"));
    }
    if path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("onnx"))
    {
        return Ok(ModelKind::Onnx);
    }
    Err(unsupported(
        "no model format that is known; supported are .h5, .keras, .onnx and .bpq.safetensors",
    ))
}
