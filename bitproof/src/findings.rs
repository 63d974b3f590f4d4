//! What a check found, in the formats of those who run checks: SARIF and JUnit.
//!
//! A command that checks a model (`prove`, and others) says its [`Rule`]s and, for each thing that it
//! looked at, an [`Outcome`]. SARIF has what is wrong; JUnit has everything that was looked at.

use std::fmt::Write;

use serde_json::{Value, json};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Worth to know.
    Note,
    /// Questionable, but the answer is not no because of it.
    Warning,
    /// The answer is no.
    Error,
}

impl Level {
    /// Returns the name that SARIF has for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Stable identifier, such as `buffer-overflow`.
    pub id: String,
    /// What holds for a model that keeps the rule, in a sentence.
    pub description: String,
    /// What to do about a finding.
    pub help: String,
}

/// What was found at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Identifier of the rule.
    pub rule: String,
    /// Name of the layer; empty for the model as a whole.
    pub layer: String,
    /// What of the layer was looked at, such as an intermediate.
    pub subject: String,
    /// What was found.
    pub status: Status,
    /// The finding in a sentence, with its numbers.
    pub message: String,
}

/// Whether a rule is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is.
    Passed,
    /// It is not.
    Failed(Level),
    /// That is not known.
    NotChecked,
}

/// Everything that a command found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// Name of the command, such as `prove`.
    pub command: String,
    /// File of the model, as the user gave it.
    pub model: String,
    /// The rules.
    pub rules: Vec<Rule>,
    /// What was found, in the order of the model's layers.
    pub outcomes: Vec<Outcome>,
}

impl Findings {
    /// Returns a SARIF 2.1.0 log: a result for each rule that is not kept.
    #[must_use]
    pub fn to_sarif(&self) -> Value {
        let rules: Vec<Value> = self.rules.iter().map(sarif_rule).collect();
        let results = self.outcomes.iter().filter_map(|o| self.sarif_result(o));
        let results: Vec<Value> = results.collect();
        json!({
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{
                "tool": { "driver": {
                    "name": "bitproof",
                    "version": env!("CARGO_PKG_VERSION"),
                    "rules": rules,
                } },
                "automationDetails": { "id": format!("bitproof/{}", self.command) },
                "results": results,
            }],
        })
    }

    fn sarif_result(&self, outcome: &Outcome) -> Option<Value> {
        let Status::Failed(level) = outcome.status else {
            return None;
        };
        let Outcome {
            rule,
            layer,
            subject,
            ..
        } = outcome;
        let index = self.rules.iter().position(|r| r.id == *rule)?;
        let place = [layer.as_str(), subject.as_str()].join("/");
        Some(json!({
            "ruleId": rule,
            "ruleIndex": index,
            "level": level.name(),
            "message": { "text": sentence(outcome) },
            "locations": [{
                // Viewers of source code want a line; a model's file has none.
                "physicalLocation": {
                    "artifactLocation": { "uri": uri(&self.model) },
                    "region": { "startLine": 1 },
                },
                "logicalLocations": [{ "name": layer, "fullyQualifiedName": place }],
            }],
            "partialFingerprints": { "bitproof/v1": format!("{}:{rule}:{place}", self.command) },
        }))
    }

    /// Returns a JUnit XML document: a test case for each outcome. A warning or a note does not fail
    /// its case: it is skipped, with the message.
    #[must_use]
    pub fn to_junit(&self) -> String {
        let count = |is: fn(Status) -> bool| self.outcomes.iter().filter(|o| is(o.status)).count();
        let n_failed = count(|s| s == Status::Failed(Level::Error));
        let n_skipped = self.outcomes.len() - n_failed - count(|s| s == Status::Passed);
        let counts = format!(
            "tests=\"{}\" failures=\"{n_failed}\" errors=\"0\" skipped=\"{n_skipped}\"",
            self.outcomes.len()
        );
        let name = xml(&format!("bitproof {} {}", self.command, self.model));
        let mut text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites {counts}>\n  \
             <testsuite name=\"{name}\" {counts}>\n"
        );
        for outcome in &self.outcomes {
            text.push_str(&junit_case(outcome));
        }
        text.push_str("  </testsuite>\n</testsuites>\n");
        text
    }
}

