//! What each operation asks of its weights and inputs.

use float_model::{Layer, Padding, Shape, infer_shape};
use quantizer_core::geometry::{same_pads, transposed_extent, window_extent};
use quantizer_core::layers::{
    Border, ConcatAxis, DepthwiseOp, IntegerLayer, IntegerOp, MAX_TABLE_BITS, RecurrentOp,
    check_accumulator,
};
use quantizer_core::{NumericsError, ValueBits};

use super::{
    Checked, MAX_STEP, channels, check_length, check_positive, check_shifts, check_small, ensure,
    expect_channels, same_shape,
};
use crate::model::QuantizedNode;

/// Checks the integers of an operation for entered inputs of shape `input`.
pub(super) fn check_operation(layer: &IntegerLayer, input: &Shape) -> Checked {
    let Some(bits) = layer.entries.first().map(|entry| entry.value_bits) else {
        return Err("no entry stage".to_owned());
    };
    let sums = |weights: &mut dyn Iterator<Item = &i32>, n_terms| sums_of(bits, weights, n_terms);
    match &layer.op {
        IntegerOp::Conv2D(op) => {
            let (kh, kw, c, _) = op.kernel.dim();
            if let Border::Value(values) = &op.border {
                check_length(values, c)?;
                let inside = values.as_slice().iter().all(|v| bits.contains(*v));
                ensure(inside, || "a border beyond its width".to_owned())?;
            }
            sums(&mut op.kernel.iter(), kh * kw * c)
        }
        IntegerOp::DepthwiseConv2D(op) => {
            let (kh, kw, _) = op.kernel.dim();
            sums(&mut op.kernel.iter(), kh * kw)
        }
        IntegerOp::SeparableConv2D {
            depthwise,
            pointwise,
        } => {
            let (kh, kw, _) = depthwise.kernel.dim();
            sums(&mut depthwise.kernel.iter(), kh * kw)?;
            // The pointwise half takes the depthwise sums as they are saturated.
            sums_of(
                layer.inner.value_bits,
                &mut pointwise.iter(),
                pointwise.nrows(),
            )
        }
        IntegerOp::Conv2DTranspose(op) => {
            let (kh, kw, c, _) = op.kernel.dim();
            sums(&mut op.kernel.iter(), kh * kw * c)
        }
        IntegerOp::DepthwiseConv2DTranspose(op) => {
            let (kh, kw, _) = op.kernel.dim();
            sums(&mut op.kernel.iter(), kh * kw)
        }
        IntegerOp::Dense { kernel }
        | IntegerOp::StatefulProjection { kernel, .. }
        | IntegerOp::BufferTempConv { kernel, .. }
        | IntegerOp::DepthwiseBufferTempConv { kernel } => sums(&mut kernel.iter(), kernel.nrows()),
        IntegerOp::StatefulRecurrent(op) => check_recurrence(op, layer, channels(input)),
        IntegerOp::LookUp { table } => {
            let wanted = 1_usize.checked_shl(u32::from(bits.bits()) + 1);
            ensure(
                bits.bits() <= MAX_TABLE_BITS && wanted == Some(table.len()),
                || format!("a table of {} entries", table.len()),
            )?;
            let inner = layer.inner.value_bits;
            ensure(table.iter().all(|v| inner.contains((*v).into())), || {
                "a table beyond its width".to_owned()
            })
        }
        IntegerOp::ReLU { max: Some(max) } => {
            check_length(max, channels(input))?;
            ensure(max.as_slice().iter().all(|m| *m >= 0), || {
                "a negative clip".to_owned()
            })
        }
        IntegerOp::GlobalAveragePooling2D { .. } => check_area(bits, input),
        IntegerOp::ReLU { max: None }
        | IntegerOp::MaxPool2D(_)
        | IntegerOp::Add
        | IntegerOp::Concatenate(_)
        | IntegerOp::Flatten
        | IntegerOp::Reshape { .. }
        | IntegerOp::Permute { .. }
        | IntegerOp::ExtractToken { .. }
        | IntegerOp::Identity => Ok(()),
    }
}

/// Checks the products of `bits` value bits with weights: kernels hold at most 31 bits and a sign,
/// sums must fit in 62 bits.
fn sums_of(bits: ValueBits, weights: &mut dyn Iterator<Item = &i32>, n_terms: usize) -> Checked {
    let widest = weights.fold(1, |widest: u32, w| widest.max(w.unsigned_abs()));
    let width = u8::try_from(32 - widest.leading_zeros()).unwrap_or(32);
    let width = ValueBits::new(width).map_err(|e| e.to_string())?;
    check_accumulator(bits, width, n_terms).map_err(|e: NumericsError| e.to_string())?;
    ensure(bits.bits() <= 31, || {
        "inputs of more than 31 bits".to_owned()
    })
}

/// Checks that the sum over an image fits; the scale holds its area, so extents are never open.
fn check_area(bits: ValueBits, input: &Shape) -> Checked {
    let &[Some(h), Some(w), _] = input.as_slice() else {
        return Err("an average over an image of open extents".to_owned());
    };
    let one = ValueBits::new(1).map_err(|e| e.to_string())?;
    check_accumulator(bits, one, h.saturating_mul(w)).map_err(|e| e.to_string())
}

