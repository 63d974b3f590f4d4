//! `prove --suggest`: what to change so that a layer is proved.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bitproof::akida_sim::prove::Proof;
use bitproof::suggest::{
    Entries, Fix, Kind, LayerFixes, Requantizer, SampleSteps, Shrink, first_difference, suggest,
};
use bitproof::{CalibratedRanges, QuantizedModel, load_calibrated, load_float, load_quantized};
use clap::Args;
use serde_json::{Value, json};

use super::ProveArgs;
use crate::args::{CheckFormat, Format};
use crate::commands::eval::{Data, evaluate, share};
use crate::commands::quantize::digest;
use crate::progress::Meter;
use crate::samples;

#[derive(Debug, Args)]
pub(super) struct SuggestArgs {
    /// Find the least changes that make each layer proved, as entries of a q_config
    #[arg(long)]
    suggest: bool,
    /// The float model, to quantize again for --suggest, with --samples or --ranges; without it the
    /// weights and ranges of the quantized model are used
    #[arg(long, value_name = "MODEL", requires = "suggest")]
    float: Option<PathBuf>,
    /// Ranges of `bitproof calibrate` for --float, instead of --samples
    #[arg(long, value_name = "FILE", requires = "float")]
    ranges: Option<PathBuf>,
    /// Samples in a calibration step for --float [default: 100] [-bs]
    #[arg(long, value_name = "N", requires = "float")]
    batch_size: Option<usize>,
    /// Passes over the samples for --float
    #[arg(long, value_name = "N", default_value_t = 1, requires = "float")]
    epochs: usize,
    /// Labelled data, as `eval --data` takes it: the accuracy with each change
    #[arg(long, value_name = "PLACE", requires = "suggest")]
    data: Option<PathBuf>,
}

impl SuggestArgs {
    /// Returns whether labelled data is read, as the flags of samples say.
    pub(super) const fn reads_data(&self) -> bool {
        self.data.is_some()
    }

    /// Refuses flags that do not go together.
    pub(super) fn check(&self, args: &ProveArgs) -> Result<()> {
        if self.float.is_some() && self.ranges.is_none() && args.samples.is_none() {
            bail!("--float: the model is calibrated again, give --samples or --ranges");
        }
        let of_findings = matches!(args.format.format, CheckFormat::Sarif | CheckFormat::Junit);
        if self.suggest && of_findings {
            bail!("--suggest is printed as text or with --format json");
        }
        Ok(())
    }
}

/// Changes, and what they are changes of.
pub(super) struct Suggestions {
    layers: Vec<LayerFixes>,
    has_float: bool,
    /// The first layer in which the model that is made again is another one.
    differs: Option<String>,
    /// Accuracies of the model as it is and with each fix, layer by layer.
    accuracy: Option<(f64, Vec<Vec<f64>>)>,
}

/// Returns what --suggest asks for, `None` without it.
pub(super) fn suggestions(args: &ProveArgs, proof: &Proof) -> Result<Option<Suggestions>> {
    let flags = &args.suggest;
    if !flags.suggest {
        return Ok(None);
    }
    let path = args.model.path();
    let model = load_quantized(&path)?;
    if proof.is_proved() {
        return Ok(Some(Suggestions {
            layers: Vec::new(),
            has_float: flags.float.is_some(),
            differs: None,
            accuracy: None,
        }));
    }
    let requantizer = requantizer(args, &path, &model)?;
    let again = requantizer.quantize(&Entries::new())?;
    let differs = first_difference(&model, &again).map(str::to_owned);
    let requantizer = requantizer.with_buffer_bits(args.buffer_bits);
    let mut meter = Meter::new(0, "layers");
    let layers = suggest(&requantizer, &mut |done, total| meter.set(done, total))?;
    meter.finish();
    let accuracy = match &flags.data {
        Some(place) => {
            let before = requantizer.quantize(&Entries::new())?;
            Some(accuracies(args, place, &before, &layers)?)
        }
        None => None,
    };
    Ok(Some(Suggestions {
        layers,
        has_float: requantizer.has_float(),
        differs,
        accuracy,
    }))
}

