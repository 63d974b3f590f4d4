//! The calibration pass: the float network runs, sites are observed.

use std::collections::BTreeMap;

use float_model::{Graph, GraphError, GraphMemory, Layer, NodeId, Watch};
use kernels::Kernels;
use ndarray::{ArrayD, ArrayViewD, Axis};
use quantizer_core::PerAxis;

use crate::convergence::{Convergence, Snapshot};
use crate::observer::{InputObserver, of_channels};
use crate::{BatchPlan, CalibrationError, Observer, ObserverKind, SampleSource};

/// What has a range of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// The whole tensor.
    PerTensor,
    /// Each channel of the last axis.
    PerAxis,
}

/// What is observed, and how.
#[derive(Clone, Debug, Default)]
pub struct ObservedSites {
    /// Layers whose float outputs are observed.
    pub outputs: Vec<ObservedSite>,
    /// Whether, and how, the model's input is observed.
    pub input: Option<Granularity>,
    /// What watches the outputs.
    pub observer: ObserverKind,
}

/// A layer whose float outputs are observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedSite {
    /// Its name.
    pub layer: String,
    /// What has a range of its own.
    pub granularity: Granularity,
    /// Bits of the quantized outputs, without the sign.
    pub value_bits: u8,
}

/// Ranges that were observed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Ranges of `|output|`, by layer.
    pub outputs: BTreeMap<String, PerAxis<f32>>,
    /// Range of the input.
    pub input: Option<InputRange>,
    /// Samples of one epoch.
    pub n_samples: usize,
    /// How much the last samples still moved the ranges; `None` after a single batch.
    pub convergence: Option<Convergence>,
}

/// Extremes of the input.
#[derive(Clone, Debug, PartialEq)]
pub struct InputRange {
    /// Minimum.
    pub min: PerAxis<f32>,
    /// Maximum.
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
/// Observed are the layers' float outputs, before any quantization. NUMERICS.md: C1, C2, C7 to C10.
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
    let mut n_samples = 0;
    let mut snapshot = None;
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
            check_integers(graph, &batch, first)?;
            for part in parts(batch, n_parts) {
                observers.batch(&part)?;
            }
            first += n;
            done += n;
            n_samples = first;
            progress(Progress { done, total });
            let next = plan.batch_size.min(per_epoch);
            if Snapshot::is_due(done, next, total) {
                snapshot = Some(observers.snapshot(done));
            }
        }
    }
    if done == 0 {
        return Err(CalibrationError::NoSamples);
    }
    let last = observers.snapshot(done);
    let convergence = snapshot.and_then(|snapshot| snapshot.convergence(&last));
    Ok(Observed {
        outputs: last.outputs,
        input: last.input.map(|(_, range)| range),
        n_samples,
        convergence,
    })
}

struct Observers<'s> {
    graph: &'s Graph,
    sites: &'s ObservedSites,
    ids: Vec<NodeId>,
    outputs: Vec<Box<dyn Observer>>,
    input: Option<(String, InputObserver)>,
    /// What finds the largest magnitudes of the outputs, if they are all that the observers need.
    watch: Option<(Watch<'s>, Vec<Granularity>)>,
    memory: GraphMemory,
}

impl<'s> Observers<'s> {
    fn new(graph: &'s Graph, sites: &'s ObservedSites) -> Result<Self, CalibrationError> {
        let mut ids = Vec::with_capacity(sites.outputs.len());
        let mut outputs = Vec::with_capacity(sites.outputs.len());
        for site in &sites.outputs {
            let layer = &site.layer;
            let id = graph.find(layer).ok_or_else(|| GraphError::UnknownLayer {
                layer: "calibration".to_owned(),
                name: layer.clone(),
            })?;
            if site.granularity == Granularity::PerAxis && graph.node(id).shape.len() < 2 {
                return Err(CalibrationError::Layer {
                    layer: layer.clone(),
                    message: "a vector cannot have a range for each channel".to_owned(),
                });
            }
            ids.push(id);
            outputs.push(sites.observer.observer(site.granularity, site.value_bits));
        }
        let name = graph.inputs().next().map(|id| graph.node(id).name.clone());
        let input = name.zip(sites.input).map(|(name, granularity)| {
            let observer = InputObserver::new(granularity, sites.observer);
            (name, observer)
        });
        let forms = outputs.iter().map(|o| o.takes_magnitudes());
        let forms: Option<Vec<Granularity>> = forms.collect();
        let remembers = graph.nodes().iter().any(|node| node.layer.is_temporal());
        let forms = forms.filter(|_| !remembers);
        Ok(Self {
            graph,
            sites,
            watch: forms.map(|forms| (graph.watch(&ids), forms)),
            ids,
            outputs,
            input,
            memory: GraphMemory::default(),
        })
    }

    fn batch(&mut self, batch: &ArrayD<f32>) -> Result<(), CalibrationError> {
        if self.watch.is_some() {
            self.largest_of(batch)?;
        } else {
            self.whole_batch(batch)?;
        }
        if let Some((_, observer)) = &mut self.input {
            observer.update(batch);
        }
        Ok(())
    }

