//! `check` on real files.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

/// Runs the binary and returns its exit code, stdout and stderr.
fn bitproof(args: &[&str]) -> (i32, String, String) {
    let run = Command::cargo_bin("bitproof").unwrap().args(args).output();
    let run = run.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        run.status.code().unwrap(),
        text(run.stdout),
        text(run.stderr),
    )
}

fn case(name: &str, file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../conformance/cases")
        .join(name)
        .join(file);
    path.to_str().unwrap().to_owned()
}

fn quantized(name: &str) -> String {
    case(name, "expected/quantized.h5")
}

fn json(args: &[&str]) -> (i32, Value) {
    let (code, out, err) = bitproof(&[args, &["--format", "json"]].concat());
    let value = serde_json::from_str(&out);
    assert!(value.is_ok(), "{args:?}: {out} {err}");
    (code, value.unwrap())
}

#[test]
fn a_model_fits_or_does_not() {
    let model = quantized("23-transposed-convs");
    let (code, out, _) = bitproof(&["check", &model, "--target", "akida2"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("WITHIN PUBLISHED LIMITS"), "{out}");
    assert!(
        out.contains("was not checked."),
        "no verdict without it: {out}"
    );
    let (code, out, _) = bitproof(&["check", &model, "--target", "akd1000"]);
    assert_eq!(code, 1, "{out}");
    for part in [
        "error A1-LAYER-TYPE at ct",
        "Conv2DTranspose has no Akida 1.0 equivalent.",
        "fix: ",
        "source: ",
        "INCOMPATIBLE",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let (code, out, _) = bitproof(&["check", &model, "--target", "akida2,akd1000"]);
    assert_eq!(code, 1, "every target asked for: {out}");
    let (code, out, _) = bitproof(&["check", &model, "--target", "conversion"]);
    assert_eq!(code, 0, "either generation: {out}");
}

#[test]
fn all_targets_make_a_matrix() {
    let model = quantized("23-transposed-convs");
    let (code, out, _) = bitproof(&["check", &model, "--all-targets"]);
    assert_eq!(code, 0, "it fits somewhere: {out}");
    let all = out.lines().find(|line| line.trim().starts_with("(all)"));
    let cells: Vec<&str> = all.unwrap().split_whitespace().collect();
    assert_eq!(
        cells,
        ["(all)", "NO", "FITS", "NO", "NO", "FITS", "FITS", "FITS"]
    );
    let model = quantized("09-separable");
    let (code, report) = json(&["check", &model, "--all-targets"]);
    assert_eq!((code, &report["fits"]), (1, &Value::from(false)));
    assert_eq!(report["targets"].as_array().unwrap().len(), 7);
}

#[test]
fn a_warning_counts_where_it_is_asked_for() {
    let model = quantized("30-softmax-at-end");
    let args = ["check", &model, "--target", "conversion-v2"];
    let (code, report) = json(&args);
    let findings = report["targets"][0]["findings"].as_array().unwrap();
    let rules: Vec<&str> = findings
        .iter()
        .map(|f| f["rule"].as_str().unwrap())
        .collect();
    assert_eq!((code, rules), (0, vec!["CV-TAIL"]), "{findings:#?}");
    assert_eq!(findings[0]["severity"], "warning");
    let (code, _) = json(&[&args[..], &["--strict"]].concat());
    assert_eq!(code, 1, "--strict");
}

#[test]
fn a_float_model_is_checked_as_it_would_be_quantized() {
    let float = case("28-quantize-until", "model.h5");
    let (code, _, err) = bitproof(&["check", &float, "--target", "akida2"]);
    assert_eq!((code, err.contains("--float")), (2, true), "{err}");
    let (_, report) = json(&["check", &float, "--target", "akida2", "--float"]);
    let facts = &report["float"];
    assert_eq!(facts["calibrated"], false);
    let not_checked = report["targets"][0]["not_checked"].as_array().unwrap();
    assert!(
        not_checked.iter().any(|n| n["rule"] == "N2-SCALE"),
        "scales follow from ranges: {not_checked:#?}"
    );
    let softmax = case("30-softmax-at-end", "model.h5");
    let (_, report) = json(&["check", &softmax, "--target", "akida2", "--float"]);
    let left = report["float"]["left_in_float"].as_array().unwrap();
    assert_eq!(left.len(), 1, "{left:#?}");
    assert!(
        left[0]["advice"].as_str().unwrap().contains("host"),
        "{left:#?}"
    );
    let (_, out, _) = bitproof(&["check", &softmax, "--target", "akida2", "--float"]);
    assert!(out.contains("Layers that would stay in float:"), "{out}");
    let bits = ["check", &float, "--target", "akida2", "--float", "-w", "2"];
    let (code, report) = json(&bits);
    let findings = report["targets"][0]["findings"].as_array().unwrap();
    let is_bits = |f: &&Value| f["rule"] == "CV2-W" && f["found"] == "2";
    assert!(findings.iter().any(|f| is_bits(&f)), "{findings:#?}");
    assert_eq!(code, 1, "2-bit weights do not fit");
}

#[test]
fn wrong_use_is_refused() {
    let model = quantized("23-transposed-convs");
    for (args, part) in [
        (vec!["check", &model], "--target"),
        (vec!["check", &model, "--target", "akd9"], "akd1000"),
        (
            vec!["check", &model, "--target", "akida2", "--float"],
            "quantized already",
        ),
        (
            vec!["check", &model, "--target", "akida2", "-w", "4"],
            "--weight-bits",
        ),
        (
            vec!["check", &model, "--target", "akida2", "--samples-key", "x"],
            "--samples-key",
        ),
        (
            vec!["check", &model, "--target", "akida2", "--all-targets"],
            "--all-targets",
        ),
    ] {
        let (code, _, err) = bitproof(&args);
        assert_eq!((code, err.contains(part)), (2, true), "{args:?}: {err}");
    }
}

#[test]
fn sizes_and_events_are_counted() {
    let name = "30-softmax-at-end";
    let (model, inputs) = (quantized(name), case(name, "inputs.npy"));
    let args = ["check", &model, "--target", "akida2", "--samples", &inputs];
    let (_, report) = json(&args);
    let size = &report["size"];
    let layers = size["layers"].as_array().unwrap();
    let sum = |key: &str| layers.iter().map(|l| l[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(size["weight_bytes"], sum("weight_bytes"));
    assert_eq!(size["macs"], sum("macs"));
    assert!(sum("macs") > 0, "something is multiplied");
    for layer in layers {
        if let Some(events) = layer["events"].as_f64() {
            let most = layer["activations"].as_f64().unwrap();
            assert!((0.0..=most).contains(&events), "{layer}");
        }
    }
    let of = |class: &str| layers.iter().find(|l| l["class_name"] == class).unwrap();
    assert!(
        of("QuantizedReLU")["events"].as_f64() > Some(0.0),
        "{layers:#?}"
    );
    assert!(
        of("Dequantizer")["events"].is_null(),
        "floats have no events"
    );
}

#[test]
fn sarif_and_junit_say_what_json_says() {
    let model = quantized("13-resnet-add-relu-gap-w4");
    let args = ["check", &model, "--target", "akida2"];
    let (code, report) = json(&args);
    let target = &report["targets"][0];
    let findings = target["findings"].as_array().unwrap();
    let errors = findings.iter().filter(|f| f["severity"] == "error").count();
    assert_eq!((code, errors), (1, 9), "{findings:#?}");
    let (code, out, _) = bitproof(&[&args[..], &["--format", "sarif"]].concat());
    let sarif: Value = serde_json::from_str(&out).unwrap();
    let run = &sarif["runs"][0];
    let results = run["results"].as_array().unwrap();
    assert_eq!((code, results.len()), (1, findings.len()));
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    for (result, finding) in results.iter().zip(findings) {
        assert_eq!(result["ruleId"], finding["rule"]);
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(rules[index]["id"], finding["rule"]);
        let text = result["message"]["text"].as_str().unwrap();
        assert!(
            text.contains(finding["message"].as_str().unwrap()),
            "{text}"
        );
    }
    let (code, junit, _) = bitproof(&[&args[..], &["--format", "junit"]].concat());
    assert_eq!(
        (code, junit.matches("<failure ").count()),
        (1, errors),
        "{junit}"
    );
    let passed = usize::try_from(target["passed"].as_u64().unwrap()).unwrap();
    assert_eq!(junit.matches("\"/>\n").count(), passed, "{junit}");
    // A generation that is not needed fails nothing.
    let other = quantized("23-transposed-convs");
    let args = [
        "check",
        &other,
        "--target",
        "conversion",
        "--format",
        "junit",
    ];
    let (code, junit, _) = bitproof(&args);
    assert_eq!(
        (code, junit.matches("<failure ").count()),
        (0, 0),
        "{junit}"
    );
}
