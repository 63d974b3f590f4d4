//! The products: which kernel runs for which types.

use kernels::{
    Byte, BytePairs, Conv2d, ConvTranspose2d, Dense, Depthwise, DepthwiseTranspose, Extremes,
    Finish, Kernels, Lane, Packable, PackedConv, PackedDepthwiseConv, PairsConv, Window,
};

use super::blocks::Place;
use super::geometry::Geometry;
use super::{Kind, LinearPlan};
use crate::exec::tensor::{Int, Values};
use crate::exec::weights::{Lanes, Packed, Weights};

/// An accumulator type.
pub(super) trait Sum: Int {
    const ZERO: Self;
    /// Writes the sums of the rows of `place`.
    fn product(plan: &LinearPlan, x: &Values, place: &Place<'_>, sums: &mut [Self]);
    /// Writes the matrix product of `x`, `[pixels, channels]`.
    fn dense(x: &Values, weights: &Weights, channels: usize, sums: &mut [Self]);
}

/// Runs `$call` with slices of the input's and the weights' types.
macro_rules! typed {
    ($x:expr, $packed:expr, $call:ident, [$(($xv:ident, $wv:ident)),*]) => {
        match ($x, $packed) {
            $((Values::$xv(x), Packed::$wv(w)) => $call!(x, w, $xv),)*
            (x, w) => unreachable_types(x, w),
        }
    };
}

/// Calls `$run` with the operands of a product with packed weights and returns, if the input has one of these types.
macro_rules! packed {
    (($plan:ident, $x:ident, $kernel:ident, $place:ident), [$($variant:ident),*], |$conv:ident, $rows:ident| $run:expr) => {
        match $x {
            $(Values::$variant(x) => {
                let pad = match &$plan.border {
                    Some(Values::$variant(border)) => Some(&**border),
                    _ => None,
                };
                let ($conv, $rows) = packed_conv($plan, x, $kernel, pad, $place);
                $run;
                return;
            })*
            _ => {}
        }
    };
}

impl Sum for i32 {
    const ZERO: Self = 0;

    fn product(plan: &LinearPlan, x: &Values, place: &Place<'_>, sums: &mut [Self]) {
        if let Some(lanes) = plan.weights.lanes() {
            match lanes {
                Lanes::Bytes(kernel) => {
                    packed!((plan, x, kernel, place), [U8, I8], |conv, rows| {
                        Kernels::active().conv2d_packed(&conv, rows, sums);
                    });
                }
                Lanes::Words(kernel) => {
                    packed!((plan, x, kernel, place), [U8, I8, I16], |conv, rows| {
                        Kernels::active().conv2d_packed(&conv, rows, sums);
                    });
                }
                Lanes::Pairs(kernel) => {
                    if let Some((conv, rows)) = pairs_conv(plan, x, kernel, place) {
                        return Kernels::active().conv2d_pairs(&conv, rows, sums);
                    }
                }
                // Kernels for finished results only.
                Lanes::Depthwise(_) | Lanes::PairedDepthwise(_) => {}
            }
        }
        macro_rules! call {
            ($x:ident, $w:ident, $variant:ident) => {{
                let border = match &plan.border {
                    Some(Values::$variant(border)) => Some(&**border),
                    _ => None,
                };
                run_kernel(plan, $x, $w, border, place, sums)
            }};
        }
        typed!(
            x,
            &plan.weights.packed,
            call,
            [
                (U8, I8),
                (I8, I8),
                (I16, I8),
                (I32, I8),
                (U8, I16),
                (I8, I16),
                (I16, I16),
                (I32, I16)
            ]
        );
    }

    fn dense(x: &Values, weights: &Weights, channels: usize, sums: &mut [Self]) {
        macro_rules! call {
            ($x:ident, $w:ident, $variant:ident) => {
                dense_kernel($x, $w, channels, weights.channels, sums)
            };
        }
        typed!(x, &weights.packed, call, [(I32, I8), (I32, I16)]);
    }
}

impl Sum for i64 {
    const ZERO: Self = 0;

    fn product(plan: &LinearPlan, x: &Values, place: &Place<'_>, sums: &mut [Self]) {
        macro_rules! call {
            ($x:ident, $w:ident, $variant:ident) => {{
                let border = match &plan.border {
                    Some(Values::$variant(border)) => Some(&**border),
                    _ => None,
                };
                run_kernel(plan, $x, $w, border, place, sums)
            }};
        }
        typed!(x, &plan.weights.packed, call, [(I32, I32)]);
    }

