//! Small networks, quantized, and changes of them.

use bitproof::akida_sim::{InputKind, QuantizedModel, QuantizedNode, QuantizedOp};
use bitproof::config_schema::InputDtype;
use bitproof::float_model::{
    Activation, BufferTempConv, Convolution, Dense, DepthwiseBufferTempConv, DepthwiseConv2D,
    Dtype, Graph, GraphBuilder, HardwareRewrites, Layer, Output, Padding, Pool2D,
    StatefulProjection, StatefulRecurrent,
};
use bitproof::quantizer_core::layers::IntegerLayer;
use bitproof::{
    InputQuantizerMode, ParamValues, QuantizationParams, QuantizeOptions, Samples, quantize,
};
use ndarray::{Array1, Array2, Array4};
use serde_json::json;

/// How a network is quantized.
#[derive(Clone, Copy)]
pub(crate) struct How {
    pub(crate) params: ParamValues,
    pub(crate) hardware: HardwareRewrites,
    pub(crate) input: InputQuantizerMode,
}

/// Bits of Akida 1.0: 4, 8 at the input layer, per tensor.
pub(crate) fn v1() -> How {
    How {
        params: ParamValues {
            activation_bits: 4,
            per_tensor_activations: true,
            weight_bits: 4,
            output_bits: 4,
            ..*QuantizationParams::default().values()
        },
        hardware: HardwareRewrites::On,
        input: InputQuantizerMode::Never,
    }
}

/// Bits of Akida 2.0: 8.
pub(crate) fn v2() -> How {
    How {
        params: *QuantizationParams::default().values(),
        ..v1()
    }
}

impl How {
    /// Leaves the network as it is.
    pub(crate) fn as_it_is(self) -> Self {
        Self {
            hardware: HardwareRewrites::Off,
            ..self
        }
    }

    pub(crate) fn dtype(mut self, dtype: InputDtype) -> Self {
        self.params.input_dtype = dtype;
        self
    }

    pub(crate) fn output_bits(mut self, bits: u8) -> Self {
        self.params.output_bits = bits;
        self
    }

    /// Puts an InputQuantizer in front.
    pub(crate) fn with_quantizer(self) -> Self {
        Self {
            input: InputQuantizerMode::Always,
            ..self
        }
    }
}

/// Returns the network that `body` writes behind an input, quantized.
pub(crate) fn net<const N: usize>(
    how: How,
    shape: [usize; N],
    body: impl FnOnce(&mut GraphBuilder, Output) -> Output,
) -> QuantizedModel {
    let mut b = GraphBuilder::new("net");
    let x = b.input("input", shape);
    let y = body(&mut b, x);
    quantized(b.build([y]).unwrap(), how)
}

fn quantized(graph: Graph, how: How) -> QuantizedModel {
    let options = QuantizeOptions {
        params: QuantizationParams::try_from(how.params).unwrap(),
        hardware: how.hardware,
        input_quantizer: how.input,
        num_samples: Some(2),
        ..QuantizeOptions::default()
    };
    let quantized = quantize(graph, Samples::Random, &options, &mut |_| ()).unwrap();
    quantized.model
}

/// Adds a convolution with a bounded ReLU, `NAME_relu`.
pub(crate) fn conv6(
    b: &mut GraphBuilder,
    name: &str,
    x: Output,
    filters: usize,
    how: impl Into<Convolution>,
) -> Output {
    let x = b.conv2d(name, x, filters, how);
    b.clipped_relu(&format!("{name}_relu"), x, 6.0)
}

/// Adds a convolution with a ReLU, `NAME_relu`.
pub(crate) fn conv(
    b: &mut GraphBuilder,
    name: &str,
    x: Output,
    filters: usize,
    how: impl Into<Convolution>,
) -> Output {
    let x = b.conv2d(name, x, filters, how);
    b.relu(&format!("{name}_relu"), x)
}

pub(crate) fn k(kernel: usize) -> Convolution {
    Convolution::new(kernel).same()
}

/// Adds a max pooling with the border rule of a 'same' convolution.
pub(crate) fn pool(
    b: &mut GraphBuilder,
    name: &str,
    x: Output,
    pool_size: [usize; 2],
    strides: [usize; 2],
) -> Output {
    let padding = Padding::Same;
    let layer = Layer::MaxPool2D(Pool2D {
        pool_size,
        strides,
        padding,
    });
    b.layer(name, [x], layer)
}

