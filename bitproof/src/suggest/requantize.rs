//! A quantized model made again with other entries of its q_config.

use akida_sim::prove::with_buffer_bits;
use akida_sim::{
    CalibratedGraph, CalibratedOp, InputKind, QuantizedModel, QuantizedNode, QuantizedOp, lower,
};
use calibration::Progress;
use config_schema::{InputDtype, LayerConfig, ParamValues, QuantizationParams};
use float_model::{Dtype, Graph};
use quantizer_core::PerAxis;
use serde_json::{Map, Value};

use crate::quantize::{
    InputQuantizerMode, QuantizeOptions, calibrate_ranges, quantize, quantize_with_ranges,
};
use crate::{CalibratedRanges, Error, Samples};

/// Entries of a q_config, by layer.
pub type Entries = Map<String, Value>;

/// Makes a model again with other entries of its q_config.
#[derive(Debug)]
pub struct Requantizer {
    source: Source,
    /// The configuration of every layer of the model.
    base: Entries,
    /// Width that every buffer gets afterwards.
    buffer_bits: Option<u8>,
}

#[derive(Debug)]
enum Source {
    /// Float weights and ranges as the quantized model has them.
    Stored(Box<CalibratedGraph>),
    /// The float model and its ranges.
    Float(Box<FromFloat>),
}

#[derive(Debug)]
struct FromFloat {
    graph: Graph,
    ranges: CalibratedRanges,
    options: QuantizeOptions,
    /// What the ranges came from, for changes that ask for others.
    samples: Option<Samples>,
}

/// How samples are taken.
#[derive(Clone, Copy, Debug)]
pub struct SampleSteps {
    /// Samples in a calibration step; 100 if `None`.
    pub batch_size: Option<usize>,
    /// Passes over the samples.
    pub epochs: usize,
}

impl Requantizer {
    /// Returns what makes `model` again from the weights and ranges that it holds itself.
    #[must_use]
    pub fn stored(model: &QuantizedModel, graph: CalibratedGraph) -> Self {
        Self {
            source: Source::Stored(Box::new(graph)),
            base: model.dump_config(),
            buffer_bits: None,
        }
    }

