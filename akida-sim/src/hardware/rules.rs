//! The rules as they stand in `rules.json`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::HardwareError;
use super::expr::Expr;
use super::target::{Generation, Target};

/// The rules that this crate holds.
const EMBEDDED: &str = include_str!("rules.json");

/// How bad a broken rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth to know.
    Info,
    /// Accepted, but documents disagree, or results may differ.
    Warning,
    /// Rejected by the target.
    Error,
}

impl Severity {
    /// Returns the name, such as `error`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The model as a whole.
    Model,
    /// Each layer.
    Layer,
    /// Each block of layers.
    Block,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Identifier, such as `A2-IN-DIMS`.
    pub id: String,
    /// What it says when it is broken, or, if it is not checked, what it demands.
    pub message: String,
    /// Where it is documented.
    pub source: String,
    /// How it is checked.
    pub check: Check,
    /// Names of targets and groups of targets.
    pub(super) targets: Vec<String>,
}

impl Rule {
    /// Returns whether the rule concerns a target.
    #[must_use]
    pub fn concerns(&self, target: Target) -> bool {
        self.targets.iter().any(|named| target.is_meant_by(named))
    }
}

/// How a rule is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// It is not, and why.
    Not(String),
    /// By a condition.
    Condition(Box<Condition>),
}

/// The condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What it looks at.
    pub scope: Scope,
    /// Kinds of blocks that it concerns; all if empty.
    pub layers: Vec<String>,
    /// Whether it also concerns layers that form no block.
    pub candidates: bool,
    /// Whether it needs calibrated ranges.
    pub calibrated: bool,
    /// Where it applies.
    pub when: Option<Expr>,
    /// What holds where the rule is kept.
    pub holds: Expr,
    /// Where a broken rule is only a warning.
    pub warns: Option<Expr>,
    /// How bad a broken rule is.
    pub severity: Severity,
    /// `doc`: on a page; `src`: in public source; `inf`: inferred.
    pub basis: String,
    /// What was found, with facts in braces.
    pub found: String,
    /// What is allowed, with facts in braces.
    pub limit: String,
    /// What to change.
    pub fix: String,
}

/// Sequences of layers that form one kind of block.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pattern {
    pub(super) kind: String,
    pub(super) v1: Option<Sequences>,
    pub(super) v2: Option<Sequences>,
}

/// The sequences of one generation.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sequences {
    /// Name of the hardware layer.
    pub(super) name: String,
    pub(super) sequences: Vec<String>,
}

impl Pattern {
    pub(super) fn of(&self, generation: Generation) -> Option<&Sequences> {
        match generation {
            Generation::V1 => self.v1.as_ref(),
            Generation::V2 => self.v2.as_ref(),
        }
    }
}

/// Something that no public source tells.
#[derive(Clone, Debug)]
pub(super) struct Note {
    pub(super) id: String,
    pub(super) targets: Vec<String>,
    pub(super) when: Option<Expr>,
    pub(super) text: String,
}

/// What to do about a layer that stays in float.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advice {
    /// Classes of layers that it concerns.
    pub classes: Vec<String>,
    /// What to change.
    pub text: String,
}

/// All rules.
#[derive(Clone, Debug)]
pub struct RuleSet {
    /// The rules, in the order in which they are evaluated.
    pub rules: Vec<Rule>,
    /// What to do about layers that stay in float.
    pub advice: Vec<Advice>,
    pub(super) patterns: Vec<Pattern>,
    pub(super) notes: Vec<Note>,
}

impl RuleSet {
    /// Returns the rules that this crate holds.
    ///
    /// # Errors
    ///
    /// The file is no list of rules; it is tested, so this does not happen.
    pub fn embedded() -> Result<Self, HardwareError> {
        Self::parse(EMBEDDED)
    }

    /// Returns the rules of a JSON text.
    ///
    /// # Errors
    ///
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, HardwareError> {
        let wrong = |message: String| HardwareError::Rules(message);
        let file: File = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
        let rules = file.rules.into_iter().map(Entry::into_rule);
        let rules: Vec<Rule> = rules.collect::<Result<_, _>>().map_err(wrong)?;
        let notes = file.notes.into_iter().map(NoteEntry::into_note);
        Ok(Self {
            rules,
            advice: file.advice,
            patterns: file.patterns,
            notes: notes.collect::<Result<_, _>>().map_err(wrong)?,
        })
    }

    /// Returns the rule called `id`.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.id == id)
    }

    /// Returns what to do about a layer of this class that stays in float.
    #[must_use]
    pub fn advice_for(&self, class: &str) -> Option<&str> {
        let concerns = |advice: &&Advice| advice.classes.iter().any(|c| c == class);
        Some(self.advice.iter().find(concerns)?.text.as_str())
    }

    /// Returns the kinds and names of blocks that a sequence of layers forms.
    pub(super) fn blocks_of(&self, generation: Generation, sequence: &str) -> BTreeMap<&str, &str> {
        let patterns = self.patterns.iter().filter_map(|pattern| {
            let sequences = pattern.of(generation)?;
            let is_one = sequences.sequences.iter().any(|s| s == sequence);
            is_one.then_some((pattern.kind.as_str(), sequences.name.as_str()))
        });
        patterns.collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    patterns: Vec<Pattern>,
    rules: Vec<Entry>,
    notes: Vec<NoteEntry>,
    advice: Vec<Advice>,
}

/// A rule as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    targets: Vec<String>,
    message: String,
    source: String,
    not_checked: Option<String>,
    scope: Option<Scope>,
    #[serde(default)]
    layers: Vec<String>,
    #[serde(default)]
    candidates: bool,
    #[serde(default)]
    calibrated: bool,
    when: Option<String>,
    holds: Option<String>,
    warns: Option<String>,
    severity: Option<Severity>,
    basis: Option<String>,
    found: Option<String>,
    limit: Option<String>,
    fix: Option<String>,
}

impl Entry {
    fn into_rule(self) -> Result<Rule, String> {
        let id = self.id.clone();
        let wrong = |message: String| format!("{id}: {message}");
        let lacks = |what: &str| wrong(format!("`{what}` is missing"));
        let parse = |text: &str| Expr::parse(text).map_err(wrong);
        let check = match self.not_checked {
            Some(why) => Check::Not(why),
            None => Check::Condition(Box::new(Condition {
                scope: self.scope.ok_or_else(|| lacks("scope"))?,
                layers: self.layers,
                candidates: self.candidates,
                calibrated: self.calibrated,
                when: self.when.as_deref().map(parse).transpose()?,
                holds: parse(&self.holds.ok_or_else(|| lacks("holds"))?)?,
                warns: self.warns.as_deref().map(parse).transpose()?,
                severity: self.severity.ok_or_else(|| lacks("severity"))?,
                basis: self.basis.ok_or_else(|| lacks("basis"))?,
                found: self.found.ok_or_else(|| lacks("found"))?,
                limit: self.limit.ok_or_else(|| lacks("limit"))?,
                fix: self.fix.ok_or_else(|| lacks("fix"))?,
            })),
        };
        Ok(Rule {
            id: self.id,
            message: self.message,
            source: self.source,
            check,
            targets: self.targets,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoteEntry {
    id: String,
    targets: Vec<String>,
    when: Option<String>,
    text: String,
}

impl NoteEntry {
    fn into_note(self) -> Result<Note, String> {
        Ok(Note {
            when: self.when.as_deref().map(Expr::parse).transpose()?,
            id: self.id,
            targets: self.targets,
            text: self.text,
        })
    }
}
