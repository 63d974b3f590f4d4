//! Checks of a model that did not come from [`lower`](crate::lower): nothing may panic later.

use float_model::{Shape, infer_shape};
use quantizer_core::layers::{Border, DepthwiseOp, IntegerLayer, IntegerOp, check_accumulator};
use quantizer_core::{NumericsError, PerAxis, QFormat, ValueBits};

use crate::ModelError;
use crate::model::{InputKind, QuantizedModel, QuantizedNode, QuantizedOp};

/// Shifts and binary points beyond this come from no quantizer.
const MAX_SHIFT: u32 = 300;

/// Extents beyond this are no image, and products of them could overflow.
const MAX_EXTENT: usize = 1 << 20;

type Checked = Result<(), String>;

impl QuantizedModel {
    /// Checks that the model can run: formats, extents and lengths agree everywhere.
    ///
    /// # Errors
    ///
    /// The first layer that cannot be right, with the reason.
    pub fn validate(&self) -> Result<(), ModelError> {
        let mut names = std::collections::BTreeSet::new();
        for (index, node) in self.nodes.iter().enumerate() {
            if !names.insert(&node.name) {
                return Err(ModelError::invalid(
                    &node.name,
                    "has the name of another layer",
                ));
            }
            if node.inputs.iter().any(|i| *i >= index) {
                return Err(ModelError::invalid(
                    &node.name,
                    "stands before one of its inputs",
                ));
            }
            self.check_node(node)
                .map_err(|message| ModelError::invalid(&node.name, message))?;
        }
        Ok(())
    }

    fn check_node(&self, node: &QuantizedNode) -> Checked {
        let inputs: Vec<&QuantizedNode> = node.inputs.iter().map(|i| &self.nodes[*i]).collect();
        ensure(
            node.shape.iter().flatten().all(|n| *n <= MAX_EXTENT),
            || "extents".to_owned(),
        )?;
        match &node.op {
            QuantizedOp::Input(kind) => {
                ensure(inputs.is_empty(), || "an input with inputs".to_owned())?;
                if let InputKind::Raw { dtype, format } = kind {
                    let want = crate::lower::raw_format(*dtype).map_err(|e| e.to_string())?;
                    ensure(*format == want, || "the format of raw integers".to_owned())?;
                }
                Ok(())
            }
            QuantizedOp::InputQuantizer { quantizer, .. } => {
                let input = sole(&inputs)?;
                ensure(input.format().is_none(), || "quantizes integers".to_owned())?;
                check_format(&quantizer.format(), &node.shape)?;
                if let Some(zero_point) = &quantizer.zero_point {
                    check_length(zero_point, channels(&node.shape))?;
                }
                same_shape(&node.shape, &input.shape)
            }
            QuantizedOp::Dequantizer(format) => {
                let input = sole(&inputs)?;
                let produced = input.format();
                ensure(produced.as_ref() == Some(format), || {
                    "another input format".to_owned()
                })?;
                same_shape(&node.shape, &input.shape)
            }
            QuantizedOp::Float(layer) => {
                let raw = |n: &&QuantizedNode| n.format().is_none() || n.inputs.is_empty();
                ensure(inputs.iter().all(raw), || {
                    "takes integers as floats".to_owned()
                })?;
                let shapes: Vec<&Shape> = inputs.iter().map(|n| &n.shape).collect();
                let shape = infer_shape(&node.name, layer, &shapes).map_err(|e| e.to_string())?;
                same_shape(&node.shape, &shape)
            }
            QuantizedOp::Integer(layer) => check_integer(node, layer, &inputs),
        }
    }
}

