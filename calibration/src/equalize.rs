//! Cross-layer equalization (NUMERICS.md: C4).

use std::collections::BTreeMap;

use float_model::{Draft, Graph, GraphError, Layer, NodeId, Shape};
use ndarray::Axis;
use quantizer_core::PerAxis;
use quantizer_core::log2::{floor_log2, mul_pow2};

/// An output quantizer and what decides whether it is equalized.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputSite {
    /// The layer that has the quantizer.
    pub layer: String,
    /// Width of its outputs.
    pub bitwidth: u8,
    /// Whether its input has float scales, so that a rate can be multiplied into them.
    pub scaled: bool,
    /// Observed range.
    pub range: PerAxis<f32>,
}

/// Result of an equalization.
#[derive(Clone, Debug)]
pub struct Equalized {
    /// The network with the weights of successors divided by the rates.
    pub graph: Graph,
    /// `range_max` and `rescaling_rate` of each site.
    pub ranges: BTreeMap<String, (PerAxis<f32>, PerAxis<f32>)>,
}

/// Moves every range to just below a power of two, where its bits are used best.
///
/// ```text
/// ideal = (2^b - 1) * 2^-(b - floor_log2(range)), 0 for range 0
/// range_max = ideal; rescaling_rate = fl(ideal / range), 1 where ideal is 0
/// weights of the one successor = fl(weights / rate) along their input channels
/// ```
///
/// for sites with float scales that one layer with weights follows; between them may stand
/// Dropout, MaxPool2D, GlobalAveragePooling2D and (per-tensor, or the one that is remembered)
/// Flatten and Reshape. Other sites keep their range, with rate 1. `sites` stand in the order of
/// the quantized model. NUMERICS.md: C4.
///
/// # Errors
///
/// A site that is no layer of the graph.
pub fn equalize(graph: Graph, sites: &[OutputSite]) -> Result<Equalized, GraphError> {
    let mut ranges = BTreeMap::new();
    let mut divisions = Vec::new();
    let consumers = graph.consumers();
    for site in sites {
        let id = graph
            .find(&site.layer)
            .ok_or_else(|| GraphError::UnknownLayer {
                layer: "equalization".to_owned(),
                name: site.layer.clone(),
            })?;
        let rate_of_one = site.range.map(|_| 1.0);
        let successor = site
            .scaled
            .then(|| successor(&graph, &consumers, id, &site.range));
        let ideal = site.range.map(|range| ideal_range(range, site.bitwidth));
        let (Some(Some(successor)), false) = (successor, ideal == site.range) else {
            ranges.insert(site.layer.clone(), (site.range.clone(), rate_of_one));
            continue;
        };
        let rate = ideal.zip(
            &site.range,
            |ideal, r| if is_zero(ideal) { 1.0 } else { ideal / r },
        );
        divisions.push((
            graph.node(successor.layer).name.clone(),
            rate.clone(),
            successor.spread,
        ));
        ranges.insert(site.layer.clone(), (ideal, rate));
    }
    let mut draft = graph.into_draft();
    for (name, rate, spread) in divisions {
        divide(&mut draft, &name, &rate, spread);
    }
    Ok(Equalized {
        graph: Graph::new(draft)?,
        ranges,
    })
}

fn is_zero(x: f32) -> bool {
    x.to_bits() << 1 == 0
}

/// Returns the largest value of `bitwidth` bits in the octave below that of `range`.
fn ideal_range(range: f32, bitwidth: u8) -> f32 {
    let bits = i32::from(bitwidth);
    let all_ones = mul_pow2(1.0, bits) - 1.0;
    floor_log2(range).map_or(0.0, |log| mul_pow2(all_ones, log - bits))
}

/// The layer whose weights take the inverse of a rate.
struct Successor {
    layer: NodeId,
    /// How often the channels repeat along its input axis, row-major, after a Flatten.
    spread: usize,
}

