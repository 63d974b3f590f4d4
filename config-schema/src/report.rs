//! All mistakes of a configuration, each with its JSON path.

use std::fmt;

/// One mistake, or something worth knowing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigIssue {
    /// JSON path such as `$.relu.output_quantizer.bitwidth`.
    pub path: String,
    /// What is wrong, with the value.
    pub message: String,
    /// Nearest known names, best first.
    pub suggestions: Vec<String>,
}

/// Every mistake of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigReport {
    /// Mistakes; never empty in an error.
    pub errors: Vec<ConfigIssue>,
    /// What was forced, ignored or left in float.
    pub warnings: Vec<ConfigIssue>,
}

impl ConfigIssue {
    /// Returns an issue at `path` without suggestions.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
            suggestions: Vec::new(),
        }
    }

    /// Returns the issue of a name that is none of `known`, with the nearest ones.
    pub(crate) fn unknown<'a>(
        path: String,
        message: String,
        name: &str,
        known: impl Iterator<Item = &'a str>,
    ) -> Self {
        Self {
            path,
            message,
            suggestions: nearest(name, known),
        }
    }
}

/// Returns up to three of `known` that resemble `name`, nearest first.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    const ENOUGH: f64 = 0.5;
    let mut scored: Vec<(f64, &str)> = known
        .map(|candidate| {
            (
                strsim::normalized_damerau_levenshtein(name, candidate),
                candidate,
            )
        })
        .filter(|(score, _)| *score >= ENOUGH)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored
        .into_iter()
        .take(3)
        .map(|(_, candidate)| candidate.to_owned())
        .collect()
}

impl fmt::Display for ConfigIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)?;
        if self.suggestions.is_empty() {
            return Ok(());
        }
        let quoted: Vec<String> = self.suggestions.iter().map(|s| format!("`{s}`")).collect();
        write!(f, "; did you mean {}?", quoted.join(" or "))
    }
}

impl fmt::Display for ConfigReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.errors.len();
        write!(
            f,
            "{n} mistake{} in the configuration:",
            if n == 1 { "" } else { "s" }
        )?;
        for error in &self.errors {
            write!(f, "\n  {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigReport {}
