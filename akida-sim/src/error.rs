//! What can be wrong with a quantized model.

use std::fmt;

use float_model::GraphError;
use quantizer_core::NumericsError;

/// A quantized model that cannot be built or run; names the layer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelError {
    /// A layer whose numbers or formats cannot be right.
    Layer {
        /// The layer.
        layer: String,
        /// What is wrong with it.
        source: NumericsError,
    },
    /// The structure of the network, or a layer that stays in float.
    Graph(GraphError),
}

impl ModelError {
    /// Returns the error of the layer `layer`.
    pub fn layer(layer: impl Into<String>, source: NumericsError) -> Self {
        Self::Layer {
            layer: layer.into(),
            source,
        }
    }

    /// Returns an error of the layer `layer` with a message.
    pub fn invalid(layer: impl Into<String>, message: impl Into<String>) -> Self {
        Self::layer(layer, NumericsError::Invalid(message.into()))
    }
}

impl From<GraphError> for ModelError {
    fn from(error: GraphError) -> Self {
        Self::Graph(error)
    }
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer { layer, source } => write!(f, "layer `{layer}`: {source}"),
            Self::Graph(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ModelError {}
