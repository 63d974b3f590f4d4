//! The page: its head, its sections, its foot.

use bitproof::akida_sim::QuantizedOp;
use bitproof::akida_sim::prove::{LayerProof, StageProof, Verdict};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::chart::{Gauge, bits_of, gauge, largest};
use crate::layer::{card, span};
use crate::log::LoggedRewrite;
use crate::network::{drawing, is_wide};
use crate::standing::{Standing, standings};
use crate::text::{bytes, count_of, grouped, percent, shown, shown_text};
use crate::{Facts, QuantizeLog, Report, checks, confusion};

const STYLE: &str = include_str!("style.css");

/// Nothing may be loaded and no script may run, whatever a name in a model contains.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

/// Returns the page as HTML.
///
/// The same report gives the same bytes.
#[must_use]
pub fn page(report: &Report<'_>) -> String {
    let standings = standings(report.model, report.proof);
    let verdicts: Vec<Standing> = standings.iter().map(|(standing, _)| *standing).collect();
    let title = shown(&report.facts.title);
    let sections = sections(report);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="color-scheme" content="light dark";
                meta name="generator" content=(tool());
                link rel="icon" href="data:,";
                title { (title) " – bitproof report" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a class="skip" href="#layers" { "Skip to the layers" }
                header {
                    p class="note" { "bitproof report" }
                    h1 { (title) }
                    (banner(report))
                    (figures(report, &verdicts))
                    nav aria-label="Sections" { ul { @for (id, name) in &sections { li { a href={ "#" (id) } { (name) } } } } }
                }
                main {
                    div class=(if is_wide(report.model) { "columns wide" } else { "columns" }) {
                        section class="map" aria-labelledby="network" {
                            h2 id="network" { "Network" }
                            (legend(&verdicts))
                            div class="scroll" { (drawing(report.model, &verdicts)) }
                        }
                        section aria-labelledby="layers" {
                            h2 id="layers" { "Layers" }
                            p class="note" { (hint(report)) }
                            @for (i, (standing, proof)) in standings.iter().enumerate() { (card(report, i, *standing, *proof)) }
                        }
                    }
                    (ranges(report, &standings))
                    @if !report.checks.is_empty() { (checks::section(report.checks)) }
                    @if let Some(accuracy) = report.accuracy { (confusion::section(accuracy)) }
                    @if let Some(log) = report.log { (log_section(log)) }
                    (provenance(report))
                }
            }
        }
    };
    page.into_string()
}

fn tool() -> &'static str {
    concat!("bitproof ", env!("CARGO_PKG_VERSION"))
}

/// Returns the sections that the page has.
fn sections(report: &Report<'_>) -> Vec<(&'static str, &'static str)> {
    let mut sections = vec![
        ("network", "Network"),
        ("layers", "Layers"),
        ("ranges", "Ranges"),
    ];
    if !report.checks.is_empty() {
        sections.push(("checks", "Checks"));
    }
    if report.accuracy.is_some() {
        sections.push(("accuracy", "Accuracy"));
    }
    if report.log.is_some() {
        sections.push(("decisions", "Decisions"));
    }
    sections.push(("provenance", "Provenance"));
    sections
}

fn banner(report: &Report<'_>) -> Markup {
    let count = |is: fn(&Verdict) -> bool| {
        report
            .proof
            .stages()
            .filter(|(_, s)| is(&s.verdict))
            .count()
    };
    let proved = count(|v| matches!(v, Verdict::Proved { .. }));
    let refuted = count(|v| matches!(v, Verdict::Refuted(_)));
    let possible = count(|v| matches!(v, Verdict::Possible { .. }));
    let (standing, words) = if report.proof.is_proved() {
        (
            Standing::Proved(None),
            "Proved: no input can overflow a buffer",
        )
    } else if report.proof.is_refuted() {
        (Standing::Refuted, "Refuted: an input overflows a buffer")
    } else {
        (
            Standing::Possible,
            "Not proved: ranges allow an overflow, but no input was found that makes one",
        )
    };
    html! {
        div class={ "banner " (standing.class()) } {
            b { (standing.sign()) " " (words) }
            p { "Of the intermediates with a buffer " (proved) " are proved, " (refuted) " refuted, " (possible) " possible." }
            @if refuted > 0 {
                p { (first_refuted(report)) }
            }
        }
    }
}

