//! f32 products with packed weights equal the chain's definition, bit for bit, on every instruction set.
use std::panic::catch_unwind;

use kernels::{Conv2d, Dense, Ending, Isa, Kernels, PackedFloatConv, PackedFloats};
use proptest::prelude::*;

use crate::common::{Case, Words, any_case};
use crate::float::{Data, check_ended, data};
use crate::naive::{self, Geometry, Outside, fma};

/// Fewest columns that AVX2 packs.
const NARROWEST: usize = 16;

/// Fewest columns that AVX-512 packs.
const WIDEST: usize = 64;

/// Returns the packed form of a kernel, which depends on the instruction set, as does whether there is one.
fn pack(kernels: Kernels, kernel: &[f32], rows: usize, filters: usize) -> Option<PackedFloats> {
    let packed = PackedFloats::new(kernels, kernel, rows, filters);
    let fewest = match kernels.isa() {
        Isa::Portable => usize::MAX,
        Isa::Avx2 => NARROWEST,
        Isa::Avx512 | Isa::Vnni => WIDEST,
    };
    let isa = kernels.isa();
    assert_eq!(packed.is_some(), filters >= fewest, "{isa:?}, {filters}");
    let suits = packed.as_ref().is_none_or(|packed| packed.suits(kernels));
    assert!(suits, "{isa:?}: packed for another set");
    packed
}

fn check_conv(case: &Case) {
    let Case {
        window,
        channels,
        filters,
        ..
    } = *case;
    let Data {
        x,
        kernel,
        pad,
        bias,
    } = data(case, case.n_taps() * channels * filters, filters);
    let (pad, bias) = (pad.as_deref(), bias.as_deref());
    let geometry = Geometry {
        window: &window,
        is_transposed: false,
        channels,
        filters,
    };
    let outside = pad.map_or(Outside::Skip, Outside::Pad);
    let all = naive::conv(&geometry, &x, &kernel, &outside, 0.0, fma);
    let unpacked = Conv2d {
        x: &x,
        kernel: &kernel,
        pad,
        window,
        channels,
        filters,
    };
    check_ended(
        &case.rows_of(&all, filters),
        (bias, filters, case.seed),
        &format!("{case:?}"),
        |kernels, ending, out| {
            let rows = case.rows.clone();
            let Some(packed) = pack(kernels, &kernel, case.n_taps() * channels, filters) else {
                return kernels.conv2d_ended_f32(&unpacked, ending, rows, out);
            };
            let conv = PackedFloatConv {
                x: &x,
                kernel: &packed,
                pad,
                window,
                channels,
            };
            kernels.conv2d_packed_f32(&conv, ending, rows, out);
        },
    );
}

fn check_dense([n_rows, channels, filters]: [usize; 3], with_bias: bool, seed: u64) {
    let mut words = Words(seed);
    let x = words.floats(n_rows * channels);
    let kernel = words.floats(channels * filters);
    let bias = with_bias.then(|| words.floats(filters));
    let sums = (0..n_rows * filters).map(|idx| {
        let (row, f) = (idx.div_euclid(filters), idx.rem_euclid(filters));
        (0..channels).fold(0.0, |acc, c| {
            fma(acc, x[row * channels + c], kernel[c * filters + f])
        })
    });
    let sums: Vec<f32> = sums.collect();
    let unpacked = Dense {
        x: &x,
        kernel: &kernel,
        channels,
        filters,
    };
    check_ended(
        &sums,
        (bias.as_deref(), filters, seed),
        &format!("{n_rows} rows, {channels} channels, {filters} filters"),
        |kernels, ending, out| match pack(kernels, &kernel, channels, filters) {
            Some(packed) => kernels.dense_packed_f32(&x, &packed, ending, out),
            None => kernels.dense_ended_f32(&unpacked, ending, out),
        },
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn conv2d_equals_its_definition(mut case in any_case(), is_wide: bool) {
        case.filters += if is_wide { WIDEST } else { NARROWEST };
        check_conv(&case);
    }

    #[test]
    fn dense_equals_its_definition(n_rows in 0_usize..40, channels in 1_usize..80, filters in NARROWEST..240,
                                   with_bias: bool, seed: u64) {
        check_dense([n_rows, channels, filters], with_bias, seed);
    }
}

#[test]
fn every_number_of_rows_equals_its_definition() {
    for n_rows in 0..=30 {
        check_dense([n_rows, 7, 33], true, 1);
        check_dense([n_rows, 7, 130], true, 1);
    }
}

#[test]
fn every_number_of_columns_equals_its_definition() {
    for filters in NARROWEST..=140 {
        check_dense([13, 3, filters], false, 2);
    }
}

#[test]
fn chains_without_steps_and_of_one_step_equal_their_definition() {
    for channels in [0, 1] {
        check_dense([8, channels, 40], true, 3);
        check_dense([8, channels, 70], true, 3);
    }
}

/// More activations than pass over one strip, in blocks with whole tiles and without.
#[test]
fn every_block_equals_its_definition() {
    for n_rows in [63, 64, 65, 129, 131] {
        check_dense([n_rows, 1024, 17], true, 4);
        check_dense([n_rows, 1024, 65], true, 4);
    }
    check_dense([7, 12_000, 16], true, 5);
    check_dense([7, 12_000, 64], true, 5);
}

#[test]
fn kernels_are_packed_from_the_width_of_a_tile_on() {
    for kernels in Kernels::available() {
        for filters in 0..=WIDEST {
            pack(kernels, &vec![1.0; 3 * filters], 3, filters);
        }
    }
}

#[test]
fn a_kernel_that_is_packed_for_another_set_is_refused() {
    for owner in Kernels::available() {
        let Some(packed) = pack(owner, &[1.0; 2 * WIDEST], 2, WIDEST) else {
            continue;
        };
        for kernels in Kernels::available().filter(|kernels| !packed.suits(*kernels)) {
            let run = || {
                let mut out = [0.0; WIDEST];
                kernels.dense_packed_f32(&[1.0; 2], &packed, Ending::of_bias(None), &mut out);
            };
            assert!(catch_unwind(run).is_err(), "{owner:?}, {kernels:?}");
        }
    }
}
