//! Inputs and labels from files.

use std::path::Path;

use anyhow::{Context, Result, bail};
use bitproof::akida_sim::QuantizedOp;
use bitproof::calibration::SampleSource;
use bitproof::float_model::Shape;
use bitproof::model_files::read_integers;
use bitproof::{Executor, Graph, QuantizedModel, SampleRole, Samples, Tensor};
use ndarray::ArrayD;

/// Items that run at once: enough for two cores, little memory.
pub(crate) const BATCH_SIZE: usize = 32;

/// Opens samples as inputs of a model whose input has these extents.
pub(crate) fn open(samples: Samples, input: &Shape) -> Result<Box<dyn SampleSource>> {
    Ok(samples.open(input, SampleRole::Inputs)?)
}

/// Returns the extents of the input of a quantized model.
pub(crate) fn quantized_input(model: &QuantizedModel) -> Result<Shape> {
    let input = model
        .nodes
        .iter()
        .find(|node| matches!(node.op, QuantizedOp::Input(_)));
    Ok(input.context("the model has no input")?.shape.clone())
}

/// Returns the extents of the input of a float model.
pub(crate) fn float_input(graph: &Graph) -> Result<Shape> {
    let id = graph.inputs().next().context("the model has no input")?;
    Ok(graph.node(id).shape.clone())
}

/// Returns whether a layer of a float model remembers earlier steps.
pub(crate) fn is_temporal(graph: &Graph) -> bool {
    graph.nodes().iter().any(|node| node.layer.is_temporal())
}

/// Says on stderr that a temporal model forgets from input to input, and `when`.
pub(crate) fn warn_of_memory(is_temporal: bool, when: &str) {
    if is_temporal {
        crate::errln!(
            "warning: the model remembers earlier steps; {when} each input starts from empty buffers"
        );
    }
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

/// Runs `f` on each batch of the source.
pub(crate) fn each_batch(
    source: &mut dyn SampleSource,
    mut f: impl FnMut(&ArrayD<f32>, &dyn SampleSource) -> Result<()>,
) -> Result<()> {
    loop {
        let batch = source.next_batch(BATCH_SIZE)?;
        if batch.shape().first().copied().unwrap_or(0) == 0 {
            return Ok(());
        }
        f(&batch, source)?;
    }
}

/// Returns the first output of a run, as floats.
pub(crate) fn predict(executor: &Executor<'_>, batch: &ArrayD<f32>) -> Result<ArrayD<f32>> {
    let run = executor.outputs(batch)?;
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
