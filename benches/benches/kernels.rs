//! Throughput of the kernels, in multiply-adds per second, for each instruction set of this CPU.
//!
//! A multiply-add counts as one element: `Gelem/s` times two is GFLOP/s or GOP/s.

use std::hint::black_box;

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement,
};
use kernels::{Conv2d, Depthwise, Kernels, Window};

/// Returns `len` values of `-100..=100` that do not repeat soon.
fn values<T: From<i8>>(len: usize) -> Vec<T> {
    (0..=200_u8)
        .map(|i| (i.wrapping_mul(73) % 201).cast_signed().wrapping_sub(100))
        .cycle()
        .take(len)
        .map(T::from)
        .collect()
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

fn for_each_isa(
    group: &mut BenchmarkGroup<'_, measurement::WallTime>,
    n_steps: usize,
    mut run: impl FnMut(Kernels),
) {
    let n_steps = u64::try_from(n_steps).unwrap_or(u64::MAX);
    group
        .throughput(Throughput::Elements(n_steps))
        .sample_size(20);
    for kernels in Kernels::available() {
        group.bench_function(BenchmarkId::from_parameter(kernels.isa().name()), |b| {
            b.iter(|| run(kernels));
        });
    }
}

fn conv(c: &mut Criterion, name: &str, window: Window, channels: usize, filters: usize) {
    let n_pixels = window.out_h * window.out_w;
    let n_taps = window.kernel_h * window.kernel_w;
    let n_steps = n_pixels * n_taps * channels * filters;
    let n_inputs = window.in_h * window.in_w * channels;

    let (x, kernel) = (
        values::<f32>(n_inputs),
        values::<f32>(n_taps * channels * filters),
    );
    let operands = Conv2d {
        x: &x,
        kernel: &kernel,
        pad: None,
        window,
        channels,
        filters,
    };
    let mut out = vec![0.0; n_pixels * filters];
    for_each_isa(
        &mut c.benchmark_group(format!("{name}_f32")),
        n_steps,
        |kernels| {
            kernels.conv2d_f32(black_box(&operands), None, 0..window.out_h, &mut out);
        },
    );

    let (x, kernel) = (
        values::<i8>(n_inputs),
        values::<i8>(n_taps * channels * filters),
    );
    let operands = Conv2d {
        x: &x,
        kernel: &kernel,
        pad: None,
        window,
        channels,
        filters,
    };
    let mut out = vec![0_i32; n_pixels * filters];
    for_each_isa(
        &mut c.benchmark_group(format!("{name}_i8_i32")),
        n_steps,
        |kernels| {
            kernels.conv2d_int(black_box(&operands), 0..window.out_h, &mut out);
        },
    );

    let x = values::<i32>(n_inputs);
    let operands = Conv2d {
        x: &x,
        kernel: &kernel,
        pad: None,
        window,
        channels,
        filters,
    };
    let mut out = vec![0_i64; n_pixels * filters];
    for_each_isa(
        &mut c.benchmark_group(format!("{name}_i32_i64")),
        n_steps,
        |kernels| {
            kernels.conv2d_int(black_box(&operands), 0..window.out_h, &mut out);
        },
    );
}

fn depthwise(c: &mut Criterion, name: &str, window: Window, channels: usize) {
    let n_outputs = window.out_h * window.out_w * channels;
    let n_taps = window.kernel_h * window.kernel_w;
    let n_inputs = window.in_h * window.in_w * channels;

    let (x, kernel) = (values::<f32>(n_inputs), values::<f32>(n_taps * channels));
    let operands = Depthwise {
        x: &x,
        kernel: &kernel,
        pad: None,
        window,
        channels,
    };
    let mut out = vec![0.0; n_outputs];
    for_each_isa(
        &mut c.benchmark_group(format!("{name}_f32")),
        n_outputs * n_taps,
        |kernels| {
            kernels.depthwise_f32(black_box(&operands), None, 0..window.out_h, &mut out);
        },
    );

    let (x, kernel) = (values::<i8>(n_inputs), values::<i8>(n_taps * channels));
    let operands = Depthwise {
        x: &x,
        kernel: &kernel,
        pad: None,
        window,
        channels,
    };
    let mut out = vec![0_i32; n_outputs];
    for_each_isa(
        &mut c.benchmark_group(format!("{name}_i8_i32")),
        n_outputs * n_taps,
        |kernels| {
            kernels.depthwise_int(black_box(&operands), 0..window.out_h, &mut out);
        },
    );
}

fn all(c: &mut Criterion) {
    conv(
        c,
        "pointwise_m784_n128_k1152",
        Window::pointwise(28, 28),
        1152,
        128,
    );
    conv(c, "conv_3x3_14x14_c128_f128", same_3x3(14), 128, 128);
    conv(c, "conv_3x3_112x112_c3_f32", same_3x3(112), 3, 32);
    depthwise(c, "depthwise_3x3_56x56_c128", same_3x3(56), 128);
}

criterion_group!(benches, all);
criterion_main!(benches);
