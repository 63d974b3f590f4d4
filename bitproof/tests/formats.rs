//! One model in all its formats: the same integers.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use bitproof::akida_sim::{QuantizedOp, lower};
use bitproof::float_model::{Convolution, Layer};
use bitproof::model_files::{read_quantized_h5, write_bpq, write_quantized_h5};
use bitproof::{
    Executor, Graph, GraphBuilder, InputQuantizerMode, ParamValues, QuantizationParams,
    QuantizeOptions, Quantized, Samples, check_save_path, convert, load_float, load_quantized,
    quantize, save, save_quantized,
};
use ndarray::{ArrayD, Axis};

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/cases")
}

/// Returns the quantized models of the reference in the repository.
fn references() -> Vec<PathBuf> {
    let folders = fs::read_dir(cases())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files = folders.map(|folder| folder.join("expected/quantized.h5"));
    let mut files: Vec<PathBuf> = files.filter(|path| path.is_file()).collect();
    files.sort();
    assert!(files.len() > 15, "the cases are there");
    files
}

fn quantized(model: &Path, samples: &Path) -> Quantized {
    let samples = Samples::File {
        path: samples.to_owned(),
        key: None,
    };
    let options = QuantizeOptions {
        input_quantizer: InputQuantizerMode::Always,
        ..QuantizeOptions::default()
    };
    quantize(load_float(model).unwrap(), samples, &options, &mut |_| ()).unwrap()
}

#[test]
fn archives_give_the_bytes_that_their_h5_gives() {
    let folder = tempfile::tempdir().unwrap();
    for (case, archive) in [
        ("03-tiny-conv-8bit-per-axis", "model.keras"),
        ("18-dense-mlp-int8", "model_tfkeras.keras"),
        ("25-input-quantizer-uint8", "model.keras"),
    ] {
        let case = cases().join(case);
        let bytes = |model: &str| {
            let quantized = quantized(&case.join(model), &case.join("samples.npy"));
            let [own, h5] = ["m.bpq.safetensors", "m.h5"].map(|name| folder.path().join(name));
            save_quantized(&quantized, &own).unwrap();
            save_quantized(&quantized, &h5).unwrap();
            [fs::read(own).unwrap(), fs::read(h5).unwrap()]
        };
        assert!(bytes(archive) == bytes("model.h5"), "{}", case.display());
    }
}

/// What is written again is the reference's model, weights and ranges included.
#[test]
fn quantized_h5_files_are_written_as_they_were_read() {
    let folder = tempfile::tempdir().unwrap();
    for path in references() {
        let graph = read_quantized_h5(&path).unwrap();
        let again = folder.path().join("again.h5");
        write_quantized_h5(&graph, &again).unwrap();
        let read = read_quantized_h5(&again).unwrap();
        assert_eq!(
            lower(read.clone()).unwrap(),
            lower(graph).unwrap(),
            "{}",
            path.display()
        );
        let bytes = fs::read(&again).unwrap();
        write_quantized_h5(&read, &again).unwrap();
        assert!(
            fs::read(&again).unwrap() == bytes,
            "{}: the same bytes",
            path.display()
        );
    }
}

/// Integers alone become floats that become the same integers.
#[test]
fn models_of_integers_become_h5_files_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let [own, h5, back] =
        ["m.bpq.safetensors", "m.h5", "back.bpq.safetensors"].map(|name| folder.path().join(name));
    for path in references() {
        convert(&path, &own).unwrap();
        convert(&own, &h5).unwrap();
        convert(&h5, &back).unwrap();
        let (own, back) = (fs::read(&own).unwrap(), fs::read(&back).unwrap());
        assert!(own == back, "{}: the same bytes", path.display());
    }
}

#[test]
fn integers_that_no_weights_become_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = cases().join("03-tiny-conv-8bit-per-axis/expected/quantized.h5");
    let mut model = load_quantized(&path).unwrap();
    let mut broken = Vec::new();
    for node in &mut model.nodes {
        if let QuantizedOp::Integer(layer) = &mut node.op
            && let Some(bias) = &mut layer.bias
        {
            // A quantizer would use more digits and shift by less.
            bias.values = bias.values.map(|_| 1);
            bias.shift = bias.shift.map(|_| 9);
            broken.push(node.name.clone());
        }
    }
    let target = folder.path().join("m.h5");
    let error = save(&model, &target).unwrap_err().to_string();
    assert!(
        broken.len() > 1 && error.contains(&broken.join(", ")),
        "{error}"
    );
    assert!(!target.exists(), "no file is left");
}

