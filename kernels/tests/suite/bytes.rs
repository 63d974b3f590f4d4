//! Bytes in pairs equal sums in `i128`, and their finished results the formula of every step.
use std::panic::catch_unwind;

use kernels::{Byte, BytePairs, Finish, Kernels, PairsConv};
use proptest::prelude::*;

use crate::common::{Case, Words, any_case};
use crate::finished::{Layer, assert_finished, assert_words, unshifted};
use crate::naive::{self, Geometry, Outside};

/// What the activations and weights of a case are.
#[derive(Clone, Copy, Debug)]
struct Range {
    /// Largest activation.
    most: u8,
    /// Largest magnitude of a weight; small ones have more partners.
    weight: i128,
    /// How many kinds of shifts there are.
    n_shifts: u64,
}

fn check<O: Byte + Into<i128>>(case: &Case, range: Range, (rectifies, bits): (bool, u32)) {
    let mut words = Words(case.seed);
    let Case {
        window,
        channels,
        filters,
        ..
    } = *case;
    let most = i128::from(range.most);
    let x: Vec<u8> = words.integers(case.n_inputs(), 0, most);
    let pad = case.with_pad.then(|| words.integers(channels, 0, most));
    let n_rows = case.n_taps() * channels;
    let kernel: Vec<i8> = words.integers(n_rows * filters, -range.weight, range.weight.min(127));
    let shifts: Vec<u32> = (0..n_rows)
        .map(|_| (words.next_word() % range.n_shifts) as u32)
        .collect();
    let rows = kernel.chunks(filters).zip(&shifts);
    let aligned: Vec<i32> = rows
        .flat_map(|(row, shift)| row.iter().map(move |w| i32::from(*w) << shift))
        .collect();
    let geometry = Geometry {
        window: &window,
        is_transposed: false,
        channels,
        filters,
    };
    let outside = pad.as_deref().map_or(Outside::Skip, Outside::Pad);
    let step = |acc, x: u8, w: i32| acc + i128::from(x) * i128::from(w);
    let sums = naive::conv(&geometry, &x, &aligned, &outside, 0_i128, step);
    let sums = case.rows_of(&sums, filters);
    let Some(packed) = BytePairs::new(&kernel, &shifts, filters, range.most) else {
        assert!(filters < 8 || n_rows == 0, "{case:?} {range:?}");
        return;
    };
    let conv = PairsConv {
        x: &x,
        kernel: &packed,
        pad: pad.as_deref(),
        window,
        channels,
    };
    let layer = Layer::new(&mut words, filters, rectifies, bits);
    let largest = sums.iter().map(|v| v.unsigned_abs() as u64).max();
    let finish = Finish::new(&layer.steps(), filters, largest.unwrap_or(0));
    let (wide, wide_finish) = unshifted(Layer::new(&mut words, filters, rectifies, bits), &sums);
    for kernels in Kernels::available().filter(|kernels| kernels.packs_pairs()) {
        let shifted = finish.as_ref().map(|finish| (&layer, finish));
        for (layer, finish) in shifted.into_iter().chain([(&wide, &wide_finish)]) {
            assert_words(layer, finish, &sums, |out, extremes| {
                // Not the sums: each result is written.
                out.fill(77);
                let to = (finish, out, extremes);
                kernels.conv2d_pairs_finished_words(&conv, case.rows.clone(), to);
            });
        }
        let mut out = vec![i32::MAX; sums.len()];
        kernels.conv2d_pairs(&conv, case.rows.clone(), &mut out);
        let out: Vec<i128> = out.into_iter().map(i128::from).collect();
        assert_eq!(out, sums, "{case:?} {range:?}");
        if let Some(finish) = &finish {
            assert_finished::<O>(&layer, finish, &sums, |out, extremes| {
                kernels.conv2d_pairs_finished(&conv, case.rows.clone(), (finish, out, extremes));
            });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn pairs_equal_the_exact_sums(case in any_case(), bits in 1..8_u32, n_shifts in 1..4_u64) {
        let range = |most, weight| Range { most, weight, n_shifts };
        check::<u8>(&case, range(127, 128), (true, bits));
        check::<i8>(&case, range(127, 40), (false, bits));
        check::<u8>(&case, range(255, 64), (true, 8));
        check::<i8>(&case, range(15, 7), (false, bits));
        check::<u8>(&case, range(0, 128), (true, bits));
    }
}

/// A wide matrix product, with many lanes, ends of the ranges only, and more pixels than one block has.
#[test]
fn ends_of_the_ranges_do_not_leave_16_bits() {
    for (seed, k, n) in [(1, 300, 40), (2, 64, 19), (3, 1030, 9)] {
        let mut words = Words(seed);
        let n_pixels = 131;
        let x: Vec<u8> = (0..n_pixels * k)
            .map(|_| [0, 127, 127][(words.next_word() % 3) as usize])
            .collect();
        let kernel: Vec<i8> = (0..k * n)
            .map(|_| [-128, 127, 3, -60][(words.next_word() % 4) as usize])
            .collect();
        let packed = BytePairs::new(&kernel, &vec![0; k], n, 127).expect("seven bits");
        let expected: Vec<i32> = x
            .chunks(k)
            .flat_map(|x| {
                let kernel = &kernel;
                (0..n).map(move |column| {
                    let weights = kernel.iter().skip(column).step_by(n);
                    let products = x
                        .iter()
                        .zip(weights)
                        .map(|(x, w)| i32::from(*x) * i32::from(*w));
                    products.sum()
                })
            })
            .collect();
        for kernels in Kernels::available().filter(|kernels| kernels.packs_pairs()) {
            let conv = PairsConv {
                x: &x,
                kernel: &packed,
                pad: None,
                window: kernels::Window::pointwise(n_pixels, 1),
                channels: k,
            };
            let mut out = vec![0; n_pixels * n];
            kernels.conv2d_pairs(&conv, 0..n_pixels, &mut out);
            assert!(out == expected, "{k} rows, {n} filters");
        }
    }
}

#[test]
fn larger_activations_are_refused() {
    let packed = BytePairs::new(&[1; 32], &[0; 4], 8, 127).expect("seven bits");
    for kernels in Kernels::available().filter(|kernels| kernels.packs_pairs()) {
        for (x, fits) in [([127, 0, 127, 9], true), ([127, 0, 128, 9], false)] {
            let conv = PairsConv {
                x: &x,
                kernel: &packed,
                pad: None,
                window: kernels::Window::pointwise(1, 1),
                channels: 4,
            };
            let run = || kernels.conv2d_pairs(&conv, 0..1, &mut [0; 8]);
            assert_eq!(catch_unwind(run).is_ok(), fits, "{x:?}");
        }
    }
}
