//! Two models side by side: what differs, where first, and the smallest input that shows it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

use bitproof::akida_sim::QuantizedOp;
use bitproof::float_model::{BufferTempConv, Convolution, Dtype, Input, Layer};
use bitproof::quantizer_core::layers::IntegerOp;
use bitproof::verify::{
    Comparison, Differences, InputOrder, Number, Verification, VerifyOptions, comparable, findings,
    shrink,
};
use bitproof::{
    AnyModel, Executor, Graph, GraphBuilder, QuantizeOptions, QuantizedModel, Samples, quantize,
};
use ndarray::{Array4, ArrayD, Axis, IxDyn};

/// Returns pixels that look random.
fn pixels(shape: &[usize]) -> ArrayD<f32> {
    let mut state = 1_u32;
    ArrayD::from_shape_simple_fn(IxDyn(shape), || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(state.to_be_bytes()[0])
    })
}

fn network() -> Graph {
    let mut b = GraphBuilder::with_seed("network", 3);
    let x = b.input("input", [9, 9, 2]);
    let x = b.conv2d("conv_0", x, 4, Convolution::new(3));
    let x = b.relu("relu_0", x);
    let x = b.conv2d("conv_1", x, 3, Convolution::new(3));
    let x = b.relu("relu_1", x);
    let x = b.flatten("flatten", x);
    let x = b.dense("dense", x, 5);
    b.build([x]).unwrap()
}

fn quantized(graph: Graph) -> QuantizedModel {
    let samples = Samples::Integers(pixels(&[16, 9, 9, 2]));
    quantize(graph, samples, &QuantizeOptions::default(), &mut |_| ())
        .unwrap()
        .model
}

fn quantized_any(model: QuantizedModel) -> AnyModel {
    AnyModel::Quantized(Box::new(model))
}

fn verify(a: &AnyModel, b: &AnyModel, options: VerifyOptions, x: &ArrayD<f32>) -> Differences {
    let mut verification = Verification::new(a, b, options).unwrap();
    verification.add(x).unwrap();
    verification.finish()
}

/// Returns the model with one weight of a convolution one larger.
fn with_other_weight(model: &QuantizedModel, layer: &str, at: [usize; 4]) -> QuantizedModel {
    let mut other = model.clone();
    let node = other.nodes.iter_mut().find(|n| n.name == layer).unwrap();
    let QuantizedOp::Integer(integer) = &mut node.op else {
        panic!("{layer} runs on integers");
    };
    let IntegerOp::Conv2D(op) = &mut integer.op else {
        panic!("{layer} is a convolution");
    };
    op.kernel[at] += if op.kernel[at] > 0 { -1 } else { 1 };
    other
}

/// Returns the integers of every layer.
fn integers(model: &QuantizedModel, x: &ArrayD<f32>) -> Vec<Option<ArrayD<i64>>> {
    let mut all = vec![None; model.nodes.len()];
    Executor::new(model)
        .run(x, &mut |index, tensor| all[index] = tensor.integers())
        .unwrap();
    all
}

#[test]
fn a_model_equals_itself() {
    let model = quantized_any(quantized(network()));
    let found = verify(
        &model,
        &model,
        VerifyOptions::default(),
        &pixels(&[7, 9, 9, 2]),
    );
    assert!(found.is_equal(), "{found:?}");
    assert_eq!((found.n_items, found.first()), (7, None), "nothing differs");
    assert_eq!(found.layers[0].n_elements, 7 * 9 * 9 * 2, "all is compared");
    let is_integer = |l: &&bitproof::verify::LayerDifference| l.comparison == Comparison::Integers;
    assert_eq!(
        found.layers.iter().filter(is_integer).count(),
        7,
        "all but the Dequantizer"
    );
}

