//! The f32 kernels of every instruction set equal the chain's definition, bit for bit.
use crate::common::{Case, Words, any_case, assert_same_bits, with_each_isa};
use crate::naive::{self, Geometry, Outside, fma};
use kernels::{
    Conv2d, ConvTranspose2d, Dense, Depthwise, DepthwiseTranspose, Ending, Kernels, Window,
};
use proptest::prelude::*;

pub(crate) struct Data {
    pub(crate) x: Vec<f32>,
    pub(crate) kernel: Vec<f32>,
    pub(crate) pad: Option<Vec<f32>>,
    pub(crate) bias: Option<Vec<f32>>,
}

pub(crate) fn data(case: &Case, n_weights: usize, columns: usize) -> Data {
    let mut words = Words(case.seed);
    Data {
        x: words.floats(case.n_inputs()),
        kernel: words.floats(n_weights),
        pad: case.with_pad.then(|| words.floats(case.channels)),
        bias: case.with_bias.then(|| words.floats(columns)),
    }
}

pub(crate) fn add_bias(acc: &mut [f32], bias: Option<&[f32]>) {
    if let Some(bias) = bias {
        for (idx, acc) in acc.iter_mut().enumerate() {
            *acc += bias[idx % bias.len()];
        }
    }
}

/// Checks an operation that ends its chains, `sums` being what they are before.
pub(crate) fn check_ended(
    sums: &[f32],
    (bias, n_columns, seed): (Option<&[f32]>, usize, u64),
    context: &str,
    run: impl Fn(Kernels, Ending<'_>, &mut [f32]),
) {
    for most in [None, Some(f32::INFINITY), Some(0.75)] {
        let mut expected = sums.to_vec();
        add_bias(&mut expected, bias);
        if let Some(most) = most {
            for y in &mut expected {
                if *y >= most {
                    *y = most;
                } else if *y < 0.0 {
                    *y = 0.0;
                }
            }
        }
        // Some entries start above all outputs, some below.
        let mut words = Words(seed);
        let start: Vec<u32> = words
            .floats(n_columns)
            .iter()
            .map(|v| v.abs().to_bits())
            .collect();
        let mut greatest: Vec<f32> = start.iter().map(|bits| f32::from_bits(*bits)).collect();
        for (idx, y) in expected.iter().enumerate() {
            let entry = &mut greatest[idx % n_columns];
            if y.abs() > *entry {
                *entry = y.abs();
            }
        }
        with_each_isa(|kernels| {
            let context = format!("{:?}, most {most:?}, {context}", kernels.isa());
            let mut out = vec![f32::NAN; expected.len()];
            let mut largest = start.clone();
            let ending = Ending {
                bias,
                most,
                largest: Some(&mut largest),
            };
            run(kernels, ending, &mut out);
            assert_same_bits(&out, &expected, &context);
            let largest: Vec<f32> = largest.into_iter().map(f32::from_bits).collect();
            assert_same_bits(&largest, &greatest, &context);
        });
    }
}

fn check_conv(case: &Case, is_transposed: bool) {
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
        is_transposed,
        channels,
        filters,
    };
    let outside = pad.map_or(Outside::Skip, Outside::Pad);
    let mut all = naive::conv(&geometry, &x, &kernel, &outside, 0.0, fma);
    let sums = case.rows_of(&all, filters);
    add_bias(&mut all, bias);
    let expected = case.rows_of(&all, filters);
    with_each_isa(|kernels| {
        let mut out = vec![f32::NAN; expected.len()];
        let rows = case.rows.clone();
        if is_transposed {
            let conv = ConvTranspose2d {
                x: &x,
                kernel: &kernel,
                window,
                channels,
                filters,
            };
            kernels.conv2d_transpose_f32(&conv, bias, rows, &mut out);
        } else {
            let conv = Conv2d {
                x: &x,
                kernel: &kernel,
                pad,
                window,
                channels,
                filters,
            };
            kernels.conv2d_f32(&conv, bias, rows, &mut out);
        }
        assert_same_bits(&out, &expected, &format!("{:?}, {case:?}", kernels.isa()));
    });
    if !is_transposed {
        let conv = Conv2d {
            x: &x,
            kernel: &kernel,
            pad,
            window,
            channels,
            filters,
        };
        let about = (bias, filters, case.seed);
        check_ended(
            &sums,
            about,
            &format!("{case:?}"),
            |kernels, ending, out| {
                kernels.conv2d_ended_f32(&conv, ending, case.rows.clone(), out);
            },
        );
    }
}

