//! What more bits would help: found by quantizing again and measuring.

use akida_sim::{Executor, InputKind, ModelMemory, QuantizedModel, QuantizedOp};
use calibration::{ObserverKind, Progress, SampleSource};
use config_schema::{InputDtype, ParamValues, QuantizationParams};
use float_model::{Dtype, Graph, GraphMemory};
use ndarray::{ArrayD, Axis};
use serde_json::{Map, Value, json};

use super::layers::ModelDeviation;
use super::metrics::{Deviation, Place};
use crate::meaning::{Meaning, rewritten_like};
use crate::quantize::{
    InputQuantizerMode, QuantizeOptions, calibrate_ranges, quantize, quantize_with_ranges,
};
use crate::ranges::CalibratedRanges;
use crate::samples::Samples;
use crate::{Error, Quantized};

/// Widths that hardware has for weights and activations.
const WIDTHS: [u8; 3] = [4, 8, 16];

/// From this width on the reference quantizes a rectifier's outputs with a sign.
const SIGNED_FROM: u8 = 8;

/// Quantizers of a layer whose width can be raised.
const QUANTIZERS: [&str; 5] = [
    "weight_quantizer",
    "dw_weight_quantizer",
    "pw_weight_quantizer",
    "a_quantizer",
    "output_quantizer",
];

/// Samples that run at once.
const BATCH_SIZE: usize = 32;

/// More bits for one quantizer of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// The layer.
    pub layer: String,
    /// Key of the quantizer in the layer's entry, such as `weight_quantizer`.
    pub quantizer: String,
    /// Its bits now.
    pub from: u8,
    /// Its bits after the edit.
    pub to: u8,
    /// The complete entry of the layer after the edit, for a `q_config`.
    pub entry: Map<String, Value>,
}

impl Edit {
    /// Returns the edit as a `q_config` of one layer.
    #[must_use]
    pub fn fragment(&self) -> Value {
        json!({ self.layer.as_str(): self.entry })
    }
}

/// Quantizes the float network of a model again, with one quantizer changed.
///
/// Ranges are calibrated once: they do not depend on bits, unless the observer is
/// [`ObserverKind::Mse`], with which every try calibrates anew.
#[derive(Debug)]
pub struct Requantizer {
    graph: Graph,
    samples: Samples,
    options: QuantizeOptions,
    ranges: Option<CalibratedRanges>,
    config: Map<String, Value>,
    baseline: QuantizedModel,
    is_same: bool,
}

