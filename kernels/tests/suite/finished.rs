//! Sums that become results in one pass equal the formula of every step, on every instruction set.
use kernels::{
    Byte, Extremes, Finish, Isa, Kernels, Lane, Limit, Packable, Packed, PackedConv,
    PackedDepthwise, PackedDepthwiseConv, PairedDepthwise, Steps, Window,
};
use proptest::prelude::*;

use crate::common::{Case, Words, any_case, with_each_isa, with_each_packing};
use crate::naive::{self, Geometry, Outside};

/// Numbers of one channel: bias, top of a rectifier, scale, shift to the right.
#[derive(Clone, Copy, Debug)]
struct Channel {
    bias: i64,
    top: i64,
    scale: i64,
    right: u32,
}

/// The steps of a layer; edges are common.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    channels: Vec<Channel>,
    rectifies: bool,
    /// Whether results are scaled and shifted.
    shifts: bool,
    limit: Limit,
}

impl Layer {
    pub(crate) fn new(words: &mut Words, n: usize, rectifies: bool, bits: u32) -> Self {
        let channels = (0..n).map(|_| {
            let word = words.next_word();
            let right = [0, 8, 9, 12, 17, 23, 30, 40][(word % 8) as usize];
            let scale = ((word >> 8) % 256) as i64;
            // Scales so large that a product would leave 32 bits if its sum were not clipped first.
            let scale = if right == 17 && word >> 60 == 0 {
                scale << 9
            } else {
                scale
            };
            Channel {
                bias: ((word >> 16) % 20_001) as i64 - 10_000,
                top: [0, 1, 700, 90_000, i64::MAX][((word >> 40) % 5) as usize],
                scale: if right == 0 { scale.min(1) } else { scale },
                right,
            }
        });
        Self {
            channels: channels.collect(),
            rectifies,
            shifts: true,
            limit: Limit {
                lo: -(1 << bits),
                hi: (1 << bits) - 1,
            },
        }
    }

    /// Returns a layer whose results are its sums with bias, if it has a rectifier those up to `top`.
    fn unshifted(mut self, top: i64) -> Self {
        for channel in &mut self.channels {
            (channel.scale, channel.right) = (1, 0);
            channel.top = channel.top.min(top);
        }
        self.shifts = false;
        self.limit = Limit {
            lo: i32::MIN.into(),
            hi: i32::MAX.into(),
        };
        self
    }

    pub(crate) fn steps(&self) -> Steps {
        let each = |f: fn(&Channel) -> i64| self.channels.iter().map(f).collect();
        let wide = Limit {
            lo: i64::MIN >> 1,
            hi: i64::MAX >> 1,
        };
        Steps {
            sum: Some(wide),
            bias: Some((each(|c| c.bias), wide)),
            rectify: self.rectifies.then(|| each(|c| c.top)),
            scale: self.shifts.then(|| (each(|c| c.scale), wide)),
            shift: self.shifts.then(|| {
                let shifts = self.channels.iter().map(|c| -(c.right as i32));
                (shifts.collect(), self.limit)
            }),
        }
    }

    /// Returns the results of sums `[pixels, channels]`, and what the sums were.
    fn expected(&self, sums: &[i128]) -> (Vec<i128>, Extremes) {
        let n = self.channels.len();
        let mut extremes = Extremes {
            least: vec![i32::MAX; n],
            most: vec![i32::MIN; n],
            clipped: 0,
        };
        let results = sums.iter().enumerate().map(|(i, sum)| {
            let (at, channel) = (i.rem_euclid(n), self.channels[i.rem_euclid(n)]);
            let v = sum + i128::from(channel.bias);
            extremes.least[at] = extremes.least[at].min(v as i32);
            extremes.most[at] = extremes.most[at].max(v as i32);
            let v = if self.rectifies {
                v.clamp(0, channel.top.into())
            } else {
                v
            };
            let divisor = 1_i128 << channel.right;
            let v = (2 * v * i128::from(channel.scale) + divisor).div_euclid(2 * divisor);
            let (lo, hi) = (i128::from(self.limit.lo), i128::from(self.limit.hi));
            extremes.clipped += u64::from(v < lo || v > hi);
            v.clamp(lo, hi)
        });
        (results.collect(), extremes)
    }
}

