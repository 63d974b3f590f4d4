//! From a float network and samples to integers.

use akida_sim::{CalibratedGraph, InputQuantizerSpec, Provenance, QuantizedModel, lower};
use calibration::{
    BatchPlan, Convergence, InputRange, ObserverKind, OutputSite, Progress, SampleSource, Skipped,
    calibrate, equalize, fold_zero_point,
};
use config_schema::{
    InputQuantizerConfig, LayerKind, Origin, QuantizationParams, Resolved, Status, Strictness,
    Topology, explain,
};
use float_model::{Graph, HardwareRewrites, Layer, RewriteEvent};
use quantizer_core::PerAxis;
use serde_json::{Map, Value};

use crate::Error;
use crate::plan::{Ranges, calibrated_graph};
use crate::prepare::{Prepared, is_recurrent, prepare, raw_dtype, sample_extents, sole_input};
use crate::ranges::{CalibratedRanges, SampleFacts};
use crate::samples::{SampleRole, Samples, random_source};

/// Batch size when none is asked for.
const DEFAULT_BATCH_SIZE: usize = 100;

/// Random samples when none are given and no number is asked for.
const DEFAULT_RANDOM_SAMPLES: usize = 1024;

/// Share by which the last tenth of the samples may move a range without a warning.
const MAX_MOVEMENT: f32 = 0.05;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct QuantizeOptions {
    /// Parameters of the whole model.
    pub params: QuantizationParams,
    /// Configuration of single layers.
    pub q_config: Option<Map<String, Value>>,
    /// What to do with mistakes in the configuration.
    pub strictness: Strictness,
    /// The last layer to quantize on its branch.
    pub quantize_until: Option<String>,
    /// Whether a float input gets an InputQuantizer.
    pub input_quantizer: InputQuantizerMode,
    /// Extents of one input where the model leaves them open.
    pub input_shape: Option<Vec<usize>>,
    /// Samples to use; `None` for all.
    pub num_samples: Option<usize>,
    /// Samples in a calibration step; 100 if `None`.
    pub batch_size: Option<usize>,
    /// Passes over the samples.
    pub epochs: usize,
    /// Seed of random samples.
    pub seed: u64,
    /// What watches the outputs of layers.
    pub observer: ObserverKind,
    /// Whether the rewrites for the Akida hardware are done.
    pub hardware: HardwareRewrites,
}

impl Default for QuantizeOptions {
    fn default() -> Self {
        Self {
            params: QuantizationParams::default(),
            q_config: None,
            strictness: Strictness::Strict,
            quantize_until: None,
            input_quantizer: InputQuantizerMode::Auto,
            input_shape: None,
            num_samples: None,
            batch_size: None,
            epochs: 1,
            seed: 0,
            observer: ObserverKind::default(),
            hardware: HardwareRewrites::On,
        }
    }
}

/// Whether a float input gets an InputQuantizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InputQuantizerMode {
    /// [`Never`](Self::Never) if the samples are integers or random, [`Always`](Self::Always) if
    /// they are floats.
    #[default]
    Auto,
    /// One is inserted and calibrated.
    Always,
    /// Inputs are integers of the input type already.
    Never,
}

/// A quantized model and what was decided on the way.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The model.
    pub model: QuantizedModel,
    /// What the model was made from: float weights, decisions, ranges.
    pub calibrated: CalibratedGraph,
    /// Rewrites that were applied, in order.
    pub rewrites: Vec<RewriteEvent>,
    /// Matches that a rewrite had to leave alone, with the reason.
    pub refused: Vec<RewriteEvent>,
    /// Where each value of the configuration comes from; as text, a line each.
    pub explanation: Vec<Origin>,
    /// What was forced, ignored, left in float, or is questionable.
    pub warnings: Vec<String>,
    /// Batches of the calibration.
    pub batches: BatchPlan,
    /// How much the last samples still moved the ranges; `None` if that is not known.
    pub convergence: Option<Convergence>,
    /// Samples that were given.
    pub n_samples: usize,
    /// Samples that were left out.
    pub skipped: Vec<Skipped>,
}

/// Ranges of a network and what was noticed on the way.
#[derive(Clone, Debug)]
pub struct Calibration {
    /// The ranges.
    pub ranges: CalibratedRanges,
    /// What was forced, ignored, left in float, or is questionable.
    pub warnings: Vec<String>,
    /// How much the last samples still moved the ranges; `None` if that is not known.
    pub convergence: Option<Convergence>,
    /// Samples that were given.
    pub n_samples: usize,
    /// Samples that were left out.
    pub skipped: Vec<Skipped>,
}

