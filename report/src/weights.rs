//! Weights before and after.

use bitproof::akida_sim::{QuantizedNode, QuantizedOp};
use bitproof::float_model::Layer;
use bitproof::quantizer_core::layers::IntegerOp;
use serde_json::Value;

use crate::histogram::{Grid, Histogram};

/// Integer weights of a layer.
pub(crate) struct Weights {
    /// What they are called.
    pub(crate) label: &'static str,
    /// Bits of the quantizer, the sign included.
    pub(crate) bits: Option<u8>,
    /// The integers.
    pub(crate) after: Histogram,
    /// The float weights, where the float layer is known.
    pub(crate) before: Option<Histogram>,
}

/// Returns the weights of a node, and those of the float layer of the same name.
pub(crate) fn weights(node: &QuantizedNode, float: Option<&Layer>) -> Vec<Weights> {
    let mut all = Vec::new();
    let float = float.map(float_weights).unwrap_or_default();
    let mut push = |label: &'static str, key: &str, integers: Vec<i64>| {
        let quantizer = node.config.as_ref().and_then(|config| config.get(key));
        let bits = quantizer
            .and_then(|q| q.get("bitwidth"))
            .and_then(Value::as_u64);
        let before = float.iter().find(|(name, _)| *name == label);
        let mut after = Histogram::new(Grid::Integers);
        after.add(integers.iter().map(|v| place(*v)));
        all.push(Weights {
            label,
            bits: bits.and_then(|bits| u8::try_from(bits).ok()),
            after,
            before: before.map(|(_, histogram)| histogram.clone()),
        });
    };
    let QuantizedOp::Integer(layer) = &node.op else {
        return all;
    };
    let wide = |kernel: &mut dyn Iterator<Item = &i32>| kernel.map(|v| i64::from(*v)).collect();
    let key = "weight_quantizer";
    match &layer.op {
        IntegerOp::Conv2D(op) => push("weights", key, wide(&mut op.kernel.iter())),
        IntegerOp::DepthwiseConv2D(op) => push("weights", key, wide(&mut op.kernel.iter())),
        IntegerOp::SeparableConv2D {
            depthwise,
            pointwise,
        } => {
            let kernel = wide(&mut depthwise.kernel.iter());
            push("depthwise weights", "dw_weight_quantizer", kernel);
            let kernel = wide(&mut pointwise.iter());
            push("pointwise weights", "pw_weight_quantizer", kernel);
        }
        IntegerOp::Conv2DTranspose(op) => push("weights", key, wide(&mut op.kernel.iter())),
        IntegerOp::DepthwiseConv2DTranspose(op) => {
            push("weights", key, wide(&mut op.kernel.iter()));
        }
        IntegerOp::Dense { kernel }
        | IntegerOp::StatefulProjection { kernel, .. }
        | IntegerOp::BufferTempConv { kernel, .. }
        | IntegerOp::DepthwiseBufferTempConv { kernel } => {
            push("weights", key, wide(&mut kernel.iter()));
        }
        IntegerOp::StatefulRecurrent(op) => {
            push("factors", "a_quantizer", op.factors.concat());
        }
        IntegerOp::ReLU { .. }
        | IntegerOp::LookUp { .. }
        | IntegerOp::MaxPool2D(_)
        | IntegerOp::GlobalAveragePooling2D { .. }
        | IntegerOp::Add
        | IntegerOp::Concatenate(_)
        | IntegerOp::Flatten
        | IntegerOp::Reshape { .. }
        | IntegerOp::Permute { .. }
        | IntegerOp::ExtractToken { .. }
        | IntegerOp::Identity => {}
    }
    all
}

/// Returns the float weights of a layer by what they are called.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the other layers have no weights that become integers"
)]
fn float_weights(layer: &Layer) -> Vec<(&'static str, Histogram)> {
    let of = |label, kernel: &mut dyn Iterator<Item = &f32>| {
        let kernel: Vec<f64> = kernel.map(|v| f64::from(*v)).collect();
        let mut histogram = Histogram::new(Grid::Floats);
        histogram.add(kernel.into_iter());
        (label, histogram)
    };
    match layer {
        Layer::Conv2D(conv) => vec![of("weights", &mut conv.kernel.iter())],
        Layer::DepthwiseConv2D(conv) | Layer::DepthwiseConv2DTranspose(conv) => {
            vec![of("weights", &mut conv.kernel.iter())]
        }
        Layer::SeparableConv2D(conv) => vec![
            of("depthwise weights", &mut conv.depthwise_kernel.iter()),
            of("pointwise weights", &mut conv.pointwise_kernel.iter()),
        ],
        Layer::Conv2DTranspose(conv) => vec![of("weights", &mut conv.kernel.iter())],
        Layer::Dense(dense) => vec![of("weights", &mut dense.kernel.iter())],
        Layer::StatefulProjection(op) => vec![of("weights", &mut op.dense.kernel.iter())],
        Layer::BufferTempConv(conv) => vec![of("weights", &mut conv.kernel.iter())],
        Layer::DepthwiseBufferTempConv(conv) => vec![of("weights", &mut conv.kernel.iter())],
        Layer::StatefulRecurrent(op) => {
            let factors = op.a_real.iter().chain(op.a_imag.iter());
            vec![of("factors", &mut factors.into_iter())]
        }
        _ => Vec::new(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a place in a drawing")]
const fn place(v: i64) -> f64 {
    v as f64
}
