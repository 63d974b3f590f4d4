//! What was found, for programs.

use bitproof::akida_sim::hardware::{Finding, HardwareReport};
use bitproof::float_model::RewriteEvent;
use serde_json::{Value, json};

use super::{Checked, FloatFacts};

/// Returns everything that was found.
pub(super) fn report(checked: &Checked) -> Value {
    let targets: Vec<Value> = checked.reports.iter().map(target).collect();
    json!({
        "model": checked.path.display().to_string(),
        "fits": checked.fits,
        "float": checked.float.as_ref().map(float),
        "targets": targets,
        "size": size(checked),
    })
}

fn target(report: &HardwareReport) -> Value {
    let blocks = report.blocks.iter().map(
        |block| json!({ "name": block.name, "hardware": block.hardware, "layers": block.layers }),
    );
    let not_checked = report
        .not_checked
        .iter()
        .map(|n| json!({ "rule": n.rule, "layer": n.layer, "subject": n.subject, "why": n.why }));
    json!({
        "target": report.target.name(),
        "verdict": report.verdict(),
        "fits": report.fits(),
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "passed": report.passed.len(),
        "not_checked": not_checked.collect::<Vec<_>>(),
        "blocks": blocks.collect::<Vec<_>>(),
    })
}

fn finding(finding: &Finding) -> Value {
    json!({
        "rule": finding.rule,
        "severity": finding.severity.name(),
        "layer": finding.layer,
        "message": finding.message,
        "found": finding.found,
        "limit": finding.limit,
        "fix": finding.fix,
        "basis": finding.basis,
        "source": finding.source,
    })
}

fn float(facts: &FloatFacts) -> Value {
    let events = |events: &[RewriteEvent]| -> Vec<Value> {
        let json = |event: &RewriteEvent| json!({ "rewrite": event.rewrite, "layer": event.layer, "message": event.message });
        events.iter().map(json).collect()
    };
    let left = facts.left.iter().map(|layer| {
        json!({ "name": layer.name, "class_name": layer.class_name, "reason": layer.reason,
            "advice": layer.advice })
    });
    json!({
        "calibrated": facts.is_calibrated,
        "left_in_float": left.collect::<Vec<_>>(),
        "rewrites_applied": events(&facts.applied),
        "rewrites_refused": events(&facts.refused),
        "warnings": facts.warnings,
    })
}

fn size(checked: &Checked) -> Value {
    let events = checked.events.as_ref();
    let layers = checked.sizes.iter().enumerate().map(|(i, layer)| {
        json!({
            "name": layer.name,
            "class_name": layer.class_name,
            "weight_bytes": layer.weight_bytes,
            "activations": layer.activations,
            "macs": layer.macs,
            "events": events.and_then(|events| events.per_item(i)),
        })
    });
    let layers: Vec<Value> = layers.collect();
    json!({
        "weight_bytes": checked.sizes.iter().map(|layer| layer.weight_bytes).sum::<u64>(),
        "macs": checked.sizes.iter().map(|layer| layer.macs).sum::<u64>(),
        "samples": events.map(|events| events.n_samples),
        "layers": layers,
    })
}
