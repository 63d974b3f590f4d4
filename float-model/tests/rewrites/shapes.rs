//! R6, R7, R12.

use float_model::{Layer, Padding, Pads};

use crate::net::{Net, OFF, Rng, chain, checked, events, layer, max_pool, names, outputs};

#[test]
fn a_group_for_each_channel_is_depthwise() {
    let mut rng = Rng(51);
    for channels in [1, 4] {
        let mut conv = rng.conv([3, 2], 1, channels);
        (conv.groups, conv.strides, conv.padding) = (channels, [2, 2], Padding::Valid);
        let done = checked(
            chain(&[6, 6, channels], vec![("conv", Layer::Conv2D(conv))]),
            &OFF,
        );
        assert_eq!(
            names(&done.graph),
            ["input:InputLayer", "conv:DepthwiseConv2D"]
        );
        assert_eq!(
            events(&done.applied),
            [format!(
                "grouped-conv-to-depthwise conv: is now a DepthwiseConv2D of {channels} channels"
            )]
        );
    }
}

#[test]
fn other_groups_stay() {
    let mut rng = Rng(52);
    let mut conv = rng.conv([3, 3], 2, 6);
    conv.groups = 3;
    let done = checked(chain(&[4, 4, 6], vec![("conv", Layer::Conv2D(conv))]), &OFF);
    assert_eq!(
        events(&done.refused),
        ["grouped-conv-to-depthwise conv: has 3 groups for 6 channels and 6 filters"]
    );
    let mut conv = rng.conv([3, 3], 1, 2);
    (conv.groups, conv.padding, conv.padding_value) = (2, Padding::Valid, Some(vec![1.0]));
    let done = checked(chain(&[4, 4, 2], vec![("conv", Layer::Conv2D(conv))]), &OFF);
    assert_eq!(
        events(&done.refused),
        ["grouped-conv-to-depthwise conv: has a padding value"]
    );
}

fn reshape(target: &[isize]) -> Layer {
    Layer::Reshape {
        target_shape: target.to_vec(),
    }
}

#[test]
fn of_reshapes_in_a_row_the_last_stays() {
    let layers = vec![
        ("a", reshape(&[2, 8])),
        ("b", Layer::Flatten),
        ("c", reshape(&[4, 4])),
        ("drop", Layer::Dropout { rate: 0.5 }),
        ("d", Layer::Flatten),
    ];
    let done = checked(chain(&[4, 2, 2], layers), &OFF);
    assert_eq!(
        names(&done.graph),
        ["input:InputLayer", "c:Reshape", "drop:Dropout", "d:Flatten"]
    );
    assert_eq!(
        events(&done.applied),
        [
            "remove-reshape a: merged into `b`",
            "remove-reshape b: merged into `c`"
        ]
    );
    assert_eq!(done.removed["a"], "merged into `b`");
}

#[test]
fn a_reshape_that_others_see_stays() {
    let mut net = Net::new(&[4, 2, 2]);
    net.add("a", reshape(&[2, 8]), &["input"]);
    net.add("b", Layer::Flatten, &["a"]);
    let done = checked(net.clone().graph(&["a", "b"]), &OFF);
    assert_eq!(
        events(&done.refused),
        ["remove-reshape a: `a` is also a model output"]
    );
    net.add("c", Layer::Flatten, &["a"]);
    let done = checked(net.graph(&["c", "b"]), &OFF);
    assert_eq!(
        events(&done.refused),
        ["remove-reshape a: `a` has 2 consumers"]
    );
}

fn zero_padding(top: usize, bottom: usize, left: usize, right: usize) -> Layer {
    Layer::ZeroPadding2D(Pads {
        top,
        bottom,
        left,
        right,
    })
}

fn convs(kernel: [usize; 2], stride: usize) -> [Layer; 3] {
    let mut rng = Rng(53);
    let mut conv = rng.conv(kernel, 2, 3);
    let mut depthwise = rng.depthwise(kernel, 2);
    let mut separable = rng.separable(kernel, 2, 3);
    (conv.strides, conv.padding) = ([stride; 2], Padding::Valid);
    (depthwise.strides, depthwise.padding) = ([stride; 2], Padding::Valid);
    (separable.strides, separable.padding) = ([stride; 2], Padding::Valid);
    [
        Layer::Conv2D(conv),
        Layer::DepthwiseConv2D(depthwise),
        Layer::SeparableConv2D(separable),
    ]
}

