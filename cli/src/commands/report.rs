//! `bitproof report`.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bitproof::akida_sim::prove::{Proof, SearchBudget, prove, with_buffer_bits};
use bitproof::findings::Findings;
use bitproof::model_files::write_file;
use bitproof::{Graph, QuantizedModel, Samples, check_place, load_float, load_quantized};
use clap::Args;
use ndarray::{ArrayD, Axis};
use report::{Accuracy, Facts, FileFact, Measured, Measurement, QuantizeLog, Report};
use serde_json::json;

use super::check::by_target;
use super::eval::{Data, classify};
use super::quantize::{digest, samples_digest};
use crate::args::{Format, FormatArgs, ModelArgs, SourceArgs};
use crate::progress::Meter;
use crate::{inputs, samples};

/// Inputs that are observed when no number is asked for.
const N_OBSERVED: usize = 100;

/// Log files are not larger than this.
const LARGEST_LOG: u64 = 1 << 26;

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Where to write the page, .html
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
    /// The float model it was made from: weights and outputs before and after
    #[arg(long, value_name = "MODEL")]
    float: Option<PathBuf>,
    /// Inputs to observe ranges and outputs on: .npy, .npz, images [default: those of --data]
    #[arg(long, value_name = "PLACE")]
    samples: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
    /// Inputs that are observed, at most [default: 100]
    #[arg(long, value_name = "N")]
    num_samples: Option<NonZeroUsize>,
    /// Labelled data, as `eval --data` takes it: accuracy and confusion
    #[arg(long, value_name = "PLACE")]
    data: Option<PathBuf>,
    /// What `quantize --format json` printed: where each value of the configuration comes from
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Prove as if every buffer of the hardware had N bits
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=48))]
    buffer_bits: Option<u8>,
    /// Seed of the search for inputs that overflow
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    format: FormatArgs,
}

/// Everything that is read and computed for a page.
struct Gathered {
    model: QuantizedModel,
    float: Option<Graph>,
    proof: Proof,
    measured: Option<Measured>,
    accuracy: Option<Accuracy>,
    log: Option<QuantizeLog>,
    checks: Vec<Findings>,
    facts: Facts,
}

/// Writes the page of a quantized model.
pub(super) fn run(args: &ReportArgs) -> Result<()> {
    let model = args.model.path();
    let reads = [&args.float, &args.samples, &args.data, &args.log].into_iter();
    let reads: Vec<&Path> = reads
        .filter_map(Option::as_deref)
        .chain([&*model])
        .collect();
    check_place(&args.out, &["html", "htm"], &reads)?;
    let gathered = gather(args)?;
    let page = report::page(&Report {
        model: &gathered.model,
        proof: &gathered.proof,
        float: gathered.float.as_ref(),
        measured: gathered.measured.as_ref(),
        accuracy: gathered.accuracy.as_ref(),
        log: gathered.log.as_ref(),
        checks: &gathered.checks,
        facts: &gathered.facts,
    });
    write_file(&args.out, page.as_bytes())?;
    let output = args.out.display().to_string();
    match args.format.format {
        Format::Text => crate::outln!("written to {output}"),
        Format::Json => crate::outln!("{:#}", json!({ "output": output, "bytes": page.len() })),
    }
    Ok(())
}

fn gather(args: &ReportArgs) -> Result<Gathered> {
    let path = args.model.path();
    let mut model = load_quantized(&path)?;
    if let Some(bits) = args.buffer_bits {
        model = with_buffer_bits(&model, bits)?;
    }
    let mut facts = facts(args, &path)?;
    let log = args.log.as_deref().map(read_log).transpose()?;
    if let (Some(log), Some(file)) = (&log, facts.files.first())
        && log.output_sha256 != file.sha256
    {
        bail!(
            "{}: the log of another model: its output had the SHA-256 {}",
            args.log.as_deref().unwrap_or(&path).display(),
            log.output_sha256
        );
    }
    let original = args.float.as_deref().map(load_float).transpose()?;
    let float = match &original {
        Some(graph) => Some(report::counterpart(graph, &model)?),
        None => None,
    };
    let data = match &args.data {
        Some(place) => Some(Data::at(place, &args.source)?),
        None => None,
    };
    let inputs = match (&args.samples, &data) {
        (Some(place), _) => Some(samples::at(place, &args.source)?),
        (None, Some(data)) => Some(data.images.clone()),
        (None, None) => {
            let what = "a report without --samples and --data";
            samples::refuse_all(what, &args.source)?;
            if args.num_samples.is_some() {
                bail!("--num-samples is not for {what}");
            }
            None
        }
    };
    if let (Some(inputs), Some(_)) = (&inputs, &args.samples)
        && let Some(sha256) = samples_digest(inputs)?
    {
        facts
            .files
            .push(fact("samples", args.samples.as_deref(), sha256));
    }
    let n_observed = args.num_samples.map_or(N_OBSERVED, NonZeroUsize::get);
    let batch = match inputs {
        Some(inputs) => Some(first_items(inputs, &model, n_observed)?),
        None => None,
    };
    let measured = match &batch {
        Some(batch) => Some(measure(&model, float.as_ref(), batch)?),
        None => None,
    };
    let proof = proved(&model, batch.as_ref(), args.seed)?;
    let accuracy = match &data {
        Some(data) => Some(accuracy(&model, original.as_ref(), data)?),
        None => None,
    };
    let checks = by_target(&model, &facts.title)?;
    Ok(Gathered {
        checks,
        model,
        float,
        proof,
        measured,
        accuracy,
        log,
        facts,
    })
}

