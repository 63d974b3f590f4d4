//! Keras files: float networks of Keras 2 and 3, and those that QuantizeML quantized.

mod activation;
mod calls;
mod config;
mod describe;
mod keras_3;
mod layers;
mod nested;
mod operations;
mod quantized;
mod source;
mod stored;
mod values;
mod variables;
mod volume;
mod weights;
mod write;
mod write_quantized;

use std::path::Path;

use float_model::{Draft, DraftNode, Graph, Layer};
use ndarray::ArrayD;
use serde_json::{Map, Value};

use crate::FileError;
use source::Source;
use weights::Weights;

pub(crate) use describe::describe;
pub use quantized::read_quantized_h5;
pub(crate) use source::is_archive;
pub use write::write_keras_h5;
pub use write_quantized::write_quantized_h5;

/// Returns the float network of a `.h5` file that Keras saved.
///
/// A file of weights alone (`save_weights`) is read with the JSON of its model (`to_json`) that
/// stands beside it: `NAME.json` for `NAME.weights.h5` or `NAME.h5`, otherwise `config.json`.
///
/// Models in models are inlined: the layer `conv` of the model `block` is called `block/conv`, or
/// `block/conv_1` and so on where that name is taken.
///
/// # Errors
///
/// The file cannot be read, holds layers that are not supported (all are named) or are called more
/// than once, or weights that do not fit or are not finite.
pub fn read_keras_h5(path: &Path) -> Result<Graph, FileError> {
    graph(path, Source::open_h5(path)?)
}

/// Returns the float network of a `.keras` archive, of tf_keras or of Keras 3.
///
/// Models in models are inlined as [`read_keras_h5`] says.
///
/// # Errors
///
/// As [`read_keras_h5`].
pub fn read_keras_archive(path: &Path) -> Result<Graph, FileError> {
    graph(path, Source::open_archive(path)?)
}

fn graph(path: &Path, source: Source) -> Result<Graph, FileError> {
    let model = source.read(layers::is_known)?;
    let mut nodes = Vec::with_capacity(model.items.len());
    for mut item in model.items {
        let weights = std::mem::take(&mut item.weights);
        let layer = layers::layer(&item, weights).map_err(|e| in_layer(path, &item.name, e))?;
        nodes.push(DraftNode {
            name: item.name,
            layer,
            inputs: item.inputs,
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
    Ok(Source::open_h5(path)?.any_class(quantized::is_quantized_class))
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
