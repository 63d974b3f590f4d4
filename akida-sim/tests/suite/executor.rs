//! The executor equals the scalar definition, integer by integer and count by count.

use akida_sim::{
    Batch, CalibratedGraph, CalibratedNode, CalibratedOp, Executor, InputKind, ModelError,
    QuantizedModel, QuantizedNode, QuantizedOp, Run, Tensor, Values, lower,
};
use float_model::{Dtype, Input, Layer};
use ndarray::{Array3, ArrayD, Axis, IxDyn, Slice};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use quantizer_core::layers::IntegerLayer;
use quantizer_core::{PerAxis, QFormat, ValueBits};

use crate::random::{
    Numbers, Recipe, graph, large_recipes, pixels, recipes, separated, wide_rectifier,
};

/// Returns a pixel as a byte.
fn byte(v: f32) -> u8 {
    let is_it = |byte: &u8| f32::from(*byte).to_bits() == v.to_bits();
    (0..=255).find(is_it).unwrap()
}

/// Runs every layer by its definition on what the executor gave it, and compares.
fn check(model: &QuantizedModel, input: &ArrayD<f32>) {
    let mut seen: Vec<Option<ArrayD<i64>>> = vec![None; model.nodes.len()];
    let executor = Executor::new(model);
    let run = executor
        .run(input, &mut |index, tensor| seen[index] = tensor.integers())
        .unwrap();
    // Without an observer layers run together, and images on their own.
    let outputs = executor.outputs(input).unwrap();
    let bytes = executor.outputs(&input.mapv(byte)).unwrap();
    assert_eq!(bytes.outputs, run.outputs, "outputs for bytes");
    assert_eq!(bytes.counters, run.counters, "counts for bytes");
    assert_eq!(outputs.outputs, run.outputs, "outputs without an observer");
    assert_eq!(outputs.counters, run.counters, "counts without an observer");
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn executor_equals_the_scalar_definition(recipe in recipes(), edge in 0..4_u8) {
        // Formats can refuse each other: a network that cannot be lowered says so and is no case.
        let Ok(model) = lower(graph(&recipe)) else { return Ok(()) };
        check(&model, &pixels(&recipe, edge));
    }

    #[test]
    fn rectifiers_that_write_no_bytes_equal_the_scalar_definition(
        recipe in recipes(), edge in 0..4_u8, is_depthwise in any::<bool>()
    ) {
        let Ok(model) = lower(wide_rectifier(&recipe, is_depthwise)) else { return Ok(()) };
        check(&model, &pixels(&recipe, edge));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn large_networks_equal_the_scalar_definition(
        recipe in large_recipes(), edge in 0..4_u8, is_depthwise in any::<bool>()
    ) {
        for graph in [graph(&recipe), wide_rectifier(&recipe, is_depthwise)] {
            let Ok(model) = lower(graph) else { continue };
            check(&model, &pixels(&recipe, edge));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn separated_convolutions_equal_the_scalar_definition(
        recipe in large_recipes(), edge in 0..4_u8, bits in (4..9_u8, 4..8_u8),
        scale in 0.2..4.0_f32, narrow in proptest::option::of(11..17_u8),
    ) {
        let recipe = Recipe {
            extent: recipe.extent.div_ceil(3),
            // Channels of bytes, each with a binary point of its own.
            weight_bits: bits.0,
            activation_bits: bits.1,
            per_axis: true,
            scale,
            // Sums leave narrow buffers: then layers are done again step by step.
            buffer_bits: narrow.unwrap_or(recipe.buffer_bits),
            ..recipe
        };
        let Ok(model) = lower(separated(&recipe)) else { return Ok(()) };
        check(&model, &pixels(&recipe, edge));
    }
}

#[test]
fn rectifiers_write_all_types_and_layers_before_them_clip() {
    // Guards the property above against testing one case only.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut n_of_type = [0; 3];
    let mut n_clipped = 0;
    for number in 0..200 {
        let recipe = recipes().new_tree(&mut runner).unwrap().current();
        let Ok(model) = lower(wide_rectifier(&recipe, number % 2 == 0)) else {
            continue;
        };
        let node = |name: &str| model.nodes.iter().position(|n| n.name == name);
        let (linear, relu) = (node("linear").unwrap(), node("relu").unwrap());
        let watch = &mut |index: usize, tensor: &Tensor| match &tensor.values {
            _ if index != relu => {}
            Values::U8(_) => n_of_type[0] += 1,
            Values::I16(_) => n_of_type[1] += 1,
            Values::I32(_) => n_of_type[2] += 1,
            Values::I8(_) | Values::I64(_) | Values::F32(_) => {}
        };
        let run = Executor::new(&model).run(&pixels(&recipe, 0), watch);
        let counters = &run.unwrap().counters[linear];
        n_clipped += usize::from(counters.iter().any(|(_, count)| count.saturated > 0));
    }
    assert!(n_of_type.iter().all(|n| *n > 5), "types {n_of_type:?}");
    assert!(n_clipped > 5, "only {n_clipped} layers clip");
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
            let run = Executor::new(&model).outputs(&x).unwrap();
            (run.outputs, run.counters)
        })
    };
    let one = run(1);
    assert_eq!(run(2), one, "two threads");
    assert_eq!(run(3), one, "three threads");
}

