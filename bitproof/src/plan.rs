//! The calibrated graph: decisions, ranges, and the layers that quantization inserts.

use std::collections::{BTreeMap, BTreeSet};

use akida_sim::{
    CalibratedGraph, CalibratedNode, CalibratedOp, InputQuantizerSpec, OutputRanges, QuantizedLayer,
};
use config_schema::{Resolved, Status};
use float_model::{Draft, Graph, Layer};
use quantizer_core::PerAxis;

/// Ranges by layer: `range_max` and `rescaling_rate`.
pub(crate) type Ranges = BTreeMap<String, (PerAxis<f32>, PerAxis<f32>)>;

/// Returns the calibrated graph of `graph` with its decisions and ranges.
///
/// An InputQuantizer follows the input if there is a spec. A Dequantizer stands between each
/// quantized layer and its consumers in float (`{source}/dequantizer`), or behind the outputs of a
/// model that is quantized throughout (`dequantizer`).
pub(crate) fn calibrated_graph(
    graph: Graph,
    resolved: Resolved,
    ranges: &Ranges,
    input: Option<InputQuantizerSpec>,
) -> CalibratedGraph {
    let mut draft = graph.into_draft();
    let statuses: BTreeMap<String, Status> = resolved
        .layers
        .into_iter()
        .map(|l| (l.name, l.status))
        .collect();
    let mut extra = Vec::new();
    if let Some(spec) = input {
        extra.extend(insert_input_quantizer(&mut draft, spec));
    }
    extra.extend(if resolved.fully_quantized {
        final_dequantizers(&mut draft)
    } else {
        dequantizers(&mut draft, &statuses)
    });
    let mut nodes: Vec<CalibratedNode> = draft
        .nodes
        .into_iter()
        .map(|node| CalibratedNode {
            op: calibrated_op(node.layer, statuses.get(&node.name), ranges.get(&node.name)),
            name: node.name,
            inputs: node.inputs,
        })
        .collect();
    nodes.extend(extra);
    CalibratedGraph {
        name: draft.name,
        nodes,
        outputs: draft.outputs,
    }
}

fn calibrated_op(
    layer: Layer,
    status: Option<&Status>,
    ranges: Option<&(PerAxis<f32>, PerAxis<f32>)>,
) -> CalibratedOp {
    match status {
        Some(Status::Quantized { config, json, .. }) => {
            let ranges = ranges.map(|(range_max, rescaling_rate)| OutputRanges {
                range_max: range_max.clone(),
                rescaling_rate: rescaling_rate.clone(),
            });
            let (config, json) = (config.as_ref().clone(), json.clone());
            CalibratedOp::Quantized(Box::new(QuantizedLayer {
                layer,
                config,
                json,
                ranges,
            }))
        }
        Some(Status::Input | Status::Float { .. }) | None => CalibratedOp::Float(Box::new(layer)),
    }
}

fn insert_input_quantizer(draft: &mut Draft, spec: InputQuantizerSpec) -> Option<CalibratedNode> {
    let is_input = |layer: &Layer| matches!(layer, Layer::Input(_));
    let input = draft
        .nodes
        .iter()
        .find(|n| is_input(&n.layer))?
        .name
        .clone();
    let name = free_name(draft, "input_quantizer");
    draft.replace_uses(&input, &name);
    let op = CalibratedOp::InputQuantizer(spec);
    Some(CalibratedNode {
        name,
        inputs: vec![input],
        op,
    })
}

/// Makes the Dequantizers of the outputs: `dequantizer`, or `dequantizer:0`, `dequantizer:1`, ...
/// for several, which are one layer in the reference.
fn final_dequantizers(draft: &mut Draft) -> Vec<CalibratedNode> {
    let base = free_name(draft, "dequantizer");
    let several = draft.outputs.len() > 1;
    let outputs = draft.outputs.iter_mut().enumerate();
    let made = outputs.map(|(i, output)| {
        let name = if several {
            format!("{base}:{i}")
        } else {
            base.clone()
        };
        let source = std::mem::replace(output, name.clone());
        CalibratedNode {
            name,
            inputs: vec![source],
            op: CalibratedOp::Dequantizer,
        }
    });
    made.collect()
}

/// Makes one Dequantizer for each quantized layer that floats take, or that is an output.
fn dequantizers(draft: &mut Draft, statuses: &BTreeMap<String, Status>) -> Vec<CalibratedNode> {
    let is_quantized = |name: &str| matches!(statuses.get(name), Some(Status::Quantized { .. }));
    let mut sources = BTreeSet::new();
    let mut renamed = |name: &mut String| {
        if is_quantized(name) {
            sources.insert(name.clone());
            *name = format!("{name}/dequantizer");
        }
    };
    for node in draft
        .nodes
        .iter_mut()
        .filter(|node| !is_quantized(&node.name))
    {
        node.inputs.iter_mut().for_each(&mut renamed);
    }
    draft.outputs.iter_mut().for_each(&mut renamed);
    sources
        .into_iter()
        .map(|source| CalibratedNode {
            name: format!("{source}/dequantizer"),
            inputs: vec![source],
            op: CalibratedOp::Dequantizer,
        })
        .collect()
}

/// Returns `name`, or `name_k` with the least `k` that no layer has.
fn free_name(draft: &Draft, name: &str) -> String {
    let is_taken = |name: &str| draft.nodes.iter().any(|node| node.name == name);
    let mut candidates =
        std::iter::once(name.to_owned()).chain((1..).map(|k| format!("{name}_{k}")));
    candidates
        .find(|name| !is_taken(name))
        .unwrap_or_else(|| name.to_owned())
}
