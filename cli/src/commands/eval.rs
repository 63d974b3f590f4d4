//! `bitproof eval`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bitproof::{AnyModel, Executor, Graph, QuantizedModel, load, load_float};
use serde_json::json;

use crate::args::{EvalArgs, Format};
use crate::{inputs, progress};

/// What an evaluation counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scores {
    pub(super) n_items: usize,
    pub(super) quantized_right: usize,
    pub(super) float_right: usize,
    /// Items that both models classify alike.
    pub(super) alike: usize,
}

/// Measures the accuracy of a model.
pub(super) fn run(args: &EvalArgs) -> Result<()> {
    let float = args.float.as_deref().map(load_float).transpose()?;
    let (quantized, float) = match load(&args.model.path())? {
        AnyModel::Quantized(model) => (Some(*model), float),
        AnyModel::Float(graph) => (None, Some(float.unwrap_or(graph))),
    };
    let data = Data::open(args)?;
    let scores = evaluate(quantized.as_ref(), float.as_ref(), &data)?;
    report(
        args.format.format,
        &scores,
        (quantized.is_some(), float.is_some()),
    );
    Ok(())
}

/// Labelled data.
pub(super) struct Data {
    images: PathBuf,
    images_key: Option<&'static str>,
    labels: Vec<i64>,
}

impl Data {
    fn open(args: &EvalArgs) -> Result<Self> {
        if let Some(path) = &args.data {
            return Self::from_npz(path);
        }
        let (Some(images), Some(labels)) = (&args.images, &args.labels) else {
            bail!("give --data, or --images and --labels");
        };
        Ok(Self {
            images: images.clone(),
            images_key: None,
            labels: inputs::labels(labels, None)?,
        })
    }

    /// Returns the arrays `x_test` and `y_test` of a `.npz`.
    pub(super) fn from_npz(path: &Path) -> Result<Self> {
        let labels = inputs::labels(path, Some("y_test"))?;
        Ok(Self {
            images: path.to_owned(),
            images_key: Some("x_test"),
            labels,
        })
    }
}

/// Classifies every image with both models.
pub(super) fn evaluate(
    quantized: Option<&QuantizedModel>,
    float: Option<&Graph>,
    data: &Data,
) -> Result<Scores> {
    let executor = quantized.map(Executor::new);
    let mut reader = inputs::open(&data.images, data.images_key)?;
    let total = reader.shape().first().copied().unwrap_or(0);
    if total != data.labels.len() {
        bail!("{total} images, but {} labels", data.labels.len());
    }
    let bar = progress::bar(total, "images");
    let mut scores = Scores::default();
    inputs::each_batch(&mut reader, |batch| {
        let integer = match &executor {
            Some(executor) => Some(inputs::classes(&inputs::predict(executor, batch)?)),
            None => None,
        };
        let real = match float {
            Some(graph) => Some(inputs::classes(&graph.predict(batch)?)),
            None => None,
        };
        let n = batch.shape().first().copied().unwrap_or(0);
        let labels = data
            .labels
            .get(scores.n_items..scores.n_items + n)
            .context("labels")?;
        scores.quantized_right += equal(integer.as_deref(), Some(labels));
        scores.float_right += equal(real.as_deref(), Some(labels));
        scores.alike += equal(integer.as_deref(), real.as_deref());
        scores.n_items += n;
        progress::set(&bar, scores.n_items);
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok(scores)
}

fn equal(a: Option<&[i64]>, b: Option<&[i64]>) -> usize {
    a.zip(b)
        .map_or(0, |(a, b)| a.iter().zip(b).filter(|(a, b)| a == b).count())
}

/// Returns `part` as a share of `whole`.
#[expect(clippy::cast_precision_loss, reason = "a share for people")]
pub(super) fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn report(format: Format, scores: &Scores, (has_quantized, has_float): (bool, bool)) {
    let n = scores.n_items;
    let accuracy = share(scores.quantized_right, n);
    let float_accuracy = share(scores.float_right, n);
    let disagreement = share(n - scores.alike, n);
    if format == Format::Json {
        let mut result = json!({ "items": n });
        if has_quantized {
            result["accuracy"] = accuracy.into();
        }
        if has_float {
            result["float_accuracy"] = float_accuracy.into();
        }
        if has_quantized && has_float {
            result["disagreement"] = disagreement.into();
        }
        println!("{result:#}");
        return;
    }
    let line = |name: &str, share: f64, count: usize| {
        println!("{name:<19} {:6.2} %  ({count} of {n})", 100.0 * share);
    };
    if has_float {
        line("float accuracy", float_accuracy, scores.float_right);
    }
    if has_quantized {
        line("quantized accuracy", accuracy, scores.quantized_right);
    }
    if has_quantized && has_float {
        line("disagreement", disagreement, n - scores.alike);
    }
}
