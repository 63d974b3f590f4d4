//! An evaluator of straightforward loops in f64, which shares no code with the library.

use float_model::{
    Activation, Add, BatchNormalization, Conv2D, Conv2DTranspose, Dense, DepthwiseConv2D,
    GlobalAveragePooling2D, Graph, Layer, Padding, Pads, Pool2D, ReLU, Rescaling, SeparableConv2D,
};
use ndarray::Array4;

/// One item, row-major.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<f64>,
}

impl Tensor {
    fn image(height: usize, width: usize, channels: usize) -> Self {
        Self {
            shape: vec![height, width, channels],
            data: vec![0.0; height * width * channels],
        }
    }

    fn hwc(&self) -> [usize; 3] {
        <[usize; 3]>::try_from(self.shape.as_slice()).expect("an image")
    }

    fn at(&mut self, y: usize, x: usize, c: usize) -> &mut f64 {
        let [_, width, channels] = self.hwc();
        &mut self.data[(y * width + x) * channels + c]
    }

    /// Returns a pixel of an image that `border` surrounds.
    fn get(&self, y: isize, x: isize, c: usize, border: f64) -> f64 {
        let [height, width, channels] = self.hwc();
        match (usize::try_from(y), usize::try_from(x)) {
            (Ok(y), Ok(x)) if y < height && x < width => self.data[(y * width + x) * channels + c],
            _ => border,
        }
    }

    fn map(mut self, f: impl Fn(f64) -> f64) -> Self {
        for value in &mut self.data {
            *value = f(*value);
        }
        self
    }
}

/// Returns the outputs of the model for one item for each of its inputs.
pub(crate) fn run(graph: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
    let mut inputs = inputs.iter();
    let mut values: Vec<Tensor> = Vec::new();
    for node in graph.nodes() {
        let taken: Vec<&Tensor> = node.inputs.iter().map(|id| &values[id.index()]).collect();
        let value = if let Layer::Input(_) = node.layer {
            inputs.next().expect("a tensor for each input").clone()
        } else {
            eval(&node.layer, &taken)
        };
        let shape: Vec<Option<usize>> = value.shape.iter().copied().map(Some).collect();
        assert_eq!(shape, node.shape, "shape of {}", node.name);
        values.push(value);
    }
    let outputs = graph.outputs().iter();
    outputs.map(|id| values[id.index()].clone()).collect()
}

