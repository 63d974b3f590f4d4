//! What a search for witnesses may spend.

use crate::model::{QuantizedModel, QuantizedNode};

/// What a search may spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchBudget {
    /// Runs of the network for each intermediate that may overflow.
    pub runs: usize,
    /// Seed of the starts.
    pub seed: u64,
}

impl Default for SearchBudget {
    fn default() -> Self {
        let (runs, seed) = (MOST_RUNS, 0);
        Self { runs, seed }
    }
}

impl SearchBudget {
    /// Returns the budget for `model`: fewer runs for larger networks, so that a search takes
    /// seconds, the same number on every machine.
    #[must_use]
    pub fn for_model(model: &QuantizedModel, seed: u64) -> Self {
        let products: u64 = model.nodes.iter().map(QuantizedNode::multiplications).sum();
        let runs = SEARCHED_PRODUCTS.checked_div(products).unwrap_or(u64::MAX);
        let runs = usize::try_from(runs).unwrap_or(MOST_RUNS);
        Self {
            runs: runs.clamp(FEWEST_RUNS, MOST_RUNS),
            seed,
        }
    }
}

/// Products of all runs of one search.
const SEARCHED_PRODUCTS: u64 = 4_000_000_000;
const FEWEST_RUNS: usize = 6;
const MOST_RUNS: usize = 24;
