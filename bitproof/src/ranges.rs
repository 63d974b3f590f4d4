//! Calibrated ranges, kept in a file between a calibration and a quantization.

mod json;

use std::collections::BTreeMap;
use std::path::Path;

use calibration::{BatchPlan, Granularity, InputRange, Observed, ObservedSites, ObserverKind};
use float_model::Graph;
use model_files::{FileError, write_file};
use quantizer_core::PerAxis;

use crate::Error;

/// Ranges of a network, and what they were found with.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibratedRanges {
    /// SHA-256 of the float model's file, in hex.
    pub model_digest: Option<String>,
    /// The samples.
    pub samples: SampleFacts,
    /// What watched the outputs.
    pub observer: ObserverKind,
    /// Batches of the calibration.
    pub batches: BatchPlan,
    /// Range of the input, for an InputQuantizer.
    pub input: Option<InputRange>,
    /// Ranges of outputs, by layer.
    pub outputs: BTreeMap<String, CalibratedRange>,
}

/// The range of a layer's outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibratedRange {
    /// Bits of the quantized outputs, without the sign, that the observer was told.
    pub value_bits: u8,
    /// Range of `|output|`.
    pub range: PerAxis<f32>,
}

/// What is kept of samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampleFacts {
    /// Where they were, in the user's words.
    pub source: Option<String>,
    /// What was done to them, in the user's words.
    pub preprocess: Option<String>,
    /// SHA-256 of their files, in hex, see [`sha256_files`](crate::sha256_files).
    pub digest: Option<String>,
    /// Samples of an epoch that were used.
    pub n_used: usize,
    /// Extents of a sample.
    pub item_shape: Vec<usize>,
    /// Whether they are integers.
    pub holds_integers: bool,
    /// Seed of random samples.
    pub seed: Option<u64>,
}

impl SampleFacts {
    pub(crate) const fn is_random(&self) -> bool {
        self.seed.is_some()
    }
}

impl CalibratedRanges {
    pub(crate) fn new(
        observed: Observed,
        sites: &ObservedSites,
        samples: SampleFacts,
        batches: BatchPlan,
    ) -> Self {
        let mut ranges = observed.outputs;
        let outputs = sites.outputs.iter().filter_map(|site| {
            let range = ranges.remove(&site.layer)?;
            let value_bits = site.value_bits;
            Some((site.layer.clone(), CalibratedRange { value_bits, range }))
        });
        Self {
            model_digest: None,
            samples,
            observer: sites.observer,
            batches,
            outputs: outputs.collect(),
            input: observed.input,
        }
    }

    /// Returns the ranges of a file that [`write`](Self::write) wrote.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or its content cannot be right; the message has the JSON path.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|e| FileError::io(path, &e))?;
        json::parse(&text).map_err(|message| FileError::invalid(path, message).into())
    }

    /// Writes the ranges as JSON, under a temporary name first. Floats are written exactly.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let text = format!("{:#}\n", json::value(self));
        Ok(write_file(path, text.as_bytes())?)
    }

    /// Checks that the ranges are those of a model.
    ///
    /// # Errors
    ///
    /// The digest of the model is another one, or was not kept.
    pub fn check_model(&self, digest: &str) -> Result<(), Error> {
        match &self.model_digest {
            Some(kept) if kept == digest => Ok(()),
            Some(kept) => Err(Error::Invalid(format!(
                "the ranges are those of another model: its SHA-256 is {kept}, this one's is \
                 {digest}; calibrate again"
            ))),
            None => Err(Error::Invalid(
                "the ranges do not say of which model they are; calibrate again".to_owned(),
            )),
        }
    }

    /// Checks that every site has a range that fits, and returns warnings of unused ones.
    pub(crate) fn check(&self, graph: &Graph, sites: &ObservedSites) -> Result<Vec<String>, Error> {
        let mut problems = Vec::new();
        for site in &sites.outputs {
            let n_channels = graph
                .find(&site.layer)
                .and_then(|id| graph.node(id).shape.last().copied().flatten());
            let problem = match self.outputs.get(&site.layer) {
                None => Some("has no range".to_owned()),
                Some(found) => misfit(&found.range, site.granularity, n_channels)
                    .or_else(|| self.other_bits(found.value_bits, site.value_bits)),
            };
            problems.extend(problem.map(|problem| format!("layer `{}` {problem}", site.layer)));
        }
        if let Some(granularity) = sites.input {
            let n_channels = self.samples.item_shape.last().copied();
            let problem = match &self.input {
                None => Some("has no range".to_owned()),
                Some(input) => misfit(&input.min, granularity, n_channels),
            };
            problems.extend(problem.map(|problem| format!("the input {problem}")));
        }
        if problems.is_empty() {
            return Ok(self.unused(sites));
        }
        Err(Error::Invalid(format!(
            "the ranges do not fit the configuration; calibrate again with the same one:\n  {}",
            problems.join("\n  ")
        )))
    }

    /// Returns what is wrong with a range for other bits: only one of these depends on them.
    fn other_bits(&self, kept: u8, wanted: u8) -> Option<String> {
        match self.observer {
            ObserverKind::Mse if kept != wanted => Some(format!(
                "has a range for {kept} value bits, not {wanted} (observer mse)"
            )),
            ObserverKind::Mse
            | ObserverKind::MovingMax
            | ObserverKind::Max
            | ObserverKind::Percentile(_) => None,
        }
    }

    fn unused(&self, sites: &ObservedSites) -> Vec<String> {
        let is_site = |layer: &str| sites.outputs.iter().any(|site| site.layer == layer);
        let layers = self.outputs.keys().filter(|layer| !is_site(layer));
        let mut unused: Vec<String> = layers
            .map(|layer| format!("the range of layer `{layer}` is not used"))
            .collect();
        if self.input.is_some() && sites.input.is_none() {
            unused.push("the range of the input is not used".to_owned());
        }
        unused
    }
}

/// Returns what is wrong with a range for a site of `n_channels`.
fn misfit(
    range: &PerAxis<f32>,
    granularity: Granularity,
    n_channels: Option<usize>,
) -> Option<String> {
    match (range, granularity) {
        (PerAxis::Tensor(_), Granularity::PerAxis) => {
            Some("has one range, not one for each channel".to_owned())
        }
        (PerAxis::Axis(_), Granularity::PerTensor) => {
            Some("has a range for each channel, not a single one".to_owned())
        }
        (PerAxis::Axis(ranges), Granularity::PerAxis) if Some(ranges.len()) != n_channels => {
            Some(format!("has {} ranges, not one a channel", ranges.len()))
        }
        (PerAxis::Tensor(_), Granularity::PerTensor) | (PerAxis::Axis(_), Granularity::PerAxis) => {
            None
        }
    }
}
