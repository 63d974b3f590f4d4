//! The executor equals the scalar definition, integer by integer and count by count.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]
#![expect(
    clippy::too_many_lines,
    reason = "a network is written down in one piece"
)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "only layers with weights matter"
)]

use akida_sim::{
    CalibratedGraph, CalibratedNode, CalibratedOp, Executor, OutputRanges, QuantizedLayer,
    QuantizedModel, QuantizedOp, lower,
};
use config_schema::LayerConfig;
use float_model::{
    Activation, Add, Conv2D, Dense, DepthwiseConv2D, Dtype, GlobalAveragePooling2D, Input, Layer,
    Padding, Pool2D, ReLU, Rescaling, SeparableConv2D,
};
use ndarray::{Array1, Array2, Array4, ArrayD, IxDyn};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use quantizer_core::PerAxis;
use quantizer_core::layers::IntegerLayer;
use serde_json::json;

/// What a random network is made of.
#[derive(Clone, Debug)]
struct Recipe {
    seed: u64,
    extent: usize,
    channels: [usize; 4],
    kernel: usize,
    stride: usize,
    padding: Padding,
    border: bool,
    weight_bits: u8,
    activation_bits: u8,
    buffer_bits: u8,
    scale: f32,
    per_axis: bool,
    max_value: bool,
    vector: bool,
}

/// Numbers of a small generator: tests need no better ones.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
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

fn graph(recipe: &Recipe) -> CalibratedGraph {
    let (k, [c0, c1, c2, units]) = (recipe.kernel, recipe.channels);
    let numbers = Numbers(recipe.seed);
    let mut b = Builder {
        recipe: recipe.clone(),
        numbers,
        nodes: Vec::new(),
    };
    let e = recipe.extent;
    let input = Input {
        shape: vec![Some(e), Some(e), Some(c0)],
        dtype: Dtype::UInt8,
    };
    b.float("input", &[], Layer::Input(input));
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

/// Runs every layer by its definition on what the executor gave it, and compares.
fn check(model: &QuantizedModel, input: &ArrayD<f32>) {
    let mut seen: Vec<Option<ArrayD<i64>>> = vec![None; model.nodes.len()];
    let run = Executor::new(model)
        .run(input, &mut |index, tensor| seen[index] = tensor.integers())
        .unwrap();
    for (index, node) in model.nodes.iter().enumerate() {
        let QuantizedOp::Integer(layer) = &node.op else {
            continue;
        };
        let layer: &IntegerLayer = layer;
        let inputs: Vec<&ArrayD<i64>> = node
            .inputs
            .iter()
            .map(|i| seen[*i].as_ref().unwrap())
            .collect();
        let mut counters = quantizer_core::Counters::default();
        let want = layer.run(&inputs, &mut counters).unwrap();
        assert_eq!(
            seen[index].as_ref().unwrap(),
            &want,
            "integers of {}",
            node.name
        );
        assert_eq!(run.counters[index], counters, "counts of {}", node.name);
    }
}

fn recipes() -> impl Strategy<Value = Recipe> {
    let shape = (
        1..8_usize,
        1..4_usize,
        1..3_usize,
        [1..4_usize, 1..20_usize, 1..6_usize, 1..5_usize],
    );
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn executor_equals_the_scalar_definition(recipe in recipes(), edge in 0..4_u8) {
        // Formats can refuse each other: a network that cannot be lowered says so and is no case.
        let Ok(model) = lower(graph(&recipe)) else { return Ok(()) };
        let mut numbers = Numbers(recipe.seed ^ 0xABCD);
        let shape = IxDyn(&[2, recipe.extent, recipe.extent, recipe.channels[0]]);
        let pixels = ArrayD::from_shape_simple_fn(shape, || match edge {
            0 => 255.0,
            1 => 0.0,
            _ => ((numbers.next() + 1.0) * 127.0).floor(),
        });
        check(&model, &pixels);
    }
}

#[test]
fn most_random_networks_can_be_lowered() {
    // Guards the property above against testing nothing.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let lowered = (0..100)
        .filter(|_| {
            let recipe = recipes().new_tree(&mut runner).unwrap().current();
            lower(graph(&recipe)).is_ok()
        })
        .count();
    assert!(lowered > 40, "only {lowered} of 100 networks were lowered");
}

#[test]
fn threads_do_not_change_a_result() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let model = loop {
        let recipe = recipes().new_tree(&mut runner).unwrap().current();
        if let Ok(model) = lower(graph(&recipe)) {
            break model;
        }
    };
    let shape: Vec<usize> = std::iter::once(5)
        .chain(model.nodes[0].shape.iter().map(|n| n.unwrap()))
        .collect();
    let mut numbers = Numbers(3);
    let x =
        ArrayD::from_shape_simple_fn(IxDyn(&shape), || ((numbers.next() + 1.0) * 127.0).floor());
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let run = Executor::new(&model).run(&x, &mut |_, _| ()).unwrap();
            (run.outputs, run.counters)
        })
    };
    let one = run(1);
    assert_eq!(run(2), one, "two threads");
    assert_eq!(run(3), one, "three threads");
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let recipe = loop {
        let recipe = recipes().new_tree(&mut runner).unwrap().current();
        if lower(graph(&recipe)).is_ok() {
            break recipe;
        }
    };
    let model = lower(graph(&recipe)).unwrap();
    let run = |x: ArrayD<f32>| {
        let error = Executor::new(&model).run(&x, &mut |_, _| ()).unwrap_err();
        error.to_string()
    };
    let (e, c) = (recipe.extent, recipe.channels[0]);
    assert!(
        run(ArrayD::zeros(IxDyn(&[1, e + 1, e, c]))).contains("input"),
        "another extent"
    );
    assert!(
        run(ArrayD::from_elem(IxDyn(&[1, e, e, c]), 256.0)).contains("uint8"),
        "beyond uint8"
    );
    assert!(
        run(ArrayD::from_elem(IxDyn(&[1, e, e, c]), 0.5)).contains("0.5"),
        "no integer"
    );
    assert!(
        run(ArrayD::from_elem(IxDyn(&[1, e, e, c]), f32::NAN)).contains("NaN"),
        "NaN"
    );
}