    fn dense(x: &Values, weights: &Weights, channels: usize, sums: &mut [Self]) {
        macro_rules! call {
            ($x:ident, $w:ident, $variant:ident) => {
                dense_kernel($x, $w, channels, weights.channels, sums)
            };
        }
        typed!(x, &weights.packed, call, [(I32, I32)]);
    }
}

#[expect(
    clippy::panic,
    reason = "the plan converts inputs and packs weights to these types"
)]
fn unreachable_types(x: &Values, w: &Packed) -> ! {
    panic!(
        "no kernel for {:?} and {:?}",
        std::mem::discriminant(x),
        std::mem::discriminant(w)
    )
}

/// Returns the operands of a convolution, or of a matrix product as a pointwise one, and its rows.
fn packed_conv<'a, X: Packable<L>, L: Lane>(
    plan: &LinearPlan,
    x: &'a [X],
    kernel: &'a kernels::Packed<L>,
    pad: Option<&'a [X]>,
    place: &Place<'_>,
) -> (PackedConv<'a, X, L>, std::ops::Range<usize>) {
    let (x, window, rows) = operands(plan, x, place);
    let conv = PackedConv {
        x,
        kernel,
        pad,
        window,
        channels: place.geometry.channels,
    };
    (conv, rows)
}

/// Returns the same for weights in pairs; `None` if `x` are no unsigned bytes.
fn pairs_conv<'a>(
    plan: &'a LinearPlan,
    x: &'a Values,
    kernel: &'a BytePairs,
    place: &Place<'_>,
) -> Option<(PairsConv<'a>, std::ops::Range<usize>)> {
    let Values::U8(x) = x else {
        return None;
    };
    let (x, window, rows) = operands(plan, x, place);
    let pad = match &plan.border {
        Some(Values::U8(border)) => Some(&**border),
        _ => None,
    };
    let conv = PairsConv {
        x,
        kernel,
        pad,
        window,
        channels: place.geometry.channels,
    };
    Some((conv, rows))
}

/// Returns the input of a convolution, or of a matrix product as a pointwise one, what its pixels see, and its rows.
fn operands<'a, X>(
    plan: &LinearPlan,
    x: &'a [X],
    place: &Place<'_>,
) -> (&'a [X], Window, std::ops::Range<usize>) {
    let Place {
        geometry,
        image,
        rows,
    } = place;
    let channels = geometry.channels;
    if matches!(plan.kind, Kind::Dense) {
        let x = &x[rows.start * channels..rows.end * channels];
        (x, Window::pointwise(rows.len(), 1), 0..rows.len())
    } else {
        (image_of(x, geometry, *image), geometry.window, rows.clone())
    }
}

fn image_of<'a, X>(x: &'a [X], geometry: &Geometry, image: usize) -> &'a [X] {
    let len = geometry.window.in_h * geometry.window.in_w * geometry.channels;
    &x[image * len..(image + 1) * len]
}

/// A type of results that are finished in one pass.
pub(super) trait Finished: Int {
    /// Writes the finished results of the rows of `place`.
    fn finish(
        plan: &LinearPlan,
        x: &Values,
        place: &Place<'_>,
        results: (&Finish, &mut [Self], &mut Extremes),
    );
}

macro_rules! finished {
    ($t:ident, $finish:ident) => {
        impl Finished for $t {
            fn finish(
                plan: &LinearPlan,
                x: &Values,
                place: &Place<'_>,
                results: (&Finish, &mut [Self], &mut Extremes),
            ) {
                $finish(plan, x, place, results);
            }
        }
    };
}
finished!(u8, finish_bytes);
finished!(i8, finish_bytes);
finished!(i32, finish_words);

fn finish_words(
    plan: &LinearPlan,
    x: &Values,
    place: &Place<'_>,
    (finish, out, extremes): (&Finish, &mut [i32], &mut Extremes),
) {
    let kernels = Kernels::active();
    match plan.weights.lanes() {
        Some(Lanes::Bytes(kernel)) => {
            packed!((plan, x, kernel, place), [U8, I8], |conv, rows| {
                kernels.conv2d_finished_words(&conv, rows, (finish, out, extremes));
            });
        }
        Some(Lanes::Words(kernel)) => {
            packed!((plan, x, kernel, place), [U8, I8, I16], |conv, rows| {
                kernels.conv2d_finished_words(&conv, rows, (finish, out, extremes));
            });
        }
        Some(Lanes::Pairs(kernel)) => {
            if let Some((conv, rows)) = pairs_conv(plan, x, kernel, place) {
                return kernels.conv2d_pairs_finished_words(&conv, rows, (finish, out, extremes));
            }
        }
        // Kernels for bytes only.
        Some(Lanes::Depthwise(_) | Lanes::PairedDepthwise(_)) | None => {}
    }
    i32::product(plan, x, place, out);
    kernels.finish_in_place(finish, out, extremes);
}

