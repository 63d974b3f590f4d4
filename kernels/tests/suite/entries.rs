//! What enters a layer, on every instruction set.
use kernels::Kernels;
use proptest::prelude::*;

use crate::common::with_each_isa;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn extremes_are_those_of_each_channel(
        (channels, values) in (1_usize..300).prop_flat_map(|n| {
            (Just(n), (0_usize..6).prop_flat_map(move |pixels| prop::collection::vec(any::<i8>(), n * pixels)))
        }),
        start in any::<(i8, i8)>(),
    ) {
        let of = |channel: usize, first: i8, pick: fn(i8, i8) -> i8| {
            values.iter().skip(channel).step_by(channels).fold(first, |a, b| pick(a, *b))
        };
        with_each_isa(|kernels| {
            let (mut least, mut most) = (vec![start.0; channels], vec![start.1; channels]);
            kernels.channel_extremes(&values, &mut least, &mut most);
            for channel in 0..channels {
                assert_eq!(least[channel], of(channel, start.0, i8::min), "channel {channel}");
                assert_eq!(most[channel], of(channel, start.1, i8::max), "channel {channel}");
            }
        });
    }

    #[test]
    fn bytes_are_whole_numbers(values in prop::collection::vec(any::<u8>(), 0..300)) {
        let floats: Vec<f32> = values.iter().map(|v| f32::from(*v)).collect();
        with_each_isa(|kernels| {
            let mut out = vec![1_u8; values.len()];
            assert!(kernels.whole_numbers(&floats, (0, 255), &mut out), "all fit");
            assert_eq!(out, values, "the same numbers");
        });
    }

    #[test]
    fn whole_numbers_are_those_without_a_fraction(
        numbers in prop::collection::vec(any_float(), 1..80),
        range in prop_oneof![
            Just((-4, 3)),
            Just((0, 255)),
            Just((-(1 << 22), 1 << 22)),
            Just((-(1 << 22) - 1, 1 << 23)),
            Just((i32::MIN, i32::MAX)),
        ],
    ) {
        let fits = |v: &f32| {
            let v = f64::from(*v);
            v.fract() == 0.0 && f64::from(range.0) <= v && v <= f64::from(range.1)
        };
        let whole: Vec<f32> = numbers.iter().copied().filter(fits).collect();
        let integers: Vec<i32> = whole.iter().map(|v| *v as i32).collect();
        with_each_isa(|kernels| {
            let mut out = vec![77; whole.len()];
            assert!(kernels.whole_numbers(&whole, range, &mut out), "{whole:?}");
            assert_eq!(out, integers, "the same numbers");
            assert!(kernels.are_whole_numbers(&whole, range), "{whole:?}");
            let all = whole.len() == numbers.len();
            let mut out = vec![77; numbers.len()];
            assert_eq!(kernels.whole_numbers(&numbers, range, &mut out), all, "{numbers:?}");
            assert_eq!(kernels.are_whole_numbers(&numbers, range), all, "{numbers:?}");
        });
    }

    #[test]
    fn rectifiers_in_place_have_the_bits_of_others(
        bits in prop::collection::vec(any::<u32>(), 0..300),
        most in prop_oneof![Just(6.0_f32), Just(f32::INFINITY), Just(f32::MIN_POSITIVE)],
    ) {
        let x: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let to_bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
        with_each_isa(|kernels| {
            let mut out = vec![1.0; x.len()];
            kernels.rectify_f32(&x, most, &mut out);
            let mut same = x.clone();
            kernels.rectify_f32_in_place(&mut same, most);
            assert_eq!(to_bits(&same), to_bits(&out), "{x:?}");
        });
    }
}

/// Floats of any bits, halves, and those around powers of two.
fn any_float() -> impl Strategy<Value = f32> {
    let half = (-40_i16..=40).prop_map(|v| f32::from(v) / 2.0);
    let edge = (20_u32..=32, -2_i32..=2, any::<bool>()).prop_map(|(power, steps, sign)| {
        let bits = (127 + power) << 23;
        f32::from_bits(bits.wrapping_add_signed(steps)).copysign(if sign { 1.0 } else { -1.0 })
    });
    prop_oneof![1 => any::<u32>().prop_map(f32::from_bits), 6 => half, 3 => edge]
}

#[test]
fn what_is_no_integer_of_the_range_is_told() {
    let range = (i32::from(i16::MIN), i32::from(i16::MAX));
    for wrong in [
        0.5,
        32_768.0,
        -32_769.0,
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        3e9,
    ] {
        for place in [0, 63, 64, 99] {
            let mut x = vec![-32_768.0_f32; 100];
            x[place] = wrong;
            with_each_isa(|kernels: Kernels| {
                let fits = kernels.whole_numbers(&x, range, &mut [0_i16; 100]);
                assert!(!fits, "{wrong} at {place}");
            });
        }
    }
    // The largest i32 is no f32.
    let all = (i32::MIN, i32::MAX);
    with_each_isa(|kernels| {
        assert!(
            !kernels.whole_numbers(&[65_536.0 * 32_768.0], all, &mut [0_i32]),
            "2^31"
        );
        assert!(
            kernels.whole_numbers(&[-65_536.0 * 32_768.0], all, &mut [0_i32]),
            "-2^31"
        );
    });
}
