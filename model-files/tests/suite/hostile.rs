//! No file makes a reader panic, hang, or take memory that its size does not justify.

use std::path::Path;

use akida_sim::{Executor, lower};
use model_files::{
    ArrayReader, ModelKind, detect, read_bpq, read_integers, read_keras_archive, read_keras_h5,
    read_onnx, read_quantized_h5, write_bpq,
};
use ndarray::ArrayD;

use crate::keras_files::made;
use crate::support::{Scratch, Stream, case};

/// Changed files a test; enough to reach every structure of a small file.
const N_CHANGES: usize = 400;

/// Calls `check` with broken versions of `bytes`: cut off, and with bytes changed.
fn break_in_many_ways(bytes: &[u8], n_changes: usize, check: &mut dyn FnMut(&[u8])) {
    let n_cuts = 64.min(bytes.len());
    for i in 0..n_cuts {
        check(&bytes[..(bytes.len() * i).div_euclid(n_cuts)]);
    }
    let mut stream = Stream::new(7);
    for i in 0..n_changes {
        let mut broken = bytes.to_vec();
        for _ in 0..1 + i % 4 {
            let at = stream.below(broken.len());
            // Extremes find more than random bytes do.
            broken[at] = match stream.below(4) {
                0 => 0,
                1 => 0xFF,
                2 => broken[at] ^ (1 << stream.below(8)),
                _ => u8::try_from(stream.below(256)).unwrap(),
            };
        }
        check(&broken);
    }
}

fn read_as_model(path: &Path) {
    match detect(path) {
        Ok(ModelKind::KerasFloatH5) => drop(read_keras_h5(path)),
        Ok(ModelKind::KerasArchive) => drop(read_keras_archive(path)),
        Ok(ModelKind::KerasQuantizedH5) => {
            if let Ok(graph) = read_quantized_h5(path) {
                drop(lower(graph));
            }
        }
        Ok(ModelKind::Bpq) => drop(read_bpq(path)),
        Ok(ModelKind::Onnx) => drop(read_onnx(path)),
        Err(_) => {}
    }
}

#[test]
fn broken_onnx_models_are_refused_or_read() {
    let scratch = Scratch::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/onnx");
    for name in ["resnet", "mobilenet", "activations", "upscaling", "keras"] {
        let bytes = std::fs::read(folder.join(format!("{name}.onnx"))).unwrap();
        let mut n_read = 0;
        break_in_many_ways(&bytes, 2 * N_CHANGES, &mut |broken| {
            n_read += usize::from(read_onnx(&scratch.write("m.onnx", broken)).is_ok());
        });
        assert!(n_read < 2 * N_CHANGES, "some changes are noticed");
    }
}

#[test]
fn broken_float_models_are_refused_or_read() {
    let scratch = Scratch::new();
    let bytes = std::fs::read(case("03-tiny-conv-8bit-per-axis").join("model.h5")).unwrap();
    break_in_many_ways(&bytes, N_CHANGES, &mut |broken| {
        read_as_model(&scratch.write("m.h5", broken));
    });
}

#[test]
fn broken_archives_are_refused_or_read() {
    let scratch = Scratch::new();
    for name in ["k2_nested.keras", "k3_nested.keras"] {
        let bytes = std::fs::read(made(name)).unwrap();
        break_in_many_ways(&bytes, N_CHANGES, &mut |broken| {
            read_as_model(&scratch.write("m.keras", broken));
        });
    }
}

/// Each byte of the JSON and of the weights reaches the readers: no checksum stands before them.
#[test]
fn broken_json_and_weights_are_refused_or_read() {
    let scratch = Scratch::new();
    for name in ["k2_nested_only", "k3_nested_only"] {
        let json = std::fs::read(made(&format!("{name}.json"))).unwrap();
        let weights = std::fs::read(made(&format!("{name}.weights.h5"))).unwrap();
        let path = scratch.write("m.weights.h5", &weights);
        break_in_many_ways(&json, N_CHANGES, &mut |broken| {
            scratch.write("m.json", broken);
            read_as_model(&path);
        });
        scratch.write("m.json", &json);
        break_in_many_ways(&weights, N_CHANGES, &mut |broken| {
            read_as_model(&scratch.write("m.weights.h5", broken));
        });
    }
}

#[test]
fn broken_quantized_h5_models_are_refused_or_read() {
    let scratch = Scratch::new();
    let path = case("03-tiny-conv-8bit-per-axis").join("expected/quantized.h5");
    let bytes = std::fs::read(path).unwrap();
    break_in_many_ways(&bytes, N_CHANGES, &mut |broken| {
        read_as_model(&scratch.write("m.h5", broken));
    });
}

/// What is read must also run: the reader checks all that the executor relies on.
#[test]
fn broken_bpq_models_are_refused_or_run() {
    let scratch = Scratch::new();
    for name in [
        "13-resnet-add-relu-gap-w4",
        "09-separable",
        "25-input-quantizer-uint8",
    ] {
        let quantized = case(name).join("expected/quantized.h5");
        let model = lower(read_quantized_h5(&quantized).unwrap()).unwrap();
        let good = scratch.path("good.bpq.safetensors");
        write_bpq(&model, &good).unwrap();
        let inputs = ArrayReader::open(&case(name).join("inputs.npy"), None, &[])
            .unwrap()
            .next_batch(1)
            .unwrap();
        let mut n_read = 0;
        break_in_many_ways(&std::fs::read(&good).unwrap(), N_CHANGES, &mut |broken| {
            let path = scratch.write("m.bpq.safetensors", broken);
            if let Ok(model) = read_bpq(&path) {
                n_read += 1;
                drop(Executor::new(&model).run(&inputs, &mut |_, _| ()));
            }
        });
        assert!(n_read > 0, "some changes only change numbers");
    }
}

#[test]
fn broken_arrays_are_refused_or_read() {
    let scratch = Scratch::new();
    let folder = case("03-tiny-conv-8bit-per-axis");
    for (file, key) in [
        ("samples.npy", None),
        ("expected/layers.npz", Some("conv/values")),
        ("expected/ranges.npz", None),
    ] {
        let bytes = std::fs::read(folder.join(file)).unwrap();
        break_in_many_ways(&bytes, N_CHANGES, &mut |broken| {
            let path = scratch.write("a", broken);
            drop(read_integers(&path, key));
            let Ok(mut reader) = ArrayReader::open(&path, key, &[]) else {
                return;
            };
            // The reader ends, whatever the header says.
            for _ in 0..1000 {
                match reader.next_batch(7) {
                    Ok(batch) if batch.shape()[0] > 0 => {}
                    Ok(_) | Err(_) => break,
                }
            }
        });
    }
}

#[test]
fn headers_cannot_ask_for_memory() {
    let scratch = Scratch::new();
    let header = |shape: &str| {
        let dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
        let length = u16::try_from(dict.len()).unwrap();
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(dict.bytes());
        bytes.extend([0; 64]);
        bytes
    };
    for shape in [
        "(1000000000000, 4)",
        "(18446744073709551615, 18446744073709551615)",
        "(4294967296, 4294967296, 4)",
        "(1000000000000, 0)",
        "(17,)",
    ] {
        let path = scratch.write("a.npy", &header(shape));
        let reader = ArrayReader::open(&path, None, &[]);
        assert!(reader.is_err(), "{shape} does not fit 64 bytes");
    }
    let path = scratch.write("a.npy", &header("(2, 8)"));
    let batch: ArrayD<f32> = ArrayReader::open(&path, None, &[])
        .unwrap()
        .next_batch(9)
        .unwrap();
    assert_eq!(batch.shape(), [2, 8], "what fits is read");
}