fn sarif_rule(rule: &Rule) -> Value {
    json!({
        "id": rule.id,
        "shortDescription": { "text": rule.description },
        "help": { "text": rule.help },
    })
}

/// Returns the finding with its place.
fn sentence(outcome: &Outcome) -> String {
    let Outcome {
        layer,
        subject,
        message,
        ..
    } = outcome;
    match (layer.is_empty(), subject.is_empty()) {
        (true, true) => message.clone(),
        (false, true) => format!("{layer}: {message}"),
        (true, false) => format!("{subject}: {message}"),
        (false, false) => format!("{layer}: {subject}: {message}"),
    }
}

fn junit_case(outcome: &Outcome) -> String {
    let layer = if outcome.layer.is_empty() {
        "model"
    } else {
        &outcome.layer
    };
    let name = match outcome.subject.as_str() {
        "" => outcome.rule.clone(),
        subject => format!("{}: {subject}", outcome.rule),
    };
    let start = format!(
        "    <testcase classname=\"{}\" name=\"{}\"",
        xml(layer),
        xml(&name)
    );
    let (message, rule) = (xml(&sentence(outcome)), xml(&outcome.rule));
    let mut text = start;
    // Writing to a string cannot fail.
    let written = match outcome.status {
        Status::Passed => writeln!(text, "/>"),
        Status::Failed(Level::Error) => writeln!(
            text,
            "><failure type=\"{rule}\" message=\"{message}\">{message}</failure></testcase>"
        ),
        Status::Failed(Level::Warning | Level::Note) | Status::NotChecked => {
            writeln!(text, "><skipped message=\"{message}\"/></testcase>")
        }
    };
    debug_assert!(written.is_ok(), "a string takes all");
    text
}

/// Returns text as XML 1.0 may hold it, in elements and attributes.
fn xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            // XML has no way to say these.
            '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => {
                escaped.push('\u{fffd}');
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// Returns a path as a URI reference: relative, or of the scheme `file`.
fn uri(path: &str) -> String {
    let mut uri = if path.starts_with('/') {
        "file://".to_owned()
    } else {
        String::new()
    };
    for byte in path.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-._~/".contains(c) {
            uri.push(c);
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Findings {
        let outcome = |subject: &str, status| Outcome {
            rule: "rule".to_owned(),
            layer: "a<b>&\"'\u{1}".to_owned(),
            subject: subject.to_owned(),
            status,
            message: "5 > 4".to_owned(),
        };
        Findings {
            command: "prove".to_owned(),
            model: "a folder/m.h5".to_owned(),
            rules: vec![Rule {
                id: "rule".to_owned(),
                description: "Nothing overflows.".to_owned(),
                help: "Widen the buffer.".to_owned(),
            }],
            outcomes: vec![
                outcome("one", Status::Passed),
                outcome("two", Status::Failed(Level::Error)),
                outcome("three", Status::Failed(Level::Warning)),
                outcome("", Status::NotChecked),
            ],
        }
    }

    #[test]
    fn sarif_has_what_is_wrong() {
        let sarif = findings().to_sarif();
        let results = sarif["runs"][0]["results"].as_array().unwrap();
        let levels: Vec<&Value> = results.iter().map(|r| &r["level"]).collect();
        assert_eq!(levels, ["error", "warning"], "the error and the warning");
        assert_eq!(results[0]["message"]["text"], "a<b>&\"'\u{1}: two: 5 > 4");
        let place = &results[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
        assert_eq!(place, "a%20folder/m.h5", "a URI");
        assert_eq!(uri("/ä"), "file:///%C3%A4", "an absolute path");
    }

    #[test]
    fn junit_has_everything_and_stays_xml() {
        let junit = findings().to_junit();
        let counts = "tests=\"4\" failures=\"1\" errors=\"0\" skipped=\"2\"";
        assert_eq!(junit.matches(counts).count(), 2, "{junit}");
        assert_eq!(junit.matches("<testcase ").count(), 4, "{junit}");
        assert_eq!(junit.matches("<failure ").count(), 1, "{junit}");
        assert!(
            junit
                .contains("classname=\"a&lt;b&gt;&amp;&quot;&apos;\u{fffd}\" name=\"rule: one\"/>"),
            "{junit}"
        );
    }
}
