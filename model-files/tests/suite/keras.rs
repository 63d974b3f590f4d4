//! Keras models: what `tf_keras` says of the reference's files, and files made to be refused.

use float_model::{Dtype, Graph, Layer};
use hdf5_pure::{AttrValue, FileBuilder};
use model_files::{
    ArrayReader, FileError, ModelKind, detect, read_keras_h5, read_quantized_h5, write_keras_h5,
};
use ndarray::{Array, ArrayD, Dimension};
use serde_json::{Map, Value, json};

use crate::support::{Scratch, case, cases};

/// `tests/data/make_models.py` writes it.
const MODELS: &str = include_str!("../data/models.json");

/// Returns the weights of a layer by name.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the others have no weights in these files"
)]
fn weights(layer: &Layer) -> Vec<(&'static str, ArrayD<f32>)> {
    fn dynamic<D: Dimension>(array: &Array<f32, D>) -> ArrayD<f32> {
        array.clone().into_dyn()
    }
    let mut all = Vec::new();
    let mut push = |name, array: Option<ArrayD<f32>>| all.extend(array.map(|a| (name, a)));
    match layer {
        Layer::Conv2D(conv) => {
            push("kernel", Some(dynamic(&conv.kernel)));
            push("bias", conv.bias.as_ref().map(dynamic));
        }
        Layer::DepthwiseConv2D(conv) => {
            push("depthwise_kernel", Some(dynamic(&conv.kernel)));
            push("bias", conv.bias.as_ref().map(dynamic));
        }
        Layer::SeparableConv2D(conv) => {
            push("depthwise_kernel", Some(dynamic(&conv.depthwise_kernel)));
            push("pointwise_kernel", Some(dynamic(&conv.pointwise_kernel)));
            push("bias", conv.bias.as_ref().map(dynamic));
        }
        Layer::Conv2DTranspose(conv) => {
            push("kernel", Some(dynamic(&conv.kernel)));
            push("bias", conv.bias.as_ref().map(dynamic));
        }
        Layer::DepthwiseConv2DTranspose(conv) => {
            push("depthwise_kernel", Some(dynamic(&conv.kernel)));
            push("bias", conv.bias.as_ref().map(dynamic));
        }
        Layer::BufferTempConv(conv) => {
            push("kernel", Some(dynamic(&conv.kernel)));
            push("bias", conv.bias.as_ref().map(dynamic));
        }
        Layer::DepthwiseBufferTempConv(conv) => {
            push("kernel", Some(dynamic(&conv.kernel)));
            push("bias", conv.bias.as_ref().map(dynamic));
        }
        Layer::Dense(dense) => {
            push("kernel", Some(dynamic(&dense.kernel)));
            push("bias", dense.bias.as_ref().map(dynamic));
        }
        Layer::BatchNormalization(norm) => {
            push("gamma", norm.gamma.as_ref().map(dynamic));
            push("beta", norm.beta.as_ref().map(dynamic));
            push("moving_mean", Some(dynamic(&norm.mean)));
            push("moving_variance", Some(dynamic(&norm.variance)));
        }
        _ => {}
    }
    all
}

/// Returns the graph in the form of `models.json`.
fn described(graph: &Graph) -> Value {
    let layer = |node: &float_model::Node| {
        let weights: Map<String, Value> = weights(&node.layer)
            .into_iter()
            .map(|(name, array)| {
                let sum: f64 = array.iter().map(|w| f64::from(*w).abs()).sum();
                (name.to_owned(), json!([array.shape(), sum]))
            })
            .collect();
        json!({ "name": node.name, "class": node.layer.class_name(), "shape": node.shape,
            "weights": weights })
    };
    graph.nodes().iter().map(layer).collect()
}

/// Compares JSON; numbers may differ by the order of a sum.
fn assert_same(got: &Value, want: &Value, path: &str) {
    match (got, want) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() <= 1e-9 * b.abs(), "{path}: {a}, not {b}");
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{path}: {got}");
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                assert_same(a, b, &format!("{path}[{i}]"));
            }
        }
        (Value::Object(a), Value::Object(b)) => {
            let keys = |map: &Map<String, Value>| -> Vec<String> {
                let mut keys: Vec<String> = map.keys().cloned().collect();
                keys.sort();
                keys
            };
            assert_eq!(keys(a), keys(b), "{path}");
            for (key, value) in a {
                assert_same(value, &b[key], &format!("{path}.{key}"));
            }
        }
        (a, b) => assert_eq!(a, b, "{path}"),
    }
}

