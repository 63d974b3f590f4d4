//! Proof that no intermediate of a quantized model can overflow the width that the hardware gives
//! it, for every input; or an input that makes one overflow, replayed in the simulator.

mod bounds;
mod budget;
mod gradient;
mod layer_input;
mod places;
mod products;
mod range;
mod replay;
mod search;
mod taps;
mod temporal;
mod width;

use ndarray::{ArrayD, Axis};
use quantizer_core::Stage;

use crate::ModelError;
use crate::model::QuantizedModel;
use replay::Replay;
use search::{Search, Target};

pub use bounds::{LayerBounds, StageBounds, bound};
pub use budget::SearchBudget;
pub use products::sum_ranges;
pub use range::Range;
pub use width::{BufferWidth, SmallestBuffers, smallest_buffers, with_buffer_bits};

/// Samples that run at once when they are searched for witnesses.
const BATCH: usize = 32;

/// Channels of one intermediate that are searched for witnesses, the worst first.
const CHANNELS: usize = 3;

/// What is known of every intermediate of a model.
#[derive(Clone, Debug)]
pub struct Proof {
    /// Layers that run on integers, in the order of the model's nodes.
    pub layers: Vec<LayerProof>,
    /// Whether inputs were searched wherever a range does not fit. They are not where the model's
    /// extents are open: then samples alone can refute.
    pub searched: bool,
}

/// What is known of the intermediates of one layer.
#[derive(Clone, Debug)]
pub struct LayerProof {
    /// Index of the model's node.
    pub node: usize,
    /// Name of the layer.
    pub name: String,
    /// Its intermediates, in order of execution.
    pub stages: Vec<StageProof>,
}

/// What is known of one intermediate.
#[derive(Clone, Debug)]
pub struct StageProof {
    /// Ranges that hold for every input.
    pub bounds: StageBounds,
    /// What follows.
    pub verdict: Verdict,
}

/// Whether an intermediate can overflow.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It cannot; so many bits of its width are never used.
    Proved {
        /// Unused value bits.
        spare_bits: u32,
    },
    /// It is clipped because its format asks for it, as an OutputQuantizer does.
    ByDesign,
    /// It does, for this network input.
    Refuted(Witness),
    /// Its range lets it, but no network input was found that does.
    Possible {
        /// Channel whose range is farthest outside.
        channel: usize,
        /// Inputs of the layer that make it overflow; `None` where none was found.
        layer_input: Option<LayerWitness>,
    },
}

/// Inputs of a layer, within their ranges, that make one of its intermediates overflow. Whether the
/// network can give them to it is not known.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerWitness {
    /// The inputs in call order, each `[1, ...]`.
    pub inputs: Vec<ArrayD<i64>>,
    /// Channels that overflow, each with its worst value before saturation.
    pub channels: Vec<(usize, i64)>,
}

/// A network input that makes an intermediate overflow.
#[derive(Clone, Debug, PartialEq)]
pub struct Witness {
    /// The input, `[1, ...]`.
    pub input: ArrayD<f32>,
    /// Channels that overflow, each with its worst value before saturation.
    pub channels: Vec<(usize, i64)>,
}

impl Proof {
    /// Returns whether every intermediate is proved.
    #[must_use]
    pub fn is_proved(&self) -> bool {
        self.stages()
            .all(|(_, stage)| matches!(stage.verdict, Verdict::Proved { .. } | Verdict::ByDesign))
    }

    /// Returns whether an input refutes one.
    #[must_use]
    pub fn is_refuted(&self) -> bool {
        self.stages()
            .any(|(_, stage)| matches!(stage.verdict, Verdict::Refuted(_)))
    }

    /// Returns every intermediate with its layer.
    pub fn stages(&self) -> impl Iterator<Item = (&LayerProof, &StageProof)> {
        let of_layer = |layer| LayerProof::with_stages(layer);
        self.layers.iter().flat_map(of_layer)
    }
}

impl LayerProof {
    fn with_stages(&self) -> impl Iterator<Item = (&Self, &StageProof)> {
        self.stages.iter().map(move |stage| (self, stage))
    }
}