fn facts(args: &ReportArgs, path: &Path) -> Result<Facts> {
    let mut files = vec![fact("model", Some(path), digest(path)?)];
    if let Some(path) = &args.float {
        files.push(fact("float model", Some(path), digest(path)?));
    }
    if let Some(path) = args.data.as_deref().filter(|path| path.is_file()) {
        files.push(fact("labelled data", Some(path), digest(path)?));
    }
    if let Some(path) = &args.log {
        files.push(fact("log", Some(path), digest(path)?));
    }
    let words = std::env::args_os()
        .skip(1)
        .map(|word| quoted(&word.to_string_lossy()));
    let command = std::iter::once("bitproof".to_owned())
        .chain(words)
        .collect::<Vec<_>>()
        .join(" ");
    let title = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Ok(Facts {
        title,
        command,
        files,
    })
}

fn fact(role: &str, path: Option<&Path>, sha256: String) -> FileFact {
    let path = path.map_or_else(String::new, |path| path.display().to_string());
    FileFact {
        role: role.to_owned(),
        path,
        sha256,
    }
}

/// Returns a word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn read_log(path: &Path) -> Result<QuantizeLog> {
    let place = || path.display().to_string();
    let size = fs::metadata(path).with_context(place)?.len();
    if size > LARGEST_LOG {
        bail!("{}: {size} bytes are no log", path.display());
    }
    let text = fs::read_to_string(path).with_context(place)?;
    QuantizeLog::parse(&text).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))
}

/// Returns the first inputs, `[batch, ...]`.
fn first_items(samples: Samples, model: &QuantizedModel, n: usize) -> Result<ArrayD<f32>> {
    let mut source = inputs::open(samples, &inputs::quantized_input(model)?)?;
    let batch = source.next_batch(n)?;
    samples::warn_skipped(source.skipped(), source.n_samples());
    if batch.shape().first().copied().unwrap_or(0) == 0 {
        bail!("there is no sample that can be used");
    }
    Ok(batch)
}

fn measure(
    model: &QuantizedModel,
    float: Option<&Graph>,
    inputs: &ArrayD<f32>,
) -> Result<Measured> {
    let total = inputs.len_of(Axis(0));
    let mut meter = Meter::new(total, "samples");
    inputs::warn_of_memory(model.is_temporal(), "here");
    let mut measurement = Measurement::new(model, float);
    let mut done = 0;
    for batch in inputs.axis_chunks_iter(Axis(0), inputs::BATCH_SIZE) {
        measurement.add(&batch.to_owned())?;
        done += batch.len_of(Axis(0));
        meter.set(done, total);
    }
    meter.finish();
    Ok(measurement.finish())
}

fn proved(model: &QuantizedModel, samples: Option<&ArrayD<f32>>, seed: u64) -> Result<Proof> {
    let mut meter = Meter::new(0, "intermediates");
    let budget = SearchBudget::for_model(model, seed);
    let proof = prove(model, samples, budget, &mut |done, total| {
        meter.set(done, total);
    });
    meter.finish();
    Ok(proof?)
}

fn accuracy(model: &QuantizedModel, float: Option<&Graph>, data: &Data) -> Result<Accuracy> {
    let mut accuracy = Accuracy::default();
    let models = (Some(model), float);
    // The page is the result: no speed is printed.
    classify(models, data, Format::Json, |labels, integer, real| {
        accuracy.add(labels, integer.unwrap_or_default(), real);
    })?;
    Ok(accuracy)
}
