//! Observers against naive ones that keep every value.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::integer_division,
    reason = "test values are small"
)]

use calibration::{
    ArraySource, BatchPlan, Convergence, Granularity, ObservedSite, ObservedSites, ObserverKind,
    calibrate,
};
use float_model::GraphBuilder;
use ndarray::{ArrayD, Axis, IxDyn};
use proptest::prelude::*;
use quantizer_core::PerAxis;

const VALUE_BITS: u8 = 7;

/// Returns the range of `values`, `[pixels, channels]`, seen in batches of `step`.
fn observed(
    kind: ObserverKind,
    granularity: Granularity,
    values: &ArrayD<f32>,
    step: usize,
) -> PerAxis<f32> {
    let mut observer = kind.observer(granularity, VALUE_BITS);
    assert!(observer.range().is_none(), "before the first batch");
    for batch in values.axis_chunks_iter(Axis(0), step) {
        observer.update(&batch.to_owned());
    }
    observer.range().unwrap()
}

fn kind(text: &str) -> ObserverKind {
    text.parse().unwrap()
}

fn column(values: &ArrayD<f32>, channel: usize) -> Vec<f32> {
    values
        .index_axis(Axis(1), channel)
        .iter()
        .copied()
        .collect()
}

/// Values of several magnitudes, with zeros, as pixels of three channels.
fn values() -> impl Strategy<Value = ArrayD<f32>> {
    let value = prop_oneof![
        1 => Just(0.0_f32),
        1 => Just(-0.0_f32),
        4 => -1.0..1.0_f32,
        2 => -300.0..300.0_f32,
        1 => -1e-20..1e-20_f32,
        1 => (-30i32..30).prop_map(|e| 2f32.powi_exact(e)),
    ];
    proptest::collection::vec(value, 3..240).prop_map(|mut values| {
        values.truncate(values.len() / 3 * 3);
        ArrayD::from_shape_vec(IxDyn(&[values.len() / 3, 3]), values).unwrap()
    })
}

trait PowiExact {
    fn powi_exact(self, e: i32) -> f32;
}

impl PowiExact for f32 {
    fn powi_exact(self, e: i32) -> f32 {
        let factor = if e < 0 { 1.0 / self } else { self };
        (0..e.unsigned_abs()).fold(1.0, |power, _| power * factor)
    }
}

/// The `k`-th smallest magnitude, where `k` of `n` is the share, rounded up.
fn naive_percentile(values: &[f32], tenths_of_percent: usize) -> f32 {
    let mut magnitudes: Vec<f32> = values.iter().map(|v| v.abs()).collect();
    magnitudes.sort_by(f32::total_cmp);
    let rank = (magnitudes.len() * tenths_of_percent).div_ceil(1000);
    magnitudes[rank - 1]
}

fn naive_max(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |max, v| max.max(v.abs()))
}