fn check_integer(node: &QuantizedNode, layer: &IntegerLayer, inputs: &[&QuantizedNode]) -> Checked {
    ensure(inputs.len() == layer.entries.len(), || {
        format!("{} inputs", inputs.len())
    })?;
    let mut entered = Vec::with_capacity(inputs.len());
    for (input, entry) in inputs.iter().zip(&layer.entries) {
        let format = input
            .format()
            .ok_or_else(|| "takes a float tensor".to_owned())?;
        ensure(format.value_bits <= entry.value_bits, || {
            "an input wider than its entry".to_owned()
        })?;
        check_length(&entry.shift, channels(&input.shape))?;
        check_shifts(entry.shift.as_slice().iter().copied())?;
        entered.push(entry.value_bits);
    }
    let first = inputs.first().ok_or_else(|| "no input".to_owned())?;
    let shape = result_shape(&layer.op, inputs)?;
    same_shape(&node.shape, &shape)?;
    check_op(&layer.op, &first.shape, entered[0])?;
    let n_channels = channels(&node.shape);
    check_format(&layer.inner, &node.shape)?;
    check_format(&layer.format, &node.shape)?;
    if let Some(bias) = &layer.bias {
        check_length(&bias.values, n_channels)?;
        check_length(&bias.shift, n_channels)?;
        check_shifts(bias.shift.as_slice().iter().copied())?;
        check_small(bias.values.as_slice())?;
    }
    match &layer.output {
        None => ensure(layer.format == layer.inner, || {
            "another format than its result".to_owned()
        }),
        Some(output) => {
            let agrees = layer.format.value_bits == output.value_bits
                && layer.format.scales.is_none()
                && output.multiplier.is_some() == layer.inner.scales.is_some();
            ensure(agrees, || "an output stage that does not fit".to_owned())?;
            check_length(&output.shift, n_channels)?;
            check_shifts(output.shift.as_slice().iter().map(|s| s.unsigned_abs()))?;
            if let Some((q, _)) = &output.multiplier {
                check_length(q, n_channels)?;
                check_small(q.as_slice())?;
                ensure(q.as_slice().iter().all(|q| *q > 0), || {
                    "a scale below 1".to_owned()
                })?;
            }
            Ok(())
        }
    }
}

fn check_op(op: &IntegerOp, input: &Shape, bits: ValueBits) -> Checked {
    // Kernels hold at most 31 bits and a sign; sums must fit in 62 bits.
    let sums = |weights: &mut dyn Iterator<Item = &i32>, n_terms: usize| {
        let widest = weights.fold(1, |widest: u32, w| widest.max(w.unsigned_abs()));
        let width = u8::try_from(32 - widest.leading_zeros()).unwrap_or(32);
        let width = ValueBits::new(width).map_err(|e| e.to_string())?;
        check_accumulator(bits, width, n_terms).map_err(|e: NumericsError| e.to_string())?;
        ensure(bits.bits() <= 31, || {
            "inputs of more than 31 bits".to_owned()
        })
    };
    match op {
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
            sums(&mut pointwise.iter(), pointwise.nrows())
        }
        IntegerOp::Dense { kernel } => sums(&mut kernel.iter(), kernel.nrows()),
        IntegerOp::ReLU { max: Some(max) } => {
            check_length(max, channels(input))?;
            ensure(max.as_slice().iter().all(|m| *m >= 0), || {
                "a negative clip".to_owned()
            })
        }
        IntegerOp::ReLU { max: None }
        | IntegerOp::MaxPool2D(_)
        | IntegerOp::GlobalAveragePooling2D { .. }
        | IntegerOp::Add
        | IntegerOp::Concatenate
        | IntegerOp::Flatten
        | IntegerOp::Reshape { .. }
        | IntegerOp::Identity => Ok(()),
    }
}

