//! Accuracy and confusion.

use maud::{Markup, html};

use crate::accuracy::Accuracy;
use crate::text::percent;

/// Classes of a confusion matrix that is shown whole, at most.
const MAX_MATRIX: usize = 20;
/// Confusions that are listed otherwise.
const MAX_LISTED: usize = 20;

/// Returns the section.
pub(crate) fn section(accuracy: &Accuracy) -> Markup {
    let n = accuracy.n_items;
    html! {
        section aria-labelledby="accuracy" {
            h2 id="accuracy" { "Accuracy" }
            dl class="facts" {
                dt { "items" } dd { (n) }
                dt { "quantized" } dd { (percent(accuracy.quantized_right, n)) " (" (accuracy.quantized_right) ")" }
                @if let Some(right) = accuracy.float_right { dt { "float" } dd { (percent(right, n)) " (" (right) ")" } }
                @if let Some(alike) = accuracy.alike { dt { "both alike" } dd { (percent(alike, n)) " (" (alike) ")" } }
            }
            h3 { "Confusion of the quantized model" }
            @if accuracy.classes().len() <= MAX_MATRIX { (matrix(accuracy)) } @else { (confusions(accuracy)) }
        }
    }
}

fn matrix(accuracy: &Accuracy) -> Markup {
    let classes = accuracy.classes();
    let cell = |label: i64, class: i64| {
        let n = accuracy
            .confusion
            .get(&(label, class))
            .copied()
            .unwrap_or(0);
        let kind = match (n, label == class) {
            (0, _) => "zero",
            (_, true) => "hit",
            (_, false) => "miss",
        };
        html! { td class=(kind) { (n) } }
    };
    html! {
        div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix" {
            table class="confusion" {
                caption { "Rows: labels. Columns: classes found." }
                thead { tr { td {} @for class in &classes { th scope="col" { (class) } } } }
                tbody { @for label in &classes { tr {
                    th scope="row" { (label) }
                    @for class in &classes { (cell(*label, *class)) }
                } } }
            }
        }
    }
}

/// Returns the most frequent confusions.
fn confusions(accuracy: &Accuracy) -> Markup {
    let wrong = accuracy
        .confusion
        .iter()
        .filter(|((label, class), _)| label != class);
    let mut wrong: Vec<_> = wrong.collect();
    wrong.sort_by_key(|(pair, n)| (std::cmp::Reverse(**n), **pair));
    html! {
        p class="note" { "The " (wrong.len().min(MAX_LISTED)) " most frequent of " (wrong.len()) " confusions." }
        table {
            thead { tr { th scope="col" class="num" { "label" } th scope="col" class="num" { "class found" } th scope="col" class="num" { "items" } } }
            tbody { @for ((label, class), n) in wrong.iter().take(MAX_LISTED) {
                tr { td class="num" { (label) } td class="num" { (class) } td class="num" { (n) } }
            } }
        }
    }
}
