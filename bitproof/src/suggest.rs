//! What to change so that a layer that may overflow is proved.
//!
//! Every change is found by trying it: the model is made again with it, and its ranges are derived
//! again. The first that is enough, counted from what the model has, is the least one.

mod buffers;
mod plan;
mod region;
mod requantize;
mod shrink;

use std::collections::BTreeSet;
use std::fmt;

use akida_sim::QuantizedModel;
use akida_sim::prove::{LayerBounds, bound};
use quantizer_core::Stage;
use serde_json::{Value, json};

use crate::Error;
use plan::Plan;
use region::Region;

pub use plan::Edit;
pub use requantize::{Entries, Requantizer, SampleSteps, first_difference};
pub use shrink::Shrink;

/// What a fix changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bits of the weights whose sums the layer holds.
    WeightBits,
    /// Bits of the layer's inputs.
    InputBits,
    /// One range for all channels of the layer's inputs, so that there is nothing to align.
    InputAxis,
    /// Bits of the buffer, and of buffers behind that take what it then holds.
    BufferBits,
    /// Bits of the output quantizer's integer scales.
    ScaleBits,
}

impl Kind {
    /// Every kind, in the order in which fixes are listed.
    pub const ALL: [Self; 5] = [
        Self::WeightBits,
        Self::InputBits,
        Self::InputAxis,
        Self::BufferBits,
        Self::ScaleBits,
    ];

    /// Returns the name used in JSON, such as `weight_bits`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WeightBits => "weight_bits",
            Self::InputBits => "input_bits",
            Self::InputAxis => "input_axis",
            Self::BufferBits => "buffer_bits",
            Self::ScaleBits => "scale_bits",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name().replace('_', " "))
    }
}

/// What is known of a layer that may overflow.
#[derive(Clone, Debug)]
pub struct LayerFixes {
    /// Name of the layer.
    pub layer: String,
    /// Its intermediates that do not fit.
    pub overflows: Vec<Overflow>,
    /// Changes that make it proved, each of them alone and the least of its kind.
    pub fixes: Vec<Fix>,
    /// Kinds of changes that do not, with the reason.
    pub refused: Vec<(Kind, String)>,
    /// By how much weights must shrink; `None` where no common factor is enough.
    pub shrink: Option<Shrink>,
}

/// An intermediate that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow {
    /// Which one.
    pub stage: Stage,
    /// Value bits that it has.
    pub value_bits: u8,
    /// Value bits that its range needs.
    pub needed: u32,
}

/// A change that makes a layer proved.
#[derive(Clone, Debug)]
pub struct Fix {
    /// What it changes.
    pub kind: Kind,
    /// Each changed value.
    pub edits: Vec<Edit>,
    /// The changed entries, complete: to be put into a q_config.
    pub fragment: Entries,
    /// The model with the change, for which the layer was proved.
    pub model: Box<QuantizedModel>,
    /// Whether the whole model is proved with this change alone.
    pub proves_model: bool,
    /// Intermediates of other layers that fitted before and do not with the change, as
    /// `layer: intermediate`.
    pub opens: Vec<String>,
}

