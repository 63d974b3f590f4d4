//! What is known of a model, its layers and its blocks.

mod input;
mod numbers;
mod windows;

use float_model::Shape;
use quantizer_core::layers::IntegerOp;
use serde_json::Value as Json;

use self::input::Input;
use super::blocks::{Block, Grouping, group, is_ignored, is_known, nearest, symbol};
use super::expr::{Facts, Value};
use super::rules::RuleSet;
use super::target::{Generation, Target};
use super::widths::{Width, is_quantized, output_quantizer, widths};
use crate::ModelError;
use crate::model::{InputKind, QuantizedModel, QuantizedNode, QuantizedOp};
use crate::prove::{LayerBounds, bound};

/// A place that rules look at.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Kind of a block; empty for the model and for layers.
    pub(super) kind: String,
    /// Name of the layer that stands for it; empty for the model.
    pub(super) name: String,
    /// Name of the hardware layer, if it is one.
    pub(super) hardware: Option<String>,
    /// Names of the layers in it.
    pub(super) layers: Vec<String>,
    pub(super) facts: Facts,
}

/// All places of a model.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) model: Place,
    pub(super) layers: Vec<Place>,
    pub(super) blocks: Vec<Place>,
}

/// Returns everything that is known of a model for a target.
pub(super) fn places(
    model: &QuantizedModel,
    rules: &RuleSet,
    target: Target,
) -> Result<Places, ModelError> {
    let generation = target.generation();
    let widths = widths(model);
    let grouping = group(model, rules, generation, &widths);
    // Channels may be open where a model leaves its input open: sums are unknown then.
    let bounds = bound(model).ok();
    let survey = Survey {
        model,
        rules,
        target,
        generation,
        widths,
        grouping,
        bounds,
    };
    let mut blocks = survey.blocks();
    blocks.extend(survey.dequantizer());
    Ok(Places {
        model: survey.whole(&blocks),
        layers: survey.layers(),
        blocks,
    })
}

struct Survey<'a> {
    model: &'a QuantizedModel,
    rules: &'a RuleSet,
    target: Target,
    generation: Generation,
    widths: Vec<Option<Width>>,
    grouping: Grouping,
    bounds: Option<Vec<LayerBounds>>,
}

/// Returns a number of things as a value.
fn count(n: usize) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

fn text(text: impl Into<String>) -> Value {
    Value::Text(text.into())
}

fn put(facts: &mut Facts, name: &'static str, value: Option<Value>) {
    if let Some(value) = value {
        facts.insert(name, value);
    }
}

/// Returns how an integer type is called.
fn type_name(width: Width) -> String {
    let sign = if width.is_signed { "int" } else { "uint" };
    format!("{sign}{}", width.bits)
}

/// Returns the number of elements of an item, `None` where extents are open.
fn n_elements(shape: &Shape) -> Option<usize> {
    shape
        .iter()
        .copied()
        .try_fold(1, |n: usize, extent| n.checked_mul(extent?))
}

fn shape_name(shape: &Shape) -> String {
    let extents = shape
        .iter()
        .map(|n| n.map_or("?".to_owned(), |n| n.to_string()));
    format!("({})", extents.collect::<Vec<_>>().join(","))
}

