//! The float layer of a layer of integers.

use float_model::{
    Activation, Add, BufferTempConv, Conv2D, Conv2DTranspose, Dense, DepthwiseBufferTempConv,
    DepthwiseConv2D, GlobalAveragePooling2D, Layer, Padding, Pool2D, ReLU, Rescaling,
    SeparableConv2D, StatefulProjection,
};
use ndarray::{Array, Array1, Array2, Array4, ArrayD, Axis, Dimension};
use quantizer_core::layers::{
    Border, ConcatAxis, ConvOp, DepthwiseOp, IntegerOp, TransposedOp, look_up,
};
use quantizer_core::quantizers::AlignedWeightQuantizer;
use quantizer_core::{BitWidth, PerAxis, QFormat, Sign, ValueBits};

use super::Place;
use super::weights::{Kernel, MIN_SCALE, aligned_floats, aligned_scalar, bias, int_max, near};

/// Width of a kernel whose configuration is silent.
const DEFAULT_BITS: u8 = 8;

/// Returns the layer, or `None` if no floats are found.
pub(super) fn float_layer(place: &Place<'_>) -> Option<Layer> {
    let integer = place.integer;
    Some(match &integer.op {
        IntegerOp::Conv2D(op) => Layer::Conv2D(place.conv2d(op)?),
        IntegerOp::DepthwiseConv2D(op) => Layer::DepthwiseConv2D(place.depthwise(
            op.kernel.clone().into_dyn(),
            (op.strides, op.dilation, op.padding),
        )?),
        IntegerOp::DepthwiseConv2DTranspose(op) => {
            Layer::DepthwiseConv2DTranspose(place.depthwise(
                op.kernel.clone().into_dyn(),
                (op.strides, [1; 2], Padding::Same),
            )?)
        }
        IntegerOp::SeparableConv2D {
            depthwise,
            pointwise,
        } => Layer::SeparableConv2D(place.separable(depthwise, &pointwise.clone().into_dyn())?),
        IntegerOp::Conv2DTranspose(op) => Layer::Conv2DTranspose(place.transpose(op)?),
        IntegerOp::Dense { kernel } => Layer::Dense(place.dense(kernel)?),
        IntegerOp::StatefulProjection { kernel, subsample } => {
            Layer::StatefulProjection(StatefulProjection {
                dense: place.dense(kernel)?,
                subsample: *subsample,
            })
        }
        IntegerOp::BufferTempConv { kernel, n_frames } => {
            Layer::BufferTempConv(place.frames(kernel, *n_frames)?)
        }
        IntegerOp::DepthwiseBufferTempConv { kernel } => {
            Layer::DepthwiseBufferTempConv(DepthwiseBufferTempConv {
                kernel: typed(place.kernel(kernel)?)?,
                bias: place.bias()?,
            })
        }
        IntegerOp::ReLU { max } => Layer::ReLU(place.relu(max.as_ref())?),
        IntegerOp::LookUp { table } => Layer::Activation(place.activation(table)?),
        IntegerOp::MaxPool2D(pool) => Layer::MaxPool2D(Pool2D {
            pool_size: pool.pool_size,
            strides: pool.strides,
            padding: pool.padding,
        }),
        IntegerOp::GlobalAveragePooling2D { keepdims } => {
            let keepdims = *keepdims;
            Layer::GlobalAveragePooling2D(GlobalAveragePooling2D { keepdims })
        }
        IntegerOp::Add => Layer::Add(place.add()?),
        IntegerOp::Concatenate(axis) => Layer::Concatenate {
            axis: match axis {
                ConcatAxis::Channels => -1,
                ConcatAxis::Leading(axis) => isize::try_from(*axis).ok()?,
            },
        },
        IntegerOp::Flatten => Layer::Flatten,
        IntegerOp::Reshape { target_shape } => Layer::Reshape {
            target_shape: target_shape.clone(),
        },
        IntegerOp::Permute { dims } => Layer::Permute { dims: dims.clone() },
        IntegerOp::ExtractToken { token, axis } => Layer::ExtractToken {
            token: *token,
            axis: isize::try_from(*axis).ok()?,
        },
        IntegerOp::Identity if place.class == "QuantizedRescaling" => {
            Layer::Rescaling(place.rescaling()?)
        }
        // The share that training drops is nowhere in integers.
        IntegerOp::Identity => Layer::Dropout { rate: 0.0 },
        IntegerOp::StatefulRecurrent(_) => return None,
    })
}

