//! Transposed convolutions.

use ndarray::Array4;

use super::linear::{depthwise_kernel, rank4};
use super::{WeightedParams, enter, expect_filters, expect_fixed_point, finish_linear};
use crate::geometry::Padding;
use crate::layers::{
    DepthwiseTransposedOp, IntegerLayer, IntegerOp, TransposedOp, check_accumulator,
};
use crate::{NumericsError, QFormat};

/// Returns the integer form of a Conv2DTranspose with Keras' kernel `[height, width, filters,
/// channels]`.
///
/// ```text
/// acc[o] = saturate(sum over i, t with i * stride + t - crop = o of x[i] * k[t]), then the bias
/// ```
///
/// `params.axis` counts the axes of `[height, width, channels, filters]`. NUMERICS.md: N26.
///
/// # Errors
///
/// Inputs with float scales, and what [`conv2d`](super::conv2d) refuses.
pub fn conv2d_transpose(
    input: &QFormat,
    kernel: &Array4<f32>,
    (padding, strides, output_padding): (Padding, [usize; 2], Option<[usize; 2]>),
    params: &WeightedParams<'_>,
) -> Result<IntegerLayer, NumericsError> {
    expect_fixed_point(input)?;
    let (entry, x) = enter(input, params.buffer)?;
    let kernel = kernel.clone().permuted_axes([0, 1, 3, 2]);
    let (kh, kw, channels, filters) = kernel.dim();
    let kernel = kernel.as_standard_layout().into_owned().into_dyn();
    let weights = params.weight_quantizer.quantize(&kernel, params.axis)?;
    expect_filters(&weights.scales, filters)?;
    let weight_bits = params.weight_quantizer.value_bits();
    check_accumulator(x.value_bits, weight_bits, kh * kw * channels)?;
    let op = TransposedOp {
        kernel: rank4(weights.values)?,
        strides,
        padding,
        output_padding,
    };
    let op = IntegerOp::Conv2DTranspose(op);
    finish_linear(entry, op, &x, weights.scales, params)
}

/// Returns the integer form of a DepthwiseConv2DTranspose with kernel `[height, width, channels,
/// 1]` and 'same' extents.
///
/// Unlike a DepthwiseConv2D it aligns the binary points of its channels first. NUMERICS.md: N26.
///
/// # Errors
///
/// Inputs with float scales, a depth multiplier other than 1, and what
/// [`conv2d`](super::conv2d) refuses.
pub fn depthwise_conv2d_transpose(
    input: &QFormat,
    kernel: &Array4<f32>,
    strides: [usize; 2],
    params: &WeightedParams<'_>,
) -> Result<IntegerLayer, NumericsError> {
    expect_fixed_point(input)?;
    let (entry, x) = enter(input, params.buffer)?;
    let kernel = kernel.clone().into_dyn();
    let weights = params.weight_quantizer.quantize(&kernel, params.axis)?;
    let kernel = depthwise_kernel(weights.values)?;
    let (kh, kw, channels) = kernel.dim();
    expect_filters(&weights.scales, channels)?;
    check_accumulator(x.value_bits, params.weight_quantizer.value_bits(), kh * kw)?;
    let op = DepthwiseTransposedOp { kernel, strides };
    let op = IntegerOp::DepthwiseConv2DTranspose(op);
    finish_linear(entry, op, &x, weights.scales, params)
}
