//! `bitproof prove`.

mod smallest;
mod suggest;
mod witness;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use bitproof::akida_sim::prove::{
    Proof, SearchBudget, StageProof, Verdict, prove, with_buffer_bits,
};
use bitproof::akida_sim::{QuantizedModel, QuantizedOp};
use bitproof::findings::{Findings, Level, Outcome, Rule, Status};
use bitproof::{check_place, load_quantized, write_certificate};
use clap::Args;
use comfy_table::{Table, presets};
use serde_json::{Value, json};

use crate::args::{CheckFormat, CheckFormatArgs, ModelArgs, SourceArgs};
use crate::progress::Meter;
use crate::{Answer, inputs, samples};

/// Samples that are searched for witnesses, at most.
const MAX_SAMPLES: usize = 256;

/// Layers in float that are named, at most.
const MOST_NAMED: usize = 8;

/// The only rule of a proof.
const BUFFER_OVERFLOW: &str = "buffer-overflow";

#[derive(Debug, Args)]
pub(crate) struct ProveArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Prove as if every buffer of the hardware had N bits
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=48))]
    buffer_bits: Option<u8>,
    /// Inputs to search for one that overflows: .npy, .npz, images; the first 256 are run
    #[arg(long, value_name = "FILE")]
    samples: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
    /// Write each input that overflows, and each layer input that would, as .npy into this folder
    #[arg(long, value_name = "DIR")]
    witness: Option<PathBuf>,
    /// Write every bound to this .json file, for `verify-certificate`
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Print the smallest buffer of each layer that is proved
    #[arg(long)]
    smallest: bool,
    #[command(flatten)]
    suggest: suggest::SuggestArgs,
    /// Exit with 1 also where an overflow is possible but no input was found
    #[arg(long)]
    strict: bool,
    /// Runs of the network to search each intermediate that may overflow [default: 6 to 24, fewer
    /// for a large network]
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Seed of the search
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    format: CheckFormatArgs,
}

/// Proves that no buffer of a model can overflow, or shows an input that makes one overflow.
pub(super) fn run(args: &ProveArgs) -> Result<Answer> {
    let path = args.model.path();
    if args.smallest && !matches!(args.format.format, CheckFormat::Text | CheckFormat::Json) {
        bail!("--smallest: SARIF and JUnit have no place for it, use --format text or json");
    }
    args.suggest.check(args)?;
    if let Some(file) = &args.certificate {
        check_place(file, &["json"], &[&path])?;
    }
    if let Some(folder) = &args.witness {
        witness::make_folder(folder)?;
    }
    let mut model = load_quantized(&path)?;
    if let Some(bits) = args.buffer_bits {
        model = with_buffer_bits(&model, bits)?;
    }
    let samples = match &args.samples {
        None => {
            if !args.suggest.reads_data() {
                samples::refuse_all("a proof without --samples", &args.source)?;
            }
            None
        }
        Some(path) => {
            let samples = samples::at(path, &args.source)?;
            let mut source = inputs::open(samples, &inputs::quantized_input(&model)?)?;
            Some(source.next_batch(MAX_SAMPLES)?)
        }
    };
    let mut budget = SearchBudget::for_model(&model, args.seed);
    budget.runs = args.runs.unwrap_or(budget.runs);
    let mut meter = Meter::new(0, "intermediates");
    let proof = prove(&model, samples.as_ref(), budget, &mut |done, total| {
        meter.set(done, total);
    })?;
    meter.finish();
    if let Some(folder) = &args.witness {
        witness::write_witnesses(folder, &proof)?;
    }
    if let Some(file) = &args.certificate {
        write_certificate(file, &path, &model, args.buffer_bits)?;
    }
    let suggestions = suggest::suggestions(args, &proof)?;
    match args.format.format {
        CheckFormat::Json => {
            let mut report = to_json(&model, &proof, args)?;
            if let Some(suggestions) = &suggestions {
                report["suggestions"] = suggestions.to_json();
            }
            crate::outln!("{report:#}");
        }
        CheckFormat::Text => {
            print_text(&model, &proof, args)?;
            if let Some(suggestions) = &suggestions {
                suggestions.print();
            }
        }
        CheckFormat::Sarif => crate::outln!("{:#}", findings(&path, &proof, args).to_sarif()),
        CheckFormat::Junit => {
            let junit = findings(&path, &proof, args).to_junit();
            crate::outln!("{}", junit.trim_end());
        }
    }
    let refused = proof.is_refuted() || (args.strict && !proof.is_proved());
    Ok(if refused { Answer::No } else { Answer::Yes })
}

