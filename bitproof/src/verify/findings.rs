//! What a verification found, for CI.

use super::compare::{Comparison, Differences, LayerDifference, Number};
use crate::findings::{Findings, Level, Outcome, Rule, Status};

/// Both models give the same numbers.
pub const LAYER_VALUES: &str = "layer-values";
/// Both models have the same formats.
pub const LAYER_FORMAT: &str = "layer-format";
/// Both models have the same layers.
pub const LAYER_MISSING: &str = "layer-missing";

/// Returns what a CI server is told about the models of the files `a` and `b`.
#[must_use]
pub fn findings(a: &str, b: &str, found: &Differences) -> Findings {
    let rule = |id: &str, description: &str, help: &str| Rule {
        id: id.to_owned(),
        description: description.to_owned(),
        help: help.to_owned(),
    };
    let mut outcomes = Vec::new();
    for layer in &found.layers {
        outcomes.push(outcome(LAYER_VALUES, &layer.name, values(layer)));
        let formats = if layer.formats.is_empty() {
            (Status::Passed, "the same format".to_owned())
        } else {
            (Status::Failed(Level::Error), layer.formats.join("; "))
        };
        outcomes.push(outcome(LAYER_FORMAT, &layer.name, formats));
    }
    let level = if found.are_quantized {
        Level::Error
    } else {
        Level::Note
    };
    for (names, file) in [(&found.only_a, a), (&found.only_b, b)] {
        for name in names {
            let message = format!("only {file} has this layer");
            outcomes.push(outcome(
                LAYER_MISSING,
                name,
                (Status::Failed(level), message),
            ));
        }
    }
    Findings {
        command: "verify".to_owned(),
        model: a.to_owned(),
        rules: vec![
            rule(
                LAYER_VALUES,
                "Both models give the same numbers for the same inputs.",
                "`bitproof verify --shrink --witness FILE` writes the smallest input that shows the \
                 first difference. The first layer that differs is where to look: those behind it \
                 take other inputs.",
            ),
            rule(
                LAYER_FORMAT,
                "Both models have the same bits, binary points and scales.",
                "Calibrate both on the same samples, and compare what `bitproof config` prints.",
            ),
            rule(
                LAYER_MISSING,
                "Both models have the same layers.",
                "`bitproof summary` lists the layers of a model.",
            ),
        ],
        outcomes,
    }
}

fn outcome(rule: &str, layer: &str, (status, message): (Status, String)) -> Outcome {
    Outcome {
        rule: rule.to_owned(),
        layer: layer.to_owned(),
        subject: String::new(),
        status,
        message,
    }
}

fn values(layer: &LayerDifference) -> (Status, String) {
    if layer.comparison == Comparison::None {
        let message = "not compared: the extents differ".to_owned();
        return (Status::NotChecked, message);
    }
    let Some(first) = &layer.first else {
        let message = format!("{} elements are equal", layer.n_elements);
        return (Status::Passed, message);
    };
    let message = format!(
        "{} of {} elements differ, by up to {}; the first at {:?}: {} and {}",
        layer.n_differing, layer.n_elements, layer.largest, first.index, first.a, first.b
    );
    (Status::Failed(Level::Error), message)
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Integer(v) => v.fmt(f),
            Self::Real(v) => v.fmt(f),
        }
    }
}