fn check_depthwise(case: &Case, is_transposed: bool) {
    // The wide axis of a case is its filters.
    let case = &Case {
        channels: case.filters,
        ..case.clone()
    };
    let Case {
        window, channels, ..
    } = *case;
    let Data {
        x,
        kernel,
        pad,
        bias,
    } = data(case, case.n_taps() * channels, channels);
    let (pad, bias) = (pad.as_deref(), bias.as_deref());
    let geometry = Geometry {
        window: &window,
        is_transposed,
        channels,
        filters: channels,
    };
    let outside = pad.map_or(Outside::Skip, Outside::Pad);
    let mut all = naive::depthwise(&geometry, &x, &kernel, &outside, 0.0, fma);
    let sums = case.rows_of(&all, channels);
    add_bias(&mut all, bias);
    let expected = case.rows_of(&all, channels);
    with_each_isa(|kernels| {
        let mut out = vec![f32::NAN; expected.len()];
        let rows = case.rows.clone();
        if is_transposed {
            let conv = DepthwiseTranspose {
                x: &x,
                kernel: &kernel,
                window,
                channels,
            };
            kernels.depthwise_transpose_f32(&conv, bias, rows, &mut out);
        } else {
            let conv = Depthwise {
                x: &x,
                kernel: &kernel,
                pad,
                window,
                channels,
            };
            kernels.depthwise_f32(&conv, bias, rows, &mut out);
        }
        assert_same_bits(&out, &expected, &format!("{:?}, {case:?}", kernels.isa()));
    });
    if !is_transposed {
        let conv = Depthwise {
            x: &x,
            kernel: &kernel,
            pad,
            window,
            channels,
        };
        let about = (bias, channels, case.seed);
        check_ended(
            &sums,
            about,
            &format!("{case:?}"),
            |kernels, ending, out| {
                kernels.depthwise_ended_f32(&conv, ending, case.rows.clone(), out);
            },
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn conv2d_equals_its_definition(case in any_case()) {
        check_conv(&case, false);
    }

    #[test]
    fn conv2d_transpose_equals_its_definition(case in any_case()) {
        check_conv(&case, true);
    }

    #[test]
    fn depthwise_equals_its_definition(case in any_case()) {
        check_depthwise(&case, false);
    }

    #[test]
    fn depthwise_of_3x3_equals_its_definition(
        mut case in any_case(), size in (0_usize..=12, 0_usize..=24), stride in (1_usize..=3, 1_usize..=2), pad in (0_usize..=3, 0_usize..=3),
    ) {
        case.window = Window {
            kernel_h: 3, kernel_w: 3, in_h: size.0, in_w: size.1,
            out_h: (size.0 + 2).div_ceil(stride.0), out_w: (size.1 + 2).div_ceil(stride.1),
            stride_h: stride.0, stride_w: stride.1, dilation_h: 1, dilation_w: 1, pad_top: pad.0, pad_left: pad.1,
        };
        case.rows.end = case.rows.end.min(case.window.out_h);
        case.rows.start = case.rows.start.min(case.rows.end);
        case.with_pad = false;
        check_depthwise(&case, false);
    }

    #[test]
    fn depthwise_transpose_equals_its_definition(case in any_case()) {
        check_depthwise(&case, true);
    }

    #[test]
    fn dense_equals_its_definition(n_rows in prop_oneof![8 => 0_usize..40, 1 => 280_usize..420], channels in 1_usize..80, filters in 1_usize..140,
                                   with_bias: bool, seed: u64) {
        let mut words = Words(seed);
        let (x, kernel) = (words.floats(n_rows * channels), words.floats(channels * filters));
        let bias = with_bias.then(|| words.floats(filters));
        let mut expected = Vec::new();
        for row in 0..n_rows {
            for filter in 0..filters {
                expected.push((0..channels).fold(0.0, |acc, c| fma(acc, x[row * channels + c], kernel[c * filters + filter])));
            }
        }
        let dense = Dense { x: &x, kernel: &kernel, channels, filters };
        check_ended(&expected, (bias.as_deref(), filters, seed), "dense", |kernels, ending, out| {
            kernels.dense_ended_f32(&dense, ending, out);
        });
        add_bias(&mut expected, bias.as_deref());
        with_each_isa(|kernels| {
            let mut out = vec![f32::NAN; expected.len()];
            kernels.dense_f32(&dense, bias.as_deref(), &mut out);
            assert_same_bits(&out, &expected, &format!("{:?}", kernels.isa()));
        });
    }
}

/// One rounding per step: a rounded product would lose what the second order keeps.
#[test]
fn steps_are_fused_and_in_order() {
    let factor = 1.0 + 3.0 * f32::EPSILON;
    // The square is 1 + 6e + 9e^2. The chain's first step rounds it to 1 + 6e; as the second step, after -1, it is exact
    // until the sum is rounded.
    let square_first = 6.0 * f32::EPSILON;
    let square_last = square_first + 9.0 * f32::EPSILON * f32::EPSILON;
    assert!(square_first < square_last, "the two orders differ");
    for (x, kernel, expected) in [
        ([factor, 1.0], [factor, -1.0], square_first),
        ([1.0, factor], [-1.0, factor], square_last),
    ] {
        for filters in [1, 8, 16, 64, 65] {
            let kernel: Vec<f32> = kernel.iter().flat_map(|&w| vec![w; filters]).collect();
            with_each_isa(|kernels| {
                let mut out = vec![0.0; filters];
                let dense = Dense {
                    x: &x,
                    kernel: &kernel,
                    channels: 2,
                    filters,
                };
                kernels.dense_f32(&dense, None, &mut out);
                assert_same_bits(&out, &vec![expected; filters], kernels.isa().name());
            });
        }
    }
}

/// A skipped tap is not a step with zero: that would turn -0 into +0, and infinite weights into NaN.
#[test]
fn skipped_taps_are_no_steps() {
    let window = Window {
        kernel_w: 3,
        pad_left: 1,
        ..Window::pointwise(1, 1)
    };
    // The middle tap underflows to -0; the others are outside.
    let (x, kernel) = ([-1e-30_f32], [f32::INFINITY, 1e-30, 1.0]);
    let conv = Conv2d {
        x: &x,
        kernel: &kernel,
        pad: None,
        window,
        channels: 1,
        filters: 1,
    };
    with_each_isa(|kernels| {
        let mut out = [f32::NAN];
        kernels.conv2d_f32(&conv, None, 0..1, &mut out);
        assert_same_bits(&out, &[-0.0], kernels.isa().name());
        let padded = Conv2d {
            pad: Some(&[0.0]),
            ..conv
        };
        kernels.conv2d_f32(&padded, None, 0..1, &mut out);
        assert!(
            out[0].is_nan(),
            "{:?}: a padded tap is a step",
            kernels.isa()
        );
    });
}

/// The widest tiles with a chain as long as a real layer's.
#[test]
fn long_chains_have_equal_bits() {
    let mut words = Words(7);
    for (n_rows, channels, filters) in
        [(1, 4096, 65), (13, 1152, 128), (200, 96, 64), (5, 2000, 10)]
    {
        let (x, kernel) = (
            words.floats(n_rows * channels),
            words.floats(channels * filters),
        );
        let run = |kernels: Kernels| {
            let mut out = vec![0.0; n_rows * filters];
            kernels.dense_f32(
                &Dense {
                    x: &x,
                    kernel: &kernel,
                    channels,
                    filters,
                },
                None,
                &mut out,
            );
            out
        };
        let row_by_filter = |idx: usize| (idx.div_euclid(filters), idx % filters);
        let expected: Vec<f32> = (0..n_rows * filters)
            .map(row_by_filter)
            .map(|(row, f)| {
                (0..channels).fold(0.0, |acc, c| {
                    fma(acc, x[row * channels + c], kernel[c * filters + f])
                })
            })
            .collect();
        with_each_isa(|kernels| {
            assert_same_bits(&run(kernels), &expected, &format!("{:?}", kernels.isa()));
        });
    }
}

#[test]
fn rectifiers_keep_nan_and_negative_zero() {
    let x = [
        f32::NEG_INFINITY,
        -1.0,
        -0.0,
        0.0,
        1e-40,
        5.9,
        6.0,
        7.0,
        f32::INFINITY,
        f32::NAN,
    ];
    let bits = |values: &[f32]| -> Vec<u32> { values.iter().map(|v| v.to_bits()).collect() };
    with_each_isa(|kernels| {
        let mut out = [9.0; 10];
        kernels.rectify_f32(&x, 6.0, &mut out);
        let expected = [0.0, 0.0, -0.0, 0.0, 1e-40, 5.9, 6.0, 6.0, 6.0];
        assert_eq!(bits(&out[..9]), bits(&expected), "{:?}", kernels.isa());
        assert!(out[9].is_nan(), "{:?}", kernels.isa());
        kernels.rectify_f32(&x, f32::INFINITY, &mut out);
        let expected = [0.0, 0.0, -0.0, 0.0, 1e-40, 5.9, 6.0, 7.0, f32::INFINITY];
        assert_eq!(bits(&out[..9]), bits(&expected), "{:?}", kernels.isa());
    });
}

#[test]
fn the_largest_magnitude_of_a_channel_tells_infinity_and_nan() {
    let channels = [
        [1.0, -3.0, 2.0],
        [-0.0, 0.0, 0.0],
        [f32::MAX, f32::NEG_INFINITY, 0.0],
        [f32::INFINITY, -f32::NAN, 1.0],
    ];
    let x: Vec<f32> = (0..3).flat_map(|p| channels.map(|c| c[p])).collect();
    with_each_isa(|kernels| {
        let mut largest = [0; 4];
        kernels.largest_magnitudes(&x, &mut largest);
        let [plain, zero, infinite, nan] = largest.map(f32::from_bits);
        assert_eq!(
            [plain, zero, infinite].map(f32::to_bits),
            [3.0, 0.0, f32::INFINITY].map(f32::to_bits),
            "{:?}",
            kernels.isa()
        );
        assert!(nan.is_nan(), "{:?}", kernels.isa());
    });
}

#[test]
fn every_number_of_pixels_and_channels_has_its_largest_magnitudes() {
    let mut words = Words(1);
    for channels in (1..=17).chain([40]) {
        for pixels in (0..=50).chain([160]) {
            let x = words.floats(pixels * channels);
            let start: Vec<f32> = words.floats(channels).iter().map(|v| v.abs()).collect();
            let mut expected = start.clone();
            for (idx, x) in x.iter().enumerate() {
                let entry = &mut expected[idx % channels];
                *entry = entry.max(x.abs());
            }
            with_each_isa(|kernels| {
                let mut largest: Vec<u32> = start.iter().map(|v| v.to_bits()).collect();
                kernels.largest_magnitudes(&x, &mut largest);
                let found: Vec<f32> = largest.iter().map(|bits| f32::from_bits(*bits)).collect();
                let context = format!("{kernels:?}, {pixels} pixels of {channels} channels");
                assert_same_bits(&found, &expected, &context);
            });
        }
    }
}

#[test]
fn endings_keep_nan_and_negative_zero() {
    let values = [
        f32::NEG_INFINITY,
        -1.0,
        5.9,
        6.0,
        7.0,
        f32::INFINITY,
        f32::NAN,
        0.5,
    ];
    let rectified = [0.0, 0.0, 5.9, 6.0, 6.0, 6.0, f32::NAN, 0.5];
    for filters in [8, 16, 32, 80] {
        let tiled = |values: [f32; 8]| -> Vec<f32> {
            values.iter().copied().cycle().take(filters).collect()
        };
        let run = |kernels: Kernels, x: f32, kernel: &[f32], most: Option<f32>| {
            let (mut out, mut largest) = (vec![9.0; filters], vec![0; filters]);
            let dense = Dense {
                x: &[x],
                kernel,
                channels: 1,
                filters,
            };
            let ending = Ending {
                most,
                largest: Some(&mut largest),
                ..Ending::default()
            };
            kernels.dense_ended_f32(&dense, ending, &mut out);
            let is_magnitude = |(entry, out): (&u32, &f32)| {
                let entry = f32::from_bits(*entry);
                entry.to_bits() == out.abs().to_bits() || (entry.is_nan() && out.is_nan())
            };
            assert!(largest.iter().zip(&out).all(is_magnitude), "{kernels:?}");
            out
        };
        with_each_isa(|kernels| {
            let context = format!("{kernels:?}, {filters} filters");
            let out = run(kernels, 1.0, &tiled(values), None);
            assert_same_bits(&out, &tiled(values), &context);
            let out = run(kernels, 1.0, &tiled(values), Some(6.0));
            assert_same_bits(&out, &tiled(rectified), &context);
            // The product underflows to -0.
            for most in [None, Some(6.0)] {
                let out = run(kernels, 1e-30, &tiled([-1e-30; 8]), most);
                assert_same_bits(&out, &tiled([-0.0; 8]), &context);
            }
        });
    }
}
