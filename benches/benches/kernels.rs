//! Throughput of each kernel, for each instruction set of this CPU, and its share of the measured peak.
//!
//! A product and its sum count as two operations, a comparison as one, and each is an element: `Gelem/s` is GOP/s or
//! GFLOP/s. A group first runs the loop of the instruction that bounds it; the share is that of the fastest runs.
#![expect(
    clippy::expect_used,
    reason = "a bench that cannot run fails by panicking"
)]

use std::cell::Cell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{
    Bencher, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement,
};
use kernels::{
    BytePairs, Conv2d, ConvTranspose2d, Dense, Depthwise, DepthwiseTranspose, Extremes, Finish,
    Kernels, Limit, MaxPool, Narrowing, Packed, PackedConv, PackedDepthwise, PackedDepthwiseConv,
    PairsConv, Peak, Products, Steps, Window,
};

/// Rounds of a peak loop: about a tenth of a millisecond.
const ROUNDS: u32 = 1 << 16;

/// Returns `len` values of `-100..=100` that do not repeat soon.
fn values<T: From<i8>>(len: usize) -> Vec<T> {
    (0..=200_u8)
        .map(|i| (i.wrapping_mul(73) % 201).cast_signed().wrapping_sub(100))
        .cycle()
        .take(len)
        .map(T::from)
        .collect()
}

/// Returns `len` values of `0..=200` that do not repeat soon.
fn bytes(len: usize) -> Vec<u8> {
    let values = values::<i16>(len);
    let byte = |v: i16| u8::try_from(v + 100).unwrap_or_default();
    values.into_iter().map(byte).collect()
}

fn same_3x3(size: usize) -> Window {
    Window {
        kernel_h: 3,
        kernel_w: 3,
        pad_top: 1,
        pad_left: 1,
        ..Window::pointwise(size, size)
    }
}

/// A 3x3 transposed window that doubles the extents.
fn doubling_3x3(size: usize) -> Window {
    Window {
        out_h: 2 * size,
        out_w: 2 * size,
        stride_h: 2,
        stride_w: 2,
        ..same_3x3(size)
    }
}

/// A kernel's bench: what it is called, how many operations it makes, and what bounds it.
struct Work<'a> {
    name: &'a str,
    n_operations: usize,
    products: Option<Products>,
}

impl<'a> Work<'a> {
    /// Returns the work of so many products and sums.
    fn products(name: &'a str, n_products: usize, of: Products) -> Self {
        Self {
            name,
            n_operations: 2 * n_products,
            products: Some(of),
        }
    }

    /// Returns the work of a kernel that no loop bounds.
    fn unbounded(name: &'a str, n_operations: usize) -> Self {
        Self {
            name,
            n_operations,
            products: None,
        }
    }

    /// Benches `run` with the kernels that `is_meant` accepts, and prints which share of the peak they reach.
    fn bench(
        &self,
        c: &mut Criterion,
        is_meant: impl Fn(&Kernels) -> bool,
        mut run: impl FnMut(Kernels),
    ) {
        let mut group = c.benchmark_group(self.name);
        for kernels in Kernels::available().filter(is_meant) {
            let peak = self.products.and_then(|of| kernels.peak(of));
            let peak = peak.map(|peak| (peak, peak_rate(&mut group, peak, kernels)));
            let n = u64::try_from(self.n_operations).unwrap_or(u64::MAX);
            group.throughput(Throughput::Elements(n));
            let fastest = Fastest::default();
            group.bench_function(kernels.isa().name(), |b| {
                fastest.measure(b, || run(kernels));
            });
            self.print_share(kernels, fastest.rate(n), peak);
        }
        group.finish();
    }

    #[expect(clippy::print_stdout, reason = "benches print what they measure")]
    fn print_share(&self, kernels: Kernels, rate: Option<f64>, peak: Option<(Peak, Option<f64>)>) {
        let (Some(rate), Some((peak, Some(peak_rate)))) = (rate, peak) else {
            return;
        };
        println!(
            "share of peak: {} {}: {rate:.1} of {peak_rate:.1} Gop/s ({}), {:.1} %",
            self.name,
            kernels.isa().name(),
            peak.name(),
            100.0 * rate / peak_rate
        );
    }
}

/// The fastest of all runs, which noise of the machine reaches least.
#[derive(Default)]
struct Fastest(Cell<Option<Duration>>);

