//! The definition of each operation, one output element at a time, by index arithmetic. Shares no code with the crate.

use kernels::Window;

/// What a tap outside the image reads.
pub(crate) enum Outside<'a, X> {
    Skip,
    Pad(&'a [X]),
}

/// Where tap (`t_row`, `t_col`) of output (`o_row`, `o_col`) reads.
enum Read {
    Nothing,
    Outside,
    At(usize, usize),
}

fn forward(n_in: usize, o: usize, t: usize, [stride, dilation, pad]: [usize; 3]) -> Option<usize> {
    let i = (o * stride + t * dilation) as i64 - pad as i64;
    (i >= 0 && i < n_in as i64).then_some(i as usize)
}

/// By search over the inputs, as the specification states it: the `i` with `i * s + t * d - off = o`.
fn transposed(
    n_in: usize,
    o: usize,
    t: usize,
    [stride, dilation, off]: [usize; 3],
) -> Option<usize> {
    (0..n_in).find(|i| i * stride + t * dilation == o + off)
}

fn read(w: &Window, is_transposed: bool, o: (usize, usize), t: (usize, usize)) -> Read {
    let rows = [w.stride_h, w.dilation_h, w.pad_top];
    let cols = [w.stride_w, w.dilation_w, w.pad_left];
    if is_transposed {
        match (
            transposed(w.in_h, o.0, t.0, rows),
            transposed(w.in_w, o.1, t.1, cols),
        ) {
            (Some(row), Some(col)) => Read::At(row, col),
            _ => Read::Nothing,
        }
    } else {
        match (
            forward(w.in_h, o.0, t.0, rows),
            forward(w.in_w, o.1, t.1, cols),
        ) {
            (Some(row), Some(col)) => Read::At(row, col),
            _ => Read::Outside,
        }
    }
}

/// Geometry of one operation.
pub(crate) struct Geometry<'a> {
    pub(crate) window: &'a Window,
    pub(crate) is_transposed: bool,
    pub(crate) channels: usize,
    pub(crate) filters: usize,
}

/// Folds `step(acc, x, w)` over the taps of every output element, channels mixed.
pub(crate) fn conv<X: Copy, W: Copy, A: Copy>(
    g: &Geometry<'_>,
    x: &[X],
    kernel: &[W],
    outside: &Outside<'_, X>,
    zero: A,
    step: impl Fn(A, X, W) -> A,
) -> Vec<A> {
    let w = g.window;
    let mut out = Vec::new();
    for o_row in 0..w.out_h {
        for o_col in 0..w.out_w {
            for f in 0..g.filters {
                let mut acc = zero;
                for t_row in 0..w.kernel_h {
                    for t_col in 0..w.kernel_w {
                        let read = read(w, g.is_transposed, (o_row, o_col), (t_row, t_col));
                        for c in 0..g.channels {
                            let weight = kernel
                                [((t_row * w.kernel_w + t_col) * g.channels + c) * g.filters + f];
                            match (&read, outside) {
                                (Read::At(row, col), _) => {
                                    acc =
                                        step(acc, x[(row * w.in_w + col) * g.channels + c], weight);
                                }
                                (Read::Outside, Outside::Pad(pad)) => {
                                    acc = step(acc, pad[c], weight);
                                }
                                (Read::Outside, Outside::Skip) | (Read::Nothing, _) => {}
                            }
                        }
                    }
                }
                out.push(acc);
            }
        }
    }
    out
}

/// Folds `step(acc, x, w)` over the taps of every output element, each channel for itself.
pub(crate) fn depthwise<X: Copy, W: Copy, A: Copy>(
    g: &Geometry<'_>,
    x: &[X],
    kernel: &[W],
    outside: &Outside<'_, X>,
    zero: A,
    step: impl Fn(A, X, W) -> A,
) -> Vec<A> {
    let w = g.window;
    let mut out = Vec::new();
    for o_row in 0..w.out_h {
        for o_col in 0..w.out_w {
            for c in 0..g.channels {
                let mut acc = zero;
                for t_row in 0..w.kernel_h {
                    for t_col in 0..w.kernel_w {
                        let weight = kernel[(t_row * w.kernel_w + t_col) * g.channels + c];
                        match (
                            read(w, g.is_transposed, (o_row, o_col), (t_row, t_col)),
                            outside,
                        ) {
                            (Read::At(row, col), _) => {
                                acc = step(acc, x[(row * w.in_w + col) * g.channels + c], weight);
                            }
                            (Read::Outside, Outside::Pad(pad)) => acc = step(acc, pad[c], weight),
                            (Read::Outside, Outside::Skip) | (Read::Nothing, _) => {}
                        }
                    }
                }
                out.push(acc);
            }
        }
    }
    out
}

/// The maximum over the taps of every output element, `min` for none.
pub(crate) fn max_pool<X: Copy + Ord>(w: &Window, channels: usize, x: &[X], min: X) -> Vec<X> {
    let g = Geometry {
        window: w,
        is_transposed: false,
        channels,
        filters: channels,
    };
    let ones = vec![(); w.kernel_h * w.kernel_w * channels];
    depthwise(&g, x, &ones, &Outside::Skip, min, |max, x, ()| max.max(x))
}

/// `x * w + acc`, rounded once, without a fused instruction.
///
/// The f64 product of two f32 is exact. The sum is rounded to odd in f64, which has more than twice the bits of an
/// f32, so that the second rounding sees on which side of a tie the exact sum lies.
pub(crate) fn fma(acc: f32, x: f32, w: f32) -> f32 {
    let (product, addend) = (f64::from(x) * f64::from(w), f64::from(acc));
    let sum = product + addend;
    if !sum.is_finite() {
        return sum as f32;
    }
    let addend_part = sum - product;
    let error = (product - (sum - addend_part)) + (addend - addend_part);
    if error == 0.0 || sum.to_bits() & 1 == 1 {
        return sum as f32;
    }
    let away_from_zero = (error > 0.0) == (sum > 0.0);
    let odd = if away_from_zero {
        sum.to_bits() + 1
    } else {
        sum.to_bits() - 1
    };
    f64::from_bits(odd) as f32
}
