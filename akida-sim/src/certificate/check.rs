//! The checker: a second, small computation of every range, which shares no code with the prover.
//!
//! Numbers are `i128`, rounding and saturation are written out, and each layer is checked against
//! the ranges that the certificate itself gives for its inputs. A certificate is accepted only if
//! every number in it is the one found here.
#![expect(
    clippy::integer_division,
    reason = "taps and extents; the named functions belong to the code that is checked"
)]

use std::collections::BTreeSet;
use std::fmt;

use float_model::{Dtype, Padding};
use quantizer_core::layers::{Border, ConcatAxis, IntegerLayer, IntegerOp};
use quantizer_core::{PerAxis, Stage};

use super::{CERTIFICATE_VERSION, Certificate, CertifiedLayer, Ends};
use crate::model::{InputKind, QuantizedModel, QuantizedNode, QuantizedOp};

/// A least and a largest value.
type Span = (i128, i128);

/// Which taps of one axis read a pixel, at some position of the output.
type Taps = BTreeSet<Vec<bool>>;

/// Why a certificate is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRefused(String);

impl fmt::Display for CertificateRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CertificateRefused {}

type Checked<T> = Result<T, String>;

/// Checks every number of a certificate against `model`, whose file has the digest `sha256`.
///
/// # Errors
///
/// The first number that is not what it must be, with its layer.
pub fn check(
    certificate: &Certificate,
    model: &QuantizedModel,
    sha256: &str,
) -> Result<(), CertificateRefused> {
    checked(certificate, model, sha256).map_err(CertificateRefused)
}

fn checked(certificate: &Certificate, model: &QuantizedModel, sha256: &str) -> Checked<()> {
    ensure(certificate.version == CERTIFICATE_VERSION, || {
        format!("version {} is not known", certificate.version)
    })?;
    ensure(certificate.model_sha256 == sha256, || {
        "it was made for another model file".to_owned()
    })?;
    ensure(certificate.layers.len() == model.nodes.len(), || {
        "it has another number of layers than the model".to_owned()
    })?;
    let mut proved = true;
    for (node, layer) in model.nodes.iter().zip(&certificate.layers) {
        proved &= check_layer(node, layer, model, certificate)
            .map_err(|message| format!("layer `{}`: {message}", node.name))?;
    }
    ensure(certificate.proved == proved, || {
        format!("it says proved: {}, which is not so", certificate.proved)
    })
}

/// Checks one layer; returns whether none of its buffers can overflow.
fn check_layer(
    node: &QuantizedNode,
    claimed: &CertifiedLayer,
    model: &QuantizedModel,
    certificate: &Certificate,
) -> Checked<bool> {
    ensure(claimed.name == node.name, || {
        format!("called `{}` there", claimed.name)
    })?;
    let mut found = Found::default();
    let channels = node.shape.last().copied().flatten().unwrap_or(0);
    let output = match &node.op {
        QuantizedOp::Input(InputKind::Raw { dtype, format }) => {
            let top = 1 << format.value_bits.bits();
            let low = if matches!(dtype, Dtype::UInt8 | Dtype::UInt16) {
                0
            } else {
                -top
            };
            Some(vec![(low, top - 1); channels])
        }
        QuantizedOp::InputQuantizer { quantizer, .. } => {
            let top = 1 << quantizer.value_bits.bits();
            let zero = |c| {
                quantizer
                    .zero_point
                    .as_ref()
                    .map_or(0, |z| i128::from(z.at(c)))
            };
            let span = |c| {
                (
                    (-top + zero(c)).clamp(-top, top - 1),
                    (top - 1 + zero(c)).min(top - 1),
                )
            };
            Some((0..channels).map(span).collect())
        }
        QuantizedOp::Integer(layer) => {
            let inputs = node.inputs.iter().map(|i| {
                let ends = certificate.layers[*i].output.as_ref();
                Ok((spans(ends.ok_or("takes floats")?)?, &model.nodes[*i].shape))
            });
            let inputs = inputs.collect::<Checked<Vec<_>>>()?;
            let inputs: Vec<Input<'_>> = inputs.iter().map(|(x, s)| (&x[..], &s[..])).collect();
            Some(found.layer(layer, &inputs, &node.shape)?)
        }
        QuantizedOp::Input(InputKind::Float(_))
        | QuantizedOp::Dequantizer(_)
        | QuantizedOp::Float(_) => None,
    };
    compare("its output", claimed.output.as_ref(), output.as_deref())?;
    ensure(claimed.stages.len() == found.0.len(), || {
        "other intermediates".to_owned()
    })?;
    let mut fits = true;
    for (claimed, (stage, bits, values)) in claimed.stages.iter().zip(&found.0) {
        let name = stage.name();
        let same = claimed.stage == name && claimed.value_bits == *bits;
        ensure(same, || {
            format!("another intermediate than {name} of {bits} bits")
        })?;
        compare(name, Some(&claimed.ends), Some(values))?;
        let top = 1_i128 << bits;
        let inside = values.iter().all(|(lo, hi)| -top <= *lo && *hi < top);
        fits &= inside || stage.clips_by_design();
    }
    Ok(fits)
}

