//! Every layer against outputs of the reference (`golden/make_layers.py`).

#![expect(
    clippy::unwrap_used,
    reason = "a golden that cannot be read fails the test"
)]

use std::collections::BTreeSet;

use float_model::{
    Activation, Add, BatchNormalization, Conv2D, Conv2DTranspose, Dense, DepthwiseConv2D,
    GlobalAveragePooling2D, Layer, Padding, Pads, Pool2D, ReLU, Rescaling, SeparableConv2D, apply,
};
use ndarray::{Array1, Array4, ArrayD, Dimension, Ix1, Ix2, Ix4};
use quantizer_core::PerAxis;
use serde_json::Value;

/// The reference sums in another order, without fused steps, and has its own `exp`: a few units
/// in the last place of the largest term, which is at most about 10 here.
const TOLERANCE: f32 = 1e-5;

fn tensor(json: &Value) -> ArrayD<f32> {
    let list = |key: &str| json[key].as_array().unwrap().clone();
    let shape: Vec<usize> = list("shape")
        .iter()
        .map(|n| n.to_string().parse().unwrap())
        .collect();
    // Parsed as f32 from the text: the shortest digits that identify the f32.
    let data = list("data")
        .iter()
        .map(|x| x.to_string().parse().unwrap())
        .collect();
    ArrayD::from_shape_vec(shape, data).unwrap()
}

struct Weights(Vec<ArrayD<f32>>);

impl Weights {
    fn take<D: Dimension>(&self, index: usize) -> ndarray::Array<f32, D> {
        self.0[index].clone().into_dimensionality::<D>().unwrap()
    }

    fn kernel(&self) -> Array4<f32> {
        self.take::<Ix4>(0)
    }

    fn bias(&self, index: usize) -> Option<Array1<f32>> {
        (index < self.0.len()).then(|| self.take::<Ix1>(index))
    }

    fn conv(&self, strides: [usize; 2], padding: Padding) -> Conv2D {
        Conv2D {
            kernel: self.kernel(),
            bias: self.bias(1),
            strides,
            padding,
            dilation: [1, 1],
            groups: 1,
            activation: Activation::Linear,
            padding_value: None,
        }
    }

    fn depthwise(&self, stride: usize, padding: Padding) -> DepthwiseConv2D {
        DepthwiseConv2D {
            kernel: self.kernel(),
            bias: self.bias(1),
            strides: [stride, stride],
            padding,
            dilation: [1, 1],
            activation: Activation::Linear,
        }
    }

    fn transpose(&self, stride: usize, padding: Padding, extra: Option<[usize; 2]>) -> Layer {
        Layer::Conv2DTranspose(Conv2DTranspose {
            kernel: self.kernel(),
            bias: self.bias(1),
            strides: [stride, stride],
            padding,
            output_padding: extra,
            dilation: [1, 1],
            activation: Activation::Linear,
        })
    }
}

use Padding::{Same, Valid};

fn convolution(name: &str, weights: &Weights) -> Option<Layer> {
    let conv = match name {
        "conv_same" => weights.conv([1, 1], Same),
        "conv_valid_strides" => weights.conv([2, 1], Valid),
        "conv_same_even_strides" => weights.conv([2, 2], Same),
        "conv_same_dilated" => Conv2D {
            dilation: [2, 1],
            ..weights.conv([1, 1], Same)
        },
        "conv_valid_dilated" => Conv2D {
            dilation: [3, 3],
            ..weights.conv([1, 1], Valid)
        },
        "conv_groups" => Conv2D {
            groups: 2,
            ..weights.conv([1, 1], Same)
        },
        "conv_relu6" => Conv2D {
            activation: Activation::Relu6,
            ..weights.conv([1, 1], Valid)
        },
        "padded_conv" => Conv2D {
            padding_value: Some(vec![0.5, -1.5]),
            ..weights.conv([2, 2], Valid)
        },
        "padded_conv_dilated" => Conv2D {
            dilation: [2, 2],
            padding_value: Some(vec![0.75]),
            ..weights.conv([1, 1], Valid)
        },
        _ => return other_convolution(name, weights),
    };
    Some(Layer::Conv2D(conv))
}

fn other_convolution(name: &str, weights: &Weights) -> Option<Layer> {
    Some(match name {
        "depthwise_same_strides" => Layer::DepthwiseConv2D(weights.depthwise(2, Same)),
        "depthwise_multiplier" => Layer::DepthwiseConv2D(weights.depthwise(1, Valid)),
        "depthwise_dilated" => Layer::DepthwiseConv2D(DepthwiseConv2D {
            dilation: [2, 2],
            ..weights.depthwise(1, Same)
        }),
        "depthwise_transpose" => Layer::DepthwiseConv2DTranspose(weights.depthwise(2, Same)),
        "separable" => Layer::SeparableConv2D(SeparableConv2D {
            depthwise_kernel: weights.kernel(),
            pointwise_kernel: weights.take::<Ix4>(1),
            bias: weights.bias(2),
            strides: [1, 1],
            padding: Same,
            dilation: [1, 1],
            activation: Activation::Linear,
        }),
        "transpose_same" => weights.transpose(2, Same, None),
        "transpose_valid_gaps" => weights.transpose(3, Valid, None),
        "transpose_output_padding" => weights.transpose(2, Same, Some([1, 1])),
        "dense" => Layer::Dense(Dense {
            kernel: weights.take::<Ix2>(0),
            bias: weights.bias(1),
            activation: Activation::Linear,
        }),
        "batch_norm" => Layer::BatchNormalization(BatchNormalization {
            gamma: weights.bias(0),
            beta: weights.bias(1),
            mean: weights.take::<Ix1>(2),
            variance: weights.take::<Ix1>(3),
            epsilon: 1e-3,
            axis: -1,
        }),
        "batch_norm_axis" => Layer::BatchNormalization(BatchNormalization {
            gamma: None,
            beta: weights.bias(0),
            mean: weights.take::<Ix1>(1),
            variance: weights.take::<Ix1>(2),
            epsilon: 0.25,
            axis: 1,
        }),
        "prelu" => Layer::PReLU {
            alpha: weights.0[0].clone(),
        },
        _ => return None,
    })
}

