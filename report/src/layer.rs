//! One layer in detail.

use bitproof::akida_sim::prove::{LayerProof, Range, StageProof, Verdict};
use bitproof::akida_sim::{QuantizedNode, QuantizedOp};
use bitproof::quantizer_core::{Counters, ValueBits};
use maud::{Markup, html};
use serde_json::{Map, Value};

use crate::Report;
use crate::chart::{Limits, histogram};
use crate::picture::picture;
use crate::standing::Standing;
use crate::text::{count_of, grouped, grouped_count, shown, shown_text};
use crate::weights::weights;

/// Returns the card of node `index`.
pub(crate) fn card(
    report: &Report<'_>,
    index: usize,
    standing: Standing,
    proof: Option<&LayerProof>,
) -> Markup {
    let node = &report.model.nodes[index];
    let name = shown(&node.name);
    let measured = report.measured.and_then(|m| m.layers.get(index));
    let is_bad = matches!(standing, Standing::Refuted | Standing::Possible);
    html! {
        details open[is_bad] {
            summary {
                span class="what" { b { (name) } " " span class="note" { (shown(&node.class_name)) } }
                span class={ "badge " (standing.class()) } { (standing.sign()) " " (standing.words()) }
            }
            div class="inside" id={ "layer-" (index) } {
                p class="note" { (facts(node)) }
                @if let Some(reason) = report.log.and_then(|log| log.float_reason(&node.name)) {
                    p { "Stays in float: " (shown_text(reason)) }
                }
                @if let Some(proof) = proof {
                    (stages(&name, proof, measured.map(|m| &m.counters)))
                    (witnesses(proof))
                }
                @let charts = charts(report, index);
                @if !charts.is_empty() {
                    h3 { "Before and after" }
                    div class="charts" { @for chart in &charts { (chart) } }
                }
                @if let Some(config) = &node.config { (config_table(report, &node.name, config)) }
            }
        }
    }
}

fn facts(node: &QuantizedNode) -> String {
    let extents: Vec<String> = node
        .shape
        .iter()
        .map(|n| n.map_or_else(|| "?".to_owned(), |n| n.to_string()))
        .collect();
    let mut text = format!("output {}", extents.join(" × "));
    if let Some(format) = node.format() {
        let bits = u64::from(format.value_bits.bits());
        text.push_str(&format!(", {}", count_of(bits, "value bit", "value bits")));
        text.push_str(if format.is_per_tensor() {
            ", per-tensor"
        } else {
            ", per-axis"
        });
    }
    let products = node.multiplications();
    if products > 0 {
        text.push_str(&format!(", {} products an item", grouped_count(products)));
    }
    if node.weight_bits() > 0 {
        text.push_str(&format!(
            ", {} bytes of weights",
            grouped_count(node.weight_bits().div_ceil(8))
        ));
    }
    text
}

fn stages(name: &str, proof: &LayerProof, counters: Option<&Counters>) -> Markup {
    html! {
        h3 { "Intermediates" }
        div class="scroll" tabindex="0" role="region" aria-label={ "Intermediates of " (name) } {
            table {
                thead { tr {
                    th scope="col" { "intermediate" } th scope="col" { "verdict" }
                    th scope="col" class="num" { "least" } th scope="col" class="num" { "largest" }
                    @if counters.is_some() {
                        th scope="col" class="num" { "observed" } th scope="col" class="num" { "saturated" }
                    }
                    th scope="col" class="num" { "limit" }
                } }
                tbody { @for stage in &proof.stages { (row(stage, counters)) } }
            }
        }
    }
}

/// Returns the inputs that overflow a layer, where they are images.
fn witnesses(proof: &LayerProof) -> Markup {
    let pictures = proof.stages.iter().filter_map(|stage| {
        let Verdict::Refuted(witness) = &stage.verdict else {
            return None;
        };
        let title = format!("An input that overflows {}", stage.bounds.stage);
        Some((picture(&witness.input, &title)?, title))
    });
    html! {
        div class="charts" { @for (picture, title) in pictures {
            figure class="chart" { (picture) figcaption { (title) } }
        } }
    }
}

fn row(stage: &StageProof, counters: Option<&Counters>) -> Markup {
    let bounds = &stage.bounds;
    let range = span(&bounds.channels);
    let seen = counters.map(|counters| counters.get(bounds.stage));
    html! {
        tr {
            th scope="row" { (bounds.stage.name()) }
            td class="break" { (verdict(stage)) }
            td class="num" { (grouped(range.lo)) }
            td class="num" { (grouped(range.hi)) }
            @match seen {
                Some(Some(seen)) => {
                    td class="num" { "±\u{a0}" (grouped_count(seen.max_abs)) }
                    td class="num" { (grouped_count(seen.saturated)) }
                }
                // Nothing saturates where a run does not look.
                Some(None) => { td class="num" { "–" } td class="num" { "–" } }
                None => {}
            }
            td class="num" { "±\u{a0}2" sup { (bounds.value_bits.bits()) } }
        }
    }
}

/// Returns the least range that holds all channels.
pub(crate) fn span(channels: &[Range]) -> Range {
    let all = channels.iter().copied().reduce(Range::union);
    all.unwrap_or(Range::ZERO)
}

