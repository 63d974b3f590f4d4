//! What samples do: counts and histograms of every layer.

use std::collections::BTreeMap;

use bitproof::akida_sim::Values;
use bitproof::quantizer_core::Counters;
use bitproof::{Error, Executor, Graph, QuantizedModel, Tensor};
use ndarray::{ArrayD, Axis};

use crate::histogram::{Grid, Histogram};

/// What was seen on samples.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Samples that were run.
    pub n_items: usize,
    /// One entry for each node of the model.
    pub layers: Vec<MeasuredLayer>,
}

/// What was seen of one layer.
#[derive(Clone, Debug, Default)]
pub struct MeasuredLayer {
    /// Saturations and largest magnitudes.
    pub counters: Counters,
    /// Outputs of the quantized model: integers, or floats where it is float.
    pub after: Option<Histogram>,
    /// Outputs of the float model's layer of the same name.
    pub before: Option<Histogram>,
}

/// Runs samples through a quantized model and, if given, the float model it was made from.
#[derive(Debug)]
pub struct Measurement<'a> {
    executor: Executor<'a>,
    float: Option<(&'a Graph, BTreeMap<usize, usize>)>,
    measured: Measured,
}

impl<'a> Measurement<'a> {
    /// Starts with no samples. `float` is what [`counterpart`](bitproof::counterpart) returns.
    #[must_use]
    pub fn new(model: &'a QuantizedModel, float: Option<&'a Graph>) -> Self {
        let layers = vec![MeasuredLayer::default(); model.nodes.len()];
        let names = model.nodes.iter().map(|node| node.name.as_str());
        let by_name: BTreeMap<&str, usize> = names.zip(0..).collect();
        let pairs = |graph: &Graph| {
            let ids = graph.iter().filter_map(|(id, node)| {
                let index = by_name.get(node.name.as_str())?;
                Some((id.index(), *index))
            });
            ids.collect()
        };
        Self {
            executor: Executor::new(model),
            float: float.map(|graph| (graph, pairs(graph))),
            measured: Measured { n_items: 0, layers },
        }
    }

    /// Runs a batch, `[batch, ...]`.
    ///
    /// # Errors
    ///
    /// A batch that one of the models does not take.
    pub fn add(&mut self, batch: &ArrayD<f32>) -> Result<(), Error> {
        let layers = &mut self.measured.layers;
        let run = self.executor.run(batch, &mut |index, tensor| {
            if let Some(layer) = layers.get_mut(index) {
                count(&mut layer.after, tensor);
            }
        })?;
        for (layer, counters) in layers.iter_mut().zip(&run.counters) {
            layer.counters.merge(counters);
        }
        if let Some((graph, pairs)) = &self.float {
            graph.run(&[batch], &mut |id, values| {
                let layer = pairs.get(&id.index()).and_then(|i| layers.get_mut(*i));
                if let Some(layer) = layer {
                    let before = layer
                        .before
                        .get_or_insert_with(|| Histogram::new(Grid::Floats));
                    before.add(values.iter().map(|v| f64::from(*v)));
                }
            })?;
        }
        self.measured.n_items += batch.len_of(Axis(0));
        Ok(())
    }

    /// Returns what was seen.
    #[must_use]
    pub fn finish(self) -> Measured {
        self.measured
    }
}

fn count(histogram: &mut Option<Histogram>, tensor: &Tensor) {
    let grid = match &tensor.values {
        Values::F32(_) => Grid::Floats,
        Values::U8(_) | Values::I8(_) | Values::I16(_) | Values::I32(_) | Values::I64(_) => {
            Grid::Integers
        }
    };
    let histogram = histogram.get_or_insert_with(|| Histogram::new(grid));
    match &tensor.values {
        Values::U8(x) => histogram.add(x.iter().map(|v| f64::from(*v))),
        Values::I8(x) => histogram.add(x.iter().map(|v| f64::from(*v))),
        Values::I16(x) => histogram.add(x.iter().map(|v| f64::from(*v))),
        Values::I32(x) => histogram.add(x.iter().map(|v| f64::from(*v))),
        Values::I64(x) => histogram.add(x.iter().map(|v| wide(*v))),
        Values::F32(x) => histogram.add(x.iter().map(|v| f64::from(*v))),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a place in a drawing")]
const fn wide(v: i64) -> f64 {
    v as f64
}
