//! How layers form hardware blocks.

use float_model::{Layer, Shape};
use quantizer_core::layers::IntegerOp;

use super::rules::RuleSet;
use super::target::Generation;
use super::widths::{Width, is_quantized};
use crate::model::{QuantizedModel, QuantizedNode, QuantizedOp};

/// Symbols of layers that do the work of a block, and the kind of block that each asks for.
const NEURAL: [(&str, &str); 11] = [
    ("Conv", "conv"),
    ("Sep", "separable"),
    ("DW", "depthwise"),
    ("T", "conv_transpose"),
    ("DWT", "depthwise_transpose"),
    ("Dense", "dense"),
    ("Add", "add"),
    ("Concat", "concatenate"),
    ("BTC", "temporal"),
    ("DWBTC", "depthwise_temporal"),
    ("Proj", "recurrent"),
];

/// Output quantizers of more bits stand inside a block of generation 2.0.
const MOST_BITS_BETWEEN_BLOCKS: u32 = 8;

/// The layers of a model, grouped.
#[derive(Clone, Debug)]
pub(super) struct Grouping {
    /// In the order of the model.
    pub(super) blocks: Vec<Block>,
    /// Indices of the layers before the first Dequantizer, inputs left out.
    pub(super) kept: Vec<usize>,
    /// Indices of the Dequantizers that end the integers; several for several outputs.
    pub(super) dequantizers: Vec<usize>,
    /// Indices of the layers after them.
    pub(super) tail: Vec<usize>,
}

/// A run of layers between two block ends.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// Kind of the block; that of its main layer if it is no block.
    pub(super) kind: String,
    /// Name of the hardware layer; `None` if the sequence is not a block.
    pub(super) hardware: Option<String>,
    /// Indices of its layers, those without a counterpart left out.
    pub(super) layers: Vec<usize>,
    /// Index of the layer that does the work.
    pub(super) main: usize,
    /// Indices of the layers that feed it, each as often as it is taken.
    pub(super) operands: Vec<usize>,
    /// Indices of blocks that feed it.
    pub(super) producers: Vec<usize>,
    /// Indices of blocks that take its outputs.
    pub(super) consumers: Vec<usize>,
    /// Whether it is the first one behind the input.
    pub(super) is_first: bool,
}

impl Block {
    /// Returns the index of the last layer.
    pub(super) fn end(&self) -> usize {
        self.layers.last().copied().unwrap_or(self.main)
    }

    /// Returns the symbols of its layers.
    pub(super) fn sequence(&self, model: &QuantizedModel) -> String {
        let symbols = self.layers.iter().map(|i| symbol(&model.nodes[*i]));
        symbols.collect::<Vec<_>>().join(" ")
    }
}

/// Returns the symbol that patterns have for a layer.
pub(super) fn symbol(node: &QuantizedNode) -> &'static str {
    match &node.op {
        QuantizedOp::Input(_) => "Input",
        QuantizedOp::InputQuantizer { .. } => "InputQuantizer",
        QuantizedOp::Dequantizer(_) => "Dequantizer",
        QuantizedOp::Float(layer) => layer.class_name(),
        QuantizedOp::Integer(layer) => match &layer.op {
            IntegerOp::Conv2D(_) => "Conv",
            IntegerOp::DepthwiseConv2D(_) => "DW",
            IntegerOp::SeparableConv2D { .. } => "Sep",
            IntegerOp::Conv2DTranspose(_) => "T",
            IntegerOp::DepthwiseConv2DTranspose(_) => "DWT",
            IntegerOp::Dense { .. } => "Dense",
            IntegerOp::StatefulProjection { .. } => "Proj",
            IntegerOp::BufferTempConv { .. } => "BTC",
            IntegerOp::DepthwiseBufferTempConv { .. } => "DWBTC",
            IntegerOp::StatefulRecurrent(_) => "Recurrent",
            IntegerOp::ReLU { .. } => "ReLU",
            IntegerOp::LookUp { .. } => "LUT",
            IntegerOp::MaxPool2D(_) => "MaxPool",
            IntegerOp::GlobalAveragePooling2D { .. } => "GAP",
            IntegerOp::Add => "Add",
            IntegerOp::Concatenate(_) => "Concat",
            IntegerOp::Flatten => "Flatten",
            IntegerOp::Reshape { .. } => "Reshape",
            IntegerOp::Permute { .. } => "Permute",
            IntegerOp::ExtractToken { .. } => "Extract",
            IntegerOp::Identity => "Identity",
        },
    }
}

