//! `bitproof check`.

mod ci;
mod json;
mod text;

use std::path::PathBuf;

use anyhow::{Result, bail};
use bitproof::akida_sim::QuantizedOp;
use bitproof::akida_sim::hardware::{
    HardwareReport, LayerSize, Ranges, RuleSet, Severity, Target, check, events, sizes,
};
use bitproof::float_model::RewriteEvent;
use bitproof::{AnyModel, Graph, Quantized, QuantizedModel, Samples, load, quantize};
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, ValueEnum};
use ndarray::{ArrayD, Axis};

pub(super) use ci::by_target;

use super::quantize::options;
use crate::args::{
    CheckFormat, CheckFormatArgs, Cli, ModelArgs, NetworkArgs, SampleArgs, SourceArgs, normalized,
};
use crate::progress::Meter;
use crate::{Answer, inputs, samples};

/// Flags that say how a float model would be quantized.
const NETWORK_FLAGS: [&str; 14] = [
    "q_config",
    "activation_bits",
    "output_bits",
    "weight_bits",
    "input_weight_bits",
    "buffer_bits",
    "input_dtype",
    "last_output_bits",
    "per_tensor_activations",
    "quantize_until",
    "input_shape",
    "input_quantizer",
    "lenient",
    "no_hardware_rewrites",
];

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// What it shall run on; several, separated by commas, must all take it. `conversion` asks for
    /// either generation
    #[arg(
        short,
        long,
        value_enum,
        value_name = "TARGET",
        value_delimiter = ',',
        required_unless_present = "all_targets"
    )]
    target: Vec<TargetArg>,
    /// Check for every target and print what fits where; one that takes the model is enough
    #[arg(long, conflicts_with = "target")]
    all_targets: bool,
    /// Check what quantization would make of a float model
    #[arg(long)]
    float: bool,
    /// Count events (activations that are not 0) on these inputs; with --float, calibrate on them too
    #[arg(long, value_name = "PLACE")]
    samples: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
    /// Samples that are used, at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    num_samples: usize,
    /// Exit with 1 also for warnings
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    format: CheckFormatArgs,
    #[command(
        flatten,
        next_help_heading = "Options of the quantization, with --float"
    )]
    network: NetworkArgs,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TargetArg {
    Akd1000,
    Akd1500,
    /// The generic limits of Akida 2.0.
    Akida2,
    /// Akida 2.0 with two nodes.
    #[value(name = "akida2-2n")]
    Akida2TwoNodes,
    /// Akida 2.0 with six nodes.
    #[value(name = "akida2-6n")]
    Akida2SixNodes,
    /// Conversion to layers of either generation.
    Conversion,
    #[value(name = "conversion-v1")]
    ConversionV1,
    #[value(name = "conversion-v2")]
    ConversionV2,
}

impl TargetArg {
    /// Returns the targets of which one must take the model.
    const fn targets(self) -> &'static [Target] {
        match self {
            Self::Akd1000 => &[Target::Akd1000],
            Self::Akd1500 => &[Target::Akd1500],
            Self::Akida2 => &[Target::Akida2],
            Self::Akida2TwoNodes => &[Target::Akida2TwoNodes],
            Self::Akida2SixNodes => &[Target::Akida2SixNodes],
            Self::Conversion => &[Target::ConversionV1, Target::ConversionV2],
            Self::ConversionV1 => &[Target::ConversionV1],
            Self::ConversionV2 => &[Target::ConversionV2],
        }
    }
}

/// Everything that was found.
struct Checked {
    path: PathBuf,
    float: Option<FloatFacts>,
    reports: Vec<HardwareReport>,
    sizes: Vec<LayerSize>,
    events: Option<Events>,
    fits: bool,
}

/// What quantization would do with a float model.
struct FloatFacts {
    /// Whether its ranges were calibrated on samples of the user.
    is_calibrated: bool,
    left: Vec<LeftInFloat>,
    applied: Vec<RewriteEvent>,
    refused: Vec<RewriteEvent>,
    warnings: Vec<String>,
}

/// A layer that stays in float.
struct LeftInFloat {
    name: String,
    class_name: String,
    reason: String,
    advice: Option<String>,
}

/// Activations that are not 0.
struct Events {
    n_samples: usize,
    /// Of all samples, layer by layer; `None` for floats.
    totals: Vec<Option<u64>>,
}

/// Says whether a model fits its targets.
pub(super) fn run(args: &CheckArgs) -> Result<Answer> {
    let rules = RuleSet::embedded()?;
    let path = args.model.path();
    let (model, float) = match (load(&path)?, args.float) {
        (AnyModel::Quantized(model), false) => {
            refuse_network_flags()?;
            (*model, None)
        }
        (AnyModel::Float(graph), true) => {
            let (model, facts) = quantized(graph, args, &rules)?;
            (model, Some(facts))
        }
        (AnyModel::Quantized(_), true) => {
            bail!(
                "{}: the model is quantized already: leave out --float",
                path.display()
            )
        }
        (AnyModel::Float(_), false) => bail!(
            "{}: this is a float model: --float checks what quantization would make of it",
            path.display()
        ),
    };
    let checked = checked(args, &model, float, &rules, path)?;
    match args.format.format {
        CheckFormat::Text => text::print(&checked, &model),
        CheckFormat::Json => crate::outln!("{:#}", json::report(&checked)),
        CheckFormat::Sarif => crate::outln!("{:#}", ci::findings(&checked, &rules).to_sarif()),
        CheckFormat::Junit => {
            let junit = ci::findings(&checked, &rules).to_junit();
            crate::outln!("{}", junit.trim_end());
        }
    }
    Ok(if checked.fits {
        Answer::Yes
    } else {
        Answer::No
    })
}

