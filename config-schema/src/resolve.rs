//! The decision for every layer: quantized with which configuration, or float and why.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::assign::assign;
use crate::check::check_entry;
use crate::layer_config::{Axis, LayerConfig};
use crate::merge::{check_widths, complete};
use crate::params::{ParamValues, QuantizationParams};
use crate::report::{ConfigIssue, ConfigReport};
use crate::topology::{LayerInfo, LayerKind, Topology};

/// What to do with mistakes in a `q_config`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strictness {
    /// Every mistake is an error.
    #[default]
    Strict,
    /// As the reference: unknown names are ignored, a bad value leaves its layer in float. Each is
    /// a warning.
    Lenient,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Parameters of the whole model.
    pub params: &'a QuantizationParams,
    /// Configuration of single layers.
    pub q_config: Option<&'a Map<String, Value>>,
    /// The last layer to quantize on its branch.
    pub quantize_until: Option<&'a str>,
    /// Layers that rewrites removed, and where they went ("folded into `conv1`").
    pub removed: &'a BTreeMap<String, String>,
    /// What to do with mistakes.
    pub strictness: Strictness,
}

/// The decision for every layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// Decisions, in the order of the topology.
    pub layers: Vec<ResolvedLayer>,
    /// Whether no layer is left in float.
    pub fully_quantized: bool,
    /// What was forced, ignored or left in float.
    pub warnings: Vec<ConfigIssue>,
}

/// The decision for one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedLayer {
    /// Name.
    pub name: String,
    /// Decision.
    pub status: Status,
}

/// Whether a layer is quantized.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// An input of the model.
    Input,
    /// It runs on integers.
    Quantized {
        /// Effective configuration.
        config: Box<LayerConfig>,
        /// The entry of `dump_config`; `None` for classes without one.
        json: Option<Map<String, Value>>,
        /// Where each value of the entry comes from, by path below the layer.
        sources: Vec<(String, Source)>,
    },
    /// It stays in float.
    Float {
        /// Why.
        reason: String,
    },
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The `q_config`.
    File,
    /// A field of the QuantizationParams.
    Parameter(&'static str),
    /// A default of the class.
    Default,
    /// A rule of quantization.
    Rule(&'static str),
}

/// Returns the decision for every layer of `topology`.
///
/// # Errors
///
/// Every mistake of the `q_config`, of `quantize_until` and of `last_output_bits`, in one report;
/// or that no layer can be quantized.
pub fn resolve(topology: &Topology, request: &Request<'_>) -> Result<Resolved, ConfigReport> {
    let params = request.params.values();
    let mut resolver = Resolver {
        topology,
        request,
        report: ConfigReport::default(),
    };
    resolver.check_names();
    resolver.check_quantize_until();
    let automatic = assign(topology, params);
    let mut layers = resolver.decide(&automatic);
    let fully_quantized = layers
        .iter()
        .all(|l| !matches!(l.status, Status::Float { .. }));
    if !layers
        .iter()
        .any(|l| matches!(l.status, Status::Quantized { .. }))
    {
        let why = layers.iter().find_map(|l| match &l.status {
            Status::Float { reason } => Some(format!("{}: {reason}", l.name)),
            Status::Input | Status::Quantized { .. } => None,
        });
        let message = format!("no layer can be quantized ({})", why.unwrap_or_default());
        resolver.report.errors.push(ConfigIssue::new("$", message));
    }
    resolver.apply_last_output_bits(&mut layers, fully_quantized);
    let ConfigReport { errors, warnings } = resolver.report;
    if errors.is_empty() {
        Ok(Resolved {
            layers,
            fully_quantized,
            warnings,
        })
    } else {
        Err(ConfigReport { errors, warnings })
    }
}

struct Resolver<'a> {
    topology: &'a Topology,
    request: &'a Request<'a>,
    report: ConfigReport,
}