fn requantizer(args: &ProveArgs, path: &Path, model: &QuantizedModel) -> Result<Requantizer> {
    let flags = &args.suggest;
    let Some(float) = &flags.float else {
        let graph = load_calibrated(path).context("--suggest needs --float")?;
        return Ok(Requantizer::stored(model, graph));
    };
    let graph = load_float(float)?;
    let float_digest = digest(float)?;
    if let Some(known) = &model.provenance.model_digest
        && *known != float_digest
    {
        bail!(
            "{}: the model was made from another file, whose SHA-256 is {known}",
            float.display()
        );
    }
    if let Some(path) = &flags.ranges {
        let ranges = CalibratedRanges::read(path)?;
        let fits = || path.display().to_string();
        ranges.check_model(&float_digest).with_context(fits)?;
        return Requantizer::from_ranges(model, graph, ranges).with_context(fits);
    }
    let place = args.samples.as_deref().context("--float needs --samples")?;
    let samples = samples::at(place, &args.source)?;
    let steps = SampleSteps {
        batch_size: flags.batch_size,
        epochs: flags.epochs,
    };
    let mut meter = Meter::new(0, "samples");
    let made = Requantizer::from_samples(model, graph, samples, steps, &mut |p| {
        meter.set(p.done, p.total);
    });
    meter.finish();
    Ok(made?)
}

fn accuracies(
    args: &ProveArgs,
    place: &Path,
    model: &QuantizedModel,
    layers: &[LayerFixes],
) -> Result<(f64, Vec<Vec<f64>>)> {
    let data = Data::at(place, &args.source)?;
    let accuracy = |model: &QuantizedModel| -> Result<f64> {
        let scores = evaluate(Some(model), None, &data, Format::Json)?;
        Ok(share(scores.quantized_right, scores.n_items))
    };
    let of_layer = |layer: &LayerFixes| {
        let fixes = layer.fixes.iter();
        fixes.map(|fix| accuracy(&fix.model)).collect::<Result<_>>()
    };
    let fixed = layers.iter().map(of_layer).collect::<Result<_>>()?;
    Ok((accuracy(model)?, fixed))
}

impl Suggestions {
    /// Says where the models come from for which the changes were tried.
    fn basis(&self) -> String {
        let mut text = if self.has_float {
            "each change was tried by quantizing the float model again".to_owned()
        } else {
            "each change was tried on the weights and ranges that the quantized model holds; quantizing \
             the float model again may give slightly other integers: --float and --samples try that"
                .to_owned()
        };
        if let Some(layer) = &self.differs {
            text.push_str(&format!(
                "; without any change this gives another model than this one, from {layer} on: \
                 other samples or options"
            ));
        }
        text
    }

