//! Numbers worked out by hand from the definitions in NUMERICS.md.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use ndarray::{ArrayD, IxDyn, arr1, array};
use quantizer_core::format::max_frac_bits;
use quantizer_core::geometry::{Padding, same_pads, transposed_extent, window_extent};
use quantizer_core::layers::{self, FloatBorder, ReluParams, WeightedParams};
use quantizer_core::log2::{ceil_log2, floor_log2, mul_pow2};
use quantizer_core::quantizers::{
    AlignedWeightQuantizer, InputQuantizer, OutputQuantizer, WeightAxis, WeightQuantizer,
};
use quantizer_core::round::{round_half_even, shift_half_up};
use quantizer_core::tensor::{FixedPoint, QFloat, quantize_scales};
use quantizer_core::{BitWidth, Counters, NumericsError, PerAxis, QFormat, Sign, Stage, ValueBits};

fn bits(n: u8) -> ValueBits {
    ValueBits::new(n).unwrap()
}

fn width(n: u8) -> BitWidth {
    BitWidth::new(n).unwrap()
}

fn array_of(shape: &[usize], values: &[i64]) -> ArrayD<i64> {
    ArrayD::from_shape_vec(IxDyn(shape), values.to_vec()).unwrap()
}

#[test]
fn value_bits_have_the_range_of_a_signed_integer() {
    assert_eq!(
        (bits(7).int_min(), bits(7).int_max()),
        (-128, 127),
        "7 value bits"
    );
    assert_eq!(bits(7).saturate(300), 127, "above");
    assert_eq!(bits(7).saturate(-300), -128, "below");
    assert!(
        ValueBits::new(0).is_err() && ValueBits::new(49).is_err(),
        "bounds of the type"
    );
    assert!(
        width(1).value_bits(Sign::Signed).is_err(),
        "one bit is only a sign"
    );
    assert_eq!(
        width(1).value_bits(Sign::Unsigned).unwrap(),
        bits(1),
        "one bit unsigned"
    );
}

#[test]
fn floats_become_integers_with_ties_to_even() {
    let cases = [
        (0.5, 0),
        (1.5, 2),
        (2.5, 2),
        (-0.5, 0),
        (-1.5, -2),
        (2.499_999_8, 2),
        // Around 2^22, up to which a sum rounds, and 2^23, from which there are no halves.
        (4_194_303.5, 4_194_304),
        (-4_194_302.5, -4_194_302),
        (4_194_304.0, 4_194_304),
        (4_194_304.5, 4_194_304),
        (-4_194_305.5, -4_194_306),
        (8_388_607.5, 8_388_608),
        (16_777_214.0, 16_777_214),
    ];
    for (x, want) in cases {
        assert_eq!(round_half_even(x), want, "round_half_even({x})");
    }
    assert_eq!(round_half_even(f32::NAN), 0, "NaN");
    assert_eq!(round_half_even(f32::INFINITY), 1 << 62, "infinity");
}

#[test]
fn integer_rescales_round_a_half_up() {
    let cases = [
        (-3, -1, -1),
        (3, -1, 2),
        (1, -1, 1),
        (-1, -1, 0),
        (5, 3, 40),
        (-5, -2, -1),
        (-6, -2, -1),
        (i64::MAX, 1, i64::MAX),
        (i64::MIN, -63, -1),
        (i64::MIN, -64, 0),
        (1, 62, 1 << 62),
        (0, 400, 0),
        (7, -400, 0),
        (-7, -400, 0),
    ];
    for (v, s, want) in cases {
        assert_eq!(shift_half_up(v, s), want, "shift_half_up({v}, {s})");
    }
}

#[test]
fn logarithms_are_exact_around_every_power_of_two() {
    for k in -126..=127 {
        let power = mul_pow2(1.0, k);
        assert_eq!(ceil_log2(power), Some(k), "ceil_log2(2^{k})");
        assert_eq!(floor_log2(power), Some(k), "floor_log2(2^{k})");
        let above = f32::from_bits(power.to_bits() + 1);
        assert_eq!(ceil_log2(above), Some(k + 1), "one ulp above 2^{k}");
        assert_eq!(floor_log2(above), Some(k), "one ulp above 2^{k}");
    }
    assert_eq!(ceil_log2(0.0), None, "zero");
    assert_eq!(ceil_log2(1e-40), None, "a denormal counts as zero");
}

#[test]
fn fractional_bits_follow_the_range() {
    let cases = [
        (7, 1.0, 7),
        (7, 0.3, 7),
        (7, 1.5, 6),
        (8, 255.0, 0),
        (7, 300.0, -2),
        (7, 0.0, 7),
    ];
    for (n, range, want) in cases {
        assert_eq!(
            max_frac_bits(bits(n), range),
            want,
            "max_frac_bits({n}, {range})"
        );
    }
}

