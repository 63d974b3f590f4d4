//! What quantization costs in each layer: against naive computations, and what would help.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::path::Path;

use bitproof::akida_sim::QuantizedOp;
use bitproof::analyze::{
    Analysis, ChannelUse, Deviation, Edit, LayerDeviation, ModelDeviation, OutputError, Place,
    Requantizer, Usage, ranked_by_deviation,
};
use bitproof::calibration::ArraySource;
use bitproof::config_schema::InputDtype;
use bitproof::float_model::Convolution;
use bitproof::model_files::ArrayReader;
use bitproof::quantizer_core::{Counters, QFormat};
use bitproof::{
    Executor, Graph, GraphBuilder, InputQuantizerMode, ParamValues, QuantizationParams,
    QuantizeOptions, QuantizedModel, Samples, counterpart, load_float, load_quantized, quantize,
};
use ndarray::{ArrayD, Axis, IxDyn};
use serde_json::{Value, json};

/// Returns floats between -1 and 3 that look random.
fn floats(shape: &[usize]) -> ArrayD<f32> {
    let mut state = 7_u32;
    ArrayD::from_shape_simple_fn(IxDyn(shape), || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(state.to_be_bytes()[0]) / 64.0 - 1.0
    })
}

fn network() -> Graph {
    let mut b = GraphBuilder::with_seed("network", 3);
    let x = b.input("input", [9, 9, 2]);
    let x = b.conv2d("conv_0", x, 4, Convolution::new(3).same());
    let x = b.batch_normalization("bn_0", x);
    let x = b.relu("relu_0", x);
    let x = b.max_pool2d("pool_0", x, 2);
    let x = b.conv2d("conv_1", x, 6, Convolution::new(3));
    let x = b.relu("relu_1", x);
    let x = b.flatten("flatten", x);
    let x = b.dense("dense", x, 5);
    b.build([x]).unwrap()
}

/// Returns a network of two pools, without the Flatten whose alignment of channels overflows.
fn pooled() -> Graph {
    let mut b = GraphBuilder::with_seed("pooled", 4);
    let x = b.input("input", [9, 9, 2]);
    let x = b.conv2d("conv_0", x, 4, Convolution::new(3).same());
    let x = b.relu("relu_0", x);
    let x = b.max_pool2d("pool_0", x, 2);
    let x = b.depthwise_conv2d("dw_1", x, Convolution::new(3).same());
    let x = b.conv2d("pw_1", x, 6, Convolution::new(1));
    let x = b.relu("relu_1", x);
    let x = b.global_average_pooling2d("gap", x);
    let x = b.dense("dense", x, 5);
    b.build([x]).unwrap()
}

fn options(weight_bits: u8, activation_bits: u8, input_dtype: InputDtype) -> QuantizeOptions {
    let params = QuantizationParams::try_from(ParamValues {
        weight_bits,
        activation_bits,
        input_weight_bits: weight_bits,
        output_bits: activation_bits,
        input_dtype,
        ..ParamValues::default()
    });
    QuantizeOptions {
        params: params.unwrap(),
        input_quantizer: InputQuantizerMode::Always,
        ..QuantizeOptions::default()
    }
}

fn quantized(options: &QuantizeOptions) -> QuantizedModel {
    let samples = Samples::Floats(floats(&[16, 9, 9, 2]));
    quantize(network(), samples, options, &mut |_| ())
        .unwrap()
        .model
}

fn analyzed(model: &QuantizedModel, graph: &Graph, x: &ArrayD<f32>) -> ModelDeviation {
    let mut analysis = Analysis::new(model, graph).unwrap();
    analysis.add(x).unwrap();
    analysis.finish()
}

fn layer<'d>(found: &'d ModelDeviation, name: &str) -> &'d LayerDeviation {
    found.layers.iter().find(|l| l.name == name).unwrap()
}

/// Returns a value of each channel as f64, computed without the crates' conversions.
fn real(v: i64, channel: usize, format: &QFormat, rate: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "below 2^50")]
    let v = v as f64;
    let scale = format
        .scales
        .as_ref()
        .map_or(1.0, |s| f64::from(s.at(channel)));
    let bits = format.frac_bits.at(channel);
    v * (-f64::from(bits)).exp2() * scale / rate
}

fn close(a: f64, b: f64, what: &str) {
    // Values are rounded to f32 before they are compared: each is off by 2^-24 of itself.
    assert!(
        (a - b).abs() <= 1e-4 * b.abs().max(1e-3),
        "{what}: {a}, naively {b}"
    );
}

