//! `bitproof verify`.

use std::path::PathBuf;

use anyhow::Result;
use bitproof::model_files::write_npy_f32;
use bitproof::verify::{
    Comparison, Differences, Element, InputOrder, LayerDifference, Number, Shrunk, Verification,
    VerifyOptions, comparable, findings, shrink,
};
use bitproof::{AnyModel, load};
use clap::Args;
use comfy_table::{Table, presets};
use ndarray::Axis;
use serde_json::{Value, json};

use crate::args::{CheckFormat, CheckFormatArgs, SourceArgs};
use crate::progress::Meter;
use crate::{Answer, inputs, samples};

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The first model: float or quantized
    #[arg(value_name = "A")]
    a: PathBuf,
    /// The second model
    #[arg(value_name = "B")]
    b: PathBuf,
    /// Inputs: .npy or .npz, `[batch, ...]`, a raw file, a folder or a quoted pattern of images
    #[arg(long, value_name = "PLACE")]
    inputs: PathBuf,
    #[command(flatten)]
    source: SourceArgs,
    /// How far real values may be apart, as a share of the layer's largest magnitude for the same
    /// input, such as 0.02; integers are compared exactly
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    tolerance: f32,
    /// Inputs are steps of one sequence: temporal layers remember the earlier ones
    #[arg(long)]
    sequence: bool,
    /// Look for the smallest input that still shows the first difference
    #[arg(long)]
    shrink: bool,
    /// Runs of both models to spend on --shrink
    #[arg(long, value_name = "N", default_value_t = 2000, requires = "shrink")]
    shrink_runs: usize,
    /// Where to write the smallest input, .npy
    #[arg(long, value_name = "FILE", requires = "shrink")]
    witness: Option<PathBuf>,
    #[command(flatten)]
    format: CheckFormatArgs,
}

/// Compares two models layer by layer.
pub(super) fn run(args: &VerifyArgs) -> Result<Answer> {
    if let Some(path) = &args.witness {
        bitproof::check_place(path, &["npy"], &[&args.a, &args.b, &args.inputs])?;
    }
    let (a, b) = comparable(load(&args.a)?, load(&args.b)?)?;
    let order = if args.sequence {
        InputOrder::Sequence
    } else {
        warn_temporal(&[&a, &b]);
        InputOrder::Single
    };
    let options = VerifyOptions {
        tolerance: args.tolerance,
        order,
    };
    let mut verification = Verification::new(&a, &b, options)?;
    let shape = match &a {
        AnyModel::Float(graph) => inputs::float_input(graph)?,
        AnyModel::Quantized(model) => inputs::quantized_input(model)?,
    };
    let mut source = inputs::open(samples::at(&args.inputs, &args.source)?, &shape)?;
    let total = source.n_samples();
    let mut meter = Meter::new(total, "inputs");
    let mut done = 0;
    inputs::each_batch(source.as_mut(), |batch, _| {
        verification.add(batch)?;
        done += batch.len_of(Axis(0));
        meter.set(done, total);
        Ok(())
    })?;
    meter.finish();
    if let Some(first) = source.skipped().first().filter(|_| args.sequence) {
        anyhow::bail!("{}: no step of a sequence can be left out", first.message);
    }
    samples::warn_skipped(source.skipped(), total);
    let found = verification.finish();
    if found.n_items == 0 {
        anyhow::bail!("{}: there are no inputs", args.inputs.display());
    }
    let small = match found.witness.as_ref().filter(|_| args.shrink) {
        Some(witness) => Some(shrink(&a, &b, options, witness, args.shrink_runs)?),
        None => None,
    };
    if let (Some(path), Some(small)) = (&args.witness, &small) {
        write_npy_f32(path, &small.input)?;
    }
    print(args, &found, small.as_ref());
    Ok(if found.is_equal() {
        Answer::Yes
    } else {
        Answer::No
    })
}

fn warn_temporal(models: &[&AnyModel]) {
    let is_temporal = |model: &&AnyModel| match model {
        AnyModel::Float(graph) => inputs::is_temporal(graph),
        AnyModel::Quantized(model) => model.is_temporal(),
    };
    let is_temporal = models.iter().any(is_temporal);
    inputs::warn_of_memory(is_temporal, "without --sequence");
}

fn print(args: &VerifyArgs, found: &Differences, small: Option<&Shrunk>) {
    let names = [&args.a, &args.b].map(|path| path.display().to_string());
    match args.format.format {
        CheckFormat::Text => print_text(args, found, small),
        CheckFormat::Json => crate::outln!("{:#}", to_json(args, found, small)),
        CheckFormat::Sarif => {
            let findings = findings(&names[0], &names[1], found);
            crate::outln!("{:#}", findings.to_sarif());
        }
        CheckFormat::Junit => {
            let junit = findings(&names[0], &names[1], found).to_junit();
            crate::outln!("{}", junit.trim_end());
        }
    }
}

