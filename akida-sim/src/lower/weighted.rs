//! Layers with weights.

use config_schema::{LayerConfig, WeightQuantizerConfig};
use float_model::{
    BufferTempConv, Conv2D, Conv2DTranspose, Dense, DepthwiseBufferTempConv, DepthwiseConv2D,
    SeparableConv2D, StatefulProjection, StatefulRecurrent,
};
use ndarray::Array1;
use quantizer_core::layers::{self, FloatBorder, IntegerLayer, RecurrentParams, WeightedParams};
use quantizer_core::quantizers::{AlignedWeightQuantizer, OutputQuantizer};
use quantizer_core::{BitWidth, NumericsError, QFormat, Sign, ValueBits};

use super::quantizers::{aligned, buffer, weight_quantizer, weighted_buffer};

/// What quantizes a layer: its configuration, the format of its inputs, its output quantizer.
#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) config: &'a LayerConfig,
    pub(super) x: &'a QFormat,
    pub(super) output: Option<&'a OutputQuantizer>,
}

type Lowered = Result<IntegerLayer, NumericsError>;

impl<'a> Setting<'a> {
    /// Runs `prepare` with the quantization of a kernel of rank `rank` and a bias.
    fn weighted(
        self,
        (weights, rank): (Option<&WeightQuantizerConfig>, usize),
        bias: Option<&Array1<f32>>,
        buffer: ValueBits,
        prepare: impl FnOnce(&WeightedParams<'_>) -> Lowered,
    ) -> Lowered {
        let (weight_quantizer, axis) = weight_quantizer(weights, rank)?;
        let bias = bias.map(|bias| bias.to_vec());
        let bias = match &bias {
            None => None,
            Some(bias) => Some((bias.as_slice(), aligned(&self.config.bias_quantizer)?)),
        };
        prepare(&WeightedParams {
            weight_quantizer,
            axis,
            bias,
            buffer,
            output: self.output,
        })
    }

    /// Runs `prepare` for a layer with one kernel and a buffer of at most 28 bits.
    fn capped(
        self,
        rank: usize,
        bias: Option<&Array1<f32>>,
        prepare: impl FnOnce(&WeightedParams<'_>) -> Lowered,
    ) -> Lowered {
        let weights = self.config.weight_quantizer.as_ref();
        self.weighted(
            (weights, rank),
            bias,
            weighted_buffer(self.config)?,
            prepare,
        )
    }

    /// Runs `prepare` for a layer with one kernel and the whole buffer.
    fn uncapped(
        self,
        rank: usize,
        bias: Option<&Array1<f32>>,
        prepare: impl FnOnce(&WeightedParams<'_>) -> Lowered,
    ) -> Lowered {
        let weights = self.config.weight_quantizer.as_ref();
        self.weighted((weights, rank), bias, buffer(self.config, 1)?, prepare)
    }

    pub(super) fn conv2d(self, conv: &Conv2D) -> Lowered {
        if conv.groups != 1 {
            let what = format!("a convolution in {} groups", conv.groups);
            return Err(NumericsError::Unsupported(what));
        }
        let border = match &conv.padding_value {
            None => FloatBorder::Zero(conv.padding),
            Some(values) => FloatBorder::Value(values, self.border_quantizer()?),
        };
        let steps = [conv.strides, conv.dilation];
        self.capped(4, conv.bias.as_ref(), |params| {
            layers::conv2d(self.x, &conv.kernel, &border, steps, params)
        })
    }

    /// Returns the quantizer of a padding value, which takes the bit width of the weights.
    fn border_quantizer(self) -> Result<AlignedWeightQuantizer, NumericsError> {
        let weights = self.config.weight_quantizer.as_ref();
        let bits = weights.map_or(8, |weights| weights.bitwidth);
        AlignedWeightQuantizer::new(BitWidth::new(bits)?, Sign::Signed)
    }

    pub(super) fn depthwise(self, conv: &DepthwiseConv2D) -> Lowered {
        let steps = [conv.strides, conv.dilation];
        self.capped(4, conv.bias.as_ref(), |params| {
            layers::depthwise_conv2d(self.x, &conv.kernel, conv.padding, steps, params)
        })
    }

    pub(super) fn separable(self, conv: &SeparableConv2D) -> Lowered {
        let (depthwise, _) = weight_quantizer(self.config.dw_weight_quantizer.as_ref(), 4)?;
        let pointwise = self.config.pw_weight_quantizer.as_ref();
        let kernels = [&conv.depthwise_kernel, &conv.pointwise_kernel];
        let window = (conv.padding, conv.strides, conv.dilation);
        let buffer = buffer(self.config, 1)?;
        self.weighted((pointwise, 4), conv.bias.as_ref(), buffer, |params| {
            layers::separable_conv2d(self.x, kernels, depthwise, window, params)
        })
    }

    pub(super) fn transpose(self, conv: &Conv2DTranspose) -> Lowered {
        let window = (conv.padding, conv.strides, conv.output_padding);
        self.capped(4, conv.bias.as_ref(), |params| {
            layers::conv2d_transpose(self.x, &conv.kernel, window, params)
        })
    }

    pub(super) fn depthwise_transpose(self, conv: &DepthwiseConv2D) -> Lowered {
        self.capped(4, conv.bias.as_ref(), |params| {
            layers::depthwise_conv2d_transpose(self.x, &conv.kernel, conv.strides, params)
        })
    }

    pub(super) fn dense(self, dense: &Dense) -> Lowered {
        self.capped(2, dense.bias.as_ref(), |params| {
            layers::dense(self.x, &dense.kernel, params)
        })
    }

    pub(super) fn projection(self, projection: &StatefulProjection) -> Lowered {
        let StatefulProjection { dense, subsample } = projection;
        self.capped(2, dense.bias.as_ref(), |params| {
            layers::stateful_projection(self.x, &dense.kernel, *subsample, params)
        })
    }

    pub(super) fn frames(self, conv: &BufferTempConv) -> Lowered {
        self.uncapped(4, conv.bias.as_ref(), |params| {
            layers::buffer_temp_conv(self.x, &conv.kernel, conv.n_frames, params)
        })
    }

    pub(super) fn depthwise_frames(self, conv: &DepthwiseBufferTempConv) -> Lowered {
        self.uncapped(2, conv.bias.as_ref(), |params| {
            layers::depthwise_buffer_temp_conv(self.x, &conv.kernel, params)
        })
    }

    pub(super) fn recurrent(self, recurrent: &StatefulRecurrent) -> Lowered {
        let missing = |what: &str| NumericsError::Invalid(format!("has no {what}"));
        let a = self.config.a_quantizer.as_ref();
        let a = a.ok_or_else(|| missing("a_quantizer"))?;
        if !a.fp_quantizer || a.axis.is_some() || !a.signed {
            return Err(NumericsError::Unsupported(
                "an a_quantizer that is not signed, per-tensor and fp_quantizer".to_owned(),
            ));
        }
        let params = RecurrentParams {
            a_bits: BitWidth::new(a.bitwidth)?,
            buffer: buffer(self.config, 1)?,
            output: self.output.ok_or_else(|| missing("output_quantizer"))?,
        };
        layers::stateful_recurrent(self.x, [&recurrent.a_real, &recurrent.a_imag], &params)
    }
}
