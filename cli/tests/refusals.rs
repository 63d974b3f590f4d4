//! What the binary must not accept in silence.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use assert_cmd::Command;

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../conformance/cases")
        .join(name)
}

fn file(case_name: &str, file: &str) -> String {
    case(case_name).join(file).to_str().unwrap().to_owned()
}

/// Runs the binary and returns its exit code and its messages.
fn bitproof(args: &[&str]) -> (i32, String) {
    let run = Command::cargo_bin("bitproof").unwrap().args(args).output();
    let run = run.unwrap();
    let text = String::from_utf8(run.stderr).unwrap();
    (run.status.code().unwrap(), text)
}

fn refused(args: &[&str], word: &str) {
    let (code, message) = bitproof(args);
    assert_eq!(
        (code, message.contains(word)),
        (2, true),
        "{args:?}: {message}"
    );
}

const TINY: &str = "03-tiny-conv-8bit-per-axis";

#[test]
fn a_rescaling_must_be_finite_and_not_zero() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.h5");
    let out = out.to_str().unwrap();
    let model = file(TINY, "model.h5");
    for scale in ["nan", "inf", "0"] {
        refused(
            &["insert-rescaling", &model, "--scale", scale, "-s", out],
            "finite",
        );
    }
    let args = [
        "insert-rescaling",
        &model,
        "--scale",
        "2",
        "--offset",
        "inf",
        "-s",
        out,
    ];
    refused(&args, "finite");
    assert!(!Path::new(out).exists(), "no file is left behind");
    refused(
        &[
            "insert-rescaling",
            &model,
            "--scale",
            "2",
            "-s",
            "model.onnx",
        ],
        ".h5",
    );
}

#[test]
fn a_model_is_never_its_own_output() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.h5");
    fs::copy(file(TINY, "model.h5"), &model).unwrap();
    let before = fs::read(&model).unwrap();
    let path = model.to_str().unwrap();
    refused(
        &["insert-rescaling", path, "--scale", "2", "-s", path],
        "replace",
    );
    refused(&["quantize", path, "-ns", "4", "-s", path], "replace");
    refused(&["convert", path, path], "replace");
    // The same file by another way.
    let around = folder
        .path()
        .join("../")
        .join(folder.path().file_name().unwrap());
    let around = around.join("model.h5");
    refused(&["convert", path, around.to_str().unwrap()], "replace");
    assert_eq!(fs::read(&model).unwrap(), before);
}

#[test]
fn outputs_never_replace_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let inputs = folder.path().join("x.npy");
    fs::copy(file(TINY, "inputs.npy"), &inputs).unwrap();
    let before = fs::read(&inputs).unwrap();
    let inputs = inputs.to_str().unwrap();
    let model = file(TINY, "expected/quantized.h5");
    refused(
        &["run", &model, "--inputs", inputs, "--outputs", inputs],
        "replace",
    );
    let one = folder.path().join("one.npz");
    let one = one.to_str().unwrap();
    refused(
        &[
            "run",
            &model,
            "--inputs",
            inputs,
            "--outputs",
            one,
            "--dump-layers",
            one,
        ],
        "replace",
    );
    assert_eq!(fs::read(inputs).unwrap(), before);
}

#[test]
fn samples_must_be_of_the_input_type() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.bpq.safetensors");
    let raw = folder.path().join("samples.bin");
    let values: Vec<u8> = (0..8 * 8 * 3).flat_map(|_| 300_u16.to_le_bytes()).collect();
    fs::write(&raw, values).unwrap();
    let model = file(TINY, "model.h5");
    let args = [
        "quantize",
        &model,
        "--samples",
        raw.to_str().unwrap(),
        "--sample-shape",
        "8,8,3",
        "--sample-dtype",
        "uint16",
        "-s",
        out.to_str().unwrap(),
    ];
    refused(&args, "300");
    assert!(!out.exists(), "no file is left behind");
}

#[test]
fn two_float_models_are_not_compared() {
    let model = file(TINY, "model.h5");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/digits.npz");
    let args = [
        "eval",
        &model,
        "--float",
        &model,
        "--data",
        data.to_str().unwrap(),
    ];
    refused(&args, "float model");
}

#[test]
fn keys_that_stand_twice_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("q.json");
    fs::write(
        &config,
        r#"{"dense": {"buffer_bitwidth": 28, "buffer_bitwidth": 27}}"#,
    )
    .unwrap();
    let model = file(TINY, "model.h5");
    let samples = file(TINY, "samples.npy");
    let args = [
        "quantize",
        &model,
        "--samples",
        &samples,
        "-c",
        config.to_str().unwrap(),
        "-s",
        "out.bpq.safetensors",
    ];
    refused(&args, "$.dense.buffer_bitwidth");
}

#[test]
fn places_are_checked_before_any_work() {
    let model = file(TINY, "expected/quantized.h5");
    let inputs = file(TINY, "inputs.npy");
    let run = |flag: &str, path: &str, word: &str| {
        refused(&["run", &model, "--inputs", &inputs, flag, path], word);
    };
    run("--outputs", "no-such-folder/y.npy", "no folder");
    run("--outputs", "y.txt", ".npy");
    run("--dump-layers", "layers.npy", ".npz");
}