/// Ranges of an input and the extents of its items.
type Input<'a> = (&'a [Span], &'a [Option<usize>]);

/// The intermediates that were found, with their widths.
#[derive(Default)]
struct Found(Vec<(Stage, u8, Vec<Span>)>);

impl Found {
    fn clip(&mut self, stage: Stage, bits: u8, values: Vec<Span>) -> Vec<Span> {
        let top = 1_i128 << bits;
        let clip = |v: i128| v.clamp(-top, top - 1);
        let clipped = values
            .iter()
            .map(|(lo, hi)| (clip(*lo), clip(*hi)))
            .collect();
        self.0.push((stage, bits, values));
        clipped
    }

    fn layer(
        &mut self,
        layer: &IntegerLayer,
        inputs: &[Input<'_>],
        shape: &[Option<usize>],
    ) -> Checked<Vec<Span>> {
        let mut entered = Vec::new();
        for ((x, item), entry) in inputs.iter().zip(&layer.entries) {
            let mut x = x.to_vec();
            if entry.shift.as_slice().iter().any(|shift| *shift != 0) {
                let shifted = each(&x, |v, c| left(v, entry.shift.at(c)));
                x = self.clip(entry.stage, entry.value_bits.bits(), shifted);
            }
            entered.push((x, *item));
        }
        let bits = layer.inner.value_bits.bits();
        let mut y = self.operation(layer, &entered, shape)?;
        if let Some(bias) = &layer.bias {
            let top = 1_i128 << bits;
            let aligned =
                |c| (left(bias.values.at(c).into(), bias.shift.at(c))).clamp(-top, top - 1);
            let sums = each(&y, |v, c| v + aligned(c));
            y = self.clip(Stage::BiasAdd, bits, sums);
        }
        if let Some(output) = &layer.output {
            if let Some((q, buffer)) = &output.multiplier {
                // The definition keeps products within 64 bits before it saturates.
                let edge = |v: i128| v.clamp(i64::MIN.into(), i64::MAX.into());
                let products = each(&y, |v, c| edge(v * i128::from(q.at(c))));
                y = self.clip(Stage::ScaleMultiply, buffer.bits(), products);
            }
            let shifted = each(&y, |v, c| half_up(v, output.shift.at(c)));
            y = self.clip(Stage::OutputRescale, output.value_bits.bits(), shifted);
        }
        Ok(y)
    }

    #[expect(clippy::too_many_lines, reason = "one short arm an operation")]
    fn operation(
        &mut self,
        layer: &IntegerLayer,
        inputs: &[(Vec<Span>, &[Option<usize>])],
        shape: &[Option<usize>],
    ) -> Checked<Vec<Span>> {
        let bits = layer.inner.value_bits.bits();
        let (x, item) = inputs.first().ok_or("no input")?;
        let acc = Stage::Accumulator;
        Ok(match &layer.op {
            IntegerOp::Conv2D(op) => {
                let (kh, kw, n, filters) = op.kernel.dim();
                let fill = |c| {
                    if let Border::Value(v) = &op.border {
                        v.at(c).into()
                    } else {
                        0
                    }
                };
                let rule = match op.border {
                    Border::Valid => Rule::Valid,
                    Border::Same => Rule::Same,
                    Border::Value(_) => Rule::Filled,
                };
                let taps = [0, 1]
                    .map(|a| window(item[a], [kh, kw][a], (op.strides[a], op.dilation[a]), rule));
                let kernel =
                    |t: usize, c: usize, f: usize| op.kernel[[t / kw, t % kw, c, f]].into();
                let sums = (0..filters).map(|f| {
                    let tap = |t: usize| dot((0..n).map(|c| (x[c], kernel(t, c, f))));
                    let out = |t: usize| (0..n).map(|c| fill(c) * kernel(t, c, f)).sum();
                    over(&taps, kw, tap, |t| point(out(t)))
                });
                self.clip(acc, bits, sums.collect())
            }
            IntegerOp::DepthwiseConv2D(op) => {
                let sums = depthwise(op, x, item);
                self.clip(acc, bits, sums)
            }
            IntegerOp::SeparableConv2D {
                depthwise: dw,
                pointwise,
            } => {
                let inner = self.clip(Stage::DepthwiseAccumulator, bits, depthwise(dw, x, item));
                self.clip(acc, bits, matrix(pointwise, &inner))
            }
            IntegerOp::Conv2DTranspose(op) => {
                let (kh, kw, n, filters) = op.kernel.dim();
                let taps = [0, 1].map(|a| {
                    let extra = op.output_padding.map(|p| p[a]);
                    reached(item[a], [kh, kw][a], op.strides[a], (op.padding, extra))
                });
                let sums = (0..filters).map(|f| {
                    let weight = |t: usize, c: usize| op.kernel[[t / kw, t % kw, c, f]].into();
                    over(
                        &taps,
                        kw,
                        |t| dot((0..n).map(|c| (x[c], weight(t, c)))),
                        |_| (0, 0),
                    )
                });
                self.clip(acc, bits, sums.collect())
            }
            IntegerOp::DepthwiseConv2DTranspose(op) => {
                let (kh, kw, n) = op.kernel.dim();
                let taps = [0, 1]
                    .map(|a| reached(item[a], [kh, kw][a], op.strides[a], (Padding::Same, None)));
                let weight = |t: usize, c: usize| op.kernel[[t / kw, t % kw, c]].into();
                let sum = |c| over(&taps, kw, |t| times(x[c], weight(t, c)), |_| (0, 0));
                self.clip(acc, bits, (0..n).map(sum).collect())
            }
            IntegerOp::Dense { kernel } | IntegerOp::StatefulProjection { kernel, .. } => {
                self.clip(acc, bits, matrix(kernel, x))
            }
            IntegerOp::BufferTempConv { kernel, n_frames } => {
                let rows = (0..n_frames * x.len()).map(|row| {
                    let newest = row >= (n_frames - 1) * x.len();
                    let value = x[row % x.len()];
                    if newest { value } else { join(value, (0, 0)) }
                });
                self.clip(acc, bits, matrix(kernel, &rows.collect::<Vec<_>>()))
            }
            IntegerOp::DepthwiseBufferTempConv { kernel } => {
                let newest = kernel.nrows() - 1;
                let product = |t: usize, c: usize| {
                    let value = if t == newest {
                        x[c]
                    } else {
                        join(x[c], (0, 0))
                    };
                    times(value, kernel[[t, c]].into())
                };
                let all = |c| {
                    (0..=newest)
                        .map(|t| product(t, c))
                        .reduce(join)
                        .unwrap_or((0, 0))
                };
                self.clip(Stage::Product, bits, (0..x.len()).map(all).collect());
                let top = 1_i128 << bits;
                let cut = |(lo, hi): Span| (lo.clamp(-top, top - 1), hi.clamp(-top, top - 1));
                let sum = |c| (0..=newest).map(|t| cut(product(t, c))).fold((0, 0), plus);
                self.clip(acc, bits, (0..x.len()).map(sum).collect())
            }
            IntegerOp::StatefulRecurrent(op) => {
                let bits = layer.entries[0].value_bits.bits();
                let mut x = x.clone();
                if let Some(q) = &op.multiplier {
                    let products = each(&x, |v, c| v * i128::from(q.at(c)));
                    x = self.clip(Stage::ScaleMultiply, bits, products);
                }
                let aligned = each(&x, |v, c| half_up(v, op.input_shift.at(c)));
                let x = self.clip(Stage::StateAlign, bits, aligned);
                let top = 1_i128 << op.state.value_bits.bits();
                let of = |part: usize, c: usize| times((-top, top - 1), op.factors[part][c].into());
                let all = (0..x.len()).map(|c| join(of(0, c), of(1, c))).collect();
                self.clip(Stage::Product, bits, all);
                let wide = 1_i128 << bits;
                let cut = |(lo, hi): Span| (lo.clamp(-wide, wide - 1), hi.clamp(-wide, wide - 1));
                let sums = (0..x.len()).map(|c| {
                    let (re, im) = (cut(of(0, c)), cut(of(1, c)));
                    let difference = plus(re, times(im, -1));
                    join(join(difference, plus(cut(difference), x[c])), plus(im, re))
                });
                let sums = self.clip(Stage::StateSum, bits, sums.collect());
                let shifted = each(&sums, |v, _| half_up(v, op.state.shift.at(0)));
                let width = op.state.value_bits.bits();
                vec![total(&self.clip(Stage::OutputRescale, width, shifted)); 2]
            }
            IntegerOp::ReLU { max } => {
                let top = |c| {
                    max.as_ref()
                        .map_or(i128::MAX, |max: &PerAxis<i64>| max.at(c).into())
                };
                each(x, |v, c| v.max(0).min(top(c)))
            }
            IntegerOp::LookUp { table } => {
                let half = i128::try_from(table.len() / 2).unwrap_or(0);
                let entry = |v: i128| usize::try_from(v + half).ok().and_then(|i| table.get(i));
                let span = |(lo, hi): &Span| {
                    let seen = (*lo..=*hi).filter_map(entry).map(|v| point(i128::from(*v)));
                    seen.reduce(join).unwrap_or((0, 0))
                };
                x.iter().map(span).collect()
            }
            IntegerOp::GlobalAveragePooling2D { .. } => {
                let area = item[0]
                    .zip(item[1])
                    .map(|(h, w)| h * w)
                    .ok_or("open extents")?;
                let area = i128::try_from(area).map_err(|e| e.to_string())?;
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
                let (second, _) = inputs.get(1).ok_or("one input")?;
                x.iter().zip(second).map(|(a, b)| join(*a, *b)).collect()
            }
            IntegerOp::Flatten | IntegerOp::Reshape { .. } => {
                let n: usize = item
                    .iter()
                    .copied()
                    .product::<Option<usize>>()
                    .ok_or("open extents")?;
                let m = shape.last().copied().flatten().ok_or("open channels")?;
                let mut spans: Vec<Option<Span>> = vec![None; m];
                for i in 0..n {
                    let (span, new) = (&mut spans[i % m], x[i % x.len()]);
                    *span = Some(span.map_or(new, |old| join(old, new)));
                }
                spans
                    .into_iter()
                    .map(|span| span.unwrap_or((0, 0)))
                    .collect()
            }
            IntegerOp::Permute { dims } if dims.last() != Some(&dims.len()) => {
                vec![total(x); shape.last().copied().flatten().unwrap_or(0)]
            }
            IntegerOp::ExtractToken { token, axis } if *axis == item.len() => {
                vec![x[*token]; shape.last().copied().flatten().unwrap_or(1)]
            }
            IntegerOp::Permute { .. }
            | IntegerOp::ExtractToken { .. }
            | IntegerOp::MaxPool2D(_)
            | IntegerOp::Identity => x.clone(),
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    Valid,
    Same,
    /// 'Same' of an undilated window, filled; then 'valid'.
    Filled,
}

fn depthwise(
    op: &quantizer_core::layers::DepthwiseOp,
    x: &[Span],
    item: &[Option<usize>],
) -> Vec<Span> {
    let (kh, kw, channels) = op.kernel.dim();
    let rule = match op.padding {
        Padding::Same => Rule::Same,
        Padding::Valid => Rule::Valid,
    };
    let taps = [0, 1].map(|a| window(item[a], [kh, kw][a], (op.strides[a], op.dilation[a]), rule));
    let weight = |t: usize, c: usize| op.kernel[[t / kw, t % kw, c]].into();
    let sum = |c| over(&taps, kw, |t| times(x[c], weight(t, c)), |_| (0, 0));
    (0..channels).map(sum).collect()
}

fn matrix(kernel: &ndarray::Array2<i32>, x: &[Span]) -> Vec<Span> {
    let column = |u: usize| {
        dot(x
            .iter()
            .enumerate()
            .map(|(c, x)| (*x, kernel[[c, u]].into())))
    };
    (0..kernel.ncols()).map(column).collect()
}

/// Returns the taps inside the image at each position of a sliding window.
fn window(n: Option<usize>, kernel: usize, (stride, dilation): (usize, usize), rule: Rule) -> Taps {
    let Some(n) = n else { return runs(kernel) };
    let reach = (kernel - 1) * dilation + 1;
    let same = n.div_ceil(stride);
    let border = |span: usize| ((same - 1) * stride + span).saturating_sub(n);
    let (out, before) = match rule {
        Rule::Valid => ((n - reach) / stride + 1, 0),
        Rule::Same => (same, border(reach) / 2),
        Rule::Filled => (
            (n + border(kernel) - reach) / stride + 1,
            border(kernel) / 2,
        ),
    };
    let inside = |o: usize, t: usize| {
        let at = o * stride + t * dilation;
        at >= before && at < before + n
    };
    (0..out)
        .map(|o| (0..kernel).map(|t| inside(o, t)).collect())
        .collect()
}

/// Returns the taps that reach each position of a transposed window.
fn reached(
    n: Option<usize>,
    kernel: usize,
    stride: usize,
    (padding, extra): (Padding, Option<usize>),
) -> Taps {
    let Some(n) = n else { return runs(kernel) };
    let cut = if padding == Padding::Same {
        kernel / 2 * 2
    } else {
        0
    };
    let out = match (extra, padding) {
        (Some(extra), _) => (n - 1) * stride + kernel + extra - cut,
        (None, Padding::Same) => n * stride,
        (None, Padding::Valid) => n * stride + kernel.saturating_sub(stride),
    };
    let crop = match padding {
        Padding::Same => ((n - 1) * stride + kernel).saturating_sub(out) / 2,
        Padding::Valid => 0,
    };
    let joined = |o: usize, t: usize| (0..n).any(|i| i * stride + t == o + crop);
    (0..out)
        .map(|o| (0..kernel).map(|t| joined(o, t)).collect())
        .collect()
}

/// Returns all runs of taps: an axis of open extent may show any of them.
fn runs(kernel: usize) -> Taps {
    let pairs = (0..kernel).flat_map(|a| (a..kernel).map(move |b| (a, b)));
    pairs
        .map(|(a, b)| (0..kernel).map(|t| a <= t && t <= b).collect())
        .collect()
}

/// Returns the least and the largest sum over taps at any position.
fn over(
    [rows, cols]: &[Taps; 2],
    kw: usize,
    inside: impl Fn(usize) -> Span,
    outside: impl Fn(usize) -> Span,
) -> Span {
    let n = rows.first().map_or(0, Vec::len) * kw;
    let taps: Vec<(Span, Span)> = (0..n).map(|t| (inside(t), outside(t))).collect();
    let mut all: Option<Span> = None;
    for (row, col) in rows
        .iter()
        .flat_map(|row| cols.iter().map(move |col| (row, col)))
    {
        let term = |t: usize| {
            if row[t / kw] && col[t % kw] {
                taps[t].0
            } else {
                taps[t].1
            }
        };
        let sum = (0..n).map(term).fold((0, 0), plus);
        all = Some(all.map_or(sum, |seen| join(seen, sum)));
    }
    all.unwrap_or((0, 0))
}

fn dot(terms: impl Iterator<Item = (Span, i128)>) -> Span {
    terms.map(|(x, w)| times(x, w)).fold((0, 0), plus)
}

fn times((lo, hi): Span, w: i128) -> Span {
    if w < 0 {
        (hi * w, lo * w)
    } else {
        (lo * w, hi * w)
    }
}

fn plus(a: Span, b: Span) -> Span {
    (a.0 + b.0, a.1 + b.1)
}

fn join(a: Span, b: Span) -> Span {
    (a.0.min(b.0), a.1.max(b.1))
}

fn total(x: &[Span]) -> Span {
    x.iter().copied().reduce(join).unwrap_or((0, 0))
}

const fn point(v: i128) -> Span {
    (v, v)
}

fn each(x: &[Span], f: impl Fn(i128, usize) -> i128) -> Vec<Span> {
    let both = |(c, (lo, hi)): (usize, &Span)| (f(*lo, c), f(*hi, c));
    x.iter().enumerate().map(both).collect()
}

/// Returns `v << s`; no shift of a valid model is above 64.
fn left(v: i128, s: u32) -> i128 {
    v << s.min(64)
}

/// Returns `v * 2^s`, a half rounded up.
fn half_up(v: i128, s: i32) -> i128 {
    match u32::try_from(s) {
        Ok(s) => left(v, s),
        Err(_) => (v + (1 << (s.unsigned_abs().min(100) - 1))) >> s.unsigned_abs().min(100),
    }
}

fn spans(ends: &Ends) -> Checked<Vec<Span>> {
    ensure(ends.lo.len() == ends.hi.len(), || {
        "ends of different lengths".to_owned()
    })?;
    let pairs = ends.lo.iter().zip(&ends.hi);
    Ok(pairs.map(|(lo, hi)| ((*lo).into(), (*hi).into())).collect())
}

fn compare(what: &str, claimed: Option<&Ends>, found: Option<&[Span]>) -> Checked<()> {
    let (claimed, found) = match (claimed, found) {
        (None, None) => return Ok(()),
        (Some(claimed), Some(found)) => (spans(claimed)?, found),
        _ => return Err(format!("{what} is there in one place only")),
    };
    ensure(claimed.len() == found.len(), || {
        format!("{what} of {} channels, not {}", claimed.len(), found.len())
    })?;
    for (channel, (claimed, found)) in claimed.iter().zip(found).enumerate() {
        ensure(claimed == found, || {
            format!("{what}, channel {channel}: {claimed:?} is claimed, {found:?} is right")
        })?;
    }
    Ok(())
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Checked<()> {
    if holds { Ok(()) } else { Err(message()) }
}
