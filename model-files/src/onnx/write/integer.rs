//! Integer layers.

use float_model::{Padding, Shape};
use ndarray::{Array1, ArrayD, ArrayViewD, Axis, IxDyn};
use quantizer_core::bits::ValueBits;
use quantizer_core::layers::{
    Border, ConcatAxis, ConvOp, DepthwiseOp, IntegerLayer, IntegerOp, PoolOp,
};
use quantizer_core::tensor::int_to_f32;
use quantizer_core::{PerAxis, QFormat};

use super::builder::{Builder, Kind, Layout, Value, floats, indices, int, integer, signed};
use super::products::{Product, Scope, Sliding, permutation};
use super::stages::{Signs, output_stage, saturate, unit};
use crate::onnx::refused::Refused;

/// A layer in its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    /// Extents of an item of the outputs, channels last.
    pub(super) shape: &'a Shape,
    pub(super) layer: &'a IntegerLayer,
}

/// An input and its format.
pub(super) type Input = (Value, QFormat);

/// Adds a layer, and returns its dequantized outputs.
pub(super) fn integer_layer(
    b: &mut Builder,
    place: Place<'_>,
    inputs: &[Input],
) -> Result<Value, Refused> {
    let layer = place.layer;
    let mut entered = Vec::with_capacity(inputs.len());
    for (entry, (x, format)) in layer.entries.iter().zip(inputs) {
        let points = format.frac_bits.zip(&entry.shift, |frac, shift| {
            frac.saturating_add_unsigned(shift)
        });
        let shift = entry.shift.as_slice().iter().max().copied().unwrap_or(0);
        let x = x
            .clone()
            .bounded(x.bound.saturating_mul(1_i128 << shift.min(64)));
        let x = if fits(&[x.bound], entry.value_bits) {
            x
        } else {
            saturate(b, place.name, &x, entry.value_bits, &points)
        };
        entered.push(Entered { x, points });
    }
    let y = place.operation(b, &entered)?;
    let Some(stage) = &layer.output else {
        return Ok(y);
    };
    let signs = if matches!(layer.op, IntegerOp::ReLU { .. }) {
        Signs::Positive
    } else {
        Signs::Both
    };
    output_stage(
        b,
        place.name,
        &y,
        stage,
        (&layer.inner, &layer.format, signs),
    )
}

/// An input after its left shifts, which are the same real values at another binary point.
#[derive(Clone, Debug)]
struct Entered {
    x: Value,
    points: PerAxis<i32>,
}

/// A sum of products with integer weights.
struct Sum<'a> {
    product: Product,
    /// Keras' kernel, the outputs' channels on its last axis.
    kernel: ArrayViewD<'a, i32>,
    /// Added with the products: what a border that is not 0 takes from them.
    constant: Option<Vec<i64>>,
}

impl<'a> Sum<'a> {
    fn of(product: Product, kernel: ArrayViewD<'a, i32>) -> Self {
        Self {
            product,
            kernel,
            constant: None,
        }
    }
}