fn print_text(args: &VerifyArgs, found: &Differences, small: Option<&Shrunk>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "layer",
        "compared",
        "differing",
        "largest difference",
        "note",
    ]);
    for layer in &found.layers {
        table.add_row([
            layer.name.clone(),
            comparison(layer.comparison).to_owned(),
            format!("{} of {}", layer.n_differing, layer.n_elements),
            if layer.n_differing == 0 {
                "-".to_owned()
            } else {
                layer.largest.to_string()
            },
            note(layer),
        ]);
    }
    crate::outln!("{table}\n");
    for (names, which) in [(&found.only_a, "A"), (&found.only_b, "B")] {
        if !names.is_empty() {
            crate::outln!("only in {which}: {}", names.join(", "));
        }
    }
    let n = found.n_items;
    match found.first() {
        Some(first) => {
            let Element { index, a, b } = &first.element;
            let layer = &first.layer;
            crate::outln!("DIFFERENT: first at `{layer}` {index:?}: {a} in A, {b} in B");
        }
        None if found.is_equal() => crate::outln!("EQUAL on {n} inputs"),
        None => crate::outln!("DIFFERENT: the numbers are equal on {n} inputs, the form is not"),
    }
    if let Some(small) = small {
        print_shrunk(args, small);
    }
}

fn print_shrunk(args: &VerifyArgs, small: &Shrunk) {
    let Element { index, a, b } = &small.element;
    let patch = small.patch.map_or_else(String::new, |[rows, columns]| {
        format!(
            " in rows {} to {}, columns {} to {}",
            rows[0], rows[1], columns[0], columns[1]
        )
    });
    crate::outln!(
        "smallest input: {:?}, {} element(s) not 0{patch}; {index:?}: {a} in A, {b} in B",
        small.input.shape(),
        small.n_nonzero
    );
    if !small.is_minimal {
        crate::outln!(
            "it may not be the smallest: {} runs were spent (--shrink-runs)",
            small.n_runs
        );
    }
    if let Some(path) = &args.witness {
        crate::outln!("written to {}", path.display());
    }
}

const fn comparison(comparison: Comparison) -> &'static str {
    match comparison {
        Comparison::Integers => "integers",
        Comparison::Values => "values",
        Comparison::None => "none",
    }
}

fn note(layer: &LayerDifference) -> String {
    let mut notes = layer.formats.clone();
    if layer.other_constants {
        notes.push("other weights, biases or shifts".to_owned());
    }
    notes.join("; ")
}

fn number(number: Number) -> Value {
    match number {
        Number::Integer(v) => json!(v),
        // Null for what is no number.
        Number::Real(v) => json!(v),
    }
}

fn element(element: &Element) -> Value {
    json!({ "index": element.index, "a": number(element.a), "b": number(element.b) })
}

fn to_json(args: &VerifyArgs, found: &Differences, small: Option<&Shrunk>) -> Value {
    let layers = found.layers.iter().map(|layer| {
        json!({
            "name": layer.name,
            "class_names": layer.class_names,
            "comparison": comparison(layer.comparison),
            "elements": layer.n_elements,
            "differing": layer.n_differing,
            "largest_difference": layer.largest,
            "first": layer.first.as_ref().map(element),
            "formats": layer.formats,
            "other_constants": layer.other_constants,
        })
    });
    let first = found.first().map(|first| {
        let mut value = element(&first.element);
        value["layer"] = json!(first.layer);
        value
    });
    let verdict = if found.is_equal() {
        "equal"
    } else {
        "different"
    };
    let mut result = json!({
        "verdict": verdict,
        "inputs": found.n_items,
        "tolerance": args.tolerance,
        "first": first,
        "layers": layers.collect::<Vec<Value>>(),
        "only_in_a": found.only_a,
        "only_in_b": found.only_b,
    });
    if let Some(small) = small {
        let mut value = element(&small.element);
        value["layer"] = json!(small.layer);
        value["shape"] = json!(small.input.shape());
        value["nonzero"] = json!(small.n_nonzero);
        value["rows"] = json!(small.patch.map(|[rows, _]| rows));
        value["columns"] = json!(small.patch.map(|[_, columns]| columns));
        value["is_minimal"] = json!(small.is_minimal);
        value["runs"] = json!(small.n_runs);
        let path = args.witness.as_ref();
        value["output"] = json!(path.map(|path| path.display().to_string()));
        result["shrunk"] = value;
    }
    result
}
