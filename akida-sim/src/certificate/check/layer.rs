//! The intermediates of one layer, computed again from the ranges of its inputs.

use ndarray::Array2;
use quantizer_core::Stage;
use quantizer_core::layers::{Border, ConcatAxis, IntegerLayer, IntegerOp, RecurrentOp};

use super::Checked;
use super::span::{Span, cut, each, full, half_up, in_64_bits, join, left, plus, times, total};
use super::sums::{depthwise, matrix, windows};
use super::widths::Widths;

/// Ranges of an input and the extents of its items.
pub(super) type Input<'a> = (&'a [Span], &'a [Option<usize>]);

/// The intermediates that were found, with their widths.
#[derive(Default)]
pub(super) struct Found(pub(super) Vec<(Stage, u8, Vec<Span>)>);

impl Found {
    /// Notes an intermediate and returns what is left of it after saturation.
    pub(super) fn clip(&mut self, stage: Stage, bits: u8, values: Vec<Span>) -> Vec<Span> {
        let clipped = values.iter().map(|span| cut(*span, bits)).collect();
        self.0.push((stage, bits, values));
        clipped
    }

    /// Returns the ranges of a layer's outputs.
    pub(super) fn layer(
        &mut self,
        layer: &IntegerLayer,
        widths: &Widths,
        inputs: &[Input<'_>],
        shape: &[Option<usize>],
    ) -> Checked<Vec<Span>> {
        let mut entered = Vec::new();
        let entries = layer.entries.iter().zip(&widths.entries);
        for ((x, item), (entry, bits)) in inputs.iter().zip(entries) {
            let mut x = x.to_vec();
            if entry.shift.as_slice().iter().any(|shift| *shift != 0) {
                let shifted = each(&x, |v, c| left(v, entry.shift.at(c)));
                x = self.clip(entry.stage, *bits, shifted);
            }
            entered.push((x, *item));
        }
        let bits = widths.inner;
        let mut y = self.operation(layer, widths, &entered, shape)?;
        if let Some(bias) = &layer.bias {
            let (low, high) = full(bits);
            let aligned = |c| left(bias.values.at(c).into(), bias.shift.at(c)).clamp(low, high);
            let sums = each(&y, |v, c| v + aligned(c));
            y = self.clip(Stage::BiasAdd, bits, sums);
        }
        if let Some(output) = &layer.output {
            if let Some(((q, _), buffer)) = output.multiplier.as_ref().zip(widths.product) {
                let products = each(&y, |v, c| in_64_bits(v * i128::from(q.at(c))));
                y = self.clip(Stage::ScaleMultiply, buffer, products);
            }
            let shifted = each(&y, |v, c| half_up(v, output.shift.at(c)));
            y = self.clip(Stage::OutputRescale, output.value_bits.bits(), shifted);
        }
        Ok(y)
    }

    fn operation(
        &mut self,
        layer: &IntegerLayer,
        widths: &Widths,
        inputs: &[(Vec<Span>, &[Option<usize>])],
        shape: &[Option<usize>],
    ) -> Checked<Vec<Span>> {
        let bits = widths.inner;
        let (x, item) = inputs.first().ok_or("no input")?;
        let channels = shape.last().copied().flatten();
        let acc = Stage::Accumulator;
        Ok(match &layer.op {
            IntegerOp::Conv2D(_)
            | IntegerOp::DepthwiseConv2D(_)
            | IntegerOp::Conv2DTranspose(_)
            | IntegerOp::DepthwiseConv2DTranspose(_) => {
                if let IntegerOp::Conv2D(op) = &layer.op
                    && let Border::Value(fill) = &op.border
                {
                    let border = |c| i128::from(fill.at(c));
                    let padded = x.iter().enumerate();
                    let padded = padded.map(|(c, x)| join(*x, (border(c), border(c))));
                    self.clip(Stage::PaddedInput, bits, padded.collect());
                }
                let sums = windows(&layer.op, x, item).ok_or("no window")?;
                self.clip(acc, bits, sums)
            }
            IntegerOp::SeparableConv2D {
                depthwise: dw,
                pointwise,
            } => {
                let inner = self.clip(Stage::DepthwiseAccumulator, bits, depthwise(dw, x, item));
                self.clip(acc, bits, matrix(pointwise, &inner))
            }
            IntegerOp::Dense { kernel } | IntegerOp::StatefulProjection { kernel, .. } => {
                self.clip(acc, bits, matrix(kernel, x))
            }
            IntegerOp::BufferTempConv { kernel, n_frames } => {
                let past = self.past(bits, x);
                let mut rows = past.repeat(n_frames - 1);
                rows.extend(x);
                self.clip(acc, bits, matrix(kernel, &rows))
            }
            IntegerOp::DepthwiseBufferTempConv { kernel } => self.frames(kernel, bits, x),
            IntegerOp::StatefulRecurrent(op) => {
                self.recurrence(op, *widths.entries.first().ok_or("no entry")?, x)
            }
            IntegerOp::ReLU { max } => {
                let top = |c| max.as_ref().map_or(i128::MAX, |max| max.at(c).into());
                each(x, |v, c| v.max(0).min(top(c)))
            }
            IntegerOp::LookUp { table } => {
                self.looked_up(table, *widths.entries.first().ok_or("no entry")?, x)?
            }
            IntegerOp::GlobalAveragePooling2D { .. } => {
                let area = pixels(item)?;
                self.clip(Stage::PoolSum, bits, each(x, |v, _| v * area))
            }
            IntegerOp::Add => {
                let (second, _) = inputs.get(1).ok_or("one input")?;
                let sums = x.iter().zip(second).map(|(a, b)| plus(*a, *b)).collect();
                self.clip(Stage::Sum, bits, sums)
            }
            IntegerOp::Concatenate(ConcatAxis::Channels) => {
                inputs.iter().flat_map(|(x, _)| x.clone()).collect()
            }
            IntegerOp::Concatenate(ConcatAxis::Leading(_)) => {
                let channel = |c: usize| total(inputs.iter().map(|(x, _)| x[c]));
                (0..x.len()).map(channel).collect()
            }
            IntegerOp::Flatten | IntegerOp::Reshape { .. } => {
                let n = item.iter().copied().product::<Option<usize>>();
                let (n, m) = n.zip(channels).ok_or("open extents")?;
                let channel = |c| total((c..n).step_by(m).map(|i| x[i.rem_euclid(x.len())]));
                (0..m).map(channel).collect()
            }
            IntegerOp::Permute { dims } if dims.last() != Some(&dims.len()) => {
                vec![total(x.iter().copied()); channels.unwrap_or(0)]
            }
            IntegerOp::ExtractToken { token, axis } if *axis == item.len() => {
                vec![x[*token]; channels.unwrap_or(1)]
            }
            IntegerOp::Permute { .. }
            | IntegerOp::ExtractToken { .. }
            | IntegerOp::MaxPool2D(_)
            | IntegerOp::Identity => x.clone(),
        })
    }

    /// Returns what earlier frames hold: inputs, or the zeros of an empty buffer.
    fn past(&mut self, bits: u8, x: &[Span]) -> Vec<Span> {
        let past: Vec<Span> = x.iter().map(|x| join(*x, (0, 0))).collect();
        self.clip(Stage::Frames, bits, past.clone());
        past
    }

    /// Sums frames of each channel, every product saturated on its own.
    fn frames(&mut self, kernel: &Array2<i32>, bits: u8, x: &[Span]) -> Vec<Span> {
        let past = self.past(bits, x);
        let newest = kernel.nrows() - 1;
        let product = |t: usize, c: usize| {
            let held = if t == newest { x[c] } else { past[c] };
            times(held, kernel[[t, c]].into())
        };
        let all = |c| total((0..=newest).map(|t| product(t, c)));
        self.clip(Stage::Product, bits, (0..x.len()).map(all).collect());
        let sum = |c| {
            (0..=newest)
                .map(|t| cut(product(t, c), bits))
                .fold((0, 0), plus)
        };
        self.clip(Stage::Accumulator, bits, (0..x.len()).map(sum).collect())
    }

    /// One step of a recurrence whose states may be anything that their width holds.
    fn recurrence(&mut self, op: &RecurrentOp, bits: u8, x: &[Span]) -> Vec<Span> {
        let mut x = x.to_vec();
        if let Some(q) = &op.multiplier {
            let products = each(&x, |v, c| in_64_bits(v * i128::from(q.at(c))));
            x = self.clip(Stage::ScaleMultiply, bits, products);
        }
        let aligned = each(&x, |v, c| half_up(v, op.input_shift.at(c)));
        let x = self.clip(Stage::StateAlign, bits, aligned);
        let width = op.state.value_bits.bits();
        let of = |part: usize, c: usize| times(full(width), op.factors[part][c].into());
        let all = (0..x.len()).map(|c| join(of(0, c), of(1, c))).collect();
        self.clip(Stage::Product, bits, all);
        let sums = (0..x.len()).map(|c| {
            let (re, im) = (cut(of(0, c), bits), cut(of(1, c), bits));
            let difference = plus(re, times(im, -1));
            let real = plus(cut(difference, bits), x[c]);
            join(join(difference, real), plus(im, re))
        });
        let sums = self.clip(Stage::StateSum, bits, sums.collect());
        let shifted = each(&sums, |v, _| half_up(v, op.state.shift.at(0)));
        vec![total(self.clip(Stage::OutputRescale, width, shifted)); 2]
    }

    /// Looks up every integer of the ranges; index `i` of a table is for the integer `i - half`.
    fn looked_up(&mut self, table: &[i32], bits: u8, x: &[Span]) -> Checked<Vec<Span>> {
        let size = 1_usize.checked_shl(u32::from(bits) + 1);
        if size != Some(table.len()) {
            return Err(format!("a table of {} entries", table.len()));
        }
        self.clip(Stage::LookUpIndex, bits, x.to_vec());
        let half = 1_i128 << bits;
        let entry = |v: i128| usize::try_from(v + half).ok().and_then(|i| table.get(i));
        let seen = |(lo, hi): Span| {
            let found = (lo..=hi).filter_map(entry).map(|v| i128::from(*v));
            total(found.map(|v| (v, v)))
        };
        Ok(x.iter().map(|x| seen(*x)).collect())
    }
}

/// Returns the number of pixels of an image.
fn pixels(item: &[Option<usize>]) -> Checked<i128> {
    let area = item[0].zip(item[1]).map(|(h, w)| h * w);
    i128::try_from(area.ok_or("open extents")?).map_err(|e| e.to_string())
}
