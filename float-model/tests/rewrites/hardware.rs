//! R13, R14, R15.

use float_model::{Layer, Padding, Sanitized};

use crate::net::{Net, OFF, ON, Rng, chain, checked, events, layer, names, outputs};

fn merge(inputs: &[&str]) -> Sanitized {
    let mut rng = Rng(61);
    let mut net = Net::new(&[4, 4, 2]);
    for name in ["a", "b", "c", "d"] {
        net.add(name, Layer::Conv2D(rng.conv([1, 1], 2, 3)), &["input"]);
    }
    net.add("cat", Layer::Concatenate { axis: -1 }, inputs);
    net.add(
        "last",
        Layer::Conv2D(rng.conv([1, 1], 3 * inputs.len(), 2)),
        &["cat"],
    );
    checked(net.graph(&["last"]), &ON)
}

fn inputs_of<'a>(done: &'a Sanitized, name: &str) -> Vec<&'a str> {
    let node = done
        .graph
        .node(done.graph.find(name).expect("a layer of this name"));
    node.inputs
        .iter()
        .map(|id| done.graph.node(*id).name.as_str())
        .collect()
}

#[test]
fn concatenations_are_split_into_pairs() {
    let done = merge(&["a", "b", "c", "d"]);
    // Each new one feeds no convolution, so R16b follows.
    assert_eq!(
        events(&done.applied),
        [
            "split-concatenate cat: its 4 inputs are joined in pairs",
            "identity-conv-merge cat_b: `cat_b_identity_conv` stands behind it now",
            "identity-conv-merge cat_c: `cat_c_identity_conv` stands behind it now",
        ]
    );
    assert_eq!(inputs_of(&done, "cat_b"), ["a", "b"]);
    assert_eq!(inputs_of(&done, "cat_c"), ["cat_b_identity_conv", "c"]);
    assert_eq!(inputs_of(&done, "cat"), ["cat_c_identity_conv", "d"]);
}

#[test]
fn a_layer_that_is_concatenated_twice_gives_two_names() {
    let done = merge(&["a", "b", "b", "c"]);
    assert_eq!(inputs_of(&done, "cat_b"), ["a", "b"]);
    assert_eq!(inputs_of(&done, "cat_b_1"), ["cat_b_identity_conv", "b"]);
}

#[test]
fn pairs_stay_and_hardware_rewrites_can_be_off() {
    assert_eq!(merge(&["a", "b"]).applied, []);
    let mut net = Net::new(&[4]);
    net.add(
        "cat",
        Layer::Concatenate { axis: -1 },
        &["input", "input", "input"],
    );
    let done = checked(net.graph(&["cat"]), &OFF);
    assert_eq!(done.applied, []);
}

/// A convolution of `kernel` and `stride` that is not the first one.
fn inner_conv(image: usize, kernel: [usize; 2], stride: usize, dilation: usize) -> Sanitized {
    let mut conv = Rng(62).conv(kernel, 4, 2);
    (conv.strides, conv.dilation) = ([stride; 2], [dilation; 2]);
    checked(
        chain(&[image, image, 4], vec![("conv", Layer::Conv2D(conv))]),
        &ON,
    )
}

#[test]
fn even_kernels_become_odd() {
    for (kernel, stride) in [(2, 1), (4, 1), (6, 1), (2, 2)] {
        for image in 1..10 {
            let done = inner_conv(image, [kernel; 2], stride, 1);
            let odd = kernel + 1;
            assert_eq!(
                events(&done.applied),
                [format!(
                    "even-to-odd-kernel conv: its kernel {kernel}x{kernel} is now {odd}x{odd}"
                )]
            );
        }
    }
}

#[test]
fn even_kernels_of_other_classes_become_odd() {
    for (kernel, stride) in [(2, 1), (4, 1), (6, 1), (2, 2)] {
        for image in [5, 6] {
            let mut depthwise = Rng(63).depthwise([kernel; 2], 3);
            depthwise.strides = [stride; 2];
            let mut transpose = Rng(64).transpose([kernel; 2], 3, 2);
            transpose.strides = [stride; 2];
            for conv in [
                Layer::DepthwiseConv2D(depthwise),
                Layer::Conv2DTranspose(transpose),
            ] {
                let done = checked(chain(&[image, image, 3], vec![("conv", conv)]), &ON);
                assert_eq!(done.applied.len(), 1, "kernel {kernel} of stride {stride}");
            }
        }
    }
}