/// Proves or refutes every intermediate of `model`.
///
/// Ranges come from [`bound`]. Where one does not fit, network inputs are searched: first the
/// `samples`, `[batch, ...]`, then, for known extents, the extreme patches that the signs of the
/// weights ask for. Every witness was replayed in the simulator. `progress` is told how many intermediates of how many
/// were searched.
///
/// # Errors
///
/// What [`bound`] refuses, or samples that the model cannot take.
pub fn prove(
    model: &QuantizedModel,
    samples: Option<&ArrayD<f32>>,
    budget: SearchBudget,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Proof, ModelError> {
    let bounds = bound(model)?;
    let mut layers = Vec::new();
    let mut open = Vec::new();
    for (node, layer) in bounds
        .iter()
        .enumerate()
        .filter(|(_, l)| !l.stages.is_empty())
    {
        let stages = layer.stages.iter().map(|bounds| StageProof {
            bounds: bounds.clone(),
            verdict: settled(bounds),
        });
        let stages: Vec<StageProof> = stages.collect();
        for (i, stage) in stages.iter().enumerate() {
            if matches!(stage.verdict, Verdict::Possible { .. }) {
                open.push((layers.len(), i));
            }
        }
        layers.push(LayerProof {
            node,
            name: model.nodes[node].name.clone(),
            stages,
        });
    }
    let mut proof = Proof {
        layers,
        searched: true,
    };
    if open.is_empty() {
        return Ok(proof);
    }
    let replay = Replay::new(model);
    if let Some(samples) = samples {
        try_samples(&replay, samples, &mut proof)?;
    }
    let search = Search::new(replay, &bounds, budget.seed);
    proof.searched = search.is_some();
    if let Some(mut search) = search {
        for (done, (layer, stage)) in open.iter().enumerate() {
            progress(done, open.len());
            settle(&mut search, &mut proof.layers[*layer], *stage, budget)?;
        }
        progress(open.len(), open.len());
    }
    Ok(proof)
}

/// Returns the verdict that ranges alone give.
fn settled(bounds: &StageBounds) -> Verdict {
    if bounds.stage.clips_by_design() {
        return Verdict::ByDesign;
    }
    if bounds.fits() {
        let needed = bounds.channels.iter().map(|range| range.value_bits()).max();
        let width = u32::from(bounds.value_bits.bits());
        return Verdict::Proved {
            spare_bits: width.saturating_sub(needed.unwrap_or(0)),
        };
    }
    let channel = worst_channels(bounds)
        .first()
        .map_or(0, |(channel, _)| *channel);
    Verdict::Possible {
        channel,
        layer_input: None,
    }
}

/// Returns the channels whose ranges do not fit, the farthest outside first, each with whether it
/// passes the upper end.
fn worst_channels(bounds: &StageBounds) -> Vec<(usize, bool)> {
    let (lo, hi) = (bounds.value_bits.int_min(), bounds.value_bits.int_max());
    let channels = bounds.channels.iter().enumerate();
    let mut worst: Vec<(usize, bool, i64)> = channels
        .map(|(channel, range)| {
            let (above, below) = (range.hi - hi, lo - range.lo);
            (channel, above >= below, above.max(below))
        })
        .filter(|(_, _, excess)| *excess > 0)
        .collect();
    worst.sort_by_key(|(channel, _, excess)| (std::cmp::Reverse(*excess), *channel));
    worst
        .into_iter()
        .map(|(channel, upward, _)| (channel, upward))
        .collect()
}

/// Refutes the intermediates that samples make overflow.
fn try_samples(
    replay: &Replay<'_>,
    samples: &ArrayD<f32>,
    proof: &mut Proof,
) -> Result<(), ModelError> {
    for batch in samples.axis_chunks_iter(Axis(0), BATCH) {
        let run = replay.executor.outputs(&batch.to_owned())?;
        for layer in &mut proof.layers {
            for stage in &mut layer.stages {
                let (node, name) = (layer.node, stage.bounds.stage);
                let count = run.counters[node].get(name);
                let is_open = matches!(stage.verdict, Verdict::Possible { .. });
                if !is_open || count.is_none_or(|c| c.saturated == 0) {
                    continue;
                }
                for item in batch.axis_chunks_iter(Axis(0), 1) {
                    if let Some(witness) = replay.item(&item.to_owned(), node, name)? {
                        stage.verdict = Verdict::Refuted(witness);
                        break;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Searches one intermediate.
fn settle(
    search: &mut Search<'_>,
    layer: &mut LayerProof,
    stage: usize,
    budget: SearchBudget,
) -> Result<(), ModelError> {
    let stage = &mut layer.stages[stage];
    if !matches!(stage.verdict, Verdict::Possible { .. }) {
        return Ok(());
    }
    let worst = worst_channels(&stage.bounds);
    let runs = budget.runs.div_ceil(CHANNELS.min(worst.len().max(1)));
    for (channel, upward) in worst.iter().copied().take(CHANNELS) {
        let target = target(layer.node, stage.bounds.stage, channel, upward);
        if let Some(witness) = search.climb(target, runs)? {
            stage.verdict = Verdict::Refuted(witness);
            return Ok(());
        }
    }
    for (channel, upward) in worst.iter().copied().take(CHANNELS) {
        let target = target(layer.node, stage.bounds.stage, channel, upward);
        if let Some(found) = search.layer_input(target) {
            stage.verdict = Verdict::Possible {
                channel,
                layer_input: Some(found),
            };
            break;
        }
    }
    Ok(())
}

const fn target(node: usize, stage: Stage, channel: usize, upward: bool) -> Target {
    Target {
        node,
        stage,
        channel,
        upward,
    }
}
