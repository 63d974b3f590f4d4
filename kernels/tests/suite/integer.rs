//! The integer kernels of every instruction set equal sums in `i128`.
use std::fmt::Debug;

use crate::common::{Case, Words, any_case, with_each_isa};
use crate::naive::{self, Geometry, Outside};
use kernels::{
    Accumulator, Activation, Conv2d, ConvTranspose2d, Dense, Depthwise, DepthwiseTranspose,
    MaxPool, Weight, Window,
};
use proptest::prelude::*;

/// Bounds of the values of one test: of the type, or tighter so that no sum leaves the accumulator.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    x: (i128, i128),
    w: (i128, i128),
}

/// Bits of the magnitudes, for signed values: `-2^bits..2^bits`.
fn signed(bits: u32) -> (i128, i128) {
    (-(1 << bits), (1 << bits) - 1)
}

fn sums<A: TryFrom<i128>>(sums: &[i128]) -> Vec<A> {
    sums.iter()
        .map(|&sum| {
            A::try_from(sum)
                .ok()
                .expect("the test's bounds keep sums in the accumulator")
        })
        .collect()
}

trait Element: TryFrom<i128> + Into<i128> {}
impl<T: TryFrom<i128> + Into<i128>> Element for T {}

fn check<X, W, A>(case: &Case, bounds: Bounds)
where
    X: Activation + Element,
    W: Weight + Element,
    A: Accumulator + Element + From<X> + From<W> + PartialEq + Debug,
{
    check_conv::<X, W, A>(case, bounds, false);
    check_conv::<X, W, A>(case, bounds, true);
    check_depthwise::<X, W, A>(case, bounds, false);
    check_depthwise::<X, W, A>(case, bounds, true);
    check_max_pool::<X>(case, bounds);
}

fn step<X: Into<i128>, W: Into<i128>>(acc: i128, x: X, w: W) -> i128 {
    acc + x.into() * w.into()
}

fn check_conv<X, W, A>(case: &Case, bounds: Bounds, is_transposed: bool)
where
    X: Activation + Element,
    W: Weight + Element,
    A: Accumulator + Element + From<X> + From<W> + PartialEq + Debug,
{
    let Case {
        window,
        channels,
        filters,
        ..
    } = *case;
    let mut words = Words(case.seed);
    let x: Vec<X> = words.integers(case.n_inputs(), bounds.x.0, bounds.x.1);
    let kernel: Vec<W> = words.integers(case.n_taps() * channels * filters, bounds.w.0, bounds.w.1);
    let pad = case
        .with_pad
        .then(|| words.integers::<X>(channels, bounds.x.0, bounds.x.1));
    let pad = pad.as_deref();
    let geometry = Geometry {
        window: &window,
        is_transposed,
        channels,
        filters,
    };
    let all = naive::conv(
        &geometry,
        &x,
        &kernel,
        &pad.map_or(Outside::Skip, Outside::Pad),
        0,
        step,
    );
    let expected: Vec<A> = sums(&case.rows_of(&all, filters));
    with_each_isa(|kernels| {
        let mut out = vec![A::from(X::MIN); expected.len()];
        let rows = case.rows.clone();
        if is_transposed {
            let conv = ConvTranspose2d {
                x: &x,
                kernel: &kernel,
                window,
                channels,
                filters,
            };
            kernels.conv2d_transpose_int(&conv, rows, &mut out);
        } else {
            kernels.conv2d_int(
                &Conv2d {
                    x: &x,
                    kernel: &kernel,
                    pad,
                    window,
                    channels,
                    filters,
                },
                rows,
                &mut out,
            );
        }
        assert_eq!(
            out,
            expected,
            "{:?}, transposed {is_transposed}, {case:?}",
            kernels.isa()
        );
    });
}

fn check_depthwise<X, W, A>(case: &Case, bounds: Bounds, is_transposed: bool)
where
    X: Activation + Element,
    W: Weight + Element,
    A: Accumulator + Element + From<X> + From<W> + PartialEq + Debug,
{
    // The wide axis of a case is its filters.
    let case = &Case {
        channels: case.filters,
        ..case.clone()
    };
    let Case {
        window, channels, ..
    } = *case;
    let mut words = Words(case.seed);
    let x: Vec<X> = words.integers(case.n_inputs(), bounds.x.0, bounds.x.1);
    let kernel: Vec<W> = words.integers(case.n_taps() * channels, bounds.w.0, bounds.w.1);
    let pad = case
        .with_pad
        .then(|| words.integers::<X>(channels, bounds.x.0, bounds.x.1));
    let pad = pad.as_deref();
    let geometry = Geometry {
        window: &window,
        is_transposed,
        channels,
        filters: channels,
    };
    let all = naive::depthwise(
        &geometry,
        &x,
        &kernel,
        &pad.map_or(Outside::Skip, Outside::Pad),
        0,
        step,
    );
    let expected: Vec<A> = sums(&case.rows_of(&all, channels));
    with_each_isa(|kernels| {
        let mut out = vec![A::from(X::MIN); expected.len()];
        let rows = case.rows.clone();
        if is_transposed {
            let conv = DepthwiseTranspose {
                x: &x,
                kernel: &kernel,
                window,
                channels,
            };
            kernels.depthwise_transpose_int(&conv, rows, &mut out);
        } else {
            kernels.depthwise_int(
                &Depthwise {
                    x: &x,
                    kernel: &kernel,
                    pad,
                    window,
                    channels,
                },
                rows,
                &mut out,
            );
        }
        assert_eq!(
            out,
            expected,
            "{:?}, transposed {is_transposed}, {case:?}",
            kernels.isa()
        );
    });
}