/// Adds a global average pooling and a dense layer.
pub(crate) fn head(b: &mut GraphBuilder, x: Output) -> Output {
    let x = b.global_average_pooling2d("gap", x);
    b.dense("fc", x, 3)
}

/// Adds a Flatten and a dense layer.
pub(crate) fn flat_head(b: &mut GraphBuilder, x: Output) -> Output {
    let x = b.flatten("flatten", x);
    b.dense("fc", x, 3)
}

pub(crate) const GELU: Activation = Activation::Gelu { approximate: false };

/// A chain that Akida 1.0 takes: every kind of block that it has, with every pooling.
pub(crate) fn chain() -> QuantizedModel {
    net(v1(), [16, 16, 3], |b, x| {
        let x = b.conv2d("c0", x, 8, k(3));
        let x = pool(b, "p0", x, [2, 2], [2, 2]);
        let x = b.clipped_relu("c0_relu", x, 6.0);
        let x = conv6(b, "c1", x, 8, k(3));
        let x = b.separable_conv2d("s0", x, 8, k(3));
        let x = pool(b, "p1", x, [2, 2], [2, 2]);
        let x = b.clipped_relu("s0_relu", x, 6.0);
        let x = b.conv2d("c2", x, 8, k(3));
        let x = b.global_average_pooling2d("gap", x);
        let x = b.clipped_relu("c2_relu", x, 6.0);
        b.dense("fc", x, 3)
    })
}

/// A chain that ends in a separable convolution over `extent` x `extent` and its average.
pub(crate) fn separable_average(extent: usize) -> QuantizedModel {
    net(v1(), [5, 5, 1], |b, x| {
        let stride = if extent == 1 { 5 } else { 1 };
        let x = conv6(b, "c0", x, 4, k(5).strides(stride));
        let x = b.separable_conv2d("s0", x, 4, k(3));
        let x = b.global_average_pooling2d("gap", x);
        let x = b.clipped_relu("s0_relu", x, 6.0);
        b.dense("fc", x, 3)
    })
}

/// A chain of Akida 1.0 whose input is four channels of 4 bits.
pub(crate) fn four_bit_data() -> QuantizedModel {
    let how = v1().dtype(InputDtype::UInt8).with_quantizer();
    let mut model = net(how, [8, 8, 4], |b, x| {
        let x = conv6(b, "c0", x, 8, k(3));
        flat_head(b, x)
    });
    set_bits(&mut model, "c0", "weight_quantizer", 4);
    for node in &mut model.nodes {
        if let QuantizedOp::InputQuantizer { spec, .. } = &mut node.op {
            spec.bitwidth = 4;
            spec.signed = false;
        }
    }
    model
}

/// A residual network that Akida 2.0 takes.
pub(crate) fn residual() -> QuantizedModel {
    net(v2(), [16, 16, 3], |b, x| {
        let x = conv(b, "c0", x, 8, k(3).strides(2));
        let x = b.depthwise_conv2d("d0", x, k(3));
        let x = b.relu("d0_relu", x);
        let x = b.conv2d("c1", x, 8, k(1));
        let x = pool(b, "p1", x, [2, 2], [2, 2]);
        let x = b.clipped_relu("c1_relu", x, 6.0);
        let a = conv(b, "c2", x, 8, k(3));
        let y = b.conv2d("c3", a, 8, k(3));
        let x = b.add("add", [y, a]);
        let x = conv(b, "c4", x, 8, k(3));
        let y = conv(b, "c5", x, 8, k(3));
        let x = b.concatenate("cat", [x, y]);
        let x = conv(b, "c6", x, 8, k(3));
        head(b, x)
    })
}

pub(crate) fn table() -> QuantizedModel {
    net(v2(), [8, 8, 3], |b, x| {
        let x = conv(b, "c0", x, 4, k(3));
        let x = b.conv2d("c1", x, 4, k(3));
        let x = b.activation("gelu", x, GELU);
        flat_head(b, x)
    })
}

/// Adds a transposed convolution of each channel.
pub(crate) fn depthwise_transpose(b: &mut GraphBuilder, x: Output) -> Output {
    let layer = DepthwiseConv2D {
        kernel: Array4::from_elem((3, 3, 4, 1), 0.25),
        bias: None,
        strides: [2, 2],
        padding: Padding::Same,
        dilation: [1, 1],
        activation: Activation::Linear,
    };
    b.layer("dwt", [x], Layer::DepthwiseConv2DTranspose(layer))
}