impl Fastest {
    fn measure(&self, bencher: &mut Bencher<'_>, mut run: impl FnMut()) {
        bencher.iter_custom(|n| {
            let mut total = Duration::ZERO;
            for _ in 0..n {
                let start = Instant::now();
                run();
                let time = start.elapsed();
                total += time;
                let fastest = self.0.get().map_or(time, |fastest| fastest.min(time));
                self.0.set(Some(fastest));
            }
            total
        });
    }

    /// Returns 10^9 operations a second, if the bench was run.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn rate(&self, n_operations: u64) -> Option<f64> {
        let time = self.0.get()?.as_secs_f64();
        Some(n_operations as f64 / time / 1e9)
    }
}

/// Benches the loop of an instruction and returns its 10^9 operations a second.
fn peak_rate(
    group: &mut BenchmarkGroup<'_, measurement::WallTime>,
    peak: Peak,
    kernels: Kernels,
) -> Option<f64> {
    let n = 2 * peak.run(ROUNDS);
    let fastest = Fastest::default();
    group.throughput(Throughput::Elements(n));
    group.bench_function(format!("{}_peak", kernels.isa().name()), |b| {
        fastest.measure(b, || {
            black_box(peak.run(black_box(ROUNDS)));
        });
    });
    fastest.rate(n)
}

fn any(_: &Kernels) -> bool {
    true
}

fn packs(kernels: &Kernels) -> bool {
    kernels.packs::<i16>()
}

fn packs_pairs(kernels: &Kernels) -> bool {
    kernels.packs_pairs()
}

fn packs_depthwise(kernels: &Kernels) -> bool {
    kernels.packs_depthwise()
}

/// Weights of bytes, packed as each instruction set multiplies them: as the executor does.
struct Bytes {
    bytes: Packed<i8>,
    words: Packed<i16>,
}

impl Bytes {
    fn new(weights: &[i8], rows: usize, filters: usize) -> Self {
        let words: Vec<i16> = weights.iter().map(|w| i16::from(*w)).collect();
        Self {
            bytes: Packed::new(weights, rows, filters),
            words: Packed::new(&words, rows, filters),
        }
    }
}

/// Extents of a convolution.
struct Shape<'a> {
    name: &'a str,
    window: Window,
    channels: usize,
    filters: usize,
}

impl Shape<'_> {
    fn n_inputs(&self) -> usize {
        self.window.in_h * self.window.in_w * self.channels
    }

    fn n_pixels(&self) -> usize {
        self.window.out_h * self.window.out_w
    }

    fn n_taps(&self) -> usize {
        self.window.kernel_h * self.window.kernel_w
    }

    fn n_weights(&self) -> usize {
        self.n_taps() * self.channels * self.filters
    }

    fn n_products(&self) -> usize {
        self.n_pixels() * self.n_weights()
    }
}

fn conv_f32(c: &mut Criterion, shape: &Shape<'_>) {
    let (x, kernel) = (values(shape.n_inputs()), values(shape.n_weights()));
    let conv = Conv2d {
        x: &x,
        kernel: &kernel,
        pad: None,
        window: shape.window,
        channels: shape.channels,
        filters: shape.filters,
    };
    let mut out = vec![0.0; shape.n_pixels() * shape.filters];
    let name = format!("{}_f32", shape.name);
    Work::products(&name, shape.n_products(), Products::Floats).bench(c, any, |kernels| {
        kernels.conv2d_f32(black_box(&conv), None, 0..shape.window.out_h, &mut out);
    });
}

/// Plain integer products: bytes into `i32`, and `i32` into `i64`, which no instruction of ours bounds.
fn conv_int(c: &mut Criterion, shape: &Shape<'_>) {
    let (x, kernel) = (
        values::<i8>(shape.n_inputs()),
        values::<i8>(shape.n_weights()),
    );
    let conv = Conv2d {
        x: &x,
        kernel: &kernel,
        pad: None,
        window: shape.window,
        channels: shape.channels,
        filters: shape.filters,
    };
    let mut out = vec![0_i32; shape.n_pixels() * shape.filters];
    let name = format!("{}_i8_i32", shape.name);
    Work::products(&name, shape.n_products(), Products::Bytes).bench(c, any, |kernels| {
        kernels.conv2d_int(black_box(&conv), 0..shape.window.out_h, &mut out);
    });

    let x = values::<i32>(shape.n_inputs());
    let conv = Conv2d {
        x: &x,
        kernel: &kernel,
        pad: None,
        window: shape.window,
        channels: shape.channels,
        filters: shape.filters,
    };
    let mut out = vec![0_i64; shape.n_pixels() * shape.filters];
    let name = format!("{}_i32_i64", shape.name);
    Work::unbounded(&name, 2 * shape.n_products()).bench(c, any, |kernels| {
        kernels.conv2d_int(black_box(&conv), 0..shape.window.out_h, &mut out);
    });
}

