//! Inputs and labels from files.

use std::path::Path;

use anyhow::{Context, Result, bail};
use bitproof::model_files::{ArrayReader, read_integers};
use bitproof::{Executor, QuantizedModel, Tensor};
use ndarray::ArrayD;

/// Items that run at once: enough for two cores, little memory.
pub(crate) const BATCH_SIZE: usize = 32;

/// Opens an array of inputs.
pub(crate) fn open(path: &Path, key: Option<&str>) -> Result<ArrayReader> {
    Ok(ArrayReader::open(path, key, &["inputs", "x_test", "x"])?)
}

/// Returns integer labels, one an item.
pub(crate) fn labels(path: &Path, key: Option<&str>) -> Result<Vec<i64>> {
    let labels = read_integers(path, key)?;
    let n_labels = labels.len();
    let items = labels.shape().first().copied().unwrap_or(0);
    if items != n_labels {
        bail!(
            "{}: labels of shape {:?}, expected one an item",
            path.display(),
            labels.shape()
        );
    }
    Ok(labels.into_iter().collect())
}

/// Runs `f` on each batch of the reader.
pub(crate) fn each_batch(
    reader: &mut ArrayReader,
    mut f: impl FnMut(&ArrayD<f32>) -> Result<()>,
) -> Result<()> {
    loop {
        let batch = reader.next_batch(BATCH_SIZE)?;
        if batch.shape().first().copied().unwrap_or(0) == 0 {
            return Ok(());
        }
        f(&batch)?;
    }
}

/// Returns the first output of a run, as floats.
pub(crate) fn predict(executor: &Executor<'_>, batch: &ArrayD<f32>) -> Result<ArrayD<f32>> {
    let run = executor.run(batch, &mut |_, _| ())?;
    first_output(&run.outputs)
}

/// Returns the first output as floats.
pub(crate) fn first_output(outputs: &[Tensor]) -> Result<ArrayD<f32>> {
    Ok(outputs.first().context("the model has no output")?.floats())
}

/// Returns the index of the largest score of each item; the first one wins a tie.
pub(crate) fn classes(scores: &ArrayD<f32>) -> Vec<i64> {
    let argmax = |item: ndarray::ArrayViewD<'_, f32>| {
        let mut best = (0, f32::NEG_INFINITY);
        for (i, score) in item.iter().enumerate() {
            if *score > best.1 {
                best = (i, *score);
            }
        }
        i64::try_from(best.0).unwrap_or(-1)
    };
    scores.outer_iter().map(argmax).collect()
}

/// Returns how many layers of `model` overflow a buffer at least once in `counters`.
pub(crate) fn overflow_lines(
    model: &QuantizedModel,
    counters: &[bitproof::quantizer_core::Counters],
) -> Vec<String> {
    let mut lines = Vec::new();
    for (node, counters) in model.nodes.iter().zip(counters) {
        for (stage, count) in counters
            .iter()
            .filter(|(s, c)| !s.clips_by_design() && c.saturated > 0)
        {
            lines.push(format!(
                "{}: {stage}: {} of {} values overflow (largest {})",
                node.name, count.saturated, count.elements, count.max_abs
            ));
        }
    }
    lines
}
