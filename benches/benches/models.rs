//! Time of a whole network, in integers and for a step of the float calibration: `MobileNetV1` 0.5/96 with random
//! weights, on random images.
//!
//! An image counts as one element: `elem/s` is images a second.
#![expect(
    clippy::expect_used,
    reason = "a bench that cannot run fails by panicking"
)]

use std::time::{Duration, Instant};

use bitproof::calibration::{IntegerRange, RandomSource, SampleSource};
use bitproof::{
    Executor, Graph, QuantizeOptions, QuantizedModel, Samples, calibrate_ranges, quantize,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ndarray::ArrayD;
use rayon::{ThreadPool, ThreadPoolBuilder};

const SIZE: usize = 96;
const EIGHTHS: usize = 4;
const BATCHES: [usize; 2] = [1, 16];

/// One thread, and one a core; the same bits.
const POOLS: [(&str, usize); 2] = [("one_thread", 1), ("all_cores", 0)];

fn options(batch: usize, n_steps: usize) -> QuantizeOptions {
    QuantizeOptions {
        num_samples: Some(batch * n_steps),
        batch_size: Some(batch),
        ..QuantizeOptions::default()
    }
}

fn images(batch: usize) -> ArrayD<f32> {
    let range = IntegerRange { low: 0, high: 255 };
    let shape = vec![SIZE, SIZE, 3];
    RandomSource::new(0, range, batch, shape)
        .next_batch(batch)
        .expect("random images have no errors")
}

fn simulation(c: &mut Criterion, pool: &ThreadPool, threads: &str, model: &QuantizedModel) {
    let mut group = c.benchmark_group("mobilenet_96_a05_integers");
    for batch in BATCHES {
        let images = images(batch);
        let executor = Executor::new(model);
        group.throughput(Throughput::Elements(batch.try_into().unwrap_or(u64::MAX)));
        group.bench_function(BenchmarkId::new(threads, batch), |b| {
            pool.install(|| b.iter(|| executor.outputs(&images).expect("a valid model")));
        });
    }
    group.finish();
}

/// Returns how long `n_steps` steps of a calibration take, observers included, without what goes before.
fn calibration_steps(graph: &Graph, batch: usize, n_steps: u64) -> Duration {
    let n_steps = usize::try_from(n_steps).expect("steps of a bench");
    let mut moments = Vec::new();
    calibrate_ranges(
        graph.clone(),
        Samples::Random,
        &options(batch, n_steps + 1),
        &mut |_| moments.push(Instant::now()),
    )
    .expect("a valid network");
    let (first, last) = (moments.first(), moments.last());
    last.zip(first).map_or(Duration::ZERO, |(last, first)| {
        last.saturating_duration_since(*first)
    })
}

fn calibration(c: &mut Criterion, pool: &ThreadPool, threads: &str, graph: &Graph) {
    let mut group = c.benchmark_group("mobilenet_96_a05_calibration");
    for batch in BATCHES {
        group.throughput(Throughput::Elements(batch.try_into().unwrap_or(u64::MAX)));
        group.bench_function(BenchmarkId::new(threads, batch), |b| {
            pool.install(|| b.iter_custom(|n| calibration_steps(graph, batch, n)));
        });
    }
    group.finish();
}

fn all(c: &mut Criterion) {
    let graph = benches::mobilenet(SIZE, EIGHTHS).expect("the network is valid");
    let quantized = quantize(graph.clone(), Samples::Random, &options(16, 1), &mut |_| ())
        .expect("the network can be quantized");
    for (threads, n) in POOLS {
        let pool = ThreadPoolBuilder::new().num_threads(n).build();
        let pool = pool.expect("threads can be started");
        simulation(c, &pool, threads, &quantized.model);
        calibration(c, &pool, threads, &graph);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = all
}
criterion_main!(benches);