/// Quantizes `graph`, calibrated on `samples`.
///
/// # Errors
///
/// Networks that cannot be right, mistakes in the configuration (all at once), samples that do not
/// fit, and layers that the numerics refuse.
pub fn quantize(
    graph: Graph,
    samples: Samples,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Quantized, Error> {
    let (prepared, calibration) = observe(graph, samples, options, progress)?;
    finish(prepared, calibration)
}

/// Calibrates `graph` on `samples`, as [`quantize`] with the same options would.
///
/// [`quantize_with_ranges`] goes on from there. The digests in the result are the caller's to set.
///
/// # Errors
///
/// As [`quantize`].
pub fn calibrate_ranges(
    graph: Graph,
    samples: Samples,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Calibration, Error> {
    Ok(observe(graph, samples, options, progress)?.1)
}

/// Quantizes `graph` with ranges that were calibrated before.
///
/// Options of the calibration (samples, batches, epochs, seed, observer) are not used; the others
/// decide which ranges are needed. That the ranges are those of this very model is for
/// [`CalibratedRanges::check_model`] to say.
///
/// # Errors
///
/// Networks that cannot be right, mistakes in the configuration, and ranges that are missing or do
/// not fit it (all at once).
pub fn quantize_with_ranges(
    graph: Graph,
    ranges: CalibratedRanges,
    options: &QuantizeOptions,
) -> Result<Quantized, Error> {
    let mut prepared = prepare(graph, &ranges.samples, options)?;
    let unused = ranges.check(&prepared.graph, &prepared.sites)?;
    prepared.warnings.extend(unused);
    let n_samples = ranges.samples.n_used;
    finish(
        prepared,
        Calibration {
            ranges,
            warnings: Vec::new(),
            convergence: None,
            n_samples,
            skipped: Vec::new(),
        },
    )
}

/// Opens the samples, prepares the network for them and observes its ranges.
fn observe(
    graph: Graph,
    samples: Samples,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Prepared, Calibration), Error> {
    let mut source = open_samples(samples, &graph, options)?;
    let mut facts = SampleFacts {
        item_shape: source.item_shape().to_vec(),
        holds_integers: source.is_integer(),
        seed: source.is_random().then_some(options.seed),
        ..SampleFacts::default()
    };
    let prepared = prepare(graph, &facts, options)?;
    let batches = batch_plan(&prepared.graph, source.as_ref(), options)?;
    let (graph, sites) = (&prepared.graph, &prepared.sites);
    let observed = calibrate(graph, sites, source.as_mut(), &batches, progress)?;
    if let Some(first) = source.skipped().first()
        && graph.nodes().iter().any(|node| node.layer.is_temporal())
    {
        return Err(Error::Invalid(format!(
            "{}: no sample of a temporal model can be left out, the others would follow wrong ones",
            first.message
        )));
    }
    facts.n_used = observed.n_samples;
    let convergence = observed.convergence.clone();
    let mut warnings = prepared.warnings.clone();
    warnings.extend(convergence.as_ref().and_then(not_converged));
    warnings.extend(unused_batch_size(graph, options, &batches));
    let ranges = CalibratedRanges::new(observed, sites, facts, batches);
    let calibration = Calibration {
        ranges,
        warnings,
        convergence,
        n_samples: source.n_samples(),
        skipped: source.skipped().to_vec(),
    };
    Ok((prepared, calibration))
}

/// Returns the warning of a batch size that a recurrent network does not use.
fn unused_batch_size(
    graph: &Graph,
    options: &QuantizeOptions,
    batches: &BatchPlan,
) -> Option<String> {
    let asked = options.batch_size.filter(|_| is_recurrent(graph))?;
    let taken = batches.batch_size;
    (asked != taken).then(|| {
        format!(
            "the batch size of {asked} is not used: the samples of a recurrent model are \
             sequences side by side, all {taken} in one batch"
        )
    })
}

/// Returns the warning of ranges that still move.
fn not_converged(convergence: &Convergence) -> Option<String> {
    (convergence.moved > MAX_MOVEMENT).then(|| {
        format!("{convergence}: the ranges are not settled, give more samples or a robust observer")
    })
}

/// Makes integers of a prepared network with its ranges.
fn finish(prepared: Prepared, calibration: Calibration) -> Result<Quantized, Error> {
    let Calibration {
        ranges,
        warnings,
        convergence,
        n_samples,
        skipped,
    } = calibration;
    let Prepared {
        graph,
        topology,
        resolved,
        input,
        sites: _,
        applied,
        refused,
        warnings: mut all,
    } = prepared;
    all.extend(
        warnings
            .into_iter()
            .filter(|w| !all.contains(w))
            .collect::<Vec<String>>(),
    );
    let explanation = explain(&resolved);
    let (samples, batches) = (ranges.samples.clone(), ranges.batches);
    let (graph, ranges, spec) = settle(graph, &topology, &resolved, ranges, input)?;
    let calibrated = calibrated_graph(graph, resolved, &ranges, spec);
    let mut model = lower(calibrated.clone())?;
    model.provenance = Provenance {
        tool: tool(),
        seed: samples.seed,
        samples_digest: samples.digest,
        ..Provenance::default()
    };
    Ok(Quantized {
        model,
        calibrated,
        rewrites: applied,
        refused,
        explanation,
        warnings: all,
        batches,
        convergence,
        n_samples,
        skipped,
    })
}

/// Returns the name and version of this tool.
pub(crate) fn tool() -> String {
    format!("bitproof {}", env!("CARGO_PKG_VERSION"))
}

/// Returns the source of the samples, or of random ones that fit the model's input.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "an input is all there can be"
)]
fn open_samples(
    samples: Samples,
    graph: &Graph,
    options: &QuantizeOptions,
) -> Result<Box<dyn SampleSource>, Error> {
    let (_, input) = sole_input(graph)?;
    if !samples.is_random() {
        let declared = sample_extents(graph, input);
        // Extents that are asked for decide where the model leaves them open.
        let extents = match &options.input_shape {
            Some(shape) => shape.iter().copied().map(Some).collect(),
            None => declared.to_vec(),
        };
        return samples.open(&extents, SampleRole::Calibration);
    }
    if let Samples::Preprocessed { .. } | Samples::FiniteOnly(_) = samples {
        let message = "random samples are integers as they are: no preprocessing";
        return Err(Error::Invalid(message.to_owned()));
    }
    let open = || {
        Error::Invalid(
            "the model's input has open extents: give samples or --input-shape".to_owned(),
        )
    };
    let shape = match &options.input_shape {
        Some(shape) => shape.clone(),
        None => sample_extents(graph, input)
            .iter()
            .copied()
            .collect::<Option<Vec<usize>>>()
            .ok_or_else(open)?,
    };
    let dtype = match &graph.nodes()[input].layer {
        Layer::Input(input) if input.dtype.is_integer() => input.dtype,
        _ => raw_dtype(options.params.values().input_dtype),
    };
    let n_samples = options.num_samples.unwrap_or(DEFAULT_RANDOM_SAMPLES);
    Ok(Box::new(random_source(
        options.seed,
        dtype,
        n_samples,
        shape,
    )))
}