/// Returns the least changes of each kind that make each layer of the model of `requantizer`
/// proved, none for layers that are.
///
/// `progress` is told of how many layers how many are done.
///
/// # Errors
///
/// The model itself cannot be made again.
pub fn suggest(
    requantizer: &Requantizer,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<LayerFixes>, Error> {
    let model = requantizer.quantize(&Entries::new())?;
    let bounds = bound(&model)?;
    let open = misfits(&model, &bounds);
    let layers: Vec<usize> = (0..model.nodes.len())
        .filter(|i| !overflows(&bounds[*i]).is_empty())
        .collect();
    let mut all = Vec::with_capacity(layers.len());
    for (done, target) in layers.iter().enumerate() {
        progress(done, layers.len());
        let trial = Trial {
            requantizer,
            model: &model,
            bounds: &bounds,
            open: &open,
            target: *target,
        };
        all.push(trial.fixes()?);
    }
    progress(layers.len(), layers.len());
    Ok(all)
}

/// An intermediate in its layer.
type Place = (String, Stage);

fn misfits(model: &QuantizedModel, bounds: &[LayerBounds]) -> BTreeSet<Place> {
    let layers = model.nodes.iter().zip(bounds);
    let places = layers.flat_map(|(node, bounds)| {
        let open = overflows(bounds).into_iter();
        open.map(|overflow| (node.name.clone(), overflow.stage))
    });
    places.collect()
}

fn overflows(bounds: &LayerBounds) -> Vec<Overflow> {
    let open = bounds.stages.iter();
    let open = open.filter(|stage| !stage.stage.clips_by_design() && !stage.fits());
    let open = open.map(|stage| Overflow {
        stage: stage.stage,
        value_bits: stage.value_bits.bits(),
        needed: stage
            .channels
            .iter()
            .map(|r| r.value_bits())
            .max()
            .unwrap_or(0),
    });
    open.collect()
}

/// A change that fixes a layer with the model that it makes, or why there is none.
type Outcome<'a> = Result<(Plan<'a>, Tried), String>;

/// The search for one layer.
struct Trial<'a> {
    requantizer: &'a Requantizer,
    model: &'a QuantizedModel,
    bounds: &'a [LayerBounds],
    /// What does not fit in the model as it is.
    open: &'a BTreeSet<Place>,
    target: usize,
}

/// A model with a change, and what does not fit there.
struct Tried {
    model: QuantizedModel,
    bounds: Vec<LayerBounds>,
    open: BTreeSet<Place>,
}

impl<'a> Trial<'a> {
    fn name(&self) -> &str {
        &self.model.nodes[self.target].name
    }

    fn fixes(&self) -> Result<LayerFixes, Error> {
        let region = Region::of(self.model, self.target);
        let mut found = LayerFixes {
            layer: self.name().to_owned(),
            overflows: overflows(&self.bounds[self.target]),
            fixes: Vec::new(),
            refused: Vec::new(),
            shrink: None,
        };
        for kind in Kind::ALL {
            let outcome = match kind {
                Kind::WeightBits => Some(self.fewer_weight_bits(&region)),
                Kind::InputBits => Some(self.fewer_input_bits(&region)),
                Kind::InputAxis => self.one_input_range(&region),
                Kind::BufferBits => Some(self.wider_buffers()),
                Kind::ScaleBits => self.fewer_scale_bits(&found.overflows),
            };
            match outcome {
                None => {}
                Some(Ok((plan, tried))) => found.fixes.push(Fix {
                    kind,
                    edits: plan.edits,
                    fragment: plan.fragment,
                    proves_model: tried.open.is_empty(),
                    opens: self
                        .opened(&tried)
                        .map(|(l, s)| format!("{l}: {s}"))
                        .collect(),
                    model: Box::new(tried.model),
                }),
                Some(Err(reason)) => found.refused.push((kind, reason)),
            }
        }
        if let Some(weights) = region.sole_weights(self.model) {
            found.shrink = shrink::shrink(self.model, (weights, &region.nodes), self.target)?;
        }
        Ok(found)
    }

    /// Makes the model with a change.
    fn tried(&self, plan: &Plan<'_>) -> Result<Tried, Error> {
        let model = self.requantizer.quantize(&plan.fragment)?;
        let bounds = bound(&model)?;
        let open = misfits(&model, &bounds);
        Ok(Tried {
            model,
            bounds,
            open,
        })
    }

    /// Returns whether the layer fits in `tried`.
    fn is_fixed(&self, tried: &Tried) -> bool {
        tried.open.iter().all(|place| place.0 != self.name())
    }

    /// Returns what fits in the model as it is, but not in `tried`.
    fn opened<'t>(&'t self, tried: &'t Tried) -> impl Iterator<Item = &'t Place> {
        let opened = tried.open.difference(self.open);
        opened.filter(|place| place.0 != self.name())
    }

