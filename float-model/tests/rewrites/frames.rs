//! R4: networks over clips, run on whole clips before and on frame after frame behind it.

use float_model::{
    Activation, Add, BatchNormalization, Conv3D, Dense, Graph, GraphMemory, Layer, Padding, Pool3D,
    ReLU, Volume,
};
use ndarray::{Array1, Array5, ArrayD, Axis, IxDyn};
use proptest::prelude::*;

use crate::net::{Net, OFF, Rng, events};

fn conv(rng: &mut Rng, [kt, k, c, f]: [usize; 4], groups: usize) -> Conv3D {
    let mut weight = || rng.uniform(-1.0, 1.0);
    Conv3D {
        kernel: Array5::from_shape_simple_fn((kt, k, k, c / groups, f), &mut weight),
        bias: Some(Array1::from_shape_simple_fn(f, weight)),
        strides: [1; 3],
        padding: Padding::Valid,
        dilation: [1; 3],
        groups,
        activation: Activation::Linear,
    }
}

fn of(conv: Conv3D) -> Layer {
    Layer::Volume(Volume::Conv3D(conv))
}

/// Zeros before the first frame, as many as a window of `kt` frames reaches back.
fn behind(kt: usize) -> Layer {
    Layer::Volume(Volume::ZeroPadding3D([(kt - 1, 0), (0, 0), (0, 0)]))
}

fn norm(rng: &mut Rng, channels: usize) -> Layer {
    let norm: BatchNormalization = rng.norm(channels);
    Layer::BatchNormalization(BatchNormalization { axis: 4, ..norm })
}

/// Returns a chain over clips of `[time, 8, 6, 2]`.
fn over_clips(time: usize, layers: Vec<(&str, Layer)>) -> Graph {
    let mut net = Net::new(&[time, 8, 6, 2]);
    let mut before = "input";
    for (name, layer) in layers {
        net.add(name, layer, &[before]);
        before = name;
    }
    net.graph(&[before])
}

fn clip(rng: &mut Rng, time: usize) -> ArrayD<f32> {
    ArrayD::from_shape_simple_fn(IxDyn(&[2, time, 8, 6, 2]), || rng.uniform(-1.0, 1.0))
}

