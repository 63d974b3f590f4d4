//! From a float network and samples to integers.

use akida_sim::{InputQuantizerSpec, Provenance, QuantizedModel, lower};
use calibration::{
    BatchPlan, Granularity, InputRange, Observed, ObservedSites, OutputSite, Progress,
    SampleSource, Skipped, calibrate, equalize, fold_zero_point, prepare_unsigned_input,
};
use config_schema::{
    Axis, ConfigIssue, InputDtype, InputQuantizerConfig, LayerKind, QuantizationParams, Request,
    Resolved, Status, Strictness, Topology, explain, input_quantizer, resolve,
};
use float_model::{
    Dtype, Graph, GraphError, HardwareRewrites, Layer, RewriteEvent, SanitizeOptions, Sanitized,
    sanitize,
};
use quantizer_core::PerAxis;
use serde_json::{Map, Value};

use crate::Error;
use crate::plan::{Ranges, calibrated_graph};
use crate::samples::{SampleRole, Samples, random_source};
use crate::topology::topology;

/// Batch size when none is asked for.
const DEFAULT_BATCH_SIZE: usize = 100;

/// Random samples when none are given and no number is asked for.
const DEFAULT_RANDOM_SAMPLES: usize = 1024;

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
    /// Rewrites that were applied, in order.
    pub rewrites: Vec<RewriteEvent>,
    /// Matches that a rewrite had to leave alone, with the reason.
    pub refused: Vec<RewriteEvent>,
    /// A line for each value of the configuration: path, value, origin.
    pub explanation: Vec<String>,
    /// What was forced, ignored, left in float, or is questionable.
    pub warnings: Vec<String>,
    /// Batches of the calibration.
    pub batches: BatchPlan,
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
    let mut source = open_samples(samples, &graph, options)?;
    let graph = with_input_shape(graph, source.item_shape(), options)?;
    let rewrites = SanitizeOptions {
        hardware: options.hardware,
    };
    let Sanitized {
        graph,
        applied,
        refused,
        removed,
    } = sanitize(graph, &rewrites)?;
    let topology = topology(&graph);
    let request = Request {
        params: &options.params,
        q_config: options.q_config.as_ref(),
        quantize_until: options.quantize_until.as_deref(),
        removed: &removed,
        strictness: options.strictness,
    };
    let resolved = resolve(&topology, &request)?;
    let (graph, input) = prepare_input(graph, &topology, source.as_ref(), options)?;
    let batches = batch_plan(&graph, source.as_ref(), options)?;
    let sites = sites(&resolved, input.as_ref());
    let observed = calibrate(&graph, &sites, source.as_mut(), &batches, progress)?;
    let mut warnings = warnings(&resolved, &sites, source.as_ref());
    if input.is_none() && !source.is_integer() {
        warnings.push(
            "the samples are stored as floats, but the model takes integers: fractions in them \
             calibrate ranges that no input reaches"
                .to_owned(),
        );
    }
    let explanation = explain(&resolved);
    let (graph, ranges, spec) = settle(graph, &topology, &resolved, observed, input)?;
    let mut model = lower(calibrated_graph(graph, resolved, &ranges, spec))?;
    let seed = source.is_random().then_some(options.seed);
    let tool = format!("bitproof {}", env!("CARGO_PKG_VERSION"));
    model.provenance = Provenance {
        tool,
        seed,
        ..Provenance::default()
    };
    Ok(Quantized {
        model,
        rewrites: applied,
        refused,
        explanation,
        warnings,
        batches,
        n_samples: source.n_samples(),
        skipped: source.skipped().to_vec(),
    })
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
        let declared = &graph.nodes()[input].shape;
        // Extents that are asked for decide where the model leaves them open.
        let extents = match &options.input_shape {
            Some(shape) => shape.iter().copied().map(Some).collect(),
            None => declared.clone(),
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
        None => {
            let node = &graph.nodes()[input];
            node.shape
                .iter()
                .copied()
                .collect::<Option<Vec<usize>>>()
                .ok_or_else(open)?
        }
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

/// Returns the graph with its open input extents replaced by those of the samples.
fn with_input_shape(
    graph: Graph,
    item_shape: &[usize],
    options: &QuantizeOptions,
) -> Result<Graph, Error> {
    if let Some(asked) = options.input_shape.as_deref()
        && asked != item_shape
    {
        return Err(Error::Invalid(format!(
            "the samples have shape {item_shape:?}, --input-shape is {asked:?}"
        )));
    }
    let (name, index) = sole_input(&graph)?;
    let declared = &graph.nodes()[index].shape;
    let fits = declared.len() == item_shape.len()
        && declared
            .iter()
            .zip(item_shape)
            .all(|(d, s)| d.is_none_or(|d| d == *s));
    if !fits {
        return Err(calibration::CalibrationError::Shape {
            samples: item_shape.to_vec(),
            input: declared.clone(),
        }
        .into());
    }
    let mut draft = graph.into_draft();
    if let Some(node) = draft.node_mut(&name)
        && let Layer::Input(input) = &mut node.layer
    {
        input.shape = item_shape.iter().copied().map(Some).collect();
    }
    Ok(Graph::new(draft)?)
}

/// Returns the name and index of the only input.
fn sole_input(graph: &Graph) -> Result<(String, usize), Error> {
    let mut inputs = graph.inputs();
    match (inputs.next(), inputs.next()) {
        (Some(id), None) => Ok((graph.node(id).name.clone(), id.index())),
        (None, _) => Err(GraphError::Empty.into()),
        (Some(_), Some(second)) => {
            let name = graph.node(second).name.clone();
            let message = "is a second input; models with one input are supported";
            Err(GraphError::unsupported(name, message).into())
        }
    }
}

/// Returns the graph prepared for its input, and the InputQuantizer to calibrate, if any.
fn prepare_input(
    graph: Graph,
    topology: &Topology,
    source: &dyn SampleSource,
    options: &QuantizeOptions,
) -> Result<(Graph, Option<InputQuantizerConfig>), Error> {
    let (name, index) = sole_input(&graph)?;
    let Layer::Input(input) = &graph.nodes()[index].layer else {
        return Err(GraphError::Empty.into());
    };
    if input.dtype.is_integer() {
        return Ok((graph, None));
    }
    let inserted = match options.input_quantizer {
        InputQuantizerMode::Always => true,
        InputQuantizerMode::Never => false,
        InputQuantizerMode::Auto => !source.is_integer(),
    };
    let mut draft = graph.into_draft();
    if !inserted {
        if let Some(node) = draft.node_mut(&name)
            && let Layer::Input(input) = &mut node.layer
        {
            input.dtype = raw_dtype(options.params.values().input_dtype);
        }
        return Ok((Graph::new(draft)?, None));
    }
    let config = input_quantizer(topology, &options.params)?;
    if let Some(first) = config.folds_into {
        prepare_unsigned_input(&mut draft, &topology.layers[first].name);
    }
    Ok((Graph::new(draft)?, Some(config)))
}

const fn raw_dtype(dtype: InputDtype) -> Dtype {
    match dtype {
        InputDtype::UInt8 => Dtype::UInt8,
        InputDtype::Int8 => Dtype::Int8,
        InputDtype::Int16 => Dtype::Int16,
    }
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
    let layers = || graph.nodes().iter().map(|node| &node.layer);
    let is_recurrent = |layer: &Layer| matches!(layer, Layer::StatefulRecurrent(_));
    let batch_size = if layers().any(is_recurrent) {
        num_samples
    } else if layers().any(Layer::is_temporal) {
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

/// Returns what calibration observes: layers with an output quantizer, and the input.
fn sites(resolved: &Resolved, input: Option<&InputQuantizerConfig>) -> ObservedSites {
    let granularity = |axis| match axis {
        Axis::PerTensor => Granularity::PerTensor,
        Axis::PerAxis => Granularity::PerAxis,
    };
    let outputs = resolved
        .layers
        .iter()
        .filter_map(|layer| match &layer.status {
            Status::Quantized { config, .. } => {
                let quantizer = config.output_quantizer.as_ref()?;
                Some((layer.name.clone(), granularity(quantizer.axis)))
            }
            Status::Input | Status::Float { .. } => None,
        });
    let input = input.map(|input| granularity(input.axis));
    ObservedSites {
        outputs: outputs.collect(),
        input,
    }
}

fn warnings(resolved: &Resolved, sites: &ObservedSites, source: &dyn SampleSource) -> Vec<String> {
    let mut warnings: Vec<String> = resolved
        .warnings
        .iter()
        .map(ConfigIssue::to_string)
        .collect();
    for layer in &resolved.layers {
        if let Status::Float { reason } = &layer.status {
            warnings.push(format!("layer `{}` stays in float: {reason}", layer.name));
        }
    }
    let per_axis = sites
        .outputs
        .iter()
        .any(|(_, g)| *g == Granularity::PerAxis);
    if source.is_random() && per_axis {
        warnings.push(
            "random samples calibrate a range for each channel badly: give real samples, or use \
             --per-tensor-activations"
                .to_owned(),
        );
    }
    warnings
}

/// Folds the zero point, equalizes, and returns the final graph, ranges and input quantizer.
fn settle(
    graph: Graph,
    topology: &Topology,
    resolved: &Resolved,
    observed: Observed,
    input: Option<InputQuantizerConfig>,
) -> Result<(Graph, Ranges, Option<InputQuantizerSpec>), Error> {
    let Observed {
        outputs,
        input: range,
    } = observed;
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
            let range = outputs.get(&layer.name)?.clone();
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