fn eval(layer: &Layer, inputs: &[&Tensor]) -> Tensor {
    let first = inputs[0];
    let x = || first.clone();
    match layer {
        Layer::Conv2D(conv) => activate(conv.activation, conv2d(conv, first)),
        Layer::DepthwiseConv2D(conv) => activate(conv.activation, depthwise(conv, first)),
        Layer::SeparableConv2D(conv) => activate(conv.activation, separable(conv, first)),
        Layer::Conv2DTranspose(conv) => activate(conv.activation, transpose(conv, first)),
        Layer::DepthwiseConv2DTranspose(conv) => {
            activate(conv.activation, depthwise_transpose(conv, first))
        }
        Layer::Dense(dense) => activate(dense.activation, matrix_product(dense, first)),
        Layer::BatchNormalization(norm) => batch_norm(norm, x()),
        Layer::ReLU(relu) => x().map(|v| rectify(*relu, v)),
        Layer::LeakyReLU { alpha } => x().map(|v| if v > 0.0 { v } else { v * f64::from(*alpha) }),
        Layer::PReLU { alpha } => {
            let mut x = x();
            let full = alpha.broadcast(x.shape.clone()).expect("slopes broadcast");
            for (v, slope) in x.data.iter_mut().zip(full.iter()) {
                *v *= if *v > 0.0 { 1.0 } else { f64::from(*slope) };
            }
            x
        }
        Layer::Activation(activation) => activate(*activation, x()),
        Layer::Softmax => activate(Activation::Softmax, x()),
        Layer::MaxPool2D(pool) => pool2d(*pool, first, |window| {
            window.iter().copied().fold(f64::NEG_INFINITY, f64::max)
        }),
        Layer::AveragePool2D(pool) => pool2d(*pool, first, |window| {
            window.iter().sum::<f64>() / window.len() as f64
        }),
        Layer::GlobalAveragePooling2D(gap) => global_mean(*gap, first),
        Layer::Add(add) => sum(*add, inputs),
        Layer::Concatenate { axis: -1 } => concatenate(inputs),
        Layer::Rescaling(rescaling) => rescale(rescaling, x()),
        Layer::ZeroPadding2D(pads) => zero_padding(*pads, first),
        Layer::Flatten => Tensor {
            shape: vec![first.data.len()],
            data: x().data,
        },
        Layer::Reshape { target_shape } => {
            let extents = target_shape.iter();
            let shape = extents.map(|d| usize::try_from(*d).expect("no -1"));
            Tensor {
                shape: shape.collect(),
                data: x().data,
            }
        }
        Layer::Dropout { .. } => x(),
        Layer::Multiply => Tensor {
            data: first
                .data
                .iter()
                .zip(&inputs[1].data)
                .map(|(a, b)| a * b)
                .collect(),
            ..x()
        },
        Layer::Input(_)
        | Layer::Subtract
        | Layer::Concatenate { .. }
        | Layer::UpSampling2D { .. }
        | Layer::StatefulProjection(_)
        | Layer::BufferTempConv(_)
        | Layer::DepthwiseBufferTempConv(_)
        | Layer::StatefulRecurrent(_)
        | Layer::ExtractToken { .. }
        | Layer::Permute { .. }
        | Layer::Volume(_) => panic!("not needed here: {layer:?}"),
    }
}

fn separable(conv: &SeparableConv2D, x: &Tensor) -> Tensor {
    let inner = DepthwiseConv2D {
        kernel: conv.depthwise_kernel.clone(),
        bias: None,
        strides: conv.strides,
        padding: conv.padding,
        dilation: conv.dilation,
        activation: Activation::Linear,
    };
    let outer = Conv2D {
        kernel: conv.pointwise_kernel.clone(),
        bias: conv.bias.clone(),
        strides: [1, 1],
        padding: Padding::Valid,
        dilation: [1, 1],
        groups: 1,
        activation: Activation::Linear,
        padding_value: None,
    };
    conv2d(&outer, &depthwise(&inner, x))
}

fn matrix_product(dense: &Dense, x: &Tensor) -> Tensor {
    let (channels, units) = dense.kernel.dim();
    let mut shape = x.shape.clone();
    *shape.last_mut().expect("a last axis") = units;
    let output = |row: &[f64], u: usize| {
        let bias = dense.bias.as_ref().map_or(0.0, |b| f64::from(b[u]));
        let terms = row.iter().enumerate();
        bias + terms
            .map(|(c, v)| v * f64::from(dense.kernel[[c, u]]))
            .sum::<f64>()
    };
    let rows = x.data.chunks(channels);
    let data = rows.flat_map(|row| (0..units).map(move |u| output(row, u)));
    Tensor {
        data: data.collect(),
        shape,
    }
}

fn global_mean(gap: GlobalAveragePooling2D, x: &Tensor) -> Tensor {
    let [height, width, channels] = x.hwc();
    let sum = |c| x.data.iter().skip(c).step_by(channels).sum::<f64>();
    let mean = |c| sum(c) / (height * width) as f64;
    let shape = if gap.keepdims {
        vec![1, 1, channels]
    } else {
        vec![channels]
    };
    Tensor {
        shape,
        data: (0..channels).map(mean).collect(),
    }
}

