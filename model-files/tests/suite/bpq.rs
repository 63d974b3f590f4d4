//! Our own format: round trips of the reference's models, and files with one thing wrong.

use akida_sim::{QuantizedModel, QuantizedOp, lower};
use model_files::{FileError, ModelKind, detect, read_bpq, read_quantized_h5, write_bpq};
use quantizer_core::Stage;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::support::{Scratch, case, cases};

fn reference(name: &str) -> QuantizedModel {
    let path = case(name).join("expected/quantized.h5");
    lower(read_quantized_h5(&path).unwrap()).unwrap()
}

#[test]
fn models_round_trip_and_give_the_same_bytes() {
    let scratch = Scratch::new();
    let mut n_models = 0;
    for folder in cases() {
        let path = folder.join("expected/quantized.h5");
        let Ok(model) = read_quantized_h5(&path)
            .and_then(|graph| lower(graph).map_err(|e| FileError::invalid(&path, e.to_string())))
        else {
            continue;
        };
        n_models += 1;
        let (one, two) = (
            scratch.path("1.bpq.safetensors"),
            scratch.path("2.bpq.safetensors"),
        );
        write_bpq(&model, &one).unwrap();
        assert_eq!(detect(&one), Ok(ModelKind::Bpq), "{}", path.display());
        let read = read_bpq(&one).unwrap();
        assert_eq!(read, model, "{}", path.display());
        write_bpq(&read, &two).unwrap();
        let equal = std::fs::read(&one).unwrap() == std::fs::read(&two).unwrap();
        assert!(equal, "{}: bytes", path.display());
    }
    assert!(n_models > 10, "{n_models} models");
}

/// Returns the file with its JSON part changed, the tensors as they are.
fn changed(bytes: &[u8], change: &mut dyn FnMut(&mut Value)) -> Vec<u8> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).unwrap();
    let mut json: Value =
        serde_json::from_str(&metadata.metadata().as_ref().unwrap()["bitproof"]).unwrap();
    change(&mut json);
    let file = SafeTensors::deserialize(bytes).unwrap();
    let metadata = [("bitproof".to_owned(), json.to_string())]
        .into_iter()
        .collect();
    safetensors::serialize(file.tensors(), Some(metadata)).unwrap()
}

