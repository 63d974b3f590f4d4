//! The skeleton of a float graph, as the rules of configuration see it.

use config_schema::{LayerInfo, LayerKind, Topology};
use float_model::{Graph, Layer, Node};
use quantizer_core::PerAxis;

/// Returns the skeleton of `graph`.
pub(crate) fn topology(graph: &Graph) -> Topology {
    let layers = graph.iter().map(|(id, node)| LayerInfo {
        name: node.name.clone(),
        kind: kind(node),
        inputs: node.inputs.iter().map(|id| id.index()).collect(),
        shape: node.shape.clone(),
        is_output: graph.outputs().contains(&id),
    });
    Topology {
        layers: layers.collect(),
    }
}

/// Returns which rules apply to a layer; one whose parameters have no integer form counts as
/// unquantizable.
fn kind(node: &Node) -> LayerKind {
    match &node.layer {
        Layer::Input(_) => LayerKind::Input,
        Layer::Conv2D(conv) if conv.groups == 1 => LayerKind::Conv2D,
        Layer::DepthwiseConv2D(conv) if conv.kernel.dim().3 == 1 => LayerKind::DepthwiseConv2D,
        Layer::SeparableConv2D(conv) if conv.depthwise_kernel.dim().3 == 1 => {
            LayerKind::SeparableConv2D
        }
        Layer::Dense(_) => LayerKind::Dense,
        Layer::ReLU(relu) if is_zero(relu.negative_slope) && is_zero(relu.threshold) => {
            LayerKind::ReLU
        }
        Layer::MaxPool2D(_) => LayerKind::MaxPool2D,
        Layer::GlobalAveragePooling2D(_) => LayerKind::GlobalAveragePooling2D,
        Layer::Add(_) if node.inputs.len() == 2 => LayerKind::Add,
        Layer::Concatenate { .. } if node.inputs.len() == 2 => LayerKind::Concatenate,
        Layer::Rescaling(rescaling) if is_plain(&rescaling.scale, &rescaling.offset) => {
            LayerKind::Rescaling
        }
        Layer::Flatten => LayerKind::Flatten,
        Layer::Reshape { .. } => LayerKind::Reshape,
        Layer::Dropout { .. } => LayerKind::Dropout,
        Layer::Conv2D(_)
        | Layer::DepthwiseConv2D(_)
        | Layer::SeparableConv2D(_)
        | Layer::Conv2DTranspose(_)
        | Layer::DepthwiseConv2DTranspose(_)
        | Layer::BatchNormalization(_)
        | Layer::ReLU(_)
        | Layer::LeakyReLU { .. }
        | Layer::PReLU { .. }
        | Layer::Activation(_)
        | Layer::AveragePool2D(_)
        | Layer::Add(_)
        | Layer::Multiply
        | Layer::Subtract
        | Layer::Concatenate { .. }
        | Layer::Rescaling(_)
        | Layer::ZeroPadding2D(_)
        | Layer::UpSampling2D { .. }
        | Layer::Permute { .. } => LayerKind::Unquantizable,
    }
}

fn is_zero(x: f32) -> bool {
    x.abs().to_bits() == 0
}

fn is_plain(scale: &PerAxis<f64>, offset: &PerAxis<f64>) -> bool {
    scale.is_per_tensor() && offset.as_slice().iter().all(|o| o.abs().to_bits() == 0)
}
