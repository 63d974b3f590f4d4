//! What commands print as JSON: against its schema, and against recorded outputs.
//!
//! With `BITPROOF_BLESS` set, the recorded outputs are written again.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod check;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::{Value, json};

use check::mistakes;

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn case(name: &str) -> String {
    let path = here().join("../conformance/cases").join(name);
    path.canonicalize().unwrap().to_str().unwrap().to_owned()
}

/// Runs the binary in a folder and returns what it prints.
fn printed(folder: &Path, args: &[&str]) -> Value {
    let mut command = Command::cargo_bin("bitproof").unwrap();
    let run = command.args(args).current_dir(folder).output().unwrap();
    let text = String::from_utf8(run.stdout).unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    let value = serde_json::from_str(&text);
    assert!(value.is_ok(), "{args:?}: {text} {said}");
    value.unwrap()
}

fn schema(of: &str) -> Value {
    printed(here(), &["schema", "--of", of])
}

/// Fails unless `value` is what the schema says, and the schema says all of it.
fn holds(of: &str, value: &Value) {
    let mistakes = mistakes(&schema(of), value);
    assert!(mistakes.is_empty(), "{of}: {mistakes:#?}");
}

/// Compares with the recorded output.
fn recorded(name: &str, value: &Value) {
    let path = here().join("tests/golden").join(format!("{name}.json"));
    let text = format!("{value:#}\n");
    if env::var_os("BITPROOF_BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let wanted = fs::read_to_string(&path).unwrap();
    assert_eq!(text, wanted, "{name}: BITPROOF_BLESS=1 records it again");
}

/// Leaves the ranges of single channels out of a proof.
fn without_channels(mut proof: Value) -> Value {
    let layers = proof["layers"].as_array_mut().unwrap().iter_mut();
    for stage in layers.flat_map(|layer| layer["stages"].as_array_mut().unwrap()) {
        stage.as_object_mut().unwrap().shift_remove("channels");
    }
    proof
}

/// Writes the demo's model and digits, quantized, into a new folder.
fn quantized() -> (tempfile::TempDir, Value) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["digits.h5", "digits.npz"] {
        let from: PathBuf = here().join("assets").join(name);
        fs::copy(from, folder.path().join(name)).unwrap();
    }
    let args = "quantize digits.h5 --samples digits.npz -bs 64 -s q.bpq.safetensors --format json";
    let words: Vec<&str> = args.split(' ').collect();
    let log = printed(folder.path(), &words);
    (folder, log)
}

#[test]
fn quantize_prints_its_decisions() {
    let (folder, log) = quantized();
    holds("quantize", &log);
    let mut stable = log.clone();
    // The file names the version that made it.
    stable["output_sha256"] = Value::from("0".repeat(64));
    recorded("quantize", &stable);
    assert_eq!(log["seed"], Value::Null, "nothing is random");
    let random = "quantize digits.h5 -ns 8 --seed 5 -s r.bpq.safetensors --format json";
    let words: Vec<&str> = random.split(' ').collect();
    let log = printed(folder.path(), &words);
    holds("quantize", &log);
    assert_eq!(log["seed"], 5, "the seed of the random samples");
}

/// The schema of each, and its arguments.
const COMMANDS: &[(&str, &str)] = &[
    ("summary", "summary q.bpq.safetensors"),
    ("summary", "summary digits.h5"),
    ("eval", "eval q.bpq.safetensors --data digits.npz"),
    ("eval", "eval digits.h5 --data digits.npz"),
    (
        "eval",
        "eval q.bpq.safetensors --data digits.npz --min-accuracy 1",
    ),
    (
        "eval",
        "eval q.bpq.safetensors --data digits.npz --float digits.h5",
    ),
    ("prove", "prove q.bpq.safetensors"),
    (
        "prove",
        "prove q.bpq.safetensors --smallest --buffer-bits 20 --certificate c.json",
    ),
    (
        "prove",
        "prove q.bpq.safetensors --suggest --data digits.npz",
    ),
    (
        "prove",
        "prove q.bpq.safetensors --suggest --float digits.h5 --samples digits.npz -bs 64",
    ),
    (
        "verify-certificate",
        "verify-certificate q.bpq.safetensors c.json",
    ),
    (
        "calibrate",
        "calibrate digits.h5 --samples digits.npz -s ranges.json",
    ),
    ("calibrate", "calibrate digits.h5 -ns 4 -s ranges.json"),
    ("check", "check q.bpq.safetensors --target akida2"),
    ("check", "check digits.h5 --float --all-targets -w 4 -a 4"),
    (
        "check",
        "check digits.h5 --float --target conversion --samples digits.npz:x_test --num-samples 3",
    ),
    ("convert", "convert q.bpq.safetensors q.h5"),
    ("verify-certificate", "verify-certificate q.h5 c.json"),
    ("demo", "demo"),
    ("report", "report q.bpq.safetensors -o q.html"),
    (
        "verify",
        "verify q.bpq.safetensors q.h5 --inputs digits.npz",
    ),
    (
        "verify",
        "verify q.bpq.safetensors digits.h5 --inputs digits.npz --tolerance 0.01 --shrink",
    ),
    (
        "analyze",
        "analyze q.bpq.safetensors --float digits.h5 --samples digits.npz --tries 12",
    ),
    (
        "analyze",
        "analyze q.bpq.safetensors --float digits.h5 --samples digits.npz -bs 64 --data digits.npz --tries 2",
    ),
    ("bench", "bench q.bpq.safetensors --batch 1 --runs 1"),
    ("bench", "bench digits.h5 --batch 1 --runs 1"),
    (
        "bench",
        "bench q.bpq.safetensors --batch 2 --runs 1 --inputs digits.npz",
    ),
    (
        "bench",
        "bench digits.h5 --batch 2 --runs 3 --inputs digits.npz",
    ),
];

