//! Files that are cut off or broken: an error, never a panic.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use akida_sim::lower;
use model_files::{
    ArrayReader, detect, read_bpq, read_integers, read_keras_h5, read_quantized_h5, write_bpq,
};

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../conformance/cases")
        .join(name)
}

/// Numbers of a small generator; the same on every run.
fn numbers() -> impl Iterator<Item = usize> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 16).unwrap()
    })
}

/// Calls `read` on cut-off and broken copies of a file.
fn attack(original: &Path, extension: &str, read: impl Fn(&Path)) {
    let bytes = fs::read(original).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("file.{extension}"));
    let mut numbers = numbers();
    for _ in 0..60 {
        let end = numbers.next().unwrap().rem_euclid(bytes.len());
        fs::write(&path, &bytes[..end]).unwrap();
        read(&path);
    }
    for _ in 0..200 {
        let mut broken = bytes.clone();
        for _ in 0..1 + numbers.next().unwrap().rem_euclid(4) {
            // Most structure is at the start of these formats.
            let limit = if numbers.next().unwrap().rem_euclid(2) == 0 {
                2048
            } else {
                bytes.len()
            };
            let at = numbers.next().unwrap().rem_euclid(limit.min(bytes.len()));
            broken[at] = u8::try_from(numbers.next().unwrap().rem_euclid(256)).unwrap();
        }
        fs::write(&path, &broken).unwrap();
        read(&path);
    }
}

#[test]
fn broken_keras_files() {
    let model = case("03-tiny-conv-8bit-per-axis").join("model.h5");
    attack(&model, "h5", |path| {
        let _ = detect(path);
        let _ = read_keras_h5(path);
    });
    let quantized = case("03-tiny-conv-8bit-per-axis").join("expected/quantized.h5");
    attack(&quantized, "h5", |path| {
        if let Ok(graph) = read_quantized_h5(path) {
            let _ = lower(graph);
        }
    });
}

#[test]
fn broken_models_of_our_own_format() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bpq.safetensors");
    let graph = read_quantized_h5(&case("09-separable").join("expected/quantized.h5")).unwrap();
    write_bpq(&lower(graph).unwrap(), &path).unwrap();
    let input = ndarray::ArrayD::<f32>::zeros(ndarray::IxDyn(&[1, 1, 1, 1]));
    attack(&path, "bpq.safetensors", |path| {
        if let Ok(model) = read_bpq(path) {
            // What is accepted can be run: on an input that fits or is refused, but no panic.
            let shape: Option<Vec<usize>> = std::iter::once(Some(1))
                .chain(model.nodes[0].shape.iter().copied())
                .collect();
            let shape = shape.unwrap_or_default();
            if shape.iter().product::<usize>() < 1 << 16 {
                let x = ndarray::ArrayD::zeros(ndarray::IxDyn(&shape));
                let _ = akida_sim::Executor::new(&model).run(&x, &mut |_, _| ());
            }
            let _ = akida_sim::Executor::new(&model).run(&input, &mut |_, _| ());
        }
    });
}

#[test]
fn broken_arrays() {
    let npy = case("03-tiny-conv-8bit-per-axis").join("samples.npy");
    attack(&npy, "npy", |path| {
        if let Ok(mut reader) = ArrayReader::open(path, None, &[]) {
            let _ = reader.next_batch(4);
        }
    });
    let npz = case("03-tiny-conv-8bit-per-axis").join("expected/layers.npz");
    let original = fs::read(&npz).unwrap();
    assert!(!original.is_empty(), "the archive is there");
    attack(&npz, "npz", |path| {
        let _ = read_integers(path, Some("relu_1/values"));
    });
}

#[test]
fn a_header_cannot_ask_for_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.npy");
    let dict = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000), }";
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    let length = (10 + dict.len() + 1).next_multiple_of(64) - 10;
    bytes.extend(u16::try_from(length).unwrap().to_le_bytes());
    bytes.extend(format!("{dict:<width$}\n", width = length - 1).into_bytes());
    fs::write(&path, bytes).unwrap();
    let error = ArrayReader::open(&path, None, &[]).unwrap_err().to_string();
    assert!(error.contains("ends before"), "{error}");
}

#[test]
fn another_version_of_our_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bpq.safetensors");
    let graph =
        read_quantized_h5(&case("03-tiny-conv-8bit-per-axis").join("expected/quantized.h5"))
            .unwrap();
    write_bpq(&lower(graph).unwrap(), &path).unwrap();
    let text = fs::read(&path).unwrap();
    let needle = b"\\\"version\\\":1,";
    let at = text
        .windows(needle.len())
        .position(|w| w == needle)
        .unwrap();
    let mut other = text.clone();
    other[at + needle.len() - 2] = b'7';
    fs::write(&path, other).unwrap();
    let error = read_bpq(&path).unwrap_err().to_string();
    assert!(error.contains("version 7"), "{error}");
}
