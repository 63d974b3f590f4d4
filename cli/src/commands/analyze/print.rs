//! What an analysis prints.

use bitproof::analyze::{Deviation, LayerDeviation, ModelDeviation, Usage};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use super::{Tried, Tries};

/// What an edit has to gain to be proposed: less is nothing that anyone would see.
const ENOUGH_DB: f64 = 0.1;

/// Layers that lose channels are named up to this number; the JSON has all.
const MAX_NAMED: usize = 8;

/// A layer with the edits that were tried on it.
struct Ranked<'t> {
    layer: &'t str,
    /// The edits, the one that helps most first, each with the decibels that it gains.
    edits: Vec<(&'t Tried, Option<f64>)>,
}

/// Returns the layers whose edits were tried, that which costs most first: the one whose best edit
/// takes most noise from the outputs.
fn ranking(tries: &Tries) -> Vec<Ranked<'_>> {
    let mut ranking: Vec<Ranked<'_>> = Vec::new();
    for tried in &tries.tried {
        let entry = (tried, gain(tries, tried));
        match ranking.iter_mut().find(|r| r.layer == tried.edit.layer) {
            Some(ranked) => ranked.edits.push(entry),
            None => ranking.push(Ranked {
                layer: &tried.edit.layer,
                edits: vec![entry],
            }),
        }
    }
    let of = |gain: &Option<f64>| gain.unwrap_or(f64::NEG_INFINITY);
    for ranked in &mut ranking {
        ranked.edits.sort_by(|a, b| of(&b.1).total_cmp(&of(&a.1)));
    }
    let best = |ranked: &Ranked<'_>| ranked.edits.first().map_or(f64::NEG_INFINITY, |e| of(&e.1));
    ranking.sort_by(|a, b| best(b).total_cmp(&best(a)));
    ranking
}

/// Returns by how many decibels an edit raises the ratio of signal and noise of the outputs.
fn gain(tries: &Tries, tried: &Tried) -> Option<f64> {
    let (deviation, _) = tried.result.as_ref().ok()?;
    Some(deviation.sqnr_db()? - tries.baseline.0.sqnr_db()?)
}

pub(super) fn text(found: &ModelDeviation, tries: Result<&Tries, &String>) {
    crate::outln!("{}\n", layers_table(&found.layers));
    crate::outln!(
        "outputs: SQNR {}, SMAPE {}, cosine {} on {} samples",
        decibels(found.output.sqnr_db()),
        percent(found.output.smape()),
        cosine(found.output.cosine()),
        found.n_items
    );
    let killed = found.layers.iter().filter_map(|layer| {
        let killed = layer.usage.as_ref()?.killed();
        (!killed.is_empty()).then(|| format!("{} of `{}`", killed.len(), layer.name))
    });
    let killed: Vec<String> = killed.collect();
    if !killed.is_empty() {
        let more = killed.len().saturating_sub(MAX_NAMED);
        let rest = match more {
            0 => String::new(),
            more => format!(", and in {more} more layers"),
        };
        let named: Vec<String> = killed.into_iter().take(MAX_NAMED).collect();
        crate::outln!(
            "channels that only quantization makes zero: {}{rest}",
            named.join(", ")
        );
    }
    let overflowing = found.layers.iter().filter(|layer| layer.n_overflows > 0);
    for layer in overflowing {
        crate::outln!(
            "`{}` overflows a buffer {} times: see `bitproof prove`, more bits only make that worse",
            layer.name,
            layer.n_overflows
        );
    }
    match tries {
        Ok(tries) => tries_text(tries),
        Err(error) => crate::outln!("\nno edit was tried: {error}"),
    }
}

fn tries_text(tries: &Tries) {
    crate::outln!(
        "\nMore bits, tried on {} samples ({} of {} edits; without one the outputs have {}{}):\n",
        tries.n_samples,
        tries.tried.len(),
        tries.n_edits,
        decibels(tries.baseline.0.sqnr_db()),
        accuracy(tries.baseline.1)
    );
    if !tries.is_same {
        crate::outln!(
            "note: quantized again from these samples, the model has other integers than MODEL; \
             edits are compared with the one quantized again\n"
        );
    }
    let ranking = ranking(tries);
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["", "layer", "edit", "outputs", "gain"]);
    for (i, ranked) in ranking.iter().enumerate() {
        for (place, (tried, gain)) in ranked.edits.iter().enumerate() {
            let edit = &tried.edit;
            let outputs = match &tried.result {
                Ok((deviation, share)) => {
                    format!("{}{}", decibels(deviation.sqnr_db()), accuracy(*share))
                }
                Err(error) => format!("refused: {error}"),
            };
            table.add_row([
                if place == 0 {
                    format!("{}.", i + 1)
                } else {
                    String::new()
                },
                ranked.layer.to_owned(),
                format!("{} {} -> {} bits", edit.quantizer, edit.from, edit.to),
                outputs,
                gain.map_or_else(|| "-".to_owned(), |gain| format!("{gain:+.2} dB")),
            ]);
        }
    }
    crate::outln!("{table}");
    let best = ranking.first().and_then(|ranked| ranked.edits.first());
    let helps = |(_, gain): &&(&Tried, Option<f64>)| gain.is_some_and(|gain| gain >= ENOUGH_DB);
    match best.filter(helps) {
        Some((tried, _)) => crate::outln!(
            "\n`{}` costs most. For its q_config (`quantize -c`):\n{:#}",
            tried.edit.layer,
            tried.edit.fragment()
        ),
        None => crate::outln!("\nNo edit raises the outputs' SQNR by {ENOUGH_DB} dB."),
    }
}