/// Returns whether a layer has no counterpart in hardware and none is needed.
pub(super) fn is_ignored(model: &QuantizedModel, index: usize) -> bool {
    let node = &model.nodes[index];
    match &node.op {
        QuantizedOp::Integer(layer) if matches!(layer.op, IntegerOp::Identity) => true,
        QuantizedOp::Integer(layer) => {
            let input = node.inputs.first().map(|i| &model.nodes[*i].shape);
            matches!(layer.op, IntegerOp::Reshape { .. })
                && input.is_some_and(|input| without_ones(input) == without_ones(&node.shape))
        }
        QuantizedOp::Float(layer) => matches!(
            **layer,
            Layer::Activation(_) | Layer::Softmax | Layer::Dropout { .. } | Layer::Rescaling(_)
        ),
        QuantizedOp::Input(_)
        | QuantizedOp::InputQuantizer { .. }
        | QuantizedOp::Dequantizer(_) => false,
    }
}

fn without_ones(shape: &Shape) -> Shape {
    shape.iter().copied().filter(|n| *n != Some(1)).collect()
}

/// Returns whether a layer, or a pattern's symbol, stands for a layer of some block.
pub(super) fn is_known(rules: &RuleSet, generation: Generation, symbol: &str) -> bool {
    let sequences = rules.patterns.iter().filter_map(|p| p.of(generation));
    sequences
        .flat_map(|s| &s.sequences)
        .any(|sequence| sequence.split(' ').any(|known| known == symbol))
}

/// Returns the name that several Dequantizers of one layer share.
fn dequantizer_name(node: &QuantizedNode) -> &str {
    let (name, index) = node.name.rsplit_once(':').unwrap_or((&node.name, ""));
    if index.parse::<usize>().is_ok() {
        name
    } else {
        &node.name
    }
}

/// Returns the blocks of a model.
pub(super) fn group(
    model: &QuantizedModel,
    rules: &RuleSet,
    generation: Generation,
    widths: &[Option<Width>],
) -> Grouping {
    let is_dequantizer = |node: &QuantizedNode| matches!(node.op, QuantizedOp::Dequantizer(_));
    let first = model.nodes.iter().position(is_dequantizer);
    let ends_integers = |node: &QuantizedNode| {
        is_dequantizer(node)
            && first.is_some_and(|i| dequantizer_name(node) == dequantizer_name(&model.nodes[i]))
    };
    let mut grouping = Grouping {
        blocks: Vec::new(),
        kept: Vec::new(),
        dequantizers: Vec::new(),
        tail: Vec::new(),
    };
    for (i, node) in model.nodes.iter().enumerate() {
        if ends_integers(node) {
            grouping.dequantizers.push(i);
        } else if first.is_some_and(|first| i > first) {
            grouping.tail.push(i);
        } else if !matches!(node.op, QuantizedOp::Input(_)) {
            grouping.kept.push(i);
        }
    }
    let links = Links::of(model, &grouping, generation, widths);
    let ends = grouping.kept.iter().copied().filter(|i| links.ends[*i]);
    let mut blocks: Vec<Block> = ends
        .map(|end| links.block(model, rules, generation, end))
        .collect();
    connect(&mut blocks, &links);
    grouping.blocks = blocks;
    grouping
}

/// Who feeds whom, layers without a counterpart passed over.
struct Links {
    /// Layers that feed each layer, each as often as it is taken.
    operands: Vec<Vec<usize>>,
    /// Whether each layer ends a block.
    ends: Vec<bool>,
}

impl Links {
    fn of(
        model: &QuantizedModel,
        grouping: &Grouping,
        generation: Generation,
        widths: &[Option<Width>],
    ) -> Self {
        let n = model.nodes.len();
        // For each layer, the one whose integers it hands on: itself, or that of an ignored one.
        let mut source: Vec<usize> = (0..n).collect();
        let mut operands = vec![Vec::new(); n];
        let mut consumers: Vec<Vec<usize>> = vec![Vec::new(); n];
        let mut is_real = vec![false; n];
        for &i in &grouping.kept {
            let node = &model.nodes[i];
            if is_ignored(model, i)
                && let [input] = node.inputs.as_slice()
            {
                source[i] = source[*input];
                continue;
            }
            is_real[i] = true;
            operands[i] = node.inputs.iter().map(|input| source[*input]).collect();
            for &operand in &operands[i] {
                if !consumers[operand].contains(&i) {
                    consumers[operand].push(i);
                }
            }
        }
        let dequantized = grouping
            .dequantizers
            .iter()
            .flat_map(|i| &model.nodes[*i].inputs);
        let dequantized: Vec<usize> = dequantized.map(|input| source[*input]).collect();
        let joins = |i: &usize| operands[*i].len() > 1;
        let ends = (0..n).map(|i| {
            let stops = stops(&model.nodes[i], generation, widths[i]);
            let is_taken_once = consumers[i].len() == 1 && !dequantized.contains(&i);
            is_real[i] && (stops || !is_taken_once || joins(&i) || consumers[i].iter().any(joins))
        });
        Self {
            ends: ends.collect(),
            operands,
        }
    }