/// SMAPE, SQNR and cosine of lists, by their definitions.
fn naive(pairs: &[(f64, f64, bool)]) -> [f64; 3] {
    let inside: Vec<f64> = pairs
        .iter()
        .filter(|(_, _, at_end)| !at_end)
        .map(|(x, y, _)| match x.abs() + y.abs() {
            sum if sum > 0.0 => (x - y).abs() / sum,
            _ => 0.0,
        })
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let n = inside.len() as f64;
    let sum = |f: fn(&(f64, f64, bool)) -> f64| pairs.iter().map(f).sum::<f64>();
    let (xx, yy) = (sum(|(x, _, _)| x * x), sum(|(_, y, _)| y * y));
    let (xy, noise) = (sum(|(x, y, _)| x * y), sum(|(x, y, _)| (x - y) * (x - y)));
    [
        inside.iter().sum::<f64>() / n,
        10.0 * (xx / noise).log10(),
        xy / (xx * yy).sqrt(),
    ]
}

#[test]
fn deviations_within_the_model_are_those_of_their_definitions() {
    for dtype in [InputDtype::UInt8, InputDtype::Int8] {
        let model = quantized(&options(4, 4, dtype));
        let graph = counterpart(&network(), &model).unwrap();
        let x = floats(&[5, 9, 9, 2]);
        let found = analyzed(&model, &graph, &x);
        let mut real_ones: Vec<ArrayD<f32>> = Vec::new();
        graph
            .run(&[&x], &mut |_, y| real_ones.push(y.clone()))
            .unwrap();
        let mut integers: Vec<Option<ArrayD<i64>>> = Vec::new();
        let executor = Executor::new(&model);
        executor
            .run(&x, &mut |_, tensor| integers.push(tensor.integers()))
            .unwrap();
        for name in ["conv_0", "relu_0", "conv_1", "relu_1", "dense"] {
            let index = model.nodes.iter().position(|n| n.name == name).unwrap();
            let node = &model.nodes[index];
            let format = node.format().unwrap();
            let limit = 1_i64 << format.value_bits.bits();
            let y = &real_ones[graph.find(name).unwrap().index()];
            let q = integers[index].as_ref().unwrap();
            let n_channels = *q.shape().last().unwrap();
            let pairs: Vec<(f64, f64, bool)> = std::iter::zip(y, q)
                .enumerate()
                .map(|(i, (y, q))| {
                    let channel = i % n_channels;
                    let rate = node.ranges.as_ref();
                    let rate = rate.map_or(1.0, |r| f64::from(r.rescaling_rate.at(channel)));
                    let at_end = *q == -limit || *q == limit - 1;
                    (f64::from(*y), real(*q, channel, &format, rate), at_end)
                })
                .collect();
            let [smape, sqnr, cosine] = naive(&pairs);
            let layer = layer(&found, name);
            close(layer.cumulative.smape().unwrap(), smape, name);
            close(layer.cumulative.sqnr_db().unwrap(), sqnr, name);
            close(layer.cumulative.cosine().unwrap(), cosine, name);
            let usage = layer.usage.as_ref().unwrap();
            let n_at_end = pairs.iter().filter(|(_, _, at_end)| *at_end).count();
            assert_eq!(
                usage.n_at_end,
                u64::try_from(n_at_end).unwrap(),
                "{name}: saturated"
            );
            let dead = (0..n_channels)
                .filter(|c| q.index_axis(Axis(q.ndim() - 1), *c).iter().all(|v| *v == 0));
            assert_eq!(usage.dead(), dead.collect::<Vec<usize>>(), "{name}: dead");
        }
    }
}