/// Returns the operands of a convolution with a packed kernel.
fn packed<'a, X, L>(shape: &Shape<'_>, x: &'a [X], kernel: &'a Packed<L>) -> PackedConv<'a, X, L> {
    PackedConv {
        x,
        kernel,
        pad: None,
        window: shape.window,
        channels: shape.channels,
    }
}

/// Products of packed weights into `i32`: what the executor runs where sums are not finished at once.
fn conv_packed(c: &mut Criterion, shape: &Shape<'_>) {
    let n_rows = shape.n_taps() * shape.channels;
    let rows = 0..shape.window.out_h;
    let mut out = vec![0_i32; shape.n_pixels() * shape.filters];

    let x = bytes(shape.n_inputs());
    let kernel = Bytes::new(&values(shape.n_weights()), n_rows, shape.filters);
    let (narrow, wide) = (
        packed(shape, &x, &kernel.bytes),
        packed(shape, &x, &kernel.words),
    );
    let name = format!("{}_u8_i8_packed", shape.name);
    Work::products(&name, shape.n_products(), Products::Bytes).bench(c, packs, |kernels| {
        if kernels.packs::<i8>() {
            kernels.conv2d_packed(black_box(&narrow), rows.clone(), &mut out);
        } else {
            kernels.conv2d_packed(black_box(&wide), rows.clone(), &mut out);
        }
    });

    let x = values::<i16>(shape.n_inputs());
    let kernel = Packed::new(&values::<i16>(shape.n_weights()), n_rows, shape.filters);
    let conv = packed(shape, &x, &kernel);
    let name = format!("{}_i16_i16_packed", shape.name);
    Work::products(&name, shape.n_products(), Products::Words).bench(c, packs, |kernels| {
        kernels.conv2d_packed(black_box(&conv), rows.clone(), &mut out);
    });
}

/// Steps of a layer with bias, rectifier and shift, which end in `0..=255`.
fn steps(channels: usize) -> Steps {
    let wide = Limit {
        lo: i32::MIN.into(),
        hi: i32::MAX.into(),
    };
    Steps {
        bias: Some((vec![1000; channels], wide)),
        rectify: Some(vec![1 << 20; channels]),
        shift: Some((vec![-12; channels], Limit { lo: 0, hi: 255 })),
        ..Steps::default()
    }
}

/// Returns the steps made ready for sums of `n` products of two bytes.
fn finish(channels: usize, n: usize) -> Finish {
    let largest = u64::try_from(n).unwrap_or(u64::MAX) * 255 * 128;
    Finish::new(&steps(channels), channels, largest).expect("the steps fit in 32 bits")
}

/// Products of packed weights that become bytes at once.
fn conv_finished(c: &mut Criterion, shape: &Shape<'_>) {
    let (x, weights) = (bytes(shape.n_inputs()), values::<i8>(shape.n_weights()));
    let n_rows = shape.n_taps() * shape.channels;
    let kernel = Bytes::new(&weights, n_rows, shape.filters);
    let finish = finish(shape.filters, n_rows);
    let (narrow, wide) = (
        packed(shape, &x, &kernel.bytes),
        packed(shape, &x, &kernel.words),
    );
    let mut out = vec![0_u8; shape.n_pixels() * shape.filters];
    let mut extremes = Extremes::new(&finish);
    let name = format!("{}_u8_i8_finished", shape.name);
    Work::products(&name, shape.n_products(), Products::Bytes).bench(c, packs, |kernels| {
        let rows = 0..shape.window.out_h;
        let to = (&finish, out.as_mut_slice(), &mut extremes);
        if kernels.packs::<i8>() {
            kernels.conv2d_finished(black_box(&narrow), rows, to);
        } else {
            kernels.conv2d_finished(black_box(&wide), rows, to);
        }
    });
}

