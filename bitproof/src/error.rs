//! What can go wrong from a file to a quantized model.

use std::fmt;

use akida_sim::ModelError;
use calibration::CalibrationError;
use config_schema::{ConfigReport, ParamsError};
use float_model::GraphError;
use model_files::FileError;

/// Anything that can go wrong; every case is a matter of the input.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A file that cannot be read or written.
    File(FileError),
    /// A network that cannot be right.
    Graph(GraphError),
    /// A quantized model that cannot be right.
    Model(ModelError),
    /// A calibration that cannot be done.
    Calibration(CalibrationError),
    /// Mistakes in a configuration: all of them.
    Config(ConfigReport),
    /// Parameters outside their ranges: all of them.
    Params(ParamsError),
    /// Another mistake, with its message.
    Invalid(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Graph(error) => error.fmt(f),
            Self::Model(error) => error.fmt(f),
            Self::Calibration(error) => error.fmt(f),
            Self::Config(error) => error.fmt(f),
            Self::Params(error) => error.fmt(f),
            Self::Invalid(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Error {}

macro_rules! from {
    ($($source:ty => $variant:ident),*) => {
        $(impl From<$source> for Error {
            fn from(error: $source) -> Self {
                Self::$variant(error)
            }
        })*
    };
}
from!(FileError => File, GraphError => Graph, ModelError => Model,
    CalibrationError => Calibration, ConfigReport => Config, ParamsError => Params);
