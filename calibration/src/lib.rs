//! Observers, sample sources, batching, and what calibration does to ranges and weights.
//!
//! [`calibrate`] runs the float network on samples and observes ranges; [`fold_zero_point`] and
//! [`equalize`] then move what integers cannot hold into weights and biases.

mod batching;
mod convergence;
mod equalize;
mod error;
mod observer;
mod preprocess;
mod run;
mod screen;
mod source;
mod zero_point;

pub use batching::{BatchPlan, reference_batch_size};
pub use convergence::Convergence;
pub use equalize::{Equalized, OutputSite, equalize};
pub use error::CalibrationError;
pub use observer::{MovingMax, Observer, ObserverKind, Percentile};
pub use preprocess::{Preprocess, PreprocessedSource};
pub use run::{
    Granularity, InputRange, Observed, ObservedSite, ObservedSites, Progress, calibrate,
};
pub use screen::FiniteSource;
pub use source::{ArraySource, IntegerRange, RandomSource, SampleSource, Skipped, check_batch};
pub use zero_point::{fold_zero_point, prepare_unsigned_input};
