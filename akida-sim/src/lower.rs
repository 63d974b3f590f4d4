//! From a calibrated graph to integers.

mod integer;
mod quantizers;
mod weighted;

use std::collections::BTreeMap;

use float_model::{Dtype, GraphError, Layer, ParamCount, Shape, infer_shape, keras_order};
use quantizer_core::quantizers::InputQuantizer;
use quantizer_core::{BitWidth, NumericsError, PerAxis, QFormat, Sign, ValueBits};

use crate::calibrated::{
    CalibratedGraph, CalibratedNode, CalibratedOp, InputQuantizerSpec, OutputRanges,
};
use crate::model::{InputKind, Provenance, QuantizedModel, QuantizedNode, QuantizedOp};
use crate::{ModelError, QuantizedLayer};

/// Returns the integer model of a calibrated graph.
///
/// Weights, biases, scales and shifts are computed once, in Keras' order of the layers; nothing
/// depends on later inputs.
///
/// # Errors
///
/// Names, structure or shapes that cannot be right, and layers whose formats or numbers the
/// numerics refuse; the layer is named. The model is [valid](QuantizedModel::validate).
pub fn lower(graph: CalibratedGraph) -> Result<QuantizedModel, ModelError> {
    let CalibratedGraph {
        name,
        nodes,
        outputs,
    } = graph;
    let wiring = Wiring::new(&nodes, &outputs)?;
    let mut place = vec![usize::MAX; nodes.len()];
    for (position, old) in wiring.order.iter().enumerate() {
        place[*old] = position;
    }
    let mut slots: Vec<Option<CalibratedNode>> = nodes.into_iter().map(Some).collect();
    let mut lowered: Vec<QuantizedNode> = Vec::with_capacity(wiring.order.len());
    for &old in &wiring.order {
        let Some(node) = slots[old].take() else {
            continue;
        };
        let inputs: Vec<usize> = wiring.inputs[old].iter().map(|i| place[*i]).collect();
        let node = lower_node(node, inputs, &lowered, wiring.feeds_integers[old])?;
        lowered.push(node);
    }
    let outputs = wiring.outputs.iter().map(|old| place[*old]).collect();
    let model = QuantizedModel {
        name,
        nodes: lowered,
        outputs,
        provenance: Provenance::default(),
    };
    // What is written is what can be read again.
    model.validate()?;
    Ok(model)
}

/// The edges of a calibrated graph by index.
struct Wiring {
    inputs: Vec<Vec<usize>>,
    outputs: Vec<usize>,
    order: Vec<usize>,
    /// Whether a layer that runs on integers takes the output of a node directly.
    feeds_integers: Vec<bool>,
}

impl Wiring {
    fn new(nodes: &[CalibratedNode], outputs: &[String]) -> Result<Self, ModelError> {
        let mut index = BTreeMap::new();
        for (i, node) in nodes.iter().enumerate() {
            if index.insert(node.name.as_str(), i).is_some() {
                return Err(GraphError::DuplicateName {
                    layer: node.name.clone(),
                }
                .into());
            }
        }
        let find = |layer: &str, name: &String| {
            index
                .get(name.as_str())
                .copied()
                .ok_or_else(|| GraphError::UnknownLayer {
                    layer: layer.to_owned(),
                    name: name.clone(),
                })
        };
        let inputs = nodes
            .iter()
            .map(|node| {
                node.inputs
                    .iter()
                    .map(|name| find(&node.name, name))
                    .collect()
            })
            .collect::<Result<Vec<Vec<usize>>, _>>()?;
        let outputs = outputs
            .iter()
            .map(|name| find("output", name))
            .collect::<Result<Vec<_>, _>>()?;
        if outputs.is_empty() {
            return Err(GraphError::Empty.into());
        }
        let order = keras_order(&inputs, &outputs).map_err(|i| GraphError::Cycle {
            layer: nodes[i].name.clone(),
        })?;
        let mut feeds_integers = vec![false; nodes.len()];
        for (node, inputs) in nodes.iter().zip(&inputs) {
            if matches!(node.op, CalibratedOp::Quantized(_)) {
                inputs
                    .iter()
                    .for_each(|input| feeds_integers[*input] = true);
            }
        }
        Ok(Self {
            inputs,
            outputs,
            order,
            feeds_integers,
        })
    }
}

fn lower_node(
    node: CalibratedNode,
    inputs: Vec<usize>,
    lowered: &[QuantizedNode],
    feeds_integers: bool,
) -> Result<QuantizedNode, ModelError> {
    let CalibratedNode { name, op, .. } = node;
    let producers: Vec<&QuantizedNode> = inputs.iter().map(|i| &lowered[*i]).collect();
    let shapes: Vec<&Shape> = producers.iter().map(|node| &node.shape).collect();
    match op {
        CalibratedOp::Float(layer) => {
            let shape = infer_shape(&name, &layer, &shapes)?;
            let class_name = layer.class_name().to_owned();
            let params = layer.param_count();
            let op = lower_float(&name, *layer, &producers, feeds_integers)?;
            let (config, ranges) = (None, None);
            Ok(QuantizedNode {
                name,
                class_name,
                inputs,
                shape,
                op,
                config,
                ranges,
                params,
            })
        }
        CalibratedOp::Quantized(layer) => {
            let shape = infer_shape(&name, &layer.layer, &shapes)?;
            lower_quantized(name, *layer, inputs, &producers, shape)
        }
        CalibratedOp::InputQuantizer(spec) => {
            let shape = sole_shape(&name, &shapes)?;
            check_float(&name, &producers)?;
            let quantizer = input_quantizer(&spec).map_err(|e| ModelError::layer(&name, e))?;
            check_channels(&name, &quantizer.frac_bits, &shape)?;
            let params = ParamCount {
                trainable: 0,
                non_trainable: spec.range_min.n_values() + spec.range_max.n_values(),
            };
            let op = QuantizedOp::InputQuantizer { quantizer, spec };
            Ok(plain(name, "InputQuantizer", inputs, shape, op, params))
        }
        CalibratedOp::Dequantizer => {
            let shape = sole_shape(&name, &shapes)?;
            let format = producers[0]
                .format()
                .ok_or_else(|| ModelError::invalid(&name, "dequantizes a float tensor"))?;
            let op = QuantizedOp::Dequantizer(format);
            Ok(plain(
                name,
                "Dequantizer",
                inputs,
                shape,
                op,
                ParamCount::default(),
            ))
        }
    }
}

