//! Ranges, batches, zero points and equalization, by numbers and by what must not change.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use calibration::{
    ArraySource, BatchPlan, CalibrationError, Granularity, IntegerRange, MovingMax, ObservedSite,
    ObservedSites, OutputSite, RandomSource, SampleSource, calibrate, equalize, fold_zero_point,
    prepare_unsigned_input, reference_batch_size,
};
use float_model::{Convolution, Draft, Graph, GraphBuilder, Layer};
use ndarray::{ArrayD, IxDyn};
use proptest::prelude::*;
use quantizer_core::PerAxis;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

fn samples(n: usize, extent: usize, channels: usize, f: impl Fn(usize) -> f32) -> ArrayD<f32> {
    let shape = IxDyn(&[n, extent, extent, channels]);
    let values = (0..shape_len(&shape)).map(f).collect();
    ArrayD::from_shape_vec(shape, values).unwrap()
}

fn shape_len(shape: &IxDyn) -> usize {
    (0..shape_rank(shape)).map(|i| shape[i]).product()
}

fn shape_rank(_: &IxDyn) -> usize {
    4
}

fn wave(i: usize) -> f32 {
    f32::from(u16::try_from((i * 7919).rem_euclid(1000)).unwrap()) / 500.0 - 1.0
}

fn network() -> Graph {
    let mut b = GraphBuilder::with_seed("net", 3);
    let x = b.input("input", [6, 6, 2]);
    let x = b.conv2d("conv", x, 5, Convolution::new(3).same());
    let x = b.relu("relu", x);
    let x = b.max_pool2d("pool", x, 2);
    let x = b.depthwise_conv2d("dw", x, Convolution::new(3).same());
    let x = b.flatten("flat", x);
    let x = b.dense("dense", x, 4);
    b.build([x]).unwrap()
}

fn site(layer: &str, granularity: Granularity) -> ObservedSite {
    ObservedSite {
        layer: layer.to_owned(),
        granularity,
        value_bits: 7,
    }
}

fn sites() -> ObservedSites {
    let outputs = vec![
        site("relu", Granularity::PerAxis),
        site("dw", Granularity::PerTensor),
    ];
    ObservedSites {
        outputs,
        input: Some(Granularity::PerAxis),
        ..ObservedSites::default()
    }
}

#[test]
fn a_first_batch_of_exactly_one_is_remembered() {
    let mut observer = MovingMax::default();
    for m in [1.0, 0.3, 0.2] {
        observer.update(PerAxis::Tensor(m));
    }
    // 1 - 0.7 * 0.1 = 0.93, then 0.93 - 0.73 * 0.1; the reference gives 0.29.
    let got = observer.get().unwrap().at(0);
    assert!((got - 0.857).abs() < 1e-6, "{got}");
}

#[test]
fn batches_are_those_of_the_reference() {
    assert_eq!(reference_batch_size(10, 4), 3, "batches of 3, 3, 3, 1");
    assert_eq!(reference_batch_size(10, 10), 1, "one by one");
    let plan = BatchPlan::new(10, 3, 4, 1).unwrap();
    assert_eq!(plan.steps, 1, "3 samples in batches of 4 use 4 samples");
    assert_eq!(
        BatchPlan::new(10, 10, 4, 3).unwrap().steps,
        3,
        "the last batch is partial"
    );
    let error = BatchPlan::new(10, 11, 4, 1).unwrap_err();
    assert_eq!(
        error,
        CalibrationError::TooFewSamples {
            asked: 11,
            available: 10
        },
        "too many"
    );
    for (n, batch, epochs) in [(0, 1, 1), (1, 0, 1), (1, 1, 0)] {
        let error = BatchPlan::new(10, n, batch, epochs).unwrap_err();
        assert!(
            matches!(error, CalibrationError::Zero { .. }),
            "a zero: {error}"
        );
    }
}

#[test]
fn ranges_are_moving_maxima_of_batches() {
    let x = samples(5, 6, 2, wave);
    let graph = network();
    let mut source = ArraySource::floats(x.clone());
    let plan = BatchPlan::new(5, 5, 2, 2).unwrap();
    let mut seen = Vec::new();
    let observed = calibrate(&graph, &sites(), &mut source, &plan, &mut |p| {
        seen.push((p.done, p.total));
    })
    .unwrap();
    assert_eq!(
        seen,
        [(2, 10), (4, 10), (5, 10), (7, 10), (9, 10), (10, 10)],
        "progress"
    );
    let mut want = MovingMax::default();
    for _ in 0..2 {
        for batch in x.axis_chunks_iter(ndarray::Axis(0), 2) {
            let mut max = 0.0_f32;
            let dw = graph.find("dw").unwrap();
            graph
                .run(&[&batch.to_owned()], &mut |id, y| {
                    if id == dw {
                        max = y.iter().fold(0.0, |m, v| m.max(v.abs()));
                    }
                })
                .unwrap();
            want.update(PerAxis::Tensor(max));
        }
    }
    assert_eq!(observed.outputs.get("dw"), want.get(), "range of dw");
    assert_eq!(
        observed.outputs["relu"].n_values(),
        5,
        "one range a channel"
    );
    let input = observed.input.unwrap();
    assert!(
        input.min.at(0) < 0.0 && input.max.at(1) > 0.0,
        "signed extremes"
    );
}