/// Returns the output shape of an operation for the shapes of its inputs.
fn result_shape(op: &IntegerOp, inputs: &[&QuantizedNode]) -> Result<Shape, String> {
    let x = &inputs[0].shape;
    match op {
        IntegerOp::Conv2D(op) => {
            let (kh, kw, c, filters) = op.kernel.dim();
            expect_channels(x, c)?;
            let border = match &op.border {
                Border::Valid => Some(float_model::Padding::Valid),
                Border::Same => Some(float_model::Padding::Same),
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
        IntegerOp::Concatenate => {
            ensure(inputs.len() == 2, || "takes two inputs".to_owned())?;
            let (a, b) = (x.split_last(), inputs[1].shape.split_last());
            let ((a, leading), (b, other)) = a.zip(b).ok_or("has no channels")?;
            ensure(leading == other, || "inputs of other extents".to_owned())?;
            let total = a.zip(*b).map(|(a, b)| a + b);
            Ok(leading.iter().copied().chain([total]).collect())
        }
        IntegerOp::Flatten => {
            let layer = float_model::Layer::Flatten;
            infer_shape("flatten", &layer, &[x]).map_err(|e| e.to_string())
        }
        IntegerOp::Reshape { target_shape } => {
            let layer = float_model::Layer::Reshape {
                target_shape: target_shape.clone(),
            };
            infer_shape("reshape", &layer, &[x]).map_err(|e| e.to_string())
        }
        IntegerOp::ReLU { .. } | IntegerOp::Identity => Ok(x.clone()),
    }
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
    padding: Option<float_model::Padding>,
    filters: usize,
) -> Result<Shape, String> {
    use quantizer_core::geometry::{same_pads, window_extent};
    ensure(x.len() == 3, || "expects an image".to_owned())?;
    let mut shape = Vec::with_capacity(3);
    for axis in 0..2 {
        let (k, s, d) = (kernel[axis], strides[axis], dilation[axis]);
        let sane = [k, s, d].iter().all(|n| (1..=MAX_EXTENT).contains(n));
        ensure(sane, || "a kernel, stride or dilation of zero".to_owned())?;
        shape.push(match (x[axis], padding) {
            (None, _) => None,
            (Some(n), Some(padding)) => {
                Some(window_extent(n, k, s, d, padding).ok_or("a window that does not fit")?)
            }
            (Some(n), None) => {
                let (before, after) = same_pads(n, k, s, 1);
                let padded = n + before + after;
                let valid = float_model::Padding::Valid;
                Some(window_extent(padded, k, s, d, valid).ok_or("a window that does not fit")?)
            }
        });
    }
    shape.push(Some(filters));
    Ok(shape)
}

fn check_format(format: &QFormat, shape: &Shape) -> Checked {
    check_length(&format.frac_bits, channels(shape))?;
    check_shifts(
        format
            .frac_bits
            .as_slice()
            .iter()
            .map(|fb| fb.unsigned_abs()),
    )?;
    match &format.scales {
        None => Ok(()),
        Some(scales) => check_length(scales, channels(shape)),
    }
}

/// A per-axis value has one entry for each channel, or a single one.
fn check_length<T: Copy>(values: &PerAxis<T>, n_channels: usize) -> Checked {
    match values {
        PerAxis::Axis(values) if values.len() != n_channels && values.len() != 1 => {
            Err(format!("{} values for {n_channels} channels", values.len()))
        }
        PerAxis::Axis(_) | PerAxis::Tensor(_) => Ok(()),
    }
}

fn check_shifts(mut shifts: impl Iterator<Item = u32>) -> Checked {
    ensure(shifts.all(|shift| shift <= MAX_SHIFT), || {
        "a shift beyond all widths".to_owned()
    })
}

fn check_small(values: &[i64]) -> Checked {
    let small = values.iter().all(|v| v.unsigned_abs() <= 1 << 32);
    ensure(small, || "an integer beyond all widths".to_owned())
}

fn sole<'a>(inputs: &[&'a QuantizedNode]) -> Result<&'a QuantizedNode, String> {
    match inputs {
        [input] => Ok(input),
        inputs => Err(format!("takes {} inputs", inputs.len())),
    }
}

fn channels(shape: &Shape) -> usize {
    shape.last().copied().flatten().unwrap_or(1)
}

fn expect_channels(shape: &Shape, want: usize) -> Checked {
    let got = shape.last().copied().flatten();
    ensure(got == Some(want), || {
        format!("a kernel for {want} channels, not {got:?}")
    })
}

fn same_shape(a: &Shape, b: &Shape) -> Checked {
    ensure(a == b, || format!("extents {a:?}, expected {b:?}"))
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(message()) }
}
