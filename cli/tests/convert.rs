//! `bitproof convert`, and `quantize` to the format of QuantizeML.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;

fn case() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/cases/25-input-quantizer-uint8")
}

fn bitproof(args: &[&Path]) -> Output {
    let mut command = Command::cargo_bin("bitproof").unwrap();
    command.args(args).output().unwrap()
}

#[test]
fn a_model_goes_through_all_formats() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let samples = case().join("samples.npy");
    for out in ["a.h5", "a.bpq.safetensors"] {
        let run = bitproof(&[
            Path::new("quantize"),
            &case().join("model.keras"),
            Path::new("--samples"),
            &samples,
            Path::new("--input-quantizer=always"),
            Path::new("-s"),
            &at(out),
        ]);
        assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stderr)
        );
    }
    let converted = |from: &str, to: &str| {
        let run = bitproof(&[Path::new("convert"), &at(from), &at(to)]);
        assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stderr)
        );
        let shown = bitproof(&[Path::new("summary"), &at(to)]);
        String::from_utf8(shown.stdout).unwrap()
    };
    let summary = bitproof(&[Path::new("summary"), &at("a.bpq.safetensors")]);
    let summary = String::from_utf8(summary.stdout).unwrap();
    assert!(summary.contains("input_quantizer"), "{summary}");
    for (from, to) in [
        ("a.h5", "b.bpq.safetensors"),
        ("a.bpq.safetensors", "b.h5"),
        ("b.h5", "c.h5"),
        ("c.h5", "c.bpq.safetensors"),
    ] {
        assert_eq!(converted(from, to), summary, "{from} to {to}");
    }
    let bytes = |name: &str| fs::read(at(name)).unwrap();
    assert!(
        bytes("b.bpq.safetensors") == bytes("c.bpq.safetensors"),
        "the same model"
    );
}

#[test]
fn what_a_target_cannot_say_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.bpq.safetensors");
    let run = bitproof(&[Path::new("convert"), &case().join("model.keras"), &out]);
    let message = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(2), "{message}");
    assert!(
        message.contains("quantize it first") && !out.exists(),
        "{message}"
    );
}

#[test]
fn onnx_is_written_with_integers_and_says_what_it_leaves_out() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let quantized = case().join("expected/quantized.h5");
    let run = bitproof(&[Path::new("convert"), &quantized, &at("m.onnx")]);
    let notes = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.success(), "{notes}");
    assert!(notes.contains("no configuration"), "{notes}");
    let bytes = fs::read(at("m.onnx")).unwrap();
    let count = |word: &[u8]| bytes.windows(word.len()).filter(|w| *w == word).count();
    assert!(count(b"QuantizeLinear") > 0, "tensors are integers");
    assert!(count(b"DequantizeLinear") > 0, "weights are integers");
    let again = bitproof(&[Path::new("convert"), &quantized, &at("again.onnx")]);
    assert!(again.status.success());
    assert!(bytes == fs::read(at("again.onnx")).unwrap(), "same bytes");
    let float = bitproof(&[
        Path::new("convert"),
        &case().join("model.keras"),
        &at("f.onnx"),
    ]);
    assert!(float.status.success());
    let summary = bitproof(&[Path::new("summary"), &at("f.onnx")]);
    assert!(summary.status.success(), "a float network comes back");
}
