//! Every layer equals the independent implementation of the crate `oracle`, edges included.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use ndarray::{Array2, Array4, ArrayD, IxDyn};
use oracle::layers as second;
use oracle::network::Step;
use oracle::{Refused, Tensor, bits, strategies};
use proptest::prelude::*;
use quantizer_core::geometry::Padding;
use quantizer_core::layers::{self, FloatBorder, IntegerLayer, PoolOp, ReluParams, WeightedParams};
use quantizer_core::log2::{ceil_log2, floor_log2, mul_pow2};
use quantizer_core::quantizers::{
    AlignedWeightQuantizer, OutputQuantizer, WeightAxis, WeightQuantizer,
};
use quantizer_core::round::{round_half_even, shift_half_up};
use quantizer_core::{BitWidth, Counters, NumericsError, PerAxis, QFormat, Sign, ValueBits};

fn value_bits(n: u32) -> ValueBits {
    ValueBits::new(u8::try_from(n).unwrap()).unwrap()
}

fn width(n: u32) -> BitWidth {
    BitWidth::new(u8::try_from(n).unwrap()).unwrap()
}

/// One entry is per-tensor here, whatever the oracle means by it: both repeat it.
fn per_axis<T: Copy>(values: &[T]) -> PerAxis<T> {
    match values {
        [one] => PerAxis::Tensor(*one),
        many => PerAxis::Axis(many.to_vec()),
    }
}

fn format(x: &Tensor) -> QFormat {
    let scales = x.scales.as_ref().map(|scales| per_axis(scales));
    QFormat {
        value_bits: value_bits(x.value_bits),
        frac_bits: per_axis(&x.frac_bits),
        scales,
    }
}

fn array(x: &Tensor) -> ArrayD<i64> {
    let values = x
        .values
        .iter()
        .map(|v| i64::try_from(*v).unwrap())
        .collect();
    ArrayD::from_shape_vec(IxDyn(&x.shape), values).unwrap()
}

fn quantizer(output: &oracle::quantizers::Output) -> OutputQuantizer {
    OutputQuantizer {
        bitwidth: width(output.value_bits),
        sign: Sign::Unsigned,
        scale_bits: width(output.scale_bits),
        buffer: value_bits(output.buffer),
        range_max: per_axis(&output.range_max),
        rescaling_rate: per_axis(&output.rescaling_rate),
    }
}

/// Both refuse, or both give the same integers and format.
fn compare(
    first: Result<IntegerLayer, NumericsError>,
    inputs: &[&Tensor],
    second: Result<Tensor, Refused>,
) -> Result<(), TestCaseError> {
    let layer = match (first, second) {
        (Ok(layer), Ok(want)) => (layer, want),
        (Err(_), Err(_)) => return Ok(()),
        (Ok(_), Err(e)) => {
            return Err(TestCaseError::fail(format!("only the oracle refuses: {e}")));
        }
        (Err(e), Ok(_)) => return Err(TestCaseError::fail(format!("only the core refuses: {e}"))),
    };
    let (layer, want) = layer;
    let arrays: Vec<ArrayD<i64>> = inputs.iter().map(|x| array(x)).collect();
    let arrays: Vec<&ArrayD<i64>> = arrays.iter().collect();
    let got = layer.run(&arrays, &mut Counters::default()).unwrap();
    prop_assert_eq!(got, array(&want), "integers");
    prop_assert_eq!(
        u32::from(layer.format.value_bits.bits()),
        want.value_bits,
        "value_bits"
    );
    let n = want.channels();
    for c in 0..n {
        prop_assert_eq!(
            layer
                .format
                .frac_bits
                .at(c.min(layer.format.frac_bits.n_values() - 1)),
            want.frac_bits[c.min(want.frac_bits.len() - 1)],
            "frac_bits of channel {}",
            c
        );
    }
    let scales = |values: &[f32], c: usize| values[c.min(values.len() - 1)].to_bits();
    match (&layer.format.scales, &want.scales) {
        (None, None) => {}
        (Some(got), Some(want)) => {
            for c in 0..n {
                prop_assert_eq!(scales(got.as_slice(), c), scales(want, c), "scale of {}", c);
            }
        }
        (got, want) => prop_assert!(false, "scales {:?} and {:?}", got, want),
    }
    Ok(())
}

