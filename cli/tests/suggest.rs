//! `prove --suggest`: what it prints is pasted, and the model quantized again.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::{Map, Value, json};

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../conformance/cases")
        .join(name)
        .canonicalize()
        .unwrap()
}

/// Runs the binary in a folder and returns its exit code, stdout and stderr.
fn bitproof(folder: &Path, args: &str) -> (i32, String, String) {
    let mut command = Command::cargo_bin("bitproof").unwrap();
    let run = command
        .args(args.split_whitespace())
        .current_dir(folder)
        .output();
    let run = run.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        run.status.code().unwrap(),
        text(run.stdout),
        text(run.stderr),
    )
}

fn printed(folder: &Path, args: &str) -> Value {
    let (code, out, err) = bitproof(folder, &format!("{args} --format json"));
    assert!(code < 2, "{args}: {err}");
    serde_json::from_str(&out).unwrap()
}

fn config(folder: &Path) -> Value {
    let (_, out, err) = bitproof(folder, "config q.bpq.safetensors");
    assert_eq!(err, "", "nothing to say");
    serde_json::from_str(&out).unwrap()
}

/// A folder with a case's float model, samples, and its model quantized with a q_config.
struct Project {
    folder: tempfile::TempDir,
    /// Flags of every quantization.
    flags: String,
    q_config: Map<String, Value>,
}

