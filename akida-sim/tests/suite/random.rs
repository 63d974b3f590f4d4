//! Random networks: every layer type in one graph, with edges among the numbers.

use akida_sim::{CalibratedGraph, CalibratedNode, CalibratedOp, OutputRanges, QuantizedLayer};
use config_schema::LayerConfig;
use float_model::{
    Activation, Add, Conv2D, Dense, DepthwiseConv2D, Dtype, GlobalAveragePooling2D, Input, Layer,
    Padding, Pool2D, ReLU, Rescaling, SeparableConv2D,
};
use ndarray::{Array1, Array2, Array4, ArrayD, IxDyn};
use proptest::prelude::*;
use quantizer_core::PerAxis;
use serde_json::json;
use std::ops::Range;

/// What a random network is made of.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) seed: u64,
    pub(crate) extent: usize,
    pub(crate) channels: [usize; 4],
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: Padding,
    pub(crate) border: bool,
    pub(crate) weight_bits: u8,
    pub(crate) activation_bits: u8,
    pub(crate) buffer_bits: u8,
    pub(crate) scale: f32,
    pub(crate) per_axis: bool,
    pub(crate) max_value: bool,
    pub(crate) vector: bool,
}

/// Numbers of a small generator: tests need no better ones.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let bits = u16::try_from(self.0 >> 48).unwrap();
        f32::from(bits) / 32_768.0 - 1.0
    }

    fn kernel(&mut self, shape: (usize, usize, usize, usize), scale: f32) -> Array4<f32> {
        // The first channel is dead: all its weights are zero.
        Array4::from_shape_fn(
            shape,
            |(_, _, _, f)| if f == 1 { 0.0 } else { self.next() * scale },
        )
    }

    fn vector(&mut self, n: usize, scale: f32) -> Array1<f32> {
        Array1::from_shape_fn(n, |_| self.next() * scale)
    }

    fn range(&mut self, n: Option<usize>) -> PerAxis<f32> {
        let mut one = || (self.next() * 4.0).abs();
        match n {
            None => PerAxis::Tensor(one()),
            Some(n) => PerAxis::Axis((0..n).map(|c| if c == 2 { 0.0 } else { one() }).collect()),
        }
    }
}

struct Builder {
    recipe: Recipe,
    numbers: Numbers,
    nodes: Vec<CalibratedNode>,
}

impl Builder {
    /// Returns a network that begins with its input.
    fn new(recipe: &Recipe) -> Self {
        let mut builder = Self {
            recipe: recipe.clone(),
            numbers: Numbers(recipe.seed),
            nodes: Vec::new(),
        };
        let extents = [recipe.extent, recipe.extent, recipe.channels[0]];
        let input = Input {
            shape: extents.map(Some).to_vec(),
            dtype: Dtype::UInt8,
        };
        builder.float("input", &[], Layer::Input(input));
        builder
    }

    fn float(&mut self, name: &str, inputs: &[&str], layer: Layer) {
        let op = CalibratedOp::Float(Box::new(layer));
        self.push(name, inputs, op);
    }

    fn push(&mut self, name: &str, inputs: &[&str], op: CalibratedOp) {
        let inputs = inputs.iter().map(|i| (*i).to_owned()).collect();
        self.nodes.push(CalibratedNode {
            name: name.to_owned(),
            inputs,
            op,
        });
    }

