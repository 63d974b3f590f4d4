//! The calibration pass: the float network runs, sites are observed.

use std::collections::BTreeMap;

use float_model::{Graph, GraphError, GraphMemory, Layer, NodeId};
use ndarray::{ArrayD, Axis};
use quantizer_core::PerAxis;

use crate::{BatchPlan, CalibrationError, MovingMax, SampleSource};

/// What has a range of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// The whole tensor.
    PerTensor,
    /// Each channel of the last axis.
    PerAxis,
}

/// What is observed.
#[derive(Clone, Debug, Default)]
pub struct ObservedSites {
    /// Layers whose float outputs are observed.
    pub outputs: Vec<(String, Granularity)>,
    /// Whether, and how, the model's input is observed.
    pub input: Option<Granularity>,
}

/// Ranges that were observed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Moving maxima of `|output|`, by layer.
    pub outputs: BTreeMap<String, PerAxis<f32>>,
    /// Range of the input.
    pub input: Option<InputRange>,
}

/// Moving extremes of the input.
#[derive(Clone, Debug, PartialEq)]
pub struct InputRange {
    /// Moving minimum.
    pub min: PerAxis<f32>,
    /// Moving maximum.
    pub max: PerAxis<f32>,
}

/// How far a calibration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Samples used so far, over all epochs.
    pub done: usize,
    /// Samples to use in all epochs.
    pub total: usize,
}

/// Runs `graph` on the batches of `source` and returns the ranges of `sites`.
///
/// Observed are the layers' float outputs, before any quantization. NUMERICS.md: C1, C2.
///
/// In a temporal network item `i` of each batch follows item `i` of the batch before, through all
/// epochs. One with a [`Layer::StatefulRecurrent`] takes samples of several times its own time
/// steps, one part after another.
///
/// # Errors
///
/// Samples that cannot be read, have other extents than the input or are not finite; a layer
/// whose output is not finite, or is a vector and shall have a range for each channel.
pub fn calibrate(
    graph: &Graph,
    sites: &ObservedSites,
    source: &mut dyn SampleSource,
    plan: &BatchPlan,
    progress: &mut dyn FnMut(Progress),
) -> Result<Observed, CalibrationError> {
    let n_parts = check_shape(graph, source)?;
    let mut observers = Observers::new(graph, sites)?;
    let per_epoch = plan
        .steps
        .saturating_mul(plan.batch_size)
        .min(source.n_samples());
    let total = per_epoch.saturating_mul(plan.epochs);
    let mut done = 0;
    for _ in 0..plan.epochs {
        source.rewind()?;
        let mut first = 0;
        for _ in 0..plan.steps {
            let batch = source.next_batch(plan.batch_size)?;
            let n = batch.len_of(Axis(0));
            if n == 0 {
                break;
            }
            check_finite(&batch, first)?;
            for part in parts(batch, n_parts) {
                observers.batch(graph, &part)?;
            }
            first += n;
            done += n;
            progress(Progress { done, total });
        }
    }
    if done == 0 {
        return Err(CalibrationError::NoSamples);
    }
    Ok(observers.finish())
}

struct Observers<'s> {
    sites: &'s ObservedSites,
    ids: Vec<NodeId>,
    outputs: Vec<MovingMax>,
    input: [MovingMax; 2],
    memory: GraphMemory,
}

impl<'s> Observers<'s> {
    fn new(graph: &Graph, sites: &'s ObservedSites) -> Result<Self, CalibrationError> {
        let mut ids = Vec::with_capacity(sites.outputs.len());
        for (layer, granularity) in &sites.outputs {
            let id = graph.find(layer).ok_or_else(|| GraphError::UnknownLayer {
                layer: "calibration".to_owned(),
                name: layer.clone(),
            })?;
            if *granularity == Granularity::PerAxis && graph.node(id).shape.len() < 2 {
                return Err(CalibrationError::Layer {
                    layer: layer.clone(),
                    message: "a vector cannot have a range for each channel".to_owned(),
                });
            }
            ids.push(id);
        }
        let outputs = vec![MovingMax::default(); ids.len()];
        Ok(Self {
            sites,
            ids,
            outputs,
            input: Default::default(),
            memory: GraphMemory::default(),
        })
    }