fn plain(
    name: String,
    class_name: &str,
    inputs: Vec<usize>,
    shape: Shape,
    op: QuantizedOp,
    params: ParamCount,
) -> QuantizedNode {
    let class_name = class_name.to_owned();
    QuantizedNode {
        name,
        class_name,
        inputs,
        shape,
        op,
        config: None,
        ranges: None,
        params,
    }
}

fn lower_float(
    name: &str,
    layer: Layer,
    producers: &[&QuantizedNode],
    feeds_integers: bool,
) -> Result<QuantizedOp, ModelError> {
    let Layer::Input(input) = &layer else {
        check_float(name, producers)?;
        return Ok(QuantizedOp::Float(Box::new(layer)));
    };
    if !feeds_integers && !input.dtype.is_integer() {
        return Ok(QuantizedOp::Input(InputKind::Float(input.dtype)));
    }
    // A float input without an InputQuantizer is taken for integers of the reference's default
    // type.
    let dtype = if input.dtype.is_integer() {
        input.dtype
    } else {
        Dtype::UInt8
    };
    let format = raw_format(dtype).map_err(|e| ModelError::layer(name, e))?;
    Ok(QuantizedOp::Input(InputKind::Raw { dtype, format }))
}

/// Returns the format of raw integers: all bits of the type, no fractional bits (NUMERICS.md: N13).
pub(crate) fn raw_format(dtype: Dtype) -> Result<QFormat, NumericsError> {
    let bits = match dtype {
        Dtype::UInt8 => 8,
        Dtype::Int8 => 7,
        Dtype::UInt16 => 16,
        Dtype::Int16 => 15,
        Dtype::Int32 => 31,
        Dtype::Float32 => {
            return Err(NumericsError::Invalid(
                "a float tensor has no integer format".to_owned(),
            ));
        }
    };
    Ok(QFormat::fixed(ValueBits::new(bits)?, PerAxis::Tensor(0)))
}

fn lower_quantized(
    name: String,
    layer: QuantizedLayer,
    inputs: Vec<usize>,
    producers: &[&QuantizedNode],
    shape: Shape,
) -> Result<QuantizedNode, ModelError> {
    let formats = producers
        .iter()
        .map(|node| {
            node.format().ok_or_else(|| {
                ModelError::invalid(&name, format!("its input `{}` is in float", node.name))
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let shapes: Vec<&Shape> = producers.iter().map(|node| &node.shape).collect();
    let integer = integer::lower_layer(&layer, &formats, &shapes)
        .map_err(|source| ModelError::layer(&name, source))?;
    if let Some(ranges) = &layer.ranges {
        check_channels(&name, &ranges.range_max, &shape)?;
        check_channels(&name, &ranges.rescaling_rate, &shape)?;
    }
    let mut params = layer.layer.param_count();
    params.non_trainable += layer.ranges.as_ref().map_or(0, count_ranges);
    Ok(QuantizedNode {
        class_name: layer.class_name(),
        name,
        inputs,
        shape,
        op: QuantizedOp::Integer(Box::new(integer)),
        config: layer.json,
        ranges: layer.ranges,
        params,
    })
}

fn count_ranges(ranges: &OutputRanges) -> usize {
    ranges.range_max.n_values() + ranges.rescaling_rate.n_values()
}

fn input_quantizer(spec: &InputQuantizerSpec) -> Result<InputQuantizer, NumericsError> {
    let sign = if spec.signed {
        Sign::Signed
    } else {
        Sign::Unsigned
    };
    InputQuantizer::new(
        BitWidth::new(spec.bitwidth)?,
        sign,
        &spec.range_min,
        &spec.range_max,
    )
}

fn sole_shape(name: &str, shapes: &[&Shape]) -> Result<Shape, ModelError> {
    match shapes {
        [shape] => Ok((*shape).clone()),
        shapes => Err(ModelError::invalid(
            name,
            format!("takes {} inputs", shapes.len()),
        )),
    }
}

fn check_float(name: &str, producers: &[&QuantizedNode]) -> Result<(), ModelError> {
    // A raw integer input is read as float by layers that stay in float.
    let is_integer = |node: &&&QuantizedNode| node.format().is_some() && !node.inputs.is_empty();
    match producers.iter().find(is_integer) {
        Some(node) => Err(ModelError::invalid(
            name,
            format!("`{}` needs a Dequantizer", node.name),
        )),
        None => Ok(()),
    }
}

fn check_channels<T: Copy>(
    name: &str,
    values: &PerAxis<T>,
    shape: &Shape,
) -> Result<(), ModelError> {
    let PerAxis::Axis(values) = values else {
        return Ok(());
    };
    let n_values = values.len();
    match shape.last().copied().flatten() {
        Some(channels) if channels != n_values => Err(ModelError::invalid(
            name,
            format!("{n_values} ranges for {channels} channels"),
        )),
        Some(_) | None => Ok(()),
    }
}