/// Returns the batches of the calibration.
///
/// Samples of a network of frames are steps of `batch_size` sequences, taken in turn; those of a
/// recurrent one are sequences, all of them at once.
fn batch_plan(
    graph: &Graph,
    source: &dyn SampleSource,
    options: &QuantizeOptions,
) -> Result<BatchPlan, Error> {
    let available = source.n_samples();
    let num_samples = options.num_samples.unwrap_or(available);
    let batch_size = if is_recurrent(graph) {
        num_samples
    } else if graph.nodes().iter().any(|node| node.layer.is_temporal()) {
        let batch_size = options.batch_size.unwrap_or(1);
        if num_samples
            .checked_rem(batch_size)
            .is_some_and(|rest| rest != 0)
        {
            return Err(Error::Invalid(format!(
                "{num_samples} samples are no whole number of batches of {batch_size}: the \
                 samples of a temporal model are the frames of as many sequences as a batch holds"
            )));
        }
        batch_size
    } else {
        options.batch_size.unwrap_or(DEFAULT_BATCH_SIZE)
    };
    Ok(BatchPlan::new(
        available,
        num_samples,
        batch_size,
        options.epochs,
    )?)
}

/// Folds the zero point, equalizes, and returns the final graph, ranges and input quantizer.
fn settle(
    graph: Graph,
    topology: &Topology,
    resolved: &Resolved,
    ranges: CalibratedRanges,
    input: Option<InputQuantizerConfig>,
) -> Result<(Graph, Ranges, Option<InputQuantizerSpec>), Error> {
    let CalibratedRanges {
        outputs,
        input: range,
        ..
    } = ranges;
    let mut draft = graph.into_draft();
    let spec = match input.zip(range) {
        None => None,
        Some((config, range)) => {
            let spec = input_spec(config, range);
            let has_zero_point = spec.range_min.as_slice().iter().any(|min| *min < 0.0);
            if let Some(first) = config.folds_into.filter(|_| has_zero_point) {
                fold_zero_point(&mut draft, &topology.layers[first].name, &spec.range_min)?;
            }
            Some(spec)
        }
    };
    let sites: Vec<OutputSite> = topology
        .layers
        .iter()
        .zip(&resolved.layers)
        .filter_map(|(info, layer)| {
            let Status::Quantized { config, .. } = &layer.status else {
                return None;
            };
            let quantizer = config.output_quantizer.as_ref()?;
            let range = outputs.get(&layer.name)?.range.clone();
            // These sums have no float scales: their quantizer only shifts.
            let scaled = !matches!(info.kind, LayerKind::Add | LayerKind::StatefulRecurrent);
            let (layer, bitwidth) = (layer.name.clone(), quantizer.bitwidth);
            Some(OutputSite {
                layer,
                bitwidth,
                scaled,
                range,
            })
        })
        .collect();
    let equalized = equalize(Graph::new(draft)?, &sites)?;
    Ok((equalized.graph, equalized.ranges, spec))
}

/// Returns the ranges of an InputQuantizer; an unsigned one never starts above zero.
fn input_spec(config: InputQuantizerConfig, range: InputRange) -> InputQuantizerSpec {
    let range_min: PerAxis<f32> = if config.signed {
        range.min
    } else {
        range.min.map(|min| min.min(0.0))
    };
    InputQuantizerSpec {
        bitwidth: config.bitwidth,
        signed: config.signed,
        range_min,
        range_max: range.max,
    }
}