impl Place<'_> {
    fn operation(&self, b: &mut Builder, inputs: &[Entered]) -> Result<Value, Refused> {
        let first = inputs
            .first()
            .ok_or_else(|| Refused::invalid("a layer without inputs"))?;
        let x = &first.x;
        match &self.layer.op {
            IntegerOp::Conv2D(op) => self.conv2d(b, first, op),
            IntegerOp::DepthwiseConv2D(op) => self.depthwise(b, first, op),
            IntegerOp::SeparableConv2D {
                depthwise,
                pointwise,
            } => self.separable(b, first, depthwise, pointwise),
            IntegerOp::Conv2DTranspose(op) => self.weighted(
                b,
                first,
                &Sum::of(
                    Product::conv2d_transpose(
                        Sliding::over(
                            [op.kernel.dim().0, op.kernel.dim().1],
                            op.strides,
                            op.padding,
                        ),
                        &x.shape,
                        self.shape,
                    )?,
                    op.kernel.view().into_dyn(),
                ),
            ),
            IntegerOp::DepthwiseConv2DTranspose(op) => self.weighted(
                b,
                first,
                &Sum::of(
                    Product::depthwise_transpose(
                        Sliding::over(
                            [op.kernel.dim().0, op.kernel.dim().1],
                            op.strides,
                            Padding::Same,
                        ),
                        &x.shape,
                        self.shape,
                        op.kernel.dim().2,
                    )?,
                    per_channel_kernel(op.kernel.view().into_dyn()),
                ),
            ),
            IntegerOp::Dense { kernel } => self.weighted(
                b,
                first,
                &Sum::of(Product::dense(x.shape.len()), kernel.view().into_dyn()),
            ),
            IntegerOp::ReLU { max } => Ok(self.relu(b, x, max.as_ref())),
            IntegerOp::LookUp { table } => Ok(self.look_up(b, first, table)),
            IntegerOp::MaxPool2D(op) => Ok(self.max_pool(b, x, *op)),
            IntegerOp::GlobalAveragePooling2D { keepdims } => {
                Ok(self.pool_sum(b, first, *keepdims))
            }
            IntegerOp::Add => Ok(self.add(b, inputs)),
            IntegerOp::Concatenate(axis) => Ok(self.concatenate(b, inputs, *axis)),
            IntegerOp::Flatten => Ok(self.reshape(b, x, &[-1])),
            IntegerOp::Reshape { target_shape } => Ok(self.reshape(b, x, target_shape)),
            IntegerOp::Permute { dims } => Ok(self.permute(b, x, dims)),
            IntegerOp::ExtractToken { token, axis } => Ok(self.token(b, x, *token, *axis)),
            IntegerOp::Identity => Ok(x.clone()),
            IntegerOp::StatefulProjection { .. }
            | IntegerOp::BufferTempConv { .. }
            | IntegerOp::DepthwiseBufferTempConv { .. }
            | IntegerOp::StatefulRecurrent(_) => Err(Refused::unsupported(
                "a layer over time; ONNX has no memory between calls",
            )),
        }
    }

    fn conv2d(&self, b: &mut Builder, first: &Entered, op: &ConvOp) -> Result<Value, Refused> {
        let (kernel_h, kernel_w, _, _) = op.kernel.dim();
        let (padding, dilation_of_pads) = match &op.border {
            Border::Valid => (Padding::Valid, op.dilation),
            Border::Same => (Padding::Same, op.dilation),
            Border::Value(_) => (Padding::Same, [1, 1]),
        };
        if dilation_of_pads != op.dilation {
            return Err(Refused::unsupported("a padding value with a dilation"));
        }
        let window = Sliding {
            kernel: [kernel_h, kernel_w],
            strides: op.strides,
            dilation: op.dilation,
            padding,
        };
        let mut entered = first.clone();
        let mut constant = None;
        if let Border::Value(values) = &op.border {
            // A border of `v` is one of 0 around `x - v`; all cells of the kernel then lack `v`.
            entered.x = b.channels_first(&first.x);
            let real = values.zip(&first.points, |v, frac| int_to_f32(v) * unit(frac));
            let real = b.per_channel(&self.at("border"), &entered.x, &real);
            entered.x = b.map("Sub", self.name, &entered.x, &[&real], Vec::new());
            let border = values.as_slice().iter().map(|v| i128::from(*v).abs());
            entered.x.bound = border.fold(entered.x.bound, i128::max);
            constant = Some(border_sums(op, values));
        }
        let sum = Sum {
            product: Product::conv2d(window, &first.x.shape, 1),
            kernel: op.kernel.view().into_dyn(),
            constant,
        };
        self.weighted(b, &entered, &sum)
    }

    fn depthwise(
        &self,
        b: &mut Builder,
        first: &Entered,
        op: &DepthwiseOp,
    ) -> Result<Value, Refused> {
        let sum = Sum::of(
            depthwise_product(op, &first.x.shape),
            per_channel_kernel(op.kernel.view().into_dyn()),
        );
        self.weighted(b, first, &sum)
    }

    fn separable(
        &self,
        b: &mut Builder,
        first: &Entered,
        op: &DepthwiseOp,
        pointwise: &ndarray::Array2<i32>,
    ) -> Result<Value, Refused> {
        // Sums between the halves share the finest binary point of the inputs.
        let finest = first.points.as_slice().iter().max().copied().unwrap_or(0);
        let product = depthwise_product(op, &first.x.shape);
        let kernel = per_channel_kernel(op.kernel.view().into_dyn());
        let scales = first.points.map(|point| unit(finest - point));
        let weights = weights(b, &self.at("depthwise_kernel"), &product, &kernel, &scales);
        let mut shape = self.shape.clone();
        if let Some(channels) = shape.last_mut() {
            *channels = Some(op.kernel.dim().2);
        }
        let bits = self.layer.inner.value_bits;
        let points = PerAxis::Tensor(finest);
        let sums = bounds(&kernel, first.x.bound).into_iter().max();
        let x = product.add(b, self.name, &first.x, (&weights, None), &shape);
        let x = x.bounded(sums.unwrap_or(0));
        let x = if fits(&[x.bound], bits) {
            x
        } else {
            saturate(b, self.name, &x, bits, &points)
        };
        let pixel = Sliding::over([1, 1], [1, 1], Padding::Valid);
        let between = Entered { x, points };
        let kernel = pointwise.view().insert_axis(Axis(0)).insert_axis(Axis(0));
        let sum = Sum::of(Product::conv2d(pixel, &shape, 1), kernel.into_dyn());
        self.weighted(b, &between, &sum)
    }

    /// Adds products, bias, and what saturates them.
    fn weighted(&self, b: &mut Builder, first: &Entered, sum: &Sum<'_>) -> Result<Value, Refused> {
        let inner = &self.layer.inner;
        let n = sum.kernel.shape().last().copied().unwrap_or(1);
        let points = match sum.product.scope {
            Scope::Each => first.points.clone(),
            Scope::All => PerAxis::Tensor(first.points.uniform().ok_or_else(|| {
                Refused::unsupported("input channels at binary points that differ")
            })?),
        };
        let scales = inner.frac_bits.zip(&points, |acc, x| unit(acc - x));
        let kernel = weights(b, &self.at("kernel"), &sum.product, &sum.kernel, &scales);
        let bias = self.layer.bias.as_ref().map(|bias| {
            let bias = bias.aligned(inner.value_bits);
            (0..n).map(|f| bias.at(f)).collect::<Vec<_>>()
        });
        let products = bounds(&sum.kernel, first.x.bound);
        let in_one = fits(&products, inner.value_bits);
        let constant = if in_one {
            added(bias.as_deref(), sum.constant.as_deref())
        } else {
            sum.constant.clone()
        };
        let constant = constant.map(|values| self.constant(b, "bias", &values));
        let weights = (kernel.as_str(), constant.as_deref());
        let y = sum.product.add(b, self.name, &first.x, weights, self.shape);
        let largest = products.iter().max().copied().unwrap_or(0);
        let of_bias = bias.iter().flatten().map(|v| i128::from(*v).abs()).max();
        let with_bias = largest + of_bias.unwrap_or(0);
        if in_one {
            return Ok(self.settled(b, y, with_bias));
        }
        let y = self.settled(b, y, largest);
        let Some(bias) = bias else {
            return Ok(y);
        };
        let bias = bias.iter().enumerate();
        let bias = bias.map(|(f, v)| int_to_f32(*v) * unit(inner.frac_bits.at(f)));
        let bias = b.per_channel(&self.at("bias"), &y, &PerAxis::Axis(bias.collect()));
        let y = b.map("Add", self.name, &y, &[&bias], Vec::new());
        Ok(self.settled(b, y, with_bias))
    }

    /// Returns sums up to `bound`, saturated to the buffer if they need it.
    fn settled(&self, b: &mut Builder, sums: Value, bound: i128) -> Value {
        let inner = &self.layer.inner;
        let sums = sums.bounded(bound);
        if fits(&[bound], inner.value_bits) {
            return sums;
        }
        saturate(b, self.name, &sums, inner.value_bits, &inner.frac_bits)
    }

    /// Adds integers at the binary point of the sums, one for each output channel.
    fn constant(&self, b: &mut Builder, what: &str, values: &[i64]) -> String {
        let name = self.at(what);
        let frac_bits = &self.layer.inner.frac_bits;
        let words: Option<Vec<i32>> = values.iter().map(|v| i32::try_from(*v).ok()).collect();
        let units: Vec<f32> = (0..values.len()).map(|f| unit(frac_bits.at(f))).collect();
        let Some(words) = words else {
            let real: Vec<f32> = values
                .iter()
                .zip(&units)
                .map(|(v, unit)| int_to_f32(*v) * unit)
                .collect();
            return b.constant(&name, &[values.len()], floats(&real));
        };
        let bytes = words.iter().flat_map(|v| v.to_le_bytes()).collect();
        let integers = b.constant(&name, &[words.len()], (Kind::Int32, bytes));
        let scale = b.constant(&format!("{name}/scale"), &[units.len()], floats(&units));
        b.call(
            "DequantizeLinear",
            &name,
            &[&integers, &scale],
            vec![integer("axis", 0)],
        )
    }

    fn relu(&self, b: &mut Builder, x: &Value, max: Option<&PerAxis<i64>>) -> Value {
        let Some(max) = max else {
            return b.map("Relu", self.name, x, &[], Vec::new());
        };
        let max = max.zip(&self.layer.inner.frac_bits, |max, frac| {
            int_to_f32(max) * unit(frac)
        });
        let is_scalar = max.uniform().is_some();
        let max = b.per_channel(&self.at("max_value"), x, &max);
        if is_scalar {
            let zero = b.constant(&self.at("zero"), &[], floats(&[0.0]));
            return b.map("Clip", self.name, x, &[&zero, &max], Vec::new());
        }
        let x = b.map("Relu", self.name, x, &[], Vec::new());
        b.map("Min", self.name, &x, &[&max], Vec::new())
    }

    fn look_up(&self, b: &mut Builder, first: &Entered, table: &[i32]) -> Value {
        let x = &first.x;
        let digits = first.points.map(|point| unit(-point));
        let digits = b.per_channel(&self.at("digits"), x, &digits);
        let half = b.constant(
            &self.at("half"),
            &[],
            indices(&[int(table.len().div_euclid(2))]),
        );
        let y = b.map("Mul", self.name, x, &[&digits], Vec::new());
        let to = vec![integer("to", Kind::Int64 as i64)];
        let y = b.map("Cast", self.name, &y, &[], to);
        let y = b.map("Add", self.name, &y, &[&half], Vec::new());
        let point = self.layer.inner.frac_bits.at(0);
        let largest = table
            .iter()
            .map(|v| i128::from(*v).abs())
            .max()
            .unwrap_or(0);
        let values: Vec<f32> = table
            .iter()
            .map(|v| int_to_f32(i64::from(*v)) * unit(point))
            .collect();
        let table = b.constant(&self.at("table"), &[values.len()], floats(&values));
        let name = b.call(
            "Gather",
            self.name,
            &[&table, &y.name],
            vec![integer("axis", 0)],
        );
        Value { name, ..y }.bounded(largest)
    }

    fn max_pool(&self, b: &mut Builder, x: &Value, op: PoolOp) -> Value {
        let window = Sliding::over(op.pool_size, op.strides, op.padding);
        let x = b.channels_first(x);
        let name = b.call(
            "MaxPool",
            self.name,
            &[&x.name],
            window.attributes(&x.shape),
        );
        x.renamed(name, Layout::First, self.shape)
    }

    fn pool_sum(&self, b: &mut Builder, first: &Entered, keepdims: bool) -> Value {
        let x = b.channels_first(&first.x);
        let axes = b.constant(&self.at("axes"), &[2], indices(&[2, 3]));
        let keep = vec![integer("keepdims", i64::from(keepdims))];
        let name = b.call("ReduceSum", self.name, &[&x.name, &axes], keep);
        let layout = if keepdims {
            Layout::First
        } else {
            Layout::Last
        };
        let y = x.renamed(name, layout, self.shape);
        let pixels = x.shape.iter().take(2).copied().product::<Option<usize>>();
        let bound = pixels.map_or(i128::MAX, |n| x.bound.saturating_mul(i128::from(int(n))));
        self.settled(b, y, bound)
    }

    fn add(&self, b: &mut Builder, inputs: &[Entered]) -> Value {
        let layout = inputs.first().map_or(Layout::Last, |input| input.x.layout);
        let [x, others @ ..] = inputs else {
            return Value::last(String::new(), self.shape);
        };
        let mut y = x.x.clone();
        for other in others {
            let other = b.with_layout(&other.x, layout);
            y = b.map("Add", self.name, &y, &[&other.name], Vec::new());
        }
        let bound = inputs.iter().map(|input| input.x.bound).sum();
        self.settled(b, y, bound)
    }

    fn concatenate(&self, b: &mut Builder, inputs: &[Entered], axis: ConcatAxis) -> Value {
        let (layout, axis) = match axis {
            ConcatAxis::Channels if self.shape.len() == 3 => (Layout::First, 1),
            ConcatAxis::Channels => (Layout::Last, -1),
            ConcatAxis::Leading(axis) => (Layout::Last, int(axis)),
        };
        let parts: Vec<Value> = inputs
            .iter()
            .map(|part| b.with_layout(&part.x, layout))
            .collect();
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        let name = b.call("Concat", self.name, &names, vec![integer("axis", axis)]);
        let bound = parts.iter().map(|part| part.bound).max().unwrap_or(0);
        Value::last(name, self.shape)
            .in_layout(layout)
            .bounded(bound)
    }

    fn reshape(&self, b: &mut Builder, x: &Value, target: &[isize]) -> Value {
        let x = b.channels_last(x);
        // An extent of 0 is that of the input: the batch.
        let extents: Vec<i64> = std::iter::once(0)
            .chain(target.iter().map(|n| i64::try_from(*n).unwrap_or(-1)))
            .collect();
        let extents = b.constant(&self.at("shape"), &[extents.len()], indices(&extents));
        let name = b.call("Reshape", self.name, &[&x.name, &extents], Vec::new());
        x.renamed(name, Layout::Last, self.shape)
    }

    fn permute(&self, b: &mut Builder, x: &Value, dims: &[usize]) -> Value {
        let x = b.channels_last(x);
        let name = b.call("Transpose", self.name, &[&x.name], vec![permutation(dims)]);
        x.renamed(name, Layout::Last, self.shape)
    }

    fn token(&self, b: &mut Builder, x: &Value, token: usize, axis: usize) -> Value {
        let x = b.channels_last(x);
        let token = b.constant(&self.at("token"), &[], indices(&[int(token)]));
        let axis = vec![integer("axis", int(axis))];
        let name = b.call("Gather", self.name, &[&x.name, &token], axis);
        x.renamed(name, Layout::Last, self.shape)
    }

    fn at(&self, what: &str) -> String {
        format!("{}/{what}", self.name)
    }
}

