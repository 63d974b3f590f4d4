//! `bitproof run`.

mod dump;
mod float;

use std::path::Path;

use anyhow::{Result, bail};
use bitproof::calibration::SampleSource;
use bitproof::model_files::{NpzWriter, Spool, write_npy_spooled};
use bitproof::quantizer_core::Counters;
use bitproof::{AnyModel, Executor, ModelMemory, QuantizedModel, Run, check_place, load};
use ndarray::{ArrayD, Axis};
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
    let names = model.outputs.iter();
    let names: Vec<String> = names.map(|i| model.nodes[*i].name.clone()).collect();
    let samples = samples::at(&args.inputs, &args.source)?;
    check_places(args, names.len(), samples.files())?;
    let executor = Executor::new(model);
    let mut source = inputs::open(samples, &inputs::quantized_input(model)?)?;
    let total = source.n_samples();
    let mut meter = Meter::new(total, "items");
    let dump = args.dump_layers.as_deref();
    let mut dump = dump.map(|path| Dump::new(model, path)).transpose()?;
    let mut counters = vec![Counters::default(); model.nodes.len()];
    let outputs = args.outputs.as_deref();
    let mut outputs = outputs.map(|path| Outputs::new(names, path)).transpose()?;
    let mut done = 0;
    let mut steps = Steps::new(args);
    steps.warn_if(model.is_temporal());
    steps.each(source.as_mut(), |batch, memory: &mut ModelMemory| {
        let Run {
            outputs: tensors,
            counters: counts,
        } = match &mut dump {
            None if !args.sequence => executor.outputs(batch)?,
            dump => dumped(&executor, dump.as_mut(), batch, memory)?,
        };
        let all = counters.iter_mut().zip(&counts);
        all.for_each(|(all, batch)| all.merge(batch));
        if let Some(outputs) = &mut outputs {
            for (index, tensor) in tensors.iter().enumerate() {
                outputs.push(index, &tensor.floats())?;
            }
        }
        done += batch.len_of(Axis(0));
        meter.set(done, total);
        Ok(())
    })?;
    let seconds = meter.finish();
    check_skipped(args, source.as_ref())?;
    if let Some(outputs) = outputs {
        outputs.finish()?;
    }
    if let Some(dump) = dump {
        dump.finish()?;
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
    fn warn_if(&self, is_temporal: bool) {
        let forgets = is_temporal && matches!(self, Self::Batches);
        inputs::warn_of_memory(forgets, "without --sequence");
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

/// Fails before any work where results could not be written, or would replace what is read.
fn check_places(args: &RunArgs, n_outputs: usize, inputs: Vec<&Path>) -> Result<()> {
    let (mut reads, model_path) = (inputs, args.model.path());
    reads.push(&model_path);
    if let Some(path) = &args.outputs {
        check_place(path, &["npy", "npz"], &reads)?;
        if n_outputs != 1 && !is_npz(path) {
            bail!(
                "{}: the model has {n_outputs} outputs: give a .npz",
                path.display()
            );
        }
    }
    if let Some(path) = &args.dump_layers {
        reads.extend(args.outputs.as_deref());
        check_place(path, &["npz"], &reads)?;
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

/// Runs a batch and keeps what its layers give.
fn dumped(
    executor: &Executor<'_>,
    mut dump: Option<&mut Dump<'_>>,
    batch: &ArrayD<f32>,
    memory: &mut ModelMemory,
) -> Result<Run> {
    let mut kept = Ok(());
    let run = executor.run_step(batch, memory, &mut |index, tensor| {
        if let (Some(dump), Ok(())) = (&mut dump, &kept) {
            kept = dump.add(index, tensor);
        }
    })?;
    kept?;
    Ok(run)
}

/// Float tensors by name, batch after batch, on disk.
struct Outputs<'p> {
    names: Vec<String>,
    path: &'p Path,
    spool: Spool,
}

impl<'p> Outputs<'p> {
    fn new(names: Vec<String>, path: &'p Path) -> Result<Self> {
        let spool = Spool::new(path, names.len())?;
        Ok(Self { names, path, spool })
    }

    fn push(&mut self, index: usize, batch: &ArrayD<f32>) -> Result<()> {
        Ok(self.spool.push_f32(index, batch)?)
    }

    /// Writes the file.
    fn finish(mut self) -> Result<()> {
        if !is_npz(self.path) {
            return Ok(write_npy_spooled(self.path, &mut self.spool, 0)?);
        }
        let mut npz = NpzWriter::create(self.path)?;
        for (place, name) in self.names.iter().enumerate() {
            npz.spooled(name, &mut self.spool, place)?;
        }
        Ok(npz.finish()?)
    }
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