#[test]
fn another_weight_is_found_in_its_layer_and_first_element() {
    let model = quantized(network());
    let x = pixels(&[6, 9, 9, 2]);
    for (layer, at) in [("conv_1", [1, 2, 3, 2]), ("conv_0", [0, 0, 1, 3])] {
        let other = with_other_weight(&model, layer, at);
        let index = model.nodes.iter().position(|n| n.name == layer).unwrap();
        let (before, after) = (integers(&model, &x), integers(&other, &x));
        let (a, b) = (
            before[index].as_ref().unwrap(),
            after[index].as_ref().unwrap(),
        );
        let differing: Vec<(IxDyn, i64, i64)> = a
            .indexed_iter()
            .zip(b.iter())
            .filter(|((_, a), b)| a != b)
            .map(|((index, a), b)| (index, *a, *b))
            .collect();
        let (want_index, want_a, want_b) = differing[0].clone();

        let (a, b) = (quantized_any(model.clone()), quantized_any(other));
        let found = verify(&a, &b, VerifyOptions::default(), &x);
        assert!(!found.is_equal(), "a weight differs");
        let first = found.first().unwrap();
        assert_eq!(first.layer, layer, "the layer with the weight");
        let index: Vec<usize> = (0..4).map(|axis| want_index[axis]).collect();
        assert_eq!(first.element.index, index, "the first element");
        assert_eq!(index[3], at[3], "the weight's filter");
        let values = (first.element.a, first.element.b);
        assert_eq!(
            values,
            (Number::Integer(want_a), Number::Integer(want_b)),
            "both integers"
        );
        let place = found.layers.iter().position(|l| l.name == layer).unwrap();
        let entry = &found.layers[place];
        assert_eq!(
            entry.n_differing,
            u64::try_from(differing.len()).unwrap(),
            "all are counted"
        );
        let largest = differing
            .iter()
            .map(|(_, a, b)| a.abs_diff(*b))
            .max()
            .unwrap();
        assert!((entry.largest - f64::from(u32::try_from(largest).unwrap())).abs() < 0.5);
        assert!(entry.other_constants, "the weight is seen");
        assert!(
            found.layers[..place].iter().all(|l| l.n_differing == 0),
            "none before it"
        );
        assert!(
            found.layers.iter().all(|l| l.formats.is_empty()),
            "formats are the same"
        );
    }
}

#[test]
fn results_do_not_depend_on_batches() {
    let model = quantized(network());
    let other = with_other_weight(&model, "conv_1", [0, 1, 2, 0]);
    let (a, b) = (quantized_any(model), quantized_any(other));
    let x = pixels(&[11, 9, 9, 2]);
    let whole = verify(&a, &b, VerifyOptions::default(), &x);
    let mut single = Verification::new(&a, &b, VerifyOptions::default()).unwrap();
    for item in x.axis_chunks_iter(Axis(0), 1) {
        single.add(&item.to_owned()).unwrap();
    }
    assert_eq!(single.finish(), whole, "in batches of one");
}

#[test]
fn a_shrunk_input_still_differs_and_is_minimal() {
    let model = quantized(network());
    let other = with_other_weight(&model, "conv_1", [1, 2, 3, 2]);
    let index = model.nodes.iter().position(|n| n.name == "conv_1").unwrap();
    let differs = |x: &ArrayD<f32>| integers(&model, x)[index] != integers(&other, x)[index];
    let (a, b) = (quantized_any(model.clone()), quantized_any(other.clone()));
    let options = VerifyOptions::default();
    let found = verify(&a, &b, options, &pixels(&[6, 9, 9, 2]));
    let small = shrink(&a, &b, options, found.witness.as_ref().unwrap(), 2000).unwrap();
    assert_eq!(small.input.shape(), [1, 9, 9, 2], "the models take it");
    assert_eq!(small.layer, "conv_1", "the same layer");
    assert!(differs(&small.input), "it still differs");
    assert!(small.is_minimal, "{} runs", small.n_runs);
    let nonzero: Vec<usize> = (0..small.input.len())
        .filter(|i| *small.input.iter().nth(*i).unwrap() > 0.0)
        .collect();
    assert_eq!(nonzero.len(), small.n_nonzero, "what is not zero");
    assert!((1..=4).contains(&nonzero.len()), "{nonzero:?}");
    for place in nonzero {
        let mut less = small.input.clone();
        *less.iter_mut().nth(place).unwrap() = 0.0;
        assert!(!differs(&less), "element {place} is needed");
    }
    // What it reports is what the simulator gives.
    let at = IxDyn(&small.element.index);
    let (before, after) = (
        integers(&model, &small.input),
        integers(&other, &small.input),
    );
    let values = [before, after].map(|all| Number::Integer(all[index].as_ref().unwrap()[&at]));
    assert_eq!([small.element.a, small.element.b], values, "both integers");
}

