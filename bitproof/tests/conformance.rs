//! The subset of conformance cases in `conformance/`: what the reference really computed.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};

use bitproof::config_schema::InputDtype;
use bitproof::model_files::{ArrayReader, read_integers};
use bitproof::quantizer_core::{PerAxis, QFormat};
use bitproof::{
    Executor, InputQuantizerMode, ModelMemory, ParamValues, QuantizationParams, QuantizeOptions,
    Quantized, QuantizedModel, Samples, Tensor, load_float, load_quantized, quantize, save,
};
use ndarray::{ArrayD, Axis};
use serde_json::Value;

/// Cases whose integers are compared one by one.
const EXACT: [&str; 18] = [
    "03-", "05-", "09-", "13-", "15-", "17-", "18-", "20-", "21-", "22-", "23-", "24-", "25-",
    "26-", "27-", "28-", "30-", "36-",
];

/// Cases of the tutorial: only their configuration and layers, made by an older version.
const TUTORIAL: [&str; 2] = ["01-", "02-"];

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/cases")
}

fn case(prefix: &str) -> PathBuf {
    let found = fs::read_dir(cases())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut found = found.filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with(prefix));
    found.next().unwrap_or_else(|| panic!("no case {prefix}"))
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn whole(path: &Path) -> ArrayD<f32> {
    let mut reader = ArrayReader::open(path, None, &[]).unwrap();
    let n = reader.shape()[0];
    reader.next_batch(n).unwrap()
}

fn options(call: &Value) -> QuantizeOptions {
    let q = &call["qparams"];
    let bits = |key: &str| u8::try_from(q[key].as_u64().unwrap()).unwrap();
    let params = QuantizationParams::try_from(ParamValues {
        activation_bits: bits("activation_bits"),
        per_tensor_activations: q["per_tensor_activations"].as_bool().unwrap(),
        weight_bits: bits("weight_bits"),
        output_bits: bits("output_bits"),
        input_weight_bits: bits("input_weight_bits"),
        input_dtype: q["input_dtype"].as_str().map_or(InputDtype::UInt8, |name| {
            InputDtype::from_name(name).unwrap()
        }),
        buffer_bits: bits("buffer_bits"),
        last_output_bits: q["last_output_bits"]
            .as_u64()
            .map(|b| u8::try_from(b).unwrap()),
    })
    .unwrap();
    let number = |key: &str| call[key].as_u64().map(|n| usize::try_from(n).unwrap());
    let old = call["reference"].as_str().unwrap().starts_with("0.11");
    QuantizeOptions {
        params,
        q_config: call["q_config"].as_object().cloned(),
        quantize_until: call["quantize_until"].as_str().map(str::to_owned),
        input_quantizer: if old {
            InputQuantizerMode::Never
        } else {
            InputQuantizerMode::Always
        },
        num_samples: number("num_samples"),
        batch_size: number("batch_size").or(Some(1)),
        epochs: number("epochs").unwrap(),
        ..QuantizeOptions::default()
    }
}

fn quantized(case: &Path) -> Quantized {
    let samples = Samples::File {
        path: case.join("samples.npy"),
        key: None,
    };
    let graph = load_float(&case.join("model.h5")).unwrap();
    quantize(
        graph,
        samples,
        &options(&json(&case.join("call.json"))),
        &mut |_| (),
    )
    .unwrap()
}

fn check_layer(path: &Path, name: &str, integers: &ArrayD<i64>, format: &QFormat) {
    let key = |field: &str| format!("{name}/{field}");
    let want = read_integers(path, Some(&key("values"))).unwrap();
    assert_eq!(*integers, want, "integers of {name} in {}", path.display());
    let bits = read_scalar(path, &key("value_bits"));
    assert_eq!(
        i64::from(format.value_bits.bits()),
        bits[0],
        "value_bits of {name}"
    );
    let frac_bits = read_scalar(path, &key("frac_bits"));
    let got: Vec<i64> = match &format.frac_bits {
        PerAxis::Tensor(fb) => vec![i64::from(*fb); frac_bits.len()],
        PerAxis::Axis(fb) => fb.iter().map(|fb| i64::from(*fb)).collect(),
    };
    assert_eq!(got, frac_bits, "frac_bits of {name} in {}", path.display());
}

/// Reads a scalar, or a vector, of integers.
fn read_scalar(path: &Path, key: &str) -> Vec<i64> {
    bitproof::model_files::read_small_integers(path, key).unwrap()
}

