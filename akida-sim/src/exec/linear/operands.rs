//! What a layer multiplies with what.

use std::borrow::Cow;

use float_model::Padding;
use ndarray::{Array, Dimension};
use quantizer_core::layers::{Border, ConvOp, DepthwiseOp, IntegerLayer, IntegerOp};
use quantizer_core::round::shift_left;

use super::{ConvPadding, Kind, Steps};
use crate::exec::bounds::{Interval, entered, with_border, with_zero};
use crate::exec::tensor::{Int, Values};
use crate::exec::weights::{Unaligned, Weights};

/// What a layer multiplies with what.
pub(super) struct Operands {
    pub(super) kind: Kind,
    /// Whether the weights hold the shifts of the entry stage.
    pub(super) aligns: bool,
    pub(super) weights: Weights,
    /// Interval of everything that the weights meet.
    pub(super) covered: Interval,
    pub(super) border: Option<Values>,
}

impl Operands {
    /// Returns the operands of a layer with weights for entered inputs in `x`.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the layers that run as products are named"
    )]
    pub(super) fn new(layer: &IntegerLayer, input: Interval) -> Option<Self> {
        if let Some(operands) = Self::aligning(layer, input) {
            return Some(operands);
        }
        let x = entered(layer, input);
        Some(match &layer.op {
            IntegerOp::Conv2D(op) => Self::conv(op, x),
            IntegerOp::DepthwiseConv2D(op) => {
                let kind = Kind::Depthwise {
                    kernel: [op.kernel.dim().0, op.kernel.dim().1],
                    steps: Steps::of(op),
                    padding: op.padding,
                };
                Self::plain(kind, &row_major(&op.kernel), op.kernel.dim().2, x)
            }
            IntegerOp::SeparableConv2D {
                depthwise: op,
                pointwise,
            } => {
                let inner = layer.inner.value_bits;
                let sums = Interval {
                    lo: inner.int_min(),
                    hi: inner.int_max(),
                };
                let kind = Kind::Separable {
                    kernel: [op.kernel.dim().0, op.kernel.dim().1],
                    steps: Steps::of(op),
                    padding: op.padding,
                    pointwise: Box::new(Weights::new(
                        &row_major(pointwise),
                        pointwise.ncols(),
                        sums,
                    )),
                    inner,
                };
                Self::plain(kind, &row_major(&op.kernel), op.kernel.dim().2, x)
            }
            IntegerOp::Conv2DTranspose(op) => {
                let (kh, kw, _, filters) = op.kernel.dim();
                let kind = Kind::Transposed {
                    kernel: [kh, kw],
                    strides: op.strides,
                    padding: op.padding,
                    output_padding: op.output_padding,
                };
                Self::plain(kind, &row_major(&op.kernel), filters, x)
            }
            IntegerOp::DepthwiseConv2DTranspose(op) => {
                let (kh, kw, channels) = op.kernel.dim();
                let kind = Kind::DepthwiseTransposed {
                    kernel: [kh, kw],
                    strides: op.strides,
                };
                Self::plain(kind, &row_major(&op.kernel), channels, x)
            }
            IntegerOp::Dense { kernel } | IntegerOp::StatefulProjection { kernel, .. } => {
                Self::plain(Kind::Dense, &row_major(kernel), kernel.ncols(), x)
            }
            // Frames before the first are zeros.
            IntegerOp::BufferTempConv { kernel, .. } => Self::plain(
                Kind::Dense,
                &row_major(kernel),
                kernel.ncols(),
                with_zero(x),
            ),
            _ => return None,
        })
    }

    /// Returns the operands with the shifts of the channels moved from the inputs to the weights: the inputs stay bytes.
    ///
    /// `None` where there is nothing to move, an input could clip, or a weight would need more than 16 bits.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the layers that run as matrix products are named"
    )]
    fn aligning(layer: &IntegerLayer, input: Interval) -> Option<Self> {
        let entry = layer.entries.first().filter(|entry| !entry.is_identity())?;
        let (kernel, n_channels, filters) = match &layer.op {
            IntegerOp::Conv2D(op) if !matches!(op.border, Border::Value(_)) => {
                let (_, _, channels, filters) = op.kernel.dim();
                (row_major(&op.kernel), channels, filters)
            }
            IntegerOp::Dense { kernel } => (row_major(kernel), kernel.nrows(), kernel.ncols()),
            _ => return None,
        };
        let most = entry.shift.as_slice().iter().copied().max()?;
        let clips = |v: i64| entry.value_bits.saturate(shift_left(v, most)) != shift_left(v, most);
        if clips(input.lo) || clips(input.hi) {
            return None;
        }
        let shifts = (0..kernel.len().checked_div(filters).unwrap_or(0))
            .map(|row| entry.shift.at(row.rem_euclid(n_channels.max(1))));
        let mut aligned = Vec::with_capacity(kernel.len());
        for (weights, shift) in kernel.chunks(filters.max(1)).zip(shifts.clone()) {
            // What leaves 16 bits by a shift of 16 does by a larger one.
            let shift = shift.min(16);
            aligned.extend(weights.iter().map(|w| i64::from(*w) << shift));
        }
        if aligned.iter().any(|w| i16::try_from(*w).is_err()) {
            return None;
        }
        let aligned: Vec<i32> = aligned.into_iter().map(i32::narrow).collect();
        let mut operands = match &layer.op {
            IntegerOp::Conv2D(op) => Self::conv_of(op, &aligned, input),
            _ => Self::plain(Kind::Dense, &aligned, filters, input),
        };
        operands.weights.unaligned = unaligned(&kernel, shifts);
        Some(Self {
            aligns: true,
            ..operands
        })
    }

    fn plain(kind: Kind, kernel: &[i32], channels: usize, covered: Interval) -> Self {
        Self {
            kind,
            weights: Weights::new(kernel, channels, covered),
            aligns: false,
            covered,
            border: None,
        }
    }

    fn conv(op: &ConvOp, x: Interval) -> Self {
        Self::conv_of(op, &row_major(&op.kernel), x)
    }

    /// Returns the operands of a convolution with the weights `kernel` instead of its own.
    fn conv_of(op: &ConvOp, kernel: &[i32], x: Interval) -> Self {
        let (kh, kw, channels, filters) = op.kernel.dim();
        let covered = with_border(x, &op.border);
        let padding = match &op.border {
            Border::Valid => ConvPadding::Plain(Padding::Valid),
            Border::Same => ConvPadding::Plain(Padding::Same),
            Border::Value(_) => ConvPadding::Filled,
        };
        let steps = Steps {
            strides: op.strides,
            dilation: op.dilation,
        };
        let kind = Kind::Conv {
            kernel: [kh, kw],
            steps,
            padding,
        };
        Self {
            border: border_values(&op.border, channels),
            ..Self::plain(kind, kernel, filters, covered)
        }
    }
}

impl Steps {
    const fn of(op: &DepthwiseOp) -> Self {
        Self {
            strides: op.strides,
            dilation: op.dilation,
        }
    }
}

/// Returns the elements of a kernel, its last axis fastest.
fn row_major<D: Dimension>(kernel: &Array<i32, D>) -> Cow<'_, [i32]> {
    let elements = || Cow::Owned(kernel.iter().copied().collect());
    kernel.as_slice().map_or_else(elements, Cow::Borrowed)
}

/// Returns weights before their rows are shifted, if they are bytes.
fn unaligned(kernel: &[i32], shifts: impl Iterator<Item = u32>) -> Option<Unaligned> {
    let weights = kernel.iter().map(|w| i8::try_from(*w).ok());
    Some(Unaligned {
        weights: weights.collect::<Option<_>>()?,
        shifts: shifts.collect(),
    })
}

fn border_values(border: &Border, channels: usize) -> Option<Values> {
    match border {
        Border::Valid | Border::Same => None,
        Border::Value(values) => Some(Values::I64((0..channels).map(|c| values.at(c)).collect())),
    }
}
