//! `prove` and `verify-certificate` on real files.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use bitproof::model_files::write_npy_f32;
use bitproof::{load_quantized, save};
use ndarray::{ArrayD, IxDyn};
use serde_json::Value;

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../conformance/cases")
        .join(name)
}

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

fn quantized(name: &str) -> String {
    let path = case(name).join("expected/quantized.h5");
    path.to_str().unwrap().to_owned()
}

/// Returns the verdicts of a layer, by intermediate.
fn verdicts(json: &str, layer: &str) -> Vec<(String, String)> {
    let json: Value = serde_json::from_str(json).unwrap();
    let layers = json["layers"].as_array().unwrap();
    let layer = layers.iter().find(|l| l["name"] == layer).unwrap();
    let stages = layer["stages"].as_array().unwrap().iter();
    stages
        .map(|s| (s["stage"].as_str().unwrap(), s["verdict"].as_str().unwrap()))
        .map(|(stage, verdict)| (stage.to_owned(), verdict.to_owned()))
        .collect()
}

#[test]
fn a_network_of_transposed_convolutions_is_proved() {
    let (code, out, _) = bitproof(&["prove", &quantized("23-transposed-convs")]);
    assert_eq!(code, 0, "{out}");
    assert!(
        out.contains("PROVED: no input can overflow a buffer"),
        "{out}"
    );
}

#[test]
fn a_narrow_buffer_is_refuted_by_an_input_that_replays() {
    let folder = tempfile::tempdir().unwrap();
    let witnesses = folder.path().join("witnesses");
    let model = quantized("22-zeropadding");
    let narrow = ["--buffer-bits", "18", "--format", "json", "--witness"];
    let mut args = vec!["prove", &model];
    args.extend(narrow);
    args.push(witnesses.to_str().unwrap());
    let (code, out, err) = bitproof(&args);
    assert_eq!(code, 1, "{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["verdict"], "refuted");
    let files: Vec<_> = fs::read_dir(&witnesses).unwrap().collect();
    let is_witness = |name: &str| name.ends_with(".witness.npy");
    let witness = files
        .into_iter()
        .map(|f| f.unwrap().path())
        .find(|path| is_witness(path.to_str().unwrap()))
        .unwrap();
    let witness = witness.to_str().unwrap();
    let (code, out, err) = bitproof(&["run", &model, "--inputs", witness, "--format", "json"]);
    assert_eq!(code, 0, "a witness is an input of the model: {err}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["items"], 1);
}

#[test]
fn an_alignment_within_its_own_width_is_refuted() {
    let model = quantized("03-tiny-conv-8bit-per-axis");
    let (code, out, _) = bitproof(&["prove", &model, "--format", "json"]);
    assert_eq!(code, 1, "the reference's Flatten saturates");
    assert_eq!(
        verdicts(&out, "flatten"),
        [("flatten_align".to_owned(), "refuted".to_owned())]
    );
    let conv = verdicts(&out, "conv_2");
    assert!(
        conv.iter().all(|(_, verdict)| verdict == "proved"),
        "{conv:?}"
    );
}

#[test]
fn a_certificate_is_checked_number_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("proof.json");
    let path = file.to_str().unwrap();
    let model = quantized("23-transposed-convs");
    let (code, _, err) = bitproof(&["prove", &model, "--certificate", path]);
    assert_eq!(code, 0, "{err}");
    let (code, out, _) = bitproof(&["verify-certificate", &model, path]);
    assert_eq!((code, out.contains("accepted")), (0, true), "{out}");
    let other = quantized("24-lut-activations");
    let (code, out, _) = bitproof(&["verify-certificate", &other, path]);
    assert_eq!((code, out.contains("another model")), (1, true), "{out}");
    let mut json: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let layers = json["layers"].as_array_mut().unwrap();
    let ends = layers.iter_mut().flat_map(|l| l["stages"].as_array_mut());
    let first = ends.flatten().next().unwrap();
    first["hi"][0] = Value::from(first["hi"][0].as_i64().unwrap() - 1);
    fs::write(&file, json.to_string()).unwrap();
    let (code, out, _) = bitproof(&["verify-certificate", &model, path]);
    assert_eq!((code, out.contains("REFUSED")), (1, true), "{out}");
    fs::write(&file, "{\"version\": 1}").unwrap();
    let (code, _, err) = bitproof(&["verify-certificate", &model, path]);
    assert_eq!((code, err.contains("no certificate")), (2, true), "{err}");
}

#[test]
fn sarif_and_junit_say_what_text_says() {
    let model = quantized("22-zeropadding");
    let args = ["prove", &model, "--buffer-bits", "18", "--format"];
    let (code, out, _) = bitproof(&[&args[..], &["sarif"]].concat());
    let sarif: Value = serde_json::from_str(&out).unwrap();
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    assert_eq!(
        (code, sarif["version"].as_str()),
        (1, Some("2.1.0")),
        "{out}"
    );
    let errors = results.iter().filter(|r| r["level"] == "error").count();
    let (_, text, _) = bitproof(&args[..4]);
    assert_eq!(errors, text.matches(" REFUTED").count(), "{text}");
    assert!(errors > 0, "something is refuted");
    let (code, junit, _) = bitproof(&[&args[..], &["junit"]].concat());
    assert_eq!(
        (code, junit.matches("<failure ").count()),
        (1, errors),
        "{junit}"
    );
    let n_proved = text.matches(" bits spare").count();
    assert_eq!(junit.matches("\"/>\n").count(), n_proved, "{junit} {text}");
    let proved = quantized("23-transposed-convs");
    let (code, out, _) = bitproof(&["prove", &proved, "--format", "sarif"]);
    let sarif: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &sarif["runs"][0]["results"]),
        (0, &serde_json::json!([]))
    );
}