#[test]
fn commands_of_a_quantized_model_keep_to_their_schemas() {
    let (folder, _) = quantized();
    let json = |args: &str| {
        let words: Vec<&str> = args.split(' ').chain(["--format", "json"]).collect();
        printed(folder.path(), &words)
    };
    for (command, args) in COMMANDS {
        holds(command, &json(args));
    }
    let mut run = json("run q.bpq.safetensors --inputs digits.npz:x_test");
    holds("run", &run);
    // Milliseconds are not the same every time.
    run["ms_per_item"] = json!(0.0);
    recorded("run", &run);
    recorded("summary", &json("summary q.bpq.safetensors"));
    recorded(
        "check",
        &json("check q.bpq.safetensors --all-targets --samples digits.npz:x_test"),
    );
    recorded(
        "eval",
        &json("eval q.bpq.safetensors --data digits.npz --float digits.h5"),
    );
    recorded(
        "prove",
        &without_channels(json("prove q.bpq.safetensors --smallest")),
    );
    let certificate = fs::read_to_string(folder.path().join("c.json")).unwrap();
    holds("certificate", &serde_json::from_str(&certificate).unwrap());
    let config = printed(folder.path(), &["config", "q.bpq.safetensors"]);
    holds("config", &config);
}

#[test]
fn every_kind_of_verdict_keeps_to_the_schema() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    for (name, bits) in [("09-separable", "18"), ("13-resnet-add-relu-gap-w4", "20")] {
        let model = format!("{}/expected/quantized.h5", case(name));
        let args = [
            "prove",
            &model,
            "--buffer-bits",
            bits,
            "--format",
            "json",
            "--runs",
            "3",
        ];
        let proof = printed(folder.path(), &args);
        holds("prove", &proof);
        let layers = proof["layers"].as_array().unwrap();
        let stages = layers
            .iter()
            .flat_map(|layer| layer["stages"].as_array().unwrap());
        seen.extend(stages.map(|stage| stage["verdict"].as_str().unwrap().to_owned()));
    }
    for verdict in ["proved", "by_design", "refuted"] {
        assert!(
            seen.iter().any(|v| v == verdict),
            "no {verdict} among {seen:?}"
        );
    }
}

#[test]
fn every_schema_can_be_printed() {
    let listed = printed(here(), &["schema"]);
    assert_eq!(listed, schema("q-config"), "the default");
    let folder = here().join("src/schemas");
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().path();
        let name = name.file_stem().unwrap().to_str().unwrap();
        let title = format!("bitproof {name}");
        assert_eq!(schema(name)["title"], Value::from(title), "{name}");
    }
}

#[test]
fn the_checker_sees_mistakes() {
    let schema = schema("prove");
    let stage = json!({ "stage": "sum", "value_bits": 3, "lo": -9, "hi": 9, "channels": [[-9, 9]],
        "verdict": "proved", "spare_bits": 1 });
    let layer = |stage: &Value| json!({ "name": "a", "class_name": "B", "stages": [stage] });
    let proof = |stage: &Value| {
        json!({ "verdict": "proved", "buffer_bits": null, "seed": 0,
        "searched": true, "float_layers": [], "layers": [layer(stage)] })
    };
    assert_eq!(
        mistakes(&schema, &proof(&stage)),
        [""; 0],
        "nothing is wrong"
    );
    for (key, value) in [
        ("stage", json!(3)),
        ("value_bits", json!(0)),
        ("lo", json!(0.5)),
        ("channels", json!([[1, 2, 3]])),
        ("channels", json!([1])),
        ("verdict", json!("maybe")),
        ("new", json!(1)),
    ] {
        let mut wrong = stage.clone();
        wrong[key] = value;
        assert_eq!(mistakes(&schema, &proof(&wrong)).len(), 1, "{wrong}");
    }
    let mut short = stage;
    short.as_object_mut().unwrap().remove("hi");
    assert_eq!(mistakes(&schema, &proof(&short)).len(), 1, "{short}");
}
