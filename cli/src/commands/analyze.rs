//! `bitproof analyze`.

mod print;

use std::path::PathBuf;

use anyhow::{Context, Result};
use bitproof::analyze::{
    Analysis, Deviation, Edit, ModelDeviation, OutputError, Requantizer, ranked_by_deviation,
};
use bitproof::float_model::Graph;
use bitproof::{
    Error, QuantizeOptions, QuantizedModel, SampleRole, counterpart, load_float, load_quantized,
};
use clap::Args;
use ndarray::Axis;

use super::eval::{Data, evaluate, share};
use crate::args::{Format, FormatArgs, ModelArgs, SampleArgs, SourceArgs};
use crate::progress::Meter;
use crate::{inputs, samples};

#[derive(Debug, Args)]
pub(crate) struct AnalyzeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The float model that MODEL was made from
    #[arg(long, value_name = "MODEL")]
    float: PathBuf,
    #[command(flatten)]
    samples: SampleArgs,
    /// Labelled data, as `eval --data` takes it: each edit is told with its accuracy
    #[arg(long, value_name = "PLACE")]
    data: Option<PathBuf>,
    /// Edits to try, of the layers that lose most on their own
    #[arg(long, value_name = "N", default_value_t = 24)]
    tries: usize,
    /// Samples on which each edit is measured; they stay in memory
    #[arg(long, value_name = "N", default_value_t = 256)]
    try_samples: usize,
    /// Widest quantizer that is tried
    #[arg(long, value_name = "BITS", default_value_t = 16)]
    max_bits: u8,
    #[command(flatten)]
    format: FormatArgs,
}

/// What one edit gives.
struct Tried {
    edit: Edit,
    /// The outputs' deviation and the accuracy, or why there is none.
    result: Result<(Deviation, Option<f64>), String>,
}

/// What the tries found.
struct Tries {
    /// Samples on which edits were measured.
    n_samples: usize,
    /// Edits that there are.
    n_edits: usize,
    /// Whether the model quantized again is the given one.
    is_same: bool,
    /// The outputs' deviation and the accuracy without an edit.
    baseline: (Deviation, Option<f64>),
    tried: Vec<Tried>,
}

/// Measures what quantization costs in each layer, and tries what would help.
pub(super) fn run(args: &AnalyzeArgs) -> Result<()> {
    let model = load_quantized(&args.model.path())?;
    let original = load_float(&args.float)?;
    let graph = counterpart(&original, &model)?;
    let place = args.samples.samples.as_ref();
    place.context("give --samples: the inputs on which layers are compared")?;
    let data = args.data.as_deref();
    let data = data.map(|path| {
        Data::at(
            path,
            &SourceArgs {
                samples_key: None,
                ..args.samples.source.clone()
            },
        )
    });
    let data = data.transpose()?;
    let deviation = measure(args, &model, &graph)?;
    let tries = match requantizer(args, &model, original) {
        Ok(again) => Ok(tries(args, &again, &graph, (&deviation, data.as_ref()))?),
        Err(error) => Err(error.to_string()),
    };
    match args.format.format {
        Format::Text => print::text(&deviation, tries.as_ref()),
        Format::Json => crate::outln!("{:#}", print::json(&deviation, tries.as_ref())),
    }
    Ok(())
}

/// Runs every sample through both networks.
fn measure(args: &AnalyzeArgs, model: &QuantizedModel, graph: &Graph) -> Result<ModelDeviation> {
    let samples = super::quantize::samples(&args.samples)?;
    let mut source = samples.open(&inputs::quantized_input(model)?, SampleRole::Calibration)?;
    let wanted = args.samples.num_samples.unwrap_or(usize::MAX);
    let total = source.n_samples().min(wanted);
    let mut meter = Meter::new(total, "samples");
    let mut analysis = Analysis::new(model, graph)?;
    let mut done = 0;
    while done < total {
        let batch = source.next_batch(inputs::BATCH_SIZE.min(total - done))?;
        let n = batch.shape().first().map_or(0, |_| batch.len_of(Axis(0)));
        if n == 0 {
            break;
        }
        analysis.add(&batch)?;
        done += n;
        meter.set(done, total);
    }
    meter.finish();
    samples::warn_skipped(source.skipped(), source.n_samples());
    Ok(analysis.finish())
}

fn requantizer(args: &AnalyzeArgs, model: &QuantizedModel, graph: Graph) -> Result<Requantizer> {
    let settings = QuantizeOptions {
        num_samples: args.samples.num_samples,
        batch_size: args.samples.batch_size,
        epochs: args.samples.epochs,
        seed: args.samples.seed.unwrap_or(0),
        observer: args.samples.observer.parse()?,
        ..QuantizeOptions::default()
    };
    let samples = super::quantize::samples(&args.samples)?;
    let mut meter = Meter::new(0, samples::unit(&samples));
    let again = Requantizer::new(model, graph, samples, &settings, &mut |p| {
        meter.set(p.done, p.total);
    });
    meter.finish();
    Ok(again?)
}

/// Tries the edits of the layers that lose most.
fn tries(
    args: &AnalyzeArgs,
    again: &Requantizer,
    graph: &Graph,
    (deviation, data): (&ModelDeviation, Option<&Data>),
) -> Result<Tries> {
    let samples = super::quantize::samples(&args.samples)?;
    let mut source = samples.open(
        &inputs::quantized_input(again.baseline())?,
        SampleRole::Calibration,
    )?;
    let wanted = args.samples.num_samples.unwrap_or(usize::MAX);
    let outputs = OutputError::new(graph, source.as_mut(), args.try_samples.min(wanted))?;
    let score = |model: &QuantizedModel| -> Result<(Deviation, Option<f64>)> {
        let accuracy = match data {
            Some(data) => {
                let scores = evaluate(Some(model), None, data, Format::Json)?;
                Some(share(scores.quantized_right, scores.n_items))
            }
            None => None,
        };
        Ok((outputs.of(model)?, accuracy))
    };
    let baseline = score(again.baseline())?;
    let edits = ranked_by_deviation(again.edits(args.max_bits), deviation);
    let n_edits = edits.len();
    let n_tries = n_edits.min(args.tries);
    let mut meter = Meter::new(n_tries, "edits");
    let mut tried = Vec::with_capacity(n_tries);
    for (i, edit) in edits.into_iter().take(n_tries).enumerate() {
        let result = match again.with(&edit) {
            Ok(model) => Ok(score(&model)?),
            Err(error) => Err(refusal(&error)),
        };
        tried.push(Tried { edit, result });
        meter.set(i + 1, n_tries);
    }
    meter.finish();
    Ok(Tries {
        n_samples: outputs.n_samples(),
        n_edits,
        is_same: again.is_same(),
        baseline,
        tried,
    })
}

/// Returns an error in one line.
fn refusal(error: &Error) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.join(" ")
}