fn verdict(stage: &StageProof) -> Markup {
    let badge = |standing: Standing, words: String| {
        html! { span class={ "badge " (standing.class()) } { (standing.sign()) " " (words) } }
    };
    let n_over = stage
        .bounds
        .channels
        .iter()
        .filter(|range| !range.fits(stage.bounds.value_bits));
    let n_over = format!(
        "{} of {} channels",
        n_over.count(),
        stage.bounds.channels.len()
    );
    match &stage.verdict {
        Verdict::Proved { spare_bits } => {
            let standing = Standing::Proved(Some(*spare_bits));
            badge(standing, standing.words())
        }
        Verdict::ByDesign if stage.bounds.fits() => html! { "never clips" },
        Verdict::ByDesign => html! { "clips to its format in " (n_over) ", by design" },
        Verdict::Possible {
            channel,
            layer_input,
        } => {
            let worst = layer_input
                .as_ref()
                .and_then(|input| input.channels.iter().max_by_key(|(_, v)| v.unsigned_abs()));
            html! {
                (badge(Standing::Possible, "possible".to_owned()))
                " in " (n_over) ", most in " (channel)
                @if let Some((channel, value)) = worst {
                    "; an input of the layer takes channel " (channel) " to " (grouped(*value))
                }
            }
        }
        Verdict::Refuted(witness) => {
            let worst = witness
                .channels
                .iter()
                .max_by_key(|(_, v)| v.unsigned_abs());
            html! {
                (badge(Standing::Refuted, "refuted".to_owned()))
                @if let Some((channel, value)) = worst {
                    " by an input that takes channel " (channel) " to " (grouped(*value))
                }
            }
        }
    }
}

/// Returns the drawings of weights and outputs.
fn charts(report: &Report<'_>, index: usize) -> Vec<Markup> {
    let node = &report.model.nodes[index];
    let float = report
        .float
        .and_then(|graph| Some(&graph.node(graph.find(&node.name)?).layer));
    let mut charts = Vec::new();
    for weights in weights(node, float) {
        if let Some(before) = &weights.before {
            charts.push(histogram(
                &format!("{}, float", weights.label),
                before,
                None,
            ));
        }
        let limits = weights.bits.and_then(signed_limits);
        charts.push(histogram(
            &format!("{}, integers", weights.label),
            &weights.after,
            limits,
        ));
    }
    let Some(measured) = report.measured.and_then(|m| m.layers.get(index)) else {
        return charts;
    };
    if let Some(before) = &measured.before {
        charts.push(histogram("outputs, float model", before, None));
    }
    if let Some(after) = &measured.after {
        let limits = node.format().map(|format| limits(format.value_bits, node));
        let title = if limits.is_some() {
            "outputs, integers"
        } else {
            "outputs, float"
        };
        charts.push(histogram(title, after, limits));
    }
    charts
}

/// Returns the integers of a signed quantizer of `bits`.
fn signed_limits(bits: u8) -> Option<Limits> {
    let bits = ValueBits::new(bits.checked_sub(1)?).ok()?;
    Some(Limits {
        lo: bits.int_min(),
        hi: bits.int_max(),
    })
}

/// Returns the integers that a node's outputs can be; an unsigned output quantizer has no negative
/// ones.
fn limits(bits: ValueBits, node: &QuantizedNode) -> Limits {
    let is_signed = match &node.op {
        QuantizedOp::Integer(_) => {
            let quantizer = node.config.as_ref().and_then(|c| c.get("output_quantizer"));
            quantizer
                .and_then(|q| q.get("signed"))
                .and_then(Value::as_bool)
                .unwrap_or(true)
        }
        QuantizedOp::InputQuantizer { spec, .. } => spec.signed,
        QuantizedOp::Input(_) | QuantizedOp::Dequantizer(_) | QuantizedOp::Float(_) => true,
    };
    let lo = if is_signed { bits.int_min() } else { 0 };
    Limits {
        lo,
        hi: bits.int_max(),
    }
}

fn config_table(report: &Report<'_>, layer: &str, config: &Map<String, Value>) -> Markup {
    let mut values = Vec::new();
    flatten("", config, &mut values);
    html! {
        h3 { "Configuration" }
        div class="scroll" tabindex="0" role="region" aria-label={ "Configuration of " (shown(layer)) } {
            table class="config" {
                thead { tr {
                    th scope="col" { "value" } th scope="col" { "is" }
                    @if report.log.is_some() { th scope="col" { "comes from" } }
                } }
                tbody { @for (path, value) in &values {
                    tr {
                        th scope="row" { (shown(path)) }
                        td { code { (shown(&value.to_string())) } }
                        @if let Some(log) = report.log {
                            td class="break" { (log.reason(layer, path).map_or_else(|| "–".to_owned(), shown_text)) }
                        }
                    }
                } }
            }
        }
    }
}

/// Collects the values below an entry with their paths.
fn flatten(prefix: &str, entry: &Map<String, Value>, values: &mut Vec<(String, Value)>) {
    for (key, value) in entry {
        let path = format!("{prefix}{key}");
        match value {
            // A configuration has one level of objects; deeper ones are shown as they are.
            Value::Object(inner) if prefix.is_empty() => {
                flatten(&format!("{path}."), inner, values);
            }
            Value::Object(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => {
                values.push((path, value.clone()));
            }
        }
    }
}