#[test]
fn few_runs_give_an_input_that_differs_and_say_so() {
    let model = quantized(network());
    let other = with_other_weight(&model, "conv_1", [1, 2, 3, 2]);
    let (a, b) = (quantized_any(model), quantized_any(other));
    let options = VerifyOptions::default();
    let found = verify(&a, &b, options, &pixels(&[2, 9, 9, 2]));
    let small = shrink(&a, &b, options, found.witness.as_ref().unwrap(), 3).unwrap();
    assert!(!small.is_minimal, "three runs are not enough");
    let again = verify(&a, &b, options, &small.input);
    assert_eq!(
        again.first().unwrap().layer,
        "conv_1",
        "it differs nevertheless"
    );
}

/// Returns a convolution over images of any extents, with one weight moved by `step`.
fn open_network(step: f32) -> AnyModel {
    let mut b = GraphBuilder::with_seed("open", 5);
    let shape = vec![None, None, Some(2)];
    let dtype = Dtype::Float32;
    let x = b.layer("input", [], Layer::Input(Input { shape, dtype }));
    let x = b.conv2d("conv", x, 3, Convolution::new(3));
    let x = b.relu("relu", x);
    let mut draft = b.build([x]).unwrap().into_draft();
    let Layer::Conv2D(conv) = &mut draft.node_mut("conv").unwrap().layer else {
        panic!("a convolution");
    };
    conv.kernel[[1, 0, 1, 2]] += step;
    AnyModel::Float(Graph::new(draft).unwrap())
}

#[test]
fn an_image_of_any_extents_is_cut_to_the_kernel() {
    let (a, b) = (open_network(0.0), open_network(0.25));
    let options = VerifyOptions::default();
    let found = verify(&a, &b, options, &pixels(&[3, 20, 17, 2]));
    assert_eq!(found.first().unwrap().layer, "conv", "the layer");
    let small = shrink(&a, &b, options, found.witness.as_ref().unwrap(), 2000).unwrap();
    assert_eq!(small.input.shape(), [1, 3, 3, 2], "as large as the kernel");
    assert_eq!(small.n_nonzero, 1, "the pixel at the weight");
    assert_eq!(small.patch, Some([[1, 1], [0, 0]]), "where the weight is");
    assert_eq!(small.element.index, [0, 0, 0, 2], "the weight's filter");
}

/// Returns a sum over three frames, with a weight of the oldest one moved by `step`.
fn frames(step: f32) -> AnyModel {
    let mut b = GraphBuilder::with_seed("frames", 6);
    let x = b.input("input", [2, 2, 2]);
    let kernel = Array4::from_shape_fn((1, 1, 6, 2), |(_, _, row, filter)| {
        let oldest = if (row, filter) == (1, 0) { step } else { 0.0 };
        f32::from(u8::try_from(row + filter).unwrap()) / 8.0 + oldest
    });
    let conv = BufferTempConv {
        kernel,
        bias: None,
        n_frames: 3,
    };
    let x = b.layer("frames", [x], Layer::BufferTempConv(conv));
    AnyModel::Float(b.build([x]).unwrap())
}

#[test]
fn a_sequence_shows_what_single_inputs_do_not() {
    let (a, b) = (frames(0.0), frames(0.5));
    let x = pixels(&[7, 2, 2, 2]).mapv(|v| v + 1.0);
    let single = verify(&a, &b, VerifyOptions::default(), &x);
    assert!(single.is_equal(), "the oldest of three frames is empty");
    let options = VerifyOptions {
        order: InputOrder::Sequence,
        ..VerifyOptions::default()
    };
    let found = verify(&a, &b, options, &x);
    let first = found.first().unwrap();
    assert_eq!(
        first.element.index,
        [2, 0, 0, 0],
        "the third step is the first"
    );
    let witness = found.witness.as_ref().unwrap();
    assert_eq!(
        witness.input.shape(),
        [3, 2, 2, 2],
        "the steps that lead to it"
    );
    let small = shrink(&a, &b, options, witness, 2000).unwrap();
    assert_eq!(small.input.shape(), [3, 2, 2, 2], "three frames are needed");
    assert_eq!(small.n_nonzero, 1, "and one pixel of the first");
    assert_eq!(small.element.index[0], 2, "the third step");
}

