//! `bitproof eval`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use bitproof::calibration::Skipped;
use bitproof::float_model::Shape;
use bitproof::model_files::labelled_images;
use bitproof::{AnyModel, Executor, Graph, QuantizedModel, Samples, load, load_float};
use serde_json::json;

use crate::Answer;
use crate::args::{EvalArgs, Format, SourceArgs};
use crate::progress::Meter;
use crate::{inputs, samples};

/// Images in a `.npz` of labelled data.
const IMAGES_KEY: &str = "x_test";
/// Labels in a `.npz` of labelled data.
const LABELS_KEY: &str = "y_test";

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
pub(super) fn run(args: &EvalArgs) -> Result<Answer> {
    if let Some(share) = args
        .min_accuracy
        .filter(|share| !(0.0..=1.0).contains(share))
    {
        bail!("--min-accuracy {share}: a share from 0 to 1, such as 0.98");
    }
    let float = args.float.as_deref().map(load_float).transpose()?;
    let (quantized, float) = match load(&args.model.path())? {
        AnyModel::Quantized(model) => (Some(*model), float),
        AnyModel::Float(_) if float.is_some() => {
            bail!("MODEL is a float model: --float is for comparing a quantized one with it")
        }
        AnyModel::Float(graph) => (None, Some(graph)),
    };
    let data = Data::open(args)?;
    let scores = evaluate(
        quantized.as_ref(),
        float.as_ref(),
        &data,
        args.format.format,
    )?;
    let is_met = report(args, &scores, (quantized.is_some(), float.is_some()));
    Ok(if is_met { Answer::Yes } else { Answer::No })
}

/// Labelled data.
pub(super) struct Data {
    pub(super) images: Samples,
    pub(super) labels: Vec<i64>,
}

impl Data {
    fn open(args: &EvalArgs) -> Result<Self> {
        let source = &args.source;
        if let Some(path) = &args.data {
            return Self::at(path, source);
        }
        let (Some(images), Some(labels)) = (&args.images, &args.labels) else {
            bail!("give --data, or --images and --labels");
        };
        Ok(Self {
            images: samples::at(images, source)?,
            labels: inputs::labels(labels, None)?,
        })
    }

    /// Returns the data of a `.npz`, or of a folder with a folder of images for each class.
    pub(super) fn at(path: &Path, source: &SourceArgs) -> Result<Self> {
        if path.is_dir() {
            let labelled = labelled_images(path)?;
            samples::note_left_out(path, labelled.n_left_out);
            return Ok(Self {
                images: samples::images(labelled.paths, source)?,
                labels: labelled.labels,
            });
        }
        if source.samples_key.is_some() {
            bail!("--samples-key: --data takes the arrays `x_test` and `y_test`");
        }
        let source = SourceArgs {
            samples_key: Some(IMAGES_KEY.to_owned()),
            ..source.clone()
        };
        Ok(Self {
            images: samples::at(path, &source)?,
            labels: inputs::labels(path, Some(LABELS_KEY))?,
        })
    }

    /// Returns the arrays `x_test` and `y_test` of a `.npz`.
    pub(super) fn from_npz(path: &Path) -> Result<Self> {
        let labels = inputs::labels(path, Some(LABELS_KEY))?;
        let images = Samples::File {
            path: path.to_owned(),
            key: Some(IMAGES_KEY.to_owned()),
        };
        Ok(Self { images, labels })
    }
}

/// Counts how both models classify every image. For people, the speed is printed.
pub(super) fn evaluate(
    quantized: Option<&QuantizedModel>,
    float: Option<&Graph>,
    data: &Data,
    format: Format,
) -> Result<Scores> {
    let mut scores = Scores::default();
    classify((quantized, float), data, format, |labels, integer, real| {
        scores.quantized_right += equal(integer, Some(labels));
        scores.float_right += equal(real, Some(labels));
        scores.alike += equal(integer, real);
        scores.n_items += labels.len();
    })?;
    Ok(scores)
}