#[test]
fn pads_of_same_go() {
    let cases = [
        ([8, 8], zero_padding(0, 1, 0, 1), [3, 3], 2),
        ([7, 7], zero_padding(1, 1, 1, 1), [3, 3], 2),
        ([7, 8], zero_padding(1, 1, 1, 2), [3, 4], 1),
        ([5, 6], zero_padding(0, 0, 0, 0), [2, 1], 1),
    ];
    for ([h, w], pads, kernel, stride) in cases {
        for conv in convs(kernel, stride) {
            let layers = vec![("pad", pads.clone()), ("conv", conv)];
            let done = checked(chain(&[h, w, 2], layers), &OFF);
            let is_gone = done.graph.find("pad").is_none();
            let is_same = kernel != [2, 1];
            assert_eq!(
                is_gone, is_same,
                "{pads:?} before {kernel:?} of stride {stride}"
            );
            if is_gone {
                let message = "merged into `conv` as padding 'same'";
                assert_eq!(
                    events(&done.applied),
                    [format!("remove-zeropadding pad: {message}")]
                );
                assert_eq!(done.removed["pad"], message);
            }
        }
    }
}

#[test]
fn zeros_in_the_kernel_make_up_for_other_pads() {
    // Image, pads (top, bottom, left, right), kernel, stride, and the wider kernel.
    let cases = [
        // The usual pads of a stride of 2: the reference takes those of 'same', and is wrong.
        ([8, 8], [1, 1, 1, 1], [3, 3], 2, [5, 5]),
        ([8, 8], [3, 3, 3, 3], [7, 7], 2, [9, 9]),
        ([7, 8], [1, 1, 1, 1], [3, 3], 2, [5, 5]),
        ([8, 8], [1, 0, 1, 0], [3, 3], 2, [5, 5]),
        ([9, 10], [0, 2, 2, 0], [3, 3], 1, [5, 5]),
        ([8, 6], [1, 1, 0, 1], [3, 2], 2, [5, 3]),
        ([9, 12], [2, 1, 1, 2], [4, 4], 3, [7, 7]),
    ];
    for ([h, w], [top, bottom, left, right], kernel, stride, wide) in cases {
        let pads = zero_padding(top, bottom, left, right);
        for conv in convs(kernel, stride) {
            let layers = vec![("pad", pads.clone()), ("conv", conv)];
            let done = checked(chain(&[h, w, 2], layers), &OFF);
            let ([kh, kw], [th, tw]) = (kernel, wide);
            let message = format!(
                "merged into `conv` as padding 'same': its kernel {kh}x{kw} is now {th}x{tw}, \
                 zeros move it"
            );
            assert_eq!(
                events(&done.applied),
                [format!("remove-zeropadding pad: {message}")]
            );
            assert_eq!(done.removed["pad"], message);
        }
    }
}

#[test]
fn pads_that_no_kernel_makes_up_for_stay() {
    let refusal = |[h, w]: [usize; 2], pads: &Layer, conv: Layer| {
        let layers = vec![("pad", pads.clone()), ("conv", conv)];
        let done = checked(chain(&[h, w, 2], layers), &OFF);
        assert_eq!(layer(&done.graph, "pad"), pads);
        events(&done.refused)
    };
    for conv in convs([3, 3], 1) {
        assert_eq!(
            refusal([12, 12], &zero_padding(2, 2, 2, 2), conv),
            [
                "remove-zeropadding pad: its pads are ((2, 2), (2, 2)); 'same' of `conv` means ((1, 1), (1, 1)), and no zeros in it make up for that"
            ],
            "the image grows"
        );
    }
    let [conv, ..] = convs([2, 2], 1);
    let Layer::Conv2D(mut conv) = conv else {
        panic!("the first one")
    };
    conv.dilation = [2, 2];
    assert_eq!(
        refusal([8, 8], &zero_padding(2, 0, 2, 0), Layer::Conv2D(conv)),
        [
            "remove-zeropadding pad: its pads are ((2, 0), (2, 0)); 'same' of `conv` means ((1, 1), (1, 1)), and no zeros in it make up for that"
        ],
        "the cells of a dilated kernel lie apart"
    );
}

