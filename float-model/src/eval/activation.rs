//! Activation functions.

use rayon::prelude::*;

use crate::Activation;

impl Activation {
    /// Returns the function of one element, or `None` for softmax and its logarithm, which need its neighbours.
    ///
    /// `erf`, `exp`, `expm1`, `ln(1 + x)`, `tanh` and `sigmoid(x) = 1 / (1 + exp(-x))` are
    /// computed in f64 and rounded once to f32; all else is f32, one rounding an operation, in
    /// the order of the formula. `fl` rounds to f32, ties to even. NUMERICS.md: F1, N27.
    ///
    /// ```text
    /// relu          x < 0 ? 0 : x
    /// relu6         clip(x, 0, 6)
    /// gelu          (0.5 * x) * (1 + erf(x / fl(sqrt 2)))
    ///   approximate (0.5 * x) * (1 + tanh(fl(sqrt(2 / pi)) * (x + fl(0.044715) * ((x * x) * x))))
    /// swish         x * sigmoid(x)
    /// hard_silu     (x * clip(x + 3, 0, 6)) * fl(1 / 6)
    /// leaky_relu    x > 0 ? x : x * alpha
    /// hard_sigmoid  clip(fl(0.2) * x + 0.5, 0, 1)
    /// softplus      max(x, 0) + ln(1 + exp(-|x|)), the logarithm with its argument in f64
    /// softsign      x / (1 + |x|)
    /// elu           x > 0 ? x : expm1(x)
    /// selu          fl(1.0507009873554805) * (x > 0 ? x : fl(1.6732632423543772) * expm1(x))
    /// ```
    ///
    /// NaN gives NaN.
    #[must_use]
    pub fn of_element(self, x: f32) -> Option<f32> {
        Some(match self {
            Self::Linear => x,
            Self::Relu => relu(x),
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::Gelu { approximate: false } => {
                (0.5 * x) * (1.0 + in_f64(x / std::f32::consts::SQRT_2, libm::erf))
            }
            Self::Gelu { approximate: true } => {
                let inner = SQRT_2_OVER_PI * (x + 0.044_715 * ((x * x) * x));
                (0.5 * x) * (1.0 + in_f64(inner, libm::tanh))
            }
            Self::Swish => x * sigmoid(x),
            Self::HardSilu => (x * (x + 3.0).clamp(0.0, 6.0)) * (1.0 / 6.0),
            Self::LeakyRelu { alpha } => leaky(alpha, x),
            Self::Sigmoid => sigmoid(x),
            Self::HardSigmoid => (0.2 * x + 0.5).clamp(0.0, 1.0),
            Self::Tanh => in_f64(x, libm::tanh),
            Self::Softmax | Self::LogSoftmax => return None,
            Self::Softplus => relu(x) + in_f64(-x.abs(), |x| libm::log1p(libm::exp(x))),
            Self::Softsign => x / (1.0 + x.abs()),
            Self::Elu => elu(x),
            Self::Selu => SELU_SCALE * if x > 0.0 { x } else { SELU_ALPHA * elu(x) },
            Self::Exponential => in_f64(x, libm::exp),
        })
    }
}

/// `sqrt(2 / pi)`.
const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const SELU_SCALE: f32 = 1.050_701;
const SELU_ALPHA: f32 = 1.673_263_2;

/// Elements that one task handles; any division gives the same results.
const CHUNK: usize = 1 << 14;

/// Returns `activation` of a tensor of row-major elements, whose last axis has `n_last`.
pub(super) fn activate(activation: Activation, mut data: Vec<f32>, n_last: usize) -> Vec<f32> {
    let rows = |data: &mut Vec<f32>, of_row: fn(&mut [f32])| {
        data.par_chunks_mut(n_last.max(1))
            .with_min_len(64)
            .for_each(of_row);
    };
    if activation == Activation::Softmax {
        rows(&mut data, softmax);
    } else if activation == Activation::LogSoftmax {
        rows(&mut data, log_softmax);
    } else if activation != Activation::Linear {
        data.par_chunks_mut(CHUNK).for_each(|chunk| {
            for x in chunk {
                *x = activation.of_element(*x).unwrap_or(*x);
            }
        });
    }
    data
}

/// Replaces `row` by its softmax.
///
/// ```text
/// e_i = exp(x_i - max(x))           the difference in f32, exp as in `Activation::of_element`
/// y_i = e_i / (e_0 + e_1 + ...)     summed in f32 from the first element on
/// ```
fn softmax(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in row.iter_mut() {
        *x = in_f64(*x - max, libm::exp);
        sum += *x;
    }
    for x in row {
        *x /= sum;
    }
}

/// Replaces `row` by the logarithm of its softmax.
///
/// ```text
/// d_i = x_i - max(x)                                    in f32
/// y_i = d_i - ln(exp(d_0) + exp(d_1) + ...)             each exp rounded to f32, summed in f32 from the first
///                                                       element on, the logarithm rounded once
/// ```
fn log_softmax(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in row.iter_mut() {
        *x -= max;
        sum += in_f64(*x, libm::exp);
    }
    let log = in_f64(sum, libm::log);
    for x in row {
        *x -= log;
    }
}

/// Returns the upper end of a function that is a rectifier, 0 below 0; infinity is none. `None` for another function.
#[expect(clippy::wildcard_enum_match_arm, reason = "the rectifiers are named")]
pub(super) const fn plain_top(activation: Activation) -> Option<f32> {
    match activation {
        Activation::Relu => Some(f32::INFINITY),
        Activation::Relu6 => Some(6.0),
        _ => None,
    }
}

/// Returns `x` where positive, `x * alpha` elsewhere.
pub(super) fn leaky(alpha: f32, x: f32) -> f32 {
    if x > 0.0 { x } else { x * alpha }
}

fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

fn elu(x: f32) -> f32 {
    if x > 0.0 { x } else { in_f64(x, libm::expm1) }
}

fn sigmoid(x: f32) -> f32 {
    in_f64(x, |x| 1.0 / (1.0 + libm::exp(-x)))
}

/// Returns `f(x)` computed in f64 and rounded once.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the one rounding, ties to even; an overflow gives infinity"
)]
fn in_f64(x: f32, f: impl Fn(f64) -> f64) -> f32 {
    f(f64::from(x)) as f32
}