/// Returns the output shape of an operation for the shapes of its inputs.
#[expect(clippy::too_many_lines, reason = "one short arm an operation")]
pub(super) fn result_shape(op: &IntegerOp, inputs: &[&QuantizedNode]) -> Result<Shape, String> {
    let x = &inputs[0].shape;
    match op {
        IntegerOp::Conv2D(op) => {
            let (kh, kw, c, filters) = op.kernel.dim();
            expect_channels(x, c)?;
            let border = match &op.border {
                Border::Valid => Some(Padding::Valid),
                Border::Same => Some(Padding::Same),
                Border::Value(_) => None,
            };
            window_shape(x, [kh, kw], [op.strides, op.dilation], border, filters)
        }
        IntegerOp::DepthwiseConv2D(op) => depthwise_shape(x, op, op.kernel.dim().2),
        IntegerOp::SeparableConv2D {
            depthwise,
            pointwise,
        } => {
            let inner = depthwise.kernel.dim().2;
            ensure(pointwise.nrows() == inner, || {
                "kernels that do not fit".to_owned()
            })?;
            depthwise_shape(x, depthwise, pointwise.ncols())
        }
        IntegerOp::Conv2DTranspose(op) => {
            let (kh, kw, c, filters) = op.kernel.dim();
            expect_channels(x, c)?;
            let rule = (op.padding, op.output_padding);
            transposed_shape(x, [kh, kw], op.strides, rule, filters)
        }
        IntegerOp::DepthwiseConv2DTranspose(op) => {
            let (kh, kw, c) = op.kernel.dim();
            expect_channels(x, c)?;
            transposed_shape(x, [kh, kw], op.strides, (Padding::Same, None), c)
        }
        IntegerOp::StatefulProjection { .. }
        | IntegerOp::BufferTempConv { .. }
        | IntegerOp::DepthwiseBufferTempConv { .. }
        | IntegerOp::StatefulRecurrent(_) => sequence_shape(op, x),
        IntegerOp::Dense { kernel } => {
            expect_channels(x, kernel.nrows())?;
            let leading = x.iter().take(x.len().saturating_sub(1)).copied();
            Ok(leading.chain([Some(kernel.ncols())]).collect())
        }
        IntegerOp::MaxPool2D(op) => window_shape(
            x,
            op.pool_size,
            [op.strides, [1, 1]],
            Some(op.padding),
            channels(x),
        ),
        IntegerOp::GlobalAveragePooling2D { keepdims } => {
            ensure(x.len() == 3, || "expects an image".to_owned())?;
            let c = x[2];
            Ok(if *keepdims {
                vec![Some(1), Some(1), c]
            } else {
                vec![c]
            })
        }
        IntegerOp::Add => {
            ensure(inputs.len() == 2, || "takes two inputs".to_owned())?;
            same_shape(x, &inputs[1].shape)?;
            Ok(x.clone())
        }
        IntegerOp::Concatenate(axis) => {
            ensure(inputs.len() == 2, || "takes two inputs".to_owned())?;
            let axis = match axis {
                ConcatAxis::Channels => -1,
                ConcatAxis::Leading(axis) => isize::try_from(*axis).unwrap_or(isize::MAX),
            };
            let shapes = [x, &inputs[1].shape];
            infer_shape("concatenate", &Layer::Concatenate { axis }, &shapes)
                .map_err(|e| e.to_string())
        }
        IntegerOp::Permute { dims } => same_as(&Layer::Permute { dims: dims.clone() }, x),
        IntegerOp::ExtractToken { token, axis } => {
            let axis = isize::try_from(*axis).unwrap_or(isize::MAX);
            let token = *token;
            same_as(&Layer::ExtractToken { token, axis }, x)
        }
        IntegerOp::Flatten => same_as(&Layer::Flatten, x),
        IntegerOp::Reshape { target_shape } => {
            let target_shape = target_shape.clone();
            same_as(&Layer::Reshape { target_shape }, x)
        }
        IntegerOp::ReLU { .. } | IntegerOp::LookUp { .. } | IntegerOp::Identity => Ok(x.clone()),
    }
}