fn good(scratch: &Scratch, name: &str) -> Vec<u8> {
    let path = scratch.path("good.bpq.safetensors");
    write_bpq(&reference(name), &path).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn other_versions_are_refused() {
    let scratch = Scratch::new();
    let good = good(&scratch, "03-tiny-conv-8bit-per-axis");
    for version in [json!(0), json!(2), json!("1"), json!(null)] {
        let bytes = changed(&good, &mut |json| json["version"] = version.clone());
        let error = read_bpq(&scratch.write("m.bpq.safetensors", &bytes)).unwrap_err();
        assert!(error.to_string().contains("version"), "{version}: {error}");
        assert!(
            matches!(error, FileError::Unsupported { .. }),
            "{version}: {error}"
        );
    }
}

/// An entry aligns its input. One that calls itself another stage, such as one that clips by design,
/// would not be proved.
#[test]
fn entries_that_call_themselves_another_stage_are_refused() {
    let scratch = Scratch::new();
    let good = good(&scratch, "13-resnet-add-relu-gap-w4");
    let (mut n_taken, mut n_refused) = (0, 0);
    for stage in Stage::ALL {
        let bytes = changed(&good, &mut |json| {
            let nodes = json["nodes"].as_array_mut().unwrap();
            let mut entries = nodes.iter_mut().filter_map(|node| {
                let entries = node["op"].get_mut("entries")?.as_array_mut()?;
                entries.first_mut()
            });
            entries.next().unwrap()["stage"] = json!(stage.name());
        });
        let read = read_bpq(&scratch.write("m.bpq.safetensors", &bytes));
        let aligns = ["input_expand", "align_left", "align_right", "flatten_align"];
        if aligns.contains(&stage.name()) {
            n_taken += 1;
            assert!(read.is_ok(), "{stage}: {read:?}");
        } else {
            n_refused += 1;
            let error = read.unwrap_err().to_string();
            let said = format!("an entry called {stage}");
            assert!(error.contains(&said), "{stage}: {error}");
        }
    }
    assert_eq!(n_taken, 4);
    assert!(n_refused > 10, "output_rescale and zero_point among them");
}

/// Every number, string and list of the JSON is replaced in turn by values that mean harm: the
/// reader refuses, or what it returns can run.
#[test]
fn no_value_of_the_json_makes_a_reader_panic() {
    fn places(value: &Value, at: &str, all: &mut Vec<String>) {
        all.push(at.to_owned());
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let key = key.replace('~', "~0").replace('/', "~1");
                    places(value, &format!("{at}/{key}"), all);
                }
            }
            Value::Array(list) => {
                for (i, value) in list.iter().enumerate() {
                    places(value, &format!("{at}/{i}"), all);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let scratch = Scratch::new();
    for name in [
        "13-resnet-add-relu-gap-w4",
        "09-separable",
        "25-input-quantizer-uint8",
    ] {
        let good = good(&scratch, name);
        let mut all = Vec::new();
        changed(&good, &mut |json| places(json, "", &mut all));
        let model = reference(name);
        let input = &model.nodes[0].shape;
        let shape: Vec<usize> = std::iter::once(Some(1))
            .chain(input.clone())
            .flatten()
            .collect();
        let input = ndarray::ArrayD::<f32>::zeros(shape);
        for (i, place) in all.iter().enumerate() {
            let harm = [
                json!(0),
                json!(1),
                json!(63),
                json!(1u64 << 20),
                json!(u64::MAX),
                json!(-1),
                json!([]),
                json!(null),
                json!("relu"),
                json!(true),
            ];
            // Each place meets three of them.
            for step in [0, 3, 7] {
                let harm = &harm[(i + step) % harm.len()];
                let bytes = changed(&good, &mut |json| {
                    if let Some(value) = json.pointer_mut(place) {
                        *value = harm.clone();
                    }
                });
                if let Ok(model) = read_bpq(&scratch.write("m.bpq.safetensors", &bytes)) {
                    drop(akida_sim::Executor::new(&model).run(&input, &mut |_, _| ()));
                }
            }
        }
    }
}

#[test]
fn tensors_that_are_missing_left_over_or_misshaped_are_refused() {
    let scratch = Scratch::new();
    let bytes = good(&scratch, "03-tiny-conv-8bit-per-axis");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let write = |tensors: Vec<(String, safetensors::tensor::TensorView<'_>)>| {
        let bytes = safetensors::serialize(tensors, metadata.metadata().clone()).unwrap();
        read_bpq(&scratch.write("m.bpq.safetensors", &bytes))
    };
    let names: Vec<String> = file.tensors().into_iter().map(|(name, _)| name).collect();
    assert!(names.len() > 20, "{} tensors", names.len());
    for name in &names {
        let without = file
            .tensors()
            .into_iter()
            .filter(|(n, _)| n != name)
            .collect();
        // A format without its scales is one without scales: it then disagrees with others.
        let error = write(without).unwrap_err().to_string();
        assert!(!error.is_empty(), "{name}");
        let flat = file.tensors().into_iter().map(|(n, tensor)| {
            let shape = [vec![1, 1, 1, 1, 1], tensor.shape().to_vec()].concat();
            let odd = safetensors::tensor::TensorView::new(tensor.dtype(), shape, tensor.data());
            if n == *name {
                (n, odd.unwrap())
            } else {
                (n, tensor)
            }
        });
        let error = write(flat.collect()).unwrap_err().to_string();
        assert!(error.contains("layer `"), "{name}: {error}");
    }
    let mut more = file.tensors();
    let (_, copy) = more[0].clone();
    more.push(("stray".to_owned(), copy));
    let error = write(more).unwrap_err().to_string();
    assert!(error.contains("unexpected tensor `stray`"), "{error}");
}

#[test]
fn quantizers_of_inputs_and_float_layers_are_kept() {
    let has = |name: &str, wanted: &dyn Fn(&QuantizedOp) -> bool| {
        assert!(
            reference(name).nodes.iter().any(|node| wanted(&node.op)),
            "{name}"
        );
    };
    // What the round trip above covers.
    has("25-input-quantizer-uint8", &|op| {
        matches!(op, QuantizedOp::InputQuantizer { .. })
    });
    has("30-softmax-at-end", &|op| {
        matches!(op, QuantizedOp::Float(_))
    });
    has("09-separable", &|op| matches!(op, QuantizedOp::Integer(_)));
    has("09-separable", &|op| {
        matches!(op, QuantizedOp::Dequantizer(_))
    });
}