fn sum(add: Add, inputs: &[&Tensor]) -> Tensor {
    let mut sum = inputs[0].clone();
    for other in &inputs[1..] {
        assert_eq!(sum.shape, other.shape, "no broadcasting here");
        for (a, b) in sum.data.iter_mut().zip(&other.data) {
            *a += b;
        }
    }
    let factor = if add.average { 0.5 } else { 1.0 };
    sum.map(|v| v * factor)
}

fn rescale(rescaling: &Rescaling, mut x: Tensor) -> Tensor {
    let channels = *x.shape.last().expect("a last axis");
    let pick = |values: &[f64], i: usize| values[i % channels % values.len()];
    for (i, v) in x.data.iter_mut().enumerate() {
        let scale = pick(rescaling.scale.as_slice(), i);
        *v = *v * scale + pick(rescaling.offset.as_slice(), i);
    }
    x
}

fn zero_padding(pads: Pads, x: &Tensor) -> Tensor {
    let [height, width, channels] = x.hwc();
    let (h, w) = (
        height + pads.top + pads.bottom,
        width + pads.left + pads.right,
    );
    let mut out = Tensor::image(h, w, channels);
    for (y, xx, c) in positions([height, width, channels]) {
        *out.at(y + pads.top, xx + pads.left, c) = *x_at(x, y, xx, c);
    }
    out
}

fn x_at(tensor: &Tensor, y: usize, x: usize, c: usize) -> &f64 {
    let [_, width, channels] = tensor.hwc();
    &tensor.data[(y * width + x) * channels + c]
}

fn positions([h, w, c]: [usize; 3]) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..h * w * c).map(move |i| (i / c / w, i / c % w, i % c))
}

/// Returns where the first window begins, and how many there are.
fn window(n: usize, k: usize, stride: usize, dilation: usize, padding: Padding) -> (isize, usize) {
    let reach = (k - 1) * dilation + 1;
    match padding {
        Padding::Valid => (0, (n - reach) / stride + 1),
        Padding::Same => {
            // TensorFlow's text: the remainder decides, not the number of windows.
            let last = if n.is_multiple_of(stride) {
                stride
            } else {
                n % stride
            };
            let total = reach.saturating_sub(last);
            (
                -(isize::try_from(total / 2).expect("small")),
                n.div_ceil(stride),
            )
        }
    }
}

struct Grid {
    start: [isize; 2],
    out: [usize; 2],
    strides: [usize; 2],
    dilation: [usize; 2],
}

impl Grid {
    fn new(x: &Tensor, k: [usize; 2], s: [usize; 2], d: [usize; 2], padding: Padding) -> Self {
        let [h, w, _] = x.hwc();
        let (top, out_h) = window(h, k[0], s[0], d[0], padding);
        let (left, out_w) = window(w, k[1], s[1], d[1], padding);
        Self {
            start: [top, left],
            out: [out_h, out_w],
            strides: s,
            dilation: d,
        }
    }

    fn place(&self, axis: usize, out: usize, tap: usize) -> isize {
        let offset = out * self.strides[axis] + tap * self.dilation[axis];
        self.start[axis] + isize::try_from(offset).expect("small")
    }
}

fn sides(kernel: &Array4<f32>) -> [usize; 2] {
    [kernel.dim().0, kernel.dim().1]
}

fn conv2d(conv: &Conv2D, x: &Tensor) -> Tensor {
    let (kh, kw, per_group, filters) = conv.kernel.dim();
    let padding = if conv.padding_value.is_some() {
        Padding::Same
    } else {
        conv.padding
    };
    let grid = Grid::new(x, sides(&conv.kernel), conv.strides, conv.dilation, padding);
    let border = |c: usize| match conv.padding_value.as_deref() {
        None => 0.0,
        Some([value]) => f64::from(*value),
        Some(values) => f64::from(values[c]),
    };
    let mut out = Tensor::image(grid.out[0], grid.out[1], filters);
    for (y, xx, f) in positions([grid.out[0], grid.out[1], filters]) {
        let first = f / (filters / conv.groups) * per_group;
        let mut sum = conv.bias.as_ref().map_or(0.0, |b| f64::from(b[f]));
        for (i, j, c) in positions([kh, kw, per_group]) {
            let (py, px) = (grid.place(0, y, i), grid.place(1, xx, j));
            let pixel = x.get(py, px, first + c, border(first + c));
            sum += pixel * f64::from(conv.kernel[[i, j, c, f]]);
        }
        *out.at(y, xx, f) = sum;
    }
    out
}

