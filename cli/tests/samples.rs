//! Samples of every kind, given to the binary.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use bitproof::model_files::{ArrayReader, NpzWriter, read_integers, write_npy_f32};
use ndarray::{ArrayD, Axis, IxDyn};
use serde_json::Value;
use tempfile::TempDir;

fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("assets")
        .join(name)
}

/// Runs the binary and returns its exit code, stdout and stderr.
fn bitproof(args: &[&str]) -> (i32, String, String) {
    let run = Command::cargo_bin("bitproof")
        .unwrap()
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

/// Runs the binary, which must succeed, and returns what it prints as JSON.
fn json(args: &[&str]) -> Value {
    let (code, out, err) = bitproof(&[args, &["--format", "json"]].concat());
    assert_eq!(code, 0, "{args:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

/// Test digits as floats, `[n, 8, 8, 1]`, and their labels.
fn digits(n: usize) -> (ArrayD<f32>, Vec<i64>) {
    let path = asset("digits.npz");
    let mut reader = ArrayReader::open(&path, Some("x_test"), &[]).unwrap();
    let images = reader.next_batch(n).unwrap();
    let labels = read_integers(&path, Some("y_test")).unwrap();
    (images, labels.iter().take(n).copied().collect())
}

/// A scratch folder with the digits in every form.
struct Forms {
    folder: TempDir,
    images: ArrayD<f32>,
    labels: Vec<i64>,
}

impl Forms {
    fn new(n: usize) -> Self {
        let (images, labels) = digits(n);
        let folder = TempDir::new().unwrap();
        let forms = Self {
            folder,
            images,
            labels,
        };
        fs::create_dir(forms.folder.path().join("flat")).unwrap();
        let mut raw = Vec::new();
        for (i, (item, label)) in forms.images.outer_iter().zip(&forms.labels).enumerate() {
            let bytes: Vec<u8> = item
                .iter()
                .map(|v| format!("{v}").parse().unwrap())
                .collect();
            let class = forms.folder.path().join(format!("classes/{label}"));
            fs::create_dir_all(&class).unwrap();
            let name = format!("{i:04}.png");
            for place in [
                class.join(&name),
                forms.folder.path().join("flat").join(&name),
            ] {
                image::save_buffer(&place, &bytes, 8, 8, image::ColorType::L8).unwrap();
            }
            raw.extend(bytes);
        }
        fs::write(forms.folder.path().join("x.bin"), raw).unwrap();
        write_npy_f32(&forms.folder.path().join("float.npy"), &forms.images).unwrap();
        let integers = forms
            .images
            .mapv(|v| format!("{v}").parse::<i64>().unwrap());
        let mut npz = NpzWriter::create(&forms.folder.path().join("many.npz")).unwrap();
        npz.integers("first", &integers).unwrap();
        npz.f32("second", &forms.images).unwrap();
        npz.finish().unwrap();
        forms
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Returns the bytes of the model quantized on samples, without its provenance.
    fn quantized(&self, samples: &[&str]) -> (i32, String, Option<Vec<u8>>) {
        let (model, out) = (asset("digits.h5"), self.path("out.bpq.safetensors"));
        let model = model.display().to_string();
        let fixed = ["quantize", &model, "-s", &out, "-bs", "16", "--samples"];
        let (code, _, err) = bitproof(&[&fixed, samples].concat());
        let config = fs::read(&out).ok().map(|bytes| without_digest(&bytes));
        let _ = fs::remove_file(&out);
        (code, err, config)
    }
}

/// Returns a model's bytes with the digest of its samples, which differs by form, blanked out.
fn without_digest(bytes: &[u8]) -> Vec<u8> {
    let key = b"samples_sha256";
    let at = bytes.windows(key.len()).position(|window| window == key);
    let at = at.unwrap();
    let mut bytes = bytes.to_vec();
    bytes[at..at + 90].fill(b'.');
    bytes
}

#[test]
fn every_form_of_the_same_integers_gives_the_same_model() {
    let forms = Forms::new(48);
    let (code, err, want) = forms.quantized(&[&forms.path("flat")]);
    assert_eq!(code, 0, "{err}");
    assert!(want.is_some(), "a model is written");
    assert!(err.contains("48 images in"), "the speed: {err}");
    let (pattern, raw) = (forms.path("flat/*.png"), forms.path("x.bin"));
    let colon = format!("{}:first", forms.path("many.npz"));
    let many = forms.path("many.npz");
    let others: [&[&str]; 4] = [
        &[&pattern],
        &[&raw, "--sample-shape", "8,8,1", "--sample-dtype", "uint8"],
        &[&colon],
        &[&many, "--samples-key", "first"],
    ];
    for args in others {
        let (code, err, got) = forms.quantized(args);
        assert_eq!(code, 0, "{args:?}: {err}");
        assert!(got == want, "{args:?} gives another model");
    }
}

#[test]
fn preprocessed_samples_are_floats() {
    let forms = Forms::new(20);
    let scaled = forms.images.mapv(|v| 255.0 - v);
    let path = forms.path("scaled.npy");
    write_npy_f32(path.as_ref(), &scaled).unwrap();
    let (code, err, want) = forms.quantized(&[&path]);
    assert_eq!(code, 0, "{err}");
    let (code, err, got) = forms.quantized(&[&forms.path("flat"), "--preprocess", "-1,255"]);
    assert_eq!(code, 0, "{err}");
    assert!(got == want, "the same floats give the same model");
    let (code, err, _) = forms.quantized(&[&forms.path("flat"), "--preprocess", "torch"]);
    assert_eq!(code, 2, "one channel");
    assert!(err.contains("three channels"), "{err}");
}

#[test]
fn labelled_folders_are_evaluated_like_arrays() {
    let forms = Forms::new(120);
    let labels = ArrayD::from_shape_vec(IxDyn(&[120]), forms.labels.clone()).unwrap();
    let mut npz = NpzWriter::create(forms.path("labelled.npz").as_ref()).unwrap();
    npz.f32("x_test", &forms.images).unwrap();
    npz.integers("y_test", &labels).unwrap();
    npz.finish().unwrap();
    let model = forms.path("m.bpq.safetensors");
    let float = asset("digits.h5").display().to_string();
    let flat = forms.path("flat");
    let (code, _, err) = bitproof(&["quantize", &float, "--samples", &flat, "-s", &model]);
    assert_eq!(code, 0, "{err}");
    let eval = |data: &str| json(&["eval", &model, "--float", &float, "--data", data]);
    let (arrays, folder) = (
        eval(&forms.path("labelled.npz")),
        eval(&forms.path("classes")),
    );
    assert_eq!(arrays, folder, "the same images in another order");
    assert!(arrays["accuracy"].as_f64().unwrap() > 0.9, "{arrays}");
    // A bad image is named, or left out together with its label.
    let bad = forms.path("classes/3/0000bad.png");
    fs::write(&bad, b"no image").unwrap();
    let classes = forms.path("classes");
    let (code, _, err) = bitproof(&["eval", &model, "--data", &classes]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("0000bad.png"), "{err}");
    let skipping = [
        "eval",
        &model,
        "--float",
        &float,
        "--data",
        &classes,
        "--on-bad-sample",
        "skip",
    ];
    assert_eq!(json(&skipping), folder, "without the bad one");
    let (_, _, err) = bitproof(&skipping);
    assert!(
        err.contains("1 of 121") && err.contains("0000bad.png"),
        "{err}"
    );
    assert!(err.contains("images/s"), "the speed: {err}");
}

#[test]
fn runs_leave_out_bad_images() {
    let forms = Forms::new(40);
    let (flat, model) = (forms.path("flat"), forms.path("m.bpq.safetensors"));
    let float = asset("digits.h5").display().to_string();
    let (code, _, err) = bitproof(&["quantize", &float, "--samples", &flat, "-s", &model]);
    assert_eq!(code, 0, "{err}");
    let outputs = |inputs: &[&str]| {
        let path = forms.path("y.npy");
        let (code, _, err) =
            bitproof(&[&["run", &model, "--outputs", &path, "--inputs"], inputs].concat());
        assert_eq!(code, 0, "{err}");
        let mut reader = ArrayReader::open(path.as_ref(), None, &[]).unwrap();
        reader.next_batch(usize::MAX).unwrap()
    };
    let want = outputs(&[
        &forms.path("x.bin"),
        "--sample-shape",
        "8,8,1",
        "--sample-dtype",
        "uint8",
    ]);
    assert_eq!(want.shape()[0], 40, "an output each");
    fs::write(forms.path("flat/0007.png"), b"no image").unwrap();
    let got = outputs(&[&flat, "--on-bad-sample", "skip"]);
    let good: Vec<usize> = (0..40).filter(|i| *i != 7).collect();
    assert_eq!(got, want.select(Axis(0), &good), "outputs of the others");
    let all_bad = forms.path("bad");
    fs::create_dir(&all_bad).unwrap();
    fs::write(format!("{all_bad}/a.png"), b"no image").unwrap();
    let (code, err, model) = forms.quantized(&[&all_bad, "--on-bad-sample", "skip"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("no sample") && model.is_none(), "{err}");
}

#[test]
fn samples_with_a_nan_stop_or_are_left_out() {
    let forms = Forms::new(30);
    let mut images = forms.images.clone();
    let good = images.select(Axis(0), &(0..30).filter(|i| i % 9 != 4).collect::<Vec<_>>());
    for i in (0..30).filter(|i| i % 9 == 4) {
        images[[i, 2, 3, 0]] = f32::NAN;
    }
    let (bad, finite) = (forms.path("bad.npy"), forms.path("finite.npy"));
    write_npy_f32(bad.as_ref(), &images).unwrap();
    write_npy_f32(finite.as_ref(), &good).unwrap();
    let (code, err, _) = forms.quantized(&[&bad]);
    assert!(code == 2 && err.contains("sample 4"), "{err}");
    let (code, err, got) = forms.quantized(&[&bad, "--on-bad-sample", "skip"]);
    assert_eq!(code, 0, "{err}");
    assert!(
        err.contains("3 of 30") && err.contains("sample 22"),
        "{err}"
    );
    assert!(
        got == forms.quantized(&[&finite]).2,
        "the finite ones count"
    );
}

#[test]
fn wrong_samples_are_refused() {
    let forms = Forms::new(3);
    let (flat, raw, many) = (
        forms.path("flat"),
        forms.path("x.bin"),
        forms.path("many.npz"),
    );
    let (npy, none) = (forms.path("float.npy"), forms.path("none/*.png"));
    let missing = format!("{many}:third");
    let refused: [(&[&str], &str); 16] = [
        (&[&many], "first, second"),
        (&[&missing], "no array `third`"),
        (&[&many, "--samples-key", "x"], "no array `x`"),
        (&[&raw], "--sample-shape"),
        (&[&raw, "--sample-shape", "8,8,1"], "together"),
        (
            &[&raw, "--sample-shape", "7,8,1", "--sample-dtype", "uint8"],
            "bytes",
        ),
        (
            &[&raw, "--sample-shape", "8,8,1", "--sample-dtype", "uint9"],
            "uint9",
        ),
        (
            &[&npy, "--sample-shape", "8,8,1", "--sample-dtype", "uint8"],
            "raw files",
        ),
        (&[&npy, "--fit", "crop"], "--fit"),
        (&[&flat, "--samples-key", "x"], "--samples-key"),
        (&[&flat, "--image-size", "8"], "two extents"),
        (&[&flat, "--image-size", "9,9"], "shape"),
        (&[&flat, "--resize-shorter", "9"], "--fit crop"),
        (&[&flat, "--channel-order", "bgr"], "one channel"),
        (&[&flat, "--preprocess", "vgg"], "vgg"),
        (&[&none], "no file"),
    ];
    for (args, part) in refused {
        let (code, err, model) = forms.quantized(args);
        assert_eq!(code, 2, "{args:?}: {err}");
        assert!(err.contains(part), "{args:?}: {err}");
        assert!(model.is_none(), "{args:?} writes no file");
    }
    let model = asset("digits.h5").display().to_string();
    let out = forms.path("out.bpq.safetensors");
    let (code, _, err) = bitproof(&["quantize", &model, "-s", &out, "--preprocess", "tf"]);
    assert!(code == 2 && err.contains("random samples"), "{err}");
}

/// Layers of a model quantized on samples.
fn layers_of(model: &Path, out: &str, samples: &[&str]) -> Vec<String> {
    let model = model.display().to_string();
    let fixed = [
        "quantize",
        &model,
        "--per-tensor-activations",
        "-s",
        out,
        "--samples",
    ];
    let (code, _, err) = bitproof(&[&fixed, samples].concat());
    assert_eq!(code, 0, "{samples:?}: {err}");
    let summary = json(&["summary", out]);
    let layers = summary["layers"].as_array().unwrap();
    let class = |layer: &Value| layer["class_name"].as_str().unwrap().to_owned();
    layers.iter().map(class).collect()
}

#[test]
fn colours_are_resized_reversed_and_preprocessed_for_the_model() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let model = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../conformance/cases/25-input-quantizer-uint8/model.h5");
    fs::create_dir(path("images")).unwrap();
    let colour = |x: u32, y: u32, c: u32| u8::try_from((x * 31 + y * 17 + c * 83) % 256).unwrap();
    for i in 0..6 {
        let picture = image::RgbImage::from_fn(12 + i, 9, |x, y| {
            image::Rgb([0, 1, 2].map(|c| colour(x + i, y, c)))
        });
        picture.save(path(&format!("images/{i}.png"))).unwrap();
    }
    let images = path("images");
    let out = path("out.bpq.safetensors");
    let has_quantizer = |args: &[&str]| {
        let layers = layers_of(&model, &out, &[&[images.as_str()], args].concat());
        layers.iter().any(|class| class == "InputQuantizer")
    };
    // Images are integers; preprocessed ones are floats.
    assert!(!has_quantizer(&[]), "pixels");
    assert!(!has_quantizer(&["--preprocess", "none"]), "pixels");
    for preprocess in ["tf", "caffe", "torch", "1,0"] {
        assert!(has_quantizer(&["--preprocess", preprocess]), "{preprocess}");
    }
    let model_path = model.display().to_string();
    let args = [
        "quantize",
        &model_path,
        "-s",
        &out,
        "--samples",
        &images,
        "--preprocess",
        "tf",
    ];
    let (code, _, err) = bitproof(&[&args[..], &["--input-quantizer", "never"]].concat());
    assert!(
        code == 2 && err.contains("no uint8"),
        "integers are promised: {err}"
    );
    let fits: [&[&str]; 4] = [
        &["--fit", "crop"],
        &[
            "--fit",
            "crop",
            "--resize-shorter",
            "8",
            "--resize-filter",
            "lanczos",
        ],
        &["--fit", "stretch", "--resize-filter", "nearest"],
        &["--channel-order", "bgr"],
    ];
    layers_of(&model, &out, &[&images]);
    let plain = fs::read(&out).unwrap();
    for args in fits {
        layers_of(&model, &out, &[&[images.as_str()], args].concat());
        assert!(
            fs::read(&out).unwrap() != plain,
            "{args:?} changes the samples"
        );
    }
    let model = model.display().to_string();
    let fixed = ["quantize", &model, "-s", &out, "--samples", &images];
    for (args, part) in [
        (vec!["--fit", "exact"], "12x9"),
        (
            vec!["--preprocess", "caffe", "--channel-order", "bgr"],
            "BGR",
        ),
    ] {
        let (code, _, err) = bitproof(&[&fixed, args.as_slice()].concat());
        assert!(code == 2 && err.contains(part), "{args:?}: {err}");
    }
}

#[cfg(unix)]
#[test]
fn files_that_are_gone_are_bad_samples() {
    let forms = Forms::new(12);
    let flat = forms.path("flat");
    let (_, _, want) = forms.quantized(&[&forms.path("flat")]);
    std::os::unix::fs::symlink("nowhere.png", format!("{flat}/gone.png")).unwrap();
    for place in [flat.clone(), format!("{flat}/*.png")] {
        let (code, err, _) = forms.quantized(&[&place]);
        assert!(code == 2 && err.contains("gone.png"), "{err}");
        let (code, err, got) = forms.quantized(&[&place, "--on-bad-sample", "skip"]);
        assert!(code == 0 && err.contains("1 of 13"), "{err}");
        assert!(got == want, "the others count");
    }
}

#[test]
fn no_step_of_a_sequence_can_be_left_out() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let case =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/cases/36-buffer-temp-conv");
    let mut reader = ArrayReader::open(&case.join("samples.npy"), None, &[]).unwrap();
    let mut frames = reader.next_batch(usize::MAX).unwrap();
    frames.index_axis_mut(Axis(0), 3).fill(f32::NAN);
    write_npy_f32(path("x.npy").as_ref(), &frames).unwrap();
    let (model, x, out) = (
        case.join("model.h5"),
        path("x.npy"),
        path("out.bpq.safetensors"),
    );
    let model = model.display().to_string();
    let args = [
        "quantize",
        &model,
        "-s",
        &out,
        "--samples",
        &x,
        "--on-bad-sample",
        "skip",
    ];
    let (code, _, err) = bitproof(&args);
    assert!(
        code == 2 && err.contains("sample 3") && err.contains("temporal"),
        "{err}"
    );
}
