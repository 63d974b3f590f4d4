//! The page as text and in a browser.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod browser;
mod page;

use bitproof::akida_sim::prove::{SearchBudget, prove, with_buffer_bits};
use bitproof::findings::{Findings, Level, Outcome, Rule, Status};
use bitproof::float_model::Convolution;
use bitproof::{GraphBuilder, QuantizeOptions, Samples, quantize};
use ndarray::{ArrayD, IxDyn};
use report::{
    Accuracy, Facts, FileFact, LoggedOrigin, LoggedRewrite, Measurement, QuantizeLog, Report,
    counterpart,
};

/// What a hostile file may call its layers.
const HOSTILE: &str = "x\"><script>alert(1)</script><img src=x onerror=alert(2)>'&amp;";

/// Returns a text that a hostile file may hold.
fn hostile(what: &str) -> String {
    format!("{what}{HOSTILE}{}\u{202e}\0", "long".repeat(500))
}

/// Returns what a check of the rules of a target may find.
fn checks(name: fn(&str) -> String) -> Findings {
    let outcome = |status| Outcome {
        rule: name("rule-1"),
        layer: name("conv"),
        subject: name("kernel_size"),
        status,
        message: name("9 is not 3, 5 or 7"),
    };
    let statuses = [
        Status::Passed,
        Status::Failed(Level::Error),
        Status::Failed(Level::Warning),
        Status::NotChecked,
    ];
    Findings {
        command: name("check --target one"),
        model: name("model"),
        rules: vec![Rule {
            id: name("rule-1"),
            description: name("Kernels are small."),
            help: name("Split the kernel."),
        }],
        outcomes: statuses.map(outcome).to_vec(),
    }
}

/// Returns the page of a model with everything on it, names and texts given.
fn full_page(name: fn(&str) -> String) -> String {
    // No model has a layer whose name holds a control character; other texts may hold one.
    let layer = |what: &str| name(what).replace(char::is_control, "");
    let mut b = GraphBuilder::new(layer("model"));
    let x = b.input(&layer("input"), [9, 9, 3]);
    let x = b.rescaling(&layer("rescaling"), x, 1.0 / 255.0, 0.0);
    let x = b.conv2d(&layer("conv"), x, 8, Convolution::new(3).same());
    let left = b.relu(&layer("relu"), x);
    let right = b.depthwise_conv2d(&layer("dw"), left, 3);
    let right = b.relu(&layer("dw_relu"), right);
    let right = b.conv2d(&layer("pw"), right, 6, Convolution::new(1));
    let right = b.relu(&layer("pw_relu"), right);
    let x = b.separable_conv2d(&layer("sep"), right, 5, Convolution::new(3));
    let x = b.relu(&layer("sep_relu"), x);
    let x = b.flatten(&layer("flatten"), x);
    let x = b.dense(&layer("dense"), x, 4);
    let graph = b.build([x]).unwrap();
    let options = QuantizeOptions {
        num_samples: Some(16),
        ..QuantizeOptions::default()
    };
    let quantized = quantize(graph.clone(), Samples::Random, &options, &mut |_| ()).unwrap();
    let model = with_buffer_bits(&quantized.model, 18).unwrap();
    let proof = prove(
        &model,
        None,
        SearchBudget { runs: 6, seed: 0 },
        &mut |_, _| (),
    )
    .unwrap();
    let float = counterpart(&graph, &model).unwrap();
    let mut measurement = Measurement::new(&model, Some(&float));
    let value = |i: usize| f32::from(u8::try_from((i * 37).rem_euclid(256)).unwrap());
    let inputs = (0..4 * 9 * 9 * 3).map(value).collect();
    let inputs = ArrayD::from_shape_vec(IxDyn(&[4, 9, 9, 3]), inputs).unwrap();
    measurement.add(&inputs).unwrap();
    let measured = measurement.finish();
    let mut accuracy = Accuracy::default();
    accuracy.add(&[0, 1, 2, 3], &[0, 1, 2, 2], Some(&[0, 1, 3, 3]));
    let origin = |o: &bitproof::config_schema::Origin| LoggedOrigin {
        layer: o.layer.clone(),
        path: o.path.clone(),
        value: o.value.clone(),
        reason: name(&o.reason),
    };
    let rewrite = LoggedRewrite {
        rewrite: name("fold"),
        layer: name("conv"),
        message: name("because"),
    };
    let log = QuantizeLog {
        output_sha256: String::new(),
        origins: quantized.explanation.iter().map(origin).collect(),
        warnings: vec![name("a warning")],
        rewrites_applied: vec![rewrite.clone()],
        rewrites_refused: vec![rewrite],
    };
    let facts = Facts {
        title: name("title"),
        command: name("bitproof report"),
        files: vec![FileFact {
            role: name("model"),
            path: name("path"),
            sha256: "0".repeat(64),
        }],
    };
    report::page(&Report {
        model: &model,
        proof: &proof,
        float: Some(&float),
        measured: Some(&measured),
        accuracy: Some(&accuracy),
        log: Some(&log),
        checks: &[checks(name)],
        facts: &facts,
    })
}