/// Returns the output shape of a layer of sequences.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the caller passes the layers that are named"
)]
fn sequence_shape(op: &IntegerOp, x: &Shape) -> Result<Shape, String> {
    match op {
        IntegerOp::StatefulProjection { kernel, subsample } => {
            ensure(x.len() == 2, || "expects time steps".to_owned())?;
            expect_channels(x, kernel.nrows())?;
            let groups = |n: usize| (n.checked_rem(*subsample) == Some(0)).then_some(n);
            let time = x[0].map(|n| groups(n).ok_or("time steps that leave a rest"));
            let time = time.transpose()?.map(|n| n.div_euclid(*subsample));
            Ok(vec![time, Some(kernel.ncols())])
        }
        IntegerOp::BufferTempConv { kernel, n_frames } => {
            ensure(x.len() == 3, || "expects an image".to_owned())?;
            let rows = n_frames.checked_mul(channels(x));
            ensure(*n_frames > 0 && rows == Some(kernel.nrows()), || {
                format!("a kernel of {} rows for {n_frames} frames", kernel.nrows())
            })?;
            Ok(vec![x[0], x[1], Some(kernel.ncols())])
        }
        IntegerOp::DepthwiseBufferTempConv { kernel } => {
            ensure(x.len() == 3 && kernel.nrows() > 0, || {
                "expects an image".to_owned()
            })?;
            expect_channels(x, kernel.ncols())?;
            Ok(x.clone())
        }
        IntegerOp::StatefulRecurrent(op) => {
            ensure(x.len() == 2, || "expects time steps".to_owned())?;
            expect_channels(x, op.factors[0].len())?;
            Ok(vec![x[0], x[1], Some(2)])
        }
        _ => Ok(x.clone()),
    }
}

/// Returns the output shape of the float layer that moves elements alike.
fn same_as(layer: &Layer, x: &Shape) -> Result<Shape, String> {
    infer_shape("layer", layer, &[x]).map_err(|e| e.to_string())
}

fn check_recurrence(op: &RecurrentOp, layer: &IntegerLayer, n_channels: usize) -> Checked {
    let lengths = op.factors.iter().all(|part| part.len() == n_channels);
    ensure(lengths, || "factors of other lengths".to_owned())?;
    let factors = op.factors.iter().flatten();
    ensure(factors.clone().all(|a| a.unsigned_abs() <= 1 << 24), || {
        "a factor beyond all widths".to_owned()
    })?;
    if let Some(q) = &op.multiplier {
        check_length(q, n_channels)?;
        check_small(q.as_slice())?;
        check_positive(q)?;
    }
    check_length(&op.input_shift, n_channels)?;
    check_shifts(op.input_shift.as_slice().iter().map(|s| s.unsigned_abs()))?;
    check_shifts(op.state.shift.as_slice().iter().map(|s| s.unsigned_abs()))?;
    let fits = op.state.shift.n_values() == 1
        && op.state.multiplier.is_none()
        && op.state.value_bits == layer.inner.value_bits
        && op.state.value_bits.bits() <= 31
        && layer.entries[0].value_bits.bits() <= 31
        && layer.output.is_none()
        && layer.bias.is_none();
    ensure(fits, || "a state that does not fit".to_owned())
}

fn transposed_shape(
    x: &Shape,
    kernel: [usize; 2],
    strides: [usize; 2],
    (padding, output_padding): (Padding, Option<[usize; 2]>),
    filters: usize,
) -> Result<Shape, String> {
    ensure(x.len() == 3, || "expects an image".to_owned())?;
    let mut shape = Vec::with_capacity(3);
    for axis in 0..2 {
        let (k, s) = (kernel[axis], strides[axis]);
        let extra = output_padding.map(|p| p[axis]);
        let numbers = [k, s, extra.unwrap_or(1).max(1)];
        let sane = numbers.iter().all(|n| (1..=MAX_STEP).contains(n));
        ensure(sane, || "a kernel or stride of zero".to_owned())?;
        let extent = x[axis].map(|n| transposed_extent(n, k, s, padding, extra).ok_or("no output"));
        shape.push(extent.transpose()?);
    }
    shape.push(Some(filters));
    Ok(shape)
}

fn depthwise_shape(x: &Shape, op: &DepthwiseOp, filters: usize) -> Result<Shape, String> {
    let (kh, kw, c) = op.kernel.dim();
    expect_channels(x, c)?;
    window_shape(
        x,
        [kh, kw],
        [op.strides, op.dilation],
        Some(op.padding),
        filters,
    )
}

/// Returns the shape of a sliding window; no padding rule means a border of values.
fn window_shape(
    x: &Shape,
    kernel: [usize; 2],
    [strides, dilation]: [[usize; 2]; 2],
    padding: Option<Padding>,
    filters: usize,
) -> Result<Shape, String> {
    ensure(x.len() == 3, || "expects an image".to_owned())?;
    let mut shape = Vec::with_capacity(3);
    for axis in 0..2 {
        let (k, s, d) = (kernel[axis], strides[axis], dilation[axis]);
        let sane = [k, s, d].iter().all(|n| (1..=MAX_STEP).contains(n));
        ensure(sane, || "a kernel, stride or dilation of zero".to_owned())?;
        shape.push(match (x[axis], padding) {
            (None, _) => None,
            (Some(n), Some(padding)) => {
                Some(window_extent(n, k, s, d, padding).ok_or("a window that does not fit")?)
            }
            (Some(n), None) => {
                let (before, after) = same_pads(n, k, s, 1);
                let padded = n + before + after;
                let valid = Padding::Valid;
                Some(window_extent(padded, k, s, d, valid).ok_or("a window that does not fit")?)
            }
        });
    }
    shape.push(Some(filters));
    Ok(shape)
}
