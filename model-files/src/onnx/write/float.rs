//! Float layers.

use float_model::{
    Activation, BatchNormalization, Conv2D, Conv2DTranspose, Dense, DepthwiseConv2D, Layer,
    Padding, Pads, Pool2D, ReLU, Rescaling, SeparableConv2D, Shape,
};
use ndarray::{Array1, ArrayD, ArrayViewD};
use quantizer_core::PerAxis;
use quantizer_core::tensor::int_to_f32;

use super::builder::{Builder, Layout, Value, float, floats, indices, int, integer};
use super::products::{Product, Sliding, permutation};
use crate::onnx::refused::Refused;

/// A layer in its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct FloatPlace<'a> {
    pub(super) name: &'a str,
    /// Extents of an item of the outputs, channels last.
    pub(super) shape: &'a Shape,
}

/// Adds a layer, and returns its outputs.
pub(super) fn float_layer(
    b: &mut Builder,
    name: &str,
    shape: &Shape,
    layer: &Layer,
    inputs: &[Value],
) -> Result<Value, Refused> {
    let place = FloatPlace { name, shape };
    let x = inputs
        .first()
        .ok_or_else(|| Refused::invalid("a layer without inputs"))?;
    let y = place.operation(b, layer, x, inputs)?;
    match layer.activation() {
        Some(f) => place.activation(b, &y, f),
        None => Ok(y),
    }
}

