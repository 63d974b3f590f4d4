//! The sanitize rewrites: each fires, or is refused with its reason, and the function of the
//! network stays the same. The functions are compared by [`naive`], in f64.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "test values are small"
)]

mod activations;
mod batch_norm;
mod cases;
mod hardware;
mod identity;
mod naive;
mod net;
mod pooling;
mod random;
mod rescaling;
mod shapes;