fn first_refuted(report: &Report<'_>) -> Markup {
    let first = report
        .proof
        .stages()
        .find(|(_, stage)| matches!(stage.verdict, Verdict::Refuted(_)));
    html! { @if let Some((layer, stage)) = first {
        "First at " a href={ "#layer-" (layer.node) } { (shown(&layer.name)) } ", " (stage.bounds.stage.name())
        ". " code { "bitproof prove MODEL --witness DIR" } " writes the input, " code { "bitproof run" } " replays it."
    } }
}

fn figures(report: &Report<'_>, verdicts: &[Standing]) -> Markup {
    let integer = report
        .model
        .nodes
        .iter()
        .filter(|node| matches!(node.op, QuantizedOp::Integer(_)))
        .count();
    let float = verdicts.iter().filter(|s| **s == Standing::Float).count();
    let spare = verdicts.iter().filter_map(|s| match s {
        Standing::Proved(spare) => *spare,
        Standing::Possible | Standing::Refuted | Standing::Float | Standing::Border => None,
    });
    let overflows = report
        .measured
        .map(|m| m.layers.iter().map(|l| l.counters.overflows()).sum::<u64>());
    html! {
        dl class="figures" {
            div { dt { "layers in integers" } dd { (integer) } }
            @if float > 0 { div { dt { "layers in float" } dd { (float) } } }
            div { dt { "weights" } dd { (bytes(report.model.weight_bits().div_ceil(8))) } }
            @if let Some(spare) = spare.min() { div { dt { "fewest spare bits" } dd { (spare) } } }
            @if let (Some(n), Some(measured)) = (overflows, report.measured) {
                div { dt { "overflows in " (count_of(measured.n_items, "sample", "samples")) } dd { (n) } }
            }
            @if let Some(accuracy) = report.accuracy {
                div { dt { "accuracy" } dd { (percent(accuracy.quantized_right, accuracy.n_items)) } }
                @if let Some(right) = accuracy.float_right {
                    div { dt { "float accuracy" } dd { (percent(right, accuracy.n_items)) } }
                }
            }
        }
    }
}

/// Returns the colours that occur.
fn legend(verdicts: &[Standing]) -> Markup {
    let all = [
        (Standing::Proved(None), "proved"),
        (Standing::Possible, "overflow possible"),
        (Standing::Refuted, "refuted"),
        (Standing::Float, "in float"),
        (Standing::Border, "entry or exit"),
    ];
    let occurs = |standing: Standing| verdicts.iter().any(|v| v.class() == standing.class());
    html! {
        ul class="legend" aria-label="Colours" {
            @for (standing, words) in all.into_iter().filter(|(standing, _)| occurs(*standing)) {
                li { span class={ "badge " (standing.class()) } { (standing.sign()) " " (words) } }
            }
        }
    }
}

/// Returns what else could be given.
fn hint(report: &Report<'_>) -> String {
    let mut missing = Vec::new();
    if report.measured.is_none() {
        missing.push("--samples adds what was observed");
    }
    if report.float.is_none() {
        missing.push("--float adds the float model's weights and outputs");
    }
    if report.log.is_none() {
        missing.push("--log adds where each value of the configuration comes from");
    }
    let heights =
        "Heights in histograms are square roots of counts; grey lines are the integer grid.";
    if missing.is_empty() {
        return heights.to_owned();
    }
    format!("{heights} Not given: {}.", missing.join("; "))
}

/// Returns for each layer the intermediate with the fewest spare bits.
fn ranges(report: &Report<'_>, standings: &[(Standing, Option<&LayerProof>)]) -> Markup {
    let tightest = |layer: &&LayerProof| {
        let stages = layer
            .stages
            .iter()
            .filter(|s| !matches!(s.verdict, Verdict::ByDesign) && !s.bounds.stage.is_held());
        stages
            .min_by_key(|s| i64::from(s.bounds.value_bits.bits()) - i64::from(needed(s)))
            .cloned()
    };
    let rows: Vec<(&LayerProof, Standing, StageProof)> = standings
        .iter()
        .filter_map(|(standing, layer)| layer.map(|layer| (layer, *standing)))
        .filter_map(|(layer, standing)| tightest(&layer).map(|stage| (layer, standing, stage)))
        .collect();
    let ends = rows
        .iter()
        .map(|(_, _, s)| needed(s).max(u32::from(s.bounds.value_bits.bits())));
    let end = ends.max().unwrap_or(0) + 1;
    html! {
        section aria-labelledby="ranges" {
            h2 id="ranges" { "Ranges against buffers" }
            p class="note" {
                "For each layer the intermediate with the fewest spare bits. Bar: what all inputs together can reach; "
                @if report.measured.is_some() { "line inside: what samples reached; " }
                "mark: what the buffer holds. The axis counts bits."
            }
            ul class="gauges" {
                @for (layer, standing, stage) in &rows { (range_row(report, layer, *standing, stage, end)) }
            }
        }
    }
}

