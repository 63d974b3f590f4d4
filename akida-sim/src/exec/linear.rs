//! Layers with weights: packed once, run block by block.

mod products;

use float_model::Padding;
use kernels::Window;
use quantizer_core::geometry::{same_pads, window_extent};
use quantizer_core::layers::{Border, ConvOp, DepthwiseOp, IntegerLayer, IntegerOp};
use quantizer_core::{Counters, Stage, StageCount, ValueBits};
use rayon::prelude::*;

use super::bounds::{Interval, entered, with_border};
use super::epilogue::{Epilogue, Tally, saturate};
use super::tensor::{Int, Storage, Tensor, Values, with_storage};
use super::weights::Weights;
use crate::ModelError;
use crate::exec::entry::entered_values;
use products::Sum;

/// Outputs computed at once by a worker: small enough for its cache.
const BLOCK_VALUES: usize = 1 << 14;

/// A layer with weights, ready to run.
#[derive(Clone, Debug)]
pub(super) struct LinearPlan {
    kind: Kind,
    weights: Weights,
    /// Type of the entered inputs.
    input: Storage,
    /// Values of the border in the channels of the input.
    border: Option<Values>,
    epilogue: Epilogue,
    out_channels: usize,
    out: Storage,
}

#[derive(Clone, Debug)]
enum Kind {
    Conv {
        kernel: [usize; 2],
        steps: Steps,
        padding: ConvPadding,
    },
    Depthwise {
        kernel: [usize; 2],
        steps: Steps,
        padding: Padding,
    },
    Separable {
        kernel: [usize; 2],
        steps: Steps,
        padding: Padding,
        pointwise: Weights,
        inner: ValueBits,
    },
    Dense,
}

#[derive(Clone, Copy, Debug)]
struct Steps {
    strides: [usize; 2],
    dilation: [usize; 2],
}

#[derive(Clone, Copy, Debug)]
enum ConvPadding {
    Plain(Padding),
    /// The border of an undilated 'same', filled with values.
    Filled,
}

impl LinearPlan {
    /// Returns the plan of a layer with weights for inputs in `input`; `None` for other layers.
    pub(super) fn new(layer: &IntegerLayer, input: Interval, out: Storage) -> Option<Self> {
        let x = entered(layer, input);
        let Operands {
            kind,
            weights,
            covered,
            border,
        } = Operands::new(layer, x)?;
        let out_channels = match &kind {
            Kind::Separable { pointwise, .. } => pointwise.channels,
            Kind::Conv { .. } | Kind::Depthwise { .. } | Kind::Dense => weights.channels,
        };
        let epilogue = Epilogue::new(layer, Some(Stage::Accumulator), out_channels);
        // Wide sums are taken over `i32` inputs and weights only: fewer kernels, rare layers.
        let input = if weights.wide {
            Storage::I32
        } else {
            Storage::of(covered.lo, covered.hi)
        };
        let border = border.map(|values| convert(values, input));
        Some(Self {
            kind,
            weights,
            input,
            border,
            epilogue,
            out_channels,
            out,
        })
    }

    /// Returns the layer's output.
    pub(super) fn run(
        &self,
        name: &str,
        layer: &IntegerLayer,
        x: &Tensor,
        counters: &mut Counters,
    ) -> Result<Tensor, ModelError> {
        let x = entered_values(name, &layer.entries[0], x, Some(self.input), counters)?;
        let geometry = self.geometry(name, &x.shape)?;
        with_storage!(self.out, O => {
            if self.final_weights().wide {
                self.blocks::<i64, O>(&x, &geometry, counters)
            } else {
                self.blocks::<i32, O>(&x, &geometry, counters)
            }
        })
    }

    fn final_weights(&self) -> &Weights {
        match &self.kind {
            Kind::Separable { pointwise, .. } => pointwise,
            Kind::Conv { .. } | Kind::Depthwise { .. } | Kind::Dense => &self.weights,
        }
    }

