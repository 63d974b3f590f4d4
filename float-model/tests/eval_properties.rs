//! Float evaluation against plain f64 loops, and the same bits for any number of threads.

#![expect(
    clippy::unwrap_used,
    reason = "a model that cannot be built or run fails the test"
)]

use float_model::{
    Activation, Conv2D, Conv2DTranspose, Convolution, Graph, GraphBuilder, GraphError, Layer,
    Padding, Pool2D, apply,
};
use ndarray::{Array4, ArrayD, Ix4};
use proptest::prelude::*;

/// Small values, whose products still round.
fn array(shape: [usize; 4], seed: u64) -> Array4<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    Array4::from_shape_simple_fn(shape, || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let bits = u16::try_from(state >> 48).unwrap();
        f32::from(bits) / 65_536.0 * 2.0 - 1.0
    })
}

fn run_one(layer: &Layer, x: &Array4<f32>) -> Result<Array4<f32>, GraphError> {
    let out = apply("layer", layer, &[&x.clone().into_dyn()])?;
    Ok(out.into_dimensionality::<Ix4>().unwrap())
}

/// How far f32 may be from f64: each of at most 48 terms, below 1, is one rounding of a sum.
const TOLERANCE: f64 = 48.0 * 48.0 * (f32::EPSILON as f64);

fn assert_close(got: &Array4<f32>, want: &Array4<f64>) {
    assert_eq!(got.shape(), want.shape(), "extents");
    for (index, want) in want.indexed_iter() {
        let got = f64::from(got[index]);
        assert!(
            (got - want).abs() <= TOLERANCE,
            "{index:?}: {got}, oracle {want}"
        );
    }
}

/// Returns the image with `[top, bottom, left, right]` zeros around it, in f64.
fn padded(x: &Array4<f32>, [top, bottom, left, right]: [usize; 4]) -> Array4<f64> {
    let (n, h, w, c) = x.dim();
    let mut out = Array4::zeros((n, h + top + bottom, w + left + right, c));
    for ((n, h, w, c), x) in x.indexed_iter() {
        out[(n, h + top, w + left, c)] = f64::from(*x);
    }
    out
}

/// Returns `[before, after]` of TensorFlow's 'same' by trial: the least total that gives the
/// extent, the odd cell after.
fn same_by_trial(n: usize, span: usize, stride: usize) -> [usize; 2] {
    let total = (0..)
        .find(|total| {
            let fits = (0..n + total).step_by(stride);
            fits.filter(|start| start + span <= n + total).count() >= n.div_ceil(stride)
        })
        .unwrap();
    [total.div_euclid(2), total.div_ceil(2)]
}

fn pads(x: &Array4<f32>, span: [usize; 2], strides: [usize; 2], padding: Padding) -> [usize; 4] {
    match padding {
        Padding::Valid => [0; 4],
        Padding::Same => {
            let [top, bottom] = same_by_trial(x.dim().1, span[0], strides[0]);
            let [left, right] = same_by_trial(x.dim().2, span[1], strides[1]);
            [top, bottom, left, right]
        }
    }
}

/// Returns a grouped convolution by its definition, without bias.
fn conv_oracle(conv: &Conv2D, x: &Array4<f32>) -> Array4<f64> {
    let (kh, kw, per_group, filters) = conv.kernel.dim();
    let span = [
        (kh - 1) * conv.dilation[0] + 1,
        (kw - 1) * conv.dilation[1] + 1,
    ];
    let x = padded(x, pads(x, span, conv.strides, conv.padding));
    let (n, h, w, _) = x.dim();
    let extent = |n: usize, axis: usize| {
        (0..n)
            .step_by(conv.strides[axis])
            .filter(|i| i + span[axis] <= n)
            .count()
    };
    let per_filter_group = filters.div_euclid(conv.groups);
    Array4::from_shape_fn((n, extent(h, 0), extent(w, 1), filters), |(n, i, j, f)| {
        let first = f.div_euclid(per_filter_group) * per_group;
        let terms = conv.kernel.indexed_iter().filter(|((.., g), _)| *g == f);
        let product = |((a, b, c, _), k): ((usize, usize, usize, usize), &f32)| {
            let row = i * conv.strides[0] + a * conv.dilation[0];
            let column = j * conv.strides[1] + b * conv.dilation[1];
            f64::from(*k) * x[(n, row, column, first + c)]
        };
        terms.map(product).sum()
    })
}