impl Place<'_> {
    fn conv2d(&self, op: &ConvOp) -> Option<Conv2D> {
        let (padding, padding_value) = match &op.border {
            Border::Valid => (Padding::Valid, None),
            Border::Same => (Padding::Same, None),
            Border::Value(values) => {
                let bits = BitWidth::new(self.weight_bits()).ok()?;
                let quantizer = AlignedWeightQuantizer::new(bits, Sign::Signed).ok()?;
                let x = QFormat {
                    scales: self.inputs.first()?.scales.clone(),
                    ..self.integer.inner.clone()
                };
                (Padding::Valid, Some(aligned_floats(values, quantizer, &x)?))
            }
        };
        Some(Conv2D {
            kernel: typed(self.kernel(&op.kernel)?)?,
            bias: self.bias()?,
            strides: op.strides,
            padding,
            dilation: op.dilation,
            groups: 1,
            activation: Activation::Linear,
            padding_value,
        })
    }

    fn depthwise(
        &self,
        values: ArrayD<i32>,
        (strides, dilation, padding): ([usize; 2], [usize; 2], Padding),
    ) -> Option<DepthwiseConv2D> {
        let kernel = self.kernel(&values)?;
        let last = Axis(kernel.ndim());
        Some(DepthwiseConv2D {
            kernel: typed(kernel.insert_axis(last))?,
            bias: self.bias()?,
            strides,
            padding,
            dilation,
            activation: Activation::Linear,
        })
    }

    fn transpose(&self, op: &TransposedOp) -> Option<Conv2DTranspose> {
        let mut kernel: Array4<f32> = typed(self.kernel(&op.kernel)?)?;
        // Keras stores the last two axes swapped.
        kernel.swap_axes(2, 3);
        Some(Conv2DTranspose {
            kernel: kernel.as_standard_layout().into_owned(),
            bias: self.bias()?,
            strides: op.strides,
            padding: op.padding,
            output_padding: op.output_padding,
            dilation: [1; 2],
            activation: Activation::Linear,
        })
    }

    fn frames(&self, kernel: &Array2<i32>, n_frames: usize) -> Option<BufferTempConv> {
        let kernel = self.kernel(kernel)?;
        Some(BufferTempConv {
            kernel: typed(kernel.insert_axis(Axis(0)).insert_axis(Axis(0)))?,
            bias: self.bias()?,
            n_frames,
        })
    }

    /// Tries depthwise scales until there are pointwise ones whose products are those wanted.
    ///
    /// Every mantissa is tried, so the one that the products came from is met at last.
    fn separable(&self, op: &DepthwiseOp, pointwise: &ArrayD<i32>) -> Option<SeparableConv2D> {
        let bits = |config: Option<config_schema::WeightQuantizerConfig>| {
            config.map_or(DEFAULT_BITS, |config| config.bitwidth)
        };
        let dw_bits = bits(self.config.dw_weight_quantizer);
        let products = self.integer.inner.scales.as_ref()?;
        let values = op.kernel.clone().into_dyn();
        let depthwise = Kernel::new(&values, dw_bits, &PerAxis::Tensor(()))?;
        let pointwise = Kernel::new(pointwise, bits(self.config.pw_weight_quantizer), products)?;
        let scales = depthwise_scales(&depthwise, &pointwise, products, int_max(dw_bits)?);
        let found = scales.into_iter().find_map(|scale| {
            let dw = depthwise.scales(|_| f64::from(scale), |k, _| same(k, scale))?;
            let pw = pointwise.scales(
                |channel| f64::from(products.at(channel)) / f64::from(scale),
                |k, channel| same(scale * k, products.at(channel)),
            )?;
            Some((dw, pw))
        });
        let (dw, pw) = found?;
        let (depthwise, pointwise) = (depthwise.floats(&dw)?, pointwise.floats(&pw)?);
        let last = Axis(depthwise.ndim());
        Some(SeparableConv2D {
            depthwise_kernel: typed(depthwise.insert_axis(last))?,
            pointwise_kernel: typed(pointwise.insert_axis(Axis(0)).insert_axis(Axis(0)))?,
            bias: self.bias()?,
            strides: op.strides,
            padding: op.padding,
            dilation: op.dilation,
            activation: Activation::Linear,
        })
    }

    fn dense(&self, kernel: &Array2<i32>) -> Option<Dense> {
        Some(Dense {
            kernel: typed(self.kernel(kernel)?)?,
            bias: self.bias()?,
            activation: Activation::Linear,
        })
    }

    /// Returns the float kernel of a layer with one kernel, whose last axis is that of the outputs.
    fn kernel<D: Dimension>(&self, values: &Array<i32, D>) -> Option<ArrayD<f32>> {
        let wanted = self.integer.inner.scales.as_ref()?;
        let x = self.inputs.first()?.scales.as_ref();
        let x = x.map_or(1.0, |scales| scales.at(0));
        let values = values.clone().into_dyn();
        let kernel = Kernel::new(&values, self.weight_bits(), wanted)?;
        let scales = kernel.scales(
            |channel| f64::from(wanted.at(channel)) / f64::from(x),
            |k, channel| same(x * k, wanted.at(channel)),
        )?;
        kernel.floats(&scales)
    }

    fn weight_bits(&self) -> u8 {
        let config = self.config.weight_quantizer;
        config.map_or(DEFAULT_BITS, |config| config.bitwidth)
    }

    fn bias(&self) -> Option<Option<Array1<f32>>> {
        let config = self.config.bias_quantizer;
        let bits = BitWidth::new(config.bitwidth).ok()?;
        let bits = bits.value_bits(sign(config.signed)).ok()?;
        bias(self.integer, bits).map(|bias| bias.map(Array1::from_vec))
    }

    fn relu(&self, max: Option<&PerAxis<i64>>) -> Option<ReLU> {
        let max_value = match max {
            None => None,
            Some(max) => {
                let config = self.config.max_value_quantizer;
                let bits = BitWidth::new(config.bitwidth).ok()?;
                let quantizer = AlignedWeightQuantizer::new(bits, sign(config.signed)).ok()?;
                Some(aligned_scalar(max, quantizer, &self.integer.inner)?)
            }
        };
        Some(ReLU {
            max_value,
            ..ReLU::default()
        })
    }

    /// Returns the function whose table this is.
    fn activation(&self, table: &[i32]) -> Option<Activation> {
        let input = self.inputs.first()?;
        let bits = self.config.lut_bitwidth.unwrap_or(14);
        let bits = ValueBits::new(bits.checked_sub(1)?).ok()?;
        let is_this = |activation: &Activation| {
            let function = |x| activation.of_element(x).unwrap_or(f32::NAN);
            look_up(input, &function, bits, None)
                .is_ok_and(|made| made.inner == self.integer.inner && made.op == self.integer.op)
        };
        let named = [
            Activation::Gelu { approximate: false },
            Activation::Gelu { approximate: true },
            Activation::Swish,
            Activation::HardSilu,
        ];
        let leaky = slopes(table, input, &self.integer.inner).into_iter();
        let leaky = leaky.map(|alpha| Activation::LeakyRelu { alpha });
        named.into_iter().chain(leaky).find(is_this)
    }

    fn add(&self) -> Option<Add> {
        let [left, right] = self.inputs.as_slice() else {
            return None;
        };
        let sum = left.frac_bits.zip(&right.frac_bits, i32::max);
        let average = sum != self.integer.inner.frac_bits;
        Some(Add { average })
    }

    fn rescaling(&self) -> Option<Rescaling> {
        let wanted = self.integer.inner.scales.as_ref()?;
        let scale = match &self.inputs.first()?.scales {
            None => wanted.at(0),
            Some(x) => {
                let guess = f64::from(wanted.at(0)) / f64::from(x.at(0));
                near(guess)
                    .find(|scale| (0..x.n_values()).all(|c| same(x.at(c) * scale, wanted.at(c))))?
            }
        };
        Some(Rescaling {
            scale: PerAxis::Tensor(f64::from(scale)),
            offset: PerAxis::Tensor(0.0),
        })
    }
}

