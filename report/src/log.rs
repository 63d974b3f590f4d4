//! What `quantize --format json` printed: decisions that a model's file does not hold.

use serde::Deserialize;
use serde_json::Value;

/// What quantization decided on the way.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct QuantizeLog {
    /// SHA-256 of the quantized model's file.
    pub output_sha256: String,
    /// Where each value of the configuration comes from.
    pub origins: Vec<LoggedOrigin>,
    /// What was forced, ignored, left in float, or is questionable.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Rewrites that were applied.
    #[serde(default)]
    pub rewrites_applied: Vec<LoggedRewrite>,
    /// Matches that a rewrite had to leave alone.
    #[serde(default)]
    pub rewrites_refused: Vec<LoggedRewrite>,
}

/// One value of the configuration, or a layer that stays in float.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LoggedOrigin {
    /// Name of the layer.
    pub layer: String,
    /// Path of the value below the layer; absent for a layer that stays in float.
    pub path: Option<String>,
    /// The value.
    #[serde(default)]
    pub value: Value,
    /// Where it comes from, or why the layer stays in float.
    pub reason: String,
}

/// One rewrite of the float network.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LoggedRewrite {
    /// Its name.
    pub rewrite: String,
    /// The layer.
    pub layer: String,
    /// What was done, or why not.
    pub message: String,
}

impl QuantizeLog {
    /// Returns the log of a JSON text.
    ///
    /// # Errors
    ///
    /// The text is not what `quantize --format json` prints.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text)
            .map_err(|e| format!("not what `bitproof quantize --format json` prints: {e}"))
    }

    /// Returns where a value of a layer comes from.
    pub(crate) fn reason(&self, layer: &str, path: &str) -> Option<&str> {
        let wanted = |o: &&LoggedOrigin| o.layer == layer && o.path.as_deref() == Some(path);
        self.origins.iter().find(wanted).map(|o| o.reason.as_str())
    }

    /// Returns why a layer stays in float.
    pub(crate) fn float_reason(&self, layer: &str) -> Option<&str> {
        let wanted = |o: &&LoggedOrigin| o.layer == layer && o.path.is_none();
        self.origins.iter().find(wanted).map(|o| o.reason.as_str())
    }
}