/// A layer with weights: input, window, kernel, bias, widths, output quantizer.
#[derive(Clone, Debug)]
struct Case {
    x: Tensor,
    window: second::Window,
    kernel: Vec<f32>,
    pointwise: Vec<f32>,
    filters: usize,
    border: Option<f32>,
    params: second::Weighted,
}

fn cases() -> impl Strategy<Value = Case> {
    (strategies::image_shape(), strategies::window(), 1..5_usize).prop_flat_map(
        |(shape, window, filters)| {
            let cells = window.size[0] * window.size[1];
            let bias = prop_oneof![
                Just(None),
                (strategies::weights(filters), 2..13_u32).prop_map(Some)
            ];
            let bits = (
                1..12_u32,
                any::<bool>(),
                prop_oneof![Just(27_u32), Just(31), Just(19)],
            );
            let output = prop_oneof![Just(None), strategies::output(filters).prop_map(Some)];
            let border = prop_oneof![3 => Just(None), 1 => (-2.0..2.0_f32).prop_map(Some)];
            (
                strategies::image(shape),
                strategies::weights(cells * shape[3] * filters),
                strategies::weights(shape[3] * filters),
                bias,
                bits,
                output,
                border,
            )
                .prop_map(move |(x, kernel, pointwise, bias, bits, output, border)| {
                    let (weight_bits, per_tensor, buffer) = bits;
                    let params = second::Weighted {
                        weight_bits,
                        per_tensor,
                        bias,
                        buffer,
                        output,
                    };
                    Case {
                        x,
                        window,
                        kernel,
                        pointwise,
                        filters,
                        border,
                        params,
                    }
                })
        },
    )
}

