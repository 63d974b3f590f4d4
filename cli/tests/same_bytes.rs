//! The files that `quantize` and `run` write do not depend on the instruction set, nor on the number of threads.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use bitproof::GraphBuilder;
use bitproof::float_model::Convolution;
use bitproof::model_files::write_keras_h5;
use serde_json::Value;

const THREADS: [&str; 3] = ["1", "2", "3"];

/// The names that `BITPROOF_ISA` takes, and whether this CPU has the set, which the standard library says here.
fn instruction_sets() -> [(&'static str, bool); 4] {
    #[cfg(target_arch = "x86_64")]
    let [avx2, avx512, vnni] = {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        [
            avx2,
            avx512,
            avx512 && is_x86_feature_detected!("avx512vnni"),
        ]
    };
    #[cfg(not(target_arch = "x86_64"))]
    let [avx2, avx512, vnni] = [false; 3];
    [
        ("portable", true),
        ("avx2", avx2),
        ("avx512", avx512),
        ("vnni", vnni),
    ]
}

/// Writes a network with a layer of each kind that has kernels of its own; no extent fits a vector or a tile.
fn write_model(path: &Path) {
    let mut b = GraphBuilder::with_seed("odd", 3);
    let x = b.input("input", [19, 17, 3]);
    let x = b.rescaling("rescaling", x, 1.0 / 127.5, -1.0);
    let x = b.conv2d("conv", x, 40, Convolution::new(3).strides(2).same());
    let x = b.relu("conv_relu", x);
    let x = b.depthwise_conv2d("dw", x, Convolution::new(3).same());
    let x = b.relu("dw_relu", x);
    let x = b.conv2d("pw", x, 70, Convolution::new(1));
    let x = b.clipped_relu("pw_relu", x, 6.0);
    let x = b.max_pool2d("pool", x, 2);
    let x = b.conv2d_transpose("up", x, 33, Convolution::new(3).strides(2).same());
    let x = b.relu("up_relu", x);
    let x = b.global_average_pooling2d("gap", x);
    let x = b.dense("logits", x, 11);
    write_keras_h5(&b.build([x]).unwrap(), path).unwrap();
}

/// Runs the binary in `folder` and returns what it prints.
fn bitproof(folder: &Path, isa: &str, threads: &str, args: &str) -> String {
    let run = Command::cargo_bin("bitproof")
        .unwrap()
        .args(args.split(' '))
        .current_dir(folder)
        .env("BITPROOF_ISA", isa)
        .env("RAYON_NUM_THREADS", threads)
        .output()
        .unwrap();
    let messages = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(0), "{isa}, {args}: {messages}");
    String::from_utf8(run.stdout).unwrap()
}

/// Returns the bytes of each file that two commands write: a quantized model, its outputs, and those of every layer.
fn written(folder: &Path, isa: &str, threads: &str, bits: &str) -> [Vec<u8>; 3] {
    let quantize = format!("quantize odd.h5 -ns 6 -bs 4 {bits} -s q.bpq.safetensors");
    bitproof(folder, isa, threads, &quantize);
    let run = "run q.bpq.safetensors --inputs x.npy --outputs y.npy --dump-layers layers.npz";
    bitproof(folder, isa, threads, run);
    ["q.bpq.safetensors", "y.npy", "layers.npz"].map(|name| {
        let path = folder.join(name);
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(path).unwrap();
        bytes
    })
}

/// Writes five images of random-looking bytes as `.npy`.
fn write_images(path: &Path) {
    let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (5, 19, 17, 3), }";
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend(format!("{header:<117}\n").into_bytes());
    let mut state = 1_u32;
    bytes.extend((0..5 * 19 * 17 * 3).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    }));
    fs::write(path, bytes).unwrap();
}

fn check(bits: &str) {
    let folder = tempfile::tempdir().unwrap();
    write_model(&folder.path().join("odd.h5"));
    write_images(&folder.path().join("x.npy"));
    let expected = written(folder.path(), "portable", "1", bits);
    for (isa, is_present) in instruction_sets() {
        if !is_present {
            continue;
        }
        for threads in THREADS {
            let files = written(folder.path(), isa, threads, bits);
            for (file, expected) in files.iter().zip(&expected) {
                assert!(file == expected, "{isa}, {threads} threads, {bits}");
            }
        }
    }
}

#[test]
fn bytes_are_the_same_with_8_bits() {
    check("-w 8 -a 8 -i 8");
}

#[test]
fn bytes_are_the_same_with_4_bits() {
    check("-w 4 -a 4 -i 8");
}

#[test]
fn bytes_are_the_same_with_activations_of_16_bits() {
    check("-w 8 -a 16 -i 8");
}

#[test]
fn each_instruction_set_of_the_cpu_is_the_one_that_runs() {
    let folder = tempfile::tempdir().unwrap();
    write_model(&folder.path().join("odd.h5"));
    for (isa, _) in instruction_sets().into_iter().filter(|(_, is)| *is) {
        let args = "bench odd.h5 --batch 1 --runs 1 --format json";
        let printed: Value =
            serde_json::from_str(&bitproof(folder.path(), isa, "1", args)).unwrap();
        assert_eq!(
            printed["instruction_set"], isa,
            "the set that was asked for"
        );
    }
}
