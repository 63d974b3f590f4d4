//! R16.

use float_model::{Add, GlobalAveragePooling2D, Layer, Padding, ReLU, Sanitized};

use crate::net::{Net, ON, Rng, chain, checked, events, max_pool, names, outputs};

fn relu() -> Layer {
    Layer::ReLU(ReLU::default())
}

/// Returns a network whose `add` has `channels` channels.
fn with_add(channels: usize) -> Net {
    let mut rng = Rng(71);
    let mut net = Net::new(&[3, 3, 2]);
    net.add(
        "a",
        Layer::Conv2D(rng.conv([1, 1], 2, channels)),
        &["input"],
    );
    net.add(
        "b",
        Layer::Conv2D(rng.conv([1, 1], 2, channels)),
        &["input"],
    );
    net.add("add", Layer::Add(Add::default()), &["a", "b"]);
    net
}

#[test]
fn add_relu_gap_gets_one_convolution() {
    let mut net = with_add(3);
    net.add("relu", relu(), &["add"]);
    net.add(
        "gap",
        Layer::GlobalAveragePooling2D(GlobalAveragePooling2D::default()),
        &["relu"],
    );
    let done = checked(net.clone().graph(&["gap"]), &ON);
    assert_eq!(
        events(&done.applied),
        ["identity-conv-add-relu-gap add: `add_identity_conv` stands behind it now"]
    );
    assert_eq!(
        names(&done.graph)[3..],
        [
            "add:Add",
            "add_identity_conv:Conv2D",
            "relu:ReLU",
            "gap:GlobalAveragePooling2D"
        ]
    );
    // A model output with consumers stays one.
    let done = checked(net.graph(&["add", "gap"]), &ON);
    assert_eq!(outputs(&done.graph), ["add", "gap"]);
}

#[test]
fn a_merge_that_feeds_no_convolution_gets_one() {
    let done = checked(with_add(3).graph(&["add"]), &ON);
    assert_eq!(outputs(&done.graph), ["add_identity_conv"]);
    let mut rng = Rng(72);
    let after = [
        (Layer::SeparableConv2D(rng.separable([1, 1], 3, 2)), true),
        (relu(), true),
        (Layer::Conv2D(rng.conv([1, 1], 3, 2)), false),
        (Layer::DepthwiseConv2D(rng.depthwise([3, 3], 3)), false),
        (Layer::Conv2DTranspose(rng.transpose([3, 3], 3, 2)), false),
    ];
    for (layer, inserts) in after {
        let class = layer.class_name();
        let mut net = with_add(3);
        net.add("next", layer, &["add"]);
        let done = checked(net.graph(&["next"]), &ON);
        assert_eq!(
            done.graph.find("add_identity_conv").is_some(),
            inserts,
            "before {class}"
        );
    }
}

#[test]
fn vectors_get_none() {
    let mut net = Net::new(&[4]);
    net.add("add", Layer::Add(Add::default()), &["input", "input"]);
    let done = checked(net.graph(&["add"]), &ON);
    assert_eq!((done.applied, done.refused), (vec![], vec![]));
}

#[test]
fn too_many_channels_are_refused() {
    let done = checked(with_add(2049).graph(&["add"]), &ON);
    assert_eq!(
        events(&done.refused),
        ["identity-conv-merge add: has 2049 channels, more than 2048"]
    );
}

fn stem(channels: usize) -> Sanitized {
    let mut rng = Rng(73);
    let mut net = Net::new(&[6, 6, channels]);
    net.add(
        "conv",
        Layer::Conv2D(rng.conv([3, 3], channels, 2)),
        &["input"],
    );
    net.add("pool", max_pool(2, 2, Padding::Valid), &["conv"]);
    net.add("relu", relu(), &["pool"]);
    net.add("a", Layer::Conv2D(rng.conv([1, 1], 2, 2)), &["relu"]);
    net.add("b", Layer::Conv2D(rng.conv([1, 1], 2, 2)), &["relu"]);
    checked(net.graph(&["a", "relu", "b"]), &ON)
}

#[test]
fn a_stem_with_two_consumers_gets_one() {
    for channels in [1, 3] {
        let done = stem(channels);
        assert_eq!(
            events(&done.applied),
            ["identity-conv-stem relu: `relu_identity_conv` stands behind it now"]
        );
        assert_eq!(outputs(&done.graph), ["a", "relu", "b"]);
    }
    assert_eq!(stem(2).applied, []);
}

#[test]
fn a_stem_with_one_consumer_gets_none() {
    let mut rng = Rng(74);
    let layers = vec![
        ("conv", Layer::Conv2D(rng.conv([3, 3], 3, 2))),
        ("relu", relu()),
        ("conv2", Layer::Conv2D(rng.conv([3, 3], 2, 2))),
    ];
    assert_eq!(checked(chain(&[4, 4, 3], layers), &ON).applied, []);
}

#[test]
fn five_consumers_become_a_chain_of_pairs() {
    let mut rng = Rng(75);
    let mut net = Net::new(&[3, 3, 4]);
    net.add("st", Layer::Conv2D(rng.conv([1, 1], 4, 2)), &["input"]);
    let branches = ["b0", "b1", "b2", "b3", "b4"];
    for name in branches {
        net.add(name, Layer::Conv2D(rng.conv([1, 1], 2, 2)), &["st"]);
    }
    let done = checked(net.graph(&branches), &ON);
    assert_eq!(
        events(&done.applied),
        ["identity-conv-fan-out st: its 5 consumers take it in pairs"]
    );
    let graph = &done.graph;
    let input = |name: &str| {
        let node = graph.node(graph.find(name).expect("a layer of this name"));
        graph.node(node.inputs[0]).name.clone()
    };
    let new = |n: usize| format!("st_identity_conv_{n}");
    assert_eq!(input(&new(5)), new(4));
    assert_eq!(input(&new(4)), new(3));
    assert_eq!(input(&new(3)), "st");
    assert_eq!(
        branches.map(input),
        ["st".to_owned(), new(3), new(4), new(5), new(5)]
    );
}

#[test]
fn a_layer_taken_twice_counts_twice() {
    let mut rng = Rng(76);
    let mut net = Net::new(&[3, 3, 4]);
    net.add("st", Layer::Conv2D(rng.conv([1, 1], 4, 2)), &["input"]);
    net.add("add", Layer::Add(Add::default()), &["st", "st"]);
    net.add("a", Layer::Conv2D(rng.conv([1, 1], 2, 2)), &["add"]);
    net.add("b", Layer::Conv2D(rng.conv([1, 1], 2, 2)), &["st"]);
    let done = checked(net.graph(&["a", "b"]), &ON);
    assert_eq!(
        events(&done.applied),
        ["identity-conv-fan-out st: its 3 consumers take it in pairs"]
    );
}

#[test]
fn the_input_may_feed_many() {
    let mut rng = Rng(77);
    let mut net = Net::new(&[3, 3, 4]);
    for name in ["a", "b", "c"] {
        net.add(name, Layer::Conv2D(rng.conv([1, 1], 4, 2)), &["input"]);
    }
    assert_eq!(checked(net.graph(&["a", "b", "c"]), &ON).applied, []);
}