fn check_integers(model: &QuantizedModel, case: &Path) -> usize {
    let inputs = whole(&case.join("inputs.npy"));
    let layers = case.join("expected/layers.npz");
    let call = json(&case.join("call.json"));
    let is_sequence = call["sequence"].as_bool() == Some(true);
    let n_steps = if is_sequence {
        inputs.len_of(Axis(0))
    } else {
        1
    };
    let executor = Executor::new(model);
    let mut memory = ModelMemory::default();
    // Outputs of each node, step after step.
    let mut outputs: Vec<Vec<ArrayD<i64>>> = vec![Vec::new(); model.nodes.len()];
    for step in inputs.axis_chunks_iter(Axis(0), inputs.len_of(Axis(0)).div_ceil(n_steps)) {
        let mut keep = |index: usize, tensor: &Tensor| outputs[index].extend(tensor.integers());
        executor
            .run_step(&step.to_owned(), &mut memory, &mut keep)
            .unwrap();
    }
    let mut n_checked = 0;
    for (node, outputs) in model.nodes.iter().zip(&outputs) {
        if let (Some(format), false) = (node.format(), node.inputs.is_empty()) {
            let views: Vec<_> = outputs.iter().map(|x| x.view()).collect();
            let all = ndarray::concatenate(Axis(0), &views).unwrap();
            check_layer(&layers, &node.name, &all, &format);
            n_checked += 1;
        }
    }
    n_checked
}

#[test]
fn integers_of_the_references_own_files_are_equal() {
    for prefix in EXACT {
        let case = case(prefix);
        let model = load_quantized(&case.join("expected/quantized.h5")).unwrap();
        assert!(
            check_integers(&model, &case) > 1,
            "layers were compared in {prefix}"
        );
    }
}

#[test]
fn configurations_and_layers_are_those_of_the_reference() {
    for prefix in EXACT.into_iter().chain(TUTORIAL) {
        let case = case(prefix);
        let Quantized { model, .. } = quantized(&case);
        let want = fs::read_to_string(case.join("expected/config.json")).unwrap();
        let want: Value = serde_json::from_str(&want).unwrap();
        let got = Value::Object(model.dump_config());
        assert_eq!(
            got.to_string(),
            want.to_string(),
            "configuration of {prefix}"
        );
        let summary = json(&case.join("expected/summary.json"));
        let rows = summary["layers"].as_array().unwrap();
        let want: Vec<(&str, &str, usize)> = rows
            .iter()
            .map(|row| {
                let params = usize::try_from(row["params"].as_u64().unwrap()).unwrap();
                (
                    row["name"].as_str().unwrap(),
                    row["class_name"].as_str().unwrap(),
                    params,
                )
            })
            .filter(|(_, class, _)| *class != "Softmax")
            .collect();
        let got = model.summary();
        let got: Vec<(&str, &str, usize)> = got
            .layers
            .iter()
            .map(|row| (row.name.as_str(), row.class_name.as_str(), row.params))
            .filter(|(name, ..)| *name != "softmax")
            .collect();
        assert_eq!(got, want, "layers of {prefix}");
    }
}

#[test]
fn the_tutorials_json_is_equal_character_for_character() {
    for prefix in TUTORIAL {
        let case = case(prefix);
        let got = bitproof::config_schema::to_indented(&Value::Object(
            quantized(&case).model.dump_config(),
        ));
        let value = json(&case.join("expected/config.json"));
        let mut want = Vec::new();
        let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut want, format);
        serde::Serialize::serialize(&value, &mut serializer).unwrap();
        assert_eq!(got, String::from_utf8(want).unwrap(), "text of {prefix}");
    }
}

#[test]
fn our_own_format_keeps_every_integer() {
    let folder = tempfile::tempdir().unwrap();
    for prefix in EXACT {
        let case = case(prefix);
        let model = load_quantized(&case.join("expected/quantized.h5")).unwrap();
        let path = folder.path().join("model.bpq.safetensors");
        save(&model, &path).unwrap();
        let bytes = fs::read(&path).unwrap();
        let again = load_quantized(&path).unwrap();
        assert_eq!(again, model, "model of {prefix}");
        save(&again, &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes, "bytes of {prefix}");
    }
}

#[test]
fn every_dump_can_be_given_back_with_other_parameters() {
    for prefix in EXACT {
        let case = case(prefix);
        let dump = quantized(&case).model.dump_config();
        let call = json(&case.join("call.json"));
        let values = ParamValues {
            weight_bits: 6,
            output_bits: 7,
            activation_bits: 5,
            last_output_bits: None,
            ..*options(&call).params.values()
        };
        let options = QuantizeOptions {
            params: QuantizationParams::try_from(values).unwrap(),
            q_config: Some(dump.clone()),
            ..options(&call)
        };
        let graph = load_float(&case.join("model.h5")).unwrap();
        let samples = Samples::File {
            path: case.join("samples.npy"),
            key: None,
        };
        let again = quantize(graph, samples, &options, &mut |_| ())
            .unwrap()
            .model
            .dump_config();
        assert_eq!(
            Value::Object(again).to_string(),
            Value::Object(dump).to_string(),
            "{prefix}"
        );
    }
}

#[test]
fn refused_calls_are_refused() {
    for prefix in ["91-", "92-", "94-"] {
        let case = case(prefix);
        let call = json(&case.join("call.json"));
        let values = std::panic::catch_unwind(|| options(&call));
        let Ok(options) = values else { continue }; // the parameters themselves are refused
        let graph = load_float(&case.join("model.h5")).unwrap();
        let samples = Samples::File {
            path: case.join("samples.npy"),
            key: None,
        };
        let result = quantize(graph, samples, &options, &mut |_| ());
        assert!(result.is_err(), "{prefix} must be refused");
    }
}