/// Returns depthwise scales of every mantissa; only one if the weights do not fill the integers.
fn depthwise_scales(
    depthwise: &Kernel<'_>,
    pointwise: &Kernel<'_>,
    products: &PerAxis<f32>,
    int_max: f32,
) -> Box<dyn Iterator<Item = f32>> {
    if depthwise.first_minimal().is_some() {
        return Box::new(std::iter::once(MIN_SCALE));
    }
    // A pointwise channel of the smallest scale tells the depthwise one. Otherwise a small one
    // leaves most room.
    let about = match pointwise.first_minimal() {
        Some(channel) => products.at(channel) / MIN_SCALE,
        None => 4.0 * MIN_SCALE,
    };
    let mut start = 1.0_f32;
    while start > about * int_max && start > f32::MIN_POSITIVE {
        start /= 2.0;
    }
    while 2.0 * start <= about * int_max {
        start *= 2.0;
    }
    let ranges = std::iter::successors(Some(start), |range| Some(range.next_up()));
    let ranges = ranges.take_while(move |range| *range < 2.0 * start);
    Box::new(ranges.map(move |range| range / int_max))
}

/// Returns slopes that the negative half of a table may have, those that people write first.
fn slopes(table: &[i32], input: &QFormat, inner: &QFormat) -> Vec<f32> {
    let mut slopes = vec![0.2, 0.3, 0.1, 0.01];
    let lowest = table.first().copied().map(f64::from);
    let (Some(entry), Some(scales)) = (lowest, &inner.scales) else {
        return slopes;
    };
    let bits = i32::from(input.value_bits.bits());
    let x = -f64::from(bits - input.frac_bits.at(0)).exp2();
    let slope = entry * f64::from(scales.at(0)) / x;
    for k in [10.0, 100.0, 1000.0, 10_000.0] {
        slopes.extend(near((slope * k + 0.5).floor() / k).next());
    }
    slopes.extend(near(slope));
    slopes
}

fn typed<D: Dimension>(array: ArrayD<f32>) -> Option<Array<f32, D>> {
    array.into_dimensionality().ok()
}

const fn sign(signed: bool) -> Sign {
    if signed { Sign::Signed } else { Sign::Unsigned }
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits()
}
