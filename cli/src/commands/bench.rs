//! `bitproof bench`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bitproof::akida_sim::{InputKind, QuantizedOp};
use bitproof::calibration::{IntegerRange, RandomSource, SampleSource};
use bitproof::float_model::{Dtype, Shape};
use bitproof::{
    AnyModel, Batch, Executor, Graph, QuantizeOptions, QuantizedModel, Samples, calibrate_ranges,
    load,
};
use clap::Args;
use ndarray::{ArrayD, Axis};
use serde_json::json;

use crate::args::{Format, FormatArgs, ModelArgs};
use crate::inputs;

/// How long runs that are not timed go on: processors and caches start slowly.
const WARM_UP: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Images in a run
    #[arg(long, value_name = "N", default_value = "16")]
    batch: NonZeroUsize,
    /// Threads [default: one a core]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Runs that are timed, after a tenth of a second of runs that are not
    #[arg(long, value_name = "N", default_value = "15")]
    runs: NonZeroUsize,
    /// Images to take a batch from, a .npy or .npz [default: random ones]
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    inputs: Option<PathBuf>,
    /// Seed of the random images
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    format: FormatArgs,
}

/// Times a model on a batch of images.
pub(super) fn run(args: &BenchArgs) -> Result<()> {
    let model = load(&args.model.path())?;
    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(threads) = args.threads {
        pool = pool.num_threads(threads.into());
    }
    let pool = pool.build().context("no threads can be started")?;
    let (what, mut times) = match &model {
        AnyModel::Quantized(model) => {
            let times = pool.install(|| integer_runs(model, args))?;
            ("integer simulation", times)
        }
        AnyModel::Float(graph) => {
            let times = pool.install(|| calibration_steps(graph, args))?;
            ("float calibration", times)
        }
    };
    times.sort_unstable();
    let n_threads = pool.current_num_threads();
    report(args, what, &times, n_threads);
    Ok(())
}

/// Returns how long the simulator took for each batch.
fn integer_runs(model: &QuantizedModel, args: &BenchArgs) -> Result<Vec<Duration>> {
    let executor = Executor::new(model);
    let images = match &args.inputs {
        Some(path) => images_of_file(path, model, args.batch.get())?,
        None => random_images(model, args)?,
    };
    let images = Images::of(model, images);
    let start = Instant::now();
    executor.outputs(images.batch())?;
    while start.elapsed() < WARM_UP {
        executor.outputs(images.batch())?;
    }
    let timed = || {
        let start = Instant::now();
        executor.outputs(images.batch())?;
        Ok(start.elapsed())
    };
    (0..args.runs.get()).map(|_| timed()).collect()
}

/// Images in the type in which they would lie in memory: bytes for a model that takes these.
enum Images {
    Floats(ArrayD<f32>),
    Unsigned(ArrayD<u8>),
    Signed(ArrayD<i8>),
}

impl Images {
    /// Returns the images for a model; floats where they are none of its bytes, so that it says so itself.
    fn of(model: &QuantizedModel, images: ArrayD<f32>) -> Self {
        let bytes = match input_of(model) {
            Some(InputKind::Raw { dtype, .. }) => match dtype {
                Dtype::UInt8 => bytes(&images).map(Self::Unsigned),
                Dtype::Int8 => bytes(&images).map(Self::Signed),
                Dtype::Float32 | Dtype::UInt16 | Dtype::Int16 | Dtype::Int32 => None,
            },
            Some(InputKind::Float(_)) | None => None,
        };
        bytes.unwrap_or(Self::Floats(images))
    }

    fn batch(&self) -> Batch<'_> {
        match self {
            Self::Floats(images) => images.into(),
            Self::Unsigned(images) => images.into(),
            Self::Signed(images) => images.into(),
        }
    }
}

/// Returns the numbers as bytes, `None` if one of them is none.
fn bytes<T: TryFrom<i32>>(images: &ArrayD<f32>) -> Option<ArrayD<T>> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::float_cmp,
        reason = "a number that comes back unchanged was whole"
    )]
    let whole = |v: &f32| Some(*v as i32).filter(|whole| *whole as f32 == *v);
    let bytes = images.iter().map(|v| T::try_from(whole(v)?).ok());
    ArrayD::from_shape_vec(images.raw_dim(), bytes.collect::<Option<_>>()?).ok()
}

