//! What was found, for CI servers and pages.

use anyhow::Result;
use bitproof::QuantizedModel;
use bitproof::akida_sim::hardware::{
    HardwareReport, Ranges, Rule as HardwareRule, RuleSet, Severity, Target, check,
};
use bitproof::findings::{Findings, Level, Outcome, Rule, Status};

use super::{Checked, text};

/// Returns what a CI server is told: nothing counts as a failure where the answer is yes.
pub(super) fn findings(checked: &Checked, rules: &RuleSet) -> Findings {
    let of_error = if checked.fits {
        Level::Warning
    } else {
        Level::Error
    };
    let reports = checked.reports.iter();
    let outcomes = reports.flat_map(|report| outcomes(report, report.target.name(), of_error));
    let targets: Vec<Target> = checked.reports.iter().map(|report| report.target).collect();
    Findings {
        command: "check".to_owned(),
        model: checked.path.display().to_string(),
        rules: described(rules, &targets),
        outcomes: outcomes.collect(),
    }
}

/// Returns what is found for every target, one after another.
pub(in crate::commands) fn by_target(model: &QuantizedModel, path: &str) -> Result<Vec<Findings>> {
    let rules = RuleSet::embedded()?;
    let all = Target::ALL.into_iter().map(|target| {
        let report = check(model, &rules, target, Ranges::Calibrated)?;
        Ok(Findings {
            command: format!("{target}: {}", report.verdict()),
            model: path.to_owned(),
            rules: described(&rules, &[target]),
            outcomes: outcomes(&report, "", Level::Error),
        })
    });
    all.collect()
}

fn outcomes(report: &HardwareReport, subject: &str, of_error: Level) -> Vec<Outcome> {
    let outcome = |rule: &str, layer: &str, status, message: String| Outcome {
        rule: rule.to_owned(),
        layer: layer.to_owned(),
        subject: subject.to_owned(),
        status,
        message,
    };
    let level = |severity| match severity {
        Severity::Error => of_error,
        Severity::Warning => Level::Warning,
        Severity::Info => Level::Note,
    };
    let findings = report.findings.iter().map(|f| {
        let message = format!("{} {}", f.message, f.fix).trim().to_owned();
        let status = Status::Failed(level(f.severity));
        outcome(&f.rule, &f.layer, status, message)
    });
    let passed = report.passed.iter();
    let passed = passed.map(|p| outcome(&p.rule, &p.layer, Status::Passed, String::new()));
    let open = report.not_checked.iter().map(|n| {
        let message = format!("{} {}", n.subject, n.why);
        outcome(&n.rule, &n.layer, Status::NotChecked, message)
    });
    findings.chain(passed).chain(open).collect()
}

/// Returns the rules that concern one of the targets.
fn described(rules: &RuleSet, targets: &[Target]) -> Vec<Rule> {
    let is_concerned = |rule: &&HardwareRule| targets.iter().any(|target| rule.concerns(*target));
    let concerned = rules.rules.iter().filter(is_concerned);
    let described = concerned.map(|rule| Rule {
        id: rule.id.clone(),
        description: text::description(rule),
        help: text::help(rule),
    });
    described.collect()
}