fn depthwise(conv: &DepthwiseConv2D, x: &Tensor) -> Tensor {
    let (kh, kw, channels, multiplier) = conv.kernel.dim();
    let grid = Grid::new(
        x,
        sides(&conv.kernel),
        conv.strides,
        conv.dilation,
        conv.padding,
    );
    let mut out = Tensor::image(grid.out[0], grid.out[1], channels * multiplier);
    for (y, xx, f) in positions(out.hwc()) {
        let (c, m) = (f / multiplier, f % multiplier);
        let mut sum = conv.bias.as_ref().map_or(0.0, |b| f64::from(b[f]));
        for (i, j, _) in positions([kh, kw, 1]) {
            let pixel = x.get(grid.place(0, y, i), grid.place(1, xx, j), c, 0.0);
            sum += pixel * f64::from(conv.kernel[[i, j, c, m]]);
        }
        *out.at(y, xx, f) = sum;
    }
    out
}

/// Returns the rows cut off before, and the rows left, of a transposed convolution.
fn crop(n: usize, k: usize, stride: usize, padding: Padding) -> (usize, usize) {
    match padding {
        Padding::Same => (k.saturating_sub(stride) / 2, n * stride),
        Padding::Valid => (0, n * stride + k.saturating_sub(stride)),
    }
}

fn transpose(conv: &Conv2DTranspose, x: &Tensor) -> Tensor {
    let (kh, kw, filters, channels) = conv.kernel.dim();
    let [h, w, _] = x.hwc();
    let (top, out_h) = crop(h, kh, conv.strides[0], conv.padding);
    let (left, out_w) = crop(w, kw, conv.strides[1], conv.padding);
    let mut out = Tensor::image(out_h, out_w, filters);
    for (y, xx, f) in positions(out.hwc()) {
        *out.at(y, xx, f) = conv.bias.as_ref().map_or(0.0, |b| f64::from(b[f]));
    }
    for (y, xx, c) in positions([h, w, channels]) {
        for (i, j, f) in positions([kh, kw, filters]) {
            let (oy, ox) = (y * conv.strides[0] + i, xx * conv.strides[1] + j);
            if (top..top + out_h).contains(&oy) && (left..left + out_w).contains(&ox) {
                let weight = f64::from(conv.kernel[[i, j, f, c]]);
                *out.at(oy - top, ox - left, f) += x_at(x, y, xx, c) * weight;
            }
        }
    }
    out
}

fn depthwise_transpose(conv: &DepthwiseConv2D, x: &Tensor) -> Tensor {
    let (kh, kw, channels, _) = conv.kernel.dim();
    // A full transposed convolution whose kernel is diagonal.
    let diagonal = |(i, j, f, c)| {
        if f == c {
            conv.kernel[[i, j, c, 0]]
        } else {
            0.0
        }
    };
    let full = Conv2DTranspose {
        kernel: Array4::from_shape_fn((kh, kw, channels, channels), diagonal),
        bias: conv.bias.clone(),
        strides: conv.strides,
        padding: conv.padding,
        output_padding: None,
        dilation: [1, 1],
        activation: Activation::Linear,
    };
    transpose(&full, x)
}

