//! Sanitize: rewrites that bring a float graph into the form that quantization expects.
//!
//! Each [`driver::Rewrite`] looks at one node of a graph and proposes a patch, or says why not;
//! the driver applies each match on its own. Unlike the reference, one match that cannot be
//! applied does not stop the others, and nothing is skipped in silence.

mod activations;
mod batch_norm;
mod driver;
mod frames;
mod grouped;
mod hardware;
mod identity;
mod padding;
mod pooling;
mod rescaling;
mod reshape;
mod window;

use std::collections::BTreeMap;

use crate::{Graph, GraphError};
use driver::Rewrite;

/// Which rewrites [`sanitize`] runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SanitizeOptions {
    /// Whether the rewrites run that only a hardware target needs.
    pub hardware: HardwareRewrites,
}

/// Whether the rewrites run that only a hardware target needs (NUMERICS.md: R13 to R16).
///
/// They keep the function of the network, but the identity convolutions among them cost accuracy
/// once they are quantized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HardwareRewrites {
    /// They run, as in the reference.
    #[default]
    On,
    /// They do not run.
    Off,
}

/// A sanitized graph, and what happened to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sanitized {
    /// The graph.
    pub graph: Graph,
    /// Rewrites that were applied, in order.
    pub applied: Vec<RewriteEvent>,
    /// Matches that a rewrite had to leave alone, with the reason.
    pub refused: Vec<RewriteEvent>,
    /// For each layer that is gone: where it went, such as ``folded into `conv1` ``.
    pub removed: BTreeMap<String, String>,
}

/// One rewrite that was applied, or refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewriteEvent {
    /// Name of the rewrite, such as `fold-batchnorm`.
    pub rewrite: &'static str,
    /// Layer that it looked at; it may be gone now.
    pub layer: String,
    /// What was done, or why nothing was done.
    pub message: String,
}

/// Returns the graph that quantization starts from (NUMERICS.md: R1 to R16).
///
/// The function of the network stays the same up to float rounding. The rewrites run in this
/// order, each over the whole graph:
///
/// ```text
/// R1   split-activation           conv(activation=f)      -> conv, f named {X}_activ
/// R2   replace-activation         Activation(relu)        -> ReLU
/// R3   rebuild-hard-silu          x * relu6(x + 3) / 6    -> Activation(hard_silu)
/// R4   clips-to-frames            Conv3D                  -> Conv2D, BufferTempConv
/// R5   replace-leaky-relu         LeakyReLU, PReLU        -> Activation(leaky_relu)
/// R6   grouped-conv-to-depthwise  groups = filters = channels
/// R7   remove-reshape             Reshape, Reshape        -> the second one
/// R8   align-rescaling            scales and offsets go into the next kernel and bias
/// R9   swap-activation-maxpool    ReLU, MaxPool           -> MaxPool, ReLU
/// R10  swap-pool-batchnorm        pool, BN                -> BN, pool
/// R11  fold-batchnorm             conv, BN                -> conv
/// R12  remove-zeropadding         ZeroPadding, valid conv -> same conv
/// R13  split-concatenate          three inputs and more   -> a chain of pairs
/// R14  even-to-odd-kernel         2, 4, 6                 -> 3, 5, 7
/// R15  split-depthwise            stride 2, kernel 5 or 7 -> stride 1, then a 3x3 of stride 2
/// R16  identity-conv-*            1x1 convolutions where a target needs one
/// ```
///
/// R13 to R16 run only with [`HardwareRewrites::On`]. TensorFlow operations are read as
/// layers.
///
/// # Errors
///
/// A rewritten graph that is not valid; this does not happen to a valid one.
///
/// # Examples
///
/// ```
/// use float_model::{Activation, Dense, Draft, DraftNode, Dtype, Graph, Input, Layer};
/// use float_model::{SanitizeOptions, sanitize};
/// use ndarray::Array2;
///
/// let input = Layer::Input(Input { shape: vec![Some(2)], dtype: Dtype::Float32 });
/// let dense = Layer::Dense(Dense {
///     kernel: Array2::ones((2, 3)),
///     bias: None,
///     activation: Activation::Relu,
/// });
/// let node = |name: &str, layer, inputs| DraftNode { name: name.to_owned(), layer, inputs };
/// let graph = Graph::new(Draft {
///     name: "tiny".to_owned(),
///     nodes: vec![
///         node("input", input, vec![]),
///         node("dense", dense, vec!["input".to_owned()]),
///     ],
///     outputs: vec!["dense".to_owned()],
/// })?;
/// let sanitized = sanitize(graph, &SanitizeOptions::default())?;
/// let names: Vec<&str> = sanitized.graph.nodes().iter().map(|n| n.name.as_str()).collect();
/// assert_eq!(names, ["input", "dense", "dense_activ"]);
/// # Ok::<(), float_model::GraphError>(())
/// ```
pub fn sanitize(graph: Graph, options: &SanitizeOptions) -> Result<Sanitized, GraphError> {
    let mut sanitized = Sanitized {
        graph,
        applied: Vec::new(),
        refused: Vec::new(),
        removed: BTreeMap::new(),
    };
    for rewrite in BASE {
        sanitized = driver::run(*rewrite, sanitized)?;
    }
    if options.hardware == HardwareRewrites::On {
        for rewrite in HARDWARE {
            sanitized = driver::run(*rewrite, sanitized)?;
        }
    }
    Ok(sanitized)
}

const BASE: &[&dyn Rewrite] = &[
    &activations::SplitActivation,
    &activations::ReplaceActivation,
    &activations::RebuildHardSilu,
    &frames::ClipsToFrames,
    &activations::ReplaceLeakyRelu,
    &grouped::GroupedConvToDepthwise,
    &reshape::RemoveReshape,
    &rescaling::AlignRescaling,
    &pooling::SwapActivationMaxPool,
    &pooling::SwapPoolBatchNorm,
    &batch_norm::FoldBatchNorm,
    &padding::RemoveZeroPadding,
];

const HARDWARE: &[&dyn Rewrite] = &[
    &hardware::SplitConcatenate,
    &hardware::EvenToOddKernel,
    &hardware::SplitDepthwise,
    &identity::AfterAddReluGap,
    &identity::AfterMerge,
    &identity::AfterStem,
    &identity::AfterFanOut,
];