/// The scalar definition, on integers that the test makes of the float network's activations.
#[test]
fn a_layer_alone_is_what_its_definition_gives_on_float_activations() {
    let model = quantized(&options(4, 8, InputDtype::Int8));
    let graph = counterpart(&network(), &model).unwrap();
    let x = floats(&[5, 9, 9, 2]);
    let found = analyzed(&model, &graph, &x);
    let find = |name: &str| model.nodes.iter().position(|n| n.name == name).unwrap();
    let mut real_ones: Vec<ArrayD<f32>> = Vec::new();
    graph
        .run(&[&x], &mut |_, y| real_ones.push(y.clone()))
        .unwrap();

    // dense takes flatten, whose channels repeat those of relu_1 with its rates.
    let (index, producer) = (find("dense"), find("flatten"));
    let rates = &model.nodes[find("relu_1")]
        .ranges
        .as_ref()
        .unwrap()
        .rescaling_rate;
    assert!(
        rates.as_slice().iter().filter(|r| **r < 0.9).count() > 3,
        "there is something to equalize: {rates:?}"
    );
    let format = model.nodes[producer].format().unwrap();
    let activations = &real_ones[graph.find("flatten").unwrap().index()];
    let (n_rates, n_channels) = (rates.n_values(), activations.shape()[1]);
    let mut again = activations.clone();
    let mut inputs = ArrayD::<i64>::zeros(activations.raw_dim());
    for (i, (v, real_v)) in inputs.iter_mut().zip(&mut again).enumerate() {
        let channel = i % n_channels;
        let rate = rates.at(channel % n_rates);
        let scale = format.scales.as_ref().map_or(1.0, |s| s.at(channel));
        let wanted =
            f64::from(*real_v * rate / scale) * f64::from(format.frac_bits.at(channel)).exp2();
        #[expect(clippy::cast_possible_truncation, reason = "a small integer")]
        let nearest = wanted.round_ties_even() as i64;
        *v = format.value_bits.saturate(nearest.max(0));
        #[expect(clippy::cast_possible_truncation, reason = "an activation")]
        let value = real(*v, channel, &format, f64::from(rate)) as f32;
        *real_v = value;
    }
    let QuantizedOp::Integer(dense) = &model.nodes[index].op else {
        unreachable!("dense runs on integers");
    };
    let outputs = dense.run(&[&inputs], &mut Counters::default()).unwrap();
    let float = graph.node(graph.find("dense").unwrap());
    let expected = bitproof::float_model::apply("dense", &float.layer, &[&again]).unwrap();
    let format = model.nodes[index].format().unwrap();
    let pairs: Vec<(f64, f64, bool)> = std::iter::zip(&expected, &outputs)
        .enumerate()
        .map(|(i, (y, q))| (f64::from(*y), real(*q, i % 5, &format, 1.0), false))
        .collect();
    let [smape, sqnr, cosine] = naive(&pairs);
    let alone = layer(&found, "dense").alone.as_ref().unwrap();
    close(alone.smape().unwrap(), smape, "smape");
    close(alone.sqnr_db().unwrap(), sqnr, "sqnr");
    close(alone.cosine().unwrap(), cosine, "cosine");

    // Nothing comes before the first layer, but for the error of the quantized input.
    let first = layer(&found, "conv_0");
    let (alone, within) = (
        first.alone.unwrap().sqnr_db().unwrap(),
        first.cumulative.sqnr_db().unwrap(),
    );
    assert!(
        (alone - within).abs() < 3.0,
        "{alone} dB alone, {within} dB within"
    );
    let last = layer(&found, "dense");
    assert!(
        last.alone.unwrap().sqnr_db() > last.cumulative.sqnr_db(),
        "errors add up"
    );
}

/// Equalization and folding move factors of up to two and whole offsets: were one of them not
/// accounted for, the ratio would be near 6 dB somewhere.
#[test]
fn many_bits_leave_little_noise_in_every_layer() {
    for dtype in [InputDtype::UInt8, InputDtype::Int8, InputDtype::Int16] {
        let samples = Samples::Floats(floats(&[16, 9, 9, 2]));
        let options = options(8, 8, dtype);
        let model = quantize(pooled(), samples, &options, &mut |_| ())
            .unwrap()
            .model;
        let rates = model.nodes.iter().filter_map(|n| n.ranges.as_ref());
        let moved = rates.filter(|r| r.rescaling_rate.as_slice().iter().any(|r| *r < 0.8));
        assert!(moved.count() >= 3, "there is something to account for");
        let graph = counterpart(&pooled(), &model).unwrap();
        let found = analyzed(&model, &graph, &floats(&[6, 9, 9, 2]));
        assert_eq!(found.layers.len(), 9, "every layer has its counterpart");
        for layer in &found.layers {
            // The inputs are multiples of 1/64: their quantizer may lose nothing.
            let sqnr = layer.cumulative.sqnr_db();
            assert!(
                sqnr.is_none_or(|sqnr| sqnr > 28.0),
                "{} has {sqnr:?} dB with {}",
                layer.name,
                dtype.name()
            );
            assert_eq!(layer.n_overflows, 0, "{}", layer.name);
        }
        assert!(found.output.sqnr_db().unwrap() > 28.0, "the outputs too");
    }
}

/// Flatten aligns channels within their own width: what overflows there is told.
#[test]
fn overflows_are_counted() {
    let model = quantized(&options(8, 8, InputDtype::Int8));
    let graph = counterpart(&network(), &model).unwrap();
    let x = floats(&[6, 9, 9, 2]);
    let found = analyzed(&model, &graph, &x);
    let run = Executor::new(&model).run(&x, &mut |_, _| ()).unwrap();
    for layer in &found.layers {
        let counted = run.counters[layer.node].overflows();
        assert_eq!(layer.n_overflows, counted, "{}", layer.name);
    }
    assert!(layer(&found, "flatten").n_overflows > 0, "the case is one");
}

