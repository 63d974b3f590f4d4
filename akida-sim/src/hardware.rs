//! Whether a quantized model converts to Akida layers, and whether they are inside the published
//! limits of a device.
//!
//! The rules are data, `hardware/rules.json`: for each an identifier, what it concerns, a condition
//! over facts (`expr`), and what to say. `blocks` groups layers into hardware blocks, `facts` finds
//! what is known of each. Nothing here says that a model will be mapped: memory and the mapper's
//! decisions are not public, and every report lists what was not checked.

mod blocks;
mod evaluate;
mod expr;
mod facts;
mod rules;
mod size;
mod target;
mod widths;

use std::fmt;

use crate::ModelError;

pub use evaluate::{BlockReport, Finding, HardwareReport, NotChecked, Passed, Ranges, check};
pub use expr::{Expr, Facts, Value};
pub use rules::{Advice, Check, Condition, Rule, RuleSet, Scope, Severity};
pub use size::{LayerSize, events, sizes};
pub use target::{Generation, Target};

/// Returns whether `rule` is kept by the facts of one place: `None` where it does not apply or a fact
/// is unknown, else the severity of what was found, if anything.
///
/// This is what [`check`] does at each place; it is open to those who test rules of their own.
///
/// # Errors
///
/// A condition that does not fit the kinds of the facts.
pub fn judge(
    condition: &Condition,
    facts: &Facts,
) -> Result<Option<Option<Severity>>, HardwareError> {
    let outcome = evaluate::judge(condition, facts).map_err(HardwareError::Rules)?;
    Ok(match outcome {
        evaluate::Outcome::Kept => Some(None),
        evaluate::Outcome::Broken(severity) => Some(Some(severity)),
        evaluate::Outcome::Elsewhere | evaluate::Outcome::Unknown(_) => None,
    })
}

/// Why a model was not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HardwareError {
    /// The rules are no rules: a fault of the file, not of the model.
    Rules(String),
    /// The model cannot be right.
    Model(ModelError),
}

impl From<ModelError> for HardwareError {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}

impl fmt::Display for HardwareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rules(message) => write!(f, "the hardware rules: {message}"),
            Self::Model(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for HardwareError {}
