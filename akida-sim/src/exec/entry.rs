//! How tensors enter a layer: channels aligned, types converted.

use kernels::{Activation, Kernels};
use quantizer_core::layers::EntryStage;
use quantizer_core::round::shift_left;
use quantizer_core::{Counters, PerAxis, StageCount};
use std::borrow::Cow;

use super::epilogue::Ends;
use super::tasks::{CHUNK, in_parallel, mapped};
use super::tensor::{Int, Storage, Tensor, Values, with_ints, with_storage};
use crate::ModelError;

/// Returns `x` after the entry stage, in the type `storage` if one is asked for.
pub(super) fn entered_values<'a>(
    name: &str,
    entry: &EntryStage,
    x: &'a Tensor,
    storage: Option<Storage>,
    counters: &mut Counters,
) -> Result<Cow<'a, Tensor>, ModelError> {
    let current = storage_of(name, x)?;
    let target = storage.unwrap_or(current);
    if entry.is_identity() && current == target {
        return Ok(Cow::Borrowed(x));
    }
    let n_channels = checked_channels(name, entry, x)?;
    let (values, count) = with_storage!(target, T => {
        with_ints!(&x.values, v => shifted::<_, T>(v, entry, n_channels), float => {
            return Err(ModelError::invalid(name, "takes integers, not floats"));
        })
    });
    if !entry.is_identity() {
        counters.add(entry.stage, count);
    }
    Ok(Cow::Owned(Tensor {
        shape: x.shape.clone(),
        values,
    }))
}

/// Counts an entry stage that clips nothing and that the layer's weights do instead; `ends` is what the channels of `x`
/// came to, if its layer knows.
pub(super) fn count_entry(
    name: &str,
    entry: &EntryStage,
    (x, ends): (&Tensor, Option<&Ends>),
    counters: &mut Counters,
) -> Result<(), ModelError> {
    let n_channels = checked_channels(name, entry, x)?;
    let max_abs = match ends.filter(|ends| ends.n_channels() == n_channels) {
        Some(ends) => largest_shifted(entry, ends.with_zero()),
        None => {
            with_ints!(&x.values, v => largest_shifted(entry, largest(v, n_channels)), float => {
                return Err(ModelError::invalid(name, "takes integers, not floats"));
            })
        }
    };
    let count = StageCount {
        saturated: 0,
        elements: u64::try_from(x.n_values()).unwrap_or(u64::MAX),
        max_abs,
    };
    counters.add(entry.stage, count);
    Ok(())
}

/// Returns `x` in the type `storage`, which holds its values.
pub(super) fn typed_values<'a>(
    name: &str,
    x: &'a Tensor,
    storage: Storage,
) -> Result<Cow<'a, Tensor>, ModelError> {
    if storage_of(name, x)? == storage {
        return Ok(Cow::Borrowed(x));
    }
    let values = with_storage!(storage, T => with_ints!(&x.values,
    v => T::values(v.iter().map(|v| T::narrow(v.wide())).collect()), float => {
        return Err(ModelError::invalid(name, "takes integers, not floats"));
    }));
    Ok(Cow::Owned(Tensor {
        shape: x.shape.clone(),
        values,
    }))
}

/// Returns the largest magnitude of aligned values between these ends of the channels.
fn largest_shifted(entry: &EntryStage, ends: impl IntoIterator<Item = (i64, i64)>) -> u64 {
    let shifted = ends.into_iter().enumerate().map(|(channel, (lo, hi))| {
        let largest = lo.unsigned_abs().max(hi.unsigned_abs());
        largest << entry.shift.at(channel)
    });
    shifted.max().unwrap_or(0)
}

/// Returns the least and the largest value of each channel, zero among them.
fn largest<X: Int>(x: &[X], n_channels: usize) -> Vec<(i64, i64)> {
    let zero = X::narrow(0);
    let (mut lo, mut hi) = (vec![zero; n_channels], vec![zero; n_channels]);
    Kernels::active().channel_extremes(x, &mut lo, &mut hi);
    lo.iter()
        .zip(&hi)
        .map(|(lo, hi)| (lo.wide(), hi.wide()))
        .collect()
}

fn checked_channels(name: &str, entry: &EntryStage, x: &Tensor) -> Result<usize, ModelError> {
    let n_channels = x.shape.last().copied().unwrap_or(1).max(1);
    if let PerAxis::Axis(shift) = &entry.shift
        && shift.len() != n_channels
        && shift.len() != 1
    {
        let n_shifts = shift.len();
        let message = format!("takes {n_shifts} channels, its input has {n_channels}");
        return Err(ModelError::invalid(name, message));
    }
    Ok(n_channels)
}

/// Returns the type of the integers of `x`.
pub(super) fn storage_of(name: &str, x: &Tensor) -> Result<Storage, ModelError> {
    match &x.values {
        Values::U8(_) => Ok(Storage::U8),
        Values::I8(_) => Ok(Storage::I8),
        Values::I16(_) => Ok(Storage::I16),
        Values::I32(_) => Ok(Storage::I32),
        Values::I64(_) => Ok(Storage::I64),
        Values::F32(_) => Err(ModelError::invalid(name, "takes integers, not floats")),
    }
}

fn shifted<X: Int, T: Int>(x: &[X], entry: &EntryStage, n_channels: usize) -> (Values, StageCount) {
    if entry.is_identity() {
        let values = mapped(x, |_, v| T::narrow(v.wide()));
        return (T::values(values.into()), StageCount::default());
    }
    let mut out = vec![T::narrow(0); x.len()];
    let chunk = CHUNK.div_ceil(n_channels) * n_channels;
    let chunks = out.chunks_mut(chunk).zip(x.chunks(chunk));
    let counts = in_parallel(chunks, &|(out, x): (&mut [T], &[X])| {
        let mut count = StageCount::default();
        for (out, x) in out.chunks_mut(n_channels).zip(x.chunks(n_channels)) {
            for (channel, (out, x)) in out.iter_mut().zip(x).enumerate() {
                let wide = shift_left(x.wide(), entry.shift.at(channel));
                *out = T::narrow(count.saturate(wide, entry.value_bits));
            }
        }
        count
    });
    let total = counts
        .into_iter()
        .fold(StageCount::default(), |mut total, count| {
            total.merge(count);
            total
        });
    (T::values(out.into()), total)
}
