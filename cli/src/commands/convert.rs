//! `bitproof convert`.

use anyhow::Result;
use bitproof::convert;
use serde_json::json;

use crate::args::{ConvertArgs, Format};

/// Writes a model in another format.
pub(super) fn run(args: &ConvertArgs) -> Result<()> {
    let left_out = convert(&args.input, &args.output)?;
    let output = args.output.display().to_string();
    match args.format.format {
        Format::Text => {
            for line in &left_out {
                crate::errln!("note: {line}");
            }
            crate::outln!("written to {output}");
        }
        Format::Json => crate::outln!("{:#}", json!({ "output": output, "left_out": left_out })),
    }
    Ok(())
}