    fn batch(&mut self, graph: &Graph, batch: &ArrayD<f32>) -> Result<(), CalibrationError> {
        let mut refused = None;
        let (ids, sites, outputs) = (&self.ids, self.sites, &mut self.outputs);
        graph.run_step(&[batch], &mut self.memory, &mut |id, x| {
            let watched = ids.iter().zip(&sites.outputs).zip(outputs.iter_mut());
            for ((_, (layer, granularity)), observer) in watched.filter(|((i, _), _)| **i == id) {
                let range = extremes(x, *granularity, 0.0, |range, v| range.max(v.abs()));
                if x.iter().any(|v| !v.is_finite()) {
                    refused.get_or_insert_with(|| layer.clone());
                }
                observer.update(range);
            }
        })?;
        if let Some(layer) = refused {
            return Err(CalibrationError::RangeNotFinite { layer });
        }
        if let Some(granularity) = self.sites.input {
            let [min, max] = &mut self.input;
            min.update(extremes(batch, granularity, f32::INFINITY, f32::min));
            max.update(extremes(batch, granularity, f32::NEG_INFINITY, f32::max));
        }
        Ok(())
    }

    fn finish(self) -> Observed {
        let outputs = self
            .sites
            .outputs
            .iter()
            .zip(self.outputs)
            .filter_map(|((name, _), o)| o.get().cloned().map(|range| (name.clone(), range)));
        let [min, max] = self.input;
        let input = min.get().cloned().zip(max.get().cloned());
        Observed {
            outputs: outputs.collect(),
            input: input.map(|(min, max)| InputRange { min, max }),
        }
    }
}

/// Folds `f` over the tensor, or over each channel.
fn extremes(
    x: &ArrayD<f32>,
    granularity: Granularity,
    start: f32,
    f: impl Fn(f32, f32) -> f32,
) -> PerAxis<f32> {
    match granularity {
        Granularity::PerTensor => PerAxis::Tensor(x.iter().copied().fold(start, f)),
        Granularity::PerAxis => {
            let n_channels = x.shape().last().copied().unwrap_or(1);
            let mut ranges = vec![start; n_channels];
            let x = x.as_standard_layout();
            let flat = x.as_slice().unwrap_or_default();
            for pixel in flat.chunks_exact(n_channels.max(1)) {
                for (range, v) in ranges.iter_mut().zip(pixel) {
                    *range = f(*range, *v);
                }
            }
            PerAxis::Axis(ranges)
        }
    }
}

/// Returns `batch` in `n_parts` equal parts along its second axis.
fn parts(batch: ArrayD<f32>, n_parts: usize) -> Vec<ArrayD<f32>> {
    if n_parts == 1 {
        return vec![batch];
    }
    let len = batch.len_of(Axis(1)).div_ceil(n_parts).max(1);
    let parts = batch.axis_chunks_iter(Axis(1), len);
    parts.map(|part| part.to_owned()).collect()
}

/// Returns in how many parts the network takes a sample; more than one only over time steps.
fn check_shape(graph: &Graph, source: &dyn SampleSource) -> Result<usize, CalibrationError> {
    let Some(input) = graph.inputs().next() else {
        return Err(CalibrationError::Graph(GraphError::Empty));
    };
    let want = &graph.node(input).shape;
    let got = source.item_shape();
    let is_recurrent = |layer: &Layer| matches!(layer, Layer::StatefulRecurrent(_));
    let several = graph.nodes().iter().any(|node| is_recurrent(&node.layer));
    let n_parts = match (got, want.as_slice()) {
        ([time, ..], [Some(step), ..]) if several && time.checked_rem(*step) == Some(0) => {
            time.div_euclid(*step)
        }
        _ => 1,
    };
    let fits = |(axis, (got, want)): (usize, (&usize, &Option<usize>))| {
        let whole = if axis == 0 { n_parts } else { 1 };
        want.is_none_or(|want| want * whole == *got)
    };
    if n_parts > 0 && got.len() == want.len() && got.iter().zip(want).enumerate().all(fits) {
        return Ok(n_parts);
    }
    Err(CalibrationError::Shape {
        samples: got.to_vec(),
        input: want.clone(),
    })
}

fn check_finite(batch: &ArrayD<f32>, first: usize) -> Result<(), CalibrationError> {
    let bad = batch
        .outer_iter()
        .position(|item| item.iter().any(|v| !v.is_finite()));
    match bad {
        Some(i) => Err(CalibrationError::SampleNotFinite { sample: first + i }),
        None => Ok(()),
    }
}