/// Adds integer weights and what makes floats of them; `scales` has one for each output channel.
fn weights(
    b: &mut Builder,
    name: &str,
    product: &Product,
    kernel: &ArrayViewD<'_, i32>,
    scales: &PerAxis<f32>,
) -> String {
    let n = kernel.shape().last().copied().unwrap_or(1);
    let ordered: ArrayD<i32> = product.ordered(kernel.view());
    let values: Vec<i32> = ordered.iter().copied().collect();
    let integers = b.constant(name, ordered.shape(), signed(&values));
    let scales: Vec<f32> = match scales.uniform() {
        Some(scale) => vec![scale],
        None => (0..n).map(|f| scales.at(f)).collect(),
    };
    let extents: &[usize] = if scales.len() == 1 { &[] } else { &[n] };
    let scale = b.constant(&format!("{name}/scale"), extents, floats(&scales));
    let axis = vec![integer("axis", product.weight_axis)];
    b.call("DequantizeLinear", name, &[&integers, &scale], axis)
}

fn depthwise_product(op: &DepthwiseOp, image: &Shape) -> Product {
    let (kernel_h, kernel_w, channels) = op.kernel.dim();
    let window = Sliding {
        kernel: [kernel_h, kernel_w],
        strides: op.strides,
        dilation: op.dilation,
        padding: op.padding,
    };
    Product::conv2d(window, image, channels)
}

