//! Files of tf_keras and of Keras 3 in all their forms: what Keras computes, we compute.

use std::path::{Path, PathBuf};

use float_model::{Activation, Draft, DraftNode, Dtype, Graph, Input, Layer};
use model_files::{
    ArrayReader, ModelKind, detect, read_keras_archive, read_keras_h5, write_keras_h5,
};
use ndarray::ArrayD;

use crate::support::Scratch;

/// Returns a file that `conformance/make_keras_files.py` made.
pub(crate) fn made(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/keras")
        .join(name)
}

fn read(path: &Path) -> Graph {
    if detect(path).unwrap() == ModelKind::KerasArchive {
        read_keras_archive(path).unwrap()
    } else {
        read_keras_h5(path).unwrap()
    }
}

fn array(file: &Path, key: &str) -> ArrayD<f32> {
    let mut reader = ArrayReader::open(file, Some(key), &[]).unwrap();
    reader.next_batch(100).unwrap()
}

/// Asserts that a model computes what Keras does, to within a share of the largest output.
fn computes_as_keras(file: &str, example: &str, tolerance: f32) {
    let graph = read(&made(file));
    let example = made(&format!("{example}.npz"));
    let got = graph.predict(&array(&example, "x")).unwrap();
    let want = array(&example, "y");
    assert_eq!(got.shape(), want.shape(), "{file}");
    let largest = want.iter().fold(0_f32, |most, y| most.max(y.abs()));
    let difference = got
        .iter()
        .zip(&want)
        .fold(0_f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(
        difference <= tolerance * largest,
        "{file}: {difference} of {largest}"
    );
}

#[test]
fn models_compute_what_keras_does() {
    for generation in ["k2", "k3"] {
        for (model, tolerance) in [
            ("branches", 1e-5),
            ("nested", 1e-5),
            ("implied", 1e-5),
            ("operators", 1e-5),
            ("shared", 1e-5),
            ("clips", 1e-5),
            // Keras computes it in half precision, we do not.
            ("mixed", 5e-3),
        ] {
            let name = format!("{generation}_{model}");
            computes_as_keras(&format!("{name}.keras"), &name, tolerance);
            computes_as_keras(&format!("{name}.h5"), &name, tolerance);
        }
    }
}

#[test]
fn weights_alone_are_read_with_the_json_beside_them() {
    for generation in ["k2", "k3"] {
        for model in ["nested", "implied"] {
            let name = format!("{generation}_{model}");
            computes_as_keras(&format!("{name}_only.weights.h5"), &name, 1e-5);
        }
    }
    for model in ["nested", "implied"] {
        let name = format!("k2_{model}");
        computes_as_keras(&format!("{name}_older.h5"), &name, 1e-5);
    }
}

/// An unpacked `.keras` file has `config.json` beside `model.weights.h5`.
#[test]
fn the_json_beside_weights_may_be_config_json() {
    let scratch = Scratch::new();
    let weights = std::fs::read(made("k3_nested_only.weights.h5")).unwrap();
    let weights = scratch.write("model.weights.h5", &weights);
    let error = detect(&weights).unwrap_err().to_string();
    assert!(
        error.contains("neither model.json nor config.json"),
        "{error}"
    );
    scratch.write("config.json", b"{}");
    let error = detect(&weights).unwrap_err().to_string();
    assert!(
        error.contains("is not the JSON of a Keras model"),
        "{error}"
    );
    let json = std::fs::read(made("k3_nested_only.json")).unwrap();
    scratch.write("config.json", &json);
    let graph = read(&weights);
    assert_eq!(
        graph,
        read(&made("k3_nested_only.weights.h5")),
        "the same model"
    );
    // The JSON of another model does not fit.
    let other = std::fs::read(made("k3_implied_only.json")).unwrap();
    scratch.write("model.json", &other);
    let error = read_keras_h5(&weights).unwrap_err().to_string();
    assert!(error.contains("layer `conv2d`"), "{error}");
}

#[test]
fn all_forms_of_a_model_are_one_graph() {
    for generation in ["k2", "k3"] {
        for model in ["branches", "nested", "implied", "operators", "shared"] {
            let name = format!("{generation}_{model}");
            let archive = read(&made(&format!("{name}.keras")));
            assert_eq!(archive, read(&made(&format!("{name}.h5"))), "{name}");
        }
    }
}

#[test]
fn layers_of_inner_models_have_the_names_of_the_models_too() {
    for file in [
        "k2_nested.keras",
        "k2_nested.h5",
        "k3_nested.keras",
        "k3_nested.h5",
    ] {
        let graph = read(&made(file));
        let names: Vec<&str> = graph
            .nodes()
            .iter()
            .map(|node| node.name.as_str())
            .collect();
        let want = [
            "in",
            "conv",
            "block/conv",
            "block/deep/depth",
            "block/deep/norm",
            "block/last",
            "block/relu",
            "add",
            "frozen/conv",
            "frozen/norm",
            "flatten",
            "conv_1",
        ];
        assert_eq!(names, want, "{file}");
    }
}

#[test]
fn a_layer_that_is_called_twice_is_two_with_the_same_weights() {
    for file in ["k2_shared.keras", "k3_shared.keras"] {
        let graph = read_keras_archive(&made(file)).unwrap();
        let names: Vec<&str> = graph.nodes().iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["in", "conv", "conv_1"], "{file}");
        assert_eq!(graph.nodes()[1].layer, graph.nodes()[2].layer, "{file}");
    }
}

/// A name that Keras does not have is refused, not dropped.
#[test]
fn what_keras_has_no_name_for_is_not_written() {
    let scratch = Scratch::new();
    let input = Layer::Input(Input {
        shape: vec![Some(3)],
        dtype: Dtype::Float32,
    });
    let gelu = Layer::Activation(Activation::Gelu { approximate: true });
    let node = |name: &str, layer, inputs: &[&str]| DraftNode {
        name: name.to_owned(),
        layer,
        inputs: inputs.iter().map(|name| (*name).to_owned()).collect(),
    };
    let graph = Graph::new(Draft {
        name: "m".to_owned(),
        nodes: vec![node("in", input, &[]), node("tanh_gelu", gelu, &["in"])],
        outputs: vec!["tanh_gelu".to_owned()],
    });
    let path = scratch.path("m.h5");
    let error = write_keras_h5(&graph.unwrap(), &path)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("layer `tanh_gelu`: the approximated gelu"),
        "{error}"
    );
    assert!(!path.exists(), "no file is left");
}
