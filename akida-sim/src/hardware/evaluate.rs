//! Rules applied to facts.

use std::collections::BTreeSet;

use super::HardwareError;
use super::expr::Facts;
use super::facts::{Place, Places, places};
use super::rules::{Check, Condition, Rule, RuleSet, Scope, Severity};
use super::target::Target;
use crate::model::QuantizedModel;

/// Whether the ranges of a model were calibrated on real samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// They were, so what follows from them can be checked.
    Calibrated,
    /// They stand for others.
    Unknown,
}

/// What a check for one target found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardwareReport {
    /// What the model was checked for.
    pub target: Target,
    /// The blocks, in the order of the model.
    pub blocks: Vec<BlockReport>,
    /// Broken rules, in the order of the rules.
    pub findings: Vec<Finding>,
    /// Rules that were kept, where they apply.
    pub passed: Vec<Passed>,
    /// What is not known.
    pub not_checked: Vec<NotChecked>,
}

impl HardwareReport {
    /// Returns the worst severity of what was found.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }

    /// Returns whether nothing rejects the model; that it will be mapped is not said.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.worst() != Some(Severity::Error)
    }

    /// Returns how many findings are of a severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings
            .iter()
            .filter(|f| f.severity == severity)
            .count()
    }

    /// Returns the verdict in a few words.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        match self.worst() {
            Some(Severity::Error) => "incompatible",
            Some(Severity::Warning) => "compatible with warnings",
            Some(Severity::Info) | None => "within published limits",
        }
    }
}

/// Layers that form, or should form, one hardware layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockReport {
    /// Name of the layer that does the work.
    pub name: String,
    /// Name of the hardware layer; `None` if the layers form none.
    pub hardware: Option<String>,
    /// Names of the layers.
    pub layers: Vec<String>,
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Identifier of the rule.
    pub rule: String,
    /// How bad it is here.
    pub severity: Severity,
    /// Name of the layer; empty for the model as a whole.
    pub layer: String,
    /// What is wrong, in a sentence.
    pub message: String,
    /// What was found.
    pub found: String,
    /// What is allowed.
    pub limit: String,
    /// What to change.
    pub fix: String,
    /// `doc`: on a page; `src`: in public source; `inf`: inferred.
    pub basis: String,
    /// Where the rule is documented.
    pub source: String,
}

/// A rule that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Identifier of the rule.
    pub rule: String,
    /// Name of the layer; empty for the model as a whole.
    pub layer: String,
}

/// Something that is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotChecked {
    /// Identifier of the rule, or of what no rule tells.
    pub rule: String,
    /// Name of the layer; empty for the model as a whole.
    pub layer: String,
    /// What it is about.
    pub subject: String,
    /// Why it is not known.
    pub why: String,
}

/// What a condition says at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It does not apply.
    Elsewhere,
    Kept,
    Broken(Severity),
    /// These facts are not known.
    Unknown(BTreeSet<String>),
}

/// Checks a model for a target.
///
/// Rules of conversion are applied first, then those of the integers that conversion writes, then
/// those of the device. Layers that form no block are said to be none; rules of blocks are not
/// checked for them.
///
/// # Errors
///
/// Rules whose conditions do not fit the facts, or a model that cannot be right.
pub fn check(
    model: &QuantizedModel,
    rules: &RuleSet,
    target: Target,
    ranges: Ranges,
) -> Result<HardwareReport, HardwareError> {
    let places = places(model, rules, target)?;
    let blocks = places.blocks.iter().map(|place| BlockReport {
        name: place.name.clone(),
        hardware: place.hardware.clone(),
        layers: place.layers.clone(),
    });
    let mut report = HardwareReport {
        target,
        blocks: blocks.collect(),
        findings: Vec::new(),
        passed: Vec::new(),
        not_checked: Vec::new(),
    };
    for rule in rules.rules.iter().filter(|rule| rule.concerns(target)) {
        apply(rule, &places, ranges, &mut report)?;
    }
    let unformed = places
        .blocks
        .iter()
        .filter(|place| place.hardware.is_none());
    report.not_checked.extend(unformed.map(|place| NotChecked {
        rule: "CV-BLOCK".to_owned(),
        layer: place.name.clone(),
        subject: "The limits of a hardware layer.".to_owned(),
        why: "It is not a hardware block.".to_owned(),
    }));
    for note in &rules.notes {
        let applies = match &note.when {
            None => true,
            Some(when) => {
                let holds = when.holds(&places.model.facts, &mut BTreeSet::new());
                holds.map_err(|e| HardwareError::Rules(format!("{}: {e}", note.id)))? != Some(false)
            }
        };
        if applies && note.targets.iter().any(|named| target.is_meant_by(named)) {
            report.not_checked.push(NotChecked {
                rule: note.id.clone(),
                layer: String::new(),
                subject: note.text.clone(),
                why: "No public source tells.".to_owned(),
            });
        }
    }
    Ok(report)
}

