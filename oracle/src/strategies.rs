//! Proptest strategies for tensors and weights; edges are always among the cases.

use proptest::prelude::*;

use crate::bits::power;
use crate::layers::Window;
use crate::quantizers::Output;
use crate::tensor::Tensor;

/// Extents of a small image batch: `[batch, height, width, channels]`.
pub fn image_shape() -> impl Strategy<Value = [usize; 4]> {
    (1..3_usize, 1..8_usize, 1..8_usize, 1..7_usize).prop_map(|(b, h, w, c)| [b, h, w, c])
}

/// A window that fits an image when its border is 'same'; strides and dilations vary.
pub fn window() -> impl Strategy<Value = Window> {
    (
        [1..4_usize, 1..4_usize],
        [1..4_usize, 1..4_usize],
        [1..3_usize, 1..3_usize],
        any::<bool>(),
    )
        .prop_map(|(size, strides, dilation, same)| Window {
            size,
            strides,
            dilation,
            same,
        })
}

/// Integers of `value_bits` bits: extremes, zeros, alternation, one hot, or random.
pub fn integers(n: usize, value_bits: u32) -> impl Strategy<Value = Vec<i128>> {
    let (low, high) = (-(1_i64 << value_bits), (1_i64 << value_bits) - 1);
    let wide = move |v: i64| i128::from(v);
    prop_oneof![
        1 => Just(vec![wide(low); n]),
        1 => Just(vec![wide(high); n]),
        1 => Just(vec![0; n]),
        1 => Just((0..n).map(|i| wide(if i.rem_euclid(2) == 0 { low } else { high })).collect()),
        1 => (0..n.max(1)).prop_map(move |hot| {
            (0..n).map(|i| if i == hot { wide(high) } else { 0 }).collect()
        }),
        5 => proptest::collection::vec((low..=high).prop_map(wide), n),
    ]
}

/// Float weights: random, tiny, constant, powers of two, halves of a step, with dead stretches.
pub fn weights(n: usize) -> impl Strategy<Value = Vec<f32>> {
    let one = prop_oneof![
        6 => -1.0..1.0_f32,
        1 => Just(0.0_f32),
        1 => (-10..4_i32).prop_map(power),
        1 => Just(1e-7_f32),
        1 => Just(0.5_f32),
    ];
    prop_oneof![
        8 => proptest::collection::vec(one, n),
        1 => Just(vec![0.0; n]),
        1 => Just(vec![0.25; n]),
    ]
}

/// Ranges of calibration: random, zero, powers of two and the floats next to them.
pub fn range() -> impl Strategy<Value = f32> + Clone {
    prop_oneof![
        4 => 0.01..20.0_f32,
        1 => Just(0.0_f32),
        2 => (-6..6_i32).prop_map(power),
        1 => (-6..6_i32).prop_map(|k| f32::from_bits(power(k).to_bits() + 1)),
        1 => (-6..6_i32).prop_map(|k| f32::from_bits(power(k).to_bits() - 1)),
    ]
}

/// One value, or one for each of `n` channels.
pub fn per_axis<T: Clone + std::fmt::Debug + 'static>(
    n: usize,
    one: impl Strategy<Value = T> + Clone + 'static,
) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![
        proptest::collection::vec(one.clone(), 1),
        proptest::collection::vec(one, n),
    ]
}

/// An image tensor without scales, or with one.
pub fn image(shape: [usize; 4]) -> impl Strategy<Value = Tensor> {
    let n = shape.iter().product();
    (1..10_u32).prop_flat_map(move |value_bits| {
        let scale = prop_oneof![Just(None), (0.001..2.0_f32).prop_map(|s| Some(vec![s]))];
        (
            integers(n, value_bits),
            per_axis(shape[3], -2..9_i32),
            scale,
        )
            .prop_map(move |(values, frac_bits, scales)| Tensor {
                shape: shape.to_vec(),
                values,
                value_bits,
                frac_bits,
                scales,
            })
    })
}

/// An output quantizer for `n` channels.
pub fn output(n: usize) -> impl Strategy<Value = Output> {
    let bits = (
        1..16_u32,
        4..17_u32,
        prop_oneof![Just(32_u32), Just(28), Just(20)],
    );
    (
        bits,
        per_axis(n, range().boxed()),
        per_axis(n, 0.5..1.0_f32),
    )
        .prop_map(
            |((value_bits, scale_bits, buffer), range_max, rescaling_rate)| Output {
                value_bits,
                scale_bits,
                buffer,
                range_max,
                rescaling_rate,
            },
        )
}