    /// Adds a quantized layer; `quantized` is the number of its output channels if it has an
    /// output quantizer.
    fn quantized(&mut self, name: &str, inputs: &[&str], layer: Layer, quantized: Option<usize>) {
        let recipe = &self.recipe;
        let mut entry = json!({ "buffer_bitwidth": recipe.buffer_bits });
        let bits = json!({ "bitwidth": recipe.weight_bits });
        match &layer {
            Layer::SeparableConv2D(_) => {
                entry["dw_weight_quantizer"] =
                    json!({ "bitwidth": recipe.weight_bits, "axis": null });
                entry["pw_weight_quantizer"] = bits;
            }
            Layer::DepthwiseConv2D(_) => {
                entry["weight_quantizer"] = json!({ "bitwidth": recipe.weight_bits, "axis": -2 });
            }
            Layer::Conv2D(_) | Layer::Dense(_) => entry["weight_quantizer"] = bits,
            _ => {}
        }
        let ranges = quantized.map(|n| {
            let signed = !matches!(layer, Layer::ReLU(_));
            let axis = if recipe.per_axis {
                "per-axis"
            } else {
                "per-tensor"
            };
            entry["output_quantizer"] = json!({
                "bitwidth": recipe.activation_bits, "signed": signed, "axis": axis,
                "buffer_bitwidth": 32,
            });
            let n = recipe.per_axis.then_some(n);
            let range_max = self.numbers.range(n);
            let rescaling_rate = range_max.map(|r| 1.0 - r / 16.0);
            OutputRanges {
                range_max,
                rescaling_rate,
            }
        });
        let config = LayerConfig::parse(entry.as_object().unwrap()).unwrap();
        let json = entry.as_object().cloned();
        let op = CalibratedOp::Quantized(Box::new(QuantizedLayer {
            layer,
            config,
            json,
            ranges,
        }));
        self.push(name, inputs, op);
    }

    fn conv(&mut self, shape: (usize, usize, usize, usize), stride: usize) -> Conv2D {
        let scale = self.recipe.scale;
        Conv2D {
            kernel: self.numbers.kernel(shape, scale),
            bias: Some(self.numbers.vector(shape.3, 2.0)),
            strides: [stride, stride],
            padding: self.recipe.padding,
            dilation: [1, 1],
            groups: 1,
            activation: Activation::Linear,
            padding_value: None,
        }
    }

    fn relu(&self) -> Layer {
        Layer::ReLU(ReLU {
            max_value: self.recipe.max_value.then_some(3.7),
            ..ReLU::default()
        })
    }
}

pub(crate) fn graph(recipe: &Recipe) -> CalibratedGraph {
    let (k, [c0, c1, c2, units]) = (recipe.kernel, recipe.channels);
    let mut b = Builder::new(recipe);
    let rescaling = Rescaling {
        scale: PerAxis::Tensor(1.0 / 200.0),
        offset: PerAxis::Tensor(0.0),
    };
    b.quantized("scale", &["input"], Layer::Rescaling(rescaling), None);
    let mut conv = b.conv((k, k, c0, c1), recipe.stride);
    if recipe.border {
        conv.padding = Padding::Valid;
        conv.padding_value = Some(vec![0.7]);
    }
    b.quantized("conv", &["scale"], Layer::Conv2D(conv), None);
    let relu = b.relu();
    b.quantized("relu", &["conv"], relu, Some(c1));
    let pool = Pool2D {
        pool_size: [2, 2],
        strides: [1, 1],
        padding: Padding::Same,
    };
    b.quantized("pool", &["relu"], Layer::MaxPool2D(pool), None);
    let depthwise = DepthwiseConv2D {
        kernel: b.numbers.kernel((k, k, c1, 1), 1.0),
        bias: None,
        strides: [1, 1],
        padding: Padding::Same,
        dilation: [1, 1],
        activation: Activation::Linear,
    };
    b.quantized(
        "depthwise",
        &["pool"],
        Layer::DepthwiseConv2D(depthwise),
        Some(c1),
    );
    b.quantized(
        "add",
        &["depthwise", "relu"],
        Layer::Add(Add { average: false }),
        Some(c1),
    );
    let separable = SeparableConv2D {
        depthwise_kernel: b.numbers.kernel((k, k, c1, 1), 0.5),
        pointwise_kernel: b.numbers.kernel((1, 1, c1, c2), 0.5),
        bias: Some(b.numbers.vector(c2, 1.0)),
        strides: [1, 1],
        padding: Padding::Same,
        dilation: [1, 1],
        activation: Activation::Linear,
    };
    b.quantized(
        "separable",
        &["add"],
        Layer::SeparableConv2D(separable),
        None,
    );
    let relu = b.relu();
    b.quantized(
        "relu2",
        &["separable"],
        relu,
        if recipe.vector { None } else { Some(c2) },
    );
    let mut last = "relu2";
    if recipe.vector {
        let gap = GlobalAveragePooling2D { keepdims: false };
        let per_axis = std::mem::replace(&mut b.recipe.per_axis, false);
        b.quantized(
            "gap",
            &["relu2"],
            Layer::GlobalAveragePooling2D(gap),
            Some(c2),
        );
        b.recipe.per_axis = per_axis;
        last = "gap";
    }
    let dense = Dense {
        kernel: Array2::from_shape_fn((c2, units), |_| b.numbers.next()),
        bias: Some(b.numbers.vector(units, 1.0)),
        activation: Activation::Linear,
    };
    b.quantized("dense", &[last], Layer::Dense(dense), None);
    b.push("dequantizer", &["dense"], CalibratedOp::Dequantizer);
    b.float(
        "softmax",
        &["dequantizer"],
        Layer::Activation(Activation::Softmax),
    );
    CalibratedGraph {
        name: "random".to_owned(),
        nodes: b.nodes,
        outputs: vec!["softmax".to_owned()],
    }
}