#[test]
fn a_file_that_is_cut_off_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.h5");
    let bytes = fs::read(file(TINY, "model.h5")).unwrap();
    for keep in [60, 80, 95] {
        let n = (bytes.len() * keep).div_euclid(100);
        fs::write(&model, &bytes[..n]).unwrap();
        refused(&["summary", model.to_str().unwrap()], "cut off");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_fault() {
    let binary = assert_cmd::cargo::cargo_bin("bitproof");
    let mut child = std::process::Command::new(binary)
        .args(["schema"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    let code = status.code();
    assert!(matches!(code, Some(0 | 141)), "exit code {code:?}");
}

#[test]
fn batches_beyond_all_memory_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.bpq.safetensors");
    let out = out.to_str().unwrap();
    let huge = "100000000000";
    let model = file(TINY, "expected/quantized.h5");
    refused(&["bench", &model, "--batch", huge], "a smaller one");
    let float = file(TINY, "model.h5");
    refused(&["bench", &float, "--batch", huge], "a smaller one");
    refused(
        &[
            "bench",
            &float,
            "--batch",
            "4",
            "--runs",
            "18446744073709551615",
        ],
        "too many",
    );
    let args = ["quantize", &float, "-ns", huge, "-bs", huge, "-s", out];
    refused(&args, "a smaller one");
}

#[test]
fn flags_of_samples_need_samples() {
    let model = file(TINY, "expected/quantized.h5");
    let page = tempfile::tempdir().unwrap();
    let page = page.path().join("report.html");
    let page = page.to_str().unwrap();
    for flags in [
        &["--preprocess", "garbage"][..],
        &["--samples-key", "x"],
        &["--image-size", "8,8"],
        &["--on-bad-sample", "skip"],
    ] {
        let prove = [&["prove", &model][..], flags].concat();
        refused(&prove, "without --samples");
        let report = [&["report", &model, "-o", page][..], flags].concat();
        refused(&report, "without --samples and --data");
    }
    let report = ["report", &model, "-o", page, "--num-samples", "4"];
    refused(&report, "--num-samples");
    let samples = file(TINY, "samples.npy");
    let report = [
        "report",
        &model,
        "-o",
        page,
        "--samples",
        &samples,
        "--num-samples",
        "0",
    ];
    refused(&report, "--num-samples");
}

#[test]
fn a_format_without_a_place_for_buffers_is_refused() {
    let model = file(TINY, "expected/quantized.h5");
    for format in ["sarif", "junit"] {
        refused(
            &["prove", &model, "--smallest", "--format", format],
            "--smallest",
        );
    }
}

/// Returns a `.npy` file of one number.
fn one_label() -> Vec<u8> {
    let dict = "{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }\n";
    let length = u16::try_from(dict.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], dict.as_bytes(), &[0]].concat()
}

#[test]
fn what_forgets_the_steps_before_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let label = folder.path().join("y.npy");
    fs::write(&label, one_label()).unwrap();
    let page = folder.path().join("p.html");
    let (label, page) = (label.to_str().unwrap(), page.to_str().unwrap());
    let warned = |name: &str, warned: bool| {
        let model = file(name, "expected/quantized.h5");
        let inputs = file(name, "inputs.npy");
        for args in [
            &["eval", &model, "--images", &inputs, "--labels", label][..],
            &["report", &model, "--samples", &inputs, "-o", page],
            &["run", &model, "--inputs", &inputs],
        ] {
            let (_, message) = bitproof(args);
            let word = "remembers earlier steps";
            assert_eq!(message.contains(word), warned, "{args:?}: {message}");
        }
    };
    warned("36-buffer-temp-conv", true);
    warned(TINY, false);
}

#[test]
fn an_instruction_set_that_is_not_there_is_refused() {
    let model = file(TINY, "model.h5");
    let summary = |isa: &str| {
        let mut command = Command::cargo_bin("bitproof").unwrap();
        let run = command.args(["summary", &model]).env("BITPROOF_ISA", isa);
        let run = run.output().unwrap();
        let text = String::from_utf8(run.stderr).unwrap();
        (run.status.code().unwrap(), text)
    };
    assert_eq!(summary("portable").0, 0);
    assert_eq!(summary("").0, 0);
    for isa in ["AVX2", "avx3"] {
        let (code, message) = summary(isa);
        assert_eq!(code, 2, "{isa}: {message}");
        assert!(message.contains("this CPU has portable"), "{message}");
    }
}

#[test]
fn a_seed_without_random_samples_is_not_silent() {
    let folder = tempfile::tempdir().unwrap();
    let model = file(TINY, "model.h5");
    let samples = file(TINY, "samples.npy");
    for (command, out) in [("quantize", "q.bpq.safetensors"), ("calibrate", "r.json")] {
        let out = folder.path().join(out);
        let out = out.to_str().unwrap();
        let (code, message) = bitproof(&[
            command,
            &model,
            "--samples",
            &samples,
            "--seed",
            "1",
            "-s",
            out,
        ]);
        assert_eq!(code, 0, "{message}");
        assert!(
            message.contains("--seed is for random samples"),
            "{message}"
        );
    }
}

#[test]
fn no_name_reaches_the_terminal_raw() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a\u{1b}[2Jb.h5");
    fs::write(&path, "no model").unwrap();
    let (code, message) = bitproof(&["summary", path.to_str().unwrap()]);
    assert_eq!(code, 2, "{message:?}");
    assert!(message.contains("a\\u{1b}[2Jb.h5"), "{message:?}");
    assert!(!message.contains('\u{1b}'), "{message:?}");
}
