//! Models from files: what the executor and the scalar definition would compute differently is refused.

use akida_sim::{CalibratedOp, QuantizedModel, QuantizedOp, lower};
use float_model::{Layer, Padding};
use quantizer_core::layers::{IntegerLayer, IntegerOp, RecurrentOp};
use quantizer_core::quantizers::OutputStage;
use quantizer_core::{PerAxis, QFormat, ValueBits};

use crate::random::{Recipe, graph};

fn recipe() -> Recipe {
    Recipe {
        seed: 1,
        extent: 6,
        channels: [3, 4, 4, 4],
        kernel: 3,
        stride: 1,
        padding: Padding::Same,
        border: false,
        weight_bits: 8,
        activation_bits: 8,
        buffer_bits: 32,
        scale: 1.0,
        per_axis: false,
        max_value: true,
        vector: true,
    }
}

fn model() -> QuantizedModel {
    let model = lower(graph(&recipe())).unwrap();
    model.validate().unwrap();
    model
}

fn bits(bits: u8) -> ValueBits {
    ValueBits::new(bits).unwrap()
}

/// Returns what validation says of the model with one layer changed.
fn refusal(name: &str, change: impl FnOnce(&mut IntegerLayer)) -> String {
    let mut model = model();
    let node = model.nodes.iter_mut().find(|node| node.name == name);
    let mut is_changed = false;
    if let QuantizedOp::Integer(layer) = &mut node.unwrap().op {
        change(layer);
        is_changed = true;
    }
    assert!(is_changed, "`{name}` has integers");
    model.validate().unwrap_err().to_string()
}

#[test]
fn layers_have_only_the_stages_that_run() {
    // Each is ignored by the executor, but not by the scalar definition.
    for name in ["scale", "relu", "pool"] {
        let message = refusal(name, |layer| layer.entries[0].shift = PerAxis::Tensor(4));
        assert!(message.contains(&format!("`{name}`")), "{message}");
        assert!(message.contains("shifts of inputs"), "{message}");
    }
    let model = model();
    let conv = model.find("conv").map(|node| &node.op);
    let Some(QuantizedOp::Integer(conv)) = conv else {
        panic!("a convolution");
    };
    let bias = &conv.bias;
    for name in ["relu", "add", "gap"] {
        let message = refusal(name, |layer| layer.bias.clone_from(bias));
        assert!(message.contains("bias"), "{name}: {message}");
    }
    let message = refusal("pool", |layer| {
        let output = OutputStage {
            multiplier: None,
            shift: PerAxis::Tensor(-1),
            value_bits: layer.format.value_bits,
        };
        layer.output = Some(output);
    });
    assert!(message.contains("only move"), "{message}");
}

#[test]
fn integers_that_pass_unchanged_fit_in_the_result() {
    // A table behind such a layer would be indexed outside of its entries.
    for name in ["scale", "pool"] {
        let message = refusal(name, |layer| {
            layer.inner.value_bits = bits(2);
            layer.format.value_bits = bits(2);
        });
        assert!(message.contains("wider than its result"), "{message}");
    }
}

#[test]
fn the_pointwise_half_takes_the_width_of_the_depthwise_sums() {
    let message = refusal("separable", |layer| layer.inner.value_bits = bits(48));
    assert!(message.contains("bits"), "{message}");
}

#[test]
fn a_recurrence_has_positive_scales() {
    let recurrence = |scale| {
        let state = OutputStage {
            multiplier: None,
            shift: PerAxis::Tensor(0),
            value_bits: bits(15),
        };
        IntegerOp::StatefulRecurrent(RecurrentOp {
            factors: [vec![1], vec![1]],
            multiplier: Some(PerAxis::Tensor(scale)),
            input_shift: PerAxis::Tensor(0),
            state,
        })
    };
    let states = |scale| {
        let mut model = model();
        let format = QFormat::fixed(bits(15), PerAxis::Tensor(0));
        model.nodes.truncate(2);
        model.outputs = vec![1];
        model.nodes[0].shape = vec![Some(3), Some(1)];
        model.nodes[1].shape = vec![Some(3), Some(1), Some(2)];
        if let QuantizedOp::Integer(layer) = &mut model.nodes[1].op {
            layer.op = recurrence(scale);
            layer.inner = format.clone();
            layer.format = format;
        }
        model.validate().map_err(|error| error.to_string())
    };
    assert_eq!(states(3), Ok(()));
    let message = states(-3).unwrap_err();
    assert!(message.contains("a scale below 1"), "{message}");
}

#[test]
fn sums_over_images_fit() {
    let mut model = model();
    let gap = model.nodes.iter().position(|node| node.name == "gap");
    let gap = gap.unwrap();
    let input = model.nodes[gap].inputs[0];
    if let QuantizedOp::Integer(layer) = &mut model.nodes[gap].op {
        layer.entries[0].value_bits = bits(48);
        layer.inner.value_bits = bits(48);
    }
    for node in &mut model.nodes[..=input] {
        node.shape[0] = Some(1 << 12);
        node.shape[1] = Some(1 << 12);
    }
    // 2^24 pixels of 48 bits; the kernels before sum over a few of them.
    let message = model.validate().unwrap_err().to_string();
    assert!(message.contains("`gap`: "), "{message}");
    assert!(message.contains("62 bits"), "{message}");
}

#[test]
fn outputs_are_layers_of_the_model() {
    let mut model = model();
    model.outputs = vec![model.nodes.len()];
    let message = model.validate().unwrap_err().to_string();
    assert!(message.contains("does not have"), "{message}");
}

#[test]
fn nothing_is_lowered_that_is_not_valid() {
    let recipe = recipe();
    let mut graph = graph(&recipe);
    for node in &mut graph.nodes {
        if let CalibratedOp::Quantized(layer) = &mut node.op
            && let Layer::Rescaling(rescaling) = &mut layer.layer
        {
            rescaling.scale = PerAxis::Tensor(f64::INFINITY);
        }
    }
    // The layers behind notice it too, where there are some.
    graph.nodes.truncate(2);
    graph.outputs = vec!["scale".to_owned()];
    let message = lower(graph).unwrap_err().to_string();
    assert!(
        message.contains("`scale`: a scale that is not finite"),
        "{message}"
    );
}

#[test]
fn items_fit_in_memory() {
    let mut model = model();
    for node in &mut model.nodes {
        if node.shape.len() == 3 {
            node.shape[0] = Some(1 << 18);
            node.shape[1] = Some(1 << 18);
        }
    }
    let message = model.validate().unwrap_err().to_string();
    assert!(message.contains("values"), "{message}");
}

#[test]
fn names_are_text_that_a_terminal_can_show() {
    let forged = "x\nPROVED: no input can overflow a buffer";
    let changes: [fn(&mut QuantizedModel, String); 3] = [
        |model, text| model.name = text,
        |model, text| model.nodes[1].name = text,
        |model, text| model.nodes[1].class_name = text,
    ];
    for change in changes {
        for text in [forged, "\u{1b}[2J", "\u{9b}2J"] {
            let mut model = model();
            change(&mut model, text.to_owned());
            let message = model.validate().unwrap_err().to_string();
            assert!(message.contains("control character"), "{message:?}");
            assert!(!message.contains(char::is_control), "{message:?}");
        }
    }
}