/// Returns a network whose rectifier, behind a convolution or a depthwise one, has no output quantizer.
pub(crate) fn wide_rectifier(recipe: &Recipe, is_depthwise: bool) -> CalibratedGraph {
    let (k, [c0, c1, units, _]) = (recipe.kernel, recipe.channels);
    let mut b = Builder::new(recipe);
    let rescaling = Rescaling {
        scale: PerAxis::Tensor(1.0 / 200.0),
        offset: PerAxis::Tensor(0.0),
    };
    b.quantized("scale", &["input"], Layer::Rescaling(rescaling), None);
    let channels = if is_depthwise { c0 } else { c1 };
    let layer = if is_depthwise {
        Layer::DepthwiseConv2D(DepthwiseConv2D {
            kernel: b.numbers.kernel((k, k, c0, 1), recipe.scale),
            bias: Some(b.numbers.vector(c0, 2.0)),
            strides: [recipe.stride; 2],
            padding: Padding::Same,
            dilation: [1, 1],
            activation: Activation::Linear,
        })
    } else {
        Layer::Conv2D(b.conv((k, k, c0, c1), recipe.stride))
    };
    b.quantized("linear", &["scale"], layer, None);
    // Ends of all magnitudes, so that results have all types.
    let max_value = [3.7, 1e-2, 1e-4, 1e-6][(recipe.seed % 4) as usize];
    let relu = Layer::ReLU(ReLU {
        max_value: recipe.max_value.then_some(max_value),
        ..ReLU::default()
    });
    b.quantized("relu", &["linear"], relu, None);
    let per_axis = std::mem::replace(&mut b.recipe.per_axis, false);
    let gap = Layer::GlobalAveragePooling2D(GlobalAveragePooling2D { keepdims: false });
    b.quantized("gap", &["relu"], gap, Some(channels));
    b.recipe.per_axis = per_axis;
    let dense = Dense {
        kernel: Array2::from_shape_fn((channels, units), |_| b.numbers.next()),
        bias: Some(b.numbers.vector(units, 1.0)),
        activation: Activation::Linear,
    };
    b.quantized("dense", &["gap"], Layer::Dense(dense), None);
    b.push("dequantizer", &["dense"], CalibratedOp::Dequantizer);
    CalibratedGraph {
        name: "wide".to_owned(),
        nodes: b.nodes,
        outputs: vec!["dequantizer".to_owned()],
    }
}