impl Requantizer {
    /// Calibrates `graph`, the float network that `model` was made from, on `samples`.
    ///
    /// Of `settings` the batches, epochs, samples, the seed and the observer are used; everything
    /// else is read from the model.
    ///
    /// # Errors
    ///
    /// Samples that do not fit, and a model that cannot be quantized again with the configuration
    /// that it has.
    pub fn new(
        model: &QuantizedModel,
        graph: Graph,
        samples: Samples,
        settings: &QuantizeOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, Error> {
        let mut options = options_of(model, &graph, settings)?;
        let config = model.dump_config();
        options.q_config = Some(config.clone());
        let mut failure = None;
        // A model that ends in float was stopped on purpose if its last layer of integers says so.
        for until in std::iter::once(None).chain(last_integers(model).map(Some)) {
            options.quantize_until = until;
            let again = if options.observer == ObserverKind::Mse {
                let samples = samples.clone();
                let again = quantize(graph.clone(), samples, &options, progress);
                again.map(|again| (None, again))
            } else {
                let samples = samples.clone();
                calibrate_ranges(graph.clone(), samples, &options, progress).and_then(|c| {
                    let ranges = c.ranges;
                    let again = quantize_with_ranges(graph.clone(), ranges.clone(), &options)?;
                    Ok((Some(ranges), again))
                })
            };
            match again {
                Ok((ranges, again)) if same_layers(model, &again.model) => {
                    let is_same = model.nodes == again.model.nodes;
                    return Ok(Self {
                        graph,
                        samples,
                        options,
                        ranges,
                        config,
                        baseline: again.model,
                        is_same,
                    });
                }
                Ok(_) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(failure.unwrap_or_else(|| {
            Error::Invalid(
                "the model quantized again has other layers: no edit can be tried".to_owned(),
            )
        }))
    }

    /// Returns the model quantized again without an edit.
    #[must_use]
    pub const fn baseline(&self) -> &QuantizedModel {
        &self.baseline
    }

    /// Returns whether the model quantized again is the given one, integer by integer: it was made
    /// from the same samples in the same batches.
    #[must_use]
    pub const fn is_same(&self) -> bool {
        self.is_same
    }

    /// Returns every edit that raises one quantizer to the next width of 4, 8 and 16 bits, up to
    /// `max_bits`, in the order of the model's layers.
    #[must_use]
    pub fn edits(&self, max_bits: u8) -> Vec<Edit> {
        let mut edits = Vec::new();
        for (layer, entry) in &self.config {
            let Some(entry) = entry.as_object() else {
                continue;
            };
            for quantizer in QUANTIZERS {
                edits.extend(raised(layer, entry, quantizer, max_bits));
            }
        }
        edits
    }

    /// Returns the model with one edit.
    ///
    /// # Errors
    ///
    /// The configuration is refused, or the numerics are, such as widths that exceed a buffer.
    pub fn with(&self, edit: &Edit) -> Result<QuantizedModel, Error> {
        let mut options = self.options.clone();
        let mut config = self.config.clone();
        config.insert(edit.layer.clone(), Value::Object(edit.entry.clone()));
        options.q_config = Some(config);
        let Quantized { model, .. } = match &self.ranges {
            Some(ranges) => quantize_with_ranges(self.graph.clone(), ranges.clone(), &options)?,
            None => quantize(
                self.graph.clone(),
                self.samples.clone(),
                &options,
                &mut |_| (),
            )?,
        };
        Ok(model)
    }
}

/// Returns the options that quantize as `model` was quantized.
fn options_of(
    model: &QuantizedModel,
    graph: &Graph,
    settings: &QuantizeOptions,
) -> Result<QuantizeOptions, Error> {
    let mut values = ParamValues::default();
    let mut input_quantizer = InputQuantizerMode::Never;
    for node in &model.nodes {
        match &node.op {
            QuantizedOp::InputQuantizer { spec, .. } => {
                let known = [InputDtype::UInt8, InputDtype::Int8, InputDtype::Int16];
                let alike = |dtype: &InputDtype| {
                    dtype.bitwidth() == spec.bitwidth && dtype.is_signed() == spec.signed
                };
                values.input_dtype = known.into_iter().find(alike).ok_or_else(|| {
                    Error::Invalid(format!(
                        "layer `{}` has {} bits: inputs are quantized to uint8, int8 or int16",
                        node.name, spec.bitwidth
                    ))
                })?;
                values.per_tensor_activations = spec.range_max.is_per_tensor();
                input_quantizer = InputQuantizerMode::Always;
            }
            QuantizedOp::Input(InputKind::Raw { dtype, .. }) => {
                values.input_dtype = match dtype {
                    Dtype::Int8 => InputDtype::Int8,
                    Dtype::Int16 => InputDtype::Int16,
                    Dtype::UInt8 | Dtype::UInt16 | Dtype::Int32 | Dtype::Float32 => {
                        InputDtype::UInt8
                    }
                };
            }
            QuantizedOp::Input(InputKind::Float(_))
            | QuantizedOp::Integer(_)
            | QuantizedOp::Dequantizer(_)
            | QuantizedOp::Float(_) => {}
        }
    }
    Ok(QuantizeOptions {
        params: QuantizationParams::try_from(values)?,
        input_quantizer,
        hardware: rewritten_like(graph, model)?.hardware,
        ..settings.clone()
    })
}

/// Returns the names of layers of integers that floats take.
fn last_integers(model: &QuantizedModel) -> impl Iterator<Item = String> {
    let dequantizers = model.nodes.iter();
    let sources = dequantizers.filter_map(|node| {
        let source = model.nodes.get(*node.inputs.first()?)?;
        matches!(node.op, QuantizedOp::Dequantizer(_)).then(|| source.name.clone())
    });
    sources.collect::<Vec<_>>().into_iter()
}

/// Returns whether both models have the same layers of integers.
fn same_layers(a: &QuantizedModel, b: &QuantizedModel) -> bool {
    let integers = |model: &QuantizedModel| -> Vec<String> {
        let nodes = model.nodes.iter();
        let integers = nodes.filter(|node| matches!(node.op, QuantizedOp::Integer(_)));
        integers.map(|node| node.name.clone()).collect()
    };
    integers(a) == integers(b)
}

/// Returns the edit that raises a quantizer, if the layer has it and there is a next width.
fn raised(layer: &str, entry: &Map<String, Value>, quantizer: &str, max_bits: u8) -> Option<Edit> {
    let mut entry = entry.clone();
    let object = entry.get_mut(quantizer)?.as_object_mut()?;
    let from = u8::try_from(object.get("bitwidth")?.as_u64()?).ok()?;
    let to = WIDTHS.into_iter().find(|width| *width > from)?;
    if to > max_bits {
        return None;
    }
    object.insert("bitwidth".to_owned(), json!(to));
    if quantizer == "output_quantizer" {
        if to >= SIGNED_FROM && object.get("signed") == Some(&Value::Bool(false)) {
            object.insert("signed".to_owned(), Value::Bool(true));
        }
        // Scales of 8 bits would cost what 16 bits of outputs give.
        let narrow = object.get("scale_bits").and_then(Value::as_u64);
        if narrow.is_some_and(|bits| bits < u64::from(to) && to > SIGNED_FROM) {
            object.insert("scale_bits".to_owned(), json!(to));
        }
    }
    Some(Edit {
        layer: layer.to_owned(),
        quantizer: quantizer.to_owned(),
        from,
        to,
        entry,
    })
}

/// The outputs of a float network on some samples, to compare quantized models with.
#[derive(Debug)]
pub struct OutputError {
    batches: Vec<(ArrayD<f32>, Vec<ArrayD<f32>>)>,
}

impl OutputError {
    /// Runs the float network on the first `n_samples` samples of `source`, which stay in memory
    /// with their outputs.
    ///
    /// # Errors
    ///
    /// Samples that cannot be read, or that the network does not take.
    pub fn new(
        graph: &Graph,
        source: &mut dyn SampleSource,
        n_samples: usize,
    ) -> Result<Self, Error> {
        source.rewind()?;
        let mut batches = Vec::new();
        let mut memory = GraphMemory::default();
        let is_temporal = graph.nodes().iter().any(|node| node.layer.is_temporal());
        let size = if is_temporal { 1 } else { BATCH_SIZE };
        let mut left = n_samples;
        while left > 0 {
            let batch = source.next_batch(left.min(size))?;
            let n = batch.shape().first().copied().unwrap_or(0);
            if n == 0 {
                break;
            }
            left -= n.min(left);
            let outputs = graph.run_step(&[&batch], &mut memory, &mut |_, _| ())?;
            batches.push((batch, outputs));
        }
        Ok(Self { batches })
    }

    /// Returns the number of samples.
    #[must_use]
    pub fn n_samples(&self) -> usize {
        let all = self.batches.iter();
        all.map(|(batch, _)| batch.len_of(Axis(0))).sum()
    }

    /// Returns how the outputs of a quantized model deviate.
    ///
    /// # Errors
    ///
    /// A model that does not take the samples, or has other outputs.
    pub fn of(&self, model: &QuantizedModel) -> Result<Deviation, Error> {
        let meaning = Meaning::new(model);
        let executor: &Executor<'_> = &meaning.executor;
        let mut memory = ModelMemory::default();
        let mut all = Deviation::default();
        for (batch, floats) in &self.batches {
            let run = if model.is_temporal() {
                executor.run_step(batch, &mut memory, &mut |_, _| ())?
            } else {
                executor.outputs(batch)?
            };
            for ((index, output), float) in model.outputs.iter().zip(&run.outputs).zip(floats) {
                let values = meaning.of(*index, output)?;
                if values.shape() != float.shape() {
                    return Err(Error::Invalid("the model has other outputs".to_owned()));
                }
                let pairs = float.iter().zip(values.iter());
                pairs.for_each(|(x, y)| all.add(*x, *y, Place::Inside));
            }
        }
        Ok(all)
    }
}

/// Returns `edits` with those of the layers first that lose most on their own.
///
/// The order of edits of one layer, and of layers that lose alike, stays.
#[must_use]
pub fn ranked_by_deviation(edits: Vec<Edit>, found: &ModelDeviation) -> Vec<Edit> {
    let noise = |edit: &Edit| {
        let layer = found.layers.iter().find(|layer| layer.name == edit.layer);
        layer
            .and_then(|layer| layer.alone.as_ref())
            .map_or(0.0, Deviation::noise_share)
    };
    let mut edits = edits;
    edits.sort_by(|a, b| noise(b).total_cmp(&noise(a)));
    edits
}
