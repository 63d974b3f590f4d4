//! What checks of the model found, such as the rules of a target.

use bitproof::findings::{Findings, Level, Outcome, Rule, Status};
use maud::{Markup, html};

use crate::standing::Standing;
use crate::text::{count_of, shown, shown_text};

/// Returns the section: a card for each check.
pub(crate) fn section(checks: &[Findings]) -> Markup {
    html! {
        section aria-labelledby="checks" {
            h2 id="checks" { "Checks" }
            @for findings in checks { (card(findings)) }
        }
    }
}

fn card(findings: &Findings) -> Markup {
    let count = |is: fn(Status) -> bool| findings.outcomes.iter().filter(|o| is(o.status)).count();
    let n_failed = count(|s| s == Status::Failed(Level::Error));
    let n_open = count(|s| s == Status::NotChecked);
    let n_warned = count(|s| s == Status::Failed(Level::Warning));
    let standing = match (n_failed, n_warned) {
        (0, 0) => Standing::Proved(None),
        (0, _) => Standing::Possible,
        _ => Standing::Refuted,
    };
    let words = match (n_failed, n_warned) {
        (0, 0) => "passed".to_owned(),
        (0, n) => count_of(n, "warning", "warnings"),
        (n, _) => count_of(n, "failure", "failures"),
    };
    let told = |o: &&Outcome| o.status != Status::Passed;
    html! {
        details open[n_failed > 0] {
            summary {
                span class="what" { b { (shown(&findings.command)) } " " span class="note" { (count_of(findings.outcomes.len(), "check", "checks")) } }
                span class={ "badge " (standing.class()) } { (standing.sign()) " " (words) }
            }
            div class="inside" {
                @if n_failed + n_warned + n_open == 0 { p { "Every rule is kept." } }
                ul { @for outcome in findings.outcomes.iter().filter(told) {
                    li { (line(outcome, findings.rules.iter().find(|rule| rule.id == outcome.rule))) }
                } }
            }
        }
    }
}

fn line(outcome: &Outcome, rule: Option<&Rule>) -> Markup {
    let (standing, words) = match outcome.status {
        Status::Passed => (Standing::Proved(None), "passed"),
        Status::Failed(Level::Error) => (Standing::Refuted, "failed"),
        Status::Failed(Level::Warning) => (Standing::Possible, "warning"),
        Status::Failed(Level::Note) => (Standing::Float, "note"),
        Status::NotChecked => (Standing::Float, "not checked"),
    };
    html! {
        span class={ "badge " (standing.class()) } { (standing.sign()) " " (words) } " "
        @if !outcome.layer.is_empty() { b { (shown(&outcome.layer)) } " " }
        (shown(&outcome.subject)) " " code { (shown(&outcome.rule)) } ": " (shown_text(&outcome.message))
        @if let Some(rule) = rule { p class="note" { (shown_text(&rule.help)) } }
    }
}
