//! Keras 2 `.h5` files: float networks, and those that QuantizeML quantized.

mod config;
mod layers;
mod operations;
mod quantized;
mod values;
mod weights;
mod write;

use std::path::Path;

use float_model::{Draft, DraftNode, Graph, Layer};
use ndarray::ArrayD;
use serde_json::{Map, Value};

use crate::FileError;
use crate::hdf5::Hdf5;
use config::ModelConfig;
use weights::Weights;

pub use quantized::read_quantized_h5;
pub(crate) use write::describe;
pub use write::write_keras_h5;

/// Returns the float network of a `.h5` file that Keras 2 (or tf_keras) saved.
///
/// # Errors
///
/// The file cannot be read, holds layers that are not supported (all are named), or weights that
/// do not fit or are not finite.
pub fn read_keras_h5(path: &Path) -> Result<Graph, FileError> {
    let (file, model) = open(path)?;
    refuse_unknown(path, &model)?;
    refuse_foreign_weights(path, &file, &model)?;
    let mut nodes = Vec::with_capacity(model.items.len());
    for item in &model.items {
        let weights = Weights::read(&file, path, &item.name)?;
        let layer = layers::layer(item, weights).map_err(|e| in_layer(path, &item.name, e))?;
        nodes.push(DraftNode {
            name: item.name.clone(),
            layer,
            inputs: item.inputs.clone(),
        });
    }
    let draft = Draft {
        name: model.name,
        nodes,
        outputs: model.outputs,
    };
    Graph::new(draft).map_err(|e| FileError::invalid(path, e.to_string()))
}

/// Returns whether a `.h5` file holds layers that QuantizeML quantized.
pub(crate) fn is_quantized(path: &Path) -> Result<bool, FileError> {
    let (_, model) = open(path)?;
    Ok(model
        .items
        .iter()
        .any(|item| quantized::is_quantized_class(&item.class)))
}

/// Returns a weight by name, if there is one.
type WeightSource<'a> = dyn FnMut(&str) -> Result<Option<ArrayD<f32>>, String> + 'a;

/// Returns the layer of a class and its configuration; `weight` returns its weights by name.
pub(crate) fn layer_of(
    class: &str,
    config: &Map<String, Value>,
    weight: &mut WeightSource<'_>,
) -> Result<Layer, String> {
    let mut weights = Weights::default();
    for name in weights::NAMES {
        if let Some(array) = weight(name)? {
            weights.insert(name, array);
        }
    }
    let refused = |error| match error {
        layers::LayerRefused::Invalid(message) | layers::LayerRefused::Unsupported(message) => {
            message
        }
    };
    let layer = layers::build(class, config, &mut weights).map_err(refused)?;
    weights.finish().map_err(refused)?;
    Ok(layer)
}

fn open(path: &Path) -> Result<(Hdf5, ModelConfig), FileError> {
    let file = Hdf5::open(path)?;
    let text = file.string("/", "model_config")?.ok_or_else(|| {
        FileError::unsupported(
            path,
            "weights without a model (no model_config); save the model",
        )
    })?;
    let model = ModelConfig::parse(&text).map_err(|e| match e {
        config::Refused::Invalid(message) => FileError::invalid(path, message),
        config::Refused::Unsupported(message) => FileError::unsupported(path, message),
    })?;
    Ok((file, model))
}

/// Refuses classes that are not known: all of them in one error.
fn refuse_unknown(path: &Path, model: &ModelConfig) -> Result<(), FileError> {
    let unknown: Vec<String> = model
        .items
        .iter()
        .filter(|item| !layers::is_known(&item.class))
        .map(|item| format!("`{}` ({})", item.name, item.class))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(FileError::unsupported(
        path,
        format!("layers {}", unknown.join(", ")),
    ))
}

/// Refuses a file without weights, and weights of layers that the model does not have.
fn refuse_foreign_weights(path: &Path, file: &Hdf5, model: &ModelConfig) -> Result<(), FileError> {
    const ROOT: &str = "model_weights";
    if !file.has_group(ROOT) {
        return Err(FileError::invalid(path, "has no group `model_weights`"));
    }
    for layer in file.strings(ROOT, "layer_names")?.unwrap_or_default() {
        let known = model.items.iter().any(|item| item.name == layer);
        let group = format!("{ROOT}/{layer}");
        if !known && file.has_group(&group) {
            let names = file.strings(&group, "weight_names")?.unwrap_or_default();
            if !names.is_empty() {
                let message = format!("has weights of a layer `{layer}`, which the model has not");
                return Err(FileError::invalid(path, message));
            }
        }
    }
    Ok(())
}

fn in_layer(path: &Path, layer: &str, error: layers::LayerRefused) -> FileError {
    match error {
        layers::LayerRefused::Invalid(m) => {
            FileError::invalid(path, format!("layer `{layer}`: {m}"))
        }
        layers::LayerRefused::Unsupported(m) => {
            FileError::unsupported(path, format!("layer `{layer}`: {m}"))
        }
    }
}
