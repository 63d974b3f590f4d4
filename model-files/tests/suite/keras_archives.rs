//! `.keras` archives made to be read in one odd way, or to be refused.

use std::io::{Cursor, Write};
use std::path::PathBuf;

use hdf5_pure::{AttrValue, FileBuilder};
use model_files::{FileError, detect, read_keras_archive};
use serde_json::{Value, json};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::support::Scratch;

/// Weights by position: the group of the layers, that of the layer, its noted name, its arrays.
struct Stored<'a> {
    layers: &'a str,
    group: &'a str,
    name: Option<&'a str>,
    arrays: &'a [&'a [u64]],
}

/// What Keras stores of the Dense of [`model`].
const DENSE: Stored<'_> = Stored {
    layers: "layers",
    group: "dense",
    name: Some("fc"),
    arrays: &[&[3, 2], &[2]],
};

fn weights(stored: &Stored<'_>) -> Vec<u8> {
    let mut builder = FileBuilder::new();
    let mut layers = builder.create_group(stored.layers);
    let mut layer = layers.create_group(stored.group);
    let mut vars = layer.create_group("vars");
    if let Some(name) = stored.name {
        vars.set_attr("name", AttrValue::VarLenAsciiString(name.to_owned()));
    }
    for (i, shape) in stored.arrays.iter().enumerate() {
        let n = usize::try_from(shape.iter().product::<u64>()).unwrap();
        let dataset = vars.create_dataset(&i.to_string());
        dataset.with_f32_data(&vec![0.5; n]).with_shape(shape);
    }
    layer.add_group(vars.finish());
    layers.add_group(layer.finish());
    builder.add_group(layers.finish());
    builder.finish().unwrap()
}

/// Returns a model of one Dense, with more entries in its configuration.
fn model(more: &Value) -> Value {
    let mut dense = json!({ "name": "fc", "units": 2, "trainable": true });
    for (key, value) in more.as_object().unwrap() {
        dense[key] = value.clone();
    }
    let tensor = json!({ "class_name": "__keras_tensor__",
        "config": { "keras_history": ["in", 0, 0] } });
    json!({ "module": "keras.src.models.functional", "class_name": "Functional", "config": {
        "name": "m",
        "layers": [
            { "module": "keras.layers", "class_name": "InputLayer", "name": "in",
                "config": { "name": "in", "batch_shape": [null, 3] }, "inbound_nodes": [] },
            { "module": "keras.layers", "class_name": "Dense", "name": "fc", "config": dense,
                "inbound_nodes": [{ "args": [tensor], "kwargs": {} }] },
        ],
        "input_layers": ["in", 0, 0],
        "output_layers": { "scores": ["fc", 0, 0] },
    } })
}

fn archive(scratch: &Scratch, members: &[(&str, &[u8])]) -> PathBuf {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    scratch.write("m.keras", &zip.finish().unwrap().into_inner())
}

fn read(model: &Value, stored: &Stored<'_>) -> Result<float_model::Graph, FileError> {
    let scratch = Scratch::new();
    let (json, weights) = (model.to_string(), weights(stored));
    let members: [(&str, &[u8]); 2] = [
        ("config.json", json.as_bytes()),
        ("model.weights.h5", &weights),
    ];
    read_keras_archive(&archive(&scratch, &members))
}

#[test]
fn weights_stand_where_keras_puts_them() {
    let plain = model(&json!({}));
    let graph = read(&plain, &DENSE).unwrap();
    assert_eq!(graph.nodes()[1].shape, [Some(2)], "one Dense");
    let older = Stored {
        layers: "_layer_checkpoint_dependencies",
        name: None,
        ..DENSE
    };
    assert_eq!(read(&plain, &older).unwrap(), graph, "Keras 2.12");
    let class = json!({ "class_name": "Policy", "config": { "name": "mixed_float16" } });
    let policy = model(&json!({ "dtype": class }));
    assert_eq!(read(&policy, &DENSE).unwrap(), graph, "a policy of Keras 2");
}

#[test]
fn weights_that_are_not_those_of_the_model_are_refused() {
    for (stored, reason) in [
        (
            Stored {
                name: Some("other"),
                ..DENSE
            },
            "holds the weights of `other`",
        ),
        (
            Stored {
                arrays: &[&[3, 2], &[2], &[2]],
                ..DENSE
            },
            "holds 3 weights, not 2",
        ),
        (
            Stored {
                arrays: &[&[3, 2]],
                ..DENSE
            },
            "holds 1 weights, not 2",
        ),
        (
            Stored {
                arrays: &[&[3, 2, 1], &[2]],
                ..DENSE
            },
            "weight `kernel` has extents [3, 2, 1]",
        ),
        (
            Stored {
                group: "dense_1",
                ..DENSE
            },
            "for which the model has no layer",
        ),
        (
            Stored {
                layers: "other",
                ..DENSE
            },
            "no group `model_weights`, and no `layers`",
        ),
    ] {
        let error = read(&model(&json!({})), &stored).unwrap_err();
        assert!(matches!(error, FileError::Invalid { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
}

#[test]
fn what_keras_3_means_otherwise_is_refused() {
    let policy = |class: &str, name: &str| json!({ "module": "keras", "class_name": class, "config": { "name": name } });
    let float = policy("DTypePolicy", "float32");
    for (more, reason) in [
        (
            json!({ "dtype": policy("QuantizedDTypePolicy", "int8_from_float32") }),
            "layer `fc`, whose weights Keras quantized (int8_from_float32)",
        ),
        (
            json!({ "dtype": float, "activation": "hard_sigmoid" }),
            "layer `fc`: the hard_sigmoid of Keras 3",
        ),
    ] {
        let error = read(&model(&more), &DENSE).unwrap_err();
        assert!(matches!(error, FileError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
    let keras_2 = model(&json!({ "dtype": "float32", "activation": "hard_sigmoid" }));
    read(&keras_2, &DENSE).unwrap();
}

#[test]
fn archives_that_lack_a_member_are_refused() {
    let scratch = Scratch::new();
    let json = model(&json!({})).to_string();
    let no_weights = archive(&scratch, &[("config.json", json.as_bytes())]);
    let error = read_keras_archive(&no_weights).unwrap_err().to_string();
    assert!(error.contains("model.weights.h5"), "{error}");
    let no_model = archive(&scratch, &[("x.npy", b"")]);
    let error = detect(&no_model).unwrap_err().to_string();
    assert!(
        error.contains("a zip archive that is no .keras file"),
        "{error}"
    );
}
