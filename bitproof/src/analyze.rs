//! Where a quantized model loses accuracy: layer by layer, and what would help.

mod layers;
mod metrics;
mod tries;

pub use layers::{Analysis, LayerDeviation, ModelDeviation};
pub use metrics::{ChannelUse, Deviation, Place, Usage};
pub use tries::{Edit, OutputError, Requantizer, ranked_by_deviation};