#[test]
fn a_scale_of_a_power_of_two_loses_one_step() {
    let q = quantize_scales(&PerAxis::Axis(vec![1.0, 0.75, 0.25]), bits(8)).unwrap();
    assert_eq!(q.values, PerAxis::Axis(vec![255, 192, 255]), "integers");
    assert_eq!(q.frac_bits, PerAxis::Axis(vec![8, 8, 10]), "binary points");
    assert!(
        quantize_scales(&PerAxis::Tensor(0.0), bits(8)).is_err(),
        "a scale of zero"
    );
    assert!(
        quantize_scales(&PerAxis::Tensor(f32::NAN), bits(8)).is_err(),
        "NaN"
    );
}

#[test]
fn tensors_keep_their_rules() {
    let a = FixedPoint::new(
        array_of(&[1, 2], &[100, 50]),
        bits(7),
        PerAxis::Axis(vec![5, 7]),
    )
    .unwrap();
    let expanded = a.expand(bits(15)).unwrap();
    assert_eq!(expanded.values(), &array_of(&[1, 2], &[400, 50]), "expand");
    assert_eq!(
        expanded.frac_bits(),
        &PerAxis::Tensor(7),
        "expand gives one binary point"
    );
    assert!(
        matches!(
            a.clone().promote(bits(6)),
            Err(NumericsError::Promote { .. })
        ),
        "promote"
    );
    let far = a.rescale(&PerAxis::Tensor(30), bits(20));
    assert!(
        matches!(far, Err(NumericsError::Shift { shift: 25, .. })),
        "a shift too far: {far:?}"
    );
    assert!(
        a.add(&expanded).is_err(),
        "different binary points do not add"
    );
    let sum = a.add(&a).unwrap();
    assert_eq!(
        sum.values(),
        &array_of(&[1, 2], &[127, 100]),
        "addition saturates"
    );
    assert_eq!(
        a.to_float(),
        arr1(&[3.125, 0.390_625])
            .into_shape_with_order(IxDyn(&[1, 2]))
            .unwrap(),
        "real values"
    );
    let x = arr1(&[0.3, -2.0, 0.05]).into_dyn();
    let q = QFloat::quantize(&x, bits(7), PerAxis::Tensor(0.01), PerAxis::Tensor(0)).unwrap();
    assert_eq!(
        q.fixed.values(),
        &array_of(&[3], &[30, -128, 5]),
        "QFloat saturates"
    );
    let fixed = q.to_fixed_point(bits(8)).unwrap();
    assert_eq!(
        fixed.frac_bits(),
        &PerAxis::Tensor(14),
        "0.01 as 164 / 2^14"
    );
    assert_eq!(
        fixed.values(),
        &array_of(&[3], &[127, -128, 127]),
        "keeps its value bits"
    );
}

#[test]
fn weights_reach_the_largest_integer_and_dead_channels_are_zero() {
    let w = array![[0.5_f32, 0.0, 1e-7], [-0.25, 0.0, -1e-7]].into_dyn();
    let quantizer = WeightQuantizer::new(width(8)).unwrap();
    let q = quantizer.quantize(&w, WeightAxis::Axis(1)).unwrap();
    assert_eq!(
        q.values.iter().copied().collect::<Vec<_>>(),
        [127, 0, 0, -64, 0, 0],
        "integers"
    );
    assert_eq!(
        q.scales,
        PerAxis::Axis(vec![0.5 / 127.0, 1e-6, 1e-6]),
        "scales"
    );
    let tensor = quantizer.quantize(&w, WeightAxis::PerTensor).unwrap();
    assert_eq!(tensor.scales, PerAxis::Tensor(0.5 / 127.0), "one scale");
    assert!(
        quantizer.quantize(&w, WeightAxis::Axis(2)).is_err(),
        "no such axis"
    );
    let nan = array![f32::NAN].into_dyn();
    assert!(
        quantizer.quantize(&nan, WeightAxis::PerTensor).is_err(),
        "NaN"
    );
    assert!(
        WeightQuantizer::new(width(25)).is_err(),
        "wider than a float's digits"
    );
}