fn apply(
    rule: &Rule,
    places: &Places,
    ranges: Ranges,
    report: &mut HardwareReport,
) -> Result<(), HardwareError> {
    let not_checked = |layer: &str, why: String| NotChecked {
        rule: rule.id.clone(),
        layer: layer.to_owned(),
        subject: rule.message.clone(),
        why,
    };
    let condition = match &rule.check {
        Check::Not(why) => {
            report.not_checked.push(not_checked("", why.clone()));
            return Ok(());
        }
        Check::Condition(condition) => condition,
    };
    if condition.calibrated && ranges == Ranges::Unknown {
        let why = "It follows from calibrated ranges, and there are none.";
        report.not_checked.push(not_checked("", why.to_owned()));
        return Ok(());
    }
    for place in concerned(condition, places) {
        let outcome = judge(condition, &place.facts);
        match outcome.map_err(|e| HardwareError::Rules(format!("{}: {e}", rule.id)))? {
            Outcome::Elsewhere => {}
            Outcome::Kept => report.passed.push(Passed {
                rule: rule.id.clone(),
                layer: place.name.clone(),
            }),
            Outcome::Broken(severity) => {
                report
                    .findings
                    .push(finding(rule, condition, place, severity));
            }
            Outcome::Unknown(names) => {
                let names: Vec<String> = names.into_iter().collect();
                let why = format!("Not known: {}.", names.join(", "));
                let mut entry = not_checked(&place.name, why);
                entry.subject = fill(&rule.message, &place.facts, &condition.found);
                report.not_checked.push(entry);
            }
        }
    }
    Ok(())
}

/// Returns the places that a condition looks at.
fn concerned<'a>(condition: &'a Condition, places: &'a Places) -> impl Iterator<Item = &'a Place> {
    let all = match condition.scope {
        Scope::Model => std::slice::from_ref(&places.model),
        Scope::Layer => &places.layers,
        Scope::Block => &places.blocks,
    };
    all.iter().filter(|place| {
        let is_formed = condition.scope != Scope::Block || place.hardware.is_some();
        // What conversion adds is no block of layers: only rules that name it concern it.
        let is_added = ["input_data", "dequantizer"].contains(&place.kind.as_str());
        let is_kind = match condition.layers.as_slice() {
            [] => !is_added,
            kinds => kinds.contains(&place.kind),
        };
        is_kind && (is_formed || condition.candidates)
    })
}

pub(super) fn judge(condition: &Condition, facts: &Facts) -> Result<Outcome, String> {
    let mut unknown = BTreeSet::new();
    if let Some(when) = &condition.when {
        match when.holds(facts, &mut unknown)? {
            Some(true) => {}
            Some(false) => return Ok(Outcome::Elsewhere),
            None => return Ok(Outcome::Unknown(unknown)),
        }
    }
    match condition.holds.holds(facts, &mut unknown)? {
        Some(true) => return Ok(Outcome::Kept),
        Some(false) => {}
        None => return Ok(Outcome::Unknown(unknown)),
    }
    let Some(warns) = &condition.warns else {
        return Ok(Outcome::Broken(condition.severity));
    };
    Ok(match warns.holds(facts, &mut unknown)? {
        Some(true) => Outcome::Broken(Severity::Warning),
        Some(false) => Outcome::Broken(condition.severity),
        None => Outcome::Unknown(unknown),
    })
}

fn finding(rule: &Rule, condition: &Condition, place: &Place, severity: Severity) -> Finding {
    let facts = &place.facts;
    Finding {
        rule: rule.id.clone(),
        severity,
        layer: place.name.clone(),
        message: fill(&rule.message, facts, &condition.found),
        found: fill(&condition.found, facts, ""),
        limit: fill(&condition.limit, facts, ""),
        fix: condition.fix.clone(),
        basis: condition.basis.clone(),
        source: rule.source.clone(),
    }
}

/// Returns a text with the facts that it names in braces; `{v}` stands for what was found.
fn fill(template: &str, facts: &Facts, found: &str) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, after)) = after.split_once('}') else {
            break;
        };
        text.push_str(before);
        match facts.get(name) {
            _ if name == "v" => text.push_str(&fill(found, facts, "")),
            Some(value) => text.push_str(&value.to_string()),
            None => text.push('?'),
        }
        rest = after;
    }
    text.push_str(rest);
    text
}