    /// Returns what makes `model` again from its float model, calibrated on `samples`.
    ///
    /// # Errors
    ///
    /// As [`quantize`](fn@crate::quantize).
    pub fn from_samples(
        model: &QuantizedModel,
        graph: Graph,
        samples: Samples,
        steps: SampleSteps,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, Error> {
        let mut options = options_of(model)?;
        options.batch_size = steps.batch_size;
        options.epochs = steps.epochs;
        let first = calibrate_ranges(graph.clone(), samples.clone(), &options, progress)?;
        Self::from_float(model, graph, (first.ranges, Some(samples)), options)
    }

    /// Returns what makes `model` again from its float model with the ranges of `calibrate`.
    ///
    /// # Errors
    ///
    /// As [`quantize_with_ranges`].
    pub fn from_ranges(
        model: &QuantizedModel,
        graph: Graph,
        ranges: CalibratedRanges,
    ) -> Result<Self, Error> {
        Self::from_float(model, graph, (ranges, None), options_of(model)?)
    }

    fn from_float(
        model: &QuantizedModel,
        graph: Graph,
        (ranges, samples): (CalibratedRanges, Option<Samples>),
        options: QuantizeOptions,
    ) -> Result<Self, Error> {
        let mut this = Self {
            source: Source::Float(Box::new(FromFloat {
                graph,
                ranges,
                options,
                samples,
            })),
            base: model.dump_config(),
            buffer_bits: None,
        };
        // A model may end in floats that could be quantized: then it was told where to stop.
        if integer_layers(&this.quantize(&Map::new())?) != integer_layers(model)
            && let Source::Float(float) = &mut this.source
        {
            float.options.quantize_until = integer_layers(model).last().map(|s| (*s).to_owned());
            let again = this.quantize(&Map::new())?;
            if integer_layers(&again) != integer_layers(model) {
                return Err(Error::Invalid(
                    "the float model becomes other layers than the quantized one has: it is another \
                     model, or was quantized with other options"
                        .to_owned(),
                ));
            }
        }
        Ok(this)
    }

    /// Gives every buffer `bits` bits in all models that are made, as
    /// [`with_buffer_bits`].
    #[must_use]
    pub fn with_buffer_bits(mut self, bits: Option<u8>) -> Self {
        self.buffer_bits = bits;
        self
    }

    /// Returns the width that every buffer gets, if one was asked for.
    #[must_use]
    pub const fn buffer_bits(&self) -> Option<u8> {
        self.buffer_bits
    }

    /// Returns whether models are made from the float model.
    #[must_use]
    pub const fn has_float(&self) -> bool {
        matches!(self.source, Source::Float(_))
    }

    /// Returns the configuration of the model's layers.
    #[must_use]
    pub const fn base(&self) -> &Entries {
        &self.base
    }

    /// Returns the model with the entries of `fragment` instead of its own.
    ///
    /// # Errors
    ///
    /// What a quantization refuses.
    pub fn quantize(&self, fragment: &Entries) -> Result<QuantizedModel, Error> {
        let model = match &self.source {
            Source::Stored(graph) => edited(graph, fragment)?,
            Source::Float(float) => float.quantize(&self.base, fragment)?,
        };
        Ok(match self.buffer_bits {
            Some(bits) => with_buffer_bits(&model, bits)?,
            None => model,
        })
    }
}

impl FromFloat {
    fn quantize(&self, base: &Entries, fragment: &Entries) -> Result<QuantizedModel, Error> {
        let mut config = base.clone();
        config.extend(fragment.clone());
        let mut options = self.options.clone();
        options.q_config = Some(config);
        let again = quantize_with_ranges(self.graph.clone(), self.ranges.clone(), &options);
        Ok(match (again, &self.samples) {
            // Ranges of other channels or bits: only samples can give them.
            (Err(_), Some(samples)) => {
                quantize(self.graph.clone(), samples.clone(), &options, &mut |_| ())?.model
            }
            (again, _) => again?.model,
        })
    }
}

/// Returns the options that the model itself tells.
fn options_of(model: &QuantizedModel) -> Result<QuantizeOptions, Error> {
    let unknown = || Error::Invalid("the type of the model's input is not known".to_owned());
    let mut found = None;
    for node in &model.nodes {
        match &node.op {
            QuantizedOp::Input(InputKind::Raw { dtype, .. }) => {
                let dtype = match dtype {
                    Dtype::UInt8 => InputDtype::UInt8,
                    Dtype::Int8 => InputDtype::Int8,
                    Dtype::Int16 => InputDtype::Int16,
                    Dtype::UInt16 | Dtype::Int32 | Dtype::Float32 => return Err(unknown()),
                };
                found = Some((dtype, InputQuantizerMode::Never));
            }
            QuantizedOp::InputQuantizer { spec, .. } => {
                let dtype = match (spec.bitwidth, spec.signed) {
                    (8, false) => InputDtype::UInt8,
                    (8, true) => InputDtype::Int8,
                    (16, true) => InputDtype::Int16,
                    _ => return Err(unknown()),
                };
                found = Some((dtype, InputQuantizerMode::Always));
            }
            QuantizedOp::Input(InputKind::Float(_))
            | QuantizedOp::Integer(_)
            | QuantizedOp::Dequantizer(_)
            | QuantizedOp::Float(_) => {}
        }
    }
    let (input_dtype, input_quantizer) = found.ok_or_else(unknown)?;
    let params = QuantizationParams::try_from(ParamValues {
        input_dtype,
        ..ParamValues::default()
    })?;
    Ok(QuantizeOptions {
        params,
        q_config: Some(model.dump_config()),
        input_quantizer,
        ..QuantizeOptions::default()
    })
}

/// Returns the graph's model with other entries; its weights and ranges stay.
fn edited(graph: &CalibratedGraph, fragment: &Entries) -> Result<QuantizedModel, Error> {
    let mut graph = graph.clone();
    for node in &mut graph.nodes {
        let (Some(Value::Object(entry)), CalibratedOp::Quantized(layer)) =
            (fragment.get(&node.name), &mut node.op)
        else {
            continue;
        };
        let wrong = |(path, message): (String, String)| {
            Error::Invalid(format!("{}.{path}: {message}", node.name))
        };
        layer.config = LayerConfig::parse(entry).map_err(wrong)?;
        layer.json = Some(entry.clone());
        let is_per_tensor = entry
            .get("output_quantizer")
            .and_then(|quantizer| quantizer.get("axis"))
            .is_none_or(|axis| axis == "per-tensor");
        if let Some(ranges) = layer.ranges.as_mut().filter(|_| is_per_tensor) {
            // Rates belong to the weights behind, channel by channel: they cannot change here.
            if let (PerAxis::Axis(of_channels), Some(rate)) =
                (&ranges.range_max, ranges.rescaling_rate.uniform())
            {
                let widest = of_channels.iter().copied().fold(0.0, f32::max);
                ranges.range_max = PerAxis::Tensor(widest);
                ranges.rescaling_rate = PerAxis::Tensor(rate);
            } else if let PerAxis::Axis(_) = &ranges.range_max {
                return Err(Error::Invalid(
                    "the channels have been equalized: only the float model can tell their common \
                     range"
                        .to_owned(),
                ));
            }
        }
    }
    Ok(lower(graph)?)
}

fn integer_layers(model: &QuantizedModel) -> Vec<&str> {
    let is_integer = |node: &&QuantizedNode| matches!(node.op, QuantizedOp::Integer(_));
    let layers = model.nodes.iter().filter(is_integer);
    layers.map(|node| node.name.as_str()).collect()
}

/// Returns the first layer in which two models of the same layers differ.
#[must_use]
pub fn first_difference<'a>(a: &QuantizedModel, b: &'a QuantizedModel) -> Option<&'a str> {
    let pairs = a.nodes.iter().zip(&b.nodes);
    let mut differ = pairs.filter(|(a, b)| a.op != b.op || a.name != b.name);
    differ.next().map(|(_, b)| b.name.as_str())
}
