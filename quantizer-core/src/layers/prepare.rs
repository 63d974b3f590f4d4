//! From float weights to integer layers.

mod elementwise;
mod linear;
mod shape;
mod temporal;
mod transposed;

pub use elementwise::{
    MAX_TABLE_BITS, ReluParams, add, concatenate, global_average_pooling2d, look_up, max_pool2d,
    relu, rescaling,
};
pub use linear::{
    FloatBorder, conv2d, dense, depthwise_conv2d, separable_conv2d, stateful_projection,
};
pub use shape::{Channels, TokenAxis, extract_token, flatten, permute, reshape};
pub use temporal::{
    RecurrentParams, buffer_temp_conv, depthwise_buffer_temp_conv, stateful_recurrent,
};
pub use transposed::{conv2d_transpose, depthwise_conv2d_transpose};

use super::{EntryStage, IntegerLayer, IntegerOp};
use crate::bits::ValueBits;
use crate::counters::Stage;
use crate::quantizers::{AlignedWeightQuantizer, OutputQuantizer, WeightAxis, WeightQuantizer};
use crate::tensor::{common_point, rescale_shift};
use crate::{NumericsError, PerAxis, QFormat};

/// Quantization of a layer with weights.
#[derive(Clone, Debug)]
pub struct WeightedParams<'a> {
    /// Quantizer of the kernel.
    pub weight_quantizer: WeightQuantizer,
    /// Which axis of the kernel has its own scales.
    pub axis: WeightAxis,
    /// Float bias, one entry an output channel, and its quantizer.
    pub bias: Option<(&'a [f32], AlignedWeightQuantizer)>,
    /// Value bits of inputs and sums.
    pub buffer: ValueBits,
    /// The output quantizer.
    pub output: Option<&'a OutputQuantizer>,
}

/// Returns a layer that leaves format and integers alone.
#[must_use]
pub fn pass_through(input: &QFormat, op: IntegerOp) -> IntegerLayer {
    IntegerLayer {
        entries: vec![no_shift(input.value_bits)],
        op,
        bias: None,
        inner: input.clone(),
        output: None,
        format: input.clone(),
    }
}

/// Returns how an input enters a buffer: expanded if its channels differ, promoted otherwise.
fn enter(input: &QFormat, buffer: ValueBits) -> Result<(EntryStage, QFormat), NumericsError> {
    if input.is_per_tensor() {
        return Ok((no_shift(buffer), input.promote(buffer)?));
    }
    expand(input, buffer)
}

fn expand(input: &QFormat, buffer: ValueBits) -> Result<(EntryStage, QFormat), NumericsError> {
    input.promote(buffer)?;
    let point = common_point(&input.frac_bits);
    let shift = rescale_shift(&input.frac_bits, &point, buffer)?.map(i32::unsigned_abs);
    let entry = EntryStage {
        stage: Stage::InputExpand,
        shift,
        value_bits: buffer,
    };
    let format = QFormat {
        value_bits: buffer,
        frac_bits: point,
        scales: input.scales.clone(),
    };
    Ok((entry, format))
}

const fn no_shift(value_bits: ValueBits) -> EntryStage {
    EntryStage {
        stage: Stage::InputExpand,
        shift: PerAxis::Tensor(0),
        value_bits,
    }
}

/// Adds bias and output quantizer to an operation with weights.
fn finish_linear(
    entry: EntryStage,
    op: IntegerOp,
    x: &QFormat,
    kernel_scales: PerAxis<f32>,
    params: &WeightedParams<'_>,
) -> Result<IntegerLayer, NumericsError> {
    let scales = match &x.scales {
        None => kernel_scales,
        Some(scales) => scales.zip(&kernel_scales, |x, k| x * k),
    };
    let inner = x.with_scales(scales);
    let bias = match params.bias {
        None => None,
        Some((bias, quantizer)) => Some(quantizer.quantize(&PerAxis::Axis(bias.to_vec()), &inner)?),
    };
    let mut layer = finish(vec![entry], op, inner, params.output)?;
    layer.bias = bias;
    Ok(layer)
}

/// Adds the output quantizer to an operation without bias.
fn finish(
    entries: Vec<EntryStage>,
    op: IntegerOp,
    inner: QFormat,
    output: Option<&OutputQuantizer>,
) -> Result<IntegerLayer, NumericsError> {
    let (output, format) = match output {
        None => (None, inner.clone()),
        Some(quantizer) => {
            let (stage, format) = quantizer.prepare(&inner)?;
            (Some(stage), format)
        }
    };
    Ok(IntegerLayer {
        entries,
        op,
        bias: None,
        inner,
        output,
        format,
    })
}

fn expect_fixed_point(input: &QFormat) -> Result<(), NumericsError> {
    if input.scales.is_some() {
        return Err(NumericsError::Invalid(
            "its input still has float scales: the layer before needs an output_quantizer"
                .to_owned(),
        ));
    }
    Ok(())
}

fn expect_scalar_scale(x: &QFormat) -> Result<(), NumericsError> {
    if x.scales
        .as_ref()
        .is_some_and(|scales| !scales.is_per_tensor())
    {
        return Err(NumericsError::Invalid(
            "its input has a scale for each channel: the layer before needs an output_quantizer"
                .to_owned(),
        ));
    }
    Ok(())
}

fn expect_filters(scales: &PerAxis<f32>, filters: usize) -> Result<(), NumericsError> {
    let n_scales = scales.n_values();
    if n_scales == 1 || n_scales == filters {
        return Ok(());
    }
    Err(NumericsError::Invalid(format!(
        "a weight axis with {n_scales} scales for {filters} output channels"
    )))
}
