//! The float network, made ready for its calibration.

use calibration::{Granularity, ObservedSite, ObservedSites, ObserverKind, prepare_unsigned_input};
use config_schema::{
    Axis, ConfigIssue, InputDtype, InputQuantizerConfig, Request, Resolved, Status, Topology,
    input_quantizer, resolve,
};
use float_model::{
    Dtype, Graph, GraphError, Layer, RewriteEvent, SanitizeOptions, Sanitized, Volume, sanitize,
};

use crate::Error;
use crate::quantize::{InputQuantizerMode, QuantizeOptions};
use crate::ranges::SampleFacts;
use crate::topology::topology;

/// A network whose layers, configuration and sites are decided.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) graph: Graph,
    pub(crate) topology: Topology,
    pub(crate) resolved: Resolved,
    /// The InputQuantizer to calibrate, if any.
    pub(crate) input: Option<InputQuantizerConfig>,
    pub(crate) sites: ObservedSites,
    pub(crate) applied: Vec<RewriteEvent>,
    pub(crate) refused: Vec<RewriteEvent>,
    pub(crate) warnings: Vec<String>,
}

/// Rewrites the network, and decides which of its ranges are calibrated.
pub(crate) fn prepare(
    graph: Graph,
    facts: &SampleFacts,
    options: &QuantizeOptions,
) -> Result<Prepared, Error> {
    let graph = with_input_shape(graph, &facts.item_shape, options)?;
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
    let unused_settings = unused_input_settings(&graph, options);
    let (graph, input) = prepare_input(graph, &topology, facts, options)?;
    let sites = sites(&resolved, input.as_ref(), options.observer);
    let mut warnings = warnings(&resolved, &sites, facts);
    warnings.extend(unused_settings);
    Ok(Prepared {
        graph,
        topology,
        resolved,
        input,
        sites,
        applied,
        refused,
        warnings,
    })
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
    let declared = sample_extents(&graph, index);
    let frames_of_clips = declared.len() < graph.nodes()[index].shape.len();
    if is_recurrent(&graph) && declared.iter().all(Option::is_some) {
        // A sample may hold several times the model's time steps: calibration checks that.
        return Ok(graph);
    }
    let fits = declared.len() == item_shape.len()
        && declared
            .iter()
            .zip(item_shape)
            .all(|(d, s)| d.is_none_or(|d| d == *s));
    if !fits {
        return Err(calibration::CalibrationError::Shape {
            samples: item_shape.to_vec(),
            input: declared.to_vec(),
        }
        .into());
    }
    let mut draft = graph.into_draft();
    if let Some(node) = draft.node_mut(&name)
        && let Layer::Input(input) = &mut node.layer
    {
        // Frames are samples of a network over clips, whose number of frames stays.
        let time = frames_of_clips.then_some(input.shape[0].unwrap_or(1));
        let extents = time.into_iter().chain(item_shape.iter().copied());
        input.shape = extents.map(Some).collect();
    }
    Ok(Graph::new(draft)?)
}

/// Returns the extents of a sample: of a network over clips that is a frame (NUMERICS.md: R4).
pub(crate) fn sample_extents(graph: &Graph, input: usize) -> &[Option<usize>] {
    let is_conv = |layer: &Layer| matches!(layer, Layer::Volume(Volume::Conv3D(_)));
    let has_conv = graph.nodes().iter().any(|node| is_conv(&node.layer));
    match graph.nodes()[input].shape.as_slice() {
        [_, frame @ ..] if has_conv && frame.len() == 3 => frame,
        all => all,
    }
}

/// Returns whether the network has a layer with a state, which takes samples in parts.
pub(crate) fn is_recurrent(graph: &Graph) -> bool {
    let has_state = |layer: &Layer| matches!(layer, Layer::StatefulRecurrent(_));
    graph.nodes().iter().any(|node| has_state(&node.layer))
}

/// Returns the name and index of the only input.
pub(crate) fn sole_input(graph: &Graph) -> Result<(String, usize), Error> {
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

/// Returns what was asked of the input that a network of integers has no use for.
fn unused_input_settings(graph: &Graph, options: &QuantizeOptions) -> Vec<String> {
    let input = graph.inputs().next().map(|id| &graph.node(id).layer);
    let Some(Layer::Input(input)) = input else {
        return Vec::new();
    };
    if !input.dtype.is_integer() {
        return Vec::new();
    }
    let own = input.dtype.name();
    let mut warnings = Vec::new();
    if options.input_quantizer == InputQuantizerMode::Always {
        warnings.push(format!(
            "the model's input is {own} already: no InputQuantizer is inserted"
        ));
    }
    let asked = raw_dtype(options.params.values().input_dtype).name();
    if asked != own {
        warnings.push(format!(
            "the model's input is {own}: an input type of {asked} has no effect"
        ));
    }
    warnings
}

/// Returns the graph prepared for its input, and the InputQuantizer to calibrate, if any.
fn prepare_input(
    graph: Graph,
    topology: &Topology,
    facts: &SampleFacts,
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
        InputQuantizerMode::Auto => !facts.holds_integers,
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

pub(crate) const fn raw_dtype(dtype: InputDtype) -> Dtype {
    match dtype {
        InputDtype::UInt8 => Dtype::UInt8,
        InputDtype::Int8 => Dtype::Int8,
        InputDtype::Int16 => Dtype::Int16,
    }
}

/// Returns what calibration observes: layers with an output quantizer, and the input.
fn sites(
    resolved: &Resolved,
    input: Option<&InputQuantizerConfig>,
    observer: ObserverKind,
) -> ObservedSites {
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
                Some(ObservedSite {
                    layer: layer.name.clone(),
                    granularity: granularity(quantizer.axis),
                    value_bits: quantizer.bitwidth - u8::from(quantizer.signed),
                })
            }
            Status::Input | Status::Float { .. } => None,
        });
    let input = input.map(|input| granularity(input.axis));
    ObservedSites {
        outputs: outputs.collect(),
        input,
        observer,
    }
}

fn warnings(resolved: &Resolved, sites: &ObservedSites, facts: &SampleFacts) -> Vec<String> {
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
        .any(|site| site.granularity == Granularity::PerAxis);
    if facts.is_random() && per_axis {
        warnings.push(
            "random samples calibrate a range for each channel badly: give real samples, or use \
             --per-tensor-activations"
                .to_owned(),
        );
    }
    warnings
}