fn check_max_pool<X: Activation + Element>(case: &Case, bounds: Bounds) {
    let case = &Case {
        channels: case.filters,
        ..case.clone()
    };
    let Case {
        window, channels, ..
    } = *case;
    let x: Vec<X> = Words(case.seed).integers(case.n_inputs(), bounds.x.0, bounds.x.1);
    let expected = case.rows_of(&naive::max_pool(&window, channels, &x, X::MIN), channels);
    with_each_isa(|kernels| {
        let mut out = vec![x[0]; expected.len()];
        kernels.max_pool_int(
            &MaxPool {
                x: &x,
                window,
                channels,
            },
            case.rows.clone(),
            &mut out,
        );
        assert_eq!(out, expected, "{:?}, {case:?}", kernels.isa());
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn i8_by_i8_equals_its_definition(case in any_case()) {
        check::<i8, i8, i32>(&case, Bounds { x: signed(7), w: signed(7) });
    }

    #[test]
    fn u8_by_i8_equals_its_definition(case in any_case()) {
        check::<u8, i8, i32>(&case, Bounds { x: (0, 255), w: signed(7) });
    }

    #[test]
    fn u8_by_i16_equals_its_definition(case in any_case()) {
        check::<u8, i16, i64>(&case, Bounds { x: (0, 255), w: signed(15) });
    }

    #[test]
    fn i16_by_i8_equals_its_definition(case in any_case()) {
        check::<i16, i8, i32>(&case, Bounds { x: signed(15), w: signed(7) });
    }

    #[test]
    fn i16_by_i16_equals_its_definition(case in any_case()) {
        check::<i16, i16, i64>(&case, Bounds { x: signed(15), w: signed(15) });
    }

    #[test]
    fn i32_by_i8_in_i32_equals_its_definition(case in any_case()) {
        check::<i32, i8, i32>(&case, Bounds { x: signed(15), w: signed(7) });
    }

    #[test]
    fn i32_by_i8_equals_its_definition(case in any_case()) {
        check::<i32, i8, i64>(&case, Bounds { x: signed(31), w: signed(7) });
    }

    #[test]
    fn i32_by_i32_equals_its_definition(case in any_case()) {
        check::<i32, i32, i64>(&case, Bounds { x: signed(31), w: signed(22) });
    }

    #[test]
    fn i64_by_i32_equals_its_definition(case in any_case()) {
        check::<i64, i32, i64>(&case, Bounds { x: signed(22), w: signed(31) });
    }
}

fn check_extreme_sum<X, W, A>(x: X, w: W, channels: usize, expected: A)
where
    X: Activation,
    W: Weight,
    A: Accumulator + From<X> + From<W> + PartialEq,
{
    for filters in [1, 9, 17, 65] {
        let (x, kernel) = (vec![x; channels], vec![w; channels * filters]);
        with_each_isa(|kernels| {
            let mut out = vec![A::ZERO; filters];
            kernels.dense_int(
                &Dense {
                    x: &x,
                    kernel: &kernel,
                    channels,
                    filters,
                },
                &mut out,
            );
            assert!(
                out.iter().all(|&sum| sum == expected),
                "{:?}: {out:?}, not {expected:?}",
                kernels.isa()
            );
        });
    }
}

/// Sums that come as close to the accumulator's ends as the operands allow.
#[test]
fn extreme_sums_are_exact() {
    check_extreme_sum::<i8, i8, i32>(-128, -128, 131_071, 2_147_467_264);
    check_extreme_sum::<i8, i8, i32>(-128, 127, 132_104, -2_147_482_624);
    check_extreme_sum::<u8, i8, i32>(255, -128, 65_793, -2_147_483_520);
    check_extreme_sum::<i16, i8, i32>(-32_768, -128, 511, 2_143_289_344);
    check_extreme_sum::<i16, i16, i32>(-32_768, -32_768, 1, 1_073_741_824);
    check_extreme_sum::<i32, i8, i32>(16_777_215, -128, 1, -2_147_483_520);
    check_extreme_sum::<i16, i16, i64>(-32_768, -32_768, 70_000, 75_161_927_680_000);
    check_extreme_sum::<i32, i32, i64>(i32::MIN, i32::MIN, 1, 1 << 62);
    check_extreme_sum::<i32, i32, i64>(i32::MIN, i32::MAX, 2, -9_223_372_032_559_808_512);
    check_extreme_sum::<i64, i8, i64>(i64::MAX, -1, 1, -i64::MAX);
}

/// A pool may lie wholly in the padding.
#[test]
fn an_empty_pool_gives_the_least_value() {
    let window = Window {
        out_w: 2,
        stride_w: 3,
        ..Window::pointwise(1, 1)
    };
    with_each_isa(|kernels| {
        let mut out = [0_i8; 2];
        kernels.max_pool_int(
            &MaxPool {
                x: &[-5],
                window,
                channels: 1,
            },
            0..1,
            &mut out,
        );
        assert_eq!(out, [-5, -128], "{:?}", kernels.isa());
    });
}