fn pool2d(pool: Pool2D, x: &Tensor, f: impl Fn(&[f64]) -> f64) -> Tensor {
    let grid = Grid::new(x, pool.pool_size, pool.strides, [1, 1], pool.padding);
    let mut out = Tensor::image(grid.out[0], grid.out[1], x.hwc()[2]);
    for (y, xx, c) in positions(out.hwc()) {
        let taps = positions([pool.pool_size[0], pool.pool_size[1], 1]);
        let pixels =
            taps.map(|(i, j, _)| x.get(grid.place(0, y, i), grid.place(1, xx, j), c, f64::NAN));
        let inside: Vec<f64> = pixels.filter(|v| !v.is_nan()).collect();
        *out.at(y, xx, c) = f(&inside);
    }
    out
}

fn batch_norm(norm: &BatchNormalization, mut x: Tensor) -> Tensor {
    let rank = isize::try_from(x.shape.len()).expect("small");
    let axis = if norm.axis < 0 {
        rank + norm.axis
    } else {
        norm.axis - 1
    };
    let axis = usize::try_from(axis).expect("an axis of the item");
    let inner: usize = x.shape[axis + 1..].iter().product();
    let n = x.shape[axis];
    for (i, v) in x.data.iter_mut().enumerate() {
        let c = i / inner % n;
        let gamma = norm.gamma.as_ref().map_or(1.0, |g| f64::from(g[c]));
        let beta = norm.beta.as_ref().map_or(0.0, |b| f64::from(b[c]));
        let deviation = (f64::from(norm.variance[c]) + f64::from(norm.epsilon)).sqrt();
        *v = (*v - f64::from(norm.mean[c])) / deviation * gamma + beta;
    }
    x
}

fn concatenate(inputs: &[&Tensor]) -> Tensor {
    let widths: Vec<usize> = inputs
        .iter()
        .map(|x| *x.shape.last().expect("an axis"))
        .collect();
    let mut shape = inputs[0].shape.clone();
    *shape.last_mut().expect("an axis") = widths.iter().sum();
    let rows = inputs[0].data.len() / widths[0];
    let row = |r: usize| {
        let parts = inputs.iter().zip(&widths);
        parts.flat_map(move |(x, n)| x.data[r * n..(r + 1) * n].iter().copied())
    };
    Tensor {
        shape,
        data: (0..rows).flat_map(row).collect(),
    }
}

fn rectify(relu: ReLU, x: f64) -> f64 {
    let (threshold, slope) = (f64::from(relu.threshold), f64::from(relu.negative_slope));
    match relu.max_value.map(f64::from) {
        Some(max) if x >= max => max,
        _ if x >= threshold => x,
        _ => slope * (x - threshold),
    }
}

fn activate(activation: Activation, x: Tensor) -> Tensor {
    let sigmoid = |v: f64| 1.0 / (1.0 + libm::exp(-v));
    match activation {
        Activation::Linear => x,
        Activation::Relu => x.map(|v| v.max(0.0)),
        Activation::Relu6 => x.map(|v| v.clamp(0.0, 6.0)),
        Activation::Gelu { .. } => {
            x.map(|v| v * 0.5 * (1.0 + libm::erf(v * std::f64::consts::FRAC_1_SQRT_2)))
        }
        Activation::Swish => x.map(|v| v * sigmoid(v)),
        Activation::HardSilu => x.map(|v| v * (v + 3.0).clamp(0.0, 6.0) / 6.0),
        Activation::LeakyRelu { alpha } => {
            x.map(|v| if v > 0.0 { v } else { v * f64::from(alpha) })
        }
        Activation::Sigmoid => x.map(sigmoid),
        Activation::Tanh => x.map(libm::tanh),
        Activation::Softmax => {
            let n = *x.shape.last().expect("an axis");
            let mut x = x.map(libm::exp);
            for row in x.data.chunks_mut(n) {
                let sum: f64 = row.iter().sum();
                row.iter_mut().for_each(|v| *v /= sum);
            }
            x
        }
        Activation::HardSigmoid
        | Activation::Softplus
        | Activation::Softsign
        | Activation::Elu
        | Activation::Selu
        | Activation::Exponential
        | _ => panic!("not needed here: {activation:?}"),
    }
}