/// Returns a transposed convolution without output padding, by scattering each input.
fn transpose_oracle(conv: &Conv2DTranspose, x: &Array4<f32>) -> Array4<f64> {
    let (kh, kw, filters, _) = conv.kernel.dim();
    let (n, h, w, _) = x.dim();
    let [sh, sw] = conv.strides;
    let full = |n: usize, k: usize, s: usize| (n - 1) * s + k.max(s);
    let mut out = Array4::<f64>::zeros((n, full(h, kh, sh), full(w, kw, sw), filters));
    for ((n, i, j, c), x) in x.indexed_iter() {
        for a in 0..kh {
            for b in 0..kw {
                for f in 0..filters {
                    let product = f64::from(conv.kernel[(a, b, f, c)]) * f64::from(*x);
                    out[(n, i * sh + a, j * sw + b, f)] += product;
                }
            }
        }
    }
    if conv.padding == Padding::Same {
        let crop = |k: usize, s: usize| k.saturating_sub(s).div_euclid(2);
        let (top, left) = (crop(kh, sh), crop(kw, sw));
        let cropped = out.slice(ndarray::s![.., top..top + h * sh, left..left + w * sw, ..]);
        return cropped.to_owned();
    }
    out
}

fn padding() -> impl Strategy<Value = Padding> {
    prop_oneof![Just(Padding::Same), Just(Padding::Valid)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn convolutions_are_those_of_the_definition(
        extents in [1..3_usize, 1..8, 1..8],
        kernel in [1..4_usize, 1..4],
        strides in [1..4_usize, 1..4],
        dilation in [1..3_usize, 1..3],
        [groups, per_group, filters] in [1..4_usize, 1..4, 1..4],
        padding in padding(),
        seed in any::<u64>(),
    ) {
        let x = array([extents[0], extents[1], extents[2], per_group * groups], seed);
        let conv = Conv2D {
            kernel: array([kernel[0], kernel[1], per_group, filters * groups], !seed),
            bias: None,
            strides,
            padding,
            dilation,
            groups,
            activation: Activation::Linear,
            padding_value: None,
        };
        match run_one(&Layer::Conv2D(conv.clone()), &x) {
            Ok(got) => assert_close(&got, &conv_oracle(&conv, &x)),
            Err(error) => {
                let spans = [0, 1].map(|axis| (kernel[axis] - 1) * dilation[axis] + 1);
                let fits = spans[0] <= extents[1] && spans[1] <= extents[2];
                prop_assert!(padding == Padding::Valid && !fits, "{error}");
            }
        }
    }

    #[test]
    fn transposed_convolutions_are_those_of_the_definition(
        extents in [1..3_usize, 1..6, 1..6],
        kernel in [1..5_usize, 1..5],
        strides in [1..4_usize, 1..4],
        [channels, filters] in [1..4_usize, 1..4],
        padding in padding(),
        seed in any::<u64>(),
    ) {
        let x = array([extents[0], extents[1], extents[2], channels], seed);
        let conv = Conv2DTranspose {
            kernel: array([kernel[0], kernel[1], filters, channels], !seed),
            bias: None,
            strides,
            padding,
            output_padding: None,
            dilation: [1, 1],
            activation: Activation::Linear,
        };
        let got = run_one(&Layer::Conv2DTranspose(conv.clone()), &x).unwrap();
        assert_close(&got, &transpose_oracle(&conv, &x));
    }

    #[test]
    fn a_depthwise_convolution_is_a_grouped_one(
        extents in [1..3_usize, 3..8, 3..8],
        [channels, multiplier] in [1..5_usize, 1..4],
        stride in 1..3_usize,
        padding in padding(),
        seed in any::<u64>(),
    ) {
        let x = array([extents[0], extents[1], extents[2], channels], seed);
        let kernel = array([3, 3, channels, multiplier], !seed);
        let conv = Conv2D {
            kernel: kernel.to_shape((3, 3, 1, channels * multiplier)).unwrap().to_owned(),
            bias: None,
            strides: [stride, stride],
            padding,
            dilation: [1, 1],
            groups: channels,
            activation: Activation::Linear,
            padding_value: None,
        };
        let depthwise = float_model::DepthwiseConv2D {
            kernel,
            bias: None,
            strides: conv.strides,
            padding,
            dilation: [1, 1],
            activation: Activation::Linear,
        };
        let got = run_one(&Layer::DepthwiseConv2D(depthwise), &x).unwrap();
        assert_close(&got, &conv_oracle(&conv, &x));
    }

    #[test]
    fn an_average_pool_is_a_convolution_of_ones_over_the_number_of_pixels(
        extents in [1..3_usize, 3..9, 3..9],
        size in [1..4_usize, 1..4],
        strides in [1..4_usize, 1..4],
        padding in padding(),
        seed in any::<u64>(),
    ) {
        let x = array([extents[0], extents[1], extents[2], 1], seed);
        let conv = Conv2D {
            kernel: Array4::ones([size[0], size[1], 1, 1]),
            bias: None,
            strides,
            padding,
            dilation: [1, 1],
            groups: 1,
            activation: Activation::Linear,
            padding_value: None,
        };
        let pool = Pool2D { pool_size: size, strides, padding };
        let want = conv_oracle(&conv, &x) / conv_oracle(&conv, &Array4::ones(x.raw_dim()));
        assert_close(&run_one(&Layer::AveragePool2D(pool), &x).unwrap(), &want);
    }
}

fn every_kind_of_work() -> Graph {
    let mut b = GraphBuilder::with_seed("threads", 7);
    let x = b.input("input", [19, 13, 3]);
    let stem = b.conv2d("stem", x, 20, Convolution::new(3).same());
    let dw = b.depthwise_conv2d("dw", stem, Convolution::new(3).same());
    let wide = b.separable_conv2d("wide", dw, 20, Convolution::new([3, 1]).same());
    let sum = b.add("sum", [stem, wide]);
    let norm = b.batch_normalization("norm", sum);
    let act = b.activation("gelu", norm, Activation::Gelu { approximate: false });
    let pool = b.max_pool2d("pool", act, 2);
    let mean = b.average_pool2d("mean", pool, [1, 2]);
    let up = b.conv2d_transpose("up", mean, 8, Convolution::new(3).strides(2));
    let dense = b.dense("dense", up, 33);
    let gap = b.global_average_pooling2d("gap", dense);
    let soft = b.activation("soft", gap, Activation::Softmax);
    b.build([soft, up]).unwrap()
}

fn bits(outputs: &[ArrayD<f32>]) -> Vec<Vec<u32>> {
    let bits_of = |x: &ArrayD<f32>| x.iter().map(|x| x.to_bits()).collect();
    outputs.iter().map(bits_of).collect()
}

#[test]
fn the_number_of_threads_and_the_batch_change_no_bit() {
    let graph = every_kind_of_work();
    let images = array([5, 19, 13, 3], 3).into_dyn();
    let run = |n_threads, images: &ArrayD<f32>| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads);
        let outputs = || graph.run(&[images], &mut |_, _| ()).unwrap();
        bits(&pool.build().unwrap().install(outputs))
    };
    let expected = run(1, &images);
    assert_eq!(run(2, &images), expected, "2 threads");
    assert_eq!(run(3, &images), expected, "3 threads");
    assert_eq!(run(16, &images), expected, "16 threads");
    for (index, image) in images.outer_iter().enumerate() {
        let alone = run(3, &image.to_owned().insert_axis(ndarray::Axis(0)));
        for (alone, all) in alone.iter().zip(&expected) {
            let len = alone.len();
            assert_eq!(
                alone[..],
                all[index * len..(index + 1) * len],
                "image {index}"
            );
        }
    }
}

