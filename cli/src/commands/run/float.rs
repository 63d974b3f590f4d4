//! `bitproof run` of a float model.

use anyhow::Result;
use bitproof::Graph;
use bitproof::float_model::GraphMemory;
use bitproof::model_files::NpzWriter;
use ndarray::{ArrayD, Axis};
use serde_json::{Value, json};

use super::{Steps, check_places, check_skipped, joined, write_outputs};
use crate::args::{Format, RunArgs};
use crate::progress::Meter;
use crate::{inputs, samples};

/// Runs a float model on inputs, to compare it with what made it.
pub(super) fn run(args: &RunArgs, graph: &Graph) -> Result<()> {
    let outputs = graph.outputs().iter();
    let names: Vec<&str> = outputs.map(|id| graph.node(*id).name.as_str()).collect();
    check_places(args, names.len())?;
    let samples = samples::at(&args.inputs, &args.source)?;
    let mut source = inputs::open(samples, &inputs::float_input(graph)?)?;
    let total = source.n_samples();
    let mut meter = Meter::new(total, "items");
    let mut layers: Vec<Vec<ArrayD<f32>>> = vec![Vec::new(); graph.nodes().len()];
    let mut outputs: Vec<Vec<ArrayD<f32>>> = vec![Vec::new(); names.len()];
    let mut done = 0;
    let mut steps = Steps::new(args);
    if graph.nodes().iter().any(|node| node.layer.is_temporal()) {
        steps.warn();
    }
    steps.each(source.as_mut(), |batch, memory: &mut GraphMemory| {
        let tensors = graph.run_step(&[batch], memory, &mut |id, tensor| {
            if args.dump_layers.is_some() {
                layers[id.index()].push(tensor.clone());
            }
        })?;
        if args.outputs.is_some() {
            let all = outputs.iter_mut().zip(tensors);
            all.for_each(|(all, output)| all.push(output));
        }
        done += batch.len_of(Axis(0));
        meter.set(done, total);
        Ok(())
    })?;
    let seconds = meter.finish();
    check_skipped(args, source.as_ref())?;
    if let Some(path) = &args.outputs {
        write_outputs(path, &names, &outputs)?;
    }
    if let Some(path) = &args.dump_layers {
        let mut npz = NpzWriter::create(path)?;
        for (node, tensors) in graph.nodes().iter().zip(&layers) {
            npz.f32(&format!("{}/float", node.name), &joined(tensors)?)?;
        }
        npz.finish()?;
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