fn checked(
    args: &CheckArgs,
    model: &QuantizedModel,
    float: Option<FloatFacts>,
    rules: &RuleSet,
    path: PathBuf,
) -> Result<Checked> {
    let ranges = match &float {
        Some(float) if !float.is_calibrated => Ranges::Unknown,
        _ => Ranges::Calibrated,
    };
    let asked: Vec<&[Target]> = if args.all_targets {
        vec![&Target::ALL]
    } else {
        args.target.iter().map(|target| target.targets()).collect()
    };
    let mut reports: Vec<HardwareReport> = Vec::new();
    for target in asked.iter().copied().flatten() {
        if reports.iter().all(|report| report.target != *target) {
            reports.push(check(model, rules, *target, ranges)?);
        }
    }
    let takes = |target: &Target| {
        let report = reports.iter().find(|report| report.target == *target);
        let worst = report.and_then(HardwareReport::worst);
        let refused = if args.strict {
            Severity::Warning
        } else {
            Severity::Error
        };
        worst.is_none_or(|worst| worst < refused)
    };
    let fits = asked.iter().all(|any| any.iter().any(takes));
    let events = match &args.samples {
        Some(place) => Some(measured(
            model,
            samples::at(place, &args.source)?,
            args.num_samples,
        )?),
        None => {
            samples::refuse_all("a check without --samples", &args.source)?;
            None
        }
    };
    Ok(Checked {
        path,
        float,
        sizes: sizes(model),
        events,
        reports,
        fits,
    })
}

/// Refuses flags that say how to quantize what is quantized already.
fn refuse_network_flags() -> Result<()> {
    let matches = Cli::command().get_matches_from(normalized(std::env::args_os()));
    let Some((_, matches)) = matches.subcommand() else {
        return Ok(());
    };
    let is_given = |id: &&&str| matches.value_source(id) == Some(ValueSource::CommandLine);
    match NETWORK_FLAGS.iter().find(is_given) {
        Some(flag) => bail!(
            "--{} says how to quantize: it needs --float and a float model",
            flag.replace('_', "-")
        ),
        None => Ok(()),
    }
}

/// Returns what quantization makes of a float model; without samples, its ranges are random.
fn quantized(
    graph: Graph,
    args: &CheckArgs,
    rules: &RuleSet,
) -> Result<(QuantizedModel, FloatFacts)> {
    let (samples, num_samples) = match &args.samples {
        Some(place) => (samples::at(place, &args.source)?, args.num_samples),
        None => (Samples::Random, 1),
    };
    let is_calibrated = args.samples.is_some();
    let defaults = SampleArgs {
        samples: None,
        source: SourceArgs::default(),
        num_samples: is_calibrated.then_some(num_samples).or(Some(1)),
        batch_size: None,
        epochs: 1,
        seed: None,
        observer: "moving-max".to_owned(),
    };
    let mut options = options(&args.network, &defaults)?;
    if is_calibrated {
        // Fewer than the limit may be there; a temporal model takes all.
        options.num_samples = None;
    }
    let mut meter = Meter::new(0, samples::unit(&samples));
    let quantized = quantize(graph, samples, &options, &mut |p| {
        meter.set(p.done, p.total);
    });
    meter.finish();
    let Quantized {
        model,
        rewrites,
        refused,
        explanation,
        warnings,
        ..
    } = quantized?;
    let left = explanation
        .into_iter()
        .filter(|origin| origin.path.is_none());
    let left = left.map(|origin| {
        let node = model.find(&origin.layer);
        let class_name = match node.map(|node| &node.op) {
            Some(QuantizedOp::Float(layer)) => layer.class_name().to_owned(),
            _ => String::new(),
        };
        LeftInFloat {
            advice: rules.advice_for(&class_name).map(str::to_owned),
            name: origin.layer,
            class_name,
            reason: origin.reason,
        }
    });
    let left: Vec<LeftInFloat> = left.collect();
    // Said layer by layer, and by the rules that are not checked.
    let is_said = |warning: &String| {
        warning.contains("stays in float") || (!is_calibrated && warning.contains("random samples"))
    };
    let facts = FloatFacts {
        is_calibrated,
        left,
        applied: rewrites,
        refused,
        warnings: warnings.into_iter().filter(|w| !is_said(w)).collect(),
    };
    Ok((model, facts))
}

/// Counts the events of a model on samples.
fn measured(model: &QuantizedModel, samples: Samples, most: usize) -> Result<Events> {
    let mut source = inputs::open(samples, &inputs::quantized_input(model)?)?;
    let batch: ArrayD<f32> = source.next_batch(most.max(1))?;
    samples::warn_skipped(source.skipped(), source.n_samples());
    let n_samples = batch.len_of(Axis(0));
    if n_samples == 0 {
        bail!("there is no sample that can be used");
    }
    let mut totals: Vec<Option<u64>> = vec![None; model.nodes.len()];
    let mut meter = Meter::new(n_samples, "samples");
    let mut done = 0;
    for chunk in batch.axis_chunks_iter(Axis(0), inputs::BATCH_SIZE) {
        for (total, more) in totals.iter_mut().zip(events(model, &chunk.to_owned())?) {
            *total = more.map(|more| total.unwrap_or(0) + more);
        }
        done += chunk.len_of(Axis(0));
        meter.set(done, n_samples);
    }
    meter.finish();
    Ok(Events { n_samples, totals })
}
