//! How tensors enter a layer: channels aligned, types converted.

use quantizer_core::layers::EntryStage;
use quantizer_core::round::shift_left;
use quantizer_core::{Counters, PerAxis, StageCount};
use rayon::prelude::*;
use std::borrow::Cow;

use super::tensor::{Int, Storage, Tensor, Values, with_ints, with_storage};
use crate::ModelError;

/// Values handled by one worker at a time.
const CHUNK: usize = 1 << 14;

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
    let n_channels = x.shape.last().copied().unwrap_or(1).max(1);
    if let PerAxis::Axis(shift) = &entry.shift
        && shift.len() != n_channels
        && shift.len() != 1
    {
        let n_shifts = shift.len();
        let message = format!("takes {n_shifts} channels, its input has {n_channels}");
        return Err(ModelError::invalid(name, message));
    }
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
        let values = x
            .par_iter()
            .with_min_len(CHUNK)
            .map(|v| T::narrow(v.wide()))
            .collect();
        return (T::values(values), StageCount::default());
    }
    let mut out = vec![T::narrow(0); x.len()];
    let chunk = CHUNK.div_ceil(n_channels) * n_channels;
    let counts: Vec<StageCount> = out
        .par_chunks_mut(chunk)
        .zip(x.par_chunks(chunk))
        .map(|(out, x)| {
            let mut count = StageCount::default();
            for (out, x) in out.chunks_mut(n_channels).zip(x.chunks(n_channels)) {
                for (channel, (out, x)) in out.iter_mut().zip(x).enumerate() {
                    let wide = shift_left(x.wide(), entry.shift.at(channel));
                    *out = T::narrow(count.saturate(wide, entry.value_bits));
                }
            }
            count
        })
        .collect();
    let total = counts
        .into_iter()
        .fold(StageCount::default(), |mut total, count| {
            total.merge(count);
            total
        });
    (T::values(out), total)
}