/// Returns how long each step of a calibration took, observers included.
///
/// The images lie in memory, and pass once an epoch: to draw them or to read them from a file is no part of a step.
fn calibration_steps(graph: &Graph, args: &BenchArgs) -> Result<Vec<Duration>> {
    let batch = args.batch.get();
    let n_steps = args.runs.get().checked_add(1);
    let n_steps = n_steps.filter(|n| n.checked_mul(batch).is_some());
    let epochs = n_steps.context("--batch times --runs: too many images")?;
    let input = inputs::float_input(graph)?;
    let samples = match &args.inputs {
        Some(path) => {
            let mut source = inputs::open(file(path), &input)?;
            let images = batch_of(source.as_mut(), path, batch)?;
            if source.is_integer() {
                Samples::Integers(images)
            } else {
                Samples::Floats(images)
            }
        }
        None => {
            let range = IntegerRange { low: 0, high: 255 };
            Samples::Integers(drawn(&input, range, args)?)
        }
    };
    let options = QuantizeOptions {
        num_samples: Some(batch),
        batch_size: Some(batch),
        epochs,
        ..QuantizeOptions::default()
    };
    let once = QuantizeOptions {
        epochs: 1,
        ..options.clone()
    };
    let start = Instant::now();
    while start.elapsed() < WARM_UP {
        calibrate_ranges(graph.clone(), samples.clone(), &once, &mut |_| {})?;
    }
    let mut moments = Vec::new();
    calibrate_ranges(graph.clone(), samples, &options, &mut |_| {
        moments.push(Instant::now());
    })?;
    Ok(moments.windows(2).map(|pair| pair[1] - pair[0]).collect())
}

fn file(path: &Path) -> Samples {
    Samples::File {
        path: path.to_owned(),
        key: None,
    }
}

/// Returns the first images of a file.
fn images_of_file(path: &Path, model: &QuantizedModel, batch: usize) -> Result<ArrayD<f32>> {
    let mut source = inputs::open(file(path), &inputs::quantized_input(model)?)?;
    batch_of(source.as_mut(), path, batch)
}

/// Returns the first images of a source.
fn batch_of(source: &mut dyn SampleSource, path: &Path, batch: usize) -> Result<ArrayD<f32>> {
    let images = source.next_batch(batch)?;
    let n_images = images.len_of(Axis(0));
    if n_images < batch {
        bail!(
            "{}: {n_images} image(s), too few for a batch of {batch}",
            path.display()
        );
    }
    Ok(images)
}

/// Returns what a model takes.
fn input_of(model: &QuantizedModel) -> Option<&InputKind> {
    model.nodes.iter().find_map(|node| match &node.op {
        QuantizedOp::Input(kind) => Some(kind),
        QuantizedOp::InputQuantizer { .. }
        | QuantizedOp::Integer(_)
        | QuantizedOp::Dequantizer(_)
        | QuantizedOp::Float(_) => None,
    })
}

/// Returns a batch of random integers of the type of the model's input.
fn random_images(model: &QuantizedModel, args: &BenchArgs) -> Result<ArrayD<f32>> {
    let (low, high) = match input_of(model).context("the model has no input")? {
        InputKind::Raw { dtype, .. } | InputKind::Float(dtype) => match dtype {
            Dtype::Int8 => (-128, 127),
            Dtype::Int16 => (-32_768, 32_767),
            Dtype::UInt16 => (0, 65_535),
            Dtype::UInt8 | Dtype::Int32 | Dtype::Float32 => (0, 255),
        },
    };
    let range = IntegerRange { low, high };
    drawn(&inputs::quantized_input(model)?, range, args)
}

/// Returns a batch of random integers for an input.
fn drawn(input: &Shape, range: IntegerRange, args: &BenchArgs) -> Result<ArrayD<f32>> {
    let shape: Option<Vec<usize>> = input.iter().copied().collect();
    let shape = shape.context("the model leaves extents of its input open")?;
    let mut source = RandomSource::new(args.seed, range, args.batch.get(), shape);
    Ok(source.next_batch(args.batch.get())?)
}

#[expect(clippy::cast_precision_loss, reason = "a time for people")]
fn report(args: &BenchArgs, what: &str, sorted: &[Duration], n_threads: usize) {
    let per_image = |time: Option<&Duration>| {
        time.map_or(f64::NAN, |t| t.as_secs_f64() * 1e3) / args.batch.get() as f64
    };
    let median = per_image(sorted.get(sorted.len().div_euclid(2)));
    let fastest = per_image(sorted.first());
    let (batch, runs) = (args.batch, sorted.len());
    let isa = bitproof::instruction_set();
    match args.format.format {
        Format::Text => crate::outln!(
            "{what}: {median:.3} ms an image (median of {runs} runs; fastest {fastest:.3}), batch {batch}, \
             {n_threads} thread(s), {isa}"
        ),
        Format::Json => crate::outln!(
            "{:#}",
            json!({
                "what": what,
                "ms_per_image": median,
                "fastest_ms_per_image": fastest,
                "batch": batch,
                "runs": runs,
                "threads": n_threads,
                "inputs": args.inputs,
                "seed": args.inputs.is_none().then_some(args.seed),
                "instruction_set": isa,
            })
        ),
    }
}
