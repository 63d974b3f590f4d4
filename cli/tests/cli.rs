//! The binary on real files.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../conformance/cases")
        .join(name)
}

fn bitproof() -> Command {
    Command::cargo_bin("bitproof").unwrap()
}

/// Runs `quantize` on case 03 and returns its exit code, its messages and the file's bytes.
fn quantize(folder: &Path, args: &[&str], threads: &str) -> (i32, String, Option<Vec<u8>>) {
    let case = case("03-tiny-conv-8bit-per-axis");
    let out = folder.join("out.bpq.safetensors");
    let run = bitproof()
        .arg("quantize")
        .arg(case.join("model.h5"))
        .arg("--samples")
        .arg(case.join("samples.npy"))
        .arg("-s")
        .arg(&out)
        .args(args)
        .env("RAYON_NUM_THREADS", threads)
        .output()
        .unwrap();
    let bytes = fs::read(&out).ok();
    let _ = fs::remove_file(&out);
    (
        run.status.code().unwrap(),
        String::from_utf8(run.stderr).unwrap(),
        bytes,
    )
}

#[test]
fn three_mistakes_are_reported_in_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("q.json");
    let text = r#"{
        "conv_00": {"weight_quantizer": {"bitwidth": 4}},
        "relu": {"output_quantizer": {"bitwidth": 99, "signed": true, "axis": "per-axis"}},
        "fc": {"weight_quantiser": {"bitwidth": 4}}
    }"#;
    let layers =
        fs::read_to_string(case("03-tiny-conv-8bit-per-axis").join("expected/config.json"));
    let layers: Value = serde_json::from_str(&layers.unwrap()).unwrap();
    let names: Vec<&String> = layers.as_object().unwrap().keys().collect();
    let [conv, relu, .., last] = names.as_slice() else {
        unreachable!("four layers")
    };
    let text = text
        .replace("conv_00", &format!("{conv}x"))
        .replace("\"relu\"", &format!("\"{relu}\""))
        .replace("\"fc\"", &format!("\"{last}\""));
    fs::write(&config, text).unwrap();
    let (code, message, bytes) = quantize(folder.path(), &["-c", config.to_str().unwrap()], "2");
    assert_eq!(code, 2, "exit code; {message}");
    assert!(bytes.is_none(), "no file is written");
    assert!(message.contains("3 mistakes"), "{message}");
    for part in [
        format!("$.{conv}x"),
        format!("did you mean `{conv}`"),
        format!("$.{relu}.output_quantizer.bitwidth"),
        "1 to 16".to_owned(),
        format!("$.{last}.weight_quantiser"),
        "`weight_quantizer`".to_owned(),
    ] {
        assert!(message.contains(&part), "{part} in: {message}");
    }
}

#[test]
fn the_same_call_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (code, message, first) = quantize(folder.path(), &["-bs", "7"], "1");
    assert_eq!(code, 0, "{message}");
    assert!(first.is_some(), "a file is written");
    for threads in ["1", "2", "3"] {
        let (_, _, again) = quantize(folder.path(), &["-bs", "7"], threads);
        assert_eq!(again, first, "{threads} threads");
    }
}

#[test]
fn a_saved_configuration_can_be_edited_and_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let case = case("03-tiny-conv-8bit-per-axis");
    let out = folder.path().join("a.bpq.safetensors");
    bitproof()
        .args(["quantize", "-m"])
        .arg(case.join("model.h5"))
        .arg("-sa")
        .arg(case.join("samples.npy"))
        .arg("-s")
        .arg(&out)
        .assert()
        .success();
    let printed = bitproof().arg("config").arg(&out).output().unwrap().stdout;
    let mut config: Value = serde_json::from_slice(&printed).unwrap();
    let first = config.as_object().unwrap().keys().next().unwrap().clone();
    config[&first]["weight_quantizer"]["bitwidth"] = 5.into();
    let path = folder.path().join("q.json");
    fs::write(&path, config.to_string()).unwrap();
    let again = folder.path().join("b.bpq.safetensors");
    bitproof()
        .arg("quantize")
        .arg(case.join("model.h5"))
        .arg("--samples")
        .arg(case.join("samples.npy"))
        .arg("-c")
        .arg(&path)
        .arg("-s")
        .arg(&again)
        .assert()
        .success();
    let printed = bitproof()
        .arg("config")
        .arg(&again)
        .output()
        .unwrap()
        .stdout;
    let got: Value = serde_json::from_slice(&printed).unwrap();
    assert_eq!(got, config, "the edited configuration is the effective one");
}