    pub(super) fn print(&self) {
        if self.layers.is_empty() {
            crate::outln!("\nNothing to change: every layer is proved");
            return;
        }
        crate::outln!(
            "\nLeast changes that prove a layer, one by one; {}",
            self.basis()
        );
        if let Some((before, _)) = &self.accuracy {
            crate::outln!("accuracy without a change: {:.2} %", 100.0 * before);
        }
        for (i, layer) in self.layers.iter().enumerate() {
            print_layer(
                layer,
                self.accuracy.as_ref().map(|(_, all)| all[i].as_slice()),
            );
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let layer = |(i, layer): (usize, &LayerFixes)| {
            layer_json(
                layer,
                self.accuracy.as_ref().map(|(_, all)| all[i].as_slice()),
            )
        };
        json!({
            "basis": if self.has_float { "float" } else { "stored" },
            "differs_from": self.differs,
            "accuracy": self.accuracy.as_ref().map(|(before, _)| before),
            "layers": self.layers.iter().enumerate().map(layer).collect::<Vec<_>>(),
        })
    }
}

fn print_layer(layer: &LayerFixes, accuracy: Option<&[f64]>) {
    let overflows = layer.overflows.iter().map(|overflow| {
        let (needed, has) = (overflow.needed, overflow.value_bits);
        format!("{} needs {needed} value bits, has {has}", overflow.stage)
    });
    let overflows = overflows.collect::<Vec<_>>().join("; ");
    crate::outln!("\n{}: {overflows}", layer.layer);
    for kind in Kind::ALL {
        let fixes = layer.fixes.iter().enumerate();
        for (i, fix) in fixes.filter(|(_, fix)| fix.kind == kind) {
            crate::outln!("  {:<11} {}", kind.to_string(), edits(fix));
            let mut facts = Vec::new();
            if let Some(share) = accuracy.and_then(|all| all.get(i)) {
                facts.push(format!("accuracy {:.2} %", 100.0 * share));
            }
            if fix.proves_model {
                facts.push("the whole model is proved then".to_owned());
            }
            if !fix.opens.is_empty() {
                facts.push(format!(
                    "but then these may overflow: {}",
                    fix.opens.join(", ")
                ));
            }
            if !facts.is_empty() {
                crate::outln!("              {}", facts.join("; "));
            }
            crate::outln!("              {}", Value::Object(fix.fragment.clone()));
        }
        for (_, reason) in layer.refused.iter().filter(|(refused, _)| *refused == kind) {
            crate::outln!("  {:<11} none: {reason}", kind.to_string());
        }
    }
    if let Some(shrink) = &layer.shrink {
        crate::outln!("  {:<11} {}", "shrink", shrink_text(layer, shrink));
    }
}

fn edits(fix: &Fix) -> String {
    let edits = fix.edits.iter().map(|edit| {
        let text = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
        let (from, to) = (text(&edit.from), text(&edit.to));
        format!("{}: {} {from} -> {to}", edit.layer, edit.path)
    });
    edits.collect::<Vec<_>>().join(", ")
}

fn shrink_text(layer: &LayerFixes, shrink: &Shrink) -> String {
    let Some((channel, parts)) = shrink.least() else {
        return String::new();
    };
    let how = if weight_bits(layer).is_some() {
        "; no key of a q_config scales one channel, the weight bits above shrink all"
    } else {
        "; no key of a q_config scales one channel"
    };
    format!(
        "integer weights of {} in {} channel(s), most in {channel}: by {:.4} or less{how}",
        shrink.layer,
        shrink.channels.len(),
        factor(parts)
    )
}

fn weight_bits(layer: &LayerFixes) -> Option<&Fix> {
    layer.fixes.iter().find(|fix| fix.kind == Kind::WeightBits)
}

/// Returns a factor that is counted in parts.
fn factor(parts: u32) -> f64 {
    f64::from(parts) / f64::from(Shrink::PARTS)
}

fn layer_json(layer: &LayerFixes, accuracy: Option<&[f64]>) -> Value {
    let overflows = layer.overflows.iter().map(|overflow| {
        json!({ "stage": overflow.stage.name(), "value_bits": overflow.value_bits,
            "needed": overflow.needed })
    });
    let fixes = layer.fixes.iter().enumerate().map(|(i, fix)| {
        let edits = fix.edits.iter().map(|edit| {
            json!({ "layer": edit.layer, "path": edit.path, "from": edit.from, "to": edit.to })
        });
        let mut entry = json!({
            "kind": fix.kind.name(),
            "edits": edits.collect::<Vec<_>>(),
            "q_config": fix.fragment,
            "proves_model": fix.proves_model,
            "opens": fix.opens,
        });
        if let Some(share) = accuracy.and_then(|all| all.get(i)) {
            entry["accuracy"] = json!(share);
        }
        entry
    });
    let refused = layer.refused.iter();
    let refused = refused.map(|(kind, reason)| json!({ "kind": kind.name(), "reason": reason }));
    let shrink = layer.shrink.as_ref().map(|shrink| {
        let channels = shrink.channels.iter();
        let channels = channels
            .map(|(channel, parts)| json!({ "channel": channel, "factor": factor(*parts) }));
        json!({ "layer": shrink.layer, "channels": channels.collect::<Vec<_>>(),
            "q_config": weight_bits(layer).map(|fix| &fix.fragment) })
    });
    json!({
        "name": layer.layer,
        "overflows": overflows.collect::<Vec<_>>(),
        "fixes": fixes.collect::<Vec<_>>(),
        "refused": refused.collect::<Vec<_>>(),
        "shrink": shrink,
    })
}
