//! The skeleton of a float graph, as the rules of configuration see it.

use config_schema::{LayerInfo, LayerKind, Topology};
use float_model::{Activation, Graph, Layer, Node};
use quantizer_core::PerAxis;

/// Returns the skeleton of `graph`.
pub(crate) fn topology(graph: &Graph) -> Topology {
    let layers = graph.iter().map(|(id, node)| LayerInfo {
        name: node.name.clone(),
        kind: kind(&node.layer),
        float_only: float_only(node),
        inputs: node.inputs.iter().map(|id| id.index()).collect(),
        shape: node.shape.clone(),
        is_output: graph.outputs().contains(&id),
    });
    Topology {
        layers: layers.collect(),
    }
}

/// Returns which rules apply to the class of a layer.
///
/// The assignment of output quantizers looks at classes only: a layer that will stay in float still
/// takes one from the layer before it, as in the reference.
fn kind(layer: &Layer) -> LayerKind {
    match layer {
        Layer::Input(_) => LayerKind::Input,
        Layer::Conv2D(_) => LayerKind::Conv2D,
        Layer::DepthwiseConv2D(_) => LayerKind::DepthwiseConv2D,
        Layer::SeparableConv2D(_) => LayerKind::SeparableConv2D,
        Layer::Conv2DTranspose(_) => LayerKind::Conv2DTranspose,
        Layer::DepthwiseConv2DTranspose(_) => LayerKind::DepthwiseConv2DTranspose,
        Layer::Dense(_) => LayerKind::Dense,
        Layer::StatefulProjection(_) => LayerKind::StatefulProjection,
        Layer::BufferTempConv(_) => LayerKind::BufferTempConv,
        Layer::DepthwiseBufferTempConv(_) => LayerKind::DepthwiseBufferTempConv,
        Layer::StatefulRecurrent(_) => LayerKind::StatefulRecurrent,
        Layer::ReLU(_) => LayerKind::ReLU,
        Layer::Activation(
            Activation::Gelu { .. }
            | Activation::Swish
            | Activation::HardSilu
            | Activation::LeakyRelu { .. },
        ) => LayerKind::LutActivation,
        Layer::MaxPool2D(_) => LayerKind::MaxPool2D,
        Layer::GlobalAveragePooling2D(_) => LayerKind::GlobalAveragePooling2D,
        Layer::Add(_) => LayerKind::Add,
        Layer::Concatenate { .. } => LayerKind::Concatenate,
        Layer::Rescaling(_) => LayerKind::Rescaling,
        Layer::Flatten => LayerKind::Flatten,
        Layer::Reshape { .. } => LayerKind::Reshape,
        Layer::Permute { .. } => LayerKind::Permute,
        Layer::ExtractToken { .. } => LayerKind::ExtractToken,
        Layer::Dropout { .. } => LayerKind::Dropout,
        Layer::BatchNormalization(_)
        | Layer::LeakyReLU { .. }
        | Layer::PReLU { .. }
        | Layer::Activation(_)
        | Layer::Softmax
        | Layer::AveragePool2D(_)
        | Layer::Multiply
        | Layer::Subtract
        | Layer::ZeroPadding2D(_)
        | Layer::Volume(_)
        | Layer::UpSampling2D { .. } => LayerKind::Unquantizable,
    }
}

/// Returns why a layer has no integer form although its class may have one.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the classes that have conditions are named"
)]
fn float_only(node: &Node) -> Option<String> {
    let reason = match &node.layer {
        Layer::Conv2D(conv) if conv.groups != 1 => format!("it has {} groups", conv.groups),
        Layer::DepthwiseConv2D(conv) if conv.kernel.dim().3 != 1 => {
            format!("it has a depth multiplier of {}", conv.kernel.dim().3)
        }
        Layer::SeparableConv2D(conv) if conv.depthwise_kernel.dim().3 != 1 => {
            format!(
                "it has a depth multiplier of {}",
                conv.depthwise_kernel.dim().3
            )
        }
        Layer::ReLU(relu) if !is_zero(relu.negative_slope) || !is_zero(relu.threshold) => {
            "it is a ReLU with a slope or a threshold".to_owned()
        }
        Layer::Add(_) | Layer::Concatenate { .. } if node.inputs.len() != 2 => {
            format!("it takes {} inputs, not two", node.inputs.len())
        }
        Layer::Rescaling(rescaling) if !is_plain(&rescaling.scale, &rescaling.offset) => {
            "its scale or offset could not be folded".to_owned()
        }
        Layer::DepthwiseConv2DTranspose(conv) if conv.strides != [2, 2] => {
            format!("it has strides {:?}, not 2", conv.strides)
        }
        _ => return None,
    };
    Some(reason)
}

fn is_zero(x: f32) -> bool {
    x.abs().to_bits() == 0
}

fn is_plain(scale: &PerAxis<f64>, offset: &PerAxis<f64>) -> bool {
    scale.is_per_tensor() && offset.as_slice().iter().all(|o| o.abs().to_bits() == 0)
}