impl Resolver<'_> {
    fn mistake(&mut self, issue: ConfigIssue) {
        match self.request.strictness {
            Strictness::Strict => self.report.errors.push(issue),
            Strictness::Lenient => self.report.warnings.push(issue),
        }
    }

    /// Every name of the `q_config` must be that of a layer with a configuration.
    fn check_names(&mut self) {
        for name in self.request.q_config.into_iter().flat_map(Map::keys) {
            let path = format!("$.{name}");
            let known = || {
                let layers = self.topology.layers.iter();
                layers
                    .filter(|l| l.kind.is_configurable())
                    .map(|l| l.name.as_str())
            };
            let issue = match self.topology.find(name) {
                Some(i) if self.topology.layers[i].kind.is_configurable() => continue,
                Some(_) => ConfigIssue::new(path, "this layer has no configuration"),
                None => match self.request.removed.get(name) {
                    Some(place) => ConfigIssue::new(path, format!("this layer is gone: {place}")),
                    None => ConfigIssue::unknown(
                        path,
                        format!("the model has no layer `{name}`"),
                        name,
                        known(),
                    ),
                },
            };
            self.mistake(issue);
        }
    }

    fn check_quantize_until(&mut self) {
        let Some(name) = self.request.quantize_until else {
            return;
        };
        if self.topology.find(name).is_some() {
            return;
        }
        let issue = match self.request.removed.get(name) {
            Some(place) => ConfigIssue::new(
                "quantize_until",
                format!("layer `{name}` is gone before quantization: {place}"),
            ),
            None => ConfigIssue::unknown(
                "quantize_until".to_owned(),
                format!("the model has no layer `{name}`"),
                name,
                self.topology.layers.iter().map(|l| l.name.as_str()),
            ),
        };
        self.report.errors.push(issue);
    }

    /// Walks the layers in order; a layer is quantized if all its inputs are.
    fn decide(&mut self, automatic: &[Option<Map<String, Value>>]) -> Vec<ResolvedLayer> {
        let mut reaches = vec![false; self.topology.layers.len()];
        let mut first_weights = true;
        let mut layers = Vec::with_capacity(reaches.len());
        for (i, layer) in self.topology.layers.iter().enumerate() {
            let float_input = layer.inputs.iter().find(|input| !reaches[**input]);
            let status = if layer.kind == LayerKind::Input {
                Status::Input
            } else if let Some(input) = float_input {
                let name = &self.topology.layers[*input].name;
                Status::Float {
                    reason: format!("its input `{name}` is not quantized"),
                }
            } else {
                self.configure(layer, automatic[i].as_ref(), first_weights)
            };
            let quantized = !matches!(status, Status::Float { .. });
            if quantized && layer.kind.is_weighted() {
                first_weights = false;
            }
            reaches[i] = quantized && self.request.quantize_until != Some(layer.name.as_str());
            layers.push(ResolvedLayer {
                name: layer.name.clone(),
                status,
            });
        }
        layers
    }

    fn configure(
        &mut self,
        layer: &LayerInfo,
        automatic: Option<&Map<String, Value>>,
        first_weights: bool,
    ) -> Status {
        if let Some(reason) = &layer.float_only {
            return Status::Float {
                reason: reason.clone(),
            };
        }
        if layer.kind == LayerKind::Unquantizable {
            return Status::Float {
                reason: "its class has no integer form".to_owned(),
            };
        }
        if !layer.kind.is_configurable() {
            return plain();
        }
        let user = self.user_entry(layer);
        let n_errors = self.report.errors.len() + self.report.warnings.len();
        if let Some(user) = &user {
            for issue in check_entry(layer, user) {
                self.mistake(issue);
            }
            self.check_output_quantizer(layer, user, automatic);
        }
        let mistaken = self.report.errors.len() + self.report.warnings.len() > n_errors;
        let params = self.request.params.values();
        let weights = if first_weights {
            params.input_weight_bits
        } else {
            params.weight_bits
        };
        let mut entry = user
            .clone()
            .or_else(|| automatic.cloned())
            .unwrap_or_default();
        let forced = complete(layer, &mut entry, params, weights);
        self.report.warnings.extend(forced);
        if !mistaken {
            for issue in check_widths(layer, &entry) {
                self.mistake(issue);
            }
        }
        match LayerConfig::parse(&entry) {
            Ok(config) => {
                let sources = sources(layer, &entry, user.as_ref(), first_weights);
                Status::Quantized {
                    config: Box::new(config),
                    json: Some(entry),
                    sources,
                }
            }
            Err((path, message)) => {
                if !mistaken {
                    self.mistake(ConfigIssue::new(
                        format!("$.{}.{path}", layer.name),
                        message,
                    ));
                }
                Status::Float {
                    reason: format!("its configuration is wrong at {path}"),
                }
            }
        }
    }

    /// Returns the user's entry of a layer, `None` if there is none or it is empty.
    #[expect(clippy::wildcard_enum_match_arm, reason = "anything else is no entry")]
    fn user_entry(&mut self, layer: &LayerInfo) -> Option<Map<String, Value>> {
        match self.request.q_config?.get(&layer.name)? {
            Value::Object(entry) if entry.is_empty() => None,
            Value::Object(entry) => Some(entry.clone()),
            other => {
                let path = format!("$.{}", layer.name);
                self.mistake(ConfigIssue::new(
                    path,
                    format!("expected an object, found {other}"),
                ));
                None
            }
        }
    }

    /// An entry replaces the automatic one, whose output quantizer the next layers need.
    fn check_output_quantizer(
        &mut self,
        layer: &LayerInfo,
        user: &Map<String, Value>,
        automatic: Option<&Map<String, Value>>,
    ) {
        let Some(needed) = automatic.and_then(|entry| entry.get("output_quantizer")) else {
            return;
        };
        if user.get("output_quantizer").is_none_or(Value::is_null) {
            let path = format!("$.{}.output_quantizer", layer.name);
            let message = format!(
                "is missing: the entry replaces the automatic one, and the layers that follow need \
                 quantized inputs; without an entry it would be {needed}"
            );
            self.report.errors.push(ConfigIssue::new(path, message));
        }
    }

    /// Gives each output of a fully quantized model an output quantizer.
    fn apply_last_output_bits(&mut self, layers: &mut [ResolvedLayer], fully_quantized: bool) {
        let params: &ParamValues = self.request.params.values();
        let Some(bits) = params.last_output_bits else {
            return;
        };
        if !fully_quantized {
            let message = "has no effect: the model ends in float";
            self.report
                .warnings
                .push(ConfigIssue::new("last_output_bits", message));
            return;
        }
        let scale_bits = if bits >= 16 { 16 } else { 8 };
        let quantizer = json!({ "bitwidth": bits, "buffer_bitwidth": params.buffer_bits, "scale_bits": scale_bits });
        for (info, layer) in self.topology.layers.iter().zip(layers) {
            if !info.is_output {
                continue;
            }
            let Status::Quantized {
                config,
                json: Some(entry),
                sources,
            } = &mut layer.status
            else {
                let message = format!(
                    "the output `{}` cannot rescale: it has no output quantizer",
                    info.name
                );
                self.report
                    .errors
                    .push(ConfigIssue::new("last_output_bits", message));
                continue;
            };
            entry.insert("output_quantizer".to_owned(), quantizer.clone());
            sources.retain(|(path, _)| !path.starts_with("output_quantizer"));
            let from = |path: &str, source| (format!("output_quantizer.{path}"), source);
            sources.push(from("bitwidth", Source::Parameter("last_output_bits")));
            sources.push(from("buffer_bitwidth", Source::Parameter("buffer_bits")));
            sources.push(from(
                "scale_bits",
                Source::Rule("16 from 16 output bits up, else 8"),
            ));
            match LayerConfig::parse(entry) {
                Ok(parsed) => **config = parsed,
                Err((path, message)) => {
                    let path = format!("$.{}.{path}", info.name);
                    self.report.errors.push(ConfigIssue::new(path, message));
                }
            }
        }
    }
}

