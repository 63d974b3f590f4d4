//! Packed bytes equal sums in `i128`, and narrowing equals its formula, on every instruction set.
use kernels::{Clipped, Lane, Limit, Narrowing, Packable, Packed, PackedConv, Steps};
use proptest::prelude::*;

use crate::common::{Case, Words, any_case, with_each_isa, with_each_packing};
use crate::naive::{self, Geometry, Outside};

fn check<X, L>(case: &Case, bounds: (i128, i128), weights: (i128, i128))
where
    X: Packable<L> + TryFrom<i128> + Into<i128>,
    L: Lane + TryFrom<i128> + Into<i128>,
{
    let Case {
        window,
        channels,
        filters,
        ..
    } = *case;
    let mut words = Words(case.seed);
    let x: Vec<X> = words.integers(case.n_inputs(), bounds.0, bounds.1);
    let kernel: Vec<L> = words.integers(case.n_taps() * channels * filters, weights.0, weights.1);
    let pad = case
        .with_pad
        .then(|| words.integers::<X>(channels, bounds.0, bounds.1));
    let geometry = Geometry {
        window: &window,
        is_transposed: false,
        channels,
        filters,
    };
    let outside = pad.as_deref().map_or(Outside::Skip, Outside::Pad);
    let all = naive::conv(&geometry, &x, &kernel, &outside, 0_i128, |acc, x, w: L| {
        acc + x.into() * Into::<i128>::into(w)
    });
    let expected: Vec<i128> = case.rows_of(&all, filters);
    let n_rows = case.n_taps() * channels;
    let packed = [
        Packed::new(&kernel, n_rows, filters),
        Packed::by_rows(&kernel, (window.kernel_h, n_rows), filters),
    ];
    with_each_packing::<L>(|kernels| {
        for packed in &packed {
            let mut out = vec![i32::MAX; expected.len()];
            let conv = PackedConv {
                x: &x,
                kernel: packed,
                pad: pad.as_deref(),
                window,
                channels,
            };
            kernels.conv2d_packed(&conv, case.rows.clone(), &mut out);
            let out: Vec<i128> = out.into_iter().map(i128::from).collect();
            assert_eq!(out, expected, "{case:?}");
        }
    });
}

/// Rows that count 2^shift times; the shifts are those of channels, as where inputs are aligned, sorted or not.
fn check_shifted<X, L>(case: &Case, bounds: (i128, i128), sorted: bool)
where
    X: Packable<L> + TryFrom<i128> + Into<i128>,
    L: Lane + TryFrom<i128> + Into<i32>,
{
    let Case {
        window,
        channels,
        filters,
        ..
    } = *case;
    let mut words = Words(case.seed);
    let x: Vec<X> = words.integers(case.n_inputs(), bounds.0, bounds.1);
    let kernel: Vec<L> = words.integers(case.n_taps() * channels * filters, -128, 127);
    let mut shifts: Vec<u32> = (0..channels)
        .map(|_| (words.next_word() % 4) as u32)
        .collect();
    if sorted {
        shifts.sort_unstable();
    }
    let shifts: Vec<u32> = (0..case.n_taps()).flat_map(|_| shifts.clone()).collect();
    let aligned: Vec<i32> = kernel
        .iter()
        .enumerate()
        .map(|(i, w)| Into::<i32>::into(*w) << shifts[i.div_euclid(filters)])
        .collect();
    let geometry = Geometry {
        window: &window,
        is_transposed: false,
        channels,
        filters,
    };
    let step = |acc, x: X, w: i32| acc + x.into() * i128::from(w);
    let all = naive::conv(&geometry, &x, &aligned, &Outside::Skip, 0_i128, step);
    let expected: Vec<i128> = case.rows_of(&all, filters);
    let packed = Packed::shifted(&kernel, &shifts, filters);
    assert!(
        packed.n_lanes() >= shifts.len().div_ceil(4),
        "all rows have a lane"
    );
    with_each_packing::<L>(|kernels| {
        let mut out = vec![i32::MAX; expected.len()];
        let conv = PackedConv {
            x: &x,
            kernel: &packed,
            pad: None,
            window,
            channels,
        };
        kernels.conv2d_packed(&conv, case.rows.clone(), &mut out);
        let out: Vec<i128> = out.into_iter().map(i128::from).collect();
        assert_eq!(out, expected, "{case:?}, {shifts:?}");
    });
}

#[test]
fn rows_of_one_shift_share_their_lanes() {
    let kernel = [1_i8; 12];
    let lanes = |shifts: &[u32]| Packed::shifted(&kernel[..shifts.len()], shifts, 1).n_lanes();
    assert_eq!(lanes(&[0; 12]), 3, "whole groups");
    assert_eq!(lanes(&[5; 12]), 3, "one shift of all");
    assert_eq!(
        lanes(&[1, 1, 1, 1, 1, 0, 0, 0, 0]),
        4,
        "a group of two shifts"
    );
    assert_eq!(
        lanes(&[2, 1, 0, 1, 2]),
        4,
        "a group of three and one of one"
    );
}