impl Survey<'_> {
    fn whole(&self, blocks: &[Place]) -> Place {
        let mut facts = Facts::new();
        let inputs = self
            .model
            .nodes
            .iter()
            .filter(|node| matches!(node.op, QuantizedOp::Input(_)));
        let inputs: Vec<&QuantizedNode> = inputs.collect();
        facts.insert("n_inputs", count(inputs.len()));
        facts.insert("n_outputs", count(self.model.outputs.len()));
        put(
            &mut facts,
            "rank",
            inputs.first().map(|node| count(node.shape.len() + 1)),
        );
        let n_mappable = self.grouping.kept.iter().filter(|i| {
            !is_ignored(self.model, **i)
                && matches!(self.model.nodes[**i].op, QuantizedOp::Integer(_))
        });
        facts.insert("n_mappable", count(n_mappable.count()));
        let has =
            |kinds: &[&str]| Value::Bool(blocks.iter().any(|b| kinds.contains(&b.kind.as_str())));
        facts.insert("has_recurrent", has(&["recurrent"]));
        facts.insert("has_joins", has(&["add", "concatenate"]));
        let differ = |place: &Place, a: &str, b: &str| {
            let known = place.facts.get(a).zip(place.facts.get(b));
            known.is_some_and(|(a, b)| a != b)
        };
        let mixed = blocks.iter().any(|b| differ(b, "ib", "wb"));
        facts.insert("mixed_bits", Value::Bool(mixed));
        let uneven = blocks
            .iter()
            .any(|b| differ(b, "k0", "k1") || differ(b, "s0", "s1"));
        facts.insert("has_asymmetry", Value::Bool(uneven));
        Place {
            kind: String::new(),
            name: String::new(),
            hardware: None,
            layers: Vec::new(),
            facts,
        }
    }

    fn layers(&self) -> Vec<Place> {
        let places = self.grouping.kept.iter().map(|&i| {
            let node = &self.model.nodes[i];
            let known =
                is_ignored(self.model, i) || is_known(self.rules, self.generation, symbol(node));
            let class = match &node.op {
                QuantizedOp::Float(layer) => format!("{} in float", layer.class_name()),
                QuantizedOp::Input(_)
                | QuantizedOp::InputQuantizer { .. }
                | QuantizedOp::Integer(_)
                | QuantizedOp::Dequantizer(_) => {
                    node.class_name.trim_start_matches("Quantized").to_owned()
                }
            };
            let facts = [("known", Value::Bool(known)), ("class", text(class))];
            Place {
                kind: String::new(),
                name: node.name.clone(),
                hardware: None,
                layers: vec![node.name.clone()],
                facts: facts.into_iter().collect(),
            }
        });
        places.collect()
    }

    /// Returns the blocks in the order of the model, `InputData` where it is inserted.
    fn blocks(&self) -> Vec<Place> {
        let mut places = Vec::new();
        let inputs: Vec<Input> = self
            .grouping
            .blocks
            .iter()
            .map(|b| Input::of(self, b))
            .collect();
        let kinds: Vec<String> = self
            .grouping
            .blocks
            .iter()
            .zip(&inputs)
            .map(|(block, input)| {
                let is_input = input.is_image && input.fits_image_layer;
                if is_input {
                    "input_conv".to_owned()
                } else {
                    block.kind.clone()
                }
            })
            .collect();
        for ((block, input), kind) in self.grouping.blocks.iter().zip(&inputs).zip(&kinds) {
            if block.is_first && kind != "input_conv" {
                places.push(self.input_data(block, input));
            }
            places.push(self.block(block, input, kind, &kinds));
        }
        places
    }

    fn block(&self, block: &Block, input: &Input, kind: &str, kinds: &[String]) -> Place {
        let nodes = &self.model.nodes;
        let mut facts = Facts::new();
        let sequence = block.sequence(self.model);
        facts.insert("kind", text(kind));
        facts.insert("generation", text(self.generation.name()));
        put(&mut facts, "nps", self.target.processors().map(Value::Int));
        facts.insert("formed", Value::Bool(block.hardware.is_some()));
        facts.insert("sequence", text(sequence.replace(' ', ", ")));
        let near = nearest(self.rules, self.generation, block, &sequence);
        facts.insert("nearest", text(near));
        put(
            &mut facts,
            "starts_with",
            block.layers.first().map(|i| text(symbol(&nodes[*i]))),
        );
        facts.insert("ends_with", text(symbol(&nodes[block.end()])));
        self.connections(block, kinds, &mut facts);
        input.put(&mut facts);
        self.outputs(block, &mut facts);
        self.activation(block, &mut facts);
        windows::put_facts(self.model, block, &mut facts);
        numbers::put_facts(self.model, block, self.bounds.as_deref(), &mut facts);
        let hardware = block.hardware.as_ref().map(|own| {
            let found = self.rules.blocks_of(self.generation, &sequence);
            found
                .get(kind)
                .map_or_else(|| own.clone(), |name| (*name).to_owned())
        });
        Place {
            kind: kind.to_owned(),
            name: nodes[block.main].name.clone(),
            hardware,
            layers: block
                .layers
                .iter()
                .map(|i| nodes[*i].name.clone())
                .collect(),
            facts,
        }
    }

    fn connections(&self, block: &Block, kinds: &[String], facts: &mut Facts) {
        let named = |blocks: &[usize]| {
            let names = blocks.iter().map(|i| text(kinds[*i].clone()));
            Value::List(names.collect())
        };
        let mut distinct: Vec<usize> = Vec::new();
        for operand in &block.operands {
            if !distinct.contains(operand) {
                distinct.push(*operand);
            }
        }
        facts.insert("n_operands", count(block.operands.len()));
        facts.insert("n_producers", count(distinct.len()));
        facts.insert(
            "same_inputs",
            Value::Bool(distinct.len() < block.operands.len()),
        );
        facts.insert("producers", named(&block.producers));
        facts.insert("consumers", named(&block.consumers));
        facts.insert("n_consumers", count(block.consumers.len()));
        facts.insert("is_last", Value::Bool(block.consumers.is_empty()));
    }

    /// Facts of the integers that a block hands on.
    fn outputs(&self, block: &Block, facts: &mut Facts) {
        let end = &self.model.nodes[block.end()];
        let width = self.widths[block.end()];
        put(facts, "ob", width.map(|w| Value::Int(w.bits.into())));
        facts.insert("quantized", Value::Bool(is_quantized(end)));
        facts.insert("raw", Value::Bool(!is_quantized(end)));
        put(facts, "o_per_tensor", is_per_tensor(end).map(Value::Bool));
        let channels = end.shape.last().copied().flatten();
        put(facts, "o_channels", channels.map(count));
        if let [rows, columns, _] = end.shape.as_slice() {
            let is_vector = rows.zip(*columns) == Some((1, 1));
            facts.insert("spatial", Value::Bool(!is_vector));
        } else {
            facts.insert("spatial", Value::Bool(false));
        }
    }

    fn activation(&self, block: &Block, facts: &mut Facts) {
        let mut act = "none";
        for &i in &block.layers {
            let node = &self.model.nodes[i];
            let QuantizedOp::Integer(layer) = &node.op else {
                continue;
            };
            if let IntegerOp::ReLU { max } = &layer.op {
                act = if max.is_some() {
                    "relu_bounded"
                } else {
                    "relu"
                };
                facts.insert("relu_quantized", Value::Bool(is_quantized(node)));
                put(
                    facts,
                    "relu_per_tensor",
                    is_per_tensor(node).map(Value::Bool),
                );
            } else if let IntegerOp::LookUp { table } = &layer.op {
                act = "lut";
                facts.insert("table_len", count(table.len()));
                let input = node.inputs.first().map(|i| &self.model.nodes[*i]);
                let format = input.and_then(QuantizedNode::format);
                let bits = format.as_ref().map(|f| i64::from(f.value_bits.bits()) + 1);
                put(facts, "table_bits", bits.map(Value::Int));
                let per_tensor = format.as_ref().map(|f| Value::Bool(f.is_per_tensor()));
                put(facts, "table_per_tensor", per_tensor);
            }
        }
        facts.insert("act", text(act));
    }

    fn input_data(&self, block: &Block, input: &Input) -> Place {
        let mut facts = Facts::new();
        input.put(&mut facts);
        facts.insert("generation", text(self.generation.name()));
        facts.insert("kind", text("input_data"));
        facts.insert("next", text(block.sequence(self.model).replace(' ', ", ")));
        let entry = self
            .model
            .nodes
            .iter()
            .find(|node| matches!(node.op, QuantizedOp::Input(_)));
        put(
            &mut facts,
            "rank",
            entry.map(|node| count(node.shape.len() + 1)),
        );
        if let Some(node) = entry {
            let is_raw = matches!(node.op, QuantizedOp::Input(InputKind::Raw { .. }));
            facts.insert("i_raw", Value::Bool(is_raw));
        }
        let name = entry.map_or_else(String::new, |node| node.name.clone());
        Place {
            kind: "input_data".to_owned(),
            layers: vec![name.clone()],
            name,
            hardware: Some("InputData".to_owned()),
            facts,
        }
    }

    fn dequantizer(&self) -> Option<Place> {
        let nodes = &self.model.nodes;
        let first = *self.grouping.dequantizers.first()?;
        let mut facts = Facts::new();
        facts.insert("kind", text("dequantizer"));
        facts.insert("formed", Value::Bool(true));
        facts.insert("n_operands", count(self.grouping.dequantizers.len()));
        facts.insert("n_tail", count(self.grouping.tail.len()));
        let tail = self
            .grouping
            .tail
            .iter()
            .map(|i| text(nodes[*i].name.clone()));
        facts.insert("tail", Value::List(tail.collect()));
        let last = self
            .grouping
            .blocks
            .iter()
            .rfind(|block| block.consumers.is_empty());
        if let Some(last) = last {
            let mut of_last = Facts::new();
            self.activation(last, &mut of_last);
            put(&mut facts, "last_act", of_last.remove("act"));
        }
        Some(Place {
            kind: "dequantizer".to_owned(),
            name: nodes[first].name.clone(),
            hardware: Some("Dequantizer".to_owned()),
            layers: vec![nodes[first].name.clone()],
            facts,
        })
    }
}

/// Returns whether the output quantizer of a layer has one range, `None` without one.
fn is_per_tensor(node: &QuantizedNode) -> Option<bool> {
    if !is_quantized(node) {
        return None;
    }
    let axis = output_quantizer(node).and_then(|quantizer| quantizer.get("axis"));
    match axis.and_then(Json::as_str) {
        Some(axis) => Some(axis == "per-tensor"),
        None => node.format().map(|format| format.is_per_tensor()),
    }
}
