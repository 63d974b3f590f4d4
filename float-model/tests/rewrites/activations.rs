//! R1, R2, R5.

use float_model::{Activation, Layer, ReLU, Rescaling};
use ndarray::{ArrayD, IxDyn};
use quantizer_core::PerAxis;

use crate::net::{Net, OFF, Rng, chain, checked, events, layer, names, outputs};

#[test]
fn a_fused_activation_becomes_a_layer_and_the_output() {
    let mut rng = Rng(1);
    let mut conv = rng.conv([3, 3], 2, 3);
    conv.activation = Activation::Relu;
    let mut dense = rng.dense(3, 2);
    dense.activation = Activation::Softmax;
    let layers = vec![
        ("conv", Layer::Conv2D(conv)),
        ("dense", Layer::Dense(dense)),
    ];
    let done = checked(chain(&[4, 4, 2], layers), &OFF);
    assert_eq!(
        names(&done.graph),
        [
            "input:InputLayer",
            "conv:Conv2D",
            "conv_activ:ReLU",
            "dense:Dense",
            "dense_activ:Activation"
        ]
    );
    assert_eq!(outputs(&done.graph), ["dense_activ"]);
    assert_eq!(
        layer(&done.graph, "conv").activation(),
        Some(Activation::Linear)
    );
    assert_eq!(
        events(&done.applied),
        [
            "split-activation conv: its activation is now `conv_activ`",
            "split-activation dense: its activation is now `dense_activ`",
            "replace-activation conv_activ: is now a ReLU",
        ]
    );
}

#[test]
fn every_class_with_an_activation_is_split() {
    let mut rng = Rng(2);
    let mut conv = rng.conv([3, 3], 2, 2);
    let mut depthwise = rng.depthwise([3, 3], 2);
    let mut separable = rng.separable([3, 3], 2, 2);
    let mut transpose = rng.transpose([3, 3], 2, 2);
    let mut depthwise_transpose = rng.depthwise([3, 3], 2);
    let mut dense = rng.dense(2, 2);
    conv.activation = Activation::Swish;
    depthwise.activation = Activation::Swish;
    separable.activation = Activation::Swish;
    transpose.activation = Activation::Swish;
    depthwise_transpose.activation = Activation::Swish;
    depthwise_transpose.strides = [2, 2];
    dense.activation = Activation::Swish;
    let layers = vec![
        ("a", Layer::Conv2D(conv)),
        ("b", Layer::DepthwiseConv2D(depthwise)),
        ("c", Layer::SeparableConv2D(separable)),
        ("d", Layer::Conv2DTranspose(transpose)),
        ("e", Layer::DepthwiseConv2DTranspose(depthwise_transpose)),
        ("f", Layer::Dense(dense)),
    ];
    let done = checked(chain(&[3, 3, 2], layers), &OFF);
    assert_eq!(done.applied.len(), 6, "{:?}", done.applied);
    let is_fused = |node: &float_model::Node| {
        node.layer
            .activation()
            .is_some_and(|a| a != Activation::Linear)
    };
    assert!(
        !done.graph.nodes().iter().any(is_fused),
        "nothing stays fused"
    );
}

#[test]
fn a_taken_name_gets_a_number() {
    let mut rng = Rng(3);
    let mut dense = rng.dense(2, 2);
    dense.activation = Activation::Tanh;
    let layers = vec![
        ("d", Layer::Dense(dense)),
        ("d_activ", Layer::Dense(rng.dense(2, 2))),
    ];
    let done = checked(chain(&[2], layers), &OFF);
    assert_eq!(
        names(&done.graph),
        [
            "input:InputLayer",
            "d:Dense",
            "d_activ_1:Activation",
            "d_activ:Dense"
        ]
    );
}

#[test]
fn only_relu_is_replaced() {
    let kept = [
        Activation::Relu6,
        Activation::Gelu { approximate: false },
        Activation::Swish,
        Activation::HardSilu,
        Activation::LeakyRelu { alpha: 0.2 },
        Activation::Sigmoid,
    ];
    for activation in kept {
        let graph = chain(&[3], vec![("a", Layer::Activation(activation))]);
        let done = checked(graph.clone(), &OFF);
        assert_eq!(
            (done.graph, done.applied.len(), done.refused.len()),
            (graph, 0, 0)
        );
    }
    let done = checked(
        chain(&[3], vec![("a", Layer::Activation(Activation::Relu))]),
        &OFF,
    );
    assert_eq!(layer(&done.graph, "a"), &Layer::ReLU(ReLU::default()));
}

#[test]
fn leaky_relu_and_prelu_of_one_slope_become_activations() {
    let slopes = |values: Vec<f32>| {
        let n = values.len();
        Layer::PReLU {
            alpha: ArrayD::from_shape_vec(IxDyn(&[1, 1, n]), values).expect("fits"),
        }
    };
    let mut net = Net::new(&[3, 3, 2]);
    net.add("leaky", Layer::LeakyReLU { alpha: 0.3 }, &["input"]);
    net.add("even", slopes(vec![0.25, 0.25]), &["leaky"]);
    net.add("uneven", slopes(vec![0.25, 0.5]), &["even"]);
    let done = checked(net.graph(&["uneven"]), &OFF);
    let leaky = |alpha| Layer::Activation(Activation::LeakyRelu { alpha });
    assert_eq!(layer(&done.graph, "leaky"), &leaky(0.3));
    assert_eq!(layer(&done.graph, "even"), &leaky(0.25));
    assert_eq!(
        events(&done.refused),
        ["replace-leaky-relu uneven: its slopes differ: 0.25 and 0.5"]
    );
}

#[test]
fn a_hard_silu_of_operations_becomes_one_layer() {
    let relu6 = Layer::ReLU(ReLU {
        max_value: Some(6.0),
        ..ReLU::default()
    });
    let rescaling = |scale: f64, offset: f64| {
        Layer::Rescaling(Rescaling {
            scale: PerAxis::Tensor(scale),
            offset: PerAxis::Tensor(offset),
        })
    };
    let mut net = Net::new(&[3, 3, 2]);
    let mut x = "input".to_owned();
    for (i, scale) in [1.0 / 6.0, 1.0 / 6.0, 0.2].into_iter().enumerate() {
        let name = |what: &str| format!("{what}{i}");
        net.add(&name("plus"), rescaling(1.0, 3.0), &[&x]);
        net.add(&name("clip"), relu6.clone(), &[&name("plus")]);
        net.add(&name("times"), rescaling(scale, 0.0), &[&name("clip")]);
        net.add(&name("gate"), Layer::Multiply, &[&x, &name("times")]);
        x = name("gate");
    }
    let done = checked(net.graph(&[&x]), &OFF);
    assert_eq!(
        names(&done.graph)[..4],
        [
            "input:InputLayer",
            "activation_1:Activation",
            "activation:Activation",
            "plus2:Rescaling"
        ],
        "the third has another factor and stays"
    );
    assert_eq!(done.removed["times1"], "part of `activation`");
}
