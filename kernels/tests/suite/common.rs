//! Shapes and values for the tests of the kernels.

use std::ops::Range;

use kernels::{Isa, Kernels, Lane, Window};
use proptest::prelude::*;

/// One operation's shape; values follow from the seed.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) window: Window,
    pub(crate) channels: usize,
    pub(crate) filters: usize,
    /// Output rows to compute.
    pub(crate) rows: Range<usize>,
    pub(crate) with_pad: bool,
    pub(crate) with_bias: bool,
    pub(crate) seed: u64,
}

impl Case {
    pub(crate) fn n_inputs(&self) -> usize {
        self.window.in_h * self.window.in_w * self.channels
    }

    pub(crate) fn n_taps(&self) -> usize {
        self.window.kernel_h * self.window.kernel_w
    }

    /// The elements of the computed rows, out of those of all rows.
    pub(crate) fn rows_of<T: Clone>(&self, all: &[T], columns: usize) -> Vec<T> {
        let row = self.window.out_w * columns;
        all[self.rows.start * row..self.rows.end * row].to_vec()
    }
}

/// Any case: also windows that reach far outside, or that no input reaches.
pub(crate) fn any_case() -> impl Strategy<Value = Case> {
    // Lengths around the tiles' 4, 8, 16 and 64 columns.
    let columns = || prop_oneof![4 => 1_usize..=20, 2 => 30_usize..=34, 2 => 62_usize..=68, 1 => 127_usize..=130];
    let pair = |range: std::ops::RangeInclusive<usize>| (range.clone(), range);
    let window = (
        pair(1..=9),
        pair(0..=8),
        pair(1..=4),
        pair(1..=3),
        pair(1..=3),
        pair(0..=4),
    )
        .prop_map(|(input, output, kernel, stride, dilation, pad)| Window {
            in_h: input.0,
            in_w: input.1,
            out_h: output.0,
            out_w: output.1,
            kernel_h: kernel.0,
            kernel_w: kernel.1,
            stride_h: stride.0,
            stride_w: stride.1,
            dilation_h: dilation.0,
            dilation_w: dilation.1,
            pad_top: pad.0,
            pad_left: pad.1,
        });
    // The plain shape that most layers have, with a large inside.
    let same_3x3 = pair(1..=20).prop_map(|(height, width)| Window {
        kernel_h: 3,
        kernel_w: 3,
        pad_top: 1,
        pad_left: 1,
        ..Window::pointwise(height, width)
    });
    let pointwise = pair(1..=14).prop_map(|(height, width)| Window::pointwise(height, width));
    // Rows of several tiles, and of more columns than are turned at once.
    let wide = (
        (1_usize..=4, 12_usize..=140),
        pair(1..=5),
        pair(1..=2),
        pair(0..=2),
    )
        .prop_map(|(input, kernel, stride, pad)| Window {
            out_h: (input.0 + 2 * pad.0)
                .saturating_sub(kernel.0)
                .div_euclid(stride.0)
                + 1,
            out_w: (input.1 + 2 * pad.1 - kernel.1).div_euclid(stride.1) + 1,
            kernel_h: kernel.0,
            kernel_w: kernel.1,
            stride_h: stride.0,
            stride_w: stride.1,
            pad_top: pad.0,
            pad_left: pad.1,
            ..Window::pointwise(input.0, input.1)
        });
    let windows = prop_oneof![6 => window, 1 => same_3x3, 1 => pointwise, 1 => wide];
    (
        windows,
        1_usize..=9,
        columns(),
        pair(0..=20),
        any::<bool>(),
        any::<bool>(),
        any::<u64>(),
    )
        .prop_map(
            |(window, channels, filters, rows, with_pad, with_bias, seed)| {
                let start = rows.0.min(window.out_h);
                let rows = start..(start + rows.1).min(window.out_h);
                Case {
                    window,
                    channels,
                    filters,
                    rows,
                    with_pad,
                    with_bias,
                    seed,
                }
            },
        )
}

/// Pseudo-random 64-bit words (splitmix64).
pub(crate) struct Words(pub(crate) u64);

impl Words {
    pub(crate) fn next_word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    /// Finite f32 of both signs: mostly exponents of `-60..60`, some of `-8..8` so that sums cancel, some zeros and
    /// subnormals.
    pub(crate) fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len)
            .map(|_| {
                let word = self.next_word();
                let exponent = match word >> 60 {
                    0 => 0,
                    1..8 => 127 - 8 + (word >> 32) % 16,
                    _ => 127 - 60 + (word >> 32) % 120,
                };
                let fraction = if word.is_multiple_of(29) {
                    0
                } else {
                    word & 0x007F_FFFF
                };
                let sign = (word >> 24) & 1;
                f32::from_bits((sign << 31 | exponent << 23 | fraction) as u32)
            })
            .collect()
    }

    /// Integers of `min..=max`: a third of them are the bounds.
    pub(crate) fn integers<T: TryFrom<i128>>(
        &mut self,
        len: usize,
        min: i128,
        max: i128,
    ) -> Vec<T> {
        (0..len)
            .map(|_| {
                let word = self.next_word();
                let value = match word % 6 {
                    0 => min,
                    1 => max,
                    _ => min + i128::from(self.next_word()) % (max - min + 1),
                };
                T::try_from(value).ok().expect("the bounds fit the type")
            })
            .collect()
    }
}

/// Runs `check` with the kernels of every instruction set of this CPU.
pub(crate) fn with_each_isa(mut check: impl FnMut(Kernels)) {
    for kernels in Kernels::available() {
        check(kernels);
    }
}

/// Runs `check` with the kernels of every instruction set of this CPU that multiplies packed weights of type `L`, and
/// asserts that none was left out.
pub(crate) fn with_each_packing<L: Lane>(mut check: impl FnMut(Kernels)) {
    let mut checked = Vec::new();
    for kernels in Kernels::available().filter(|kernels| kernels.packs::<L>()) {
        check(kernels);
        checked.push(kernels.isa());
    }
    let sets: &[Isa] = match size_of::<L>() {
        1 => &[Isa::Vnni],
        _ => &[Isa::Avx2, Isa::Avx512, Isa::Vnni],
    };
    // Which sets the CPU has is held against the CPU in `contract`.
    let expected: Vec<Isa> = Isa::available().filter(|isa| sets.contains(isa)).collect();
    assert_eq!(checked, expected, "instruction sets that pack weights");
}

/// Asserts equal bits, except that any NaN equals any NaN: their payloads are unspecified.
pub(crate) fn assert_same_bits(actual: &[f32], expected: &[f32], context: &str) {
    assert_eq!(actual.len(), expected.len(), "{context}");
    for (idx, (a, e)) in actual.iter().zip(expected).enumerate() {
        let same = a.to_bits() == e.to_bits() || (a.is_nan() && e.is_nan());
        assert!(
            same,
            "{context}: element {idx} is {a:e} ({:08x}), not {e:e} ({:08x})",
            a.to_bits(),
            e.to_bits()
        );
    }
}
