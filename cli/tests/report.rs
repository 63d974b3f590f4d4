//! `report` on real files.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::Path;

use assert_cmd::Command;

/// Runs the binary in a folder and returns its exit code, stdout and stderr.
fn bitproof(folder: &Path, args: &str) -> (i32, String, String) {
    let mut command = Command::cargo_bin("bitproof").unwrap();
    let run = command.current_dir(folder).args(args.split(' ')).output();
    let run = run.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        run.status.code().unwrap(),
        text(run.stdout),
        text(run.stderr),
    )
}

/// Returns a folder with the demo's model, quantized twice, and the logs of both.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    for name in ["digits.h5", "digits.npz"] {
        fs::copy(assets.join(name), folder.path().join(name)).unwrap();
    }
    for (name, bits) in [("q8", 8), ("q4", 4)] {
        let args = format!(
            "quantize digits.h5 --samples digits.npz -w {bits} -s {name}.bpq.safetensors --format json"
        );
        let (code, log, err) = bitproof(folder.path(), &args);
        assert_eq!(code, 0, "{err}");
        fs::write(folder.path().join(format!("{name}.json")), log).unwrap();
    }
    folder
}

#[test]
fn a_page_has_what_was_given() {
    let folder = folder();
    let page = |args: &str| {
        let (code, out, err) = bitproof(folder.path(), args);
        assert_eq!((code, out.as_str()), (0, "written to p.html\n"), "{err}");
        fs::read_to_string(folder.path().join("p.html")).unwrap()
    };
    let bare = page("report q8.bpq.safetensors -o p.html");
    assert!(
        bare.contains("--samples adds what was observed"),
        "what is missing"
    );
    for absent in [
        "id=\"accuracy\"",
        "id=\"decisions\"",
        ">comes from<",
        "outputs, integers",
    ] {
        assert!(!bare.contains(absent), "{absent} of nothing");
    }
    let all =
        "report q8.bpq.safetensors --float digits.h5 --data digits.npz --log q8.json -o p.html";
    let full = page(all);
    for said in [
        "99.56 %",
        "id=\"accuracy\"",
        "parameter weight_bits",
        "outputs, float model",
        "weights, float",
        "folded into `conv_0`",
        "Refuted: an input overflows a buffer",
        "An input that overflows scale_multiply",
        "bitproof report q8.bpq.safetensors --float digits.h5",
    ] {
        assert!(full.contains(said), "the page lacks: {said}");
    }
    assert_eq!(full, page(all), "the same bytes again");
}

#[test]
fn what_does_not_fit_is_refused() {
    let folder = folder();
    for (args, message) in [
        (
            "report q8.bpq.safetensors --log q4.json -o p.html",
            "the log of another model",
        ),
        (
            "report q8.bpq.safetensors --log digits.h5 -o p.html",
            "digits.h5",
        ),
        ("report digits.h5 -o p.html", "quantize it first"),
        ("report q8.bpq.safetensors -o p.pdf", "ends in .html"),
        (
            "report q8.bpq.safetensors --float q8.bpq.safetensors -o p.html",
            "quantized already",
        ),
        (
            "report q8.bpq.safetensors --samples none.npy -o p.html",
            "no such file",
        ),
    ] {
        let (code, _, err) = bitproof(folder.path(), args);
        assert_eq!((code, err.contains(message)), (2, true), "{args}: {err}");
        assert!(
            !folder.path().join("p.html").exists(),
            "{args}: nothing is written"
        );
    }
}