/// Products of activations of seven bits that AVX2 sums in 16 bits, and that become bytes at once. Weights are like those of
/// trained layers, most of them small: so most lanes find three others (NUMERICS.md E3).
fn conv_pairs(c: &mut Criterion, shape: &Shape<'_>) {
    let x: Vec<u8> = bytes(shape.n_inputs()).iter().map(|x| x >> 1).collect();
    let n_rows = shape.n_taps() * shape.channels;
    // Means of two numbers: small ones are more frequent.
    let numbers = values::<i8>(shape.n_weights() + 77);
    let weights = numbers.iter().zip(&numbers[77..]);
    let weights: Vec<i8> = weights.map(|(a, b)| (a >> 1) + (b >> 1)).collect();
    let kernel = BytePairs::new(&weights, &vec![0; n_rows], shape.filters, 127);
    let kernel = kernel.expect("seven bits");
    let finish = finish(shape.filters, n_rows);
    let conv = PairsConv {
        x: &x,
        kernel: &kernel,
        pad: None,
        window: shape.window,
        channels: shape.channels,
    };
    let mut out = vec![0_u8; shape.n_pixels() * shape.filters];
    let mut extremes = Extremes::new(&finish);
    let name = format!("{}_u7_i8_finished", shape.name);
    let work = Work::products(&name, shape.n_products(), Products::Bytes);
    work.bench(c, packs_pairs, |kernels| {
        let rows = 0..shape.window.out_h;
        let to = (&finish, out.as_mut_slice(), &mut extremes);
        kernels.conv2d_pairs_finished(black_box(&conv), rows, to);
    });
}

fn conv(c: &mut Criterion, shape: &Shape<'_>) {
    conv_f32(c, shape);
    conv_int(c, shape);
    conv_packed(c, shape);
    conv_finished(c, shape);
    conv_pairs(c, shape);
}

fn depthwise(c: &mut Criterion, shape: &Shape<'_>) {
    let Shape {
        window, channels, ..
    } = *shape;
    let n_products = shape.n_pixels() * shape.n_taps() * channels;
    let mut sums = vec![0_i32; shape.n_pixels() * channels];

    let (x, kernel) = (values(shape.n_inputs()), values(shape.n_taps() * channels));
    let conv = Depthwise {
        x: &x,
        kernel: &kernel,
        pad: None,
        window,
        channels,
    };
    let mut out = vec![0.0; sums.len()];
    let name = format!("{}_f32", shape.name);
    Work::products(&name, n_products, Products::Floats).bench(c, any, |kernels| {
        kernels.depthwise_f32(black_box(&conv), None, 0..window.out_h, &mut out);
    });

    let (x, kernel) = (
        bytes(shape.n_inputs()),
        values::<i8>(shape.n_taps() * channels),
    );
    let signed = values::<i8>(x.len());
    let conv = Depthwise {
        x: &signed,
        kernel: &kernel,
        pad: None,
        window,
        channels,
    };
    let name = format!("{}_i8_i32", shape.name);
    Work::products(&name, n_products, Products::Bytes).bench(c, any, |kernels| {
        kernels.depthwise_int(black_box(&conv), 0..window.out_h, &mut sums);
    });

    let packed = PackedDepthwise::new(&kernel, [window.kernel_h, window.kernel_w, channels]);
    let conv = PackedDepthwiseConv {
        x: &x,
        kernel: &packed,
        window,
    };
    let finish = finish(channels, shape.n_taps());
    let mut out = vec![0_u8; sums.len()];
    let mut extremes = Extremes::new(&finish);
    let name = format!("{}_u8_i8_finished", shape.name);
    Work::products(&name, n_products, Products::Bytes).bench(c, packs_depthwise, |kernels| {
        let rows = 0..window.out_h;
        kernels.depthwise_finished(black_box(&conv), rows, (&finish, &mut out, &mut extremes));
    });
}

/// One row: the network's last layer at batch 1, which reads each weight once.
fn dense(c: &mut Criterion, name: &str, channels: usize, filters: usize) {
    let n_products = channels * filters;
    let (x, kernel) = (values(channels), values(n_products));
    let operands = Dense {
        x: &x,
        kernel: &kernel,
        channels,
        filters,
    };
    let mut out = vec![0.0; filters];
    let full = format!("{name}_f32");
    Work::products(&full, n_products, Products::Floats).bench(c, any, |kernels| {
        kernels.dense_f32(black_box(&operands), None, &mut out);
    });

    let (x, kernel) = (values::<i8>(channels), values::<i8>(n_products));
    let operands = Dense {
        x: &x,
        kernel: &kernel,
        channels,
        filters,
    };
    let mut out = vec![0_i32; filters];
    let full = format!("{name}_i8_i32");
    Work::products(&full, n_products, Products::Bytes).bench(c, any, |kernels| {
        kernels.dense_int(black_box(&operands), &mut out);
    });

    let packed = Bytes::new(&kernel, channels, filters);
    let x = bytes(channels);
    let full = format!("{name}_u8_i8_packed");
    Work::products(&full, n_products, Products::Bytes).bench(c, packs, |kernels| {
        if kernels.packs::<i8>() {
            kernels.dense_packed(black_box(&x), &packed.bytes, &mut out);
        } else {
            kernels.dense_packed(black_box(&x), &packed.words, &mut out);
        }
    });
}