fn print_text(model: &QuantizedModel, proof: &Proof, args: &ProveArgs) -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["layer", "intermediate", "width", "range", "verdict"]);
    for (layer, stage) in proof.stages() {
        let (lo, hi) = span(stage);
        let verdict = verdict_text(stage);
        let width = stage.bounds.value_bits.bits().to_string();
        let stage = stage.bounds.stage.to_string();
        table.add_row([
            layer.name.clone(),
            stage,
            width,
            format!("{lo} .. {hi}"),
            verdict,
        ]);
    }
    crate::outln!("{table}");
    if args.smallest {
        crate::outln!();
        smallest::print(model)?;
    }
    let count = |is: fn(&Verdict) -> bool| proof.stages().filter(|(_, s)| is(&s.verdict)).count();
    let proved = count(|v| matches!(v, Verdict::Proved { .. }));
    let refuted = count(|v| matches!(v, Verdict::Refuted(_)));
    let possible = count(|v| matches!(v, Verdict::Possible { .. }));
    crate::outln!("\n{proved} intermediates proved, {refuted} refuted, {possible} possible");
    crate::outln!("{}", conclusion(model, proof, args));
    Ok(())
}

/// Returns what follows for the model, and what does not.
fn conclusion(model: &QuantizedModel, proof: &Proof, args: &ProveArgs) -> String {
    let mut text = if proof.is_proved() {
        "PROVED: no input can overflow a buffer".to_owned()
    } else if proof.is_refuted() {
        "REFUTED: an input overflows a buffer".to_owned()
    } else {
        let found = match (proof.searched, &args.samples) {
            (true, _) => "but no input was found that makes one",
            (false, Some(_)) => {
                "and no sample makes one; other inputs are not searched, as the model's extents are open"
            }
            (false, None) => {
                "and inputs are not searched, as the model's extents are open; --samples runs inputs"
            }
        };
        format!("NOT PROVED: ranges allow an overflow, {found}")
    };
    let in_float = in_float(model);
    if !in_float.is_empty() {
        let (layers, run) = match in_float.len() {
            1 => ("layer", "runs"),
            _ => ("layers", "run"),
        };
        let named = in_float.iter().take(MOST_NAMED).copied();
        let named = named.collect::<Vec<_>>().join(", ");
        let more = match in_float.len().saturating_sub(MOST_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        text.push_str(&format!(
            "\n{} {layers} {run} in float, of which nothing is said: {named}{more}",
            in_float.len()
        ));
    }
    text
}

/// Returns the layers that run in float, outside any proof.
fn in_float(model: &QuantizedModel) -> Vec<&str> {
    let nodes = model.nodes.iter();
    let nodes = nodes.filter(|node| matches!(node.op, QuantizedOp::Float(_)));
    nodes.map(|node| node.name.as_str()).collect()
}

/// Returns the least and the largest value of any channel.
fn span(stage: &StageProof) -> (i64, i64) {
    let channels = stage.bounds.channels.iter().copied();
    let range = channels.reduce(|a, b| a.union(b));
    range.map_or((0, 0), |range| (range.lo, range.hi))
}

fn verdict_text(stage: &StageProof) -> String {
    let n_over = stage
        .bounds
        .channels
        .iter()
        .filter(|range| !range.fits(stage.bounds.value_bits))
        .count();
    let n_channels = stage.bounds.channels.len();
    match &stage.verdict {
        Verdict::Proved { spare_bits } => format!("proved, {spare_bits} bits spare"),
        Verdict::ByDesign if n_over == 0 => "never clips".to_owned(),
        Verdict::ByDesign => format!("clips to its format in {n_over} of {n_channels} channels"),
        Verdict::Refuted(witness) => {
            let worst = witness
                .channels
                .iter()
                .max_by_key(|(_, v)| v.unsigned_abs());
            let worst = worst.map_or(String::new(), |(channel, value)| {
                format!(": channel {channel} reaches {value}")
            });
            format!("REFUTED{worst}")
        }
        Verdict::Possible {
            channel,
            layer_input,
        } => {
            let shown = layer_input.as_ref().and_then(|input| {
                let worst = input
                    .channels
                    .iter()
                    .max_by_key(|(_, v)| v.unsigned_abs())?;
                Some(format!(
                    "; an input of the layer takes channel {} to {}",
                    worst.0, worst.1
                ))
            });
            format!(
                "possible in {n_over} of {n_channels} channels, most in {channel}{}",
                shown.unwrap_or_default()
            )
        }
    }
}

/// Returns what a CI server is told: clipping by design is no matter of it.
fn findings(path: &Path, proof: &Proof, args: &ProveArgs) -> Findings {
    let unproved = if args.strict {
        Level::Error
    } else {
        Level::Warning
    };
    let outcomes = proof.stages().filter_map(|(layer, stage)| {
        let status = match &stage.verdict {
            Verdict::Proved { .. } => Status::Passed,
            Verdict::Refuted(_) => Status::Failed(Level::Error),
            Verdict::Possible { .. } => Status::Failed(unproved),
            Verdict::ByDesign => return None,
        };
        let (lo, hi) = span(stage);
        let width = stage.bounds.value_bits.bits();
        Some(Outcome {
            rule: BUFFER_OVERFLOW.to_owned(),
            layer: layer.name.clone(),
            subject: stage.bounds.stage.to_string(),
            status,
            message: format!(
                "{}; range {lo} .. {hi}, {width} value bits",
                verdict_text(stage)
            ),
        })
    });
    let rule = Rule {
        id: BUFFER_OVERFLOW.to_owned(),
        description: "No input of the model overflows a buffer of the hardware.".to_owned(),
        help: "`bitproof prove --witness DIR` writes the input, `--smallest` prints the smallest \
               buffers. Fewer bits of weights or inputs, or a wider buffer, make the range smaller \
               than it."
            .to_owned(),
    };
    Findings {
        command: "prove".to_owned(),
        model: path.display().to_string(),
        rules: vec![rule],
        outcomes: outcomes.collect(),
    }
}

fn to_json(model: &QuantizedModel, proof: &Proof, args: &ProveArgs) -> Result<Value> {
    let layers: Vec<Value> = proof
        .layers
        .iter()
        .map(|layer| {
            let stages: Vec<Value> = layer.stages.iter().map(stage_json).collect();
            json!({ "name": layer.name, "class_name": model.nodes[layer.node].class_name,
                "stages": stages })
        })
        .collect();
    let verdict = if proof.is_proved() {
        "proved"
    } else if proof.is_refuted() {
        "refuted"
    } else {
        "possible"
    };
    let mut report = json!({ "verdict": verdict, "buffer_bits": args.buffer_bits, "seed": args.seed,
            "searched": proof.searched, "float_layers": in_float(model), "layers": layers });
    if args.smallest {
        report["smallest"] = smallest::to_json(model)?;
    }
    Ok(report)
}

fn stage_json(stage: &StageProof) -> Value {
    let (lo, hi) = span(stage);
    let mut entry = json!({
        "stage": stage.bounds.stage.name(),
        "value_bits": stage.bounds.value_bits.bits(),
        "lo": lo,
        "hi": hi,
        "channels": stage.bounds.channels.iter().map(|r| json!([r.lo, r.hi])).collect::<Vec<_>>(),
    });
    match &stage.verdict {
        Verdict::Proved { spare_bits } => {
            entry["verdict"] = json!("proved");
            entry["spare_bits"] = json!(spare_bits);
        }
        Verdict::ByDesign => entry["verdict"] = json!("by_design"),
        Verdict::Refuted(witness) => {
            entry["verdict"] = json!("refuted");
            entry["overflows"] = channels_json(&witness.channels);
        }
        Verdict::Possible {
            channel,
            layer_input,
        } => {
            entry["verdict"] = json!("possible");
            entry["worst_channel"] = json!(channel);
            if let Some(input) = layer_input {
                entry["layer_input_overflows"] = channels_json(&input.channels);
            }
        }
    }
    entry
}

fn channels_json(channels: &[(usize, i64)]) -> Value {
    let channels = channels.iter();
    channels
        .map(|(channel, value)| json!({ "channel": channel, "value": value }))
        .collect()
}
