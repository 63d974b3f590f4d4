//! Which layers get an OutputQuantizer, and which one.

use serde_json::{Map, Value};

use crate::params::ParamValues;
use crate::topology::{LayerInfo, LayerKind, Topology};

/// An automatic output quantizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Assigned {
    bitwidth: u8,
    sign: AssignedSign,
    per_tensor: bool,
}

/// Whether the entry spells its sign, as the reference does for rectifiers only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AssignedSign {
    Unspelled,
    Signed,
    Unsigned,
}

/// Returns for each layer the automatic entry: `{"output_quantizer": ...}`, or `None`.
///
/// The layers are walked in reverse; a layer whose inputs must be quantized asks the last layer
/// before it that can rescale. A later request may turn per-axis into per-tensor, nothing else.
pub(crate) fn assign(topology: &Topology, params: &ParamValues) -> Vec<Option<Map<String, Value>>> {
    let mut assigned: Vec<Option<Assigned>> = vec![None; topology.layers.len()];
    for layer in topology
        .layers
        .iter()
        .rev()
        .filter(|l| l.kind.needs_aligned_inputs())
    {
        for source in sources(topology, layer) {
            let producer = &topology.layers[source];
            let per_tensor = producer.is_vector()
                || layer.kind == LayerKind::LutActivation
                || params.per_tensor_activations
                || producer.kind == LayerKind::StatefulRecurrent;
            match &mut assigned[source] {
                Some(earlier) => earlier.per_tensor |= per_tensor,
                first @ None => *first = Some(choose(topology, layer, source, per_tensor, params)),
            }
        }
    }
    assigned
        .into_iter()
        .map(|a| a.map(|a| entry(a, params.buffer_bits)))
        .collect()
}

/// Returns the last layers before `layer` that can rescale, looking through those that cannot.
fn sources(topology: &Topology, layer: &LayerInfo) -> Vec<usize> {
    let mut found = Vec::new();
    let mut open: Vec<usize> = layer.inputs.iter().rev().copied().collect();
    while let Some(input) = open.pop() {
        let producer = &topology.layers[input];
        if producer.kind.can_rescale() {
            found.push(input);
        } else {
            open.extend(producer.inputs.iter().rev());
        }
    }
    found
}

fn choose(
    topology: &Topology,
    layer: &LayerInfo,
    source: usize,
    per_tensor: bool,
    params: &ParamValues,
) -> Assigned {
    let producer = &topology.layers[source];
    let plain = |bitwidth| Assigned {
        bitwidth,
        sign: AssignedSign::Unspelled,
        per_tensor,
    };
    let is_activation = |kind| matches!(kind, LayerKind::ReLU | LayerKind::LutActivation);
    if producer.kind == LayerKind::ReLU {
        let signed = params.activation_bits >= 8;
        let sign = if signed {
            AssignedSign::Signed
        } else {
            AssignedSign::Unsigned
        };
        return Assigned {
            bitwidth: params.activation_bits,
            sign,
            per_tensor,
        };
    }
    if producer.kind == LayerKind::LutActivation {
        return plain(params.activation_bits);
    }
    if layer.kind == LayerKind::LutActivation {
        return plain(11);
    }
    if producer.kind == LayerKind::GlobalAveragePooling2D {
        let first = sources(topology, producer)
            .first()
            .map(|i| topology.layers[*i].kind);
        let bits = if first.is_some_and(is_activation) {
            params.activation_bits
        } else {
            params.output_bits
        };
        return plain(bits);
    }
    let recurrent = [producer.kind, layer.kind].contains(&LayerKind::StatefulRecurrent);
    plain(if recurrent { 16 } else { params.output_bits })
}

fn entry(assigned: Assigned, buffer_bits: u8) -> Map<String, Value> {
    let mut quantizer = Map::new();
    quantizer.insert("bitwidth".to_owned(), assigned.bitwidth.into());
    match assigned.sign {
        AssignedSign::Unspelled => None,
        AssignedSign::Signed => quantizer.insert("signed".to_owned(), true.into()),
        AssignedSign::Unsigned => quantizer.insert("signed".to_owned(), false.into()),
    };
    let axis = if assigned.per_tensor {
        "per-tensor"
    } else {
        "per-axis"
    };
    quantizer.insert("axis".to_owned(), axis.into());
    quantizer.insert("buffer_bitwidth".to_owned(), buffer_bits.into());
    let mut entry = Map::new();
    entry.insert("output_quantizer".to_owned(), Value::Object(quantizer));
    entry
}
