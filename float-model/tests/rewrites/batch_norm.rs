//! R11.

use float_model::{
    Activation, Add, BatchNormalization, BufferTempConv, DepthwiseBufferTempConv, Graph,
    GraphMemory, Layer, Padding, SanitizeOptions, Sanitized, sanitize,
};
use ndarray::{Array1, ArrayD, IxDyn, arr1};

use crate::net::{Net, OFF, Rng, chain, checked, events, layer, names, outputs};

fn fold(shape: &[usize], conv: Layer, norm: BatchNormalization) -> Sanitized {
    let layers = vec![("conv", conv), ("bn", Layer::BatchNormalization(norm))];
    checked(chain(shape, layers), &OFF)
}

#[test]
fn every_class_of_weights_takes_a_normalization_in() {
    let mut rng = Rng(11);
    let mut multiplied = rng.depthwise([3, 3], 6);
    multiplied.kernel = multiplied
        .kernel
        .into_shape_with_order((3, 3, 3, 2))
        .expect("fits");
    let mut strided = rng.depthwise([3, 3], 3);
    strided.strides = [2, 2];
    let mut padded = rng.conv([3, 3], 3, 4);
    padded.padding = Padding::Valid;
    padded.padding_value = Some(vec![0.5, -1.0, 2.0]);
    let layers = [
        Layer::Conv2D(rng.conv([3, 2], 3, 4)),
        Layer::Conv2D(padded),
        Layer::DepthwiseConv2D(rng.depthwise([3, 3], 3)),
        Layer::DepthwiseConv2D(multiplied),
        Layer::DepthwiseConv2DTranspose(strided),
        Layer::SeparableConv2D(rng.separable([3, 3], 3, 4)),
        Layer::Conv2DTranspose(rng.transpose([3, 2], 3, 4)),
        Layer::Dense(rng.dense(3, 4)),
    ];
    for conv in layers {
        let class = conv.class_name();
        let channels = if let Layer::DepthwiseConv2D(conv) = &conv {
            conv.kernel.dim().2 * conv.kernel.dim().3
        } else if matches!(conv, Layer::DepthwiseConv2DTranspose(_)) {
            3
        } else {
            4
        };
        let done = fold(&[5, 4, 3], conv, rng.norm(channels));
        assert_eq!(
            names(&done.graph),
            ["input:InputLayer".to_owned(), format!("conv:{class}")]
        );
        assert_eq!(
            events(&done.applied),
            ["fold-batchnorm bn: folded into `conv`"]
        );
        assert_eq!(done.removed["bn"], "folded into `conv`");
        assert_eq!(outputs(&done.graph), ["conv"]);
    }
}

#[test]
fn the_arithmetic_is_the_stated_one_in_f32() {
    let mut rng = Rng(12);
    let (dense, norm) = (rng.dense(7, 5), rng.norm(5));
    let done = fold(&[7], Layer::Dense(dense.clone()), norm.clone());
    let Layer::Dense(folded) = layer(&done.graph, "conv") else {
        panic!("a Dense")
    };
    for u in 0..5 {
        let (gamma, beta) = (norm.gamma.as_ref().expect("is there"), norm.beta.as_ref());
        let gain: f32 = gamma[u] / (norm.variance[u] + norm.epsilon).sqrt();
        let shifted: f32 = dense.bias.as_ref().expect("is there")[u] - norm.mean[u];
        let product: f32 = shifted * gain;
        let bias = beta.expect("is there")[u] + product;
        assert_eq!(
            folded.bias.as_ref().expect("is there")[u].to_bits(),
            bias.to_bits()
        );
        for c in 0..7 {
            let weight = dense.kernel[[c, u]] * gain;
            assert_eq!(folded.kernel[[c, u]].to_bits(), weight.to_bits());
        }
    }
}

#[test]
fn absent_gamma_beta_and_bias_stand_for_1_0_and_0() {
    let mut rng = Rng(13);
    for (has_gamma, has_beta) in [(false, false), (true, false), (false, true)] {
        let mut conv = rng.conv([3, 3], 2, 3);
        conv.bias = None;
        let mut norm = rng.norm(3);
        norm.gamma = norm.gamma.filter(|_| has_gamma);
        norm.beta = norm.beta.filter(|_| has_beta);
        let done = fold(&[4, 4, 2], Layer::Conv2D(conv), norm);
        assert_eq!(done.applied.len(), 1, "gamma {has_gamma}, beta {has_beta}");
    }
}

#[test]
fn two_normalizations_in_a_row_are_both_folded() {
    let mut rng = Rng(14);
    let layers = vec![
        ("conv", Layer::Conv2D(rng.conv([1, 1], 2, 3))),
        ("bn1", Layer::BatchNormalization(rng.norm(3))),
        ("bn2", Layer::BatchNormalization(rng.norm(3))),
    ];
    let done = checked(chain(&[3, 3, 2], layers), &OFF);
    assert_eq!(names(&done.graph), ["input:InputLayer", "conv:Conv2D"]);
}