#[test]
fn the_first_convolution_of_few_channels_has_its_own_list() {
    for channels in [1, 3] {
        for (kernel, stride, changes) in [
            (2, 1, true),
            (4, 1, false),
            (6, 1, true),
            (2, 2, true),
            (4, 2, false),
            (6, 2, true),
        ] {
            for image in [8, 9] {
                let mut conv = Rng(65).conv([kernel; 2], channels, 2);
                conv.strides = [stride; 2];
                let layers = vec![("conv", Layer::Conv2D(conv))];
                let done = checked(chain(&[image, image, channels], layers), &ON);
                assert_eq!(
                    !done.applied.is_empty(),
                    changes,
                    "{kernel} of stride {stride}"
                );
                assert_eq!(done.refused, []);
            }
        }
    }
}

#[test]
fn other_kernels_stay() {
    for (kernel, stride) in [([3, 3], 1), ([4, 4], 2), ([6, 6], 2), ([8, 8], 1)] {
        let done = inner_conv(9, kernel, stride, 1);
        assert_eq!((done.applied, done.refused), (vec![], vec![]), "{kernel:?}");
    }
    let mut valid = Rng(66).conv([2, 2], 4, 2);
    valid.padding = Padding::Valid;
    let done = checked(chain(&[5, 5, 4], vec![("conv", Layer::Conv2D(valid))]), &ON);
    assert_eq!(done.applied, []);
    assert_eq!(
        events(&inner_conv(9, [2, 3], 1, 1).refused),
        ["even-to-odd-kernel conv: kernel 2x3 of strides (1, 1) is not square"]
    );
    // The reference changes the results here.
    assert_eq!(
        events(&inner_conv(9, [2, 2], 1, 2).refused),
        ["even-to-odd-kernel conv: is dilated: (2, 2)"]
    );
}

#[test]
fn big_strided_depthwise_kernels_are_split() {
    for kernel in [[5, 5], [7, 7], [5, 7]] {
        for image in 1..12 {
            let mut conv = Rng(67).depthwise(kernel, 3);
            conv.strides = [2, 2];
            let layers = vec![("dw", Layer::DepthwiseConv2D(conv))];
            let done = checked(chain(&[image, image, 3], layers), &ON);
            assert_eq!(
                names(&done.graph),
                [
                    "input:InputLayer",
                    "dw:DepthwiseConv2D",
                    "dw_identity_dw_conv:DepthwiseConv2D"
                ]
            );
            assert_eq!(outputs(&done.graph), ["dw_identity_dw_conv"]);
            assert_eq!(
                events(&done.applied),
                ["split-depthwise dw: its stride is now that of `dw_identity_dw_conv`"]
            );
        }
    }
}

#[test]
fn other_depthwise_kernels_are_not_split() {
    for (kernel, stride, padding) in [
        ([3, 3], 2, Padding::Same),
        ([5, 5], 1, Padding::Same),
        ([5, 5], 2, Padding::Valid),
    ] {
        let mut conv = Rng(68).depthwise(kernel, 3);
        (conv.strides, conv.padding) = ([stride; 2], padding);
        let before = Layer::DepthwiseConv2D(conv);
        let done = checked(chain(&[9, 9, 3], vec![("dw", before.clone())]), &ON);
        assert_eq!((done.applied.len(), done.refused.len()), (0, 0));
        assert_eq!(layer(&done.graph, "dw"), &before);
    }
    let mut conv = Rng(69).depthwise([5, 3], 3);
    conv.strides = [2, 2];
    let done = checked(
        chain(&[9, 9, 3], vec![("dw", Layer::DepthwiseConv2D(conv))]),
        &ON,
    );
    assert_eq!(
        events(&done.refused),
        ["split-depthwise dw: kernel 5x3 has a side that is neither 5 nor 7"]
    );
}
