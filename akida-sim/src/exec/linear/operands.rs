//! What a layer multiplies with what.

use float_model::Padding;
use quantizer_core::layers::{Border, ConvOp, DepthwiseOp, IntegerLayer, IntegerOp};

use super::{ConvPadding, Kind, Steps};
use crate::exec::bounds::{Interval, with_border, with_zero};
use crate::exec::tensor::Values;
use crate::exec::weights::Weights;

/// What a layer multiplies with what.
pub(super) struct Operands {
    pub(super) kind: Kind,
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
    pub(super) fn new(layer: &IntegerLayer, x: Interval) -> Option<Self> {
        Some(match &layer.op {
            IntegerOp::Conv2D(op) => Self::conv(op, x),
            IntegerOp::DepthwiseConv2D(op) => {
                let kind = Kind::Depthwise {
                    kernel: [op.kernel.dim().0, op.kernel.dim().1],
                    steps: Steps::of(op),
                    padding: op.padding,
                };
                Self::plain(kind, op.kernel.iter(), op.kernel.dim().2, x)
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
                    pointwise: Weights::new(pointwise.iter(), pointwise.ncols(), sums),
                    inner,
                };
                Self::plain(kind, op.kernel.iter(), op.kernel.dim().2, x)
            }
            IntegerOp::Conv2DTranspose(op) => {
                let (kh, kw, _, filters) = op.kernel.dim();
                let kind = Kind::Transposed {
                    kernel: [kh, kw],
                    strides: op.strides,
                    padding: op.padding,
                    output_padding: op.output_padding,
                };
                Self::plain(kind, op.kernel.iter(), filters, x)
            }
            IntegerOp::DepthwiseConv2DTranspose(op) => {
                let (kh, kw, channels) = op.kernel.dim();
                let kind = Kind::DepthwiseTransposed {
                    kernel: [kh, kw],
                    strides: op.strides,
                };
                Self::plain(kind, op.kernel.iter(), channels, x)
            }
            IntegerOp::Dense { kernel } | IntegerOp::StatefulProjection { kernel, .. } => {
                Self::plain(Kind::Dense, kernel.iter(), kernel.ncols(), x)
            }
            // Frames before the first are zeros.
            IntegerOp::BufferTempConv { kernel, .. } => {
                Self::plain(Kind::Dense, kernel.iter(), kernel.ncols(), with_zero(x))
            }
            _ => return None,
        })
    }

    fn plain<'a>(
        kind: Kind,
        kernel: impl Iterator<Item = &'a i32> + Clone,
        channels: usize,
        covered: Interval,
    ) -> Self {
        Self {
            kind,
            weights: Weights::new(kernel, channels, covered),
            covered,
            border: None,
        }
    }

    fn conv(op: &ConvOp, x: Interval) -> Self {
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
            ..Self::plain(kind, op.kernel.iter(), filters, covered)
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

fn border_values(border: &Border, channels: usize) -> Option<Values> {
    match border {
        Border::Valid | Border::Same => None,
        Border::Value(values) => Some(Values::I64((0..channels).map(|c| values.at(c)).collect())),
    }
}