/// Numbers of one channel: bias, top, scale, shift.
type Channel = (i64, Option<u8>, u16, i32);

/// One narrowed value by its formula, with what was clipped at the four steps.
fn narrowed(v: i64, channel: Channel, limits: [Limit; 4], counts: &mut [Clipped; 4]) -> i64 {
    let (bias, top, scale, shift) = channel;
    let mut clip = |step: usize, v: i128| {
        let (lo, hi) = (i128::from(limits[step].lo), i128::from(limits[step].hi));
        counts[step].n += u64::from(v < lo || v > hi);
        let magnitude = u64::try_from(v.unsigned_abs()).unwrap_or(u64::MAX);
        counts[step].max_abs = counts[step].max_abs.max(magnitude);
        v.clamp(lo, hi)
    };
    let v = clip(0, v.into());
    let v = clip(1, v + i128::from(bias)).max(0);
    let v = v.min(top.map_or(i128::MAX, i128::from));
    let v = clip(2, v * i128::from(scale));
    let divisor = 1_i128 << shift.min(0).unsigned_abs();
    let moved = (v << shift.max(0)) * 2 + divisor;
    i64::try_from(clip(3, moved.div_euclid(2 * divisor))).expect("a limit of 64 bits")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn shifted_rows_equal_their_definition(case in any_case(), sorted in any::<bool>()) {
        check_shifted::<u8, i8>(&case, (0, 255), sorted);
        check_shifted::<i8, i8>(&case, (-128, 127), sorted);
        check_shifted::<u8, i16>(&case, (0, 255), sorted);
        check_shifted::<i16, i16>(&case, (-4000, 4000), sorted);
    }

    #[test]
    fn unsigned_bytes_equal_their_definition(case in any_case()) {
        check::<u8, i8>(&case, (0, 255), (-128, 127));
        check::<u8, i16>(&case, (0, 255), (-4000, 4000));
    }

    #[test]
    fn signed_bytes_equal_their_definition(case in any_case()) {
        check::<i8, i8>(&case, (-128, 127), (-128, 127));
        check::<i8, i16>(&case, (-128, 127), (-4000, 4000));
    }

    #[test]
    fn words_equal_their_definition(case in any_case()) {
        check::<i16, i16>(&case, (-4000, 4000), (-128, 127));
        check::<i16, i16>(&case, (-127, 127), (-32768, 32767));
    }

    #[test]
    fn narrowing_equals_its_formula(
        channels in proptest::collection::vec(
            (-70_000..70_000_i64, proptest::option::of(any::<u8>()), 1..=u16::MAX, -40..8_i32), 1..70),
        n_pixels in 0..20_usize,
        seed in any::<u64>(),
        bits in [17..32_u32, 17..32_u32, 20..33_u32, 2..9_u32],
    ) {
        let limits = bits.map(|bits| Limit { lo: -(1 << bits), hi: (1 << bits) - 1 });
        let n = channels.len();
        let values: Vec<i32> = Words(seed).integers(n * n_pixels, i32::MIN.into(), i32::MAX.into());
        let top = |c: &Channel| c.1.map_or(i64::MAX, i64::from);
        let steps = Steps {
            sum: Some(limits[0]),
            bias: Some((channels.iter().map(|c| c.0).collect(), limits[1])),
            rectify: Some(channels.iter().map(top).collect()),
            scale: Some((channels.iter().map(|c| c.2.into()).collect(), limits[2])),
            shift: Some((channels.iter().map(|c| c.3).collect(), limits[3])),
        };
        let narrowing = Narrowing::new(&steps, n, 1 << 31).expect("widths that fit");
        let mut counts = [Clipped::default(); 4];
        let expected: Vec<i64> = values
            .iter()
            .enumerate()
            .map(|(i, v)| narrowed((*v).into(), channels[i.rem_euclid(n)], limits, &mut counts))
            .collect();
        with_each_isa(|kernels| {
            let mut out = vec![0_i16; values.len()];
            let got = kernels.narrow(&narrowing, &values, &mut out);
            let out: Vec<i64> = out.into_iter().map(i64::from).collect();
            assert_eq!(out, expected, "{:?}", kernels.isa());
            assert_eq!([got.sum, got.bias, got.scale, got.shift], counts, "{:?}", kernels.isa());
        });
    }
}

#[test]
fn steps_that_could_leave_their_integers_are_refused() {
    let limit = Limit {
        lo: -(1 << 40),
        hi: (1 << 40) - 1,
    };
    let scaled = |scale: i64| Steps {
        scale: Some((vec![scale], limit)),
        ..Steps::default()
    };
    assert!(Narrowing::new(&scaled(1 << 20), 1, 1 << 40).is_some());
    assert!(Narrowing::new(&scaled(1 << 23), 1, 1 << 40).is_none());
    let shifted = |shift: i32| Steps {
        shift: Some((vec![shift], limit)),
        ..Steps::default()
    };
    assert!(Narrowing::new(&shifted(20), 1, 1 << 40).is_some());
    assert!(Narrowing::new(&shifted(22), 1, 1 << 40).is_none());
    assert!(Narrowing::new(&shifted(-63), 1, 1).is_none());
}
