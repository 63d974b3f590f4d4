//! `bitproof run`.

use std::path::Path;

use anyhow::Result;
use bitproof::model_files::{NpzWriter, write_npy_f32};
use bitproof::quantizer_core::{Counters, PerAxis, QFormat};
use bitproof::{Executor, QuantizedModel, Tensor, load_quantized};
use ndarray::{ArrayD, Axis, IxDyn};
use serde_json::{Value, json};

use crate::args::{Format, RunArgs};
use crate::progress::Meter;
use crate::{inputs, samples};

/// Runs a quantized model on inputs.
pub(super) fn run(args: &RunArgs) -> Result<()> {
    let model = load_quantized(&args.model.path())?;
    let executor = Executor::new(&model);
    let samples = samples::at(&args.inputs, &args.source)?;
    let mut source = inputs::open(samples, &inputs::quantized_input(&model)?)?;
    let total = source.n_samples();
    let mut meter = Meter::new(total, "items");
    let mut dump = args.dump_layers.is_some().then(|| Dump::new(&model));
    let mut counters = vec![Counters::default(); model.nodes.len()];
    let mut outputs: Vec<ArrayD<f32>> = Vec::new();
    let mut done = 0;
    inputs::each_batch(source.as_mut(), |batch, _| {
        let run = executor.run(batch, &mut |index, tensor| {
            if let Some(dump) = &mut dump {
                dump.add(index, tensor);
            }
        })?;
        counters
            .iter_mut()
            .zip(&run.counters)
            .for_each(|(all, batch)| all.merge(batch));
        if args.outputs.is_some() {
            outputs.push(inputs::first_output(&run.outputs)?);
        }
        done += batch.len_of(Axis(0));
        meter.set(done, total);
        Ok(())
    })?;
    let seconds = meter.finish();
    samples::warn_skipped(source.skipped(), total);
    if let Some(path) = &args.outputs {
        write_npy_f32(path, &joined(&outputs)?)?;
    }
    if let (Some(dump), Some(path)) = (&dump, &args.dump_layers) {
        dump.write(path)?;
    }
    report(args.format.format, &model, &counters, (done, seconds));
    Ok(())
}

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
        println!("{:#}", to_json(model, counters, total, milliseconds));
        return;
    }
    for line in inputs::overflow_lines(model, counters) {
        println!("overflow: {line}");
    }
    println!("{total} items, {milliseconds:.3} ms an item");
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

/// Every layer's outputs, batch after batch.
struct Dump<'m> {
    model: &'m QuantizedModel,
    integers: Vec<Vec<ArrayD<i64>>>,
    floats: Vec<Vec<ArrayD<f32>>>,
}

impl<'m> Dump<'m> {
    fn new(model: &'m QuantizedModel) -> Self {
        let n_nodes = model.nodes.len();
        Self {
            model,
            integers: vec![Vec::new(); n_nodes],
            floats: vec![Vec::new(); n_nodes],
        }
    }

    fn add(&mut self, index: usize, tensor: &Tensor) {
        match tensor.integers() {
            Some(integers) => self.integers[index].push(integers),
            None => self.floats[index].push(tensor.floats()),
        }
    }

    fn write(&self, path: &Path) -> Result<()> {
        let mut npz = NpzWriter::create(path)?;
        for (i, node) in self.model.nodes.iter().enumerate() {
            if !self.floats[i].is_empty() {
                npz.f32(&format!("{}/float", node.name), &joined(&self.floats[i])?)?;
                continue;
            }
            let views: Vec<_> = self.integers[i].iter().map(|x| x.view()).collect();
            if views.is_empty() {
                continue;
            }
            let values = ndarray::concatenate(Axis(0), &views)?;
            if node.inputs.is_empty() {
                npz.integers(&format!("{}/raw", node.name), &values)?;
                continue;
            }
            npz.integers(&format!("{}/values", node.name), &values)?;
            if let Some(format) = node.format() {
                write_format(&mut npz, &node.name, &format)?;
            }
        }
        Ok(npz.finish()?)
    }
}

fn write_format(npz: &mut NpzWriter, layer: &str, format: &QFormat) -> Result<()> {
    let bits = ArrayD::from_elem(IxDyn(&[]), i64::from(format.value_bits.bits()));
    npz.integers(&format!("{layer}/value_bits"), &bits)?;
    npz.integers(
        &format!("{layer}/frac_bits"),
        &array(&format.frac_bits.map(i64::from)),
    )?;
    if let Some(scales) = &format.scales {
        npz.f32(&format!("{layer}/scales"), &array(scales))?;
    }
    Ok(())
}

/// Returns a scalar array, or one entry a channel.
fn array<T: Copy>(values: &PerAxis<T>) -> ArrayD<T> {
    match values {
        PerAxis::Tensor(value) => ArrayD::from_elem(IxDyn(&[]), *value),
        PerAxis::Axis(values) => ndarray::Array1::from_vec(values.clone()).into_dyn(),
    }
}