    fn blocks<A: Sum, O: Int>(
        &self,
        x: &Tensor,
        geometry: &Geometry,
        counters: &mut Counters,
    ) -> Result<Tensor, ModelError> {
        let row_len = geometry.row_len * self.out_channels;
        let image_len = geometry.n_rows * row_len;
        let mut out = vec![O::narrow(0); geometry.n_images * image_len];
        let rows_per_block = BLOCK_VALUES.div_euclid(row_len.max(1)).max(1);
        let block_len = (rows_per_block * row_len).max(1);
        let results: Vec<(Tally, StageCount)> = out
            .par_chunks_mut(image_len.max(1))
            .enumerate()
            .flat_map(|(image, rows)| {
                rows.par_chunks_mut(block_len)
                    .enumerate()
                    .map(move |(block, out)| {
                        let first = block * rows_per_block;
                        let n_rows = out.len().checked_div(row_len).unwrap_or(0);
                        self.block::<A, O>(x, geometry, (image, first..first + n_rows), out)
                    })
            })
            .collect();
        let (mut tally, mut inner) = (Tally::default(), StageCount::default());
        for (block, depthwise) in results {
            tally.merge(&block);
            inner.saturated += depthwise.saturated;
            inner.elements += depthwise.elements;
            inner.max_abs = inner.max_abs.max(depthwise.max_abs);
        }
        if matches!(self.kind, Kind::Separable { .. }) {
            counters.add(Stage::DepthwiseAccumulator, inner);
        }
        self.epilogue.count(&tally, counters);
        Ok(Tensor {
            shape: geometry.out_shape.clone(),
            values: O::values(out),
        })
    }

    fn block<A: Sum, O: Int>(
        &self,
        x: &Tensor,
        geometry: &Geometry,
        (image, rows): (usize, std::ops::Range<usize>),
        out: &mut [O],
    ) -> (Tally, StageCount) {
        let mut sums = vec![A::ZERO; out.len()];
        let mut inner = StageCount::default();
        let place = Place {
            geometry,
            image,
            rows,
        };
        match &self.kind {
            Kind::Separable {
                pointwise,
                inner: bits,
                ..
            } => {
                let n_pixels = out.len().div_euclid(self.out_channels.max(1));
                let mut depthwise = vec![0i32; n_pixels * self.weights.channels];
                self.depthwise_sums(&x.values, &place, *bits, &mut depthwise, &mut inner);
                A::dense(
                    &Values::I32(depthwise),
                    pointwise,
                    self.weights.channels,
                    &mut sums,
                );
            }
            Kind::Conv { .. } | Kind::Depthwise { .. } | Kind::Dense => {
                A::product(self, &x.values, &place, &mut sums);
            }
        }
        let mut tally = Tally::default();
        for (sums, out) in sums
            .chunks_exact(self.out_channels)
            .zip(out.chunks_exact_mut(self.out_channels))
        {
            for (channel, (sum, out)) in sums.iter().zip(out).enumerate() {
                *out = O::narrow(self.epilogue.apply(sum.wide(), channel, &mut tally));
            }
        }
        (tally, inner)
    }

    /// Writes the saturated sums of a separable convolution's depthwise half.
    fn depthwise_sums(
        &self,
        x: &Values,
        place: &Place<'_>,
        bits: ValueBits,
        out: &mut [i32],
        count: &mut StageCount,
    ) {
        if self.weights.wide {
            let mut sums = vec![0i64; out.len()];
            i64::product(self, x, place, &mut sums);
            let narrowed = sums
                .iter()
                .map(|sum| i32::narrow(saturate(*sum, bits, count)));
            out.iter_mut().zip(narrowed).for_each(|(out, v)| *out = v);
        } else {
            i32::product(self, x, place, out);
            out.iter_mut()
                .for_each(|v| *v = i32::narrow(saturate(v.wide(), bits, count)));
        }
    }

    fn geometry(&self, name: &str, x: &[usize]) -> Result<Geometry, ModelError> {
        let misfit = || ModelError::invalid(name, format!("cannot run on a tensor of shape {x:?}"));
        let (kernel, steps, padding) = match &self.kind {
            Kind::Dense => {
                let (channels, leading) = x.split_last().ok_or_else(misfit)?;
                let out_shape: Vec<usize> =
                    leading.iter().copied().chain([self.out_channels]).collect();
                return Ok(Geometry {
                    n_images: 1,
                    n_rows: leading.iter().product(),
                    row_len: 1,
                    out_shape,
                    channels: *channels,
                    window: Window::pointwise(0, 0),
                });
            }
            Kind::Conv {
                kernel,
                steps,
                padding,
            } => (*kernel, *steps, *padding),
            Kind::Depthwise {
                kernel,
                steps,
                padding,
            }
            | Kind::Separable {
                kernel,
                steps,
                padding,
                ..
            } => (*kernel, *steps, ConvPadding::Plain(*padding)),
        };
        let &[batch, in_h, in_w, channels] = x else {
            return Err(misfit());
        };
        let (out_h, pad_top) = axis(in_h, kernel[0], &steps, 0, padding).ok_or_else(misfit)?;
        let (out_w, pad_left) = axis(in_w, kernel[1], &steps, 1, padding).ok_or_else(misfit)?;
        let window = Window {
            in_h,
            in_w,
            out_h,
            out_w,
            kernel_h: kernel[0],
            kernel_w: kernel[1],
            stride_h: steps.strides[0],
            stride_w: steps.strides[1],
            dilation_h: steps.dilation[0],
            dilation_w: steps.dilation[1],
            pad_top,
            pad_left,
        };
        let out_shape = vec![batch, out_h, out_w, self.out_channels];
        Ok(Geometry {
            n_images: batch,
            n_rows: out_h,
            row_len: out_w,
            out_shape,
            channels,
            window,
        })
    }
}