#[test]
fn models_are_read_as_tf_keras_reads_them() {
    let models: Map<String, Value> = serde_json::from_str(MODELS).unwrap();
    assert!(models.len() > 15, "the golden file is there");
    for (name, want) in &models {
        let path = case(name).join("model.h5");
        assert_eq!(detect(&path), Ok(ModelKind::KerasFloatH5), "{name}");
        let graph = read_keras_h5(&path).unwrap();
        assert_same(&described(&graph), want, name);
    }
}

#[test]
fn written_models_are_read_again() {
    let scratch = Scratch::new();
    for folder in cases() {
        let path = folder.join("model.h5");
        if let Ok(graph) = read_keras_h5(&path) {
            let copy = scratch.path("copy.h5");
            write_keras_h5(&graph, &copy).unwrap();
            assert_eq!(read_keras_h5(&copy).unwrap(), graph, "{}", path.display());
            let bytes = std::fs::read(&copy).unwrap();
            write_keras_h5(&graph, &copy).unwrap();
            assert!(std::fs::read(&copy).unwrap() == bytes, "the same bytes");
        }
    }
}

#[test]
fn quantized_models_are_told_from_float_ones() {
    let path = case("03-tiny-conv-8bit-per-axis").join("expected/quantized.h5");
    assert_eq!(detect(&path), Ok(ModelKind::KerasQuantizedH5), "its layers");
    let error = read_keras_h5(&path).unwrap_err();
    assert!(error.to_string().contains("QuantizedConv2D"), "{error}");
    read_quantized_h5(&path).unwrap();
}

/// Weights of a layer: name, extents, values.
type Weight<'a> = (&'a str, &'a [u64], &'a [f32]);