/// Returns the refusals; the outputs may be NaN, so the graphs are compared instead.
fn refusal(conv: Layer, norm: BatchNormalization) -> Vec<String> {
    let layers = vec![("conv", conv), ("bn", Layer::BatchNormalization(norm))];
    let graph = chain(&[4, 4, 2], layers);
    let done = sanitize(graph.clone(), &OFF).expect("a valid graph stays valid");
    assert_eq!(done.graph, graph, "nothing changes");
    events(&done.refused)
}

#[test]
fn what_cannot_be_folded_is_refused_with_its_reason() {
    let mut rng = Rng(15);
    let conv = Layer::Conv2D(rng.conv([3, 3], 2, 3));
    let norm = |change: fn(&mut BatchNormalization)| {
        let mut norm = Rng(16).norm(3);
        change(&mut norm);
        norm
    };
    let zero = norm(|norm| norm.gamma = Some(arr1(&[1.0, 0.0, 1.0])));
    assert_eq!(
        refusal(conv.clone(), zero),
        ["fold-batchnorm bn: gamma[1] is 0"]
    );
    let negative = norm(|norm| norm.variance = arr1(&[1.0, 1.0, -2.0]));
    let [reason] = refusal(conv.clone(), negative)
        .try_into()
        .expect("one refusal");
    assert!(reason.ends_with("/ NaN is not finite"), "{reason}");
    let flat = norm(|norm| (norm.variance, norm.epsilon) = (Array1::zeros(3), 0.0));
    let [reason] = refusal(conv.clone(), flat).try_into().expect("one refusal");
    assert!(reason.ends_with("/ 0 is not finite"), "{reason}");
    let mut on_rows = Rng(17).norm(4);
    on_rows.axis = 1;
    assert_eq!(
        refusal(conv, on_rows),
        ["fold-batchnorm bn: normalizes axis 1, which is not the last"]
    );
    let swish = Layer::Activation(Activation::Swish);
    assert_eq!(
        refusal(swish, Rng(18).norm(2)),
        ["fold-batchnorm bn: `conv` (Activation) has no weights to take it in"]
    );
}

fn branched(outputs: &[&str], options: &SanitizeOptions) -> Sanitized {
    let mut rng = Rng(19);
    let mut net = Net::new(&[4, 4, 2]);
    net.add("conv", Layer::Conv2D(rng.conv([1, 1], 2, 3)), &["input"]);
    net.add("bn", Layer::BatchNormalization(rng.norm(3)), &["conv"]);
    net.add("add", Layer::Add(Add::default()), &["conv", "bn"]);
    net.add("conv2", Layer::Conv2D(rng.conv([1, 1], 3, 3)), &["add"]);
    net.add("bn2", Layer::BatchNormalization(rng.norm(3)), &["conv2"]);
    let graph: Graph = net.graph(outputs);
    checked(graph, options)
}

#[test]
fn a_convolution_that_others_see_is_refused_alone() {
    let done = branched(&["bn2"], &OFF);
    assert_eq!(
        events(&done.refused),
        ["fold-batchnorm bn: `conv` has 2 consumers"]
    );
    assert_eq!(
        events(&done.applied),
        ["fold-batchnorm bn2: folded into `conv2`"]
    );
    let done = branched(&["bn2", "conv2"], &OFF);
    let last = events(&done.refused).pop();
    assert_eq!(
        last.as_deref(),
        Some("fold-batchnorm bn2: `conv2` is also a model output")
    );
}

#[test]
fn temporal_convolutions_take_a_normalization() {
    let mut rng = Rng(31);
    let kernel = rng.conv([1, 1], 6, 4);
    let frames = Layer::BufferTempConv(BufferTempConv {
        kernel: kernel.kernel,
        bias: None,
        n_frames: 3,
    });
    let channels = Layer::DepthwiseBufferTempConv(DepthwiseBufferTempConv {
        kernel: rng.dense(2, 4).kernel,
        bias: kernel.bias,
    });
    let layers = vec![
        ("frames", frames),
        ("bn", Layer::BatchNormalization(rng.norm(4))),
        ("channels", channels),
        ("bn2", Layer::BatchNormalization(rng.norm(4))),
    ];
    let graph = chain(&[2, 2, 2], layers);
    let folded = sanitize(graph.clone(), &OFF).expect("a valid graph").graph;
    assert_eq!(folded.nodes().len(), 3, "both are folded");
    // Over a sequence: what a layer remembers lies before its weights.
    let (mut before, mut after) = (GraphMemory::default(), GraphMemory::default());
    for _ in 0..4 {
        let frame = ArrayD::from_shape_simple_fn(IxDyn(&[1, 2, 2, 2]), || rng.uniform(-2.0, 2.0));
        let run = |graph: &Graph, memory: &mut GraphMemory| {
            let outputs = graph.run_step(&[&frame], memory, &mut |_, _| ());
            outputs.expect("a frame that fits").remove(0)
        };
        let (want, got) = (run(&graph, &mut before), run(&folded, &mut after));
        for (want, got) in want.iter().zip(&got) {
            // Rounding of the folded weights, a few products of magnitude below 10.
            assert!((want - got).abs() <= 1e-4, "{want} became {got}");
        }
    }
}
