//! Edits of a q_config.

use serde_json::{Value, json};

use super::Entries;

/// Bits of integer scales where a configuration is silent.
pub(super) const SCALE_BITS: u64 = 8;

/// A changed value of a q_config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Name of the layer.
    pub layer: String,
    /// Keys from the layer's entry to the value, joined by dots.
    pub path: String,
    /// What it was.
    pub from: Value,
    /// What it is to be.
    pub to: Value,
}

/// Edits, and the entries that they make.
pub(super) struct Plan<'a> {
    base: &'a Entries,
    pub(super) fragment: Entries,
    pub(super) edits: Vec<Edit>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(base: &'a Entries) -> Self {
        Self {
            base,
            fragment: Entries::new(),
            edits: Vec::new(),
        }
    }

    /// Returns a value as the plan leaves it.
    pub(super) fn get(&self, layer: &str, path: &[&str]) -> Option<&Value> {
        at(&self.fragment, layer, path).or_else(|| at(self.base, layer, path))
    }

    pub(super) fn set(&mut self, layer: &str, path: &[&str], to: Value) {
        let whole = self.base.get(layer).cloned();
        let entry = self.fragment.entry(layer);
        let mut place = entry.or_insert_with(|| whole.unwrap_or_else(|| json!({})));
        for key in path {
            if !place.is_object() {
                *place = json!({});
            }
            place = &mut place[*key];
        }
        *place = to.clone();
        let path_text = path.join(".");
        let known = self.edits.iter_mut();
        let known = known.filter(|edit| edit.layer == layer && edit.path == path_text);
        if let Some(edit) = known.last() {
            edit.to = to;
            return;
        }
        let silent = match path.last() {
            Some(&"scale_bits") => json!(SCALE_BITS),
            Some(&"signed") => json!(true),
            Some(_) | None => Value::Null,
        };
        self.edits.push(Edit {
            layer: layer.to_owned(),
            path: path_text,
            from: at(self.base, layer, path).cloned().unwrap_or(silent),
            to,
        });
    }
}

/// Returns the value at a path of a layer's entry.
pub(super) fn at<'v>(entries: &'v Entries, layer: &str, path: &[&str]) -> Option<&'v Value> {
    let mut value = entries.get(layer)?;
    for key in path {
        value = value.get(*key)?;
    }
    Some(value)
}

/// Returns the number at a path of a layer's entry.
pub(super) fn number(entries: &Entries, layer: &str, path: &[&str]) -> Option<u64> {
    at(entries, layer, path)?.as_u64()
}
