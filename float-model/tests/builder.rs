//! The builder: weights, their sizes, and its errors.

#![expect(
    clippy::unwrap_used,
    reason = "a model that cannot be built fails the test"
)]

use float_model::{
    Activation, Convolution, Graph, GraphBuilder, GraphError, Layer, Padding, ParamCount, Summary,
};

fn build(seed: u64) -> Graph {
    let mut b = GraphBuilder::with_seed("model", seed);
    let x = b.input("input", [12, 12, 4]);
    let x = b.conv2d("conv", x, 6, Convolution::new([3, 1]).same().no_bias());
    let x = b.batch_normalization("norm", x);
    let how = Convolution {
        groups: 2,
        ..Convolution::new(3).strides([1, 2]).dilation(2)
    };
    let x = b.conv2d("grouped", x, 8, how.activation(Activation::Relu));
    let how = Convolution {
        depth_multiplier: 2,
        ..Convolution::new(3)
    };
    let x = b.separable_conv2d("separable", x, 5, how.same());
    let x = b.conv2d_transpose("up", x, 3, Convolution::new(2).strides(2));
    let x = b.depthwise_conv2d_transpose("dw_up", x, Convolution::new(3).strides(2));
    let x = b.clipped_relu("relu6", x, 6.0);
    let x = b.max_pool2d("pool", x, 2);
    let x = b.flatten("flatten", x);
    let x = b.dense("dense", x, 2);
    b.build([x]).unwrap()
}

#[test]
fn weights_have_the_extents_of_keras() {
    let Summary {
        layers,
        trainable_params,
        non_trainable_params,
        ..
    } = build(0).summary();
    let params: Vec<usize> = layers.iter().map(|row| row.params).collect();
    let expected = [
        0,
        3 * 4 * 6,
        4 * 6,
        9 * 3 * 8 + 8,
        9 * 8 * 2 + 16 * 5 + 5,
        4 * 5 * 3 + 3,
        9 * 3 + 3,
        0,
        0,
        0,
        // [8, 4] after the grouped convolution, doubled twice, halved by the pool.
        16 * 8 * 3 * 2 + 2,
    ];
    assert_eq!(params, expected, "parameters of each layer");
    assert_eq!(non_trainable_params, 2 * 6, "means and variances");
    let total: usize = expected.iter().sum();
    assert_eq!(trainable_params + non_trainable_params, total, "all");
}

#[test]
fn a_seed_fixes_every_weight() {
    assert_eq!(build(3), build(3), "same seed");
    assert_ne!(build(3), build(4), "other seed");
    let graph = build(0);
    let id = graph.find("conv").unwrap();
    let Layer::Conv2D(conv) = &graph.node(id).layer else {
        unreachable!("`conv` is a convolution");
    };
    // From the published ChaCha8 keystream of a zero key, 3e00ef2f 895f40d6 7f5bb8e8 ...
    let first: Vec<u32> = conv.kernel.iter().take(3).map(|w| w.to_bits()).collect();
    assert_eq!(
        first,
        [3_197_057_574, 1_050_299_026, 1_052_464_191],
        "first weights"
    );
    let limit = (6.0_f32 / (3.0 * (4.0 + 6.0))).sqrt();
    assert!(
        conv.kernel.iter().all(|w| w.abs() <= limit),
        "Glorot's limit"
    );
    let mean = conv.kernel.iter().sum::<f32>() / 72.0;
    assert!(mean.abs() < limit / 4.0, "mean {mean}");
}

fn error(write: impl FnOnce(&mut GraphBuilder)) -> GraphError {
    let mut b = GraphBuilder::new("model");
    write(&mut b);
    b.build([]).unwrap_err()
}

#[test]
fn the_first_mistake_is_reported_with_its_layer() {
    let found = error(|b| {
        let x = b.input("input", [2, 2, 3]);
        let x = b.conv2d("too_large", x, 4, 3);
        let x = b.dense("dense", x, 4);
        b.conv2d("no_image", x, 4, 3);
    });
    let expected = "layer `too_large`: a window of 3 does not fit an extent of 2";
    assert_eq!(found.to_string(), expected);
    let found = error(|b| {
        b.input("input", [2, 2, 3]);
    });
    assert_eq!(found, GraphError::Empty, "no output");
    let found = error(|b| {
        let mut other = GraphBuilder::new("other");
        let x = other.input("input", [4]);
        b.relu("relu", x);
    });
    let expected = "layer `relu`: takes an output of another builder";
    assert_eq!(found.to_string(), expected);
}

#[test]
fn doubled_names_are_refused() {
    let mut b = GraphBuilder::new("model");
    let x = b.input("x", [2, 2, 3]);
    let x = b.relu("x", x);
    let found = b.build([x]).unwrap_err();
    let expected = GraphError::DuplicateName {
        layer: "x".to_owned(),
    };
    assert_eq!(found, expected);
}

#[test]
fn defaults_are_those_of_keras() {
    let how = Convolution::from(3);
    assert_eq!(how.padding, Padding::Valid);
    assert_eq!((how.kernel_size, how.strides), ([3, 3], [1, 1]));
    let relu = Layer::ReLU(float_model::ReLU::default());
    assert_eq!(relu.param_count(), ParamCount::default());
}