#[test]
fn images_that_go_together_change_no_result() {
    // Large images pass the first layers one by one and the last ones together, small ones all of them.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut models = Vec::new();
    while models.len() < 10 {
        let recipe = Recipe {
            extent: [7, 380][models.len() % 2],
            ..recipes().new_tree(&mut runner).unwrap().current()
        };
        models.extend(lower(graph(&recipe)));
    }
    for model in &models {
        let shape: Vec<usize> = std::iter::once(3)
            .chain(model.nodes[0].shape.iter().map(|n| n.unwrap()))
            .collect();
        let mut numbers = Numbers(5);
        let x = ArrayD::from_shape_simple_fn(IxDyn(&shape), || {
            ((numbers.next() + 1.0) * 127.0).floor()
        });
        let executor = Executor::new(model);
        let watched = executor.run(&x, &mut |_, _| ()).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let run = pool.unwrap().install(|| executor.outputs(&x).unwrap());
        assert_eq!(run.outputs, watched.outputs, "images of {shape:?}");
        assert_eq!(run.counters, watched.counters, "images of {shape:?}");
    }
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

/// Returns a model of one input and what it holds: integers of `dtype`, or floats for `Float32`.
fn input_model(dtype: Dtype) -> QuantizedModel {
    let node = QuantizedNode {
        name: "pixels".to_owned(),
        class_name: "InputLayer".to_owned(),
        inputs: Vec::new(),
        shape: vec![Some(5), Some(3)],
        op: QuantizedOp::Input(match dtype {
            Dtype::Float32 => InputKind::Float(dtype),
            Dtype::UInt8 | Dtype::Int8 | Dtype::UInt16 | Dtype::Int16 | Dtype::Int32 => {
                InputKind::Raw {
                    dtype,
                    format: QFormat {
                        value_bits: ValueBits::new(value_bits(dtype)).unwrap(),
                        frac_bits: PerAxis::Tensor(0),
                        scales: None,
                    },
                }
            }
        }),
        config: None,
        ranges: None,
        params: Default::default(),
    };
    QuantizedModel {
        name: "inputs".to_owned(),
        outputs: vec![0],
        nodes: vec![node],
        provenance: Default::default(),
    }
}

const fn value_bits(dtype: Dtype) -> u8 {
    match dtype {
        Dtype::Int8 => 7,
        Dtype::UInt8 => 8,
        Dtype::Int16 => 15,
        Dtype::UInt16 => 16,
        Dtype::Int32 | Dtype::Float32 => 31,
    }
}

const DTYPES: [Dtype; 6] = [
    Dtype::UInt8,
    Dtype::Int8,
    Dtype::UInt16,
    Dtype::Int16,
    Dtype::Int32,
    Dtype::Float32,
];

#[test]
fn bytes_enter_a_model_as_the_floats_do_that_they_are() {
    // All bytes, and an axis that is not the fastest in memory.
    let unsigned: Array3<u8> = Array3::from_shape_fn((34, 3, 5), |(i, j, k)| {
        u8::try_from((15 * i + 5 * j + k) % 256).unwrap()
    });
    let unsigned = unsigned.permuted_axes([0, 2, 1]).into_dyn();
    let signed = unsigned.mapv(u8::cast_signed);
    let small = unsigned.mapv(|v| v >> 1);
    for dtype in DTYPES {
        let model = input_model(dtype);
        let executor = Executor::new(&model);
        let same = |bytes: Batch<'_>, floats: ArrayD<f32>| {
            let (bytes, floats) = (executor.outputs(bytes), executor.outputs(&floats));
            let message = |run: Result<Run, ModelError>| {
                run.map(|run| run.outputs).map_err(|e| e.to_string())
            };
            let (bytes, floats) = (message(bytes), message(floats));
            assert_eq!(bytes, floats, "an input of {}", dtype.name());
            floats.is_ok()
        };
        let takes_unsigned = same((&unsigned).into(), unsigned.mapv(f32::from));
        let takes_signed = same((&signed).into(), signed.mapv(f32::from));
        assert!(same((&small).into(), small.mapv(f32::from)), "0 to 127");
        assert_eq!(takes_unsigned, dtype != Dtype::Int8, "255 in an int8");
        let has_no_sign = matches!(dtype, Dtype::UInt8 | Dtype::UInt16);
        assert_eq!(takes_signed, !has_no_sign, "-1 in an unsigned type");
        let one = small.slice_axis(Axis(0), Slice::from(0..1));
        assert!(same(one.view().into(), one.mapv(f32::from)), "one item");
    }
}

#[test]
fn bytes_that_do_not_fit_are_refused() {
    let run = |dtype: Dtype, x: &ArrayD<u8>| {
        let model = input_model(dtype);
        let error = Executor::new(&model).run(x, &mut |_, _| ()).unwrap_err();
        error.to_string()
    };
    let mut x = ArrayD::<u8>::zeros(IxDyn(&[2, 5, 3]));
    x[[1, 4, 2]] = 200;
    let message = run(Dtype::Int8, &x);
    assert!(message.contains("200") && message.contains("int8") && message.contains("pixels"));
    let wrong = run(Dtype::UInt8, &ArrayD::zeros(IxDyn(&[2, 3, 5])));
    assert!(wrong.contains("[batch, 5, 3]"), "other extents: {wrong}");
    let wrong = run(Dtype::UInt8, &ArrayD::zeros(IxDyn(&[])));
    assert!(wrong.contains("[batch, 5, 3]"), "no batch: {wrong}");
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
