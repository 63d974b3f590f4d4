//! The text of a summary against the reference's, and parameter counts.

#![expect(
    clippy::unwrap_used,
    reason = "a golden that cannot be read fails the test"
)]

use float_model::{Draft, DraftNode, Dtype, Graph, Input, Layer, ReLU, Shape, Summary, SummaryRow};
use serde_json::Value;

fn count(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

/// Returns the shapes of one output, or of a list of them.
fn shapes(value: &Value) -> Vec<Shape> {
    let list = value.as_array().unwrap();
    if list.iter().any(Value::is_array) {
        return list.iter().flat_map(shapes).collect();
    }
    let extents = list.iter();
    vec![
        extents
            .map(|n| n.as_u64().map(|n| usize::try_from(n).unwrap()))
            .collect(),
    ]
}

fn parse(json: &str) -> (Summary, String) {
    let json: Value = serde_json::from_str(json).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let list = |value: &Value| value.as_array().unwrap().clone();
    let rows = list(&json["layers"]).into_iter().map(|row| SummaryRow {
        name: text(&row["name"]),
        class_name: text(&row["class_name"]),
        output_shapes: shapes(&row["output_shape"]),
        params: count(&row["params"]),
        inputs: list(&row["inputs"]).iter().map(text).collect(),
    });
    let summary = Summary {
        name: text(&json["name"]),
        layers: rows.collect(),
        trainable_params: count(&json["trainable_params"]),
        non_trainable_params: count(&json["non_trainable_params"]),
    };
    assert_eq!(
        summary.total_params(),
        count(&json["total_params"]),
        "totals of the golden"
    );
    (summary, text(&json["text"]))
}

#[test]
fn text_is_that_of_the_reference() {
    let goldens = [
        include_str!("golden/summary/01-tutorial-qparams.json"),
        include_str!("golden/summary/10-mobilenet-v1-a025-32.json"),
        include_str!("golden/summary/12-mobilenet-v2-residual.json"),
        include_str!("golden/summary/13-resnet-add-relu-gap-w4.json"),
        include_str!("golden/summary/14-concat-2-and-3.json"),
        include_str!("golden/summary/36-buffer-temp-conv.json"),
        include_str!("golden/summary/two-outputs.json"),
    ];
    for golden in goldens {
        let (summary, text) = parse(golden);
        assert_eq!(summary.to_text(), text, "model {}", summary.name);
    }
}

#[test]
fn memory_rounds_to_even_as_python_prints_it() {
    let totals = [
        (0, "0.00 Byte"),
        (255, "1020.00 Byte"),
        (256, "1.00 KB"),
        // 1.125 and 1.375 KB lie in the middle.
        (288, "1.12 KB"),
        (352, "1.38 KB"),
        (262_144, "1.00 MB"),
        (4_253_864, "16.23 MB"),
        (300_000_000, "1.12 GB"),
    ];
    for (n_params, expected) in totals {
        let summary = Summary {
            trainable_params: n_params,
            ..Summary::default()
        };
        let line = format!("Total params: {n_params} ({expected})");
        assert!(
            summary.to_text().lines().any(|found| found == line),
            "{line}"
        );
    }
}

fn relu_of(name: &str, input: &str) -> DraftNode {
    DraftNode {
        name: name.to_owned(),
        layer: Layer::ReLU(ReLU::default()),
        inputs: vec![input.to_owned()],
    }
}

fn two_relus(second_takes: &str, outputs: &[&str]) -> Summary {
    let input = DraftNode {
        name: "a".to_owned(),
        layer: Layer::Input(Input {
            shape: vec![Some(1)],
            dtype: Dtype::Float32,
        }),
        inputs: Vec::new(),
    };
    let draft = Draft {
        name: "model".to_owned(),
        nodes: vec![input, relu_of("r", "a"), relu_of("f", second_takes)],
        outputs: outputs.iter().map(|name| (*name).to_owned()).collect(),
    };
    Graph::new(draft).unwrap().summary()
}

#[test]
fn branches_add_a_column_and_intermediate_outputs_do_not() {
    let branches = two_relus("a", &["r", "f"]).to_text();
    assert!(branches.contains("Connected to"), "{branches}");
    assert!(branches.contains("['a[0][0]']"), "{branches}");
    let chain = two_relus("r", &["r", "f"]).to_text();
    assert!(!chain.contains("Connected to"), "{chain}");
    assert!(chain.contains(" a (InputLayer)              [(None, 1)]               0 "));
}
