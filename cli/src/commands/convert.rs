//! `bitproof convert`.

use anyhow::Result;
use bitproof::convert;
use serde_json::json;

use crate::args::{ConvertArgs, Format};

/// Writes a model in another format.
pub(super) fn run(args: &ConvertArgs) -> Result<()> {
    convert(&args.input, &args.output)?;
    match args.format.format {
        Format::Text => crate::outln!("written to {}", args.output.display()),
        Format::Json => crate::outln!(
            "{:#}",
            json!({ "output": args.output.display().to_string() })
        ),
    }
    Ok(())
}