#[test]
fn structures_that_cannot_be_right_are_refused() {
    let float = |name: &str, inputs: &[&str], layer: Layer| CalibratedNode {
        name: name.to_owned(),
        inputs: inputs.iter().map(|i| (*i).to_owned()).collect(),
        op: CalibratedOp::Float(Box::new(layer)),
    };
    let graph = |nodes: Vec<CalibratedNode>, output: &str| CalibratedGraph {
        name: "g".to_owned(),
        nodes,
        outputs: vec![output.to_owned()],
    };
    let input = || {
        Layer::Input(Input {
            shape: vec![Some(4)],
            dtype: Dtype::Float32,
        })
    };
    let circle = graph(
        vec![
            float("a", &["b"], Layer::Flatten),
            float("b", &["a"], Layer::Flatten),
        ],
        "a",
    );
    assert!(lower(circle).is_err(), "a circle");
    let double = graph(
        vec![float("a", &[], input()), float("a", &[], input())],
        "a",
    );
    assert!(lower(double).is_err(), "a double name");
    let unknown = graph(vec![float("a", &["x"], Layer::Flatten)], "a");
    assert!(
        lower(unknown).unwrap_err().to_string().contains('x'),
        "an unknown input"
    );
    let dequantizer = CalibratedNode {
        name: "d".to_owned(),
        inputs: vec!["a".to_owned()],
        op: CalibratedOp::Dequantizer,
    };
    let floats = graph(vec![float("a", &[], input()), dequantizer], "d");
    assert!(lower(floats).is_err(), "a Dequantizer of floats");
}
