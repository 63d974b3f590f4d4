//! ONNX models against what onnxruntime computed (`tests/data/make_onnx.py`).

use std::path::{Path, PathBuf};

use float_model::{BufferTempConv, Graph, GraphBuilder, Layer, StatefulRecurrent};
use model_files::{ArrayReader, FileError, read_onnx, write_float_onnx};
use ndarray::{Array1, Array4, ArrayD, s};

use crate::support::Scratch;

/// Models of the script; all of its files are read.
const MODELS: [&str; 9] = [
    "resnet",
    "mobilenet",
    "activations",
    "upscaling",
    "sequence",
    "integer_input",
    "keras",
    "details",
    "waves",
];

fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/onnx")
        .join(name)
}

fn array(model: &str, key: &str) -> ArrayD<f32> {
    let mut reader = ArrayReader::open(&place(&format!("{model}.npz")), Some(key), &[]).unwrap();
    let n_items = reader.shape()[0];
    reader.next_batch(n_items).unwrap()
}

fn classes(graph: &Graph) -> Vec<&'static str> {
    graph
        .nodes()
        .iter()
        .map(|node| node.layer.class_name())
        .collect()
}

#[test]
fn outputs_are_those_of_onnxruntime() {
    for name in MODELS {
        let graph = read_onnx(&place(&format!("{name}.onnx"))).unwrap();
        let (x, want) = (array(name, "x"), array(name, "y"));
        let got = graph.predict(&x).unwrap();
        assert_eq!(got.shape(), want.shape(), "{name}");
        // Both sum in f32, in different orders; the largest output is the measure.
        let largest = want.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        for (got, want) in got.iter().zip(&want) {
            assert!(
                (got - want).abs() <= 1e-4 * largest,
                "{name}: {got} instead of {want}"
            );
        }
    }
}

#[test]
fn layouts_become_channels_last_without_further_layers() {
    let layers = classes(&read_onnx(&place("keras.onnx")).unwrap());
    for extra in ["Permute", "Reshape"] {
        assert!(!layers.contains(&extra), "{layers:?}");
    }
    let layers = classes(&read_onnx(&place("resnet.onnx")).unwrap());
    assert!(
        !layers.contains(&"Permute"),
        "Flatten moves the weights instead: {layers:?}"
    );
    // Pads on both sides at stride 2 are zeros of a wider kernel, or of a pool at every pixel.
    for extra in ["ZeroPadding2D", "Permute"] {
        assert!(!layers.contains(&extra), "{layers:?}");
    }
    let graph = read_onnx(&place("resnet.onnx")).unwrap();
    let Layer::Conv2D(stem) = &graph.nodes()[1].layer else {
        panic!("a convolution");
    };
    assert_eq!(stem.kernel.dim().0, 9, "of 7");
    let edge = stem.kernel.slice(s![7.., .., .., ..]);
    assert!(edge.iter().all(|w| *w == 0.0), "{edge}");
}

#[test]
fn single_operations_become_activations() {
    let graph = read_onnx(&place("activations.onnx")).unwrap();
    let is = |class| move |layer: &&Layer| layer.class_name() == class;
    let layers = || graph.nodes().iter().map(|node| &node.layer);
    assert_eq!(
        layers().filter(is("Activation")).count(),
        3,
        "swish and two gelus"
    );
    assert_eq!(
        layers().filter(is("Rescaling")).count(),
        1,
        "the Add of a vector; no part of a gelu is left"
    );
}

/// Reads a model of the script with `change` done to its bytes.
fn changed(name: &str, change: impl Fn(&mut Vec<u8>)) -> Result<Graph, FileError> {
    let mut bytes = std::fs::read(place(&format!("{name}.onnx"))).unwrap();
    change(&mut bytes);
    let scratch = Scratch::new();
    read_onnx(&scratch.write("m.onnx", &bytes))
}