    /// Tries `from - 1` bits, then fewer, down to `least`; `change` makes the plan.
    fn fewer(&self, (from, least): (u64, u64), change: impl Fn(&mut Plan<'a>, u64)) -> Outcome<'a> {
        let mut reason = format!("not even {least} bits are few enough");
        for bits in (least..from).rev() {
            let mut plan = Plan::new(self.requantizer.base());
            change(&mut plan, bits);
            match self.tried(&plan) {
                Ok(tried) if self.is_fixed(&tried) => return Ok((plan, tried)),
                Ok(_) => {}
                Err(error) => reason = format!("{bits} bits: {error}"),
            }
        }
        Err(reason)
    }

    fn fewer_weight_bits(&self, region: &Region) -> Outcome<'a> {
        let base = self.requantizer.base();
        let widths = region.weights.iter().filter_map(|(index, key)| {
            let name = self.model.nodes[*index].name.as_str();
            let bits = plan::number(base, name, &[key, "bitwidth"])?;
            Some((name, *key, bits))
        });
        let widths: Vec<(&str, &str, u64)> = widths.collect();
        let widest = widths.iter().map(|(_, _, bits)| *bits).max();
        let widest = widest.ok_or("no weights lead to it")?;
        self.fewer((widest, 2), |plan, bits| {
            for (name, key, _) in widths.iter().filter(|(_, _, from)| *from > bits) {
                plan.set(name, &[key, "bitwidth"], json!(bits));
            }
        })
    }

    fn fewer_input_bits(&self, region: &Region) -> Outcome<'a> {
        let base = self.requantizer.base();
        let widths = region.producers.iter().filter_map(|index| {
            let node = &self.model.nodes[*index];
            let bits = plan::number(base, &node.name, &["output_quantizer", "bitwidth"])?;
            Some((node, bits))
        });
        let widths: Vec<_> = widths.collect();
        let widest = widths.iter().map(|(_, bits)| *bits).max();
        let widest = widest.ok_or("it takes the network's inputs, whose bits no q_config sets")?;
        self.fewer((widest, 1), |plan, bits| {
            for (node, _) in widths.iter().filter(|(_, from)| *from > bits) {
                let name = node.name.as_str();
                plan.set(name, &["output_quantizer", "bitwidth"], json!(bits));
                // Below 8 bits a rectifier's outputs have no sign, as without a q_config.
                let sign = ["output_quantizer", "signed"];
                if node.class_name == "QuantizedReLU"
                    && bits < 8
                    && plan.get(name, &sign) != Some(&Value::Bool(false))
                {
                    plan.set(name, &sign, json!(false));
                }
            }
        })
    }

    fn one_input_range(&self, region: &Region) -> Option<Outcome<'a>> {
        let base = self.requantizer.base();
        let path = ["output_quantizer", "axis"];
        let per_axis = region.producers.iter().filter_map(|index| {
            let name = self.model.nodes[*index].name.as_str();
            (plan::at(base, name, &path)? == "per-axis").then_some(name)
        });
        let per_axis: Vec<&str> = per_axis.collect();
        if per_axis.is_empty() {
            return None;
        }
        let mut plan = Plan::new(base);
        for name in per_axis {
            plan.set(name, &path, json!("per-tensor"));
        }
        Some(match self.tried(&plan) {
            Ok(tried) if self.is_fixed(&tried) => Ok((plan, tried)),
            Ok(_) => Err("one range for all channels is not enough".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }

    fn fewer_scale_bits(&self, overflows: &[Overflow]) -> Option<Outcome<'a>> {
        let is_scaled = |overflow: &Overflow| overflow.stage == Stage::ScaleMultiply;
        overflows.iter().find(|overflow| is_scaled(overflow))?;
        let path = ["output_quantizer", "scale_bits"];
        let from = plan::number(self.requantizer.base(), self.name(), &path);
        let fewer = self.fewer((from.unwrap_or(plan::SCALE_BITS), 1), |plan, bits| {
            plan.set(self.name(), &path, json!(bits));
        });
        Some(fewer)
    }
}