#[test]
fn wrong_use_is_refused_with_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let refused = [
        (vec!["-ns", "1000000"], "only"),
        (vec!["-e", "0"], "epochs"),
        (vec!["-w", "1"], "weight_bits"),
        (vec!["-b", "8"], "buffer_bits"),
        (vec!["-bs", "0"], "batch"),
        (vec!["-qu", "nothing"], "nothing"),
        (vec!["--input-shape", "3,3,3"], "shape"),
        (vec!["-c", "no_such_file.json"], "no_such_file.json"),
        (vec!["--input-quantizer", "sometimes"], "sometimes"),
    ];
    for (args, part) in refused {
        let (code, message, bytes) = quantize(folder.path(), &args, "2");
        assert_eq!(code, 2, "{args:?}: {message}");
        assert!(message.contains(part), "{args:?}: {message}");
        assert!(bytes.is_none(), "{args:?} writes no file");
    }
}

#[test]
fn a_place_that_cannot_be_written_is_refused_before_any_work() {
    let model = case("03-tiny-conv-8bit-per-axis").join("model.h5");
    for (place, part) in [
        ("out.keras", ".bpq.safetensors"),
        ("no_folder/x.bpq.safetensors", "folder"),
    ] {
        let run = bitproof()
            .arg("quantize")
            .arg(&model)
            .args(["-s", place])
            .output()
            .unwrap();
        assert_eq!(run.status.code(), Some(2), "{place}");
        let message = String::from_utf8(run.stderr).unwrap();
        assert!(
            message.contains(part) && !message.contains("calibrating"),
            "{message}"
        );
    }
}

#[test]
fn files_that_are_no_models_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.h5");
    for bytes in [
        b"".as_slice(),
        b"\x89HDF\r\n\x1a\nnonsense",
        b"PK\x03\x04",
        b"{}",
    ] {
        fs::write(&path, bytes).unwrap();
        bitproof().arg("summary").arg(&path).assert().code(2);
    }
    bitproof()
        .arg("summary")
        .arg(folder.path())
        .assert()
        .code(2);
    bitproof()
        .args(["summary", "no_such_file.h5"])
        .assert()
        .code(2);
}

#[test]
fn a_rescaling_is_inserted_after_the_input() {
    let folder = tempfile::tempdir().unwrap();
    let case = case("18-dense-mlp-int8");
    let out = folder.path().join("rescaled.h5");
    bitproof()
        .arg("insert-rescaling")
        .arg(case.join("model.h5"))
        .args(["--scale", "0.5", "--offset", "-1", "-s"])
        .arg(&out)
        .assert()
        .success();
    let text = bitproof()
        .arg("summary")
        .arg(&out)
        .args(["--format", "json"])
        .output()
        .unwrap();
    let summary: Value = serde_json::from_slice(&text.stdout).unwrap();
    let before = bitproof()
        .arg("summary")
        .arg(case.join("model.h5"))
        .args(["--format", "json"])
        .output()
        .unwrap();
    let before: Value = serde_json::from_slice(&before.stdout).unwrap();
    assert_eq!(summary["layers"][1]["class_name"], "Rescaling", "{summary}");
    assert_eq!(
        summary["total_params"], before["total_params"],
        "weights are kept"
    );
}

#[test]
fn the_demo_is_accurate() {
    let text = bitproof()
        .args(["demo", "--format", "json"])
        .output()
        .unwrap()
        .stdout;
    let demo: Value = serde_json::from_slice(&text).unwrap();
    let rows = demo["rows"].as_array().unwrap();
    let accuracy = |row: &Value| row["accuracy"].as_f64().unwrap();
    assert!(accuracy(&rows[0]) >= 0.98, "8 bits: {demo}");
    assert!(accuracy(&rows[1]) >= 0.965, "4 bits: {demo}");
}

