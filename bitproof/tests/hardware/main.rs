//! Rules of hardware, one by one: for each a model that keeps it and a model that breaks it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail by panicking, also where a layer is another than they expect"
)]
#![expect(clippy::too_many_lines, reason = "the cases are a table")]

mod cases;
mod nets;

use std::collections::BTreeSet;

use bitproof::akida_sim::QuantizedModel;
use bitproof::akida_sim::hardware::{
    Check, Facts, HardwareReport, Ranges, RuleSet, Severity, Target, Value, check, judge,
};
use bitproof::load_quantized;

use cases::{cases, good};

/// Borders that no model can have: readers make `same` and `valid` of every border.
const BY_FACTS: [&str; 2] = ["A1-IN-PAD", "A2-IN-PAD"];

/// What is said of every model.
const ALWAYS_SAID: [&str; 3] = ["A15-SAME-AS-A1", "A15-MULTIPASS", "A10-SINGLEPASS"];

fn checked(model: &QuantizedModel, target: Target) -> HardwareReport {
    let rules = RuleSet::embedded().unwrap();
    check(model, &rules, target, Ranges::Calibrated).unwrap()
}

fn said(report: &HardwareReport) -> Vec<String> {
    let findings = report.findings.iter();
    let findings = findings.map(|f| {
        format!(
            "{} {} {}: {}",
            f.severity.name(),
            f.rule,
            f.layer,
            f.message
        )
    });
    findings.collect()
}

#[test]
fn every_rule_is_kept_by_one_model_and_broken_by_another() {
    let rules = RuleSet::embedded().unwrap();
    let mut kept = BTreeSet::new();
    for (name, targets, model) in good() {
        for target in targets {
            let report = checked(&model, target);
            assert!(report.fits(), "{name}, {target}: {:#?}", said(&report));
            kept.extend(report.passed.into_iter().map(|passed| passed.rule));
        }
    }
    let mut broken = BTreeSet::new();
    let mut wrong = Vec::new();
    for case in cases() {
        let report = checked(&(case.model)(), case.target);
        let is_found = report
            .findings
            .iter()
            .any(|f| f.rule == case.rule && f.severity == case.severity);
        if !is_found {
            let found = said(&report);
            wrong.push(format!("{} on {}: {found:#?}", case.rule, case.target));
        }
        broken.insert(case.rule.to_owned());
    }
    assert!(
        wrong.is_empty(),
        "rules that are not broken: {}",
        wrong.join("\n")
    );
    let checked = rules
        .rules
        .iter()
        .filter(|rule| matches!(rule.check, Check::Condition(_)));
    for rule in checked {
        let id = rule.id.as_str();
        let by_facts = BY_FACTS.contains(&id);
        assert!(
            broken.contains(id) || by_facts,
            "{id} has no model that breaks it"
        );
        let always = ALWAYS_SAID.contains(&id);
        assert!(
            kept.contains(id) || always,
            "{id} has no model that keeps it"
        );
    }
    let known: BTreeSet<String> = rules.rules.iter().map(|rule| rule.id.clone()).collect();
    assert_eq!(known.len(), rules.rules.len(), "identifiers are unique");
    assert!(broken.is_subset(&known), "cases of rules that exist");
}

#[test]
fn borders_that_no_model_has_are_judged_by_facts() {
    let rules = RuleSet::embedded().unwrap();
    let facts = |pad: &str, stride: i64| -> Facts {
        let text = |text: &str| Value::Text(text.to_owned());
        let facts = [
            ("pad", text(pad)),
            ("s0", Value::Int(stride)),
            ("k0", Value::Int(3)),
            ("pool", text("none")),
        ];
        facts.into_iter().collect()
    };
    for (rule, pad, stride, wanted) in [
        ("A1-IN-PAD", "same", 2, None),
        ("A1-IN-PAD", "same_upper", 2, Some(Severity::Error)),
        ("A2-IN-PAD", "valid", 2, None),
        ("A2-IN-PAD", "same_upper", 2, Some(Severity::Warning)),
        ("A2-IN-PAD", "same_upper", 1, Some(Severity::Error)),
        ("A2-CONV-PAD", "same_upper", 2, Some(Severity::Warning)),
        ("A2-CONV-PAD", "same_upper", 1, Some(Severity::Error)),
    ] {
        let Check::Condition(condition) = &rules.find(rule).unwrap().check else {
            panic!("{rule} is checked");
        };
        let judged = judge(condition, &facts(pad, stride)).unwrap();
        assert_eq!(judged, Some(wanted), "{rule} {pad} {stride}");
    }
    let Check::Condition(condition) = &rules.find("A1-IN-PAD").unwrap().check else {
        panic!("A1-IN-PAD is checked");
    };
    assert_eq!(judge(condition, &Facts::new()).unwrap(), None, "unknown");
}