#[test]
fn the_tutorials_narrow_buffer_is_refuted_and_a_wide_one_proved() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let witnesses = place("witnesses");
    let model = quantized("01-tutorial-qparams");
    let (code, out, err) =
        bitproof(&["prove", &model, "--format", "json", "--witness", &witnesses]);
    assert_eq!(code, 1, "{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    let overflows = &json["layers"][0]["stages"][0];
    assert_eq!(overflows["stage"], "accumulator", "{overflows}");
    assert_eq!(overflows["verdict"], "refuted", "{overflows}");
    // The sums take the network's input: the image reaches the end of the range.
    let worst = overflows["overflows"].as_array().unwrap().iter();
    let worst = worst.map(|o| o["value"].as_i64().unwrap()).max();
    assert_eq!(worst, overflows["hi"].as_i64(), "the bound is reached");
    let witness = format!("{witnesses}/dw_conv.accumulator.witness.npy");
    let (code, out, err) = bitproof(&["run", &model, "--inputs", &witness, "--format", "json"]);
    assert_eq!(code, 0, "{err}");
    let run: Value = serde_json::from_str(&out).unwrap();
    let layers = run["layers"].as_array().unwrap();
    let layer = layers.iter().find(|l| l["name"] == "dw_conv").unwrap();
    assert!(
        layer["stages"][0]["saturated"].as_u64().unwrap() > 0,
        "{layer}"
    );
    let (_, out, _) = bitproof(&["prove", &model, "--buffer-bits", "32", "--format", "json"]);
    let sums = verdicts(&out, "dw_conv");
    for (stage, verdict) in sums.iter().filter(|(stage, _)| stage != "scale_multiply") {
        assert_ne!(verdict, "refuted", "{stage} has 27 bits then");
    }
    assert_eq!(sums[0].1, "proved", "the accumulator");
}

#[test]
fn a_changed_weight_makes_a_certificate_worthless() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (model, certificate) = (place("m.bpq.safetensors"), place("proof.json"));
    let (code, _, err) = bitproof(&["convert", &quantized("23-transposed-convs"), &model]);
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = bitproof(&["prove", &model, "--certificate", &certificate]);
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = bitproof(&["verify-certificate", &model, &certificate]);
    assert_eq!(code, 0, "{err}");
    let mut bytes = fs::read(&model).unwrap();
    let middle = bytes.len() - 40;
    bytes[middle] ^= 1;
    fs::write(&model, bytes).unwrap();
    let (code, out, err) = bitproof(&["verify-certificate", &model, &certificate]);
    assert_ne!(code, 0, "{out} {err}");
}