fn finish_bytes<O: Byte>(
    plan: &LinearPlan,
    x: &Values,
    place: &Place<'_>,
    (finish, out, extremes): (&Finish, &mut [O], &mut Extremes),
) {
    let kernels = Kernels::active();
    macro_rules! depthwise {
        ($kernel:ident, $run:ident, [$($variant:ident),*]) => {
            match x {
                $(Values::$variant(x) => {
                    let conv = PackedDepthwiseConv {
                        x: image_of(x, place.geometry, place.image),
                        kernel: $kernel,
                        window: place.geometry.window,
                    };
                    let rows = place.rows.clone();
                    return kernels.$run(&conv, rows, (finish, out, extremes));
                })*
                _ => {}
            }
        };
    }
    match plan.weights.lanes() {
        Some(Lanes::Bytes(kernel)) => {
            packed!((plan, x, kernel, place), [U8, I8], |conv, rows| {
                kernels.conv2d_finished(&conv, rows, (finish, out, extremes));
            });
        }
        Some(Lanes::Words(kernel)) => {
            packed!((plan, x, kernel, place), [U8, I8, I16], |conv, rows| {
                kernels.conv2d_finished(&conv, rows, (finish, out, extremes));
            });
        }
        Some(Lanes::Pairs(kernel)) => {
            if let Some((conv, rows)) = pairs_conv(plan, x, kernel, place) {
                return kernels.conv2d_pairs_finished(&conv, rows, (finish, out, extremes));
            }
        }
        Some(Lanes::Depthwise(kernel)) => depthwise!(kernel, depthwise_finished, [U8, I8]),
        Some(Lanes::PairedDepthwise(kernel)) => depthwise!(kernel, depthwise_paired, [U8, I8]),
        None => {}
    }
    let mut sums = vec![0; out.len()];
    i32::product(plan, x, place, &mut sums);
    kernels.finish(finish, &sums, out, extremes);
}

fn run_kernel<X, W, A>(
    plan: &LinearPlan,
    x: &[X],
    kernel: &[W],
    pad: Option<&[X]>,
    place: &Place<'_>,
    sums: &mut [A],
) where
    X: kernels::Activation,
    W: kernels::Weight,
    A: kernels::Accumulator + From<X> + From<W>,
{
    let Place {
        geometry,
        image,
        rows,
    } = place;
    let (window, channels, filters) = (geometry.window, geometry.channels, plan.weights.channels);
    match &plan.kind {
        Kind::Dense => {
            let x = &x[rows.start * channels..rows.end * channels];
            dense_kernel(x, kernel, channels, filters, sums);
        }
        Kind::Conv { .. } => {
            let len = window.in_h * window.in_w * channels;
            let x = &x[image * len..(image + 1) * len];
            let conv = Conv2d {
                x,
                kernel,
                pad,
                window,
                channels,
                filters,
            };
            Kernels::active().conv2d_int(&conv, rows.clone(), sums);
        }
        Kind::Transposed { .. } => {
            let len = window.in_h * window.in_w * channels;
            let conv = ConvTranspose2d {
                x: &x[image * len..(image + 1) * len],
                kernel,
                window,
                channels,
                filters,
            };
            Kernels::active().conv2d_transpose_int(&conv, rows.clone(), sums);
        }
        Kind::DepthwiseTransposed { .. } => {
            let len = window.in_h * window.in_w * channels;
            let conv = DepthwiseTranspose {
                x: &x[image * len..(image + 1) * len],
                kernel,
                window,
                channels,
            };
            Kernels::active().depthwise_transpose_int(&conv, rows.clone(), sums);
        }
        Kind::Depthwise { .. } | Kind::Separable { .. } => {
            let len = window.in_h * window.in_w * channels;
            let x = &x[image * len..(image + 1) * len];
            let conv = Depthwise {
                x,
                kernel,
                pad,
                window,
                channels,
            };
            Kernels::active().depthwise_int(&conv, rows.clone(), sums);
        }
    }
}

fn dense_kernel<X, W, A>(x: &[X], kernel: &[W], channels: usize, filters: usize, sums: &mut [A])
where
    X: kernels::Activation,
    W: kernels::Weight,
    A: kernels::Accumulator + From<X> + From<W>,
{
    Kernels::active().dense_int(
        &Dense {
            x,
            kernel,
            channels,
            filters,
        },
        sums,
    );
}
