//! `bitproof run`.

mod dump;

use std::path::Path;

use anyhow::{Result, bail};
use bitproof::calibration::SampleSource;
use bitproof::model_files::{NpzWriter, Spool, write_npy_spooled};
use bitproof::quantizer_core::Counters;
use bitproof::{Executor, ModelMemory, QuantizedModel, Run, Tensor, check_place, load_quantized};
use ndarray::{ArrayD, Axis};
use serde_json::{Value, json};

use crate::args::{Format, RunArgs};
use crate::progress::Meter;
use crate::{inputs, samples};
use dump::Dump;

/// Runs a quantized model on inputs.
pub(super) fn run(args: &RunArgs) -> Result<()> {
    let model_path = args.model.path();
    let model = load_quantized(&model_path)?;
    let samples = samples::at(&args.inputs, &args.source)?;
    let mut reads = samples.files();
    reads.push(&model_path);
    check_outputs(args.outputs.as_deref(), &model, &reads)?;
    if let Some(path) = &args.dump_layers {
        reads.extend(args.outputs.as_deref());
        check_place(path, &["npz"], &reads)?;
    }
    let executor = Executor::new(&model);
    let mut source = inputs::open(samples, &inputs::quantized_input(&model)?)?;
    let total = source.n_samples();
    let mut meter = Meter::new(total, "items");
    let dump = args.dump_layers.as_deref();
    let mut dump = dump.map(|path| Dump::new(&model, path)).transpose()?;
    let mut counters = vec![Counters::default(); model.nodes.len()];
    let outputs = args.outputs.as_deref();
    let mut outputs = outputs.map(|path| Outputs::new(&model, path)).transpose()?;
    let mut done = 0;
    let mut steps = Steps::new(args, &model);
    steps.each(source.as_mut(), |batch, memory| {
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
            outputs.add(&tensors)?;
        }
        done += batch.len_of(Axis(0));
        meter.set(done, total);
        Ok(())
    })?;
    let seconds = meter.finish();
    if let Some(first) = source.skipped().first().filter(|_| args.sequence) {
        bail!("{}: no step of a sequence can be left out", first.message);
    }
    samples::warn_skipped(source.skipped(), total);
    if let Some(outputs) = outputs {
        outputs.finish()?;
    }
    if let Some(dump) = dump {
        dump.finish()?;
    }
    report(args.format.format, &model, &counters, (done, seconds));
    Ok(())
}

/// How inputs pass: in batches of their own, or one after another as a sequence.
enum Steps {
    Batches,
    Sequence { reset_every: Option<usize> },
}

impl Steps {
    fn new(args: &RunArgs, model: &QuantizedModel) -> Self {
        if args.sequence {
            let reset_every = args.reset_every.map(usize::from);
            return Self::Sequence { reset_every };
        }
        inputs::warn_of_memory(model.is_temporal(), "without --sequence");
        Self::Batches
    }

    /// Runs `f` on all inputs with what temporal layers remember.
    fn each(
        &mut self,
        source: &mut dyn SampleSource,
        mut f: impl FnMut(&ArrayD<f32>, &mut ModelMemory) -> Result<()>,
    ) -> Result<()> {
        let Self::Sequence { reset_every } = self else {
            return inputs::each_batch(source, |batch, _| f(batch, &mut ModelMemory::default()));
        };
        let mut memory = ModelMemory::default();
        let mut n_steps = 0_usize;
        inputs::each_batch(source, |batch, _| {
            for step in batch.axis_chunks_iter(Axis(0), 1) {
                if reset_every.is_some_and(|n| n_steps.checked_rem(n) == Some(0)) {
                    memory = ModelMemory::default();
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

/// Fails before any work where the outputs could not be written.
fn check_outputs(path: Option<&Path>, model: &QuantizedModel, reads: &[&Path]) -> Result<()> {
    if let Some(path) = path {
        check_place(path, &["npy", "npz"], reads)?;
    }
    let n_outputs = model.outputs.len();
    match path {
        Some(path) if n_outputs != 1 && !is_npz(path) => bail!(
            "{}: the model has {n_outputs} outputs: give a .npz",
            path.display()
        ),
        _ => Ok(()),
    }
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

/// The model's outputs, batch after batch, on disk.
struct Outputs<'m> {
    model: &'m QuantizedModel,
    path: &'m Path,
    spool: Spool,
}

impl<'m> Outputs<'m> {
    fn new(model: &'m QuantizedModel, path: &'m Path) -> Result<Self> {
        let spool = Spool::new(path, model.outputs.len())?;
        Ok(Self { model, path, spool })
    }

    fn add(&mut self, tensors: &[Tensor]) -> Result<()> {
        for (index, tensor) in tensors.iter().enumerate() {
            self.spool.push_f32(index, &tensor.floats())?;
        }
        Ok(())
    }

    /// Writes the file.
    fn finish(mut self) -> Result<()> {
        if !is_npz(self.path) {
            return Ok(write_npy_spooled(self.path, &mut self.spool, 0)?);
        }
        let mut npz = NpzWriter::create(self.path)?;
        for (place, index) in self.model.outputs.iter().enumerate() {
            npz.spooled(&self.model.nodes[*index].name, &mut self.spool, place)?;
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
