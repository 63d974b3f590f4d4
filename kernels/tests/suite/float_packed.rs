//! f32 products with packed weights equal the chain's definition, bit for bit, on every instruction set.
use kernels::{Isa, Kernels, PackedFloatConv, PackedFloats};
use proptest::prelude::*;

use crate::common::{Case, Words, any_case};
use crate::float::{Data, check_ended, data};
use crate::naive::{self, Geometry, Outside, fma};

/// Fewest columns that are packed.
const NARROWEST: usize = 16;

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
    let packed = PackedFloats::new(&kernel, case.n_taps() * channels, filters);
    let conv = PackedFloatConv {
        x: &x,
        kernel: &packed.expect("wide enough"),
        pad,
        window,
        channels,
    };
    check_ended(
        &case.rows_of(&all, filters),
        (bias, filters, case.seed),
        &format!("{case:?}"),
        |kernels, ending, out| {
            kernels.conv2d_packed_f32(&conv, ending, case.rows.clone(), out);
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
    let packed = PackedFloats::new(&kernel, channels, filters).expect("wide enough");
    check_ended(
        &sums,
        (bias.as_deref(), filters, seed),
        &format!("{n_rows} rows, {channels} channels, {filters} filters"),
        |kernels, ending, out| kernels.dense_packed_f32(&x, &packed, ending, out),
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn conv2d_equals_its_definition(mut case in any_case()) {
        case.filters = case.filters.max(NARROWEST);
        check_conv(&case);
    }

    #[test]
    fn dense_equals_its_definition(n_rows in 0_usize..40, channels in 1_usize..80, filters in NARROWEST..140,
                                   with_bias: bool, seed: u64) {
        check_dense([n_rows, channels, filters], with_bias, seed);
    }
}

#[test]
fn every_number_of_rows_equals_its_definition() {
    for n_rows in 0..=30 {
        check_dense([n_rows, 7, 33], true, 1);
    }
}

#[test]
fn every_number_of_columns_equals_its_definition() {
    for filters in NARROWEST..=70 {
        check_dense([13, 3, filters], false, 2);
    }
}

#[test]
fn chains_without_steps_and_of_one_step_equal_their_definition() {
    for channels in [0, 1] {
        check_dense([8, channels, 40], true, 3);
    }
}

/// More activations than pass over one strip, in blocks with whole tiles and without.
#[test]
fn every_block_equals_its_definition() {
    for n_rows in [63, 64, 65, 129, 131] {
        check_dense([n_rows, 1024, 17], true, 4);
    }
    check_dense([7, 12_000, 16], true, 5);
}

#[test]
fn narrow_kernels_are_not_packed() {
    for filters in 0..NARROWEST {
        let kernel = vec![1.0; 3 * filters];
        assert!(
            PackedFloats::new(&kernel, 3, filters).is_none(),
            "{filters} filters"
        );
    }
}

#[test]
fn the_kernels_of_avx2_pack() {
    for kernels in Kernels::available() {
        let is_avx2 = kernels.isa() == Isa::Avx2;
        assert_eq!(kernels.packs_f32(), is_avx2, "{:?}", kernels.isa());
    }
}
