//! What can be wrong with a graph.

use std::fmt;

/// A graph that cannot be built or run; names the layer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GraphError {
    /// Two layers have the same name.
    DuplicateName {
        /// The name.
        layer: String,
    },
    /// A layer or an output names a layer that does not exist.
    UnknownLayer {
        /// The layer, or the word `output`, that refers to it.
        layer: String,
        /// The name that no layer has.
        name: String,
    },
    /// The layers depend on each other in a circle.
    Cycle {
        /// One layer of the circle.
        layer: String,
    },
    /// The graph has no output, or no layer at all.
    Empty,
    /// The graph is run on another number of tensors than it has inputs.
    WrongInputs {
        /// Names of the inputs, in the order in which the tensors are taken.
        expected: Vec<String>,
        /// Number of tensors given.
        given: usize,
    },
    /// The inputs or parameters of a layer cannot be right.
    Invalid {
        /// The layer.
        layer: String,
        /// What is wrong, with the values.
        message: String,
    },
    /// The layer is meaningful but not implemented.
    Unsupported {
        /// The layer.
        layer: String,
        /// What is not implemented, with the values.
        message: String,
    },
}

impl GraphError {
    /// Returns an [`Invalid`](Self::Invalid) error for `layer`.
    pub fn invalid(layer: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid {
            layer: layer.into(),
            message: message.into(),
        }
    }

    /// Returns an [`Unsupported`](Self::Unsupported) error for `layer`.
    pub fn unsupported(layer: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Unsupported {
            layer: layer.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DuplicateName { layer } => write!(f, "two layers are named `{layer}`"),
            Self::UnknownLayer { layer, name } => {
                write!(
                    f,
                    "`{layer}` refers to `{name}`, which is no layer of the model"
                )
            }
            Self::Cycle { layer } => write!(f, "layer `{layer}` depends on its own output"),
            Self::Empty => f.write_str("the model has no output"),
            Self::WrongInputs { expected, given } => {
                let names = expected.join("`, `");
                write!(
                    f,
                    "the model takes the inputs `{names}`, not {given} tensors"
                )
            }
            Self::Invalid { layer, message } => write!(f, "layer `{layer}`: {message}"),
            Self::Unsupported { layer, message } => {
                write!(f, "layer `{layer}`: not supported: {message}")
            }
        }
    }
}

impl std::error::Error for GraphError {}