#[test]
fn samples_that_cannot_be_right_are_errors() {
    let graph = network();
    let plan = BatchPlan::new(4, 4, 2, 1).unwrap();
    let run = |x: ArrayD<f32>, sites: &ObservedSites| {
        calibrate(
            &graph,
            sites,
            &mut ArraySource::floats(x),
            &plan,
            &mut |_| (),
        )
        .unwrap_err()
    };
    let nan = samples(4, 6, 2, |i| if i == 2 * 72 + 5 { f32::NAN } else { 0.0 });
    assert_eq!(
        run(nan, &sites()),
        CalibrationError::SampleNotFinite { sample: 2 },
        "NaN"
    );
    let error = run(samples(4, 7, 2, wave), &sites());
    assert!(
        matches!(error, CalibrationError::Shape { .. }),
        "extents: {error}"
    );
    let vector = ObservedSites {
        outputs: vec![site("dense", Granularity::PerAxis)],
        ..ObservedSites::default()
    };
    let error = run(samples(4, 6, 2, wave), &vector);
    assert!(
        error.to_string().contains("dense"),
        "per-axis on a vector: {error}"
    );
    let huge = samples(4, 6, 2, |_| 3e38);
    let error = run(huge, &sites());
    assert!(
        matches!(error, CalibrationError::RangeNotFinite { .. }),
        "infinite outputs: {error}"
    );
}

#[test]
fn random_samples_come_again() {
    let range = IntegerRange {
        low: -128,
        high: 127,
    };
    let mut source = RandomSource::new(7, range, 4096, vec![3]);
    let first = source.next_batch(4096).unwrap();
    source.rewind().unwrap();
    assert_eq!(source.next_batch(4096).unwrap(), first, "after a rewind");
    let (low, high) = first
        .iter()
        .fold((0.0_f32, 0.0_f32), |(l, h), v| (l.min(*v), h.max(*v)));
    assert_eq!(
        (low.to_bits(), high.to_bits()),
        ((-128.0_f32).to_bits(), 127.0_f32.to_bits()),
        "both ends"
    );
    assert_eq!(
        source.next_batch(9).unwrap().shape(),
        [0, 3],
        "none are left"
    );
    let other = RandomSource::new(8, range, 4096, vec![3])
        .next_batch(4096)
        .unwrap();
    assert!(other != first, "another seed gives others");
}

/// The batches do not change the samples: each word of the generator is one number.
#[test]
fn random_samples_are_the_words_of_their_generator() {
    let range = IntegerRange { low: -5, high: 250 };
    let mut source = RandomSource::new(7, range, 1000, vec![3]);
    let mut words = ChaCha8Rng::seed_from_u64(7);
    for n_samples in [1, 85, 86, 300, 500, 28] {
        for value in source.next_batch(n_samples).unwrap() {
            let scaled = (u64::from(words.next_u32()) * 256) >> 32;
            let expected = f32::from(u8::try_from(scaled).unwrap()) - 5.0;
            assert_eq!(value.to_bits(), expected.to_bits(), "{n_samples} samples");
        }
    }
}

#[test]
fn an_equalized_range_is_just_below_a_power_of_two() {
    let site = OutputSite {
        layer: "relu".to_owned(),
        bitwidth: 8,
        scaled: true,
        range: PerAxis::Tensor(1.368_322_7),
    };
    let result = equalize(network(), &[site]).unwrap();
    let (range, rate) = &result.ranges["relu"];
    assert_eq!(range.at(0).to_bits(), 0.996_093_75_f32.to_bits(), "ideal");
    assert!((rate.at(0) - 0.727_966_96).abs() < 1e-7, "rate {rate:?}");
}