    /// Takes the largest magnitudes of a batch, whose samples run a few at a time: their tensors are small, and the
    /// largest of all is the same in any order.
    fn largest_of(&mut self, batch: &ArrayD<f32>) -> Result<(), CalibrationError> {
        let Some((watch, forms)) = &self.watch else {
            return Ok(());
        };
        let largest = watch.run(batch)?;
        let sites = self.sites.outputs.iter().zip(&mut self.outputs);
        for ((site, observer), (channels, form)) in sites.zip(largest.into_iter().zip(forms)) {
            let values = of_channels(channels, *form).map(f32::from_bits);
            if values.as_slice().iter().any(|v| !v.is_finite()) {
                let layer = site.layer.clone();
                return Err(CalibrationError::RangeNotFinite { layer });
            }
            observer.update_magnitudes(values);
        }
        Ok(())
    }

    fn whole_batch(&mut self, batch: &ArrayD<f32>) -> Result<(), CalibrationError> {
        let mut refused = None;
        let (ids, sites, outputs) = (&self.ids, self.sites, &mut self.outputs);
        self.graph
            .run_step(&[batch], &mut self.memory, &mut |id, x| {
                let watched = ids.iter().zip(&sites.outputs).zip(outputs.iter_mut());
                for ((_, site), observer) in watched.filter(|((i, _), _)| **i == id) {
                    if x.iter().all(|v| v.is_finite()) {
                        observer.update(x);
                    } else {
                        refused.get_or_insert_with(|| site.layer.clone());
                    }
                }
            })?;
        if let Some(layer) = refused {
            return Err(CalibrationError::RangeNotFinite { layer });
        }
        Ok(())
    }

    /// Returns the ranges after `done` samples.
    fn snapshot(&self, done: usize) -> Snapshot {
        let layers = self.sites.outputs.iter().map(|site| site.layer.clone());
        let outputs = layers
            .zip(&self.outputs)
            .filter_map(|(layer, observer)| Some((layer, observer.range()?)));
        let input = self.input.as_ref();
        Snapshot {
            done,
            outputs: outputs.collect(),
            input: input.and_then(|(name, observer)| Some((name.clone(), observer.range()?))),
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

/// Checks that samples are integers of the input's type, where it has an integer type.
fn check_integers(
    graph: &Graph,
    batch: &ArrayD<f32>,
    first: usize,
) -> Result<(), CalibrationError> {
    let input = graph.inputs().next().map(|id| &graph.node(id).layer);
    let Some(Layer::Input(input)) = input else {
        return Ok(());
    };
    let Some((lo, hi)) = input.dtype.limits() else {
        return Ok(());
    };
    let fits = |v: f32| (lo..=hi).contains(&v) && is_whole(v);
    let kernels = Kernels::active();
    for (i, item) in batch.outer_iter().enumerate() {
        let integers = limits_of(lo, hi);
        if item
            .as_slice()
            .is_some_and(|item| kernels.are_whole_numbers(item, integers))
        {
            continue;
        }
        if let Some(value) = item.iter().find(|v| !fits(**v)) {
            return Err(CalibrationError::SampleNotInteger {
                sample: first + i,
                value: value.to_string(),
                dtype: input.dtype.name(),
            });
        }
    }
    Ok(())
}

/// Returns the limits of an integer type; the largest `i32` is below its float.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a limit that is no `i32` becomes the nearest one"
)]
const fn limits_of(lo: f32, hi: f32) -> (i32, i32) {
    (lo as i32, hi as i32)
}

/// Returns whether a number within the integer types, of at most 32 bits, is whole: then it comes back unchanged.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    reason = "a number that comes back unchanged was whole"
)]
fn is_whole(v: f32) -> bool {
    v as i32 as f32 == v
}

/// Returns whether every element is one that `fits`.
///
/// No early end: nearly all samples fit, and a loop to the end takes vectors.
pub(crate) fn every(item: &ArrayViewD<'_, f32>, fits: impl Fn(f32) -> bool) -> bool {
    match item.as_slice() {
        Some(elements) => elements.iter().fold(true, |all, v| all & fits(*v)),
        None => item.iter().all(|v| fits(*v)),
    }
}

fn check_finite(batch: &ArrayD<f32>, first: usize) -> Result<(), CalibrationError> {
    let kernels = Kernels::active();
    // Bytes, as most samples are, need one look.
    let is_short = |x: &[f32]| kernels.are_whole_numbers(x, (-65_536, 65_535));
    if batch.as_slice().is_some_and(is_short) {
        return Ok(());
    }
    let bad = batch
        .outer_iter()
        .position(|item| !every(&item, f32::is_finite));
    match bad {
        Some(i) => Err(CalibrationError::SampleNotFinite { sample: first + i }),
        None => Ok(()),
    }
}