/// Checks what the steps came to: largest magnitudes, clips, and the ends of the results.
fn assert_summary(layer: &Layer, finish: &Finish, sums: &[i128], extremes: &Extremes) {
    let n = layer.channels.len();
    if sums.is_empty() {
        return;
    }
    let results = layer.expected(sums).0;
    let ends = |is_least: bool| -> Vec<i32> {
        let end = |c: usize| {
            let channel = results.iter().skip(c).step_by(n).map(|v| *v as i32);
            let end = if is_least {
                channel.min()
            } else {
                channel.max()
            };
            end.unwrap_or_default()
        };
        (0..n).map(end).collect()
    };
    let mut largest = [0_i128; 4];
    for (i, sum) in sums.iter().enumerate() {
        let channel = layer.channels[i.rem_euclid(n)];
        let v = sum + i128::from(channel.bias);
        let rectified = if layer.rectifies {
            v.clamp(0, channel.top.into())
        } else {
            v
        };
        let product = rectified * i128::from(channel.scale);
        let divisor = 1_i128 << channel.right;
        let shifted = (2 * product + divisor).div_euclid(2 * divisor);
        for (largest, v) in largest.iter_mut().zip([*sum, v, product, shifted]) {
            *largest = (*largest).max(v.abs());
        }
    }
    with_each_isa(|kernels| {
        let summary = kernels.summarize(finish, extremes);
        let summary = summary.expect("no step before the last clips");
        let counts = &summary.counts;
        let steps = [counts.sum, counts.bias, counts.scale, counts.shift];
        assert_eq!(
            steps.map(|step| i128::from(step.max_abs)),
            largest,
            "{layer:?}"
        );
        assert_eq!(
            steps.map(|step| step.n),
            [0, 0, 0, extremes.clipped],
            "only the last step clips"
        );
        assert_eq!(summary.least, ends(true), "{layer:?}");
        assert_eq!(summary.most, ends(false), "{layer:?}");
    });
}

/// Checks the results of one way to compute them.
pub(crate) fn assert_finished<O: Byte + Into<i128>>(
    layer: &Layer,
    finish: &Finish,
    sums: &[i128],
    run: impl Fn(&mut [O], &mut Extremes),
) {
    let (expected, want) = layer.expected(sums);
    let mut out = vec![O::low_byte(77); sums.len()];
    let mut extremes = Extremes::new(finish);
    run(&mut out, &mut extremes);
    let out: Vec<i128> = out.into_iter().map(Into::into).collect();
    assert_eq!(out, expected, "{layer:?}");
    let n = layer.channels.len();
    assert_eq!(extremes.least[..n], want.least, "{layer:?}");
    assert_eq!(extremes.most[..n], want.most, "{layer:?}");
    assert_eq!(extremes.clipped, want.clipped, "{layer:?}");
    assert_summary(layer, finish, sums, &extremes);
}

#[test]
fn sums_that_an_early_step_clips_have_no_summary() {
    let inside = Limit { lo: -100, hi: 100 };
    let wide = Limit {
        lo: -(1 << 40),
        hi: 1 << 40,
    };
    let steps = Steps {
        sum: Some(inside),
        scale: Some((vec![3], wide)),
        shift: Some((vec![-4], Limit { lo: -128, hi: 127 })),
        ..Steps::default()
    };
    let finish = Finish::new(&steps, 1, 1 << 10).expect("the steps fit in 32 bits");
    with_each_isa(|kernels| {
        for (sums, is_safe) in [([-100, 100], true), ([-101, 0], false), ([0, 101], false)] {
            let (mut out, mut extremes) = ([0_i8; 2], Extremes::new(&finish));
            kernels.finish(&finish, &sums, &mut out, &mut extremes);
            let summary = kernels.summarize(&finish, &extremes);
            assert_eq!(summary.is_some(), is_safe, "{sums:?}");
        }
    });
}

