//! What was found, for people.

use bitproof::QuantizedModel;
use bitproof::akida_sim::hardware::{
    Check, Finding, HardwareReport, NotChecked, Rule, Severity, Target,
};
use comfy_table::{Table, presets};

use super::{Checked, Events, FloatFacts};

/// What no verdict says.
const NOT_SAID: &str =
    "Whether the model fits the memory, and what the mapper decides, was not checked.";

/// Prints everything that was found.
pub(super) fn print(checked: &Checked, model: &QuantizedModel) {
    if let Some(float) = &checked.float {
        print_float(float);
    }
    if let [_, _, ..] = checked.reports.as_slice() {
        print_matrix(&checked.reports, model);
    }
    print_findings(&checked.reports);
    print_not_checked(&checked.reports);
    print_sizes(checked);
    crate::outln!();
    for report in &checked.reports {
        crate::outln!("{}", verdict(report, &checked.path.display().to_string()));
    }
    crate::outln!("{NOT_SAID}");
}

fn verdict(report: &HardwareReport, model: &str) -> String {
    let count = |severity, word: &str| match report.count(severity) {
        0 => None,
        1 => Some(format!("1 {word}")),
        n => Some(format!("{n} {word}s")),
    };
    let counts = [(Severity::Error, "error"), (Severity::Warning, "warning")];
    let counts = counts
        .into_iter()
        .filter_map(|(severity, word)| count(severity, word));
    let counts = counts.collect::<Vec<_>>().join(", ");
    let counts = if counts.is_empty() {
        counts
    } else {
        format!(" ({counts})")
    };
    format!(
        "{}: {model}: {}{counts}",
        report.target,
        report.verdict().to_uppercase()
    )
}

fn print_float(float: &FloatFacts) {
    if float.left.is_empty() {
        crate::outln!("No layer would stay in float.");
    } else {
        crate::outln!("Layers that would stay in float:");
    }
    for layer in &float.left {
        crate::outln!("  {} ({}): {}", layer.name, layer.class_name, layer.reason);
        if let Some(advice) = &layer.advice {
            crate::outln!("    fix: {advice}");
        }
    }
    let events = [
        ("that apply", &float.applied),
        ("that would help, but are refused", &float.refused),
    ];
    for (which, events) in events {
        if !events.is_empty() {
            crate::outln!("Rewrites {which}:");
        }
        for event in events {
            crate::outln!("  {} at {}: {}", event.rewrite, event.layer, event.message);
        }
    }
    for warning in &float.warnings {
        crate::outln!("Warning: {warning}");
    }
    crate::outln!();
}

/// Prints the layers that break a rule somewhere, target by target.
fn print_matrix(reports: &[HardwareReport], model: &QuantizedModel) {
    let mut table = table();
    let names = reports.iter().map(|report| report.target.name().to_owned());
    table.set_header(std::iter::once("layer".to_owned()).chain(names));
    let layers = std::iter::once("").chain(model.nodes.iter().map(|node| node.name.as_str()));
    for layer in layers {
        let worst = |report: &HardwareReport| {
            let own = report
                .findings
                .iter()
                .filter(|finding| finding.layer == layer);
            own.map(|finding| finding.severity)
                .max()
                .filter(|s| *s > Severity::Info)
        };
        if reports.iter().all(|report| worst(report).is_none()) {
            continue;
        }
        let name = if layer.is_empty() { "(model)" } else { layer };
        let cells = reports.iter().map(|report| match worst(report) {
            Some(Severity::Error) => "ERROR".to_owned(),
            Some(Severity::Warning) => "warning".to_owned(),
            Some(Severity::Info) | None => "ok".to_owned(),
        });
        table.add_row(std::iter::once(name.to_owned()).chain(cells));
    }
    let fits = reports.iter().map(|report| {
        let text = if report.fits() { "FITS" } else { "NO" };
        text.to_owned()
    });
    table.add_row(std::iter::once("(all)".to_owned()).chain(fits));
    crate::outln!("{table}\n");
}

