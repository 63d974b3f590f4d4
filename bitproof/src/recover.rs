//! Float weights again, from integers.

use akida_sim::{CalibratedGraph, QuantizedModel};

use crate::Error;

/// Returns a calibrated graph whose integers are those of `model`.
///
/// # Errors
///
/// There is none that is known.
pub(crate) fn recovered(model: &QuantizedModel) -> Result<CalibratedGraph, Error> {
    let _ = model;
    Err(Error::Invalid("not yet".to_owned()))
}