#[test]
fn sums_that_the_last_range_of_unshifted_steps_clips_have_no_summary() {
    let wide = Limit {
        lo: -(1 << 40),
        hi: 1 << 40,
    };
    let inside = Limit { lo: -100, hi: 100 };
    let steps = Steps {
        sum: Some(wide),
        bias: Some((vec![7], inside)),
        rectify: Some(vec![50]),
        ..Steps::default()
    };
    let finish = Finish::new(&steps, 1, 1 << 10).expect("the steps fit in 32 bits");
    with_each_isa(|kernels| {
        for (sums, is_safe) in [([-107, 93], true), ([-108, 0], false), ([0, 94], false)] {
            let mut extremes = Extremes::new(&finish);
            kernels.finish_in_place(&finish, &mut sums.clone(), &mut extremes);
            let summary = kernels.summarize(&finish, &extremes);
            assert_eq!(summary.is_some(), is_safe, "{sums:?}");
        }
    });
    let scaled = Steps {
        scale: Some((vec![3], wide)),
        ..steps
    };
    assert!(
        Finish::new(&scaled, 1, 1 << 10).is_none(),
        "scaled, but not shifted"
    );
}

fn check<X, L, O>(case: &Case, bounds: (i128, i128), rectifies: bool, bits: u32)
where
    X: Packable<L> + Into<i128> + TryFrom<i128>,
    L: Lane + TryFrom<i128> + Into<i128>,
    O: Byte + Into<i128>,
{
    let mut words = Words(case.seed);
    let Case {
        window,
        channels,
        filters,
        ..
    } = *case;
    let x: Vec<X> = words.integers(case.n_inputs(), bounds.0, bounds.1);
    let pad = case
        .with_pad
        .then(|| words.integers::<X>(channels, bounds.0, bounds.1));
    let kernel: Vec<L> = words.integers(case.n_taps() * channels * filters, -128, 127);
    let geometry = Geometry {
        window: &window,
        is_transposed: false,
        channels,
        filters,
    };
    let outside = pad.as_deref().map_or(Outside::Skip, Outside::Pad);
    let step = |acc, x: X, w: L| acc + x.into() * Into::<i128>::into(w);
    let sums = naive::conv(&geometry, &x, &kernel, &outside, 0_i128, step);
    let sums = case.rows_of(&sums, filters);
    let narrow: Vec<i32> = sums.iter().map(|v| *v as i32).collect();
    let finishes = finishes::<O>(&mut words, &sums, filters, (rectifies, bits));
    for (layer, finish) in &finishes {
        with_each_isa(|kernels| {
            assert_finished::<O>(layer, finish, &sums, |out, extremes| {
                kernels.finish(finish, &narrow, out, extremes);
            });
        });
    }
    let wide = unshifted(Layer::new(&mut words, filters, rectifies, bits), &sums);
    let n_rows = case.n_taps() * channels;
    let packed = [
        Packed::new(&kernel, n_rows, filters),
        Packed::by_rows(&kernel, (window.kernel_h, n_rows), filters),
    ];
    with_each_packing::<L>(|kernels| {
        for packed in &packed {
            let conv = PackedConv {
                x: &x,
                kernel: packed,
                pad: pad.as_deref(),
                window,
                channels,
            };
            for (layer, finish) in &finishes {
                assert_finished::<O>(layer, finish, &sums, |out, extremes| {
                    kernels.conv2d_finished(&conv, case.rows.clone(), (finish, out, extremes));
                });
            }
            for (layer, finish) in finishes.iter().chain([&wide]) {
                assert_words(layer, finish, &sums, |out, extremes| {
                    // Not the sums: each result is written.
                    out.fill(77);
                    let to = (finish, out, extremes);
                    kernels.conv2d_finished_words(&conv, case.rows.clone(), to);
                });
            }
        }
    });
}

/// Returns a layer without a shift whose results are those sums, or some of them, and its steps.
pub(crate) fn unshifted(layer: Layer, sums: &[i128]) -> (Layer, Finish) {
    let layer = layer.unshifted(i64::MAX);
    let largest = sums.iter().map(|v| v.unsigned_abs() as u64).max();
    let finish = Finish::new(&layer.steps(), layer.channels.len(), largest.unwrap_or(0));
    let finish = finish.expect("sums that fit in 32 bits");
    (layer, finish)
}

/// Returns layers for these sums whose results are bytes: one that shifts, if its steps fit in 32 bits, and if it
/// rectifies one that does not.
fn finishes<O: Byte>(
    words: &mut Words,
    sums: &[i128],
    n: usize,
    (rectifies, bits): (bool, u32),
) -> Vec<(Layer, Finish)> {
    let largest = sums.iter().map(|v| v.unsigned_abs() as u64).max();
    let layer = Layer::new(words, n, rectifies, bits);
    let top = if O::IS_SIGNED { 127 } else { 255 };
    let unshifted = rectifies.then(|| layer.clone().unshifted(top));
    let layers = std::iter::once(layer).chain(unshifted);
    let finish = |layer: Layer| {
        let finish = Finish::new(&layer.steps(), n, largest.unwrap_or(0));
        assert!(
            layer.shifts || finish.is_some(),
            "{layer:?} fits in 32 bits"
        );
        Some((layer, finish?))
    };
    layers.filter_map(finish).collect()
}