/// What a layer multiplies with what.
struct Operands {
    kind: Kind,
    weights: Weights,
    /// Interval of everything that the weights meet.
    covered: Interval,
    border: Option<Values>,
}

impl Operands {
    /// Returns the operands of a layer with weights for entered inputs in `x`.
    fn new(layer: &IntegerLayer, x: Interval) -> Option<Self> {
        match &layer.op {
            IntegerOp::Conv2D(op) => Some(Self::conv(op, x)),
            IntegerOp::DepthwiseConv2D(op) => {
                let kernel = [op.kernel.dim().0, op.kernel.dim().1];
                let kind = Kind::Depthwise {
                    kernel,
                    steps: Steps::of(op),
                    padding: op.padding,
                };
                let weights = Weights::new(op.kernel.iter(), op.kernel.dim().2, x);
                Some(Self {
                    kind,
                    weights,
                    covered: x,
                    border: None,
                })
            }
            IntegerOp::SeparableConv2D {
                depthwise: op,
                pointwise,
            } => {
                let kernel = [op.kernel.dim().0, op.kernel.dim().1];
                let inner = layer.inner.value_bits;
                let sums = Interval {
                    lo: inner.int_min(),
                    hi: inner.int_max(),
                };
                let pointwise = Weights::new(pointwise.iter(), pointwise.ncols(), sums);
                let (steps, padding) = (Steps::of(op), op.padding);
                let kind = Kind::Separable {
                    kernel,
                    steps,
                    padding,
                    pointwise,
                    inner,
                };
                let weights = Weights::new(op.kernel.iter(), op.kernel.dim().2, x);
                Some(Self {
                    kind,
                    weights,
                    covered: x,
                    border: None,
                })
            }
            IntegerOp::Dense { kernel } => {
                let weights = Weights::new(kernel.iter(), kernel.ncols(), x);
                Some(Self {
                    kind: Kind::Dense,
                    weights,
                    covered: x,
                    border: None,
                })
            }
            IntegerOp::ReLU { .. }
            | IntegerOp::MaxPool2D(_)
            | IntegerOp::GlobalAveragePooling2D { .. }
            | IntegerOp::Add
            | IntegerOp::Concatenate
            | IntegerOp::Flatten
            | IntegerOp::Reshape { .. }
            | IntegerOp::Identity => None,
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
        Self {
            kind: Kind::Conv {
                kernel: [kh, kw],
                steps,
                padding,
            },
            weights: Weights::new(op.kernel.iter(), filters, covered),
            covered,
            border: border_values(&op.border, channels),
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

/// Extents of one run.
#[derive(Debug)]
struct Geometry {
    n_images: usize,
    n_rows: usize,
    /// Pixels of an output row.
    row_len: usize,
    out_shape: Vec<usize>,
    channels: usize,
    window: Window,
}

/// Which output rows a worker computes.
struct Place<'a> {
    geometry: &'a Geometry,
    image: usize,
    rows: std::ops::Range<usize>,
}

fn border_values(border: &Border, channels: usize) -> Option<Values> {
    match border {
        Border::Valid | Border::Same => None,
        Border::Value(values) => Some(Values::I64((0..channels).map(|c| values.at(c)).collect())),
    }
}

fn convert(values: Values, storage: Storage) -> Values {
    let Values::I64(wide) = values else {
        return values;
    };
    with_storage!(storage, T => T::values(wide.into_iter().map(T::narrow).collect()))
}

/// Returns the output extent and the border before the first position of one axis.
fn axis(
    n: usize,
    kernel: usize,
    steps: &Steps,
    axis: usize,
    padding: ConvPadding,
) -> Option<(usize, usize)> {
    let (stride, dilation) = (steps.strides[axis], steps.dilation[axis]);
    match padding {
        ConvPadding::Plain(padding) => {
            let out = window_extent(n, kernel, stride, dilation, padding)?;
            let before = match padding {
                Padding::Same => same_pads(n, kernel, stride, dilation).0,
                Padding::Valid => 0,
            };
            Some((out, before))
        }
        ConvPadding::Filled => {
            let (before, after) = same_pads(n, kernel, stride, 1);
            let padded = n + before + after;
            let out = window_extent(padded, kernel, stride, dilation, Padding::Valid)?;
            Some((out, before))
        }
    }
}