/// A network with both transposed convolutions; the plain one as given.
pub(crate) fn transposed(how: Convolution) -> QuantizedModel {
    net(v2(), [6, 6, 3], |b, x| {
        let x = conv(b, "c0", x, 4, k(3));
        let x = b.conv2d_transpose("t0", x, 4, how);
        let x = b.relu("t0_relu", x);
        let x = depthwise_transpose(b, x);
        b.conv2d("c1", x, 4, k(1))
    })
}

/// A network with both temporal convolutions.
pub(crate) fn temporal(n_frames: usize, filters: usize) -> QuantizedModel {
    net(v2(), [6, 6, 3], |b, x| {
        let x = conv(b, "c0", x, 4, k(3));
        let kernel = Array4::from_elem((1, 1, n_frames * 4, filters), 0.1);
        let bias = None;
        let layer = Layer::BufferTempConv(BufferTempConv {
            kernel,
            bias: bias.clone(),
            n_frames,
        });
        let x = b.layer("btc", [x], layer);
        let x = b.relu("btc_relu", x);
        let kernel = Array2::from_elem((3, filters), 0.1);
        let layer = Layer::DepthwiseBufferTempConv(DepthwiseBufferTempConv { kernel, bias });
        let x = b.layer("dbtc", [x], layer);
        b.conv2d("c1", x, 2, k(1))
    })
}

/// A network with a recurrent block.
pub(crate) fn recurrent() -> QuantizedModel {
    let projection = |channels, units| {
        Layer::StatefulProjection(StatefulProjection {
            dense: Dense {
                kernel: Array2::from_elem((channels, units), 0.2),
                bias: None,
                activation: Activation::Linear,
            },
            subsample: 1,
        })
    };
    let how = v2().dtype(InputDtype::Int8);
    net(how, [4, 3], |b, x| {
        let x = b.layer("in", [x], projection(3, 4));
        let layer = StatefulRecurrent {
            a_real: Array1::from_elem(4, 0.5),
            a_imag: Array1::from_elem(4, 0.25),
        };
        let x = b.layer("ssm", [x], Layer::StatefulRecurrent(layer));
        let layer = Layer::ExtractToken { token: 0, axis: 3 };
        let x = b.layer("real", [x], layer);
        let x = b.layer("out", [x], projection(4, 2));
        b.relu("relu", x)
    })
}

/// A network whose first convolution has a border that is not zero.
pub(crate) fn padded() -> QuantizedModel {
    let how = v2().with_quantizer();
    let mut model = net(how, [8, 8, 3], |b, x| {
        let x = conv(b, "c0", x, 4, k(3));
        let x = conv(b, "c1", x, 4, k(3));
        flat_head(b, x)
    });
    for node in &mut model.nodes {
        if let QuantizedOp::InputQuantizer { spec, .. } = &mut node.op {
            assert!(!spec.signed, "an image is unsigned");
            spec.bitwidth = 8;
        }
    }
    model
}

pub(crate) fn node<'m>(model: &'m mut QuantizedModel, name: &str) -> &'m mut QuantizedNode {
    let found = model.nodes.iter_mut().find(|node| node.name == name);
    assert!(found.is_some(), "there is no layer {name}");
    found.unwrap()
}

pub(crate) fn integers<'m>(model: &'m mut QuantizedModel, name: &str) -> &'m mut IntegerLayer {
    match &mut node(model, name).op {
        QuantizedOp::Integer(layer) => layer,
        other => panic!("{name} is {other:?}"),
    }
}

/// Returns the network after a change.
pub(crate) fn changed(
    mut model: QuantizedModel,
    change: impl FnOnce(&mut QuantizedModel),
) -> QuantizedModel {
    change(&mut model);
    model
}

/// Sets the bits of a quantizer in the configuration of a layer.
pub(crate) fn set_bits(model: &mut QuantizedModel, name: &str, quantizer: &str, bits: u8) {
    let config = node(model, name).config.as_mut().unwrap();
    config[quantizer]["bitwidth"] = json!(bits);
}

/// Returns a network with other bits of one quantizer.
pub(crate) fn with_bits(
    model: QuantizedModel,
    name: &str,
    quantizer: &str,
    bits: u8,
) -> QuantizedModel {
    changed(model, |model| set_bits(model, name, quantizer, bits))
}

/// Makes the raw input of a model another type.
pub(crate) fn with_dtype(model: QuantizedModel, wanted: Dtype) -> QuantizedModel {
    changed(model, |model| match &mut node(model, "input").op {
        QuantizedOp::Input(InputKind::Raw { dtype, .. }) => *dtype = wanted,
        other => panic!("{other:?}"),
    })
}
