//! `bitproof run`.

mod dump;
mod float;

use std::path::Path;

use anyhow::{Result, bail};
use bitproof::calibration::SampleSource;
use bitproof::model_files::{NpzWriter, write_npy_f32};
use bitproof::quantizer_core::Counters;
use bitproof::{AnyModel, Executor, ModelMemory, QuantizedModel, Run, load};
use ndarray::{ArrayD, Axis, IxDyn};
use serde_json::{Value, json};

use crate::args::{Format, RunArgs};
use crate::progress::Meter;
use crate::{inputs, samples};
use dump::Dump;

/// Runs a model on inputs: a quantized one in integers, a float one in floats.
pub(super) fn run(args: &RunArgs) -> Result<()> {
    match load(&args.model.path())? {
        AnyModel::Quantized(model) => run_quantized(args, &model),
        AnyModel::Float(graph) => float::run(args, &graph),
    }
}

fn run_quantized(args: &RunArgs, model: &QuantizedModel) -> Result<()> {
    let names: Vec<&str> = model
        .outputs
        .iter()
        .map(|index| model.nodes[*index].name.as_str())
        .collect();
    check_places(args, names.len())?;
    let executor = Executor::new(model);
    let samples = samples::at(&args.inputs, &args.source)?;
    let mut source = inputs::open(samples, &inputs::quantized_input(model)?)?;
    let total = source.n_samples();
    let mut meter = Meter::new(total, "items");
    let mut dump = args.dump_layers.is_some().then(|| Dump::new(model));
    let mut counters = vec![Counters::default(); model.nodes.len()];
    let mut outputs: Vec<Vec<ArrayD<f32>>> = vec![Vec::new(); model.outputs.len()];
    let mut done = 0;
    let mut steps = Steps::new(args);
    if model.is_temporal() {
        steps.warn();
    }
    steps.each(source.as_mut(), |batch, memory: &mut ModelMemory| {
        let Run {
            outputs: tensors,
            counters: counts,
        } = match &mut dump {
            None if !args.sequence => executor.outputs(batch)?,
            dump => executor.run_step(batch, memory, &mut |index, tensor| {
                if let Some(dump) = dump {
                    dump.add(index, tensor);
                }
            })?,
        };
        let all = counters.iter_mut().zip(&counts);
        all.for_each(|(all, batch)| all.merge(batch));
        if args.outputs.is_some() {
            let all = outputs.iter_mut().zip(&tensors);
            all.for_each(|(all, output)| all.push(output.floats()));
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
    if let (Some(dump), Some(path)) = (&dump, &args.dump_layers) {
        dump.write(path)?;
    }
    report(args.format.format, model, &counters, (done, seconds));
    Ok(())
}

/// How inputs pass: in batches of their own, or one after another as a sequence.
enum Steps {
    Batches,
    Sequence { reset_every: Option<usize> },
}

impl Steps {
    fn new(args: &RunArgs) -> Self {
        if args.sequence {
            let reset_every = args.reset_every.map(usize::from);
            return Self::Sequence { reset_every };
        }
        Self::Batches
    }

    /// Says on stderr that a temporal model forgets, if its inputs are no sequence.
    fn warn(&self) {
        if matches!(self, Self::Batches) {
            eprintln!(
                "warning: the model remembers earlier steps; without --sequence each input starts \
                 from empty buffers"
            );
        }
    }

    /// Runs `f` on all inputs with what temporal layers remember.
    fn each<M: Default>(
        &mut self,
        source: &mut dyn SampleSource,
        mut f: impl FnMut(&ArrayD<f32>, &mut M) -> Result<()>,
    ) -> Result<()> {
        let Self::Sequence { reset_every } = self else {
            return inputs::each_batch(source, |batch, _| f(batch, &mut M::default()));
        };
        let mut memory = M::default();
        let mut n_steps = 0_usize;
        inputs::each_batch(source, |batch, _| {
            for step in batch.axis_chunks_iter(Axis(0), 1) {
                if reset_every.is_some_and(|n| n_steps.checked_rem(n) == Some(0)) {
                    memory = M::default();
                }
                f(&step.to_owned(), &mut memory)?;
                n_steps += 1;
            }
            Ok(())
        })
    }
}

fn is_npz(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("npz"))
}

/// Fails before any work where results could not be written.
fn check_places(args: &RunArgs, n_outputs: usize) -> Result<()> {
    if let Some(path) = &args.dump_layers {
        inputs::check_place(path, &["npz"])?;
    }
    let Some(path) = &args.outputs else {
        return Ok(());
    };
    inputs::check_place(path, &["npy", "npz"])?;
    if n_outputs != 1 && !is_npz(path) {
        bail!(
            "{}: the model has {n_outputs} outputs: give a .npz",
            path.display()
        );
    }
    Ok(())
}

/// Warns of inputs that were left out; a sequence cannot lack one.
fn check_skipped(args: &RunArgs, source: &dyn SampleSource) -> Result<()> {
    if let Some(first) = source.skipped().first().filter(|_| args.sequence) {
        bail!("{}: no step of a sequence can be left out", first.message);
    }
    samples::warn_skipped(source.skipped(), source.n_samples());
    Ok(())
}

fn write_outputs(path: &Path, names: &[&str], outputs: &[Vec<ArrayD<f32>>]) -> Result<()> {
    if !is_npz(path) {
        let only = outputs
            .first()
            .map_or(Ok(ArrayD::zeros(IxDyn(&[0]))), |all| joined(all));
        return Ok(write_npy_f32(path, &only?)?);
    }
    let mut npz = NpzWriter::create(path)?;
    for (name, all) in names.iter().zip(outputs) {
        npz.f32(name, &joined(all)?)?;
    }
    Ok(npz.finish()?)
}

/// Returns batches as one array.
fn joined(outputs: &[ArrayD<f32>]) -> Result<ArrayD<f32>> {
    let views: Vec<_> = outputs.iter().map(|x| x.view()).collect();
    if views.is_empty() {
        return Ok(ArrayD::zeros(IxDyn(&[0])));
    }
    Ok(ndarray::concatenate(Axis(0), &views)?)
}

#[expect(clippy::cast_precision_loss, reason = "a time for people")]
fn report(
    format: Format,
    model: &QuantizedModel,
    counters: &[Counters],
    (total, seconds): (usize, f64),
) {
    let milliseconds = 1000.0 * seconds / (total.max(1) as f64);
    if format == Format::Json {
        crate::outln!("{:#}", to_json(model, counters, total, milliseconds));
        return;
    }
    for line in inputs::overflow_lines(model, counters) {
        crate::outln!("overflow: {line}");
    }
    crate::outln!("{total} items, {milliseconds:.3} ms an item");
}

fn to_json(
    model: &QuantizedModel,
    counters: &[Counters],
    total: usize,
    milliseconds: f64,
) -> Value {
    let layers: Vec<Value> = model
        .nodes
        .iter()
        .zip(counters)
        .map(|(node, counters)| {
            let stages: Vec<Value> = counters
                .iter()
                .map(|(stage, count)| {
                    json!({
                        "stage": stage.name(),
                        "elements": count.elements,
                        "saturated": count.saturated,
                        "max_abs": count.max_abs,
                    })
                })
                .collect();
            json!({ "name": node.name, "stages": stages })
        })
        .collect();
    json!({ "items": total, "ms_per_item": milliseconds, "layers": layers })
}