/// Compares every frame's output with that of the whole clip.
fn assert_frames_agree(clips: &Graph, frames: &Graph, clip: &ArrayD<f32>) {
    let whole = clips.predict(clip).expect("clips run");
    let mut memory = GraphMemory::default();
    for (t, want) in whole.axis_iter(Axis(1)).enumerate() {
        let frame = clip.index_axis(Axis(1), t).to_owned();
        let got = frames
            .run_step(&[&frame], &mut memory, &mut |_, _| ())
            .expect("frames run");
        assert_eq!(got[0].shape(), want.shape(), "frame {t}");
        // The order of the sums differs.
        let largest = whole.iter().fold(1.0_f32, |m, v| m.max(v.abs()));
        for (got, want) in got[0].iter().zip(&want) {
            assert!(
                (got - want).abs() <= 1e-5 * largest,
                "frame {t}: {got} instead of {want}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn frames_give_what_clips_give(
        seed in any::<u64>(),
        time in 1usize..6,
        (kt, stride) in (2usize..5, 1usize..3),
        (is_depthwise, is_same, is_padded) in any::<(bool, bool, bool)>(),
    ) {
        let mut rng = Rng(seed);
        let mut first = conv(&mut rng, [1, 3, 2, 4], 1);
        first.strides = [1, stride, stride];
        first.padding = if is_same { Padding::Same } else { Padding::Valid };
        first.activation = Activation::Relu;
        let groups = if is_depthwise { 4 } else { 1 };
        let later = conv(&mut rng, [kt, 1, 4, 4], groups);
        let depth = conv(&mut rng, [1, 3, 4, 4], groups);
        let border = if is_padded { (1, 1) } else { (0, 1) };
        let border = Layer::Volume(Volume::ZeroPadding3D([(0, 0), border, (1, 1)]));
        let dense = Layer::Dense(Dense { activation: Activation::Softmax, ..rng.dense(4, 3) });
        let layers = vec![
            ("first", of(first)),
            ("norm", norm(&mut rng, 4)),
            ("behind", behind(kt)),
            ("later", of(later)),
            ("later_norm", norm(&mut rng, 4)),
            ("relu", Layer::ReLU(ReLU::default())),
            ("border", border),
            ("depth", of(depth)),
        ];
        let body = over_clips(time, layers.clone());
        let shape = &body.node(body.outputs()[0]).shape;
        let pool_size = [1, shape[1].expect("known"), shape[2].expect("known")];
        let pool = Layer::Volume(Volume::AveragePool3D(Pool3D { pool_size, strides: pool_size }));
        let rows = isize::try_from(time).expect("few");
        let tail = vec![
            ("pool", pool),
            ("vectors", Layer::Reshape { target_shape: vec![rows, 4] }),
            ("dense", dense),
        ];
        let graph = over_clips(time, layers.into_iter().chain(tail).collect());
        let done = float_model::sanitize(graph.clone(), &OFF).expect("stays valid");
        prop_assert!(done.applied.iter().any(|event| event.rewrite == "clips-to-frames"));
        let is_clip = |layer: &Layer| matches!(layer, Layer::Volume(_));
        prop_assert!(!done.graph.nodes().iter().any(|node| is_clip(&node.layer)));
        assert_frames_agree(&graph, &done.graph, &clip(&mut rng, time));
    }
}

fn refusal(layers: Vec<(&str, Layer)>) -> String {
    let graph = over_clips(4, layers);
    let done = float_model::sanitize(graph.clone(), &OFF).expect("stays valid");
    assert_eq!(done.graph, graph, "nothing changes");
    events(&done.refused).join("\n")
}

#[test]
fn what_looks_ahead_or_mixes_frames_is_refused_by_name() {
    let mut rng = Rng(71);
    let mut ahead = conv(&mut rng, [3, 1, 2, 2], 1);
    ahead.padding = Padding::Same;
    assert_eq!(
        refusal(vec![("ahead", of(ahead)), ("flat", Layer::Flatten)]),
        "clips-to-frames input: `ahead` does not look back only: it needs a ZeroPadding3D of \
         ((2, 0), (0, 0), (0, 0)) of its own; `flat` is of class Flatten, which has no form for frames"
    );
    let both = conv(&mut rng, [2, 3, 2, 2], 1);
    assert!(refusal(vec![("both", of(both))]).contains("kernel 2x3x3 of strides (1, 1, 1)"));
    let first = ("first", of(conv(&mut rng, [1, 3, 2, 2], 1)));
    let reshape = |target: Vec<isize>| {
        (
            "reshape",
            Layer::Reshape {
                target_shape: target,
            },
        )
    };
    assert!(
        refusal(vec![first.clone(), reshape(vec![6, 4, 8])])
            .contains("`reshape` touches the time axis")
    );
    let permute = (
        "permute",
        Layer::Permute {
            dims: vec![2, 1, 3, 4],
        },
    );
    assert!(refusal(vec![first.clone(), permute]).contains("`permute` moves the time axis"));
    let later = of(conv(&mut rng, [3, 1, 2, 2], 1));
    let unequal = vec![("behind", behind(2)), ("later", later)];
    let text = refusal(unequal);
    assert!(text.contains("`behind` adds frames (1, 0)"), "{text}");
    assert!(text.contains("`later` does not look back only"), "{text}");
}

#[test]
fn sums_of_branches_are_refused_as_in_the_reference() {
    let mut rng = Rng(72);
    let mut net = Net::new(&[4, 8, 6, 2]);
    net.add("conv", of(conv(&mut rng, [1, 1, 2, 2], 1)), &["input"]);
    net.add("add", Layer::Add(Add::default()), &["conv", "input"]);
    let done = float_model::sanitize(net.graph(&["add"]), &OFF).expect("stays valid");
    assert_eq!(
        events(&done.refused),
        ["clips-to-frames input: `add` is of class Add, which has no form for frames"]
    );
}