/// Returns the decision for a layer that is quantized without a configuration.
fn plain() -> Status {
    let config = LayerConfig::parse(&Map::new()).ok();
    match config {
        Some(config) => Status::Quantized {
            config: Box::new(config),
            json: None,
            sources: Vec::new(),
        },
        None => Status::Float {
            reason: "it has no configuration".to_owned(),
        },
    }
}

/// Returns where each value of an entry comes from.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "anything but an object is a value"
)]
fn sources(
    layer: &LayerInfo,
    entry: &Map<String, Value>,
    user: Option<&Map<String, Value>>,
    first_weights: bool,
) -> Vec<(String, Source)> {
    let mut sources = Vec::new();
    for (key, value) in entry {
        match value {
            Value::Object(object) => {
                for (inner, value) in object {
                    let given = user.and_then(|u| u.get(key)).and_then(|o| o.get(inner));
                    let source = if given == Some(value) {
                        Source::File
                    } else {
                        automatic_source(layer, key, inner, first_weights)
                    };
                    sources.push((format!("{key}.{inner}"), source));
                }
            }
            value => {
                let given = user.and_then(|u| u.get(key)) == Some(value);
                let source = if given {
                    Source::File
                } else {
                    automatic_source(layer, key, "", first_weights)
                };
                sources.push((key.clone(), source));
            }
        }
    }
    sources
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the rule of all other classes"
)]
fn automatic_source(layer: &LayerInfo, key: &str, inner: &str, first_weights: bool) -> Source {
    match (key, inner) {
        ("lut_bitwidth", _) => Source::Default,
        ("buffer_bitwidth", _) if layer.kind.has_capped_buffer() => {
            Source::Rule("buffer_bits, at most 28 for this class")
        }
        ("buffer_bitwidth", _) | ("output_quantizer", "buffer_bitwidth") => {
            Source::Parameter("buffer_bits")
        }
        ("output_quantizer", "signed") => Source::Rule("activations are signed from 8 bits up"),
        ("output_quantizer", "axis") => {
            Source::Rule("per-axis unless vectors, look-up tables or per_tensor_activations")
        }
        ("output_quantizer", "bitwidth") => match layer.kind {
            LayerKind::ReLU | LayerKind::LutActivation => Source::Parameter("activation_bits"),
            LayerKind::GlobalAveragePooling2D => {
                Source::Rule("activation_bits behind an activation, else output_bits")
            }
            LayerKind::StatefulRecurrent => Source::Rule("16 around a recurrence"),
            _ => Source::Rule("output_bits; 11 before a look-up table"),
        },
        (_, "axis") => Source::Rule("forced by the class"),
        (_, "bitwidth") if first_weights => Source::Parameter("input_weight_bits"),
        (_, "bitwidth") => Source::Parameter("weight_bits"),
        _ => Source::Default,
    }
}