/// Checks results that stay in an `i32`, and what the sums were.
pub(crate) fn assert_words(
    layer: &Layer,
    finish: &Finish,
    sums: &[i128],
    run: impl Fn(&mut [i32], &mut Extremes),
) {
    let (expected, want) = layer.expected(sums);
    let n = layer.channels.len();
    let mut values: Vec<i32> = sums.iter().map(|v| *v as i32).collect();
    let mut extremes = Extremes::new(finish);
    run(&mut values, &mut extremes);
    let values: Vec<i128> = values.into_iter().map(Into::into).collect();
    assert_eq!(values, expected, "{layer:?}");
    assert_eq!(extremes.least[..n], want.least, "{layer:?}");
    assert_eq!(extremes.most[..n], want.most, "{layer:?}");
    if layer.shifts {
        assert_eq!(extremes.clipped, want.clipped, "{layer:?}");
    }
    assert_summary(layer, finish, sums, &extremes);
}

/// Checks results that take the places of their sums, and what the sums were.
fn assert_finished_in_place(layer: &Layer, finish: &Finish, sums: &[i128]) {
    with_each_isa(|kernels| {
        assert_words(layer, finish, sums, |values, extremes| {
            kernels.finish_in_place(finish, values, extremes);
        });
    });
}

/// The bounds of activations and of weights.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    x: (i128, i128),
    weights: (i128, i128),
}

fn check_depthwise<X, O>(case: &Case, bounds: Bounds, rectifies: bool, bits: u32)
where
    X: Packable<i8> + Into<i128> + TryFrom<i128>,
    O: Byte + Into<i128>,
{
    let mut words = Words(case.seed);
    // The case's filters have the lengths around the vectors' sixteen channels.
    let (window, channels) = (case.window, case.filters);
    let n_inputs = window.in_h * window.in_w * channels;
    let x: Vec<X> = words.integers(n_inputs, bounds.x.0, bounds.x.1);
    let (least, most) = bounds.weights;
    let kernel: Vec<i8> = words.integers(case.n_taps() * channels, least, most);
    let geometry = Geometry {
        window: &window,
        is_transposed: false,
        channels,
        filters: channels,
    };
    let step = |acc, x: X, w: i8| acc + x.into() * i128::from(w);
    let sums = naive::depthwise(&geometry, &x, &kernel, &Outside::Skip, 0_i128, step);
    let sums = case.rows_of(&sums, channels);
    let finishes = finishes::<O>(&mut words, &sums, channels, (rectifies, bits));
    let extents = [window.kernel_h, window.kernel_w, channels];
    let packed = PackedDepthwise::new(&kernel, extents);
    for kernels in Kernels::available().filter(|kernels| kernels.packs_depthwise()) {
        let conv = PackedDepthwiseConv {
            x: &x,
            kernel: &packed,
            window,
        };
        for (layer, finish) in &finishes {
            assert_finished::<O>(layer, finish, &sums, |out, extremes| {
                kernels.depthwise_finished(&conv, case.rows.clone(), (finish, out, extremes));
            });
            assert_doubled::<X, O>(kernels, &conv, case, finish);
        }
    }
    // The least value of `i8` counts as zero.
    let offset = if X::OFFSET == 0 { 0 } else { 128 };
    for most in [bounds.x.1.max(0) + offset, 255] {
        let paired = PairedDepthwise::new(&kernel, extents, most as u8);
        assert_eq!(paired.is_some(), channels >= 16, "enough channels");
        let Some(paired) = paired else { return };
        with_each_pairing(|kernels| {
            let conv = PackedDepthwiseConv {
                x: &x,
                kernel: &paired,
                window,
            };
            for (layer, finish) in &finishes {
                assert_finished::<O>(layer, finish, &sums, |out, extremes| {
                    kernels.depthwise_paired(&conv, case.rows.clone(), (finish, out, extremes));
                });
            }
        });
    }
}