/// Returns the value bits that the bounds of an intermediate need.
fn needed(stage: &StageProof) -> u32 {
    span(&stage.bounds.channels).value_bits()
}

fn range_row(
    report: &Report<'_>,
    layer: &LayerProof,
    standing: Standing,
    stage: &StageProof,
    end: u32,
) -> Markup {
    let range = span(&stage.bounds.channels);
    let counters = report
        .measured
        .and_then(|m| m.layers.get(layer.node))
        .map(|m| &m.counters);
    let observed = counters.map(|c| c.get(stage.bounds.stage).unwrap_or_default().max_abs);
    let bar = Gauge {
        bound: needed(stage),
        observed: observed.map(bits_of),
        limit: u32::from(stage.bounds.value_bits.bits()),
        end,
    };
    html! {
        li {
            div class="head" {
                span { a href={ "#layer-" (layer.node) } { (shown(&layer.name)) } " " span class="note" { (stage.bounds.stage.name()) } }
                span class={ "badge " (standing.class()) } { (standing.sign()) " " (standing.words()) }
            }
            (gauge(bar))
            p class="note" {
                "bound " (grouped(range.lo)) " to " (grouped(range.hi))
                @if let Some(observed) = observed { ", observed ±\u{a0}" (largest(observed)) }
                ", limit " (grouped(stage.bounds.value_bits.int_min())) " to " (grouped(stage.bounds.value_bits.int_max()))
            }
        }
    }
}

fn log_section(log: &QuantizeLog) -> Markup {
    let list = |title: &str, rewrites: &[LoggedRewrite]| {
        html! {
            @if !rewrites.is_empty() {
                details {
                    summary { b { (title) } span class="note" { (rewrites.len()) } }
                    div class="inside" { ul { @for event in rewrites {
                        li { b { (shown(&event.rewrite)) } " at " (shown(&event.layer)) ": " (shown_text(&event.message)) }
                    } } }
                }
            }
        }
    };
    html! {
        section aria-labelledby="decisions" {
            h2 id="decisions" { "Decisions of the quantization" }
            @if log.warnings.is_empty() { p { "No warnings." } } @else {
                h3 { "Warnings" }
                ul { @for warning in &log.warnings { li { (shown_text(warning)) } } }
            }
            (list("Rewrites applied", &log.rewrites_applied))
            (list("Rewrites refused", &log.rewrites_refused))
        }
    }
}

fn provenance(report: &Report<'_>) -> Markup {
    let Facts { command, files, .. } = report.facts;
    let made = &report.model.provenance;
    let digest = |name: &str, digest: &Option<String>| {
        html! { @if let Some(digest) = digest { dt { (name) } dd { code { (shown(digest)) } } } }
    };
    html! {
        section aria-labelledby="provenance" {
            h2 id="provenance" { "Provenance" }
            h3 { "This page" }
            dl class="facts" {
                dt { "made by" } dd { (tool()) }
                @for file in files {
                    dt { (shown(&file.role)) }
                    dd { (shown_text(&file.path)) br; code { "SHA-256 " (shown(&file.sha256)) } }
                }
            }
            @if !command.is_empty() { p { "Command:" } pre { code { (shown_text(command)) } } }
            h3 { "The model" }
            dl class="facts" {
                @if !made.tool.is_empty() { dt { "quantized by" } dd { (shown(&made.tool)) } }
                (digest("float model", &made.model_digest))
                (digest("samples", &made.samples_digest))
                (digest("q_config", &made.config_digest))
                @if let Some(seed) = made.seed { dt { "seed" } dd { (seed) } }
            }
            @if made.tool.is_empty() { p class="note" { "The model's file does not say how it was made." } }
        }
    }
}