#[test]
fn evaluation_compares_with_the_float_model() {
    let folder = tempfile::tempdir().unwrap();
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    let out = folder.path().join("digits.bpq.safetensors");
    bitproof()
        .arg("quantize")
        .arg(assets.join("digits.h5"))
        .arg("--samples")
        .arg(assets.join("digits.npz"))
        .arg("-s")
        .arg(&out)
        .assert()
        .success();
    let run = bitproof()
        .arg("eval")
        .arg(&out)
        .arg("--data")
        .arg(assets.join("digits.npz"))
        .arg("--float")
        .arg(assets.join("digits.h5"))
        .args(["--format", "json"])
        .output()
        .unwrap();
    let eval: Value = serde_json::from_slice(&run.stdout).unwrap();
    for key in ["accuracy", "float_accuracy", "disagreement", "items"] {
        assert!(eval[key].is_number(), "{key} in {eval}");
    }
}

#[test]
fn an_accuracy_below_the_gate_is_an_answer() {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    let eval = |gate: &str| {
        let run = bitproof()
            .current_dir(&assets)
            .args(["eval", "digits.h5", "--data", "digits.npz"])
            .args(["--min-accuracy", gate])
            .output()
            .unwrap();
        let out = String::from_utf8(run.stdout).unwrap();
        (run.status.code().unwrap(), out.contains("BELOW"))
    };
    assert_eq!(eval("0.99"), (0, false), "99.56 % are enough");
    assert_eq!(eval("0.9956"), (1, true), "448 of 450 are less");
    assert_eq!(eval("99"), (2, false), "a share, no percentage");
}

/// Outputs of Keras for the files of `conformance/make_keras_files.py`.
#[test]
fn a_float_model_is_run_in_floats() {
    let folder = tempfile::tempdir().unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model-files/tests/data/keras");
    let (outputs, layers) = (
        folder.path().join("y.npy"),
        folder.path().join("layers.npz"),
    );
    bitproof()
        .arg("run")
        .arg(data.join("k3_branches.keras"))
        .arg("--inputs")
        .arg(data.join("k3_branches.npz"))
        .arg("--outputs")
        .arg(&outputs)
        .arg("--dump-layers")
        .arg(&layers)
        .assert()
        .success();
    let read = |path: &Path, key: Option<&str>| {
        let mut reader = bitproof::model_files::ArrayReader::open(path, key, &[]).unwrap();
        reader.next_batch(100).unwrap()
    };
    let want = read(&data.join("k3_branches.npz"), Some("y"));
    for got in [read(&outputs, None), read(&layers, Some("soft/float"))] {
        assert_eq!(got.shape(), want.shape());
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() <= 1e-5, "{got} instead of {want}");
        }
    }
}

/// A network of `Conv3D` becomes one over frames, whose integers are close to the floats of the clip.
#[test]
fn a_network_over_clips_is_quantized_over_frames() {
    let folder = tempfile::tempdir().unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model-files/tests/data/keras");
    let path = |name: &str| folder.path().join(name);
    let read = |path: &Path, key: Option<&str>| {
        let mut reader = bitproof::model_files::ArrayReader::open(path, key, &[]).unwrap();
        reader.next_batch(100).unwrap()
    };
    let example = data.join("k3_clips.npz");
    let frames = read(&example, Some("x")).index_axis_move(ndarray::Axis(0), 0);
    bitproof::model_files::write_npy_f32(&path("frames.npy"), &frames).unwrap();
    let explained = bitproof()
        .arg("quantize")
        .arg(data.join("k3_clips.keras"))
        .args(["--explain", "--observer", "max", "--samples"])
        .arg(path("frames.npy"))
        .arg("-s")
        .arg(path("m.bpq.safetensors"))
        .output()
        .unwrap();
    let text = String::from_utf8(explained.stdout).unwrap();
    assert!(
        text.contains("clips-to-frames at in: takes frames now"),
        "{text}"
    );
    bitproof()
        .arg("run")
        .arg(path("m.bpq.safetensors"))
        .args(["--sequence", "--inputs"])
        .arg(path("frames.npy"))
        .arg("--outputs")
        .arg(path("y.npy"))
        .assert()
        .success();
    let want = read(&example, Some("y")).index_axis_move(ndarray::Axis(0), 0);
    let got = read(&path("y.npy"), None);
    assert_eq!(got.shape(), want.shape());
    let largest = want.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    for (got, want) in got.iter().zip(&want) {
        // 8 bits, five layers deep.
        assert!(
            (got - want).abs() <= 0.08 * largest,
            "{got} instead of {want}"
        );
    }
}
