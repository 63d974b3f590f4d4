//! The rules of configuration on networks written down by hand.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

use std::collections::BTreeMap;

use config_schema::{
    ConfigReport, LayerInfo, LayerKind, ParamValues, QuantizationParams, Request, Resolved, Status,
    Strictness, Topology, input_quantizer, resolve,
};
use serde_json::{Map, Value, json};

/// Layers in a row, with the extents of their outputs.
fn chain(layers: &[(&str, LayerKind, &[usize])]) -> Topology {
    let n_layers = layers.len();
    let layers = layers
        .iter()
        .enumerate()
        .map(|(i, (name, kind, shape))| LayerInfo {
            name: (*name).to_owned(),
            kind: *kind,
            float_only: None,
            inputs: i.checked_sub(1).into_iter().collect(),
            shape: shape.iter().copied().map(Some).collect(),
            is_output: i + 1 == n_layers,
        });
    Topology {
        layers: layers.collect(),
    }
}

fn tutorial() -> Topology {
    chain(&[
        ("input", LayerKind::Input, &[28, 28, 3]),
        ("dw_conv", LayerKind::DepthwiseConv2D, &[26, 26, 3]),
        ("pw_conv", LayerKind::Conv2D, &[26, 26, 32]),
        ("relu", LayerKind::ReLU, &[26, 26, 32]),
        ("dense", LayerKind::Dense, &[26, 26, 10]),
    ])
}

fn tutorial_params() -> ParamValues {
    ParamValues {
        activation_bits: 6,
        per_tensor_activations: true,
        weight_bits: 4,
        output_bits: 12,
        input_weight_bits: 16,
        buffer_bits: 24,
        ..ParamValues::default()
    }
}

fn run(
    topology: &Topology,
    params: ParamValues,
    q_config: &Value,
    strictness: Strictness,
) -> Result<Resolved, ConfigReport> {
    let params = QuantizationParams::try_from(params).unwrap();
    let removed = [("bn".to_owned(), "folded into `pw_conv`".to_owned())];
    let request = Request {
        params: &params,
        q_config: q_config.as_object(),
        quantize_until: None,
        removed: &BTreeMap::from(removed),
        strictness,
    };
    resolve(topology, &request)
}

fn dump(resolved: &Resolved) -> Value {
    let entries = resolved
        .layers
        .iter()
        .filter_map(|layer| match &layer.status {
            Status::Quantized {
                json: Some(json), ..
            } => Some((layer.name.clone(), Value::Object(json.clone()))),
            Status::Input | Status::Quantized { .. } | Status::Float { .. } => None,
        });
    Value::Object(entries.collect::<Map<_, _>>())
}

fn strict(q_config: &Value) -> Result<Resolved, ConfigReport> {
    run(&tutorial(), tutorial_params(), q_config, Strictness::Strict)
}

/// Returns the paths of the mistakes of a configuration.
fn mistakes(q_config: &Value) -> Vec<String> {
    let report = strict(q_config)
        .err()
        .unwrap_or_else(|| panic!("{q_config} was accepted"));
    report.errors.iter().map(|e| e.path.clone()).collect()
}

#[test]
fn the_tutorials_configuration() {
    let want = json!({
        "dw_conv": {
            "output_quantizer": {"bitwidth": 12, "axis": "per-tensor", "buffer_bitwidth": 24},
            "weight_quantizer": {"bitwidth": 16, "axis": -2},
            "buffer_bitwidth": 24
        },
        "pw_conv": {"weight_quantizer": {"bitwidth": 4}, "buffer_bitwidth": 24},
        "relu": {
            "output_quantizer":
                {"bitwidth": 6, "signed": false, "axis": "per-tensor", "buffer_bitwidth": 24},
            "buffer_bitwidth": 24
        },
        "dense": {"weight_quantizer": {"bitwidth": 4}, "buffer_bitwidth": 24}
    });
    let got = dump(&strict(&Value::Null).unwrap());
    assert_eq!(got.to_string(), want.to_string(), "keys in their order");
}

