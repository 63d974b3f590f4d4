//! What can go wrong while calibrating.

use std::fmt;

use float_model::GraphError;

/// A calibration that cannot be done, or that would be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CalibrationError {
    /// More samples asked for than there are.
    TooFewSamples {
        /// Samples asked for.
        asked: usize,
        /// Samples there are.
        available: usize,
    },
    /// Not one sample that can be used.
    NoSamples,
    /// A number that must be positive is zero.
    Zero {
        /// Its name.
        what: &'static str,
    },
    /// Samples whose extents are not those of the model's input.
    Shape {
        /// Extents of a sample.
        samples: Vec<usize>,
        /// Extents of the input, `None` where they are open.
        input: Vec<Option<usize>>,
    },
    /// A NaN or infinite sample.
    SampleNotFinite {
        /// Index of the sample.
        sample: usize,
    },
    /// A sample that is no integer of the input's type.
    SampleNotInteger {
        /// Index of the sample.
        sample: usize,
        /// The value, as text.
        value: String,
        /// Name of the type, such as `uint8`.
        dtype: &'static str,
    },
    /// A NaN or infinite output of a layer.
    RangeNotFinite {
        /// The layer.
        layer: String,
    },
    /// A layer that cannot have what is asked for.
    Layer {
        /// The layer.
        layer: String,
        /// Why.
        message: String,
    },
    /// The samples cannot be read.
    Source(String),
    /// The network cannot run.
    Graph(GraphError),
}

impl From<GraphError> for CalibrationError {
    fn from(error: GraphError) -> Self {
        Self::Graph(error)
    }
}

impl fmt::Display for CalibrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFewSamples { asked, available } => {
                write!(
                    f,
                    "{asked} samples asked for, but there are only {available}"
                )
            }
            Self::NoSamples => f.write_str("there is no sample that can be used"),
            Self::Zero { what } => write!(f, "{what} must be at least 1"),
            Self::Shape { samples, input } => {
                let input: Vec<String> = input
                    .iter()
                    .map(|n| n.map_or_else(|| "any".to_owned(), |n| n.to_string()))
                    .collect();
                let input = input.join(", ");
                write!(
                    f,
                    "samples of shape {samples:?} for an input of shape [{input}]"
                )
            }
            Self::SampleNotInteger {
                sample,
                value,
                dtype,
            } => write!(
                f,
                "sample {sample} holds {value}, which is no {dtype}: the model takes integers"
            ),
            Self::SampleNotFinite { sample } => {
                write!(f, "sample {sample} holds a NaN or an infinity")
            }
            Self::RangeNotFinite { layer } => {
                write!(
                    f,
                    "layer `{layer}`: its float output holds a NaN or an infinity"
                )
            }
            Self::Layer { layer, message } => write!(f, "layer `{layer}`: {message}"),
            Self::Source(message) => f.write_str(message),
            Self::Graph(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CalibrationError {}