/// Checks that every third channel is twice as large where the kernel doubles it, and nothing else changes.
fn assert_doubled<X: Packable<i8>, O: Byte>(
    kernels: Kernels,
    conv: &PackedDepthwiseConv<'_, X>,
    case: &Case,
    finish: &Finish,
) {
    let doubled: Vec<usize> = (1..case.filters).step_by(3).collect();
    let results = |kernel: &PackedDepthwise| {
        let conv = PackedDepthwiseConv { kernel, ..*conv };
        let n = case.rows.len() * case.window.out_w * case.filters;
        let (mut out, mut extremes) = (vec![O::low_bits(1); n], Extremes::new(finish));
        kernels.depthwise_finished(&conv, case.rows.clone(), (finish, &mut out, &mut extremes));
        (out, extremes)
    };
    let (mut expected, want) = results(conv.kernel);
    for (i, v) in expected.iter_mut().enumerate() {
        if doubled.contains(&i.rem_euclid(case.filters)) {
            let (lo, hi) = if O::IS_SIGNED { (-128, 127) } else { (0, 255) };
            *v = O::low_bits((2 * v.wide()).clamp(lo, hi));
        }
    }
    let (out, extremes) = results(&conv.kernel.clone().doubling(&doubled));
    assert_eq!(out, expected, "channels {doubled:?} doubled");
    assert_eq!(extremes, want, "the sums do not change");
}

/// Runs `check` with the kernels of every instruction set of this CPU that pairs depthwise weights, and asserts that
/// none was left out.
fn with_each_pairing(mut check: impl FnMut(Kernels)) {
    let mut checked = Vec::new();
    for kernels in Kernels::available().filter(|kernels| kernels.pairs_depthwise()) {
        check(kernels);
        checked.push(kernels.isa());
    }
    let expected: Vec<Isa> = Isa::available()
        .filter(|isa| *isa != Isa::Portable)
        .collect();
    assert_eq!(checked, expected, "instruction sets that pair weights");
}