/// Configuration of the InputQuantizer of a float input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputQuantizerConfig {
    /// Width of the integers.
    pub bitwidth: u8,
    /// Whether the width counts a sign.
    pub signed: bool,
    /// One range for the tensor, or one for each channel.
    pub axis: Axis,
    /// For an unsigned quantizer: the layer that takes the zero point.
    pub folds_into: Option<usize>,
}

/// Returns the configuration of the InputQuantizer for the float input of `topology`.
///
/// # Errors
///
/// An unsigned type before a layer that cannot take the zero point.
pub fn input_quantizer(
    topology: &Topology,
    params: &QuantizationParams,
) -> Result<InputQuantizerConfig, ConfigReport> {
    let params = params.values();
    let input = topology
        .layers
        .iter()
        .position(|l| l.kind == LayerKind::Input);
    let rank = input.map_or(0, |i| topology.layers[i].shape.len());
    let per_tensor = params.per_tensor_activations || rank < 2;
    let axis = if per_tensor {
        Axis::PerTensor
    } else {
        Axis::PerAxis
    };
    let (bitwidth, signed) = (
        params.input_dtype.bitwidth(),
        params.input_dtype.is_signed(),
    );
    let mut folds_into = None;
    if let (false, Some(input)) = (signed, input) {
        folds_into = Some(zero_point_layer(topology, input).map_err(|name| {
            let message = format!(
                "a {} input needs a first layer that takes the zero point (Conv2D, Dense, \
                 BufferTempConv, StatefulProjection); `{name}` cannot. Use a signed type: \
                 --input-dtype int8",
                params.input_dtype.name()
            );
            let errors = vec![ConfigIssue::new("input_dtype", message)];
            ConfigReport {
                errors,
                warnings: Vec::new(),
            }
        })?);
    }
    Ok(InputQuantizerConfig {
        bitwidth,
        signed,
        axis,
        folds_into,
    })
}

/// Returns the layer that takes the zero point of `input`, or the name of the one that cannot.
#[expect(clippy::wildcard_enum_match_arm, reason = "all other classes refuse")]
fn zero_point_layer(topology: &Topology, input: usize) -> Result<usize, String> {
    let consumers = topology.consumers();
    let mut at = input;
    loop {
        let layer = &topology.layers[at];
        match layer.kind {
            LayerKind::Input | LayerKind::Rescaling => match consumers[at].as_slice() {
                [next] => at = *next,
                _ => return Err(layer.name.clone()),
            },
            LayerKind::Conv2D
            | LayerKind::Conv2DTranspose
            | LayerKind::BufferTempConv
            | LayerKind::Dense
            | LayerKind::StatefulProjection => return Ok(at),
            _ => return Err(layer.name.clone()),
        }
    }
}