#[test]
fn a_pooled_branch_and_a_residual_one() {
    // input -> conv -> relu -> (conv_b, add); conv_b -> add -> add_relu -> gap -> dense
    let mut topology = chain(&[
        ("input", LayerKind::Input, &[8, 8, 3]),
        ("conv", LayerKind::Conv2D, &[8, 8, 4]),
        ("relu", LayerKind::ReLU, &[8, 8, 4]),
        ("conv_b", LayerKind::Conv2D, &[8, 8, 4]),
        ("add", LayerKind::Add, &[8, 8, 4]),
        ("add_relu", LayerKind::ReLU, &[8, 8, 4]),
        ("gap", LayerKind::GlobalAveragePooling2D, &[4]),
        ("dense", LayerKind::Dense, &[10]),
    ]);
    topology.layers[4].inputs = vec![3, 2];
    let params = ParamValues {
        activation_bits: 4,
        output_bits: 6,
        ..ParamValues::default()
    };
    let got = dump(&run(&topology, params, &Value::Null, Strictness::Strict).unwrap());
    let quantizer = |layer: &str| got[layer]["output_quantizer"].clone();
    assert_eq!(
        quantizer("conv"),
        Value::Null,
        "the relu behind it has the quantizer"
    );
    assert_eq!(
        quantizer("relu"),
        json!({"bitwidth": 4, "signed": false, "axis": "per-axis", "buffer_bitwidth": 32}),
        "activation"
    );
    assert_eq!(
        quantizer("conv_b"),
        json!({"bitwidth": 6, "axis": "per-axis", "buffer_bitwidth": 32}),
        "an input of the add"
    );
    assert_eq!(quantizer("add"), Value::Null, "its relu can rescale");
    assert_eq!(
        quantizer("add_relu"),
        Value::Null,
        "the pooling behind it can rescale"
    );
    assert_eq!(
        quantizer("gap"),
        json!({"bitwidth": 4, "axis": "per-tensor", "buffer_bitwidth": 32}),
        "a vector behind an activation"
    );
}

#[test]
fn an_entry_replaces_the_automatic_one() {
    let entry = json!({"relu": {"output_quantizer":
        {"bitwidth": 1, "signed": false, "axis": "per-axis", "buffer_bitwidth": 32},
        "buffer_bitwidth": 32}});
    let got = dump(&strict(&entry).unwrap());
    assert_eq!(
        got["relu"].to_string(),
        entry["relu"].to_string(),
        "as it was given"
    );
    let entry = json!({"pw_conv": {"weight_quantizer": {"bitwidth": 6}}});
    let got = dump(&strict(&entry).unwrap());
    let want = json!({"weight_quantizer": {"bitwidth": 6}, "buffer_bitwidth": 24});
    assert_eq!(
        got["pw_conv"].to_string(),
        want.to_string(),
        "the buffer is filled in"
    );
    let empty = dump(&strict(&json!({"relu": {}})).unwrap());
    assert_eq!(
        empty,
        dump(&strict(&Value::Null).unwrap()),
        "an empty entry counts as none"
    );
}

#[test]
fn every_mistake_has_its_path() {
    let cases = [
        (json!({"rleu": {}}), "$.rleu"),
        (json!({"bn": {}}), "$.bn"),
        (json!({"input": {}}), "$.input"),
        (json!({"relu": 3}), "$.relu"),
        (
            json!({"pw_conv": {"weight_quantiser": {}}}),
            "$.pw_conv.weight_quantiser",
        ),
        (
            json!({"pw_conv": {"weight_quantizer": {}}}),
            "$.pw_conv.weight_quantizer.bitwidth",
        ),
        (
            json!({"pw_conv": {"weight_quantizer": {"bitwidth": 1}}}),
            "$.pw_conv.weight_quantizer.bitwidth",
        ),
        (
            json!({"pw_conv": {"weight_quantizer": {"bitwidth": "4"}}}),
            "$.pw_conv.weight_quantizer.bitwidth",
        ),
        (
            json!({"pw_conv": {"weight_quantizer": {"bitwidth": 4, "axis": "x"}}}),
            "$.pw_conv.weight_quantizer.axis",
        ),
        (
            json!({"pw_conv": {"weight_quantizer": {"bitwidth": 4, "bits": 1}}}),
            "$.pw_conv.weight_quantizer.bits",
        ),
        (
            json!({"pw_conv": {"max_value_quantizer": {"bitwidth": 4}}}),
            "$.pw_conv.max_value_quantizer",
        ),
        (
            json!({"pw_conv": {"buffer_bitwidth": 64}}),
            "$.pw_conv.buffer_bitwidth",
        ),
        (
            json!({"relu": {"buffer_bitwidth": 24}}),
            "$.relu.output_quantizer",
        ),
        (
            json!({"relu": {"output_quantizer": {"bitwidth": 4, "axis": "per-tensor"}}}),
            "$.relu.output_quantizer.signed",
        ),
        (
            json!({"dw_conv": {"output_quantizer": {"bitwidth": 1, "axis": "per-tensor"}}}),
            "$.dw_conv.output_quantizer.bitwidth",
        ),
    ];
    for (q_config, path) in cases {
        let got = mistakes(&q_config);
        assert!(got.iter().any(|p| p == path), "{q_config}: {got:?}");
    }
}

