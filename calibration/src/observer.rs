//! The moving maximum (NUMERICS.md: C1).

use quantizer_core::PerAxis;

/// Weight of a new batch: `fl(1.0 - 0.9)`, the subtraction in f64, as in the reference.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the one rounding to float32"
)]
const DELTA: f32 = (1.0_f64 - 0.9) as f32;

/// A moving maximum (or minimum) of batches.
///
/// ```text
/// first batch: r = m
/// then:        r = fl(r - fl(fl(r - m) * fl(1 - 0.9)))
/// ```
///
/// All in f32, not fused. The reference tells the first batch by its state being exactly 1.0, and
/// so forgets a first batch of 1.0; here it is a flag. NUMERICS.md: C1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MovingMax {
    state: Option<PerAxis<f32>>,
}

impl MovingMax {
    /// Takes the extremes `batch` of the next batch, always of the same form.
    pub fn update(&mut self, batch: PerAxis<f32>) {
        self.state = Some(match &self.state {
            None => batch,
            Some(state) => state.zip(&batch, |r, m| r - (r - m) * DELTA),
        });
    }

    /// Returns the current extremes, `None` before the first batch.
    #[must_use]
    pub const fn get(&self) -> Option<&PerAxis<f32>> {
        self.state.as_ref()
    }
}
