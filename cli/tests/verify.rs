//! `verify` and `analyze` on real files.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

/// A folder with the digits, quantized at 8 bits and, with one layer at 2 bits, again.
fn digits() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["digits.h5", "digits.npz"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("assets")
            .join(name);
        fs::copy(from, folder.path().join(name)).unwrap();
    }
    let quantize = "quantize digits.h5 --samples digits.npz -bs 64 -s";
    let (code, _, err) = bitproof(folder.path(), &format!("{quantize} q.bpq.safetensors"));
    assert_eq!(code, 0, "{err}");
    let (_, config, _) = bitproof(folder.path(), "config q.bpq.safetensors");
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["pw_2"]["weight_quantizer"]["bitwidth"] = Value::from(2);
    fs::write(folder.path().join("c.json"), config.to_string()).unwrap();
    let again = format!("{quantize} low.bpq.safetensors -c c.json");
    let (code, _, err) = bitproof(folder.path(), &again);
    assert_eq!(code, 0, "{err}");
    folder
}

/// Runs the binary in a folder and returns its exit code, stdout and stderr.
fn bitproof(folder: &Path, args: &str) -> (i32, String, String) {
    let mut command = Command::cargo_bin("bitproof").unwrap();
    let run = command.args(args.split(' ')).current_dir(folder).output();
    let run = run.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        run.status.code().unwrap(),
        text(run.stdout),
        text(run.stderr),
    )
}

#[test]
fn verify_says_where_and_shows_the_smallest_input() {
    let folder = digits();
    let folder = folder.path();
    let (code, _, err) = bitproof(folder, "convert q.bpq.safetensors q.h5");
    assert_eq!(code, 0, "{err}");
    let same = "verify q.bpq.safetensors q.h5 --inputs digits.npz";
    let (code, out, _) = bitproof(folder, same);
    assert_eq!(code, 0, "another format, the same integers: {out}");
    assert!(out.ends_with("EQUAL on 450 inputs\n"), "{out}");

    let other = "verify q.bpq.safetensors low.bpq.safetensors --inputs digits.npz";
    let small = format!("{other} --shrink --witness small.npy --format json");
    let (code, out, err) = bitproof(folder, &small);
    assert_eq!(code, 1, "{err}");
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(found["first"]["layer"], "pw_2", "the layer of two bits");
    assert_eq!(found["shrunk"]["output"], "small.npy");
    let (code, out, _) = bitproof(
        folder,
        "verify q.bpq.safetensors low.bpq.safetensors --inputs small.npy --format json",
    );
    let again: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 1, "the witness replays");
    assert_eq!(again["inputs"], 1);
    for key in ["layer", "index", "a", "b"] {
        assert_eq!(again["first"][key], found["shrunk"][key], "{key}");
    }

    let (code, sarif, _) = bitproof(folder, &format!("{other} --format sarif"));
    let sarif: Value = serde_json::from_str(&sarif).unwrap();
    let first = &sarif["runs"][0]["results"][0];
    assert_eq!(code, 1);
    assert_eq!(first["ruleId"], "layer-values");
    let place = &first["locations"][0]["logicalLocations"][0]["name"];
    assert_eq!(place, "pw_2");
    let (code, junit, _) = bitproof(folder, &format!("{other} --format junit"));
    assert_eq!(code, 1);
    assert!(
        junit.contains("classname=\"pw_2\" name=\"layer-values\"><failure"),
        "{junit}"
    );
}

#[test]
fn verify_compares_values_with_a_float_model() {
    let folder = digits();
    let verify = "verify digits.h5 q.bpq.safetensors --inputs digits.npz --tolerance";
    let (code, out, err) = bitproof(folder.path(), &format!("{verify} 1"));
    assert_eq!(
        code, 0,
        "no value is off by as much as the largest: {out} {err}"
    );
    let (code, out, _) = bitproof(folder.path(), &format!("{verify} 0.01"));
    assert_eq!(code, 1, "{out}");
    let (code, _, err) = bitproof(folder.path(), &format!("{verify}=-1"));
    assert_eq!(code, 2);
    assert!(err.contains("a tolerance of -1"), "{err}");
}

#[test]
fn verify_refuses_what_cannot_be_compared() {
    let folder = digits();
    let folder = folder.path();
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/cases");
    fs::copy(
        case.join("03-tiny-conv-8bit-per-axis/model.h5"),
        folder.join("other.h5"),
    )
    .unwrap();
    let (code, _, err) = bitproof(folder, "verify digits.h5 other.h5 --inputs digits.npz");
    assert_eq!(code, 2);
    assert!(err.contains("A takes inputs of [8, 8, 1], B of ["), "{err}");
    let witness = "verify digits.h5 digits.h5 --inputs digits.npz --witness w.npy";
    let (code, _, err) = bitproof(folder, witness);
    assert_eq!(code, 2, "a witness is what --shrink finds");
    assert!(err.contains("--shrink"), "{err}");
}

#[test]
fn analyze_finds_the_layer_of_two_bits() {
    let folder = digits();
    let folder = folder.path();
    let analyze = "analyze low.bpq.safetensors --float digits.h5 --samples digits.npz -bs 64 \
                   --data digits.npz --max-bits 8";
    let (code, out, err) = bitproof(folder, &format!("{analyze} --format json"));
    assert_eq!(code, 0, "{err}");
    let found: Value = serde_json::from_str(&out).unwrap();
    let tries = &found["tries"];
    assert_eq!(
        tries["is_same_model"], true,
        "the same samples in the same batches"
    );
    let best = &tries["ranking"][0];
    assert_eq!(best["layer"], "pw_2");
    let edit = &best["edits"][0];
    assert_eq!(
        (&edit["from"], &edit["to"]),
        (&2.into(), &4.into()),
        "{edit}"
    );
    assert!(edit["gain_db"].as_f64().unwrap() > 1.0, "{edit}");
    assert!(
        edit["accuracy"].as_f64() >= tries["accuracy"].as_f64(),
        "{edit}"
    );
    // The fragment can be pasted.
    fs::write(folder.join("edit.json"), edit["q_config"].to_string()).unwrap();
    let quantize = "quantize digits.h5 --samples digits.npz -bs 64 -c edit.json";
    let (code, _, err) = bitproof(folder, &format!("{quantize} -s e.bpq.safetensors"));
    assert_eq!(code, 0, "{err}");
    let (_, text, _) = bitproof(folder, analyze);
    assert!(text.contains("`pw_2` costs most."), "{text}");
    assert!(text.contains("`gap` overflows a buffer"), "{text}");
}

#[test]
fn analyze_refuses_another_float_model_and_no_samples() {
    let folder = digits();
    let folder = folder.path();
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/cases");
    fs::copy(
        case.join("03-tiny-conv-8bit-per-axis/model.h5"),
        folder.join("other.h5"),
    )
    .unwrap();
    let (code, _, err) = bitproof(
        folder,
        "analyze q.bpq.safetensors --float other.h5 --samples digits.npz",
    );
    assert_eq!(code, 2);
    assert!(err.contains("is this the float model"), "{err}");
    let (code, _, err) = bitproof(folder, "analyze q.bpq.safetensors --float digits.h5");
    assert_eq!(code, 2);
    assert!(err.contains("--samples"), "{err}");
}