#[test]
fn memory_order_of_the_input_changes_nothing() {
    let graph = every_kind_of_work();
    let images = array([2, 19, 13, 3], 4).into_dyn();
    let mut other_order = images
        .clone()
        .reversed_axes()
        .as_standard_layout()
        .to_owned();
    other_order = other_order.reversed_axes();
    assert!(!other_order.is_standard_layout(), "columns first");
    assert_eq!(
        bits(&[graph.predict(&other_order).unwrap()]),
        bits(&[graph.predict(&images).unwrap()]),
        "output bits"
    );
}

#[test]
fn the_observer_sees_every_layer_once_in_order() {
    let graph = every_kind_of_work();
    let images = array([2, 19, 13, 3], 5).into_dyn();
    let mut seen = Vec::new();
    let mut last = None;
    let outputs = graph.run(&[&images], &mut |id, x| {
        assert_eq!(x.shape()[0], 2, "batch of {}", graph.node(id).name);
        let item: Vec<_> = x.shape()[1..].iter().copied().map(Some).collect();
        assert_eq!(item, graph.node(id).shape, "{}", graph.node(id).name);
        seen.push(id);
        last = Some(x.clone());
    });
    let all: Vec<_> = graph.iter().map(|(id, _)| id).collect();
    assert_eq!(seen, all, "layers observed");
    assert_eq!(
        last.as_ref(),
        outputs.unwrap().first(),
        "the last is an output"
    );
}