#[test]
fn results_do_not_depend_on_batches() {
    let model = quantized(&options(4, 4, InputDtype::UInt8));
    let graph = counterpart(&network(), &model).unwrap();
    let x = floats(&[7, 9, 9, 2]);
    let mut single = Analysis::new(&model, &graph).unwrap();
    for item in x.axis_chunks_iter(Axis(0), 1) {
        single.add(&item.to_owned()).unwrap();
    }
    assert_eq!(
        single.finish(),
        analyzed(&model, &graph, &x),
        "in batches of one"
    );
}

#[test]
fn another_float_model_is_refused() {
    let model = quantized(&options(8, 8, InputDtype::Int8));
    let mut b = GraphBuilder::new("other");
    let x = b.input("input", [9, 9, 2]);
    let x = b.conv2d("conv_0", x, 5, Convolution::new(3).same());
    let other = b.build([x]).unwrap();
    let error = Analysis::new(&model, &other).unwrap_err().to_string();
    assert!(
        error.contains("`conv_0` gives [9, 9, 4] in the quantized model, [9, 9, 5]"),
        "{error}"
    );
    assert!(error.contains("is this the float model"), "{error}");
}

/// Returns the edits of a model with their gains, the best first.
fn gains(model: &QuantizedModel, max_bits: u8, settings: &QuantizeOptions) -> Vec<(f64, Edit)> {
    let samples = floats(&[16, 9, 9, 2]);
    let again = Requantizer::new(
        model,
        network(),
        Samples::Floats(samples.clone()),
        settings,
        &mut |_| (),
    )
    .unwrap();
    assert!(again.is_same(), "the same samples give the same model");
    let graph = counterpart(&network(), model).unwrap();
    let outputs = OutputError::new(&graph, &mut ArraySource::floats(samples), 12).unwrap();
    assert_eq!(outputs.n_samples(), 12, "as many as asked for");
    let base = outputs.of(again.baseline()).unwrap().sqnr_db().unwrap();
    let mut gains: Vec<(f64, Edit)> = again
        .edits(max_bits)
        .into_iter()
        .map(|edit| {
            let with = outputs.of(&again.with(&edit).unwrap()).unwrap();
            (with.sqnr_db().unwrap() - base, edit)
        })
        .collect();
    gains.sort_by(|a, b| b.0.total_cmp(&a.0));
    gains
}

#[test]
fn a_layer_of_two_bits_costs_most_and_more_bits_are_proposed() {
    let normal = options(8, 8, InputDtype::Int8);
    let config = quantized(&normal).dump_config();
    for (name, quantizer) in [
        ("conv_1", "weight_quantizer"),
        ("relu_0", "output_quantizer"),
    ] {
        let mut entry = config[name].clone();
        entry[quantizer]["bitwidth"] = json!(2);
        if quantizer == "output_quantizer" {
            entry[quantizer]["signed"] = json!(false);
        }
        let mut settings = normal.clone();
        settings.q_config = Some([(name.to_owned(), entry)].into_iter().collect());
        let model = quantized(&settings);
        let gains = gains(&model, 8, &QuantizeOptions::default());
        let (gain, best) = &gains[0];
        assert_eq!(
            (best.layer.as_str(), best.quantizer.as_str()),
            (name, quantizer),
            "the layer"
        );
        assert_eq!((best.from, best.to), (2, 4), "more bits");
        assert!(*gain > 1.0, "{gain} dB");
        assert!(
            gains.iter().skip(1).all(|(other, _)| other < gain),
            "no other helps as much"
        );
        // The layer loses most on its own as well, so that it is among the first to be tried.
        let graph = counterpart(&network(), &model).unwrap();
        let found = analyzed(&model, &graph, &floats(&[8, 9, 9, 2]));
        let edits = gains.iter().map(|(_, edit)| edit.clone()).rev().collect();
        assert_eq!(
            ranked_by_deviation(edits, &found)[0].layer,
            name,
            "it is tried first"
        );
        // What is proposed can be pasted: it quantizes to the model that was measured.
        let mut again = normal.clone();
        again.q_config = best.fragment().as_object().cloned();
        let node = |model: &QuantizedModel| model.find(name).unwrap().config.clone().unwrap();
        assert_eq!(
            Value::Object(node(&quantized(&again))),
            Value::Object(best.entry.clone())
        );
    }
}