/// Returns a network of a convolution, a depthwise one and a pointwise one, each with its rectifier: between them
/// channels have any order, and may lie there doubled.
pub(crate) fn separated(recipe: &Recipe) -> CalibratedGraph {
    let (k, [c0, c1, c2, _]) = (recipe.kernel, recipe.channels);
    let mut b = Builder::new(recipe);
    // An aligned bias does not fit narrow buffers.
    let has_bias = recipe.buffer_bits > 20;
    let mut conv = b.conv((k, k, c0, c1), 1);
    conv.kernel.mapv_inplace(|w| w / 255.0);
    conv.bias = conv.bias.filter(|_| has_bias);
    b.quantized("conv", &["input"], Layer::Conv2D(conv), None);
    let relu = b.relu();
    b.quantized("relu", &["conv"], relu.clone(), Some(c1));
    let depthwise = Layer::DepthwiseConv2D(DepthwiseConv2D {
        kernel: b.numbers.kernel((k, k, c1, 1), recipe.scale),
        bias: has_bias.then(|| b.numbers.vector(c1, 2.0)),
        strides: [recipe.stride; 2],
        padding: Padding::Same,
        dilation: [1, 1],
        activation: Activation::Linear,
    });
    b.quantized("depthwise", &["relu"], depthwise, None);
    b.quantized("relu_depthwise", &["depthwise"], relu.clone(), Some(c1));
    let mut pointwise = b.conv((1, 1, c1, c2), 1);
    pointwise.bias = pointwise.bias.filter(|_| has_bias);
    let pointwise = Layer::Conv2D(pointwise);
    b.quantized("pointwise", &["relu_depthwise"], pointwise, None);
    b.quantized("relu_pointwise", &["pointwise"], relu, Some(c2));
    let last = &["relu_pointwise"];
    b.push("dequantizer", last, CalibratedOp::Dequantizer);
    CalibratedGraph {
        name: "separated".to_owned(),
        nodes: b.nodes,
        outputs: vec!["dequantizer".to_owned()],
    }
}

pub(crate) fn recipes() -> impl Strategy<Value = Recipe> {
    recipes_of(1..8, [1..4, 1..20, 1..6, 1..5])
}

/// Returns networks whose rows and channels are many vectors and blocks of a kernel.
pub(crate) fn large_recipes() -> impl Strategy<Value = Recipe> {
    recipes_of(1..24, [1..7, 1..150, 1..100, 1..80])
}

fn recipes_of(extents: Range<usize>, channels: [Range<usize>; 4]) -> impl Strategy<Value = Recipe> {
    let shape = (extents, 1..4_usize, 1..3_usize, channels);
    let bits = (
        2..17_u8,
        2..9_u8,
        prop_oneof![6 => Just(32_u8), 1 => Just(24), 1 => Just(20)],
    );
    let flags = proptest::array::uniform4(any::<bool>());
    let scale = prop_oneof![Just(1.0_f32), Just(1e-7), Just(40.0), 0.01..2.0_f32];
    (any::<u64>(), shape, bits, flags, scale, any::<bool>()).prop_map(
        |(seed, (extent, kernel, stride, channels), bits, flags, scale, vector)| Recipe {
            seed,
            extent,
            channels,
            kernel,
            stride,
            padding: Padding::Same,
            border: flags[0],
            weight_bits: bits.0,
            activation_bits: bits.1,
            buffer_bits: bits.2,
            scale,
            per_axis: flags[1],
            max_value: flags[2],
            vector,
        },
    )
}

/// Returns a batch of pixels for a network: all largest, all zero, or noise.
pub(crate) fn pixels(recipe: &Recipe, edge: u8) -> ArrayD<f32> {
    let mut numbers = Numbers(recipe.seed ^ 0xABCD);
    let shape = IxDyn(&[2, recipe.extent, recipe.extent, recipe.channels[0]]);
    ArrayD::from_shape_simple_fn(shape, || match edge {
        0 => 255.0,
        1 => 0.0,
        _ => ((numbers.next() + 1.0) * 127.0).floor(),
    })
}