#[test]
fn wrong_inputs_are_refused_by_name() {
    let mut b = GraphBuilder::new("two");
    let left = b.input("left", [4]);
    let right = b.input("right", [4]);
    let sum = b.add("sum", [left, right]);
    let graph = b.build([sum]).unwrap();
    let batch = |shape: &[usize]| ArrayD::<f32>::zeros(shape);
    let error =
        |inputs: &[&ArrayD<f32>]| graph.run(inputs, &mut |_, _| ()).unwrap_err().to_string();
    assert_eq!(
        error(&[&batch(&[1, 4])]),
        "the model takes the inputs `left`, `right`, not 1 tensors"
    );
    assert_eq!(
        error(&[&batch(&[1, 4]), &batch(&[1, 5])]),
        "layer `right`: expects a batch of [4], got a tensor of [1, 5]"
    );
    assert_eq!(
        error(&[&batch(&[1, 4]), &batch(&[2, 4])]),
        "layer `right`: has another batch than the first input of the model"
    );
    assert_eq!(
        error(&[&batch(&[]), &batch(&[1, 4])]),
        "layer `left`: expects a batch of [4], got a tensor of []"
    );
}

#[test]
fn an_empty_batch_gives_an_empty_output() {
    let out = every_kind_of_work().predict(&ArrayD::zeros(vec![0, 19, 13, 3]));
    assert_eq!(out.unwrap().shape(), [0, 33], "extents");
}

#[test]
fn nan_is_never_hidden() {
    let x = ArrayD::from_elem(vec![1, 2, 2, 1], f32::NAN);
    let pool = Pool2D {
        pool_size: [2, 2],
        strides: [2, 2],
        padding: Padding::Valid,
    };
    let layers = [
        Layer::ReLU(float_model::ReLU::default()),
        Layer::Activation(Activation::Relu6),
        Layer::Activation(Activation::HardSigmoid),
        Layer::Activation(Activation::Softmax),
        Layer::MaxPool2D(pool),
        Layer::AveragePool2D(pool),
    ];
    for layer in layers {
        let out = apply("layer", &layer, &[&x]).unwrap();
        assert!(out.iter().all(|x| x.is_nan()), "{}", layer.class_name());
    }
}