/// `ReLU -> ZeroPadding2D -> MaxPool2D`, as ports of networks of other frameworks have it.
#[test]
fn a_pool_of_a_rectified_image_takes_its_padding_in() {
    let relu = || Layer::ReLU(float_model::ReLU::default());
    let pooled = |[h, w]: [usize; 2], pads: Layer, [size, stride]: [usize; 2]| {
        let pool = max_pool(size, stride, Padding::Valid);
        let layers = vec![("relu", relu()), ("pad", pads), ("pool", pool)];
        checked(chain(&[h, w, 2], layers), &OFF)
    };
    let done = pooled([8, 8], zero_padding(1, 1, 1, 1), [3, 2]);
    assert_eq!(
        events(&done.applied),
        [
            "remove-zeropadding pad: merged into `pool_every_pixel`, of which `pool` takes rows and columns"
        ]
    );
    assert_eq!(
        names(&done.graph),
        [
            "input:InputLayer",
            "relu:ReLU",
            "pool_every_pixel:MaxPooling2D",
            "pool:MaxPooling2D"
        ]
    );
    assert_eq!(layer(&done.graph, "pool"), &max_pool(1, 2, Padding::Valid));
    let done = pooled([7, 7], zero_padding(1, 1, 1, 1), [3, 2]);
    assert_eq!(
        events(&done.applied),
        ["remove-zeropadding pad: merged into `pool` as padding 'same'"]
    );
    let done = pooled([8, 8], zero_padding(2, 0, 2, 0), [3, 2]);
    assert_eq!(done.applied, [], "the window is not centred");
    assert_eq!(done.refused.len(), 1);
    let done = pooled([8, 8], zero_padding(0, 1, 0, 1), [3, 2]);
    assert_eq!(layer(&done.graph, "pool"), &max_pool(3, 2, Padding::Same));
}

#[test]
fn others_still_see_the_rectified_image() {
    let mut net = Net::new(&[8, 8, 2]);
    net.add(
        "relu",
        Layer::ReLU(float_model::ReLU::default()),
        &["input"],
    );
    net.add("pad", zero_padding(1, 1, 1, 1), &["relu"]);
    net.add("pool", max_pool(3, 2, Padding::Valid), &["pad"]);
    let done = checked(net.graph(&["pool", "relu"]), &OFF);
    assert_eq!(done.applied.len(), 1);
    assert_eq!(outputs(&done.graph), ["pool", "relu"]);
}

#[test]
fn padding_before_anything_else_stays() {
    let refusal = |target: Layer| {
        let layers = vec![("pad", zero_padding(0, 1, 0, 1)), ("next", target)];
        events(&checked(chain(&[8, 8, 2], layers), &OFF).refused)
    };
    assert_eq!(
        refusal(max_pool(3, 2, Padding::Valid)),
        ["remove-zeropadding pad: zeros may win in `next`: its image may be negative"]
    );
    assert_eq!(
        refusal(Layer::Conv2DTranspose(Rng(54).transpose([3, 3], 2, 2))),
        ["remove-zeropadding pad: `next` (Conv2DTranspose) cannot pad"]
    );
    assert_eq!(
        refusal(Layer::Conv2D(Rng(55).conv([3, 3], 2, 2))),
        ["remove-zeropadding pad: `next` pads on its own"]
    );
    let mut net = Net::new(&[8, 8, 2]);
    let [conv, ..] = convs([3, 3], 2);
    net.add("pad", zero_padding(0, 1, 0, 1), &["input"]);
    net.add("conv", conv, &["pad"]);
    let done = checked(net.graph(&["conv", "pad"]), &OFF);
    assert_eq!(
        events(&done.refused),
        ["remove-zeropadding pad: `pad` is also a model output"]
    );
    assert_eq!(outputs(&done.graph), ["conv", "pad"]);
}

#[test]
fn open_extents_matter_only_for_strides() {
    for (stride, pads, is_gone) in [
        (1, zero_padding(1, 1, 1, 1), true),
        (2, zero_padding(0, 1, 0, 1), false),
    ] {
        let [conv, ..] = convs([3, 3], stride);
        let layers = vec![("pad", pads), ("conv", conv)];
        let mut draft = chain(&[5, 5, 2], layers).into_draft();
        if let Layer::Input(input) = &mut draft.nodes[0].layer {
            input.shape = vec![None, None, Some(2)];
        }
        let graph = float_model::Graph::new(draft).expect("open extents are valid");
        let done = float_model::sanitize(graph, &OFF).expect("stays valid");
        assert_eq!(done.graph.find("pad").is_none(), is_gone, "stride {stride}");
        if !is_gone {
            let reason = "its image has an open extent, and 'same' depends on it";
            assert_eq!(
                events(&done.refused),
                [format!("remove-zeropadding pad: {reason}")]
            );
        }
    }
}