impl Project {
    fn new(name: &str, flags: &str, q_config: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in ["model.h5", "samples.npy"] {
            fs::copy(case(name).join(file), folder.path().join(file)).unwrap();
        }
        let Value::Object(q_config) = q_config else {
            unreachable!("a q_config is an object")
        };
        let project = Self {
            folder,
            flags: flags.to_owned(),
            q_config,
        };
        project.quantize("q", &Map::new());
        project
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Quantizes with entries pasted into the q_config.
    fn quantize(&self, name: &str, fragment: &Map<String, Value>) {
        let mut config = self.q_config.clone();
        config.extend(fragment.clone());
        let file = self.path().join(format!("{name}.json"));
        fs::write(file, Value::Object(config).to_string()).unwrap();
        let args = format!(
            "quantize model.h5 --samples samples.npy {} -c {name}.json -s {name}.bpq.safetensors",
            self.flags
        );
        let (code, _, err) = bitproof(self.path(), &args);
        assert_eq!(code, 0, "{err}");
    }

    fn suggestions(&self, more: &str) -> Value {
        let args = format!("prove q.bpq.safetensors --suggest{more}");
        printed(self.path(), &args)["suggestions"].clone()
    }

    /// Returns whether no intermediate of a layer may overflow after pasting entries.
    fn is_proved(&self, layer: &str, fragment: &Map<String, Value>) -> bool {
        self.quantize("pasted", fragment);
        let proof = printed(self.path(), "prove pasted.bpq.safetensors --runs 1");
        let layers = proof["layers"].as_array().unwrap().iter();
        let mut stages = layers
            .filter(|l| l["name"] == layer)
            .flat_map(|l| l["stages"].as_array().unwrap());
        stages.all(|stage| stage["verdict"] == "proved" || stage["verdict"] == "by_design")
    }

    /// Pastes every fix and finds its layer proved; undoes one step of it and finds it not.
    fn check(&self, suggestions: &Value) -> Vec<String> {
        let mut kinds = Vec::new();
        for layer in suggestions["layers"].as_array().unwrap() {
            let name = layer["name"].as_str().unwrap();
            for fix in layer["fixes"].as_array().unwrap() {
                let fragment = fix["q_config"].as_object().unwrap();
                assert!(self.is_proved(name, fragment), "{name}: {fix}");
                let less = one_step_less(fix, name);
                assert!(
                    !self.is_proved(name, &less),
                    "{name}: {fix} is not the least"
                );
                kinds.push(fix["kind"].as_str().unwrap().to_owned());
            }
        }
        kinds
    }
}

/// Returns the entries of a fix with the change one step smaller: a bit more or less where bits are
/// changed, the old value otherwise.
fn one_step_less(fix: &Value, layer: &str) -> Map<String, Value> {
    let mut entries = fix["q_config"].as_object().unwrap().clone();
    let wider = fix["kind"] == "buffer_bits";
    for edit in fix["edits"].as_array().unwrap() {
        if wider && edit["layer"] != layer {
            continue;
        }
        let pointer = edit["path"].as_str().unwrap().replace('.', "/");
        let entry = &mut entries[edit["layer"].as_str().unwrap()];
        let place = entry.pointer_mut(&format!("/{pointer}")).unwrap();
        *place = match edit["to"].as_u64() {
            Some(bits) if wider => json!(bits - 1),
            Some(bits) => json!(bits + 1),
            // A rectifier's sign follows its bits; the axis has only one other value.
            None if fix["kind"] == "input_axis" => edit["from"].clone(),
            None => edit["to"].clone(),
        };
    }
    entries
}

#[test]
fn every_fix_of_the_tutorial_is_the_least_that_proves() {
    for bits in [24, 32] {
        let flags = format!("-a 6 --per-tensor-activations -w 4 -o 12 -i 16 -b {bits}");
        let project = Project::new("01-tutorial-qparams", &flags, json!({}));
        let stored = project.suggestions("");
        assert_eq!(stored["basis"], "stored");
        let with_float = project.suggestions(" --float model.h5 --samples samples.npy");
        assert_eq!(with_float["basis"], "float");
        assert_eq!(
            with_float["differs_from"],
            Value::Null,
            "the same model again"
        );
        let kinds = project.check(&with_float);
        assert!(kinds.contains(&"weight_bits".to_owned()), "{kinds:?}");
        assert_eq!(
            kinds.contains(&"scale_bits".to_owned()),
            bits == 32,
            "{kinds:?}"
        );
        let shrink = &with_float["layers"][0]["shrink"];
        let fix = &with_float["layers"][0]["fixes"][0];
        assert_eq!(shrink["layer"], "dw_conv");
        assert_eq!(shrink["q_config"], fix["q_config"], "the weight bits");
    }
}

#[test]
fn smallest_buffers_can_be_pasted() {
    let flags = "-a 6 --per-tensor-activations -w 4 -o 12 -i 16 -b 32";
    let project = Project::new("01-tutorial-qparams", flags, json!({}));
    let proof = printed(project.path(), "prove q.bpq.safetensors --smallest");
    let config = config(project.path());
    let (mut n_pasted, mut n_impossible) = (0, 0);
    for (layer, smallest) in proof["smallest"].as_object().unwrap() {
        let [own, scaled] = ["buffer_bitwidth", "output_quantizer.buffer_bitwidth"]
            .map(|key| smallest[key].as_u64().unwrap_or(0));
        assert_eq!(
            smallest["possible"],
            own <= 32 && scaled <= 32,
            "{layer}: {smallest}"
        );
        if smallest["possible"] == false {
            n_impossible += 1;
            continue;
        }
        let mut entry = config[layer].clone();
        if own > 0 {
            entry["buffer_bitwidth"] = json!(own);
        }
        if scaled > 0 {
            entry["output_quantizer"]["buffer_bitwidth"] = json!(scaled);
        }
        let pasted = Map::from_iter([(layer.clone(), entry)]);
        assert!(project.is_proved(layer, &pasted), "{layer}: {smallest}");
        n_pasted += usize::from(scaled > 0);
    }
    assert!(n_pasted > 0, "{proof}");
    assert_eq!(n_impossible, 1, "a scale asks for more than 32 bits");
    let (_, text, _) = bitproof(project.path(), "prove q.bpq.safetensors --smallest");
    assert!(text.contains("32 are the most"), "{text}");
}

#[test]
fn inputs_axes_and_buffers_are_fixed_too() {
    // Channels that differ in their binary points overflow where a Flatten aligns them.
    let project = Project::new("03-tiny-conv-8bit-per-axis", "", json!({}));
    let fixes = project.suggestions(" --float model.h5 --samples samples.npy");
    let kinds = project.check(&fixes);
    assert!(kinds.contains(&"input_axis".to_owned()), "{fixes}");
    let refused = fixes["layers"][0]["refused"].as_array().unwrap();
    assert!(
        refused.iter().any(|r| r["kind"] == "buffer_bits"),
        "a Flatten has no buffer: {refused:?}"
    );
    // A narrow buffer of one layer: its inputs, its weights or the buffer itself.
    let config = config(project.path());
    let (name, entry) = config.as_object().unwrap().iter().next_back().unwrap();
    let mut entry = entry.clone();
    entry["buffer_bitwidth"] = json!(18);
    let project = Project::new("03-tiny-conv-8bit-per-axis", "", json!({ name: entry }));
    let fixes = project.suggestions(" --float model.h5 --samples samples.npy");
    let kinds = project.check(&fixes);
    for kind in ["weight_bits", "input_bits", "buffer_bits"] {
        assert!(kinds.contains(&kind.to_owned()), "no {kind}: {fixes}");
    }
}

#[test]
fn text_says_what_was_tried_and_accuracy_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["digits.h5", "digits.npz"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("assets")
            .join(file);
        fs::copy(from, folder.path().join(file)).unwrap();
    }
    let run = |args: &str| bitproof(folder.path(), args);
    let (code, _, err) = run("quantize digits.h5 --samples digits.npz -bs 64 -s q.bpq.safetensors");
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = run("calibrate digits.h5 --samples digits.npz -bs 64 -s ranges.json");
    assert_eq!(code, 0, "{err}");
    let (code, out, err) = run(
        "prove q.bpq.safetensors --suggest --float digits.h5 --ranges ranges.json --data digits.npz",
    );
    assert_eq!(code, 1, "{err}");
    for wanted in [
        "quantizing the float model again",
        "accuracy without a change: 99.56 %",
        "gap: scale_multiply needs",
        "scale bits  gap: output_quantizer.scale_bits 8 ->",
        "{\"gap\":{\"output_quantizer\":",
    ] {
        assert!(out.contains(wanted), "no `{wanted}` in {out}");
    }
    let (_, out, _) = run("prove q.bpq.safetensors --suggest");
    assert!(
        out.contains("weights and ranges that the quantized model holds"),
        "{out}"
    );
    let (_, out, _) = run("prove q.bpq.safetensors --suggest --buffer-bits 30");
    assert!(
        out.contains("every buffer was asked to have 30 bits"),
        "{out}"
    );
}

#[test]
fn flags_that_do_not_go_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = case("23-transposed-convs").join("expected/quantized.h5");
    let model = model.to_str().unwrap();
    for (flags, says) in [
        ("--suggest --format sarif", "--format json"),
        ("--float model.h5", "--suggest"),
        ("--suggest --float model.h5", "--samples or --ranges"),
        ("--data x.npz", "--suggest"),
    ] {
        let (code, _, err) = bitproof(folder.path(), &format!("prove {model} {flags}"));
        assert_eq!((code, err.contains(says)), (2, true), "{flags}: {err}");
    }
    let (code, out, _) = bitproof(folder.path(), &format!("prove {model} --suggest"));
    assert_eq!(
        (code, out.contains("Nothing to change")),
        (0, true),
        "{out}"
    );
}
