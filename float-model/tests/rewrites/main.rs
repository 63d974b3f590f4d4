//! The sanitize rewrites: each fires, or is refused with its reason, and the function of the
//! network stays the same. The functions are compared by [`naive`], in f64.

#![expect(
    clippy::cast_precision_loss,
    clippy::integer_division,
    reason = "test values are small"
)]

#[cfg(test)]
mod activations;
#[cfg(test)]
mod batch_norm;
#[cfg(test)]
mod cases;
#[cfg(test)]
mod frames;
#[cfg(test)]
mod hardware;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod naive;
#[cfg(test)]
mod net;
#[cfg(test)]
mod pooling;
#[cfg(test)]
mod random;
#[cfg(test)]
mod rescaling;
#[cfg(test)]
mod shapes;
