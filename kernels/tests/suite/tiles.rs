//! Every height and width of the tiles of packed weights, with the ends of the types, equals sums in `i128`.
use kernels::{Lane, Packable, Packed, PackedConv, Window};

use crate::common::{Words, with_each_packing};

/// Compares the products of `n` pixels of `channels` with `filters`; sums wrap around.
fn check<X, L>([n, channels, filters]: [usize; 3], bounds: [(i128, i128); 2])
where
    X: Packable<L> + TryFrom<i128> + Into<i128>,
    L: Lane + TryFrom<i128> + Into<i128>,
{
    let mut words = Words((n * 1_000_000 + channels * 1000 + filters) as u64);
    let [(x_lo, x_hi), (w_lo, w_hi)] = bounds;
    let x: Vec<X> = words.integers(n * channels, x_lo, x_hi);
    let kernel: Vec<L> = words.integers(channels * filters, w_lo, w_hi);
    let shifts: Vec<u32> = (0..channels)
        .map(|_| [0, 0, 1, 3][(words.next_word() % 4) as usize])
        .collect();
    for shifts in [vec![0; channels], shifts] {
        let sums = (0..n * filters).map(|i| {
            let (pixel, filter) = (i.div_euclid(filters), i.rem_euclid(filters));
            let products = shifts.iter().enumerate().map(|(c, shift)| {
                let x: i128 = x[pixel * channels + c].into();
                let w: i128 = kernel[c * filters + filter].into();
                (x * w) << shift
            });
            products.sum::<i128>() as i32
        });
        let expected: Vec<i32> = sums.collect();
        let packed = Packed::shifted(&kernel, &shifts, filters);
        with_each_packing::<L>(|kernels| {
            let mut out = vec![77; n * filters];
            kernels.dense_packed(&x, &packed, &mut out);
            let what = format!("{n} pixels, {filters} filters, {:?}", kernels.isa());
            assert_eq!(out, expected, "{what}, shifts {shifts:?}");
            // Neither the first row nor the last: the tile's neighbours stay as they are.
            let conv = PackedConv {
                x: &x,
                kernel: &packed,
                pad: None,
                window: Window::pointwise(n, 1),
                channels,
            };
            let rows = n.min(1)..n.max(2) - 1;
            let mut out = vec![77; rows.len() * filters];
            kernels.conv2d_packed(&conv, rows.clone(), &mut out);
            let expected = &expected[rows.start * filters..rows.end * filters];
            assert_eq!(out, expected, "{what}, rows {rows:?} of shifts {shifts:?}");
        });
    }
}

const BYTE: (i128, i128) = (-128, 127);
const WORD: (i128, i128) = (-32768, 32767);

fn check_types(extents: [usize; 3]) {
    check::<u8, i8>(extents, [(0, 255), BYTE]);
    check::<i8, i8>(extents, [BYTE, BYTE]);
    check::<u8, i16>(extents, [(0, 255), WORD]);
    check::<i8, i16>(extents, [BYTE, WORD]);
    check::<i16, i16>(extents, [WORD, WORD]);
}

#[test]
fn every_number_of_rows_equals_its_definition() {
    for n in 1..=45 {
        check_types([n, 5, 33]);
    }
    // More pixels than are gathered at once.
    check_types([250, 70, 3]);
}

#[test]
fn every_number_of_columns_equals_its_definition() {
    for filters in 1..=70 {
        check_types([7, 3, filters]);
    }
}

#[test]
fn every_number_of_channels_equals_its_definition() {
    for channels in 1..=40 {
        check_types([15, channels, 17]);
    }
}

#[test]
fn pairs_of_the_least_words_wrap_around() {
    for n in [1, 6, 14] {
        let x = vec![i16::MIN; 2 * n];
        let packed = Packed::new(&[i16::MIN; 2 * 40], 2, 40);
        with_each_packing::<i16>(|kernels| {
            let mut out = vec![0; 40 * n];
            kernels.dense_packed(&x, &packed, &mut out);
            assert!(out.iter().all(|v| *v == i32::MIN), "{:?}", kernels.isa());
        });
    }
}