#[test]
fn only_scaled_outputs_with_one_successor_are_equalized() {
    let site = |scaled| OutputSite {
        layer: "dense".to_owned(),
        bitwidth: 8,
        scaled,
        range: PerAxis::Tensor(1.3),
    };
    for scaled in [false, true] {
        let result = equalize(network(), &[site(scaled)]).unwrap();
        assert_eq!(
            result.ranges["dense"].1,
            PerAxis::Tensor(1.0),
            "no successor, rate 1"
        );
        assert_eq!(result.graph, network(), "weights stay");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    /// What the rates take from the producer's scale, the successor's weights give back.
    #[test]
    fn equalization_keeps_the_function(ranges in proptest::collection::vec(0.01..9.0_f32, 5), per_axis: bool) {
        let range = if per_axis { PerAxis::Axis(ranges) } else { PerAxis::Tensor(ranges[0]) };
        for layer in ["relu", "dw"] {
            let site = OutputSite { layer: layer.to_owned(), bitwidth: 8, scaled: true, range: range.clone() };
            let before = network();
            let result = equalize(before.clone(), &[site]).unwrap();
            let rate = &result.ranges[layer].1;
            prop_assert!(rate.as_slice().iter().all(|r| *r > 0.49 && *r <= 1.0), "rates {:?}", rate);
            // The producer of `relu` is `conv`; a positive factor passes a ReLU.
            let producer = if layer == "relu" { "conv" } else { "dw" };
            let mut draft: Draft = result.graph.into_draft();
            scale_outputs(&mut draft, producer, rate);
            let after = Graph::new(draft).unwrap();
            let x = samples(2, 6, 2, wave);
            let (want, got) = (before.predict(&x).unwrap(), after.predict(&x).unwrap());
            for (want, got) in want.iter().zip(&got) {
                // Two roundings for each of some hundred products: well below 1e-4.
                prop_assert!((want - got).abs() <= 1e-4 * want.abs().max(1.0), "{} and {}", want, got);
            }
        }
    }

    #[test]
    fn moving_maxima_follow_the_recurrence(batches in proptest::collection::vec(0.0..100.0_f32, 1..30)) {
        let mut observer = MovingMax::default();
        let mut exact: Option<f64> = None;
        for m in batches {
            observer.update(PerAxis::Tensor(m));
            exact = Some(exact.map_or_else(|| f64::from(m), |r| 0.9 * r + 0.1 * f64::from(m)));
        }
        let got = f64::from(observer.get().unwrap().at(0));
        // One rounding error of 2^-24 a step fades by 0.9: at most ten of them.
        prop_assert!((got - exact.unwrap()).abs() <= 2e-6 * 100.0, "{} and {:?}", got, exact);
    }
}

fn scale_outputs(draft: &mut Draft, layer: &str, rate: &PerAxis<f32>) {
    let node = draft.node_mut(layer).unwrap();
    if let Layer::Conv2D(conv) = &mut node.layer {
        for ((_, _, _, f), w) in conv.kernel.indexed_iter_mut() {
            *w *= rate.at(f);
        }
    }
    if let Layer::DepthwiseConv2D(conv) = &mut node.layer {
        for ((_, _, c, _), w) in conv.kernel.indexed_iter_mut() {
            *w *= rate.at(c);
        }
    }
}

#[test]
fn a_folded_zero_point_keeps_the_function() {
    let mut b = GraphBuilder::with_seed("net", 5);
    let x = b.input("input", [5, 5, 3]);
    let x = b.rescaling("scale", x, 0.5, 0.0);
    let x = b.conv2d("conv", x, 4, Convolution::new(3).same().no_bias());
    let before = b.build([x]).unwrap();
    let range_min = PerAxis::Axis(vec![-1.0, -0.25, 0.0]);
    let mut draft = before.clone().into_draft();
    prepare_unsigned_input(&mut draft, "conv");
    let prepared = Graph::new(draft.clone()).unwrap();
    fold_zero_point(&mut draft, "conv", &range_min).unwrap();
    let after = Graph::new(draft).unwrap();
    let x = samples(2, 5, 3, wave);
    let moved = ArrayD::from_shape_fn(x.raw_dim(), |i| x[&i] - range_min.at(i[3]));
    let want = before.predict(&x).unwrap();
    for got in [
        prepared.predict(&x).unwrap(),
        after.predict(&moved).unwrap(),
    ] {
        for (want, got) in want.iter().zip(&got) {
            // Sums of 27 products in another order: a few units of 2^-24.
            assert!((want - got).abs() <= 1e-5, "{want} and {got}");
        }
    }
    let mut other = before.into_draft();
    assert!(
        fold_zero_point(&mut other, "conv", &range_min).is_err(),
        "without a bias"
    );
    assert!(
        fold_zero_point(&mut other, "scale", &range_min).is_err(),
        "not a layer with weights"
    );
}

#[test]
fn a_transposed_convolution_says_what_to_do_about_a_zero_point() {
    let mut b = GraphBuilder::with_seed("net", 5);
    let x = b.input("input", [5, 5, 3]);
    let x = b.conv2d_transpose("up", x, 4, Convolution::new(3).strides(2).same());
    let mut draft = b.build([x]).unwrap().into_draft();
    let below_zero = PerAxis::Tensor(-1.0);
    let refused = fold_zero_point(&mut draft, "up", &below_zero).unwrap_err();
    assert!(
        refused.to_string().contains("--input-dtype int8"),
        "{refused}"
    );
}
