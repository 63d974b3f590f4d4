//! Two models side by side: where their numbers first differ, and the smallest input that shows it.

mod compare;
mod elements;
mod findings;
mod formats;
mod shrink;
mod sides;

pub use compare::{
    Comparison, Differences, Element, FirstDifference, LayerDifference, Number, Verification,
    Witness,
};
pub use findings::{LAYER_FORMAT, LAYER_MISSING, LAYER_VALUES, findings};
pub use shrink::{Shrunk, shrink};
pub use sides::comparable;

/// What counts as different, and how inputs pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VerifyOptions {
    /// How far real values may be apart, as a share of the largest magnitude that the layer has in
    /// either model for the same input. Integers are compared exactly.
    pub tolerance: f32,
    /// How inputs pass.
    pub order: InputOrder,
}

/// How inputs pass through models that remember earlier steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InputOrder {
    /// Each starts from an empty memory.
    #[default]
    Single,
    /// They are the steps of one sequence.
    Sequence,
}