/// Windows of the kernel that has a way of its own, plain ones and any.
fn any_3x3() -> impl Strategy<Value = Case> {
    (any_case(), 1_usize..=2, any::<bool>()).prop_map(|(case, stride, is_plain)| {
        let mut window = Window {
            kernel_h: 3,
            kernel_w: 3,
            ..case.window
        };
        if is_plain {
            (window.stride_h, window.stride_w) = (stride, stride);
            (window.dilation_h, window.dilation_w) = (1, 1);
        }
        Case { window, ..case }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn finished_sums_equal_their_steps(case in any_case(), bits in 1..8_u32) {
        check::<u8, i8, u8>(&case, (0, 255), true, bits);
        check::<i8, i8, u8>(&case, (-128, 127), true, 8);
        check::<u8, i8, i8>(&case, (0, 255), false, bits);
        check::<i8, i8, i8>(&case, (-128, 127), false, bits);
        check::<u8, i16, u8>(&case, (0, 255), true, bits);
        check::<i8, i16, i8>(&case, (-128, 127), false, bits);
        check::<i16, i16, u8>(&case, (-4000, 4000), true, 8);
    }

    #[test]
    fn sums_finished_in_place_equal_their_steps(
        n in prop_oneof![1..20_usize, 60..140_usize],
        n_pixels in 0..6_usize,
        seed in any::<u64>(),
        reach in 3..21_u32,
        (rectifies, bits) in (any::<bool>(), 1..25_u32),
    ) {
        let mut words = Words(seed);
        let largest = 1_i128 << reach;
        let sums: Vec<i64> = words.integers(n * n_pixels, -largest, largest);
        let sums: Vec<i128> = sums.into_iter().map(i128::from).collect();
        let layer = Layer::new(&mut words, n, rectifies, bits);
        if let Some(finish) = Finish::new(&layer.steps(), n, 1 << reach) {
            assert_finished_in_place(&layer, &finish, &sums);
        }
        let layer = layer.unshifted(i64::MAX);
        let finish = Finish::new(&layer.steps(), n, 1 << reach).expect("sums of 32 bits");
        assert_finished_in_place(&layer, &finish, &sums);
    }

    #[test]
    fn finished_depthwise_sums_equal_their_steps(case in any_case(), bits in 1..8_u32) {
        check_any_depthwise(&case, (-128, 127), bits);
    }

    #[test]
    fn finished_depthwise_sums_of_3x3_equal_their_steps(
        case in any_3x3(),
        bits in 1..8_u32,
        weights in prop_oneof![
            Just((-128, 127)), Just((-128, -128)), Just((127, 127)), Just((-70, 70)), Just((-8, 7)),
        ],
    ) {
        check_any_depthwise(&case, weights, bits);
    }
}

/// At the least result a product leaves an `i32`, and comes back with the half that rounds.
#[test]
fn products_that_wrap_around_come_back() {
    let layer = Layer {
        channels: vec![
            Channel {
                bias: 0,
                top: i64::MAX,
                scale: 249 << 9,
                right: 17,
            };
            9
        ],
        rectifies: false,
        shifts: true,
        limit: Limit {
            lo: -(1 << 14),
            hi: (1 << 14) - 1,
        },
    };
    let finish = Finish::new(&layer.steps(), 9, 1 << 16).expect("sums with halves fit");
    let sums: Vec<i128> = (-16_850..-16_841).chain(16_840..16_849).collect();
    assert!(sums.contains(&-16_845) && -16_845_i64 * (249 << 9) < i32::MIN.into());
    assert_finished_in_place(&layer, &finish, &sums);
}

fn check_any_depthwise(case: &Case, weights: (i128, i128), bits: u32) {
    let bounds = |x: (i128, i128)| Bounds { x, weights };
    check_depthwise::<u8, u8>(case, bounds((0, 255)), true, bits);
    check_depthwise::<u8, u8>(case, bounds((0, 127)), true, bits);
    check_depthwise::<u8, u8>(case, bounds((127, 127)), true, 8);
    check_depthwise::<i8, u8>(case, bounds((-128, 127)), true, 8);
    check_depthwise::<i8, u8>(case, bounds((-128, -128)), true, 8);
    check_depthwise::<u8, i8>(case, bounds((0, 255)), false, bits);
    check_depthwise::<u8, i8>(case, bounds((0, 127)), false, bits);
    check_depthwise::<i8, i8>(case, bounds((-128, 127)), false, bits);
    check_depthwise::<i8, i8>(case, bounds((-8, 7)), false, bits);
}

#[test]
fn activations_above_those_that_weights_were_paired_for_are_refused() {
    let kernel = [1_i8; 9 * 16];
    let paired = PairedDepthwise::new(&kernel, [3, 3, 16], 127).expect("enough channels");
    let steps = Steps {
        shift: Some((vec![-4; 16], Limit { lo: -128, hi: 127 })),
        ..Steps::default()
    };
    let finish = Finish::new(&steps, 16, 9 * 255).expect("the steps fit in 32 bits");
    let window = Window {
        out_h: 2,
        out_w: 2,
        kernel_h: 3,
        kernel_w: 3,
        ..Window::pointwise(4, 4)
    };
    with_each_pairing(|kernels| {
        for at in [0, 100, 4 * 4 * 16 - 1] {
            let mut x = [127_u8; 4 * 4 * 16];
            x[at] = 128;
            let conv = PackedDepthwiseConv {
                x: &x,
                kernel: &paired,
                window,
            };
            let run = || {
                let (mut out, mut extremes) = ([0_i8; 2 * 2 * 16], Extremes::new(&finish));
                kernels.depthwise_paired(&conv, 0..2, (&finish, &mut out, &mut extremes));
            };
            assert!(std::panic::catch_unwind(run).is_err(), "activation {at}");
        }
    });
}

#[test]
fn steps_that_leave_32_bits_or_jump_over_an_end_are_refused() {
    let limit = Limit { lo: -128, hi: 127 };
    let steps = |scale: i64, right: i32| Steps {
        scale: Some((
            vec![scale],
            Limit {
                lo: -(1 << 40),
                hi: 1 << 40,
            },
        )),
        shift: Some((vec![-right], limit)),
        ..Steps::default()
    };
    assert!(Finish::new(&steps(200, 8), 1, 1 << 20).is_some());
    assert!(
        Finish::new(&steps(200, 30), 1, 1 << 30).is_none(),
        "a product of 38 bits"
    );
    assert!(
        Finish::new(&steps(200, 7), 1, 1 << 20).is_none(),
        "a step of more than one"
    );
    assert!(
        Finish::new(&steps(200, -1), 1, 1 << 20).is_none(),
        "a shift to the left"
    );
}