/// Returns a kernel `[height, width, channels]` as `[height, width, 1, channels]`.
fn per_channel_kernel(kernel: ArrayViewD<'_, i32>) -> ArrayViewD<'_, i32> {
    kernel.insert_axis(Axis(2))
}

/// Returns the largest magnitude of each output channel's sum for inputs up to `input`.
fn bounds(kernel: &ArrayViewD<'_, i32>, input: i128) -> Vec<i128> {
    let n = kernel.shape().last().copied().unwrap_or(1);
    let mut sums: Array1<i128> = Array1::zeros(n);
    let rows = kernel.len().checked_div(n).unwrap_or(0);
    let flat = kernel.as_standard_layout();
    if let Ok(flat) = flat.view().into_shape_with_order(IxDyn(&[rows, n])) {
        for row in flat.outer_iter() {
            for (sum, w) in sums.iter_mut().zip(row.iter()) {
                *sum += i128::from(w.unsigned_abs());
            }
        }
    }
    sums.iter().map(|sum| sum.saturating_mul(input)).collect()
}

fn fits(bounds: &[i128], bits: ValueBits) -> bool {
    bounds
        .iter()
        .all(|bound| *bound <= i128::from(bits.int_max()))
}

fn added(a: Option<&[i64]>, b: Option<&[i64]>) -> Option<Vec<i64>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.iter().zip(b).map(|(a, b)| a + b).collect()),
        (Some(one), None) | (None, Some(one)) => Some(one.to_vec()),
        (None, None) => None,
    }
}

/// Returns the products of all cells of each filter with the value of the border.
fn border_sums(op: &ConvOp, values: &PerAxis<i64>) -> Vec<i64> {
    let (_, _, _, filters) = op.kernel.dim();
    let mut sums = vec![0; filters];
    for ((_, _, channel, f), w) in op.kernel.indexed_iter() {
        sums[f] += i64::from(*w) * values.at(channel);
    }
    sums
}