    /// Returns the block that ends with a layer.
    fn block(
        &self,
        model: &QuantizedModel,
        rules: &RuleSet,
        generation: Generation,
        end: usize,
    ) -> Block {
        let mut layers = vec![end];
        let mut at = end;
        while let [input] = self.operands[at].as_slice() {
            if self.ends[*input] || matches!(model.nodes[*input].op, QuantizedOp::Input(_)) {
                break;
            }
            at = *input;
            layers.push(at);
        }
        layers.reverse();
        let asked = |i: &usize| {
            let symbol = symbol(&model.nodes[*i]);
            NEURAL.iter().find(|(s, _)| *s == symbol).map(|(_, k)| *k)
        };
        let main = layers.iter().copied().find(|i| asked(i).is_some());
        let main = main.unwrap_or(at);
        let mut block = Block {
            kind: String::new(),
            hardware: None,
            operands: self.operands[at].clone(),
            layers,
            main,
            producers: Vec::new(),
            consumers: Vec::new(),
            is_first: false,
        };
        let is_quantizer = matches!(model.nodes[at].op, QuantizedOp::InputQuantizer { .. });
        let other = if is_quantizer { "quantizer" } else { "other" };
        block.kind = asked(&main).unwrap_or(other).to_owned();
        let sequence = block.sequence(model);
        // The input layer's sequences are those of a convolution too: it is told apart later.
        let found = rules.blocks_of(generation, &sequence);
        block.hardware = found.get(block.kind.as_str()).map(|s| (*s).to_owned());
        block
    }
}

/// Returns whether a layer ends a block whatever follows.
fn stops(node: &QuantizedNode, generation: Generation, width: Option<Width>) -> bool {
    let is_quantizer = matches!(node.op, QuantizedOp::InputQuantizer { .. });
    let is_narrow = width.is_none_or(|width| width.bits <= MOST_BITS_BETWEEN_BLOCKS);
    let counts = generation == Generation::V1 || is_narrow;
    let is_token = matches!(&node.op, QuantizedOp::Integer(layer)
        if matches!(layer.op, IntegerOp::ExtractToken { axis: 1, .. }));
    is_quantizer || (is_quantized(node) && counts) || (generation == Generation::V2 && is_token)
}

/// Tells each block which blocks feed it and take its outputs, and which one comes first.
fn connect(blocks: &mut [Block], links: &Links) {
    let ends: Vec<usize> = blocks.iter().map(Block::end).collect();
    for i in 0..blocks.len() {
        let mut producers: Vec<usize> = Vec::new();
        for operand in &blocks[i].operands {
            let producer = ends.iter().position(|end| end == operand);
            if let Some(producer) = producer.filter(|p| !producers.contains(p)) {
                producers.push(producer);
            }
        }
        for producer in &producers {
            blocks[*producer].consumers.push(i);
        }
        blocks[i].producers = producers;
    }
    debug_assert!(
        blocks.iter().all(|block| links.ends[block.end()]),
        "blocks end where layers end blocks"
    );
    if let Some(first) = blocks.iter_mut().find(|block| block.kind != "quantizer") {
        first.is_first = true;
    }
}

/// Returns the legal sequence that differs least from `sequence`: of those with the same main layer if
/// there are any, and of those with the same layers in another order if there are any.
pub(super) fn nearest(
    rules: &RuleSet,
    generation: Generation,
    block: &Block,
    sequence: &str,
) -> String {
    let sorted = |sequence: &str| {
        let mut words: Vec<String> = sequence.split(' ').map(str::to_owned).collect();
        words.sort();
        words
    };
    let own = sorted(sequence);
    let all = rules.patterns.iter().filter_map(|pattern| {
        let sequences = pattern.of(generation)?.sequences.iter();
        Some(sequences.map(|s| (pattern.kind != block.kind, s)))
    });
    let best = all.flatten().min_by_key(|(is_other_kind, candidate)| {
        let are_other_layers = sorted(candidate) != own;
        (*is_other_kind, are_other_layers, edits(sequence, candidate))
    });
    best.map_or_else(String::new, |(_, s)| s.replace(' ', ", "))
}

/// Returns how many words must be put in, taken out or changed.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<&str> = b.split(' ').collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, word) in a.split(' ').enumerate() {
        let mut before = i;
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let changed = before + usize::from(word != *other);
            before = row[j + 1];
            row[j + 1] = changed.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
