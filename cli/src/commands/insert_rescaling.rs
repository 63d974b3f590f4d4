//! `bitproof insert-rescaling`.

use anyhow::{Result, bail};
use bitproof::float_model::{Graph, Layer, Rescaling};
use bitproof::model_files::write_keras_h5;
use bitproof::quantizer_core::PerAxis;
use bitproof::{check_place, load_float};

use crate::args::InsertRescalingArgs;

/// Inserts a Rescaling after each input of a float model.
pub(super) fn run(args: &InsertRescalingArgs) -> Result<()> {
    if !args.scale.is_normal() || !args.offset.is_finite() {
        bail!(
            "a Rescaling by {} with an offset of {}: both must be finite, and the scale not 0",
            args.scale,
            args.offset
        );
    }
    let path = args.model.path();
    check_place(&args.save, &["h5"], &[&path])?;
    let graph = load_float(&path)?;
    let inputs: Vec<String> = graph
        .inputs()
        .map(|id| graph.node(id).name.clone())
        .collect();
    let mut draft = graph.into_draft();
    for input in inputs {
        let taken = |name: &str| draft.nodes.iter().any(|node| node.name == name);
        let mut names =
            std::iter::once("rescaling".to_owned()).chain((1..).map(|k| format!("rescaling_{k}")));
        let name = names.find(|name| !taken(name)).unwrap_or_default();
        let rescaling = Rescaling {
            scale: PerAxis::Tensor(args.scale),
            offset: PerAxis::Tensor(args.offset),
        };
        draft.insert_after(&input, &name, Layer::Rescaling(rescaling));
    }
    write_keras_h5(&Graph::new(draft)?, &args.save)?;
    crate::outln!("written to {}", args.save.display());
    Ok(())
}
