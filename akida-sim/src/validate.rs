//! Checks of a model, from [`lower`](crate::lower) or a file: nothing may panic later.

mod operations;
mod stages;

use float_model::{MAX_ITEM_VALUES, Shape, infer_shape};
use quantizer_core::layers::IntegerLayer;
use quantizer_core::{PerAxis, QFormat, Stage};

use crate::ModelError;
use crate::model::{InputKind, QuantizedModel, QuantizedNode, QuantizedOp};
use operations::{check_operation, result_shape};
use stages::check_stages;

/// Shifts and binary points beyond this come from no quantizer.
const MAX_SHIFT: u32 = 300;

/// Strides, dilations and kernels beyond this are none, and products of them could overflow.
const MAX_STEP: usize = 1 << 20;

type Checked = Result<(), String>;

impl QuantizedModel {
    /// Checks that the model can run: formats, extents and lengths agree everywhere.
    ///
    /// # Errors
    ///
    /// The first layer that cannot be right, with the reason.
    pub fn validate(&self) -> Result<(), ModelError> {
        let texts = self.nodes.iter().flat_map(|n| [&n.name, &n.class_name]);
        for text in texts.chain([&self.name]) {
            if text.chars().any(char::is_control) {
                let text = text.escape_debug().to_string();
                return Err(ModelError::invalid(text, "a name with a control character"));
            }
        }
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
        if self.outputs.iter().any(|i| *i >= self.nodes.len()) {
            let message = "returns the output of a layer that it does not have";
            return Err(ModelError::invalid(&self.name, message));
        }
        Ok(())
    }

    fn check_node(&self, node: &QuantizedNode) -> Checked {
        let inputs: Vec<&QuantizedNode> = node.inputs.iter().map(|i| &self.nodes[*i]).collect();
        let extents = node.shape.iter().flatten();
        let n_values = extents.fold(1, |n: usize, e| n.saturating_mul((*e).max(1)));
        ensure(n_values <= MAX_ITEM_VALUES, || {
            format!("an item of {n_values} values, which no memory is made for")
        })?;
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
                    check_small(zero_point.as_slice())?;
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
    for (input, entry) in inputs.iter().zip(&layer.entries) {
        let format = input
            .format()
            .ok_or_else(|| "takes a float tensor".to_owned())?;
        ensure(format.value_bits <= entry.value_bits, || {
            "an input wider than its entry".to_owned()
        })?;
        let aligns = matches!(
            entry.stage,
            Stage::InputExpand | Stage::AlignLeft | Stage::AlignRight | Stage::FlattenAlign
        );
        ensure(aligns, || format!("an entry called {}", entry.stage))?;
        check_length(&entry.shift, channels(&input.shape))?;
        check_shifts(entry.shift.as_slice().iter().copied())?;
    }
    let first = inputs.first().ok_or_else(|| "no input".to_owned())?;
    let shape = result_shape(&layer.op, inputs)?;
    same_shape(&node.shape, &shape)?;
    check_operation(layer, &first.shape)?;
    check_stages(layer)?;
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
                check_positive(q)?;
            }
            Ok(())
        }
    }
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
        Some(scales) => {
            check_length(scales, channels(shape))?;
            ensure(scales.as_slice().iter().all(|s| s.is_finite()), || {
                "a scale that is not finite".to_owned()
            })
        }
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

/// Shifts and scales keep the order of values only where scales are positive.
fn check_positive(multiplier: &PerAxis<i64>) -> Checked {
    ensure(multiplier.as_slice().iter().all(|q| *q > 0), || {
        "a scale below 1".to_owned()
    })
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