fn pool(size: [usize; 2], stride: usize, padding: Padding) -> Pool2D {
    Pool2D {
        pool_size: size,
        strides: [stride, stride],
        padding,
    }
}

fn weightless(name: &str) -> Option<Layer> {
    let pads = Pads {
        top: 1,
        bottom: 0,
        left: 2,
        right: 3,
    };
    Some(match name {
        "relu" => Layer::ReLU(ReLU::default()),
        "relu_all" => Layer::ReLU(ReLU {
            max_value: Some(1.0),
            negative_slope: 0.25,
            threshold: 0.5,
        }),
        "leaky_relu" => Layer::LeakyReLU { alpha: 0.1 },
        "max_pool_same" => Layer::MaxPool2D(pool([3, 3], 2, Same)),
        "max_pool_valid" => Layer::MaxPool2D(pool([2, 3], 1, Valid)),
        "average_pool_same" => Layer::AveragePool2D(pool([3, 3], 2, Same)),
        "average_pool_valid" => Layer::AveragePool2D(pool([2, 2], 2, Valid)),
        "global_average" => Layer::GlobalAveragePooling2D(GlobalAveragePooling2D::default()),
        "global_average_keepdims" => {
            Layer::GlobalAveragePooling2D(GlobalAveragePooling2D { keepdims: true })
        }
        "add" => Layer::Add(Add::default()),
        "add_average" => Layer::Add(Add { average: true }),
        "multiply_broadcast" => Layer::Multiply,
        "subtract" => Layer::Subtract,
        "concatenate" => Layer::Concatenate { axis: -1 },
        "concatenate_rows" => Layer::Concatenate { axis: 1 },
        "rescaling" => Layer::Rescaling(Rescaling {
            scale: PerAxis::Tensor(1.0 / 127.5),
            offset: PerAxis::Tensor(-1.0),
        }),
        "zero_padding" => Layer::ZeroPadding2D(pads),
        "up_sampling" => Layer::UpSampling2D { size: [2, 3] },
        "flatten" => Layer::Flatten,
        "reshape" => Layer::Reshape {
            target_shape: vec![3, -1],
        },
        "permute" => Layer::Permute {
            dims: vec![3, 1, 2],
        },
        "softmax" => Layer::Activation(Activation::Softmax),
        _ => return None,
    })
}

fn activation(name: &str) -> Option<Layer> {
    Some(Layer::Activation(
        match name.strip_prefix("activation_")? {
            "relu" => Activation::Relu,
            "swish" => Activation::Swish,
            "sigmoid" => Activation::Sigmoid,
            "hard_sigmoid" => Activation::HardSigmoid,
            "tanh" => Activation::Tanh,
            "softplus" => Activation::Softplus,
            "softsign" => Activation::Softsign,
            "elu" => Activation::Elu,
            "selu" => Activation::Selu,
            "exponential" => Activation::Exponential,
            "gelu" => Activation::Gelu { approximate: false },
            "gelu_approximate" => Activation::Gelu { approximate: true },
            "hard_silu" => Activation::HardSilu,
            "leaky_relu" => Activation::LeakyRelu { alpha: 0.2 },
            _ => return None,
        },
    ))
}

#[test]
fn every_layer_computes_what_the_reference_does() {
    let json: Value = serde_json::from_str(include_str!("golden/layers.json")).unwrap();
    let mut classes = BTreeSet::new();
    for (name, golden) in json.as_object().unwrap() {
        let list = |key: &str| -> Vec<ArrayD<f32>> {
            golden[key].as_array().unwrap().iter().map(tensor).collect()
        };
        let weights = Weights(list("weights"));
        let layer = convolution(name, &weights)
            .or_else(|| weightless(name))
            .or_else(|| activation(name))
            .unwrap_or_else(|| panic!("no layer for the golden `{name}`"));
        let inputs = list("inputs");
        let got = apply(name, &layer, &inputs.iter().collect::<Vec<_>>()).unwrap();
        let want = tensor(&golden["output"]);
        assert_eq!(got.shape(), want.shape(), "{name}");
        for (index, want) in want.indexed_iter() {
            let got = got[&index];
            let tolerance = TOLERANCE * want.abs().max(1.0);
            assert!(
                (got - want).abs() <= tolerance,
                "{name} at {index:?}: {got}, reference {want}"
            );
        }
        classes.insert(layer.class_name());
    }
    let all = "Activation Add AveragePooling2D BatchNormalization Concatenate Conv2D \
               Conv2DTranspose Dense DepthwiseConv2D DepthwiseConv2DTranspose Flatten \
               GlobalAveragePooling2D LeakyReLU MaxPooling2D Multiply PReLU PaddedConv2D Permute \
               ReLU Rescaling Reshape SeparableConv2D Subtract UpSampling2D ZeroPadding2D";
    assert_eq!(
        classes.into_iter().collect::<Vec<_>>(),
        all.split_whitespace().collect::<Vec<_>>(),
        "classes with a golden"
    );
}
