//! `bitproof run` of a float model.

use anyhow::Result;
use bitproof::Graph;
use bitproof::float_model::GraphMemory;
use ndarray::Axis;
use serde_json::{Value, json};

use super::{Outputs, Steps, check_places, check_skipped};
use crate::args::{Format, RunArgs};
use crate::progress::Meter;
use crate::{inputs, samples};

/// Runs a float model on inputs, to compare it with what made it.
pub(super) fn run(args: &RunArgs, graph: &Graph) -> Result<()> {
    let names = graph.outputs().iter();
    let names: Vec<String> = names.map(|id| graph.node(*id).name.clone()).collect();
    let samples = samples::at(&args.inputs, &args.source)?;
    check_places(args, names.len(), samples.files())?;
    let mut source = inputs::open(samples, &inputs::float_input(graph)?)?;
    let total = source.n_samples();
    let mut meter = Meter::new(total, "items");
    let layers = graph.nodes().iter();
    let layers: Vec<String> = layers.map(|node| format!("{}/float", node.name)).collect();
    let dump = args.dump_layers.as_deref();
    let mut dump = dump.map(|path| Outputs::new(layers, path)).transpose()?;
    let outputs = args.outputs.as_deref();
    let mut outputs = outputs.map(|path| Outputs::new(names, path)).transpose()?;
    let mut done = 0;
    let mut steps = Steps::new(args);
    steps.warn_if(graph.nodes().iter().any(|node| node.layer.is_temporal()));
    steps.each(source.as_mut(), |batch, memory: &mut GraphMemory| {
        let mut kept = Ok(());
        let tensors = graph.run_step(&[batch], memory, &mut |id, tensor| {
            if let (Some(dump), Ok(())) = (&mut dump, &kept) {
                kept = dump.push(id.index(), tensor);
            }
        })?;
        kept?;
        if let Some(outputs) = &mut outputs {
            for (index, tensor) in tensors.iter().enumerate() {
                outputs.push(index, tensor)?;
            }
        }
        done += batch.len_of(Axis(0));
        meter.set(done, total);
        Ok(())
    })?;
    let seconds = meter.finish();
    check_skipped(args, source.as_ref())?;
    for tensors in [outputs, dump].into_iter().flatten() {
        tensors.finish()?;
    }
    report(args.format.format, graph, (done, seconds));
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a time for people")]
fn report(format: Format, graph: &Graph, (total, seconds): (usize, f64)) {
    let milliseconds = 1000.0 * seconds / (total.max(1) as f64);
    if format == Format::Text {
        crate::outln!("{total} items in floats, {milliseconds:.3} ms an item");
        return;
    }
    // Floats have no widths, so there are no intermediates to tell of.
    let layer = |name: &str| json!({ "name": name, "stages": [] });
    let layers: Vec<Value> = graph.nodes().iter().map(|node| layer(&node.name)).collect();
    let json = json!({ "items": total, "ms_per_item": milliseconds, "layers": layers });
    crate::outln!("{json:#}");
}