#[test]
fn float_models_become_files_of_float_models_alone() {
    let folder = tempfile::tempdir().unwrap();
    let model = cases().join("03-tiny-conv-8bit-per-axis/model.keras");
    let h5 = folder.path().join("m.h5");
    convert(&model, &h5).unwrap();
    assert_eq!(
        load_float(&h5).unwrap(),
        load_float(&model).unwrap(),
        "the same network"
    );
    let own = folder.path().join("m.bpq.safetensors");
    let error = convert(&model, &own).unwrap_err().to_string();
    assert!(
        error.contains("this is a float model") && !own.exists(),
        "{error}"
    );
    let error = check_save_path(&folder.path().join("m.keras"), &[]).unwrap_err();
    assert!(
        error.to_string().contains(".bpq.safetensors, .h5 or .onnx"),
        "{error}"
    );
}

/// The model that `.h5` gives computes what the model in memory does.
#[test]
fn exported_models_compute_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let case = cases().join("13-resnet-add-relu-gap-w4");
    let quantized = quantized(&case.join("model.h5"), &case.join("samples.npy"));
    let h5 = folder.path().join("m.h5");
    save_quantized(&quantized, &h5).unwrap();
    let read = load_quantized(&h5).unwrap();
    let own = folder.path().join("m.bpq.safetensors");
    write_bpq(&quantized.model, &own).unwrap();
    let own = load_quantized(&own).unwrap();
    let shape: Vec<usize> = std::iter::once(2)
        .chain(own.nodes[0].shape.iter().map(|extent| extent.unwrap()))
        .collect();
    let mut value = 0_u8;
    let inputs = ArrayD::from_shape_simple_fn(shape, || {
        value = value.wrapping_mul(29).wrapping_add(71);
        f32::from(value)
    });
    let outputs = [&quantized.model, &read, &own].map(|model| {
        let run = Executor::new(model).run(&inputs, &mut |_, _| ()).unwrap();
        run.outputs[0].floats()
    });
    assert_eq!(outputs[0], outputs[1], ".h5");
    assert_eq!(outputs[0], outputs[2], "own format");
}

/// Of a SeparableConv2D only the products of two scales are known; many channels leave few choices.
#[test]
fn wide_separable_convolutions_are_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let [own, h5, back] =
        ["m.bpq.safetensors", "m.h5", "back.bpq.safetensors"].map(|name| folder.path().join(name));
    for weight_bits in [4, 8] {
        let mut b = GraphBuilder::with_seed("wide", 7);
        let x = b.input("x", [4, 4, 3]);
        let x = b.conv2d("first", x, 8, Convolution::new(3));
        let x = b.relu("relu", x);
        let x = b.separable_conv2d("wide", x, 300, Convolution::new(2));
        let mut draft = b.build([x]).unwrap().into_draft();
        // One channel without weights has the smallest scale.
        if weight_bits == 8
            && let Some(Layer::SeparableConv2D(conv)) =
                draft.node_mut("wide").map(|node| &mut node.layer)
        {
            conv.pointwise_kernel.index_axis_mut(Axis(3), 5).fill(0.0);
        }
        let params = QuantizationParams::try_from(ParamValues {
            weight_bits,
            ..ParamValues::default()
        });
        let options = QuantizeOptions {
            params: params.unwrap(),
            num_samples: Some(4),
            ..QuantizeOptions::default()
        };
        let graph = Graph::new(draft).unwrap();
        let quantized = quantize(graph, Samples::Random, &options, &mut |_| ()).unwrap();
        save(&quantized.model, &own).unwrap();
        convert(&own, &h5).unwrap();
        convert(&h5, &back).unwrap();
        let nodes = |path| load_quantized(path).unwrap().nodes;
        assert_eq!(nodes(&back), quantized.model.nodes, "{weight_bits} bits");
    }
}