/// Prints each finding once, with the targets that have it.
fn print_findings(reports: &[HardwareReport]) {
    let mut distinct: Vec<(&Finding, Vec<Target>)> = Vec::new();
    for report in reports {
        for finding in &report.findings {
            match distinct.iter_mut().find(|(known, _)| *known == finding) {
                Some((_, targets)) => targets.push(report.target),
                None => distinct.push((finding, vec![report.target])),
            }
        }
    }
    // The worst first; those of one severity stay in the order of the rules.
    distinct.sort_by_key(|(finding, _)| std::cmp::Reverse(finding.severity));
    for (finding, targets) in &distinct {
        let place = if finding.layer.is_empty() {
            "model"
        } else {
            &finding.layer
        };
        crate::outln!("{} {} at {place}", finding.severity.name(), finding.rule);
        crate::outln!("  {}", finding.message);
        if !finding.limit.is_empty() {
            crate::outln!("  found: {}; allowed: {}", finding.found, finding.limit);
        }
        if !finding.fix.is_empty() {
            crate::outln!("  fix: {}", finding.fix);
        }
        crate::outln!("  source: {} ({})", finding.source, finding.basis);
        if reports.len() > 1 {
            let names: Vec<&str> = targets.iter().map(|target| target.name()).collect();
            crate::outln!("  targets: {}", names.join(", "));
        }
    }
    if !distinct.is_empty() {
        crate::outln!();
    }
}

/// Prints what is not known, rules with the same reason together.
fn print_not_checked(reports: &[HardwareReport]) {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    let entries = reports.iter().flat_map(|report| &report.not_checked);
    for entry in entries {
        let (label, reason) = labelled(entry);
        match groups.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, labels)) if labels.contains(&label) => {}
            Some((_, labels)) => labels.push(label),
            None => groups.push((reason, vec![label])),
        }
    }
    crate::outln!("Not checked:");
    for (reason, labels) in groups {
        crate::outln!("  {}: {reason}", labels.join(", "));
    }
    crate::outln!();
}

/// Returns what an entry is called, and what it is about.
fn labelled(entry: &NotChecked) -> (String, String) {
    if entry.rule.starts_with("NC-") {
        return (entry.rule.clone(), entry.subject.clone());
    }
    let label = match entry.layer.as_str() {
        "" => entry.rule.clone(),
        layer => format!("{} at {layer}", entry.rule),
    };
    (label, entry.why.clone())
}

fn print_sizes(checked: &Checked) {
    let mut table = table();
    let mut header = vec!["layer", "weight bytes", "activations", "MACs"];
    if checked.events.is_some() {
        header.extend(["events", "of activations"]);
    }
    table.set_header(header);
    for (i, layer) in checked.sizes.iter().enumerate() {
        let activations = layer.activations.map_or("?".to_owned(), |n| n.to_string());
        let mut row = vec![
            layer.name.clone(),
            layer.weight_bytes.to_string(),
            activations,
            layer.macs.to_string(),
        ];
        if let Some(events) = &checked.events {
            row.extend(events.cells(i, layer.activations));
        }
        table.add_row(row);
    }
    let bytes: u64 = checked.sizes.iter().map(|layer| layer.weight_bytes).sum();
    let macs: u64 = checked.sizes.iter().map(|layer| layer.macs).sum();
    table.add_row([
        "(all)".to_owned(),
        bytes.to_string(),
        String::new(),
        macs.to_string(),
    ]);
    crate::outln!("{table}");
    if let Some(events) = &checked.events {
        crate::outln!("events: mean of {} samples", events.n_samples);
    }
}

impl Events {
    /// Returns the mean of a layer.
    #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
    pub(super) fn per_item(&self, layer: usize) -> Option<f64> {
        let total = self.totals.get(layer).copied().flatten()?;
        Some(total as f64 / self.n_samples.max(1) as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    fn cells(&self, layer: usize, activations: Option<u64>) -> [String; 2] {
        let Some(events) = self.per_item(layer) else {
            return ["-".to_owned(), "-".to_owned()];
        };
        let share = activations
            .filter(|n| *n > 0)
            .map(|n| 100.0 * events / n as f64);
        [
            format!("{events:.1}"),
            share.map_or("-".to_owned(), |share| format!("{share:.1} %")),
        ]
    }
}

/// Returns what a rule demands, in a sentence.
pub(super) fn description(rule: &Rule) -> String {
    match &rule.check {
        Check::Condition(condition) if !condition.limit.is_empty() => {
            format!("Allowed: {}.", condition.limit)
        }
        Check::Condition(_) | Check::Not(_) => rule.message.clone(),
    }
}

/// Returns what to do about a broken rule.
pub(super) fn help(rule: &Rule) -> String {
    match &rule.check {
        Check::Condition(condition) => format!("{} Source: {}.", condition.fix, rule.source)
            .trim()
            .to_owned(),
        Check::Not(why) => format!("Not checked: {why} Source: {}.", rule.source),
    }
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}