impl FloatPlace<'_> {
    fn operation(
        &self,
        b: &mut Builder,
        layer: &Layer,
        x: &Value,
        inputs: &[Value],
    ) -> Result<Value, Refused> {
        match layer {
            Layer::Conv2D(conv) => self.conv2d(b, x, conv),
            Layer::DepthwiseConv2D(conv) => self.depthwise(b, x, conv),
            Layer::SeparableConv2D(conv) => self.separable(b, x, conv),
            Layer::Conv2DTranspose(conv) => self.conv2d_transpose(b, x, conv),
            Layer::Dense(dense) => Ok(self.dense(b, x, dense)),
            Layer::BatchNormalization(norm) => self.batch_normalization(b, x, norm),
            Layer::ReLU(relu) => self.relu(b, x, *relu),
            Layer::LeakyReLU { alpha } => {
                self.activation(b, x, Activation::LeakyRelu { alpha: *alpha })
            }
            Layer::Activation(f) => self.activation(b, x, *f),
            Layer::Softmax => self.activation(b, x, Activation::Softmax),
            Layer::MaxPool2D(pool) => Ok(self.pool(b, x, "MaxPool", *pool)),
            Layer::AveragePool2D(pool) => Ok(self.pool(b, x, "AveragePool", *pool)),
            Layer::GlobalAveragePooling2D(pool) => Ok(self.global_pool(b, x, pool.keepdims)),
            Layer::Add(add) => {
                let sum = self.reduce(b, "Add", inputs);
                Ok(if add.average {
                    self.times(b, &sum, 0.5)
                } else {
                    sum
                })
            }
            Layer::Multiply => Ok(self.reduce(b, "Mul", inputs)),
            Layer::Subtract => Ok(self.reduce(b, "Sub", inputs)),
            Layer::Concatenate { axis } => Ok(self.concatenate(b, inputs, *axis)),
            Layer::Rescaling(rescaling) => Ok(self.rescaling(b, x, rescaling)),
            Layer::ZeroPadding2D(pads) => Ok(self.zero_padding(b, x, *pads)),
            Layer::UpSampling2D { size } => Ok(self.up_sampling(b, x, *size)),
            Layer::Flatten => Ok(self.reshape(b, x, &[-1])),
            Layer::Reshape { target_shape } => Ok(self.reshape(b, x, target_shape)),
            Layer::Permute { dims } => {
                let x = b.channels_last(x);
                let name = b.call("Transpose", self.name, &[&x.name], vec![permutation(dims)]);
                Ok(Value::last(name, self.shape))
            }
            Layer::ExtractToken { token, axis } => {
                let x = b.channels_last(x);
                let token = b.constant(&self.at("token"), &[], indices(&[int(*token)]));
                let axis = i64::try_from(*axis).unwrap_or(i64::MAX);
                let name = b.call(
                    "Gather",
                    self.name,
                    &[&x.name, &token],
                    vec![integer("axis", axis)],
                );
                Ok(Value::last(name, self.shape))
            }
            Layer::Dropout { .. } => Ok(x.clone()),
            Layer::PReLU { alpha } => self.prelu(b, x, alpha),
            Layer::DepthwiseConv2DTranspose(conv) => self.depthwise_transpose(b, x, conv),
            Layer::Input(_)
            | Layer::Volume(_)
            | Layer::StatefulProjection(_)
            | Layer::BufferTempConv(_)
            | Layer::DepthwiseBufferTempConv(_)
            | Layer::StatefulRecurrent(_) => Err(Refused::unsupported(format!(
                "a float {}",
                layer.class_name()
            ))),
        }
    }

    fn conv2d(&self, b: &mut Builder, x: &Value, conv: &Conv2D) -> Result<Value, Refused> {
        if conv.padding_value.is_some() {
            return Err(Refused::unsupported(
                "a float convolution with a padding value",
            ));
        }
        let (kernel_h, kernel_w, _, _) = conv.kernel.dim();
        let window = Sliding {
            kernel: [kernel_h, kernel_w],
            strides: conv.strides,
            dilation: conv.dilation,
            padding: conv.padding,
        };
        let product = Product::conv2d(window, &x.shape, conv.groups);
        let kernel = conv.kernel.view().into_dyn();
        Ok(self.weighted(b, x, &product, &kernel, conv.bias.as_ref()))
    }

    fn depthwise(
        &self,
        b: &mut Builder,
        x: &Value,
        conv: &DepthwiseConv2D,
    ) -> Result<Value, Refused> {
        let (kernel_h, kernel_w, channels, multiplier) = conv.kernel.dim();
        let window = Sliding {
            kernel: [kernel_h, kernel_w],
            strides: conv.strides,
            dilation: conv.dilation,
            padding: conv.padding,
        };
        let product = Product::conv2d(window, &x.shape, channels);
        let filters = channels * multiplier;
        let kernel = conv
            .kernel
            .to_shape([kernel_h, kernel_w, 1, filters])
            .map_err(|e| Refused::invalid(e.to_string()))?;
        let kernel = kernel.view().into_dyn();
        Ok(self.weighted(b, x, &product, &kernel, conv.bias.as_ref()))
    }

    fn separable(
        &self,
        b: &mut Builder,
        x: &Value,
        conv: &SeparableConv2D,
    ) -> Result<Value, Refused> {
        let depthwise = DepthwiseConv2D {
            kernel: conv.depthwise_kernel.clone(),
            bias: None,
            strides: conv.strides,
            padding: conv.padding,
            dilation: conv.dilation,
            activation: Activation::Linear,
        };
        let (_, _, channels, multiplier) = conv.depthwise_kernel.dim();
        let mut shape = self.shape.clone();
        if let Some(n) = shape.last_mut() {
            *n = Some(channels * multiplier);
        }
        let first = FloatPlace {
            name: self.name,
            shape: &shape,
        };
        let x = first.depthwise(b, x, &depthwise)?;
        let pixel = Sliding::over([1, 1], [1, 1], Padding::Valid);
        let product = Product::conv2d(pixel, &shape, 1);
        let kernel = conv.pointwise_kernel.view().into_dyn();
        Ok(self.weighted(b, &x, &product, &kernel, conv.bias.as_ref()))
    }

    fn conv2d_transpose(
        &self,
        b: &mut Builder,
        x: &Value,
        conv: &Conv2DTranspose,
    ) -> Result<Value, Refused> {
        let (kernel_h, kernel_w, _, _) = conv.kernel.dim();
        let window = Sliding {
            kernel: [kernel_h, kernel_w],
            strides: conv.strides,
            dilation: conv.dilation,
            padding: conv.padding,
        };
        let product = Product::conv2d_transpose(window, &x.shape, self.shape)?;
        let kernel = conv.kernel.view().permuted_axes([0, 1, 3, 2]).into_dyn();
        Ok(self.weighted(b, x, &product, &kernel, conv.bias.as_ref()))
    }

    fn depthwise_transpose(
        &self,
        b: &mut Builder,
        x: &Value,
        conv: &DepthwiseConv2D,
    ) -> Result<Value, Refused> {
        let (kernel_h, kernel_w, channels, multiplier) = conv.kernel.dim();
        if multiplier != 1 {
            return Err(Refused::unsupported("a depth_multiplier"));
        }
        let window = Sliding {
            kernel: [kernel_h, kernel_w],
            strides: conv.strides,
            dilation: conv.dilation,
            padding: conv.padding,
        };
        let product = Product::depthwise_transpose(window, &x.shape, self.shape, channels)?;
        let kernel = conv.kernel.view().permuted_axes([0, 1, 3, 2]).into_dyn();
        Ok(self.weighted(b, x, &product, &kernel, conv.bias.as_ref()))
    }

    fn dense(&self, b: &mut Builder, x: &Value, dense: &Dense) -> Value {
        let product = Product::dense(x.shape.len());
        let kernel = dense.kernel.view().into_dyn();
        self.weighted(b, x, &product, &kernel, dense.bias.as_ref())
    }

    fn weighted(
        &self,
        b: &mut Builder,
        x: &Value,
        product: &Product,
        kernel: &ArrayViewD<'_, f32>,
        bias: Option<&Array1<f32>>,
    ) -> Value {
        let kernel = product.ordered(kernel.view());
        let values: Vec<f32> = kernel.iter().copied().collect();
        let weights = b.constant(&self.at("kernel"), kernel.shape(), floats(&values));
        let bias = bias.map(|bias| {
            let values = bias.to_vec();
            b.constant(&self.at("bias"), &[values.len()], floats(&values))
        });
        product.add(b, self.name, x, (&weights, bias.as_deref()), self.shape)
    }

    fn batch_normalization(
        &self,
        b: &mut Builder,
        x: &Value,
        norm: &BatchNormalization,
    ) -> Result<Value, Refused> {
        let rank = isize::try_from(x.shape.len() + 1).unwrap_or(isize::MAX);
        if norm.axis.rem_euclid(rank) != rank - 1 {
            return Err(Refused::unsupported(
                "a BatchNormalization of another axis than the last",
            ));
        }
        let x = b.channels_first(x);
        if x.shape.len() != 3 && x.shape.len() != 1 {
            return Err(Refused::unsupported("a BatchNormalization of sequences"));
        }
        let n = norm.mean.len();
        let ones = Array1::ones(n);
        let zeros = Array1::zeros(n);
        let parts = [
            ("gamma", norm.gamma.as_ref().unwrap_or(&ones)),
            ("beta", norm.beta.as_ref().unwrap_or(&zeros)),
            ("mean", &norm.mean),
            ("variance", &norm.variance),
        ];
        let parts =
            parts.map(|(what, values)| b.constant(&self.at(what), &[n], floats(&values.to_vec())));
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let epsilon = vec![float("epsilon", norm.epsilon)];
        Ok(b.map("BatchNormalization", self.name, &x, &parts, epsilon))
    }

    fn relu(&self, b: &mut Builder, x: &Value, relu: ReLU) -> Result<Value, Refused> {
        match relu {
            ReLU {
                max_value: None,
                negative_slope: 0.0,
                threshold: 0.0,
            } => Ok(b.map("Relu", self.name, x, &[], Vec::new())),
            ReLU {
                max_value: Some(max),
                negative_slope: 0.0,
                threshold: 0.0,
            } => Ok(self.clip(b, x, 0.0, max)),
            ReLU {
                max_value: None,
                negative_slope: alpha,
                threshold: 0.0,
            } => self.activation(b, x, Activation::LeakyRelu { alpha }),
            ReLU { .. } => Ok(self.stepped_relu(b, x, relu)),
        }
    }

    /// Adds the three pieces of a ReLU as Keras defines them.
    fn stepped_relu(&self, b: &mut Builder, x: &Value, relu: ReLU) -> Value {
        let mut at = |what: &str, value: f32| b.constant(&self.at(what), &[], floats(&[value]));
        let threshold = at("threshold", relu.threshold);
        let slope = at("slope", relu.negative_slope);
        let max = relu.max_value.map(|max| at("max_value", max));
        let distance = b.map("Sub", self.name, x, &[&threshold], Vec::new());
        let below = b.map("Mul", self.name, &distance, &[&slope], Vec::new());
        let passes = b.map("GreaterOrEqual", self.name, x, &[&threshold], Vec::new());
        let y = b.map(
            "Where",
            self.name,
            &passes,
            &[&x.name, &below.name],
            Vec::new(),
        );
        let Some(max) = max else {
            return y;
        };
        let above = b.map("GreaterOrEqual", self.name, x, &[&max], Vec::new());
        b.map("Where", self.name, &above, &[&max, &y.name], Vec::new())
    }

    fn activation(&self, b: &mut Builder, x: &Value, f: Activation) -> Result<Value, Refused> {
        let plain = |b: &mut Builder, op| Ok(b.map(op, self.name, x, &[], Vec::new()));
        match f {
            Activation::Linear => Ok(x.clone()),
            Activation::Relu => plain(b, "Relu"),
            Activation::Relu6 => Ok(self.clip(b, x, 0.0, 6.0)),
            Activation::Sigmoid => plain(b, "Sigmoid"),
            Activation::Tanh => plain(b, "Tanh"),
            Activation::Softplus => plain(b, "Softplus"),
            Activation::Softsign => plain(b, "Softsign"),
            Activation::Elu => plain(b, "Elu"),
            Activation::Selu => plain(b, "Selu"),
            Activation::Exponential => plain(b, "Exp"),
            Activation::LeakyRelu { alpha } => {
                Ok(b.map("LeakyRelu", self.name, x, &[], vec![float("alpha", alpha)]))
            }
            Activation::HardSigmoid => Ok(b.map("HardSigmoid", self.name, x, &[], Vec::new())),
            Activation::HardSilu => plain(b, "HardSwish"),
            Activation::Swish => {
                let gate = b.map("Sigmoid", self.name, x, &[], Vec::new());
                Ok(b.map("Mul", self.name, x, &[&gate.name], Vec::new()))
            }
            Activation::Gelu { approximate } => {
                let approximate = if approximate { "tanh" } else { "none" };
                let approximate = vec![super::builder::text("approximate", approximate)];
                Ok(b.map("Gelu", self.name, x, &[], approximate))
            }
            Activation::Softmax => {
                let x = b.channels_last(x);
                Ok(b.map("Softmax", self.name, &x, &[], vec![integer("axis", -1)]))
            }
            Activation::LogSoftmax => {
                let x = b.channels_last(x);
                Ok(b.map("LogSoftmax", self.name, &x, &[], vec![integer("axis", -1)]))
            }
            _ => Err(Refused::unsupported(format!("the activation {f:?}"))),
        }
    }

    /// Adds the slopes of a PReLU, which have the axes of an item.
    fn prelu(&self, b: &mut Builder, x: &Value, alpha: &ArrayD<f32>) -> Result<Value, Refused> {
        if alpha.ndim() != x.shape.len() {
            return Err(Refused::unsupported(
                "slopes of another rank than the items",
            ));
        }
        let slopes = match x.layout {
            Layout::First => alpha.view().permuted_axes(vec![2, 0, 1]),
            Layout::Last => alpha.view(),
        };
        let values: Vec<f32> = slopes.iter().copied().collect();
        let slopes = b.constant(&self.at("alpha"), slopes.shape(), floats(&values));
        Ok(b.map("PRelu", self.name, x, &[&slopes], Vec::new()))
    }

    fn clip(&self, b: &mut Builder, x: &Value, low: f32, high: f32) -> Value {
        let low = b.constant(&self.at("low"), &[], floats(&[low]));
        let high = b.constant(&self.at("high"), &[], floats(&[high]));
        b.map("Clip", self.name, x, &[&low, &high], Vec::new())
    }

    fn times(&self, b: &mut Builder, x: &Value, factor: f32) -> Value {
        let factor = b.constant(&self.at("factor"), &[], floats(&[factor]));
        b.map("Mul", self.name, x, &[&factor], Vec::new())
    }

    fn pool(&self, b: &mut Builder, x: &Value, op_type: &str, pool: Pool2D) -> Value {
        let window = Sliding::over(pool.pool_size, pool.strides, pool.padding);
        let x = b.channels_first(x);
        let name = b.call(op_type, self.name, &[&x.name], window.attributes(&x.shape));
        self.image(name)
    }

    fn global_pool(&self, b: &mut Builder, x: &Value, keepdims: bool) -> Value {
        let x = b.channels_first(x);
        let axes = b.constant(&self.at("axes"), &[2], indices(&[2, 3]));
        let keep = vec![integer("keepdims", i64::from(keepdims))];
        let name = b.call("ReduceMean", self.name, &[&x.name, &axes], keep);
        if keepdims {
            return self.image(name);
        }
        Value::last(name, self.shape)
    }

    fn reduce(&self, b: &mut Builder, op_type: &str, inputs: &[Value]) -> Value {
        let mut parts = inputs.iter();
        let Some(first) = parts.next() else {
            return Value::last(String::new(), self.shape);
        };
        let mut y = first.clone();
        for part in parts {
            // Of tensors that broadcast, each has the batch and all axes.
            let part = b.with_layout(part, y.layout);
            y = b.map(op_type, self.name, &y, &[&part.name], Vec::new());
        }
        Value {
            shape: self.shape.clone(),
            ..y
        }
    }

    fn concatenate(&self, b: &mut Builder, inputs: &[Value], axis: isize) -> Value {
        let rank = isize::try_from(self.shape.len() + 1).unwrap_or(isize::MAX);
        let (layout, axis) = match axis.rem_euclid(rank) {
            3 if rank == 4 => (Layout::First, 1),
            axis => (Layout::Last, i64::try_from(axis).unwrap_or(i64::MAX)),
        };
        let parts: Vec<Value> = inputs
            .iter()
            .map(|part| b.with_layout(part, layout))
            .collect();
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        let name = b.call("Concat", self.name, &names, vec![integer("axis", axis)]);
        Value::last(name, self.shape).in_layout(layout)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "float32 is what the layer computes with"
    )]
    fn rescaling(&self, b: &mut Builder, x: &Value, rescaling: &Rescaling) -> Value {
        let narrow = |values: &PerAxis<f64>| values.map(|v| v as f32);
        let scale = b.per_channel(&self.at("scale"), x, &narrow(&rescaling.scale));
        let y = b.map("Mul", self.name, x, &[&scale], Vec::new());
        let offset = narrow(&rescaling.offset);
        if offset.uniform() == Some(0.0) {
            return y;
        }
        let offset = b.per_channel(&self.at("offset"), x, &offset);
        b.map("Add", self.name, &y, &[&offset], Vec::new())
    }

    fn zero_padding(&self, b: &mut Builder, x: &Value, pads: Pads) -> Value {
        let x = b.channels_first(x);
        let amounts = [pads.top, pads.left, pads.bottom, pads.right].map(int);
        let [top, left, bottom, right] = amounts;
        let amounts = indices(&[0, 0, top, left, 0, 0, bottom, right]);
        let amounts = b.constant(&self.at("pads"), &[8], amounts);
        let name = b.call("Pad", self.name, &[&x.name, &amounts], Vec::new());
        self.image(name)
    }

    fn up_sampling(&self, b: &mut Builder, x: &Value, size: [usize; 2]) -> Value {
        let x = b.channels_first(x);
        let [rows, cols] = size.map(|n| int_to_f32(int(n)));
        let scales = b.constant(&self.at("scales"), &[4], floats(&[1.0, 1.0, rows, cols]));
        let nearest = |name: &str, value: &str| super::builder::text(name, value);
        let attributes = vec![
            nearest("mode", "nearest"),
            nearest("nearest_mode", "floor"),
            nearest("coordinate_transformation_mode", "asymmetric"),
        ];
        let name = b.call("Resize", self.name, &[&x.name, "", &scales], attributes);
        self.image(name)
    }

    fn reshape(&self, b: &mut Builder, x: &Value, target: &[isize]) -> Value {
        let x = b.channels_last(x);
        let extents: Vec<i64> = std::iter::once(0)
            .chain(target.iter().map(|n| i64::try_from(*n).unwrap_or(-1)))
            .collect();
        let extents = b.constant(&self.at("shape"), &[extents.len()], indices(&extents));
        let name = b.call("Reshape", self.name, &[&x.name, &extents], Vec::new());
        Value::last(name, self.shape)
    }

    fn image(&self, name: String) -> Value {
        Value::last(name, self.shape).in_layout(Layout::First)
    }

    fn at(&self, what: &str) -> String {
        format!("{}/{what}", self.name)
    }
}