#[test]
fn a_tolerance_is_a_share_of_the_largest_value_of_the_same_input() {
    let x = pixels(&[5, 9, 9, 2]);
    let (a, mut draft) = (network(), network().into_draft());
    let Layer::Conv2D(conv) = &mut draft.node_mut("conv_1").unwrap().layer else {
        panic!("a convolution");
    };
    conv.kernel.mapv_inplace(|w| w * 1.01);
    let b = Graph::new(draft).unwrap();
    // The largest share of all layers and inputs, computed naively.
    let outputs = |graph: &Graph| {
        let mut all = Vec::new();
        graph.run(&[&x], &mut |_, y| all.push(y.clone())).unwrap();
        all
    };
    let mut largest = 0.0_f64;
    for (y, z) in outputs(&a).iter().zip(&outputs(&b)) {
        for (y, z) in y.outer_iter().zip(z.outer_iter()) {
            let most = y
                .iter()
                .chain(z.iter())
                .fold(0.0_f32, |m, v| m.max(v.abs()));
            for (y, z) in y.iter().zip(z.iter()) {
                let share = (f64::from(*y) - f64::from(*z)).abs() / f64::from(most);
                largest = largest.max(share);
            }
        }
    }
    assert!(
        (0.001..0.1).contains(&largest),
        "the models differ by {largest}"
    );
    let (a, b) = (AnyModel::Float(a), AnyModel::Float(b));
    for (factor, is_equal) in [(0.999, false), (1.001, true)] {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a factor of a thousandth is more"
        )]
        let tolerance = (largest * factor) as f32;
        let options = VerifyOptions {
            tolerance,
            ..VerifyOptions::default()
        };
        assert_eq!(verify(&a, &b, options, &x).is_equal(), is_equal, "{factor}");
    }
    let exact = verify(&a, &b, VerifyOptions::default(), &x);
    assert_eq!(
        exact.first().unwrap().layer,
        "conv_1",
        "the layer that was changed"
    );
}

#[test]
fn a_quantized_model_is_close_to_its_float_network() {
    let x = pixels(&[6, 9, 9, 2]);
    let quantized = quantized_any(quantized(network()));
    let (a, b) = comparable(AnyModel::Float(network()), quantized).unwrap();
    let close = |tolerance| {
        let options = VerifyOptions {
            tolerance,
            ..VerifyOptions::default()
        };
        verify(&a, &b, options, &x)
    };
    // Cross-layer equalization moves ranges by up to a factor of two: it must not count.
    let found = close(0.05);
    assert!(found.is_equal(), "{:?}", found.first());
    assert_eq!(
        found.only_b,
        ["dequantizer"],
        "it is no layer of the float network"
    );
    assert!(!close(0.0).is_equal(), "quantization has errors");
}

#[test]
fn models_for_other_inputs_are_refused() {
    let mut b = GraphBuilder::new("other");
    let x = b.input("input", [8, 8, 2]);
    let x = b.conv2d("conv_0", x, 4, Convolution::new(3));
    let other = AnyModel::Float(b.build([x]).unwrap());
    let model = AnyModel::Float(network());
    let error = Verification::new(&model, &other, VerifyOptions::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "A takes inputs of [9, 9, 2], B of [8, 8, 2]: they cannot be compared on the same inputs"
    );
}

#[test]
fn other_formats_and_missing_layers_are_named() {
    let model = quantized(network());
    let mut other = model.clone();
    let last = other.nodes.len() - 1;
    other.nodes[last].name = "renamed".to_owned();
    let node = other.nodes.iter_mut().find(|n| n.name == "relu_0").unwrap();
    let QuantizedOp::Integer(layer) = &mut node.op else {
        panic!("relu_0 runs on integers");
    };
    layer.format.frac_bits = layer.format.frac_bits.map(|bits| bits + 1);
    let (a, b) = (quantized_any(model), quantized_any(other));
    let found = verify(&a, &b, VerifyOptions::default(), &pixels(&[1, 9, 9, 2]));
    assert!(!found.is_equal(), "formats differ");
    assert_eq!(found.only_a, ["dequantizer"], "only in A");
    assert_eq!(found.only_b, ["renamed"], "only in B");
    let relu = found.layers.iter().find(|l| l.name == "relu_0").unwrap();
    assert!(
        relu.formats[0].starts_with("frac_bits "),
        "{:?}",
        relu.formats
    );
    let output = found.layers.last().unwrap();
    assert_eq!(
        output.name, "dequantizer | renamed",
        "outputs are compared by their place"
    );
    assert!(output.n_elements > 0, "they are");
    let told = findings("a", "b", &found);
    let failed: Vec<&str> = told
        .outcomes
        .iter()
        .filter(|o| matches!(o.status, bitproof::findings::Status::Failed(_)))
        .map(|o| o.rule.as_str())
        .collect();
    assert_eq!(
        failed,
        ["layer-format", "layer-missing", "layer-missing"],
        "for CI"
    );
}