/// Calls `f` with the core's form of the parameters.
fn with_params<T>(
    params: &second::Weighted,
    axis: usize,
    f: impl FnOnce(WeightedParams<'_>) -> T,
) -> T {
    let output = params.output.as_ref().map(quantizer);
    let bias = params.bias.as_ref().map(|(bias, bitwidth)| {
        let quantizer = AlignedWeightQuantizer::new(width(*bitwidth), Sign::Signed).unwrap();
        (bias.as_slice(), quantizer)
    });
    f(WeightedParams {
        weight_quantizer: WeightQuantizer::new(width(params.weight_bits + 1)).unwrap(),
        axis: if params.per_tensor {
            WeightAxis::PerTensor
        } else {
            WeightAxis::Axis(axis)
        },
        bias,
        buffer: value_bits(params.buffer),
        output: output.as_ref(),
    })
}

fn padding(window: &second::Window) -> Padding {
    if window.same {
        Padding::Same
    } else {
        Padding::Valid
    }
}

/// Returns whether a 'valid' window fits, also behind an undilated border.
fn fits(x: &Tensor, window: &second::Window, border: Option<f32>) -> bool {
    (0..2).all(|axis| {
        let span = (window.size[axis] - 1) * window.dilation[axis] + 1;
        let n = x.shape[1 + axis];
        let padded = if border.is_some() {
            let (before, after) =
                quantizer_core::geometry::same_pads(n, window.size[axis], window.strides[axis], 1);
            n + before + after
        } else {
            n
        };
        (window.same && border.is_none()) || padded >= span
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn roundings_and_logarithms(bits in any::<u32>(), v in -(1_i64 << 48)..(1_i64 << 48), s in -70..14_i32) {
        let x = f32::from_bits(bits);
        if x.is_finite() && x.abs() < 1e18 {
            prop_assert_eq!(i128::from(round_half_even(x)), bits::nearest_even(x), "rounding");
        }
        prop_assert_eq!(i128::from(shift_half_up(v, s)), bits::scaled_half_up(v.into(), s), "shift");
        let positive = x.abs();
        if positive.is_finite() {
            prop_assert_eq!(ceil_log2(positive), bits::log2_ceil(positive), "ceil");
            let exact = positive >= f32::MIN_POSITIVE
                && bits::log2_ceil(positive).is_some_and(|k| bits::power(k).to_bits() == positive.to_bits());
            let floor = bits::log2_ceil(positive).map(|k| if exact { k } else { k - 1 });
            prop_assert_eq!(floor_log2(positive), floor, "floor");
            if positive > 1e-10 && positive < 1e10 {
                let scaled = bits::times_power(x, s);
                prop_assert_eq!(mul_pow2(x, s).to_bits(), scaled.to_bits(), "power");
            }
        }
    }

    #[test]
    fn conv2d(case in cases()) {
        prop_assume!(fits(&case.x, &case.window, case.border));
        let c = case.x.channels();
        let [kh, kw] = case.window.size;
        let kernel = Array4::from_shape_vec((kh, kw, c, case.filters), case.kernel.clone()).unwrap();
        let values = case.border.map(|v| vec![v]);
        let border = match &values {
            None => FloatBorder::Zero(padding(&case.window)),
            Some(values) => FloatBorder::Value(
                values,
                AlignedWeightQuantizer::new(width(case.params.weight_bits + 1), Sign::Signed).unwrap(),
            ),
        };
        let steps = [case.window.strides, case.window.dilation];
        let first = with_params(&case.params, 3, |params| {
            layers::conv2d(&format(&case.x), &kernel, &border, steps, &params)
        });
        let second = second::conv2d(
            &case.x, &case.kernel, case.filters, &case.window, values.as_deref(), &case.params);
        compare(first, &[&case.x], second)?;
    }

    #[test]
    fn depthwise_conv2d(case in cases()) {
        prop_assume!(fits(&case.x, &case.window, None));
        let c = case.x.channels();
        let [kh, kw] = case.window.size;
        let weights = case.kernel[..kh * kw * c].to_vec();
        let kernel = Array4::from_shape_vec((kh, kw, c, 1), weights.clone()).unwrap();
        // Bias and output quantizer of the case are for `filters` channels: only common ones fit.
        let mut params = case.params.clone();
        params.bias = params.bias.map(|(bias, bits)| (vec![bias[0]; c], bits));
        params.output = params.output.filter(|o| o.range_max.len() == 1 && o.rescaling_rate.len() == 1);
        let steps = [case.window.strides, case.window.dilation];
        let first = with_params(&params, 2, |params| {
            layers::depthwise_conv2d(&format(&case.x), &kernel, padding(&case.window), steps, &params)
        });
        let second = second::depthwise_conv2d(&case.x, &weights, &case.window, &params);
        compare(first, &[&case.x], second)?;
    }

    #[test]
    fn separable_conv2d(case in cases()) {
        prop_assume!(fits(&case.x, &case.window, None));
        let c = case.x.channels();
        let [kh, kw] = case.window.size;
        let weights = case.kernel[..kh * kw * c].to_vec();
        let depthwise = Array4::from_shape_vec((kh, kw, c, 1), weights.clone()).unwrap();
        let pointwise =
            Array4::from_shape_vec((1, 1, c, case.filters), case.pointwise.clone()).unwrap();
        let window = (padding(&case.window), case.window.strides, case.window.dilation);
        let first = with_params(&case.params, 3, |params| {
            let quantizer = params.weight_quantizer;
            layers::separable_conv2d(
                &format(&case.x), [&depthwise, &pointwise], quantizer, window, &params)
        });
        let second = second::separable_conv2d(
            &case.x, [&weights, &case.pointwise], case.filters, &case.window, &case.params);
        compare(first, &[&case.x], second)?;
    }

    #[test]
    fn dense(case in cases()) {
        let c = case.x.channels();
        let kernel = Array2::from_shape_vec((c, case.filters), case.pointwise.clone()).unwrap();
        let first = with_params(&case.params, 1, |params| {
            layers::dense(&format(&case.x), &kernel, &params)
        });
        let second = second::dense(&case.x, &case.pointwise, case.filters, &case.params);
        compare(first, &[&case.x], second)?;
    }

    #[test]
    fn relu(shape in strategies::image_shape(), max in prop_oneof![Just(None), (0.01..9.0_f32).prop_map(Some)],
            (x, output) in strategies::image_shape().prop_flat_map(|s| {
                (strategies::image(s), prop_oneof![Just(None), strategies::output(s[3]).prop_map(Some)])
            })) {
        let _ = shape;
        let core = output.as_ref().map(quantizer);
        let eight = AlignedWeightQuantizer::new(width(8), Sign::Unsigned).unwrap();
        let params = ReluParams {
            max_value: max.map(|max| (max, eight)),
            buffer: value_bits(32),
            output: core.as_ref(),
        };
        let first = layers::relu(&format(&x), &params);
        compare(first, &[&x], second::relu(&x, max, 32, output.as_ref()))?;
    }

    #[test]
    fn pooling((x, output) in strategies::image_shape().prop_flat_map(|s| {
            (strategies::image(s), prop_oneof![Just(None), strategies::output(s[3]).prop_map(Some)])
        }), window in strategies::window()) {
        let window = second::Window { dilation: [1, 1], ..window };
        if fits(&x, &window, None) {
            let pool = PoolOp { pool_size: window.size, strides: window.strides, padding: padding(&window) };
            let first = layers::max_pool2d(&format(&x), pool);
            compare(Ok(first), &[&x], Ok(second::max_pool2d(&x, &window)))?;
        }
        let core = output.as_ref().map(quantizer);
        let area = u32::try_from(x.shape[1] * x.shape[2]).unwrap();
        let first = layers::global_average_pooling2d(
            &format(&x), area, false, value_bits(32), core.as_ref());
        compare(first, &[&x], second::global_average_pooling2d(&x, 32, output.as_ref()))?;
    }

    #[test]
    fn add_and_flatten((a, b, output) in strategies::image_shape().prop_flat_map(|s| {
            (strategies::image(s), strategies::image(s),
             prop_oneof![Just(None), strategies::output(s[3]).prop_map(Some)])
        })) {
        let core = output.as_ref().map(quantizer);
        let first = layers::add([&format(&a), &format(&b)], false, value_bits(31), core.as_ref());
        compare(first, &[&a, &b], second::add(&a, &b, 31, output.as_ref()))?;
        if a.scales.is_none() {
            compare(layers::flatten(&format(&a)), &[&a], second::flatten(&a))?;
        }
    }

    /// Whole networks, each layer on the outputs of the one before.
    #[test]
    fn small_networks(network in oracle::network::small_network()) {
        let mut x = network.input.clone();
        for (step, want) in network.steps.iter().zip(network.outputs()) {
            compare(prepared(step, &x), &[&x], want.clone())?;
            match want {
                Ok(next) => x = next,
                Err(_) => break,
            }
        }
    }
}

/// Returns the core's form of a layer for the input `x`.
fn prepared(step: &Step, x: &Tensor) -> Result<IntegerLayer, NumericsError> {
    let input = format(x);
    match step {
        Step::Conv2D {
            kernel,
            filters,
            window,
            params,
        } => {
            let [kh, kw] = window.size;
            let shape = (kh, kw, x.channels(), *filters);
            let kernel = Array4::from_shape_vec(shape, kernel.clone()).unwrap();
            let border = FloatBorder::Zero(padding(window));
            let steps = [window.strides, window.dilation];
            with_params(params, 3, |params| {
                layers::conv2d(&input, &kernel, &border, steps, &params)
            })
        }
        Step::ReLU { max_value, output } => {
            let eight = AlignedWeightQuantizer::new(width(8), Sign::Unsigned).unwrap();
            let output = quantizer(output);
            let max_value = max_value.map(|max| (max, eight));
            let buffer = value_bits(32);
            layers::relu(
                &input,
                &ReluParams {
                    max_value,
                    buffer,
                    output: Some(&output),
                },
            )
        }
        Step::MaxPool2D(window) => {
            let (pool_size, strides) = (window.size, window.strides);
            Ok(layers::max_pool2d(
                &input,
                PoolOp {
                    pool_size,
                    strides,
                    padding: padding(window),
                },
            ))
        }
        Step::GlobalAveragePooling2D(output) => {
            let output = quantizer(output);
            let area = u32::try_from(x.shape[1] * x.shape[2]).unwrap();
            layers::global_average_pooling2d(&input, area, false, value_bits(32), Some(&output))
        }
        Step::Dense {
            kernel,
            units,
            params,
        } => {
            let shape = (x.channels(), *units);
            let kernel = Array2::from_shape_vec(shape, kernel.clone()).unwrap();
            with_params(params, 1, |params| layers::dense(&input, &kernel, &params))
        }
    }
}