#[test]
fn a_rule_of_ranges_is_not_checked_without_them() {
    let rules = RuleSet::embedded().unwrap();
    let model = nets::residual();
    let report = check(&model, &rules, Target::ConversionV2, Ranges::Unknown).unwrap();
    let of_ranges = rules.rules.iter().filter(|rule| match &rule.check {
        Check::Condition(condition) => condition.calibrated && rule.concerns(Target::ConversionV2),
        Check::Not(_) => false,
    });
    for rule in of_ranges {
        assert!(
            report.passed.iter().all(|p| p.rule != rule.id),
            "{}",
            rule.id
        );
        assert!(
            report.not_checked.iter().any(|n| n.rule == rule.id),
            "{}",
            rule.id
        );
    }
}

#[test]
fn an_open_extent_is_not_checked() {
    let mut model = nets::residual();
    model.nodes[0].shape[1] = None;
    for node in model.nodes.iter_mut().filter(|node| node.shape.len() == 3) {
        node.shape[1] = None;
    }
    let report = checked(&model, Target::Akida2);
    let open = report.not_checked.iter().find(|n| n.rule == "A2-IN-DIMS");
    let open = open.unwrap();
    assert_eq!(
        (open.layer.as_str(), open.why.as_str()),
        ("c0", "Not known: d1.")
    );
    assert!(
        report.passed.iter().any(|p| p.rule == "A2-IN-CH"),
        "the rest is"
    );
}

#[test]
fn layers_are_grouped_into_blocks() {
    let report = checked(&nets::residual(), Target::Akida2);
    let blocks: Vec<(Option<&str>, String)> = report
        .blocks
        .iter()
        .map(|block| (block.hardware.as_deref(), block.layers.join(" ")))
        .collect();
    let wanted = [
        (Some("InputConv2D"), "c0 c0_relu"),
        (Some("DepthwiseConv2D"), "d0 d0_relu"),
        (Some("Conv2D"), "c1 p1 c1_relu"),
        (Some("Conv2D"), "c2 c2_relu"),
        (Some("Conv2D"), "c3"),
        (Some("Add"), "add"),
        (Some("Conv2D"), "c4 c4_relu"),
        (Some("Conv2D"), "c5 c5_relu"),
        (Some("Concatenate"), "cat"),
        (Some("Conv2D"), "c6 c6_relu gap"),
        (Some("Dense1D"), "fc"),
        (Some("Dequantizer"), "dequantizer"),
    ];
    let wanted: Vec<_> = wanted
        .map(|(kind, layers)| (kind, layers.to_owned()))
        .into();
    assert_eq!(blocks, wanted);
    let report = checked(&nets::residual(), Target::Akd1000);
    let add = report.blocks.iter().find(|block| block.name == "add");
    assert_eq!(add.unwrap().hardware, None, "1.0 has no Add");
}

/// The reference's own file of the case that the repository keeps. Worked out from the rules by hand:
/// `r0_identity_conv` has outputs of 16 bits that feed `c1` and `add1` (CV-BRANCH), its own and three
/// other blocks take or give 16 bits (A2-CONV-BITS), three middle outputs are 16 bits wide
/// (A2-OUT-RAW), and 12 x 12 positions are averaged (A2-GAP-AREA). For 1.0 the joins, the unbounded
/// `ReLU`s, 8-bit signed activations per channel and outputs of convolutions are too much.
#[test]
fn a_residual_network_of_the_reference_has_the_verdict_of_the_rules() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../conformance/cases/13-resnet-add-relu-gap-w4/expected/quantized.h5"
    );
    let model = load_quantized(path.as_ref()).unwrap();
    let count = |report: &HardwareReport, rule: &str| {
        report.findings.iter().filter(|f| f.rule == rule).count()
    };
    let report = checked(&model, Target::ConversionV2);
    assert_eq!(count(&report, "CV-BRANCH"), 1);
    assert_eq!(report.count(Severity::Error), 1, "{:#?}", said(&report));
    for target in [
        Target::Akida2,
        Target::Akida2TwoNodes,
        Target::Akida2SixNodes,
    ] {
        let report = checked(&model, target);
        let counts = ["CV-BRANCH", "A2-CONV-BITS", "A2-OUT-RAW", "A2-GAP-AREA"]
            .map(|rule| count(&report, rule));
        assert_eq!(counts, [1, 4, 3, 1], "{:#?}", said(&report));
        assert_eq!(report.count(Severity::Error), 9, "{:#?}", said(&report));
        assert_eq!(report.verdict(), "incompatible");
    }
    for target in [Target::ConversionV1, Target::Akd1000, Target::Akd1500] {
        let report = checked(&model, target);
        for rule in [
            "CV1-SEQ",
            "CV1-OUTQ",
            "CV1-RELU-MAX",
            "CV1-RELU-AXIS",
            "CV-BLOCK",
        ] {
            assert!(count(&report, rule) > 0, "{target} {rule}");
        }
        assert_eq!(report.verdict(), "incompatible");
    }
}