#[test]
fn a_model_stopped_early_is_quantized_again_as_it_was() {
    let mut settings = options(4, 4, InputDtype::UInt8);
    settings.quantize_until = Some("pool_0".to_owned());
    let model = quantized(&settings);
    let gains = gains(&model, 8, &QuantizeOptions::default());
    assert!(
        gains.iter().all(|(_, edit)| edit.layer.ends_with("_0")),
        "no layer behind it"
    );
    assert!(gains[0].0 > 1.0, "more bits help");
    let graph = counterpart(&network(), &model).unwrap();
    let found = analyzed(&model, &graph, &floats(&[3, 9, 9, 2]));
    let dense = layer(&found, "dense");
    assert!(
        dense.alone.is_none() && dense.usage.is_none(),
        "it is in float"
    );
    assert!(
        dense.cumulative.sqnr_db().unwrap() > 5.0,
        "with the errors before it"
    );
}

/// What QuantizeML 1.2.5 measures on the same inputs: `conformance/analyze_check.py`.
#[test]
fn smape_and_saturation_are_those_of_the_reference() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/cases");
    for (case, layers) in [
        (
            "05-tiny-conv-w4a4-i8-per-tensor",
            [
                ("conv_2", 0.176_151, 0.0),
                ("relu_2", 0.124_747, 0.2315),
                ("dense", 0.130_775, 0.0),
            ],
        ),
        (
            "13-resnet-add-relu-gap-w4",
            [
                ("r0", 0.008_058, 0.0434),
                ("add1", 0.148_451, 0.0),
                ("fc", 0.312_457, 0.0),
            ],
        ),
        (
            "24-lut-activations",
            [
                ("gelu", 0.047_225, 0.0),
                ("hard_silu", 0.077_082, 0.0625),
                ("leaky", 0.184_933, 0.2604),
            ],
        ),
        (
            "25-input-quantizer-uint8",
            [
                ("c0", 0.042_747, 0.0),
                ("r1", 0.038_311, 0.2604),
                ("fc", 0.413_374, 0.0),
            ],
        ),
    ] {
        let folder = cases.join(case);
        let model = load_quantized(&folder.join("expected/quantized.h5")).unwrap();
        let graph = load_float(&folder.join("model.h5")).unwrap();
        let mut inputs = ArrayReader::open(&folder.join("inputs.npy"), None, &[]).unwrap();
        let x = inputs.next_batch(inputs.shape()[0]).unwrap();
        let found = analyzed(&model, &counterpart(&graph, &model).unwrap(), &x);
        for (name, smape, saturated) in layers {
            let layer = layer(&found, name);
            // The reference sums in float32 in another order, and its numbers have six decimals.
            let difference = layer.cumulative.smape().unwrap() - smape;
            assert!(
                difference.abs() < 2e-6,
                "{case}: {name} is off by {difference}"
            );
            let share = 100.0 * layer.usage.as_ref().unwrap().saturation();
            assert!(
                (share - saturated).abs() < 6e-5,
                "{case}: {name} saturates {share} %"
            );
        }
    }
}

#[test]
fn edges_of_the_measures() {
    let mut none = Deviation::default();
    assert_eq!(
        (none.smape(), none.sqnr_db(), none.cosine()),
        (None, None, None),
        "no pairs"
    );
    none.add(0.0, 0.0, Place::Inside);
    assert_eq!(none.smape(), Some(0.0), "zeros are equal");
    assert_eq!((none.sqnr_db(), none.cosine()), (None, None), "no power");
    let mut one = Deviation::default();
    one.add(1.0, 3.0, Place::Inside);
    one.add(1.0, 8.0, Place::AtEnd);
    assert_eq!(one.smape(), Some(0.5), "what is clipped does not count");
    assert!(
        (one.mean_squared() - 26.5).abs() < 1e-12,
        "but here it does"
    );
    let channel = |lo, hi, float_max| ChannelUse { lo, hi, float_max };
    let usage = Usage {
        value_bits: 3,
        n: 8,
        n_at_end: 2,
        channels: vec![
            channel(-8, 2, 1.0),
            channel(0, 0, 0.5),
            channel(0, 0, 0.0),
            channel(0, 7, 1.0),
        ],
    };
    assert_eq!(
        usage.range_use(),
        Some(1.0),
        "-8 and 7 are the ends of 3 bits"
    );
    assert!((usage.saturation() - 0.25).abs() < 1e-12, "2 of 8");
    assert_eq!(
        (usage.dead(), usage.killed()),
        (vec![1, 2], vec![1]),
        "one is killed"
    );
}