#[test]
fn all_mistakes_come_at_once_with_the_nearest_names() {
    let q_config = json!({
        "rleu": {"buffer_bitwidth": 24},
        "bn": {"buffer_bitwidth": 24},
        "pw_conv": {"weight_quantizer": {"bitwidth": 99, "axes": 1}, "bufer_bitwidth": 24}
    });
    let report = strict(&q_config).unwrap_err();
    let text = report.to_string();
    assert_eq!(report.errors.len(), 5, "{text}");
    for part in [
        "did you mean `relu`",
        "folded into `pw_conv`",
        "`axis`",
        "`buffer_bitwidth`",
        "99",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn lenient_is_as_the_reference() {
    let q_config = json!({
        "rleu": {"buffer_bitwidth": 24},
        "pw_conv": {"weight_quantizer": {}, "anything": 1}
    });
    let resolved = run(
        &tutorial(),
        tutorial_params(),
        &q_config,
        Strictness::Lenient,
    )
    .unwrap();
    let got = dump(&resolved);
    assert_eq!(got["pw_conv"]["anything"], 1, "unknown keys are kept");
    let Status::Quantized { config, .. } = &resolved.layers[2].status else {
        panic!("pw_conv is quantized")
    };
    assert_eq!(
        config.weight_quantizer.unwrap().bitwidth,
        4,
        "the default of the class"
    );
    assert!(resolved.warnings.len() >= 3, "each is a warning");
}

#[test]
fn buffers_are_capped_and_axes_forced() {
    let params = ParamValues {
        per_tensor_activations: true,
        ..ParamValues::default()
    };
    let q_config = json!({
        "dw_conv": {
            "output_quantizer": {"bitwidth": 8, "axis": "per-tensor"},
            "weight_quantizer": {"bitwidth": 8, "axis": -1},
            "buffer_bitwidth": 30
        }
    });
    let resolved = run(&tutorial(), params, &q_config, Strictness::Strict).unwrap();
    let got = dump(&resolved);
    assert_eq!(got["dw_conv"]["buffer_bitwidth"], 28, "capped");
    assert_eq!(got["dw_conv"]["weight_quantizer"]["axis"], -2, "forced");
    assert_eq!(
        resolved.warnings.len(),
        2,
        "both are said: {:?}",
        resolved.warnings
    );
}

#[test]
fn quantization_stops_on_a_branch() {
    let params = QuantizationParams::try_from(tutorial_params()).unwrap();
    let removed = BTreeMap::from([("bn".to_owned(), "folded into `pw_conv`".to_owned())]);
    let request = |until: &'static str| Request {
        params: &params,
        q_config: None,
        quantize_until: Some(until),
        removed: &removed,
        strictness: Strictness::Strict,
    };
    let topology = tutorial();
    let resolved = resolve(&topology, &request("pw_conv")).unwrap();
    assert!(!resolved.fully_quantized, "relu and dense stay in float");
    assert!(
        matches!(resolved.layers[3].status, Status::Float { .. }),
        "relu"
    );
    let error = resolve(&topology, &request("rleu"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("did you mean `relu`"), "{error}");
    let error = resolve(&topology, &request("bn")).unwrap_err().to_string();
    assert!(error.contains("folded into `pw_conv`"), "{error}");
}

#[test]
fn outputs_get_their_bits_last() {
    let params = ParamValues {
        last_output_bits: Some(16),
        ..ParamValues::default()
    };
    let topology = tutorial();
    let resolved = run(&topology, params, &Value::Null, Strictness::Strict).unwrap();
    let want = json!({"weight_quantizer": {"bitwidth": 8}, "buffer_bitwidth": 28,
        "output_quantizer": {"bitwidth": 16, "buffer_bitwidth": 32, "scale_bits": 16}});
    assert_eq!(
        dump(&resolved)["dense"].to_string(),
        want.to_string(),
        "appended"
    );
    let again = run(
        &topology,
        ParamValues::default(),
        &dump(&resolved),
        Strictness::Strict,
    );
    assert_eq!(
        dump(&again.unwrap()),
        dump(&resolved),
        "a dump can be given back"
    );
}

#[test]
fn an_unsigned_input_needs_a_layer_for_its_zero_point() {
    let params = QuantizationParams::default();
    let error = input_quantizer(&tutorial(), &params)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("dw_conv") && error.contains("int8"),
        "{error}"
    );
    let signed = ParamValues {
        input_dtype: config_schema::InputDtype::Int8,
        ..ParamValues::default()
    };
    let signed = QuantizationParams::try_from(signed).unwrap();
    assert_eq!(
        input_quantizer(&tutorial(), &signed).unwrap().folds_into,
        None,
        "signed"
    );
}

#[test]
fn parameters_out_of_range_are_all_named() {
    let values = ParamValues {
        weight_bits: 1,
        activation_bits: 17,
        buffer_bits: 40,
        last_output_bits: Some(0),
        ..ParamValues::default()
    };
    let text = QuantizationParams::try_from(values)
        .unwrap_err()
        .to_string();
    for field in [
        "weight_bits is 1",
        "activation_bits is 17",
        "buffer_bits is 40",
        "last_output_bits is 0",
    ] {
        assert!(text.contains(field), "{field} in {text}");
    }
    let narrow = ParamValues {
        buffer_bits: 12,
        output_bits: 12,
        ..ParamValues::default()
    };
    assert!(
        QuantizationParams::try_from(narrow).is_err(),
        "a buffer no wider than an output"
    );
}