/// Writes a model as Keras 2 does.
fn model(
    scratch: &Scratch,
    config: &Value,
    weights: &[(&str, &[Weight<'_>])],
) -> std::path::PathBuf {
    let names = |names: Vec<String>| match names.as_slice() {
        [] => AttrValue::F64Array(Vec::new()),
        _ => AttrValue::VarLenAsciiStringArray(names),
    };
    let mut file = FileBuilder::new();
    let mut root = file.create_group("model_weights");
    root.set_attr(
        "layer_names",
        names(
            weights
                .iter()
                .map(|(layer, _)| (*layer).to_owned())
                .collect(),
        ),
    );
    for (layer, weights) in weights {
        let mut group = root.create_group(layer);
        let full = |weight: &str| format!("{layer}/{weight}:0");
        group.set_attr(
            "weight_names",
            names(weights.iter().map(|(weight, ..)| full(weight)).collect()),
        );
        let mut inner = group.create_group(layer);
        for (weight, shape, values) in *weights {
            inner
                .create_dataset(&format!("{weight}:0"))
                .with_f32_data(values)
                .with_shape(shape);
        }
        group.add_group(inner.finish());
        root.add_group(group.finish());
    }
    file.add_group(root.finish());
    file.set_attr(
        "model_config",
        AttrValue::VarLenAsciiString(config.to_string()),
    );
    scratch.write("model.h5", &file.finish().unwrap())
}

fn input(shape: &Value) -> Value {
    json!({ "class_name": "InputLayer", "name": "in", "inbound_nodes": [],
        "config": { "name": "in", "batch_input_shape": shape, "dtype": "uint8" } })
}

fn layer(class: &str, name: &str, config: Value, inbound: Value) -> Value {
    json!({ "class_name": class, "name": name, "config": config, "inbound_nodes": inbound })
}

fn functional(layers: &[Value], output: &str) -> Value {
    json!({ "class_name": "Functional", "config": { "name": "m", "layers": layers,
        "input_layers": [["in", 0, 0]], "output_layers": [[output, 0, 0]] } })
}

/// Returns a network of an input of three channels and a dense layer called `fc`.
fn dense(config: Value) -> Value {
    let fc = layer("Dense", "fc", config, json!([[["in", 0, 0, {}]]]));
    functional(&[input(&json!([null, 3])), fc], "fc")
}

const KERNEL: Weight<'_> = ("kernel", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
const BIAS: Weight<'_> = ("bias", &[2], &[7.0, 8.0]);

#[test]
fn a_functional_model_keeps_the_type_of_its_input() {
    let scratch = Scratch::new();
    let path = model(
        &scratch,
        &dense(json!({ "units": 2 })),
        &[("fc", &[KERNEL, BIAS])],
    );
    let graph = read_keras_h5(&path).unwrap();
    let Layer::Input(input) = &graph.nodes()[0].layer else {
        panic!("the input is first");
    };
    assert_eq!(input.dtype, Dtype::UInt8, "type");
    assert_eq!(graph.nodes()[1].shape, [Some(2)], "shape");
}

#[test]
fn a_sequential_model_may_imply_its_input() {
    let scratch = Scratch::new();
    let dense = json!({ "class_name": "Dense",
        "config": { "name": "fc", "units": 2, "batch_input_shape": [null, 3] } });
    let implied =
        json!({ "class_name": "Sequential", "config": { "name": "s", "layers": [dense] } });
    let path = model(&scratch, &implied, &[("fc", &[KERNEL, BIAS])]);
    let graph = read_keras_h5(&path).unwrap();
    let names: Vec<&str> = graph
        .nodes()
        .iter()
        .map(|node| node.name.as_str())
        .collect();
    assert_eq!(names, ["fc_input", "fc"], "layers");
    // What the model was built for stands in its configuration, or beside it.
    let flatten = json!({ "class_name": "Flatten", "config": { "name": "flat" } });
    let shape = json!([null, 2, 3]);
    for built in [
        json!({ "class_name": "Sequential", "build_config": { "input_shape": shape },
            "config": { "name": "s", "layers": [flatten] } }),
        json!({ "class_name": "Sequential",
            "config": { "name": "s", "layers": [flatten], "build_input_shape": shape } }),
    ] {
        let graph = read_keras_h5(&model(&scratch, &built, &[])).unwrap();
        assert_eq!(graph.nodes()[0].shape, [Some(2), Some(3)], "the input");
        assert_eq!(graph.nodes()[1].shape, [Some(6)], "the output");
    }
    let open =
        json!({ "class_name": "Sequential", "config": { "name": "s", "layers": [flatten] } });
    let error = read_keras_h5(&model(&scratch, &open, &[])).unwrap_err();
    assert!(
        error.to_string().contains("without an input shape"),
        "{error}"
    );
}

/// Asserts that a model is refused as unsupported (or as invalid), for this reason.
fn refused(config: &Value, weights: &[(&str, &[Weight<'_>])], kind: Kind, reason: &str) {
    let scratch = Scratch::new();
    let error = read_keras_h5(&model(&scratch, config, weights)).unwrap_err();
    let text = error.to_string();
    let is_kind = match kind {
        Kind::Invalid => matches!(error, FileError::Invalid { .. }),
        Kind::Unsupported => matches!(error, FileError::Unsupported { .. }),
    };
    assert!(is_kind && text.contains(reason), "{reason}: {text}");
    assert!(text.contains("model.h5"), "names the file: {text}");
}

#[derive(Clone, Copy)]
enum Kind {
    Invalid,
    Unsupported,
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let two = json!({ "units": 2 });
    let refuse = |config: &Value, weights: &[Weight<'_>], reason: &str| {
        let config = dense(config.clone());
        refused(&config, &[("fc", weights)], Kind::Invalid, reason);
    };
    refuse(&two, &[KERNEL], "layer `fc`: weight `bias` is missing");
    refuse(&two, &[BIAS], "layer `fc`: weight `kernel` is missing");
    let no_bias = json!({ "units": 2, "use_bias": false });
    refuse(
        &no_bias,
        &[KERNEL, BIAS],
        "layer `fc`: unexpected weight `bias`",
    );
    refuse(
        &json!({ "units": 3 }),
        &[KERNEL, BIAS],
        "layer `fc`: `units` is 3",
    );
    let long = ("bias", &[3][..], &[0.0; 3][..]);
    refuse(&two, &[KERNEL, long], "layer `fc`: bias has 3 entries");
    let flat = ("kernel", &[6][..], &[0.0; 6][..]);
    refuse(
        &two,
        &[flat, BIAS],
        "layer `fc`: weight `kernel` has extents [6]",
    );
    let wide = ("kernel", &[4, 2][..], &[0.0; 8][..]);
    refuse(&two, &[wide, BIAS], "layer `fc`");
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let values = [1.0, odd];
        let odd = ("bias", &[2][..], &values[..]);
        refuse(
            &two,
            &[KERNEL, odd],
            "layer `fc`: weight `fc/bias:0` is not finite",
        );
    }
    refuse(
        &json!({ "units": 2, "use_bias": 1 }),
        &[KERNEL, BIAS],
        "`use_bias`",
    );
    let other = [("fc", &[KERNEL, BIAS][..]), ("gone", &[BIAS][..])];
    refused(&dense(two), &other, Kind::Invalid, "a layer `gone`");
}

#[test]
fn sizes_of_kernels_are_those_of_the_configuration() {
    let conv = |config: Value| {
        let conv = layer("Conv2D", "c", config, json!([[["in", 0, 0, {}]]]));
        functional(&[input(&json!([null, 8, 8, 1])), conv], "c")
    };
    let kernel = ("kernel", &[3, 3, 1, 2][..], &[1.0; 18][..]);
    let weights = [("c", &[kernel][..])];
    let fits = json!({ "filters": 2, "kernel_size": [3, 3], "use_bias": false });
    let scratch = Scratch::new();
    read_keras_h5(&model(&scratch, &conv(fits.clone()), &weights)).unwrap();
    for (key, value) in [("filters", json!(4)), ("kernel_size", json!([5, 3]))] {
        let mut config = fits.clone();
        config[key] = value;
        refused(
            &conv(config),
            &weights,
            Kind::Invalid,
            &format!("layer `c`: `{key}`"),
        );
    }
    for (key, value) in [
        ("data_format", json!("channels_first")),
        ("padding", json!("causal")),
        ("activation", json!("mish")),
    ] {
        let mut config = fits.clone();
        let reason = value.as_str().unwrap().to_owned();
        config[key] = value;
        refused(&conv(config), &weights, Kind::Unsupported, &reason);
    }
}

#[test]
fn all_unknown_classes_are_in_one_error() {
    let once = json!([[["in", 0, 0, {}]]]);
    let gru = layer("GRU", "inner", json!({}), once.clone());
    let inner = functional(&[input(&json!([null, 3])), gru], "inner");
    let layers = [
        input(&json!([null, 3])),
        layer("LSTM", "a", json!({}), once.clone()),
        // A call that leaves out one list, with a constant operand.
        layer(
            "TFOpLambda",
            "erf",
            json!({ "function": "math.erf" }),
            json!([["in", 0, 0, { "y": 1.0 }]]),
        ),
        layer(
            "SlicingOpLambda",
            "slice",
            json!({}),
            json!(["in", 0, 0, {}]),
        ),
        layer("Mine", "subclass", json!({ "layers": [] }), once.clone()),
        layer("Functional", "model", inner["config"].clone(), once.clone()),
        layer("Custom>Dense", "mine", json!({}), once.clone()),
        layer("Pack>Flatten", "theirs", json!({}), once),
    ];
    let config = functional(&layers, "theirs");
    refused(
        &config,
        &[],
        Kind::Unsupported,
        "`a` (LSTM), `erf` (tf.math.erf), `slice` (SlicingOpLambda), \
         `subclass` (Mine), `inner` (GRU), `mine` (Custom>Dense), `theirs` (Pack>Flatten)",
    );
}

#[test]
fn calls_that_mean_something_else_are_refused() {
    let call = |inbound: Value| {
        let flat = layer("Flatten", "flat", json!({}), inbound);
        functional(&[input(&json!([null, 3])), flat], "flat")
    };
    let often: Vec<Value> = vec![json!([["in", 0, 0, {}]]); 65];
    refused(
        &call(often.into()),
        &[],
        Kind::Unsupported,
        "layer `flat`, which is called 65 times",
    );
    let second = json!([[["in", 1, 0, {}]]]);
    refused(
        &call(second),
        &[],
        Kind::Unsupported,
        "layer `flat` takes a call or an output that layer `in` does not have",
    );
    let training = json!([[["in", 0, 0, { "training": true }]]]);
    refused(
        &call(training),
        &[],
        Kind::Unsupported,
        "called with `training` = true",
    );
    let tensor = json!({ "class_name": "__keras_tensor__",
        "config": { "keras_history": ["in", 0, 0] } });
    let keras_3 = |args: &Value, kwargs: &Value| {
        let node = json!([{ "args": args, "kwargs": kwargs }]);
        let flat = layer("Flatten", "flat", json!({ "trainable": true }), node);
        functional(&[input(&json!([null, 3])), flat], "flat")
    };
    for (args, kwargs, reason) in [
        (
            json!([tensor, 0.5]),
            json!({}),
            "called with the constant 0.5",
        ),
        (
            json!([tensor]),
            json!({ "mask": tensor }),
            "called with `mask`",
        ),
    ] {
        refused(&keras_3(&args, &kwargs), &[], Kind::Unsupported, reason);
    }
    let operation = json!([{ "args": [tensor], "kwargs": {} }]);
    refused(
        &call(operation),
        &[],
        Kind::Unsupported,
        "(keras.ops.Flatten)",
    );
    refused(&call(json!([[["in"]]])), &[], Kind::Invalid, "layer `flat`");
    refused(
        &call(json!([[["out", 0, 0, {}]]])),
        &[],
        Kind::Invalid,
        "`out`",
    );
    let scratch = Scratch::new();
    let bare = json!(["in", 0, 0, { "training": false, "mask": null }]);
    read_keras_h5(&model(&scratch, &call(bare), &[])).unwrap();
}

#[test]
fn inputs_beyond_reason_are_refused() {
    let flat = |shape: Value| {
        let flat = layer("Flatten", "flat", json!({}), json!([[["in", 0, 0, {}]]]));
        functional(&[input(&shape), flat], "flat")
    };
    let huge = json!([null, 1u64 << 40, 1u64 << 40, 3]);
    refused(&flat(huge), &[], Kind::Invalid, "layer `in`");
    let mut int64 = flat(json!([null, 3]));
    int64["config"]["layers"][0]["config"]["dtype"] = json!("int64");
    refused(&int64, &[], Kind::Unsupported, "an input of type int64");
}

#[test]
fn batch_normalization_is_checked_as_a_whole() {
    let norm = |config: Value| {
        let norm = layer(
            "BatchNormalization",
            "bn",
            config,
            json!([[["in", 0, 0, {}]]]),
        );
        functional(&[input(&json!([null, 2])), norm], "bn")
    };
    let plain = json!({ "axis": [1], "scale": false, "center": false });
    let mean = ("moving_mean", &[2][..], &[0.0, 1.0][..]);
    let check = |config: &Value, variance: &[f32], reason: &str| {
        let shape = [u64::try_from(variance.len()).unwrap()];
        let variance = ("moving_variance", &shape[..], variance);
        refused(
            &norm(config.clone()),
            &[("bn", &[mean, variance])],
            Kind::Invalid,
            reason,
        );
    };
    check(&plain, &[1.0; 3], "weights of 2 and of 3 channels");
    check(&plain, &[1.0, -0.5], "`moving_variance` holds -0.5");
    let axes = json!({ "axis": [1, 2], "scale": false, "center": false });
    let variance = ("moving_variance", &[2][..], &[1.0; 2][..]);
    let weights = [("bn", &[mean, variance][..])];
    refused(&norm(axes), &weights, Kind::Unsupported, "the axes");
}

#[test]
fn numbers_may_stand_in_objects() {
    let scratch = Scratch::new();
    for odd in [
        json!(6.0),
        json!({ "type": "ndarray", "value": 6.0 }),
        json!({ "class_name": "__numpy__", "config": { "value": 6.0, "dtype": "float32" } }),
    ] {
        let relu = layer(
            "ReLU",
            "r",
            json!({ "max_value": odd }),
            json!([[["in", 0, 0, {}]]]),
        );
        let config = functional(&[input(&json!([null, 3])), relu], "r");
        let graph = read_keras_h5(&model(&scratch, &config, &[])).unwrap();
        let Layer::ReLU(relu) = &graph.nodes()[1].layer else {
            panic!("a ReLU");
        };
        assert_eq!(relu.max_value, Some(6.0), "{odd}");
    }
}

#[test]
fn what_is_no_model_is_told_by_its_content() {
    let scratch = Scratch::new();
    for (name, bytes, reason) in [
        ("m.keras", &b"PK\x03\x04...."[..], "no .keras file"),
        ("m.pb", b"\x08\x08\x12\x07", "no model format"),
        ("m.h5", b"text", "no model format"),
        ("m.h5", b"", "no model format"),
    ] {
        let error = detect(&scratch.write(name, bytes)).unwrap_err();
        assert!(matches!(error, FileError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    let folder = scratch.path("saved");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("saved_model.pb"), b"").unwrap();
    let error = detect(&folder).unwrap_err();
    assert!(error.to_string().contains("a SavedModel"), "{error}");
    let weights_only = scratch.write("w.h5", &FileBuilder::new().finish().unwrap());
    let error = detect(&weights_only).unwrap_err();
    assert!(error.to_string().contains("without a model"), "{error}");
}

/// `tests/data/make_encodings.py` writes these files: one model, stored in many ways.
#[test]
fn weights_and_names_are_read_however_they_are_stored() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/encodings");
    for (name, kernel) in [
        ("plain", [1.5, -2.0, 0.25, 4.0, -8.0, 0.0]),
        ("half", [1.5, -2.0, 0.25, 4.0, -8.0, 0.0]),
        ("half_big_endian", [1.5, -2.0, 0.25, 4.0, -8.0, 0.0]),
        ("big_endian", [1.5, -2.0, 0.25, 4.0, -8.0, 0.0]),
        ("double", [1.5, -2.0, 0.25, 4.0, -8.0, 0.0]),
        ("integer_big_endian", [1.0, -2.0, 0.0, 4.0, -8.0, 0.0]),
        ("gzip", [1.5, -2.0, 0.25, 4.0, -8.0, 0.0]),
        ("latest", [1.5, -2.0, 0.25, 4.0, -8.0, 0.0]),
        ("fixed_names", [1.5, -2.0, 0.25, 4.0, -8.0, 0.0]),
        ("split_names", [1.5, -2.0, 0.25, 4.0, -8.0, 0.0]),
    ] {
        let graph = read_keras_h5(&folder.join(format!("{name}.h5"))).unwrap();
        let Layer::Dense(dense) = &graph.nodes()[1].layer else {
            panic!("a dense layer");
        };
        let read: Vec<f32> = dense.kernel.iter().copied().collect();
        assert_eq!(read, kernel, "{name}");
        let bias = dense.bias.as_ref().unwrap().to_vec();
        assert_eq!(bias, [3.0, -1.0], "{name}");
    }
}

#[test]
fn tensorflow_operations_compute_what_they_did() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let graph = read_keras_h5(&folder.join("operations.h5")).unwrap();
    let array = |key: &str| {
        let mut reader = ArrayReader::open(&folder.join("operations.npz"), Some(key), &[]).unwrap();
        reader.next_batch(3).unwrap()
    };
    let got = graph.run(&[&array("inputs")], &mut |_, _| ()).unwrap();
    for (got, want) in got.iter().zip([array("scores"), array("pooled")]) {
        assert_eq!(got.shape(), want.shape());
        for (got, want) in got.iter().zip(&want) {
            // TensorFlow sums in another order and has its own `exp`.
            assert!((got - want).abs() <= 1e-5, "{got} is not {want}");
        }
    }
    assert!(
        graph.find("first").is_some(),
        "an operation has its own name"
    );
}