/// Returns the one layer with weights that follows `from`, if nothing else does.
fn successor(
    graph: &Graph,
    consumers: &[Vec<NodeId>],
    from: NodeId,
    range: &PerAxis<f32>,
) -> Option<Successor> {
    let mut at = from;
    let mut reshaped: Option<Shape> = None;
    loop {
        let [next] = consumers[at.index()].as_slice() else {
            return None;
        };
        let node = graph.node(*next);
        match &node.layer {
            Layer::Dropout { .. } | Layer::MaxPool2D(_) | Layer::GlobalAveragePooling2D(_) => {}
            Layer::Flatten | Layer::Reshape { .. } => {
                if !range.is_per_tensor() && reshaped.is_some() {
                    return None;
                }
                reshaped = Some(graph.node(at).shape.clone());
            }
            Layer::Conv2D(conv) if conv.groups != 1 => return None,
            Layer::Conv2D(_)
            | Layer::Conv2DTranspose(_)
            | Layer::SeparableConv2D(_)
            | Layer::DepthwiseConv2D(_)
            | Layer::DepthwiseConv2DTranspose(_)
            | Layer::Dense(_)
            | Layer::StatefulProjection(_) => {
                return spread(range, &node.layer).map(|spread| Successor {
                    layer: *next,
                    spread,
                });
            }
            // A rate for each channel would have to repeat with the frames: left out, as in the
            // reference.
            Layer::BufferTempConv(_) | Layer::DepthwiseBufferTempConv(_) => {
                return range.is_per_tensor().then_some(Successor {
                    layer: *next,
                    spread: 1,
                });
            }
            Layer::Input(_)
            | Layer::StatefulRecurrent(_)
            | Layer::ExtractToken { .. }
            | Layer::BatchNormalization(_)
            | Layer::ReLU(_)
            | Layer::LeakyReLU { .. }
            | Layer::PReLU { .. }
            | Layer::Activation(_)
            | Layer::Softmax
            | Layer::AveragePool2D(_)
            | Layer::Add(_)
            | Layer::Multiply
            | Layer::Subtract
            | Layer::Concatenate { .. }
            | Layer::Rescaling(_)
            | Layer::ZeroPadding2D(_)
            | Layer::Volume(_)
            | Layer::UpSampling2D { .. }
            | Layer::Permute { .. } => return None,
        }
        at = *next;
    }
}

/// Returns how often the channels of `range` repeat along the input axis of `layer`.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "layers without weights have no such axis"
)]
fn spread(range: &PerAxis<f32>, layer: &Layer) -> Option<usize> {
    let n_inputs = match layer {
        Layer::Conv2D(conv) => conv.kernel.dim().2,
        Layer::DepthwiseConv2D(conv) | Layer::DepthwiseConv2DTranspose(conv) => conv.kernel.dim().2,
        Layer::SeparableConv2D(conv) => conv.depthwise_kernel.dim().2,
        Layer::Conv2DTranspose(conv) => conv.kernel.dim().3,
        Layer::Dense(dense) => dense.kernel.dim().0,
        Layer::StatefulProjection(projection) => projection.dense.kernel.dim().0,
        _ => return None,
    };
    match range {
        PerAxis::Tensor(_) => Some(1),
        // Channels are last before the Flatten too, so each repeats with their number as period.
        PerAxis::Axis(ranges) if !ranges.is_empty() => (n_inputs.checked_rem(ranges.len())
            == Some(0))
        .then(|| n_inputs.div_euclid(ranges.len())),
        PerAxis::Axis(_) => None,
    }
}

/// Divides the first weights of a layer by `rate` along their input channels.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "only layers with weights are named"
)]
fn divide(draft: &mut Draft, name: &str, rate: &PerAxis<f32>, spread: usize) {
    let Some(node) = draft.node_mut(name) else {
        return;
    };
    let period = rate.n_values();
    let rate_at = |channel: usize| {
        debug_assert!(
            spread * period >= channel || rate.is_per_tensor(),
            "a rate a channel"
        );
        rate.at(channel.rem_euclid(period))
    };
    let (mut kernel, axis) = match &mut node.layer {
        Layer::Conv2D(conv) => (conv.kernel.view_mut().into_dyn(), 2),
        Layer::DepthwiseConv2D(conv) | Layer::DepthwiseConv2DTranspose(conv) => {
            (conv.kernel.view_mut().into_dyn(), 2)
        }
        Layer::SeparableConv2D(conv) => (conv.depthwise_kernel.view_mut().into_dyn(), 2),
        Layer::Conv2DTranspose(conv) => (conv.kernel.view_mut().into_dyn(), 3),
        Layer::Dense(dense) => (dense.kernel.view_mut().into_dyn(), 0),
        Layer::StatefulProjection(projection) => (projection.dense.kernel.view_mut().into_dyn(), 0),
        Layer::BufferTempConv(conv) => (conv.kernel.view_mut().into_dyn(), 2),
        Layer::DepthwiseBufferTempConv(conv) => (conv.kernel.view_mut().into_dyn(), 1),
        _ => return,
    };
    for (channel, mut slice) in kernel.axis_iter_mut(Axis(axis)).enumerate() {
        let rate = rate_at(channel);
        slice.mapv_inplace(|w| w / rate);
    }
}
