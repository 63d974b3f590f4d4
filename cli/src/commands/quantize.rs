//! `bitproof quantize`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use bitproof::calibration::Convergence;
use bitproof::config_schema::{InputDtype, Origin, Strictness, parse_q_config};
use bitproof::float_model::{HardwareRewrites, RewriteEvent};
use bitproof::{
    CalibratedRanges, Graph, InputQuantizerMode, ParamValues, QuantizationParams, QuantizeOptions,
    Quantized, Samples, check_save_path, load_float, quantize, quantize_with_ranges,
    save_quantized, sha256_file, sha256_files,
};
use serde_json::{Map, Value, json};

use crate::args::{Format, InputQuantizerArg, NetworkArgs, QuantizeArgs, SampleArgs};
use crate::progress::Meter;

/// Quantizes a float model and writes the result.
pub(super) fn run(args: &QuantizeArgs) -> Result<()> {
    let start = Instant::now();
    let model_path = args.model.path();
    let save_path = args
        .save
        .clone()
        .unwrap_or_else(|| default_save_path(&model_path));
    check_save_path(&save_path, &reads(args, &model_path))?;
    let options = options(&args.network, &args.samples)?;
    let graph = load_float(&model_path)?;
    let model_digest = digest(&model_path)?;
    let mut quantized = match &args.ranges {
        Some(path) => with_ranges(graph, path, &model_digest, &options)?,
        None => calibrated(graph, args, &options)?,
    };
    let provenance = &mut quantized.model.provenance;
    provenance.model_digest = Some(model_digest);
    provenance.config_digest = args.network.q_config.as_deref().map(digest).transpose()?;
    save_quantized(&quantized, &save_path)?;
    report(args, &quantized, &save_path, start.elapsed().as_secs_f64())
}

/// Returns the files that are read.
fn reads<'a>(args: &'a QuantizeArgs, model: &'a Path) -> Vec<&'a Path> {
    let others = [&args.ranges, &args.network.q_config, &args.samples.samples];
    let others = others.into_iter().filter_map(Option::as_deref);
    others.chain([model]).collect()
}

fn with_ranges(
    graph: Graph,
    path: &Path,
    model_digest: &str,
    options: &QuantizeOptions,
) -> Result<Quantized> {
    let ranges = CalibratedRanges::read(path)?;
    let fits = || path.display().to_string();
    ranges.check_model(model_digest).with_context(fits)?;
    quantize_with_ranges(graph, ranges, options).with_context(fits)
}

fn calibrated(graph: Graph, args: &QuantizeArgs, options: &QuantizeOptions) -> Result<Quantized> {
    let samples = samples(&args.samples)?;
    let digested = samples.clone();
    note_random(&args.samples, args.format.format);
    let mut meter = Meter::new(0, crate::samples::unit(&samples));
    let quantized = quantize(graph, samples, options, &mut |p| {
        meter.set(p.done, p.total);
    });
    meter.finish_if(quantized.is_ok(), args.format.format);
    let mut quantized = quantized?;
    quantized.model.provenance.samples_digest = samples_digest(&digested)?;
    Ok(quantized)
}

/// Says on stderr that no samples are given, or a seed that nothing needs.
pub(super) fn note_random(args: &SampleArgs, format: Format) {
    if args.samples.is_some() && args.seed.is_some() {
        crate::errln!("warning: --seed is for random samples; these are given, so it is not used");
    }
    if args.samples.is_none() && format == Format::Text {
        crate::errln!(
            "note: no --samples: calibrating on random samples, seed {}",
            args.seed.unwrap_or(0)
        );
    }
}

pub(super) fn digest(path: &Path) -> Result<String> {
    sha256_file(path).with_context(|| path.display().to_string())
}

/// Returns the digest of the samples' files, none of random ones.
pub(super) fn samples_digest(samples: &Samples) -> Result<Option<String>> {
    let files = samples.files();
    if files.is_empty() {
        return Ok(None);
    }
    Ok(Some(sha256_files(&files)?))
}

/// Returns the calibration samples.
pub(super) fn samples(args: &SampleArgs) -> Result<Samples> {
    match &args.samples {
        Some(place) => crate::samples::at(place, &args.source),
        None => {
            crate::samples::refuse_all("random samples", &args.source)?;
            Ok(Samples::Random)
        }
    }
}

/// Returns the model's path with the extension of our own format.
fn default_save_path(model: &Path) -> PathBuf {
    model.with_extension("bpq.safetensors")
}

