//! `bitproof calibrate`.

use std::time::Instant;

use anyhow::Result;
use bitproof::{Calibration, calibrate_ranges, check_place, load_float};
use serde_json::json;

use super::quantize::{
    convergence_json, digest, note_random, options, print_convergence, samples, samples_digest,
};
use crate::args::{CalibrateArgs, Format};
use crate::progress::Meter;
use crate::samples::{unit, warn_skipped};

/// Calibrates the ranges of a float model and writes them.
pub(super) fn run(args: &CalibrateArgs) -> Result<()> {
    let start = Instant::now();
    let model_path = args.model.path();
    let samples = samples(&args.samples)?;
    let mut reads = samples.files();
    reads.extend(args.network.q_config.as_deref());
    reads.push(&model_path);
    check_place(&args.save, &["json"], &reads)?;
    let options = options(&args.network, &args.samples)?;
    let graph = load_float(&model_path)?;
    let digested = samples.clone();
    let format = args.format.format;
    note_random(&args.samples, format);
    let mut meter = Meter::new(0, unit(&samples));
    let calibration = calibrate_ranges(graph, samples, &options, &mut |p| {
        meter.set(p.done, p.total);
    });
    meter.finish_if(calibration.is_ok(), format);
    let mut calibration = calibration?;
    let ranges = &mut calibration.ranges;
    ranges.model_digest = Some(digest(&model_path)?);
    ranges.samples.digest = samples_digest(&digested)?;
    let place = args.samples.samples.as_deref();
    ranges.samples.source = place.map(|place| place.display().to_string());
    ranges.samples.preprocess = Some(args.samples.source.preprocess.clone());
    ranges.write(&args.save)?;
    report(args, &calibration, start.elapsed().as_secs_f64());
    Ok(())
}

fn report(args: &CalibrateArgs, calibration: &Calibration, seconds: f64) {
    let place = args.save.display();
    let ranges = &calibration.ranges;
    let convergence = calibration.convergence.as_ref();
    if args.format.format == Format::Json {
        let skipped = calibration.skipped.iter().map(|s| s.message.as_str());
        let result = json!({
            "output": place.to_string(),
            "observer": ranges.observer.to_string(),
            "layers": ranges.outputs.len(),
            "samples": {
                "given": calibration.n_samples,
                "used": ranges.samples.n_used,
                "skipped": skipped.collect::<Vec<&str>>(),
            },
            "convergence": convergence_json(convergence),
            "warnings": calibration.warnings,
        });
        crate::outln!("{result:#}");
        return;
    }
    warn_skipped(&calibration.skipped, calibration.n_samples);
    for warning in &calibration.warnings {
        crate::errln!("warning: {warning}");
    }
    print_convergence(convergence);
    crate::outln!(
        "ranges of {} layers from {} samples ({}), written to {place} in {seconds:.1} s",
        ranges.outputs.len(),
        ranges.samples.n_used,
        ranges.observer
    );
}