#[test]
fn aligned_weights_keep_their_bits_before_the_shift() {
    let tensor =
        QFormat::fixed(bits(27), PerAxis::Tensor(4)).with_scales(PerAxis::Axis(vec![0.5, 0.001]));
    let quantizer = AlignedWeightQuantizer::new(width(8), Sign::Signed).unwrap();
    let q = quantizer
        .quantize(&PerAxis::Axis(vec![3.0, 2.0]), &tensor)
        .unwrap();
    // 3 / 0.5 = 6 < 2^3: fb = 7 - 3 = 4; 2 / 0.001 = 2000 < 2^11: fb = 7 - 11 = -4.
    assert_eq!(q.values, PerAxis::Axis(vec![96, 125]), "integers of 8 bits");
    assert_eq!(
        q.shift,
        PerAxis::Axis(vec![0, 8]),
        "shifts to 4 fractional bits"
    );
    assert_eq!(
        q.aligned(bits(27)),
        PerAxis::Axis(vec![96, 32_000]),
        "aligned"
    );
    let few = AlignedWeightQuantizer::new(width(4), Sign::Signed).unwrap();
    let q = few
        .quantize(&PerAxis::Axis(vec![3.0, 2.0]), &tensor)
        .unwrap();
    // At 4 bits the largest range counts for all: 3 / 0.5 and 3 / 0.001.
    assert_eq!(q.values, PerAxis::Axis(vec![6, 4]), "one range for all");
    assert_eq!(q.shift, PerAxis::Axis(vec![4, 13]), "shifts");
}

fn output(range: f32) -> OutputQuantizer {
    OutputQuantizer {
        bitwidth: width(8),
        sign: Sign::Signed,
        scale_bits: width(8),
        buffer: bits(32),
        range_max: PerAxis::Tensor(range),
        rescaling_rate: PerAxis::Tensor(1.0),
    }
}

#[test]
fn an_output_quantizer_scales_shifts_and_clips() {
    let format = QFormat::fixed(bits(32), PerAxis::Tensor(0)).with_scales(PerAxis::Tensor(0.01));
    let (stage, out) = output(4.0).prepare(&format).unwrap();
    assert_eq!(
        out,
        QFormat::fixed(bits(7), PerAxis::Tensor(5)),
        "range 4 leaves 5 bits of 7"
    );
    assert_eq!(
        stage.multiplier,
        Some((PerAxis::Tensor(164), bits(32))),
        "0.01 as 164 / 2^14"
    );
    assert_eq!(stage.shift, PerAxis::Tensor(5 - 14), "shift");
    let mut counters = Counters::default();
    // 100 * 164 = 16400; / 2^9 = 32.03 -> 32 = 1.0 * 2^5.
    assert_eq!(stage.apply(100, 0, &mut counters), 32, "1.0");
    assert_eq!(
        stage.apply(1000, 0, &mut counters),
        127,
        "10.0 is beyond the range"
    );
    let count = counters.get(Stage::OutputRescale).unwrap();
    assert_eq!(
        (count.saturated, count.elements, count.max_abs),
        (1, 2, 320),
        "counts"
    );
    assert_eq!(
        counters.overflows(),
        0,
        "clipping to the range is by design"
    );
    let narrow = QFormat::fixed(bits(7), PerAxis::Tensor(0));
    assert!(
        matches!(
            output(1.0).prepare(&narrow),
            Err(NumericsError::Pointless { .. })
        ),
        "width"
    );
    assert!(
        output(f32::INFINITY).prepare(&format).is_err(),
        "an infinite range"
    );
}

#[test]
fn an_unsigned_input_quantizer_adds_its_zero_point() {
    let ranges = [PerAxis::Tensor(-1.0), PerAxis::Tensor(3.0)];
    let q = InputQuantizer::new(width(8), Sign::Unsigned, &ranges[0], &ranges[1]).unwrap();
    assert_eq!(q.frac_bits, PerAxis::Tensor(6), "range 4 of 8 bits");
    assert_eq!(q.zero_point, Some(PerAxis::Tensor(64)), "1.0 * 2^6");
    let mut counters = Counters::default();
    assert_eq!(
        q.apply(-1.0, 0, &mut counters),
        0,
        "the smallest input is 0"
    );
    assert_eq!(q.apply(0.5, 0, &mut counters), 96, "0.5 + 1.0");
    assert_eq!(
        q.apply(-2.0, 0, &mut counters),
        -64,
        "below the range it stays negative"
    );
    let positive = [PerAxis::Tensor(0.5), PerAxis::Tensor(3.0)];
    assert!(
        InputQuantizer::new(width(8), Sign::Unsigned, &positive[0], &positive[1]).is_err(),
        "range_min must not be positive"
    );
}

