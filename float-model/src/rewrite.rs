//! Rewrites that prepare a float network for quantization (NUMERICS.md: R1 to R16).
//!
//! A rewrite proposes a patch for one layer or says why not; the driver applies patches one by one
//! until no rewrite of that kind matches. Every match stands for itself: one that is refused never
//! keeps another one from being applied.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a rewrite names the layers that it matches; every other one is no match"
)]

mod activations;
mod fold;
mod hardware;
mod identity;
mod rescaling;
mod site;
mod structure;
mod swap;

use std::collections::BTreeMap;

use crate::{Draft, Graph, GraphError};
use site::Site;

/// Whether the rewrites that only serve the Akida hardware are done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HardwareRewrites {
    /// They are, as in the reference.
    #[default]
    On,
    /// They are not.
    Off,
}

/// A network ready for quantization, and what happened to it.
#[derive(Clone, Debug)]
pub struct Sanitized {
    /// The network.
    pub graph: Graph,
    /// Every rewrite that was applied or refused, in order.
    pub events: Vec<RewriteEvent>,
    /// Where each removed layer went, such as "folded into `conv1`".
    pub removed: BTreeMap<String, String>,
}

/// What happened at one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewriteEvent {
    /// Name of the rewrite.
    pub rewrite: &'static str,
    /// The layer that it starts from.
    pub layer: String,
    /// What was done or why not.
    pub outcome: Outcome,
}

/// What was done or why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Applied; what it did.
    Applied(String),
    /// The layer is of the right kind, but the rewrite would be wrong; the reason.
    Refused(String),
}

/// Why a rewrite does not apply to a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Skip {
    /// The layer is not of its kind.
    NoMatch,
    /// The layer is, but something stands against it.
    Blocked(String),
}

/// A change of a graph.
struct Patch {
    /// What it does, for people.
    what: String,
    /// A layer that it removes, and where that goes.
    removed: Option<(String, String)>,
    /// The change.
    apply: Box<dyn FnOnce(&mut Draft)>,
}

impl Patch {
    fn new(what: impl Into<String>, apply: impl FnOnce(&mut Draft) + 'static) -> Self {
        Self {
            what: what.into(),
            removed: None,
            apply: Box::new(apply),
        }
    }

    fn removing(mut self, layer: &str, place: impl Into<String>) -> Self {
        self.removed = Some((layer.to_owned(), place.into()));
        self
    }
}

/// Proposes a patch for one layer.
trait Rewrite {
    /// Name for reports.
    fn name(&self) -> &'static str;

    /// Returns the change that starts from `site`, or why there is none.
    fn propose(&self, site: &Site<'_>) -> Result<Patch, Skip>;
}

/// Rewrites of every target, in order.
const COMMON: [&dyn Rewrite; 11] = [
    &activations::SplitActivation,
    &activations::ActivationToReLU,
    &activations::LayerToActivation,
    &structure::GroupedToDepthwise,
    &structure::RemoveReshape,
    &rescaling::AlignRescaling,
    &swap::PoolBeforeActivation,
    &swap::NormBeforePool,
    &fold::FoldBatchNorm,
    &structure::RemoveZeroPadding,
    // A second pass finds what the removal of others made possible.
    &structure::RemoveReshape,
];

/// Rewrites for the Akida hardware, in order.
const HARDWARE: [&dyn Rewrite; 7] = [
    &hardware::SplitConcatenate,
    &hardware::EvenToOddKernel,
    &hardware::SplitStridedDepthwise,
    &identity::AfterAddBeforePooling,
    &identity::AfterMerge,
    &identity::AfterFirstBlock,
    &identity::ForManyConsumers,
];

/// Returns the network rewritten for quantization.
///
/// The function of the network stays: each rewrite only moves, merges or splits layers whose
/// floats agree before and after, up to rounding.
///
/// # Errors
///
/// A rewrite that gives an invalid graph, which would be a fault here.
pub fn sanitize(graph: Graph, hardware: HardwareRewrites) -> Result<Sanitized, GraphError> {
    let mut state = Sanitized {
        graph,
        events: Vec::new(),
        removed: BTreeMap::new(),
    };
    for rewrite in COMMON {
        state = apply_all(state, rewrite)?;
    }
    if hardware == HardwareRewrites::On {
        for rewrite in HARDWARE {
            state = apply_all(state, rewrite)?;
        }
    }
    Ok(state)
}

/// Applies a rewrite until it matches nowhere; refusals are those of the last look.
fn apply_all(mut state: Sanitized, rewrite: &dyn Rewrite) -> Result<Sanitized, GraphError> {
    // Each patch settles its match, so there cannot be more of them than this.
    let limit = 8 * state.graph.nodes().len() + 64;
    for _ in 0..limit {
        let mut refused = Vec::new();
        let Some((layer, patch)) = first_patch(&state.graph, rewrite, &mut refused) else {
            for event in refused {
                if !state.events.contains(&event) {
                    state.events.push(event);
                }
            }
            break;
        };
        let outcome = Outcome::Applied(patch.what);
        state.events.push(RewriteEvent {
            rewrite: rewrite.name(),
            layer,
            outcome,
        });
        state.removed.extend(patch.removed);
        let mut draft = state.graph.into_draft();
        (patch.apply)(&mut draft);
        state.graph = Graph::new(draft)?;
    }
    Ok(state)
}

fn first_patch(
    graph: &Graph,
    rewrite: &dyn Rewrite,
    refused: &mut Vec<RewriteEvent>,
) -> Option<(String, Patch)> {
    let consumers = graph.consumers();
    for (id, node) in graph.iter() {
        match rewrite.propose(&Site::new(graph, &consumers, id)) {
            Ok(patch) => return Some((node.name.clone(), patch)),
            Err(Skip::NoMatch) => {}
            Err(Skip::Blocked(reason)) => refused.push(RewriteEvent {
                rewrite: rewrite.name(),
                layer: node.name.clone(),
                outcome: Outcome::Refused(reason),
            }),
        }
    }
    None
}