fn layers_table(layers: &[LayerDeviation]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "layer",
        "SQNR alone",
        "within",
        "SMAPE alone",
        "within",
        "cosine",
        "saturated",
        "range used",
        "dead",
    ]);
    for layer in layers {
        let alone = layer.alone.as_ref();
        let usage = layer.usage.as_ref();
        table.add_row([
            layer.name.clone(),
            decibels(alone.and_then(Deviation::sqnr_db)),
            decibels(layer.cumulative.sqnr_db()),
            percent(alone.and_then(Deviation::smape)),
            percent(layer.cumulative.smape()),
            cosine(layer.cumulative.cosine()),
            percent(usage.map(Usage::saturation)),
            percent(usage.and_then(Usage::range_use)),
            usage.map_or_else(
                || "-".to_owned(),
                |usage| format!("{} of {}", usage.dead().len(), usage.channels.len()),
            ),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn decibels(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1} dB"))
}

fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.2} %", 100.0 * value))
}

fn cosine(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.5}"))
}

fn accuracy(value: Option<f64>) -> String {
    value.map_or_else(String::new, |share| {
        format!(", accuracy {:.2} %", 100.0 * share)
    })
}

pub(super) fn json(found: &ModelDeviation, tries: Result<&Tries, &String>) -> Value {
    let mut result = json!({
        "samples": found.n_items,
        "output": deviation(&found.output),
        "layers": found.layers.iter().map(layer).collect::<Vec<Value>>(),
    });
    match tries {
        Ok(tries) => result["tries"] = tries_json(tries),
        Err(error) => result["not_tried"] = json!(error),
    }
    result
}

fn deviation(deviation: &Deviation) -> Value {
    json!({
        "smape": deviation.smape(),
        "sqnr_db": deviation.sqnr_db(),
        "cosine": deviation.cosine(),
        "mean_squared": deviation.mean_squared(),
        "elements": deviation.n_pairs(),
    })
}

fn layer(layer: &LayerDeviation) -> Value {
    let usage = layer.usage.as_ref().map(|usage| {
        json!({
            "value_bits": usage.value_bits,
            "saturation": usage.saturation(),
            "range_use": usage.range_use(),
            "channels": usage.channels.len(),
            "dead_channels": usage.dead(),
            "killed_channels": usage.killed(),
        })
    });
    json!({
        "name": layer.name,
        "class_name": layer.class_name,
        "alone": layer.alone.as_ref().map(deviation),
        "cumulative": deviation(&layer.cumulative),
        "usage": usage,
        "overflows": layer.n_overflows,
    })
}

fn tries_json(tries: &Tries) -> Value {
    let ranking = ranking(tries);
    let ranking: Vec<Value> = ranking
        .iter()
        .map(|ranked| {
            let edits: Vec<Value> = ranked.edits.iter().map(edit).collect();
            json!({ "layer": ranked.layer, "edits": edits })
        })
        .collect();
    json!({
        "samples": tries.n_samples,
        "edits": tries.n_edits,
        "tried": tries.tried.len(),
        "is_same_model": tries.is_same,
        "output": deviation(&tries.baseline.0),
        "accuracy": tries.baseline.1,
        "ranking": ranking,
    })
}

fn edit((tried, gain): &(&Tried, Option<f64>)) -> Value {
    let edit = &tried.edit;
    let mut value = json!({
        "quantizer": edit.quantizer,
        "from": edit.from,
        "to": edit.to,
        "q_config": edit.fragment(),
    });
    match &tried.result {
        Ok((outputs, share)) => {
            value["output"] = deviation(outputs);
            value["gain_db"] = json!(gain);
            value["accuracy"] = json!(share);
        }
        Err(error) => value["refused"] = json!(error),
    }
    value
}