/// Replaces every `from` by `to`, which is as long.
fn replace(bytes: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len(), "lengths stand in the file");
    let places: Vec<usize> = (0..bytes.len())
        .filter(|i| bytes[*i..].starts_with(from.as_bytes()))
        .collect();
    assert!(!places.is_empty(), "`{from}` is there");
    for i in places {
        bytes[i..i + to.len()].copy_from_slice(to.as_bytes());
    }
}

#[test]
fn all_nodes_that_cannot_be_read_are_listed() {
    let refused = changed("mobilenet", |bytes| {
        replace(bytes, "HardSwish", "HardSwash");
        replace(bytes, "LeakyRelu", "LoukyRelu");
    });
    let message = refused.unwrap_err().to_string();
    for part in ["2 node(s)", "HardSwash", "LoukyRelu"] {
        assert!(message.contains(part), "`{part}` in {message}");
    }
    assert!(
        !message.contains("PRelu"),
        "what follows from them is not listed: {message}"
    );
}

#[test]
fn other_files_are_no_onnx_models() {
    let scratch = Scratch::new();
    for bytes in [&b""[..], b"hello, world", &[0xFF; 40]] {
        let refused = read_onnx(&scratch.write("m.onnx", bytes)).unwrap_err();
        assert!(refused.to_string().contains("no ONNX model"), "{refused}");
    }
}

#[test]
fn a_dense_kernel_of_other_extents_is_refused() {
    // The weights of resnet's Gemm, `[10, 32]`, as `[32, 10]`.
    let refused = changed("resnet", |bytes| {
        replace(bytes, "\u{8}\n\u{8} ", "\u{8} \u{8}\n");
    });
    let message = refused.unwrap_err().to_string();
    assert!(
        message.contains("`11/Gemm` (Gemm): a bias of extents [10]"),
        "{message}"
    );
}

/// What onnxruntime makes of written files is held against the recorded outputs by
/// `conformance/onnx_check.py`; here the reader is the judge.
#[test]
fn a_written_network_is_read_as_the_same_function() {
    let scratch = Scratch::new();
    for name in MODELS {
        let graph = read_onnx(&place(&format!("{name}.onnx"))).unwrap();
        let written = scratch.path("again.onnx");
        write_float_onnx(&graph, &written).unwrap();
        let bytes = std::fs::read(&written).unwrap();
        let again = read_onnx(&written).unwrap();
        let x = array(name, "x");
        let (want, got) = (graph.predict(&x).unwrap(), again.predict(&x).unwrap());
        assert_eq!(got.shape(), want.shape(), "{name}");
        let largest = want.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        for (got, want) in got.iter().zip(&want) {
            // Folded constants are rounded elsewhere.
            assert!(
                (got - want).abs() <= 1e-6 * largest,
                "{name}: {got}, {want}"
            );
        }
        write_float_onnx(&graph, &written).unwrap();
        assert_eq!(std::fs::read(&written).unwrap(), bytes, "{name}");
    }
}

#[test]
fn what_onnx_cannot_say_is_refused_by_name() {
    let scratch = Scratch::new();
    let mut b = GraphBuilder::new("m");
    let x = b.input("in", [4, 4, 3]);
    let frames = Layer::BufferTempConv(BufferTempConv {
        kernel: Array4::ones((1, 1, 6, 3)),
        bias: None,
        n_frames: 2,
    });
    let y = b.layer("frames", [x], frames);
    let y = b.relu("relu", y);
    let factor = || Array1::ones(3);
    let recurrent = Layer::StatefulRecurrent(StatefulRecurrent {
        a_real: factor(),
        a_imag: factor(),
    });
    let steps = Layer::Reshape {
        target_shape: vec![16, 3],
    };
    let y = b.layer("steps", [y], steps);
    let y = b.layer("states", [y], recurrent);
    let graph = b.build([y]).unwrap();
    let path = scratch.path("m.onnx");
    let message = write_float_onnx(&graph, &path).unwrap_err().to_string();
    assert!(message.contains("`frames` (BufferTempConv)"), "{message}");
    assert!(!path.exists(), "nothing is left");
}