pub(super) fn options(args: &NetworkArgs, samples: &SampleArgs) -> Result<QuantizeOptions> {
    let bits = &args.bits;
    let input_dtype = InputDtype::from_name(&bits.input_dtype).ok_or_else(|| {
        anyhow!(
            "--input-dtype {}: use uint8, int8 or int16",
            bits.input_dtype
        )
    })?;
    let params = QuantizationParams::try_from(ParamValues {
        activation_bits: bits.activation_bits,
        per_tensor_activations: bits.per_tensor_activations,
        weight_bits: bits.weight_bits,
        output_bits: bits.output_bits,
        input_weight_bits: bits.input_weight_bits,
        input_dtype,
        buffer_bits: bits.buffer_bits,
        last_output_bits: bits.last_output_bits,
    })?;
    let hardware = if args.no_hardware_rewrites {
        HardwareRewrites::Off
    } else {
        HardwareRewrites::On
    };
    Ok(QuantizeOptions {
        params,
        q_config: args.q_config.as_deref().map(read_q_config).transpose()?,
        strictness: if args.lenient {
            Strictness::Lenient
        } else {
            Strictness::Strict
        },
        quantize_until: args.quantize_until.clone(),
        input_quantizer: match args.input_quantizer {
            InputQuantizerArg::Auto => InputQuantizerMode::Auto,
            InputQuantizerArg::Always => InputQuantizerMode::Always,
            InputQuantizerArg::Never => InputQuantizerMode::Never,
        },
        input_shape: args.input_shape.clone(),
        num_samples: samples.num_samples,
        batch_size: samples.batch_size,
        epochs: samples.epochs,
        seed: samples.seed.unwrap_or(0),
        observer: samples.observer.parse()?,
        hardware,
    })
}

fn read_q_config(path: &Path) -> Result<Map<String, Value>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    parse_q_config(&text).with_context(|| path.display().to_string())
}

fn report(args: &QuantizeArgs, quantized: &Quantized, path: &Path, seconds: f64) -> Result<()> {
    if args.format.format == Format::Json {
        crate::outln!("{:#}", to_json(quantized, path)?);
        return Ok(());
    }
    if args.explain {
        explain(quantized);
    }
    crate::samples::warn_skipped(&quantized.skipped, quantized.n_samples);
    for warning in &quantized.warnings {
        crate::errln!("warning: {warning}");
    }
    print_convergence(quantized.convergence.as_ref());
    let batches = &quantized.batches;
    let n_layers = quantized
        .model
        .nodes
        .iter()
        .filter(|n| n.class_name.starts_with("Quantized"))
        .count();
    crate::outln!(
        "{n_layers} layers quantized; {} batches of {} samples, {} epoch(s); written to {} in {seconds:.1} s",
        batches.steps,
        batches.batch_size,
        batches.epochs,
        path.display()
    );
    Ok(())
}

/// Prints how much the last samples still moved the ranges.
pub(super) fn print_convergence(convergence: Option<&Convergence>) {
    if let Some(convergence) = convergence {
        crate::outln!("convergence: {convergence}");
    }
}

pub(super) fn convergence_json(convergence: Option<&Convergence>) -> Value {
    match convergence {
        Some(Convergence {
            n_samples,
            layer,
            channel,
            moved,
        }) => {
            json!({ "samples": n_samples, "layer": layer, "channel": channel, "moved": moved })
        }
        None => Value::Null,
    }
}

fn explain(quantized: &Quantized) {
    crate::outln!("Rewrites applied:");
    for event in &quantized.rewrites {
        crate::outln!("  {} at {}: {}", event.rewrite, event.layer, event.message);
    }
    crate::outln!("Rewrites refused:");
    for event in &quantized.refused {
        crate::outln!("  {} at {}: {}", event.rewrite, event.layer, event.message);
    }
    crate::outln!("Configuration:");
    for line in &quantized.explanation {
        crate::outln!("  {line}");
    }
}

fn to_json(quantized: &Quantized, path: &Path) -> Result<Value> {
    let events = |events: &[RewriteEvent]| -> Vec<Value> {
        let json = |event: &RewriteEvent| json!({ "rewrite": event.rewrite, "layer": event.layer, "message": event.message });
        events.iter().map(json).collect()
    };
    let origin = |origin: &Origin| {
        json!({ "layer": origin.layer, "path": origin.path, "value": origin.value,
            "reason": origin.reason })
    };
    let batches = &quantized.batches;
    Ok(json!({
        "output": path.display().to_string(),
        "output_sha256": digest(path)?,
        // Null where nothing was random.
        "seed": quantized.model.provenance.seed,
        "rewrites_applied": events(&quantized.rewrites),
        "rewrites_refused": events(&quantized.refused),
        "explanation": quantized.explanation.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "origins": quantized.explanation.iter().map(origin).collect::<Vec<_>>(),
        "warnings": quantized.warnings,
        "convergence": convergence_json(quantized.convergence.as_ref()),
        "samples": {
            "given": quantized.n_samples,
            "skipped": quantized.skipped.iter().map(|s| s.message.as_str()).collect::<Vec<&str>>(),
        },
        "batches": {
            "batch_size": batches.batch_size, "steps": batches.steps, "epochs": batches.epochs,
        },
    }))
}
