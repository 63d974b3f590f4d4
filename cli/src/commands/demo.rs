//! `bitproof demo`: an embedded network on real digits.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use bitproof::quantizer_core::Stage;
use bitproof::{
    Executor, ParamValues, QuantizationParams, QuantizeOptions, QuantizedModel, Samples,
    load_float, quantize,
};
use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::eval::{Data, Scores, evaluate, share};
use crate::args::{Format, FormatArgs};
use crate::inputs;

/// A network trained by `cli/assets/train_digits.py`.
const MODEL: &[u8] = include_bytes!("../../assets/digits.h5");
/// Digits of the UCI data set (CC BY 4.0), by way of scikit-learn.
const DIGITS: &[u8] = include_bytes!("../../assets/digits.npz");

/// What the demo found at one width.
struct Row {
    bits: u8,
    scores: Scores,
    weight_bytes: u64,
    largest: Option<(String, Stage, u64)>,
    overflows: u64,
    milliseconds: f64,
}

/// Quantizes the embedded network at 8 and at 4 bits and measures it.
pub(super) fn run(args: &FormatArgs) -> Result<()> {
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let (model, digits) = (
        folder.path().join("digits.h5"),
        folder.path().join("digits.npz"),
    );
    fs::write(&model, MODEL)?;
    fs::write(&digits, DIGITS)?;
    let data = Data::from_npz(&digits)?;
    let mut rows = Vec::new();
    for bits in [8, 4] {
        let start = Instant::now();
        let graph = load_float(&model)?;
        let samples = Samples::File {
            path: digits.clone(),
            key: Some("x_train".to_owned()),
        };
        let quantized = quantize(graph.clone(), samples, &options(bits)?, &mut |_| ())?;
        let scores = evaluate(Some(&quantized.model), Some(&graph), &data, Format::Json)?;
        let milliseconds = 1000.0 * start.elapsed().as_secs_f64();
        rows.push(measure(
            bits,
            &quantized.model,
            &digits,
            (scores, milliseconds),
        )?);
    }
    match args.format {
        Format::Text => print_table(&rows),
        Format::Json => crate::outln!("{:#}", to_json(&rows)),
    }
    Ok(())
}

fn options(bits: u8) -> Result<QuantizeOptions> {
    let params = QuantizationParams::try_from(ParamValues {
        weight_bits: bits,
        activation_bits: bits,
        per_tensor_activations: bits < 8,
        ..ParamValues::default()
    })?;
    Ok(QuantizeOptions {
        params,
        batch_size: Some(64),
        epochs: 2,
        ..QuantizeOptions::default()
    })
}

fn measure(
    bits: u8,
    model: &QuantizedModel,
    digits: &Path,
    (scores, milliseconds): (Scores, f64),
) -> Result<Row> {
    let executor = Executor::new(model);
    let samples = Samples::File {
        path: digits.to_owned(),
        key: Some("x_test".to_owned()),
    };
    let mut source = inputs::open(samples, &inputs::quantized_input(model)?)?;
    let mut largest: Option<(String, Stage, u64)> = None;
    let mut overflows = 0;
    inputs::each_batch(source.as_mut(), |batch, _| {
        let run = executor.outputs(batch)?;
        for (node, counters) in model.nodes.iter().zip(&run.counters) {
            overflows += counters.overflows();
            let sums = [
                Stage::Accumulator,
                Stage::BiasAdd,
                Stage::DepthwiseAccumulator,
            ];
            for (stage, count) in counters.iter().filter(|(stage, _)| sums.contains(stage)) {
                if largest
                    .as_ref()
                    .is_none_or(|(_, _, max)| count.max_abs > *max)
                {
                    largest = Some((node.name.clone(), stage, count.max_abs));
                }
            }
        }
        Ok(())
    })?;
    let weight_bytes = model.weight_bits().div_ceil(8);
    Ok(Row {
        bits,
        scores,
        weight_bytes,
        largest,
        overflows,
        milliseconds,
    })
}

fn print_table(rows: &[Row]) {
    if let Some(row) = rows.first() {
        let n = row.scores.n_items;
        let accuracy = 100.0 * share(row.scores.float_right, n);
        crate::outln!("Handwritten digits, {n} test images; float accuracy {accuracy:.2} %\n");
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header([
        "bits",
        "accuracy",
        "same as float",
        "weights",
        "largest sum",
        "overflows",
        "quantize + test",
    ]);
    for row in rows {
        let n = row.scores.n_items;
        let largest = row
            .largest
            .as_ref()
            .map_or_else(String::new, |(layer, _, max)| {
                format!("{max} ({} bits, {layer})", 65 - max.leading_zeros())
            });
        table.add_row([
            row.bits.to_string(),
            format!("{:.2} %", 100.0 * share(row.scores.quantized_right, n)),
            format!("{:.2} %", 100.0 * share(row.scores.alike, n)),
            format!("{} B", row.weight_bytes),
            largest,
            row.overflows.to_string(),
            format!("{:.0} ms", row.milliseconds),
        ]);
    }
    crate::outln!("{table}");
    crate::outln!("\nNext: `bitproof quantize --help`.");
}

fn to_json(rows: &[Row]) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let n = row.scores.n_items;
            json!({
                "bits": row.bits,
                "items": n,
                "accuracy": share(row.scores.quantized_right, n),
                "float_accuracy": share(row.scores.float_right, n),
                "agreement": share(row.scores.alike, n),
                "weight_bytes": row.weight_bytes,
                "largest_sum": row.largest.as_ref().map(|(layer, stage, max)| {
                    json!({ "layer": layer, "stage": stage.name(), "max_abs": max })
                }),
                "overflows": row.overflows,
                "milliseconds": row.milliseconds,
            })
        })
        .collect();
    json!({ "rows": rows })
}
