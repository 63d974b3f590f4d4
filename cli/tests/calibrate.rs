//! Calibrations that are kept in a file.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use bitproof::model_files::write_npy_f32;
use ndarray::{ArrayD, IxDyn};
use serde_json::{Value, json};
use tempfile::TempDir;

const OBSERVERS: [&str; 5] = ["moving-max", "max", "percentile", "percentile:99.5", "mse"];

/// A conformance case whose model takes floats, and a scratch folder.
struct Case {
    folder: TempDir,
    model: String,
    samples: String,
}

impl Case {
    fn new(name: &str) -> Self {
        let case = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../conformance/cases")
            .join(name);
        let text = |file: &str| case.join(file).display().to_string();
        Self {
            folder: TempDir::new().unwrap(),
            model: text("model.h5"),
            samples: text("samples.npy"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a command that writes `out`; returns its exit code, stdout and stderr.
    fn run(&self, command: &str, out: &str, args: &[&str]) -> (i32, String, String) {
        let run = Command::cargo_bin("bitproof")
            .unwrap()
            .args([command, &self.model, "-s"])
            .arg(self.path(out))
            .args(args)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            run.status.code().unwrap(),
            text(run.stdout),
            text(run.stderr),
        )
    }

    /// Calibrates to `ranges.json` and returns its text.
    fn calibrated(&self, args: &[&str]) -> String {
        let all = [&["--samples", &self.samples, "-bs", "4"], args].concat();
        let (code, _, err) = self.run("calibrate", "ranges.json", &all);
        assert_eq!(code, 0, "{args:?}: {err}");
        fs::read_to_string(self.path("ranges.json")).unwrap()
    }

    /// Quantizes with `ranges.json`; returns the exit code and the messages.
    fn with_ranges(&self, args: &[&str]) -> (i32, String) {
        let ranges = self.path("ranges.json").display().to_string();
        let all = [&["--ranges", &ranges], args].concat();
        let (code, _, err) = self.run("quantize", "ranges.bpq.safetensors", &all);
        (code, err)
    }
}

#[test]
fn kept_ranges_give_the_same_bytes() {
    for name in ["25-input-quantizer-uint8", "13-resnet-add-relu-gap-w4"] {
        let case = Case::new(name);
        for observer in OBSERVERS {
            for network in [[].as_slice(), &["--per-tensor-activations", "-a", "4"]] {
                let observed = [network, &["--observer", observer]].concat();
                case.calibrated(&observed);
                let (code, err) = case.with_ranges(network);
                assert_eq!(code, 0, "{observer}: {err}");
                let direct = [
                    &observed,
                    ["--samples", &case.samples, "-bs", "4"].as_slice(),
                ]
                .concat();
                let (code, _, err) = case.run("quantize", "direct.bpq.safetensors", &direct);
                assert_eq!(code, 0, "{observer}: {err}");
                let read = |file: &str| fs::read(case.path(file)).unwrap();
                assert!(
                    read("ranges.bpq.safetensors") == read("direct.bpq.safetensors"),
                    "{name}, {observer}, {network:?}"
                );
            }
        }
    }
}

#[test]
fn ranges_do_not_depend_on_threads() {
    let case = Case::new("25-input-quantizer-uint8");
    for observer in OBSERVERS {
        let texts = ["1", "2", "3"].map(|threads| {
            Command::cargo_bin("bitproof")
                .unwrap()
                .args(["calibrate", &case.model, "--samples", &case.samples])
                .args(["--observer", observer, "-s"])
                .arg(case.path("ranges.json"))
                .env("RAYON_NUM_THREADS", threads)
                .assert()
                .success();
            fs::read_to_string(case.path("ranges.json")).unwrap()
        });
        assert!(texts.iter().all(|text| *text == texts[0]), "{observer}");
    }
}

#[test]
fn a_file_of_ranges_says_what_they_were_made_from() {
    let case = Case::new("25-input-quantizer-uint8");
    let text = case.calibrated(&[
        "--observer",
        "percentile",
        "--preprocess",
        "2,-1",
        "-e",
        "3",
    ]);
    let ranges: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(ranges["observer"], "percentile:99.99", "{ranges}");
    assert_eq!(ranges["samples"]["preprocess"], "2,-1", "{ranges}");
    assert_eq!(ranges["samples"]["integers"], false, "{ranges}");
    assert_eq!(ranges["batches"]["epochs"], 3, "{ranges}");
    for digest in [&ranges["model_sha256"], &ranges["samples"]["sha256"]] {
        assert_eq!(digest.as_str().unwrap().len(), 64, "{ranges}");
    }
    assert!(
        ranges["outputs"].as_object().unwrap().len() >= 2,
        "{ranges}"
    );
    // Random samples have a seed instead of a digest.
    let (code, _, err) = case.run("calibrate", "r.json", &["--seed", "5", "-ns", "9"]);
    assert_eq!(code, 0, "{err}");
    let ranges: Value = serde_json::from_slice(&fs::read(case.path("r.json")).unwrap()).unwrap();
    assert_eq!(ranges["samples"]["seed"], 5, "{ranges}");
    assert_eq!(ranges["samples"]["used"], 9, "{ranges}");
    assert!(ranges["samples"]["sha256"].is_null(), "{ranges}");
}

#[test]
fn keys_of_ranges_without_a_meaning_are_refused() {
    let case = Case::new("25-input-quantizer-uint8");
    case.calibrated(&[]);
    let path = case.path("ranges.json");
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let layer = good["outputs"].as_object().unwrap().keys().next().unwrap();
    for place in [
        "",
        "/samples",
        "/batches",
        "/input",
        &format!("/outputs/{layer}"),
    ] {
        let mut ranges = good.clone();
        ranges.pointer_mut(place).unwrap()["rnage"] = 3.into();
        fs::write(&path, ranges.to_string()).unwrap();
        let (code, err) = case.with_ranges(&[]);
        assert!(
            code == 2 && err.contains("rnage: no such key"),
            "{place}: {err}"
        );
    }
}

#[test]
fn ranges_that_do_not_fit_are_refused() {
    let case = Case::new("25-input-quantizer-uint8");
    let other = Case::new("26-input-quantizer-int8");
    let text = case.calibrated(&["--observer", "mse"]);
    let refused = |args: &[&str], parts: &[&str]| {
        let (code, err) = case.with_ranges(args);
        assert_eq!(code, 2, "{args:?}: {err}");
        assert!(
            parts.iter().all(|part| err.contains(part)),
            "{parts:?} in: {err}"
        );
    };
    refused(&["-a", "4"], &["value bits", "`r0`"]);
    refused(
        &["--per-tensor-activations"],
        &["`r0` has a range for each channel", "the input has"],
    );
    refused(&["--samples", &case.samples], &["cannot be used with"]);
    refused(&["--preprocess", "tf"], &["cannot be used with"]);
    fs::write(other.path("ranges.json"), &text).unwrap();
    let (code, err) = other.with_ranges(&[]);
    assert!(code == 2 && err.contains("another model"), "{err}");

    let ranges: Value = serde_json::from_str(&text).unwrap();
    let edited = |edit: &dyn Fn(&mut Value)| {
        let mut ranges = ranges.clone();
        edit(&mut ranges);
        fs::write(case.path("ranges.json"), ranges.to_string()).unwrap();
    };
    edited(&|r| {
        r["outputs"].as_object_mut().unwrap().remove("r0");
        r["input"] = Value::Null;
    });
    refused(&[], &["layer `r0` has no range", "the input has no range"]);
    let edits: [(&str, Value, &str); 9] = [
        ("/format", json!("other"), "no ranges"),
        ("/version", json!(2), "$.version"),
        ("/observer", json!("median"), "$.observer"),
        ("/outputs/r0/range", json!([1.0, "x"]), "$.outputs.r0.range"),
        ("/outputs/r0/range", json!([1e300]), "$.outputs.r0.range"),
        ("/outputs/r0/range", json!([1.0, 2.0]), "has 2 ranges"),
        ("/outputs/r0/range", json!([-1.0]), "negative"),
        ("/input/min", json!([1e9, 1e9, 1e9]), "$.input"),
        ("/model_sha256", Value::Null, "of which model"),
    ];
    for (pointer, value, part) in edits {
        edited(&|r| *r.pointer_mut(pointer).unwrap() = value.clone());
        refused(&[], &[part, "ranges.json"]);
    }
    for text in ["", "[]", "{}", "{\"format\": \"bitproof-ranges\"}"] {
        fs::write(case.path("ranges.json"), text).unwrap();
        refused(&[], &["ranges.json"]);
    }
    let (code, _, err) = case.run("calibrate", "ranges.txt", &[]);
    assert!(code == 2 && err.contains(".json"), "{err}");
    let (code, _, err) = case.run("calibrate", "r.json", &["--observer", "median"]);
    assert!(code == 2 && err.contains("moving-max, max"), "{err}");
    assert!(!case.path("r.json").exists(), "no file is written");
}

#[test]
fn unused_ranges_are_warned_of() {
    let case = Case::new("25-input-quantizer-uint8");
    case.calibrated(&[]);
    let (code, err) = case.with_ranges(&["-qu", "r0"]);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("`r1` is not used"), "{err}");
}

#[test]
fn ranges_that_still_move_are_warned_of() {
    let case = Case::new("25-input-quantizer-uint8");
    let place = case.path("x.npy");
    let shape = IxDyn(&[40, 8, 8, 3]);
    let wave = |i: usize| f32::from(u8::try_from(i % 251).unwrap()) / 125.0 - 1.0;
    let mut samples =
        ArrayD::from_shape_vec(shape, (0..40 * 8 * 8 * 3).map(wave).collect()).unwrap();
    let calibrate = |samples: &ArrayD<f32>| {
        write_npy_f32(&place, samples).unwrap();
        let place = place.display().to_string();
        let args = ["--samples", &place, "-bs", "2", "--observer", "max"];
        let (code, out, err) = case.run("calibrate", "ranges.json", &args);
        assert_eq!(code, 0, "{err}");
        let json = [&args, ["--format", "json"].as_slice()].concat();
        let (_, json, _) = case.run("calibrate", "ranges.json", &json);
        (out, err, serde_json::from_str::<Value>(&json).unwrap())
    };
    let (out, err, json) = calibrate(&samples);
    assert!(
        out.contains("convergence: the last 4 samples moved"),
        "{out}"
    );
    assert!(!err.contains("not settled"), "{err}");
    assert_eq!(json["convergence"]["samples"], 4, "{json}");
    samples
        .index_axis_mut(ndarray::Axis(0), 38)
        .mapv_inplace(|v| 3.0 * v);
    let (_, err, json) = calibrate(&samples);
    assert!(err.contains("not settled"), "{err}");
    assert!(
        json["convergence"]["moved"].as_f64().unwrap() > 0.5,
        "{json}"
    );
}