#[test]
fn borders_follow_the_same_rule() {
    assert_eq!(same_pads(8, 3, 2, 1), (0, 1), "stride 2 on an even extent");
    assert_eq!(same_pads(7, 3, 2, 1), (1, 1), "stride 2 on an odd extent");
    assert_eq!(same_pads(5, 3, 1, 2), (2, 2), "dilation");
    assert_eq!(
        window_extent(2, 3, 1, 1, Padding::Valid),
        None,
        "does not fit"
    );
    assert_eq!(
        transposed_extent(4, 3, 2, Padding::Valid, None),
        Some(9),
        "valid"
    );
    assert_eq!(
        transposed_extent(4, 3, 2, Padding::Same, Some(1)),
        Some(8),
        "output padding"
    );
}

#[test]
fn flatten_saturates_within_its_own_width() {
    let input = QFormat::fixed(bits(7), PerAxis::Axis(vec![5, 7]));
    let layer = layers::flatten(&input).unwrap();
    let mut counters = Counters::default();
    let y = layer
        .run(&[&array_of(&[1, 1, 1, 2], &[100, 50])], &mut counters)
        .unwrap();
    assert_eq!(
        y,
        array_of(&[1, 2], &[127, 50]),
        "channels with fewer bits move left and clip"
    );
    assert_eq!(
        counters.get(Stage::FlattenAlign).unwrap().saturated,
        1,
        "one clipped"
    );
    assert_eq!(
        layer.format.frac_bits,
        PerAxis::Tensor(7),
        "one binary point"
    );
    let far = QFormat::fixed(bits(7), PerAxis::Axis(vec![0, 7]));
    assert!(layers::flatten(&far).is_err(), "a shift of the whole width");
}

#[test]
fn a_rectifier_gives_a_fixed_point_the_scale_255_over_256() {
    let input = QFormat::fixed(bits(31), PerAxis::Tensor(8));
    let quantizer = output(1.0);
    let params = ReluParams {
        max_value: None,
        buffer: bits(32),
        output: Some(&quantizer),
    };
    let layer = layers::relu(&input, &params).unwrap();
    let mut counters = Counters::default();
    let y = layer
        .run(&[&array_of(&[1, 3], &[-5, 128, 256])], &mut counters)
        .unwrap();
    // 128 / 2^8 = 0.5: 128 * 255 = 32640, / 2^9 = 63.75 -> 64; 1.0: 127.5 -> 128 -> 127.
    assert_eq!(y, array_of(&[1, 3], &[0, 64, 127]), "scaled by 255 / 256");
}

#[test]
fn a_convolution_pads_with_the_value_of_its_border() {
    let input = QFormat::fixed(bits(8), PerAxis::Tensor(0)).with_scales(PerAxis::Tensor(0.5));
    let kernel = ndarray::Array4::from_elem((3, 3, 1, 1), 1.0_f32);
    let weight_quantizer = WeightQuantizer::new(width(8)).unwrap();
    let border = AlignedWeightQuantizer::new(width(8), Sign::Signed).unwrap();
    let params = WeightedParams {
        weight_quantizer,
        axis: WeightAxis::Axis(3),
        bias: None,
        buffer: bits(27),
        output: None,
    };
    let steps = [[1, 1], [1, 1]];
    let layer = layers::conv2d(
        &input,
        &kernel,
        &FloatBorder::Value(&[2.0], border),
        steps,
        &params,
    )
    .unwrap();
    let mut counters = Counters::default();
    let y = layer
        .run(&[&array_of(&[1, 1, 1, 1], &[10])], &mut counters)
        .unwrap();
    // The border is 2.0 / 0.5 = 4; each weight is 127: 127 * (10 + 8 * 4).
    assert_eq!(
        y,
        array_of(&[1, 1, 1, 1], &[127 * 42]),
        "one pixel in its border"
    );
    let fixed = QFormat::fixed(bits(8), PerAxis::Tensor(0));
    let refused = layers::conv2d(
        &fixed,
        &kernel,
        &FloatBorder::Value(&[2.0], border),
        steps,
        &params,
    );
    assert!(refused.is_err(), "a padding value needs scales");
}

#[test]
fn an_add_aligns_both_inputs_and_halves_an_average_by_its_point() {
    let left = QFormat::fixed(bits(7), PerAxis::Axis(vec![3, 6]));
    let right = QFormat::fixed(bits(7), PerAxis::Tensor(5));
    let layer = layers::add([&left, &right], true, bits(31), None).unwrap();
    let mut counters = Counters::default();
    let a = array_of(&[1, 2], &[1, 2]);
    let b = array_of(&[1, 2], &[3, 4]);
    let y = layer.run(&[&a, &b], &mut counters).unwrap();
    assert_eq!(
        y,
        array_of(&[1, 2], &[7, 10]),
        "1 << 2 plus 3, 2 plus 4 << 1"
    );
    assert_eq!(
        layer.format.frac_bits,
        PerAxis::Axis(vec![6, 7]),
        "one more bit each"
    );
}