/// Classifies every image with both models and calls `each` with labels and the classes of both, batch
/// after batch. For people, the speed is printed.
pub(super) fn classify(
    (quantized, float): (Option<&QuantizedModel>, Option<&Graph>),
    data: &Data,
    format: Format,
    mut each: impl FnMut(&[i64], Option<&[i64]>, Option<&[i64]>),
) -> Result<()> {
    let executor = quantized.map(Executor::new);
    let (input, outputs) = match (quantized, float) {
        (Some(model), _) => (inputs::quantized_input(model)?, quantized_outputs(model)),
        (None, Some(graph)) => (inputs::float_input(graph)?, float_outputs(graph)),
        (None, None) => bail!("no model to evaluate"),
    };
    let n_classes = one_output(&outputs)?;
    let is_temporal = match (quantized, float) {
        (Some(model), _) => model.is_temporal(),
        (None, float) => float.is_some_and(inputs::is_temporal),
    };
    inputs::warn_of_memory(is_temporal, "here");
    let mut source = inputs::open(data.images.clone(), &input)?;
    let total = source.n_samples();
    if total != data.labels.len() {
        bail!("{total} images, but {} labels", data.labels.len());
    }
    let mut meter = Meter::new(total, "images");
    let mut next = 0;
    inputs::each_batch(source.as_mut(), |batch, source| {
        let integer = match &executor {
            Some(executor) => Some(inputs::classes(&inputs::predict(executor, batch)?)),
            None => None,
        };
        let real = match float {
            Some(graph) => Some(inputs::classes(&graph.predict(batch)?)),
            None => None,
        };
        let n = batch.shape().first().copied().unwrap_or(0);
        let first = next;
        let labels = labels_of(&data.labels, &mut next, n, source.skipped())?;
        let outside = |label: &&i64| usize::try_from(**label).map_or(true, |l| l >= n_classes);
        if let Some(label) = labels.iter().find(outside) {
            bail!("a label of {label} from item {first} on, for {n_classes} classes");
        }
        each(&labels, integer.as_deref(), real.as_deref());
        meter.set(next, total);
        Ok(())
    })?;
    meter.finish_if(true, format);
    samples::warn_skipped(source.skipped(), total);
    if source.skipped().len() == total {
        bail!("there is no image that can be used");
    }
    Ok(())
}

fn quantized_outputs(model: &QuantizedModel) -> Vec<Shape> {
    let outputs = model.outputs.iter();
    outputs.map(|i| model.nodes[*i].shape.clone()).collect()
}

fn float_outputs(graph: &Graph) -> Vec<Shape> {
    let outputs = graph.outputs().iter();
    outputs.map(|id| graph.node(*id).shape.clone()).collect()
}

/// Returns the number of classes of a model's only output.
fn one_output(shapes: &[Shape]) -> Result<usize> {
    let [shape] = shapes else {
        bail!("the model has {} outputs, not one of scores", shapes.len());
    };
    let n = shape.iter().copied().product::<Option<usize>>();
    n.context("the model's output has open extents")
}

/// Returns the labels of the next `n` images that were not left out.
fn labels_of(labels: &[i64], next: &mut usize, n: usize, skipped: &[Skipped]) -> Result<Vec<i64>> {
    let mut found = Vec::with_capacity(n);
    while found.len() < n {
        if skipped.binary_search_by_key(next, |s| s.index).is_err() {
            found.push(*labels.get(*next).context("labels")?);
        }
        *next += 1;
    }
    Ok(found)
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

/// Prints the scores, and returns whether the model is as good as was asked for.
fn report(args: &EvalArgs, scores: &Scores, (has_quantized, has_float): (bool, bool)) -> bool {
    let n = scores.n_items;
    let accuracy = share(scores.quantized_right, n);
    let float_accuracy = share(scores.float_right, n);
    let disagreement = share(n - scores.alike, n);
    let own = if has_quantized {
        accuracy
    } else {
        float_accuracy
    };
    let is_met = args.min_accuracy.is_none_or(|wanted| own >= wanted);
    if args.format.format == Format::Json {
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
        if let Some(wanted) = args.min_accuracy {
            result["min_accuracy"] = wanted.into();
            result["is_met"] = is_met.into();
        }
        crate::outln!("{result:#}");
        return is_met;
    }
    let line = |name: &str, share: f64, count: usize| {
        crate::outln!("{name:<19} {:6.2} %  ({count} of {n})", 100.0 * share);
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
    if let Some(wanted) = args.min_accuracy.filter(|_| !is_met) {
        crate::outln!("BELOW --min-accuracy {wanted}");
    }
    is_met
}