/// Squared error of the values in `VALUE_BITS` with the range `2^k`, and by how much a histogram
/// of bins of `width` can miss it.
fn naive_error(values: &[f32], k: i32, width: f64) -> (f64, f64) {
    let largest = (1 << VALUE_BITS) - 1;
    let step = f64::from(2f32.powi_exact(k)) / f64::from(1u32 << VALUE_BITS);
    values.iter().fold((0.0, 0.0), |(error, slack), v| {
        let v = f64::from(v.abs());
        let nearest = ((v / step + 0.5).floor() as i64).min(largest);
        let miss = (v - nearest as f64 * step).abs();
        (error + miss * miss, slack + width * (miss + width))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_maximum_is_that_of_all_values(values in values(), step in 1usize..20) {
        for channel in 0..3 {
            let got = observed(ObserverKind::Max, Granularity::PerAxis, &values, step);
            prop_assert_eq!(got.at(channel).to_bits(), naive_max(&column(&values, channel)).to_bits());
        }
        let got = observed(ObserverKind::Max, Granularity::PerTensor, &values, step);
        let all: Vec<f32> = values.iter().copied().collect();
        prop_assert_eq!(&got, &PerAxis::Tensor(naive_max(&all)));
        if naive_max(&all) >= f32::MIN_POSITIVE {
            prop_assert_eq!(observed(kind("percentile:100"), Granularity::PerTensor, &values, step), got);
        }
    }

    #[test]
    fn percentiles_are_within_one_bin(values in values(), step in 1usize..20, tenths in 1usize..=1000) {
        let kind = kind(&format!("percentile:{}.{}", tenths / 10, tenths % 10));
        let per_axis = observed(kind, Granularity::PerAxis, &values, step);
        let per_tensor = observed(kind, Granularity::PerTensor, &values, step);
        let all: Vec<f32> = values.iter().copied().collect();
        let mut cases = vec![(per_tensor.at(0), all)];
        cases.extend((0..3).map(|c| (per_axis.at(c), column(&values, c))));
        for (got, values) in cases {
            let (exact, max) = (naive_percentile(&values, tenths), naive_max(&values));
            // Subnormal numbers count as zero.
            let exact = if exact < f32::MIN_POSITIVE { 0.0 } else { exact };
            prop_assert!(exact <= got && got <= exact + max / 1024.0, "{} for {} of {}", got, exact, max);
            if tenths == 1000 {
                prop_assert_eq!(got.to_bits(), max.to_bits(), "all of them");
            }
        }
    }

    #[test]
    fn least_squares_are_least(values in values(), step in 1usize..20) {
        let got = observed(kind("mse"), Granularity::PerAxis, &values, step);
        for channel in 0..3 {
            let (got, values) = (got.at(channel), column(&values, channel));
            let max = naive_max(&values);
            if max <= 0.0 {
                prop_assert_eq!(got.to_bits(), 0, "a channel of zeros");
                continue;
            }
            let chosen = (0..40).find(|k| 2f32.powi_exact(*k).to_bits() == got.to_bits());
            let chosen = chosen.expect("a power of two from 1 on");
            prop_assert!(f64::from(got) <= f64::from(max * 4.0).max(1.0), "{} for {}", got, max);
            let width = f64::from(max) / 1024.0;
            let (error, slack) = naive_error(&values, chosen, width);
            for k in 0..12 {
                let (other, other_slack) = naive_error(&values, k, width);
                prop_assert!(error <= other + slack + other_slack, "2^{}: {} 2^{}: {}", chosen, error, k, other);
            }
        }
    }

    /// But for the moving maximum ranges depend on the values only.
    #[test]
    fn batches_and_order_do_not_matter(values in values(), steps in (1usize..20, 1usize..20)) {
        let mut reversed = values.clone();
        reversed.invert_axis(Axis(0));
        for text in ["max", "percentile", "percentile:73.25", "mse"] {
            for granularity in [Granularity::PerTensor, Granularity::PerAxis] {
                let got = observed(kind(text), granularity, &values, steps.0);
                let other = observed(kind(text), granularity, &reversed, steps.1);
                prop_assert_eq!(got, other, "{}", text);
            }
        }
    }
}

#[test]
fn outliers_do_not_decide() {
    // 9999 values up to 1 and one of 1000.
    let wave = |i: usize| ((i * 7919) % 10_000) as f32 / 10_000.0;
    let mut values: Vec<f32> = (0..10_000).map(wave).collect();
    values[77] = 1000.0;
    let values = ArrayD::from_shape_vec(IxDyn(&[10_000, 1]), values).unwrap();
    let range = |text: &str| observed(kind(text), Granularity::PerTensor, &values, 100).at(0);
    assert!((range("max") - 1000.0).abs() < 1e-3, "max");
    assert!(range("percentile:99.99") < 2.0, "all but one value");
    assert!(range("percentile:100") > 999.0, "all values");
    // Here one miss of 1000 costs more than the coarse steps of all others.
    assert!(range("mse") > 999.0, "squared error of the outlier");
}

#[test]
fn squared_errors_trade_clipping_against_steps() {
    // A million values of up to 1, and one of 1.5: with 7 bits the finer step wins.
    let n = 1_000_000;
    let mut values: Vec<f32> = (0..n).map(|i| (i as f32 + 0.5) / n as f32).collect();
    values[5] = 1.5;
    let values = ArrayD::from_shape_vec(IxDyn(&[n, 1]), values).unwrap();
    let got = observed(kind("mse"), Granularity::PerTensor, &values, n);
    assert_eq!(got, PerAxis::Tensor(1.0), "one value is clipped");
}

#[test]
fn observers_are_named() {
    for text in [
        "moving-max",
        "max",
        "percentile:99.99",
        "percentile:50",
        "percentile:0.000001",
        "mse",
    ] {
        assert_eq!(kind(text).to_string(), text, "as it is written");
    }
    assert_eq!(
        kind("percentile").to_string(),
        "percentile:99.99",
        "by default"
    );
    for text in [
        "",
        "min",
        "percentile:",
        "percentile:0",
        "percentile:100.1",
        "percentile:-1",
        "percentile:1e1",
        "percentile:1.1234567",
        "percentile:.5.",
        "percentile:101",
        "mse:3",
    ] {
        let error = text.parse::<ObserverKind>().unwrap_err();
        assert!(error.to_string().contains("use"), "{text}: {error}");
    }
}

/// Calibrates a network that is the identity on samples `[n, 2]`.
fn convergence(
    samples: &[[f32; 2]],
    batch: usize,
    epochs: usize,
    text: &str,
) -> Option<Convergence> {
    let mut b = GraphBuilder::with_seed("net", 1);
    let x = b.input("input", [1, 2]);
    let x = b.rescaling("scale", x, 1.0, 0.0);
    let graph = b.build([x]).unwrap();
    let sites = ObservedSites {
        outputs: vec![ObservedSite {
            layer: "scale".to_owned(),
            granularity: Granularity::PerAxis,
            value_bits: VALUE_BITS,
        }],
        input: None,
        observer: kind(text),
    };
    let flat = samples.iter().flatten().copied().collect();
    let x = ArrayD::from_shape_vec(IxDyn(&[samples.len(), 1, 2]), flat).unwrap();
    let plan = BatchPlan::new(samples.len(), samples.len(), batch, epochs).unwrap();
    let mut source = ArraySource::floats(x);
    calibrate(&graph, &sites, &mut source, &plan, &mut |_| ())
        .unwrap()
        .convergence
}

#[test]
fn the_last_tenth_is_compared_with_what_was_before() {
    let mut samples = vec![[1.0, 4.0]; 40];
    samples[37] = [1.0, 5.0];
    let moved = |n_samples, channel, moved| {
        Some(Convergence {
            n_samples,
            layer: "scale".to_owned(),
            channel,
            moved,
        })
    };
    // 36 samples, then four: the second channel goes from 4 to 5.
    let got = convergence(&samples, 2, 1, "max");
    assert_eq!(got, moved(4, Some(1), 0.2), "the last tenth");
    // Batches of 15: the last tenth is rounded up to the last batch of 10.
    let got = convergence(&samples, 15, 1, "max");
    assert_eq!(got, moved(10, Some(1), 0.2), "whole batches");
    let got = convergence(&samples, 2, 2, "max");
    assert_eq!(
        got,
        moved(8, Some(0), 0.0),
        "in the second epoch nothing is new"
    );
    assert_eq!(convergence(&samples, 40, 1, "max"), None, "a single batch");
    samples[37] = [1.0, 4.0];
    samples[5] = [3.0, 5.0];
    let got = convergence(&samples, 2, 1, "max");
    assert_eq!(got, moved(4, Some(0), 0.0), "an early outlier");
}
