//! `bitproof config`.

use anyhow::Result;
use bitproof::config_schema::to_indented;
use bitproof::load_quantized;
use serde_json::Value;

use crate::args::ModelArgs;

/// Prints the configuration of a quantized model.
pub(super) fn run(args: &ModelArgs) -> Result<()> {
    let model = load_quantized(&args.path())?;
    crate::outln!("{}", to_indented(&Value::Object(model.dump_config())));
    Ok(())
}
