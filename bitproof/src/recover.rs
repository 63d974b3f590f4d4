//! Float weights again, from integers: what a format that stores floats needs of a model that
//! holds integers only.
//!
//! Nothing is approximated. The weights are chosen so that quantizing them gives the same integers,
//! shifts and scales, and this is checked on the whole model.

mod layer;
mod weights;

use akida_sim::{
    CalibratedGraph, CalibratedNode, CalibratedOp, InputKind, QuantizedLayer, QuantizedModel,
    QuantizedNode, QuantizedOp, lower,
};
use config_schema::LayerConfig;
use float_model::{Dtype, Input, Layer};
use quantizer_core::QFormat;
use quantizer_core::layers::IntegerLayer;

use crate::Error;

/// Returns a calibrated graph that [`lower`] turns into `model` again, but for its provenance.
///
/// # Errors
///
/// There is no such graph that is known: the layers are named.
pub(crate) fn recovered(model: &QuantizedModel) -> Result<CalibratedGraph, Error> {
    let mut nodes = Vec::with_capacity(model.nodes.len());
    let mut refused = Vec::new();
    for node in &model.nodes {
        let producers = node.inputs.iter().map(|i| &model.nodes[*i]);
        match operation(node, &producers.collect::<Vec<_>>()) {
            Some(op) => nodes.push(CalibratedNode {
                name: node.name.clone(),
                inputs: node
                    .inputs
                    .iter()
                    .map(|i| model.nodes[*i].name.clone())
                    .collect(),
                op,
            }),
            None => refused.push(node.name.as_str()),
        }
    }
    if !refused.is_empty() {
        return Err(no_floats(&refused));
    }
    let outputs = model.outputs.iter().map(|i| model.nodes[*i].name.clone());
    let graph = CalibratedGraph {
        name: model.name.clone(),
        nodes,
        outputs: outputs.collect(),
    };
    let again = lower(graph.clone())?;
    let pairs = again.nodes.iter().zip(&model.nodes);
    let differ: Vec<&str> = pairs
        .filter(|(a, b)| a != b)
        .map(|(_, b)| b.name.as_str())
        .collect();
    if differ.is_empty() && again.outputs == model.outputs {
        return Ok(graph);
    }
    Err(no_floats(&differ))
}

fn no_floats(layers: &[&str]) -> Error {
    Error::Invalid(format!(
        "the model holds integers only, and no float weights are known that become them again, for \
         {}; write the .h5 with `bitproof quantize`",
        layers.join(", ")
    ))
}

fn operation(node: &QuantizedNode, producers: &[&QuantizedNode]) -> Option<CalibratedOp> {
    let input = |dtype: Dtype| {
        let shape = node.shape.clone();
        CalibratedOp::Float(Box::new(Layer::Input(Input { shape, dtype })))
    };
    Some(match &node.op {
        QuantizedOp::Input(InputKind::Float(dtype) | InputKind::Raw { dtype, .. }) => input(*dtype),
        QuantizedOp::InputQuantizer { spec, .. } => CalibratedOp::InputQuantizer(spec.clone()),
        QuantizedOp::Dequantizer(_) => CalibratedOp::Dequantizer,
        QuantizedOp::Float(layer) => CalibratedOp::Float(layer.clone()),
        QuantizedOp::Integer(integer) => {
            let config = LayerConfig::parse(&node.config.clone().unwrap_or_default()).ok()?;
            let formats = producers.iter().map(|node| node.format());
            let place = Place {
                class: &node.class_name,
                config: &config,
                integer,
                inputs: formats.collect::<Option<Vec<_>>>()?,
            };
            CalibratedOp::Quantized(Box::new(QuantizedLayer {
                layer: layer::float_layer(&place)?,
                config,
                json: node.config.clone(),
                ranges: node.ranges.clone(),
            }))
        }
    })
}

/// A layer of integers in its place.
struct Place<'a> {
    class: &'a str,
    config: &'a LayerConfig,
    integer: &'a IntegerLayer,
    /// Formats of its inputs.
    inputs: Vec<QFormat>,
}