#[test]
fn a_certificate_of_other_buffers_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wide.json");
    let path = file.to_str().unwrap();
    let model = quantized("03-tiny-conv-8bit-per-axis");
    let (code, _, err) = bitproof(&["prove", &model]);
    assert_eq!(code, 1, "its own buffers are refuted: {err}");
    let wide = ["--buffer-bits", "40", "--certificate", path];
    let (of_wide, _, err) = bitproof(&[&["prove", &model], &wide[..]].concat());
    let args = ["verify-certificate", &model, path];
    let (code, out, _) = bitproof(&args);
    assert_eq!(code, 0, "{out} {err}");
    let is_said = out.starts_with("accepted for buffers of 40 bits, not for the model's own: ");
    assert!(is_said, "{out}");
    let (_, out, _) = bitproof(&[&args[..], &["--format", "json"]].concat());
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["buffer_bits"], 40);
    assert_eq!(json["proved"], of_wide == 0, "{out}");
}

#[test]
fn samples_run_where_extents_are_open_and_nothing_is_searched() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut model = load_quantized(Path::new(&quantized("22-zeropadding"))).unwrap();
    let n_images = model
        .nodes
        .iter()
        .take_while(|n| n.shape.len() == 3)
        .count();
    for node in &mut model.nodes[..n_images] {
        node.shape[..2].fill(None);
    }
    let Some(last) = model.nodes[..n_images]
        .iter()
        .rposition(|n| n.format().is_some())
    else {
        unreachable!("convolutions")
    };
    model.nodes.truncate(last + 1);
    model.outputs = vec![last];
    let path = file("open.bpq.safetensors");
    save(&model, Path::new(&path)).unwrap();
    let args = ["prove", &path, "--buffer-bits", "22"];
    let (code, out, err) = bitproof(&args);
    assert_eq!(code, 0, "{out} {err}");
    assert!(
        out.contains("as the model's extents are open; --samples"),
        "{out}"
    );
    let mut extents = vec![1, 9, 9];
    extents.extend(model.nodes[0].shape.last().copied().flatten());
    for (value, expected) in [(0.0, "possible"), (255.0, "refuted")] {
        let samples = file("x.npy");
        let x = ArrayD::from_elem(IxDyn(&extents), value);
        write_npy_f32(Path::new(&samples), &x).unwrap();
        let run = [&args[..], &["--samples", &samples]].concat();
        let (_, out, _) = bitproof(&[&run[..], &["--format", "json"]].concat());
        let json: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(json["verdict"], expected, "{value}");
        assert_eq!(json["searched"], false);
        let (code, out, _) = bitproof(&run);
        assert_eq!(code, i32::from(value > 0.0), "{out}");
        assert_eq!(out.contains("no sample makes one"), value == 0.0, "{out}");
    }
}

#[test]
fn layers_in_float_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part.bpq.safetensors");
    let part = path.to_str().unwrap();
    let model = case("03-tiny-conv-8bit-per-axis").join("model.h5");
    let model = model.to_str().unwrap();
    let until = ["--quantize-until", "relu_1", "-ns", "4", "-s", part];
    let (code, _, err) = bitproof(&[&["quantize", model], &until[..]].concat());
    assert_eq!(code, 0, "{err}");
    let (_, out, _) = bitproof(&["prove", part]);
    let said = "4 layers run in float, of which nothing is said: conv_2, relu_2, flatten, dense";
    assert!(out.contains(said), "{out}");
    let (_, out, _) = bitproof(&["prove", part, "--format", "json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["float_layers"].as_array().unwrap().len(), 4);
    let (_, out, _) = bitproof(&["prove", &quantized("23-transposed-convs")]);
    assert!(!out.contains("in float"), "{out}");
}

#[test]
fn places_are_checked_before_the_proof() {
    let folder = tempfile::tempdir().unwrap();
    let model = quantized("23-transposed-convs");
    let nowhere = folder.path().join("nowhere/c.json");
    let nowhere = nowhere.to_str().unwrap();
    let (code, out, err) = bitproof(&["prove", &model, "--certificate", nowhere]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("there is no folder"), "{err}");
    let (code, out, _) = bitproof(&["prove", &model, "--certificate", &model]);
    assert_eq!((code, out.as_str()), (2, ""), "a model is no place");
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let (code, out, err) = bitproof(&["prove", &model, "--witness", file.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
}
