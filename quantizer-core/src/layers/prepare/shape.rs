//! Layers that move integers.

use super::{expand, expect_fixed_point, finish, no_shift, pass_through};
use crate::counters::Stage;
use crate::layers::{IntegerLayer, IntegerOp};
use crate::tensor::common_point;
use crate::{NumericsError, PerAxis, QFormat};

/// Returns the integer form of a Flatten of a FixedPoint.
///
/// Channels with different binary points are first shifted left to the largest, within the
/// tensor's own width: they can saturate. NUMERICS.md: N24.
///
/// # Errors
///
/// Inputs with scales, a shift of the whole width.
pub fn flatten(input: &QFormat) -> Result<IntegerLayer, NumericsError> {
    expect_fixed_point(input)?;
    if input.has_common_point() {
        let point = common_point(&input.frac_bits);
        let format = QFormat::fixed(input.value_bits, point);
        return Ok(pass_through(&format, IntegerOp::Flatten));
    }
    let (mut entry, format) = expand(input, input.value_bits)?;
    entry.stage = Stage::FlattenAlign;
    finish(vec![entry], IntegerOp::Flatten, format, None)
}

/// Returns the integer form of a Reshape to items of `target_shape`; one extent may be -1.
///
/// Inputs with a binary point or scale for each channel need [`Channels::Kept`]. NUMERICS.md: N24.
///
/// # Errors
///
/// Per-axis inputs whose channels would move.
pub fn reshape(
    input: &QFormat,
    target_shape: &[isize],
    channels: Channels,
) -> Result<IntegerLayer, NumericsError> {
    expect_kept(input, channels, "Reshape")?;
    let target_shape = target_shape.to_vec();
    Ok(pass_through(input, IntegerOp::Reshape { target_shape }))
}

/// Returns the integer form of a Permute of a FixedPoint; `dims` count items from 1, as in Keras.
///
/// NUMERICS.md: N24.
///
/// # Errors
///
/// Inputs with scales, per-axis inputs whose last axis would move, `dims` that are no permutation.
pub fn permute(input: &QFormat, dims: &[usize]) -> Result<IntegerLayer, NumericsError> {
    expect_fixed_point(input)?;
    let mut sorted = dims.to_vec();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(1..=dims.len()) {
        return Err(NumericsError::Invalid(format!("dims {dims:?}")));
    }
    let channels = if dims.last() == Some(&dims.len()) {
        Channels::Kept
    } else {
        Channels::Moved
    };
    expect_kept(input, channels, "Permute")?;
    let dims = dims.to_vec();
    Ok(pass_through(input, IntegerOp::Permute { dims }))
}

/// Returns the integer form of an ExtractToken: index `token` of `axis`, which disappears.
///
/// `axis` counts the batch axis, so it is at least 1. On the last axis the binary point of the
/// channel is taken too. NUMERICS.md: N24.
///
/// # Errors
///
/// Inputs with scales, or a channel that has no binary point.
pub fn extract_token(
    input: &QFormat,
    token: usize,
    axis: TokenAxis,
) -> Result<IntegerLayer, NumericsError> {
    expect_fixed_point(input)?;
    let (index, frac_bits) = match axis {
        TokenAxis::Leading(index) => (index, input.frac_bits.clone()),
        TokenAxis::Channels(index) if input.has_common_point() => (index, input.frac_bits.clone()),
        TokenAxis::Channels(index) => {
            let points = input.frac_bits.as_slice();
            let point = points.get(token).copied().ok_or_else(|| {
                NumericsError::Invalid(format!("token {token} of {} channels", points.len()))
            })?;
            (index, PerAxis::Tensor(point))
        }
    };
    let format = QFormat::fixed(input.value_bits, frac_bits);
    let entries = vec![no_shift(input.value_bits)];
    let op = IntegerOp::ExtractToken { token, axis: index };
    finish(entries, op, format, None)
}

/// Whether a layer leaves every element in its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// The last axis has the same extent and order before and after.
    Kept,
    /// Elements change channels.
    Moved,
}

/// The axis of an ExtractToken, counted with the batch axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenAxis {
    /// An axis before the last one.
    Leading(usize),
    /// The last axis.
    Channels(usize),
}

fn expect_kept(input: &QFormat, channels: Channels, layer: &str) -> Result<(), NumericsError> {
    let scales = input.scales.as_ref();
    let per_axis = !input.has_common_point() || scales.is_some_and(|s| s.n_values() > 1);
    if per_axis && channels == Channels::Moved {
        return Err(NumericsError::Invalid(format!(
            "a {layer} that moves channels needs a per-tensor input"
        )));
    }
    Ok(())
}
