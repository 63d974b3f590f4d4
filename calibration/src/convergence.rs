//! How much the last samples still moved the ranges (NUMERICS.md: C10).

use std::collections::BTreeMap;
use std::fmt;

use quantizer_core::PerAxis;

use crate::InputRange;

/// The range that the last samples moved most.
#[derive(Clone, Debug, PartialEq)]
pub struct Convergence {
    /// The samples that moved it: the last tenth, rounded up to whole batches.
    pub n_samples: usize,
    /// The layer.
    pub layer: String,
    /// The channel, `None` if the layer has one range.
    pub channel: Option<usize>,
    /// Its movement, 0 to 1.
    pub moved: f32,
}

impl fmt::Display for Convergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = 100.0 * self.moved;
        write!(
            f,
            "the last {} samples moved ranges by up to {percent:.2} % (`{}`",
            self.n_samples, self.layer
        )?;
        match self.channel {
            Some(channel) => write!(f, ", channel {channel})"),
            None => f.write_str(")"),
        }
    }
}

/// The ranges after some samples.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) done: usize,
    pub(crate) outputs: BTreeMap<String, PerAxis<f32>>,
    pub(crate) input: Option<(String, InputRange)>,
}

impl Snapshot {
    /// Returns whether at least a tenth of all samples follows, but not after the next batch.
    pub(crate) const fn is_due(done: usize, next: usize, total: usize) -> bool {
        let follow = total.saturating_sub(done);
        let follow_next = follow.saturating_sub(next);
        follow.saturating_mul(10) >= total && follow_next.saturating_mul(10) < total
    }

    /// Returns which range moved most from here to `last`, the first one of equals.
    ///
    /// ```text
    /// moved = fl(fl(max(a, b) - min(a, b)) / max(a, b)), 0 if both are 0
    /// ```
    ///
    /// For an input `a` and `b` are `max - min`. NUMERICS.md: C10.
    pub(crate) fn convergence(&self, last: &Self) -> Option<Convergence> {
        let n_samples = last.done.checked_sub(self.done).filter(|n| *n > 0)?;
        let width = |range: &InputRange| range.max.zip(&range.min, |max, min| max - min);
        let inputs = self.input.iter().zip(&last.input);
        let inputs = inputs.map(|((name, a), (_, b))| (name, width(a), width(b)));
        let outputs = self.outputs.iter().filter_map(|(layer, range)| {
            let after = last.outputs.get(layer)?;
            Some((layer, range.clone(), after.clone()))
        });
        let mut most: Option<Convergence> = None;
        for (layer, before, after) in inputs.chain(outputs) {
            let moved = before.zip(&after, movement);
            for (i, moved) in moved.as_slice().iter().enumerate() {
                if most.as_ref().is_none_or(|most| *moved > most.moved) {
                    most = Some(Convergence {
                        n_samples,
                        layer: layer.clone(),
                        channel: (!before.is_per_tensor()).then_some(i),
                        moved: *moved,
                    });
                }
            }
        }
        most
    }
}

fn movement(a: f32, b: f32) -> f32 {
    let (small, large) = (a.min(b), a.max(b));
    if large > 0.0 {
        (large - small) / large
    } else {
        0.0
    }
}