/// Transposed convolutions; the taps that a stride skips count as no products.
fn transposed(c: &mut Criterion, shape: &Shape<'_>) {
    let Shape {
        window,
        channels,
        filters,
        ..
    } = *shape;
    let n_inner = window.in_h * window.in_w * shape.n_taps() * channels;
    let (x, kernel) = (
        values::<i8>(shape.n_inputs()),
        values::<i8>(shape.n_weights()),
    );
    let conv = ConvTranspose2d {
        x: &x,
        kernel: &kernel,
        window,
        channels,
        filters,
    };
    let mut out = vec![0_i32; shape.n_pixels() * filters];
    let name = format!("{}_i8_i32", shape.name);
    Work::products(&name, n_inner * filters, Products::Bytes).bench(c, any, |kernels| {
        kernels.conv2d_transpose_int(black_box(&conv), 0..window.out_h, &mut out);
    });

    let (floats, weights) = (values(shape.n_inputs()), values(shape.n_weights()));
    let conv = ConvTranspose2d {
        x: &floats,
        kernel: &weights,
        window,
        channels,
        filters,
    };
    let mut out = vec![0.0; shape.n_pixels() * filters];
    let name = format!("{}_f32", shape.name);
    Work::products(&name, n_inner * filters, Products::Floats).bench(c, any, |kernels| {
        kernels.conv2d_transpose_f32(black_box(&conv), None, 0..window.out_h, &mut out);
    });

    let conv = DepthwiseTranspose {
        x: &x,
        kernel: &kernel[..shape.n_taps() * channels],
        window,
        channels,
    };
    let mut out = vec![0_i32; shape.n_pixels() * channels];
    let name = format!("{}_depthwise_i8_i32", shape.name);
    Work::products(&name, n_inner, Products::Bytes).bench(c, any, |kernels| {
        kernels.depthwise_transpose_int(black_box(&conv), 0..window.out_h, &mut out);
    });
}

/// What follows a product elsewhere: steps on sums that are in memory, and the maximum of a pool.
fn elements(c: &mut Criterion, size: usize, channels: usize) {
    let sums: Vec<i32> = values::<i32>(size * size * channels);
    let mut out = vec![0_u8; sums.len()];
    let narrowing = Narrowing::new(&steps(channels), channels, 1 << 20).expect("the steps fit");
    let name = format!("narrow_{size}x{size}_c{channels}_i32_u8");
    Work::unbounded(&name, sums.len()).bench(c, any, |kernels| {
        black_box(kernels.narrow(&narrowing, black_box(&sums), &mut out));
    });

    let x = bytes(sums.len());
    let half = size.div_euclid(2);
    let window = Window {
        out_h: half,
        out_w: half,
        kernel_h: 2,
        kernel_w: 2,
        stride_h: 2,
        stride_w: 2,
        ..Window::pointwise(size, size)
    };
    let pool = MaxPool {
        x: &x,
        window,
        channels,
    };
    let mut out = vec![0_u8; half * half * channels];
    let name = format!("max_pool_2x2_{size}x{size}_c{channels}_u8");
    Work::unbounded(&name, 4 * out.len()).bench(c, any, |kernels| {
        kernels.max_pool_int(black_box(&pool), 0..half, &mut out);
    });
}

fn all(c: &mut Criterion) {
    let shape = |name, window, channels, filters| Shape {
        name,
        window,
        channels,
        filters,
    };
    let pointwise = Window::pointwise(28, 28);
    conv(c, &shape("pointwise_m784_n128_k1152", pointwise, 1152, 128));
    conv(
        c,
        &shape("conv_3x3_14x14_c128_f128", same_3x3(14), 128, 128),
    );
    conv(c, &shape("conv_3x3_112x112_c3_f32", same_3x3(112), 3, 32));
    depthwise(c, &shape("depthwise_3x3_56x56_c128", same_3x3(56), 128, 1));
    dense(c, "dense_1024_1000", 1024, 1000);
    transposed(
        c,
        &shape("transposed_3x3_14x14_c64_f64", doubling_3x3(14), 64, 64),
    );
    elements(c, 56, 128);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = all
}
criterion_main!(benches);
