//! `bitproof summary`.

use anyhow::Result;
use bitproof::{AnyModel, Summary, load};
use serde_json::{Value, json};

use crate::args::{Format, ModelFormatArgs};

/// Prints the layers of a model.
pub(super) fn run(args: &ModelFormatArgs) -> Result<()> {
    let summary = match load(&args.model.path())? {
        AnyModel::Float(graph) => graph.summary(),
        AnyModel::Quantized(model) => model.summary(),
    };
    match args.format.format {
        Format::Text => crate::outln!("{}", summary.to_text()),
        Format::Json => crate::outln!("{:#}", to_json(&summary)),
    }
    Ok(())
}

fn to_json(summary: &Summary) -> Value {
    let layers: Vec<Value> = summary
        .layers
        .iter()
        .map(|row| {
            json!({
                "name": row.name,
                "class_name": row.class_name,
                "output_shape": match row.output_shapes.as_slice() {
                    [shape] => json!(shape),
                    several => json!(several),
                },
                "params": row.params,
                "inputs": row.inputs,
            })
        })
        .collect();
    json!({
        "name": summary.name,
        "layers": layers,
        "total_params": summary.total_params(),
        "trainable_params": summary.trainable_params,
        "non_trainable_params": summary.non_trainable_params,
    })
}
