//! stub
use crate::FileError;
use akida_sim::QuantizedModel;
use std::path::Path;
pub fn read_bpq(path: &Path) -> Result<QuantizedModel, FileError> {
    Err(FileError::unsupported(path, "stub"))
}
pub fn write_bpq(_model: &QuantizedModel, path: &Path) -> Result<(), FileError> {
    Err(FileError::unsupported(path, "stub"))
}
