"""Makes small ONNX models and what onnxruntime computes with them.

    pip install onnx onnxruntime tf2onnx tensorflow tf_keras
    python make_onnx.py onnx [NAME ...]

Each model gets NAME.onnx and NAME.npz: `x`, channels last as we read it, and `y`, channels last too. The models are
written node by node as the exporters of PyTorch write them (channels first, names such as /layer/Conv), and by tf2onnx
from Keras. The last part needs TensorFlow and is skipped where there is none.
"""

import os
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

OUT = sys.argv[1] if len(sys.argv) > 1 else "onnx"
RNG = np.random.default_rng(1)


class Model:
    """A graph in the making."""

    def __init__(self, name, shape, opset=17, dtype=TensorProto.FLOAT):
        self.name, self.shape, self.opset, self.dtype = name, shape, opset, dtype
        self.nodes, self.constants = [], []

    def weights(self, *shape, scale=0.3):
        return self.constant((RNG.standard_normal(shape) * scale).astype(np.float32))

    def constant(self, array):
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op, *inputs, **attributes):
        output = f"/{len(self.nodes)}/{op}_output_0"
        self.nodes.append(helper.make_node(op, inputs, [output], f"/{len(self.nodes)}/{op}", **attributes))
        return output

    def split(self, x, parts):
        outputs = [f"/{len(self.nodes)}/Split_output_{i}" for i in range(parts)]
        self.nodes.append(helper.make_node("Split", [x], outputs, f"/{len(self.nodes)}/Split", axis=1))
        return outputs

    def conv(self, x, c, f, k=3, **attributes):
        extents = [k, k] if isinstance(k, int) else list(k)
        group = attributes.get("group", 1)
        attributes.setdefault("kernel_shape", extents)
        return self.node("Conv", x, self.weights(f, c // group, *extents), self.weights(f), **attributes)

    def write(self, output, lists_constants=False):
        batch = ["batch", *self.shape[1:]]
        inputs = [helper.make_tensor_value_info("input", self.dtype, batch)]
        if lists_constants:
            inputs += [helper.make_tensor_value_info(c.name, c.data_type, c.dims) for c in self.constants]
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, self.name, inputs, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        save(self.name, model, self.shape, self.dtype)


def save(name, model, shape, dtype=TensorProto.FLOAT, channels_first=True):
    path = os.path.join(OUT, f"{name}.onnx")
    onnx.save(model, path)
    if dtype == TensorProto.UINT8:
        x = RNG.integers(0, 256, shape).astype(np.uint8)
    else:
        x = RNG.standard_normal(shape).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    last = lambda a: np.moveaxis(a, 1, -1) if channels_first and a.ndim > 3 else a
    x = np.moveaxis(x, 1, -1)[:, None] if channels_first and x.ndim == 3 else last(x)
    np.savez_compressed(os.path.join(OUT, f"{name}.npz"), x=x.astype(np.float32), y=last(y))
    print(name, x.shape, y.shape)


def resnet():
    """Stride 2 with symmetric pads, max pooling behind a rectifier, a residual sum, Flatten of images."""
    m = Model("resnet", (2, 3, 20, 20))
    x = m.conv("input", 3, 8, 7, strides=[2, 2], pads=[3, 3, 3, 3])
    x = m.node("BatchNormalization", x, *[m.constant(np.abs(RNG.standard_normal(8)).astype(np.float32) + 0.5) for _ in range(4)])
    x = m.node("Relu", x)
    x = m.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    y = m.node("Relu", m.conv(x, 8, 8, 3, pads=[1, 1, 1, 1]))
    y = m.conv(y, 8, 8, 3, pads=[1, 1, 1, 1])
    x = m.node("Relu", m.node("Add", x, y))
    x = m.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = m.node("Flatten", x)
    x = m.node("Gemm", x, m.weights(10, 8 * 2 * 2), m.weights(10), transB=1)
    m.write(m.node("Softmax", x, axis=1), lists_constants=True)


def mobilenet():
    """Depthwise and grouped convolutions, Clip with constants, means over height and width, HardSwish."""
    m = Model("mobilenet", (2, 3, 16, 16))
    x = m.conv("input", 3, 8, 3, strides=[2, 2], pads=[0, 0, 1, 1])
    x = m.node("Clip", x, m.constant(np.float32(0)), m.constant(np.float32(6)))
    x = m.conv(x, 8, 8, 3, group=8, pads=[1, 1, 1, 1])
    x = m.node("HardSwish", x)
    x = m.conv(x, 8, 16, 3, group=4, auto_pad="SAME_UPPER", strides=[2, 2])
    x = m.node("LeakyRelu", x, alpha=0.1)
    x = m.conv(x, 16, 32, 3, group=16, pads=[1, 1, 1, 1])
    x = m.node("PRelu", x, m.weights(32, 1, 1))
    x = m.node("ReduceMean", x, axes=[2, 3], keepdims=1)
    x = m.node("Mul", x, m.node("HardSigmoid", x, alpha=1 / 6, beta=0.5))
    shape = m.node("Shape", x)
    first = m.node("Unsqueeze", m.node("Gather", shape, m.constant(np.int64(0)), axis=0), m.constant(np.array([0])))
    x = m.node("Reshape", x, m.node("Concat", first, m.constant(np.array([-1])), axis=0))
    x = m.node("MatMul", x, m.weights(32, 5))
    m.write(m.node("Add", x, m.weights(5)))


def activations():
    """Swish, both forms of gelu from single operations, Concat, Transpose, Squeeze."""
    m = Model("activations", (2, 4, 6, 5), opset=13)
    x = m.conv("input", 4, 6, 1)
    swish = m.node("Mul", x, m.node("Sigmoid", x))
    erf = m.node("Erf", m.node("Div", x, m.constant(np.float32(np.sqrt(2)))))
    gelu = m.node("Mul", m.node("Mul", x, m.node("Add", erf, m.constant(np.float32(1)))), m.constant(np.float32(0.5)))
    cube = m.node("Mul", m.node("Pow", x, m.constant(np.float32(3))), m.constant(np.float32(0.044715)))
    inner = m.node("Mul", m.node("Add", x, cube), m.constant(np.float32(np.sqrt(2 / np.pi))))
    tanh = m.node("Add", m.node("Tanh", inner), m.constant(np.float32(1)))
    approximate = m.node("Mul", m.node("Mul", x, m.constant(np.float32(0.5))), tanh)
    x = m.node("Concat", swish, gelu, approximate, axis=1)
    x = m.node("Transpose", x, perm=[0, 2, 3, 1])
    x = m.node("Add", x, m.weights(18))
    x = m.node("Transpose", x, perm=[0, 3, 1, 2])
    x = m.node("GlobalAveragePool", m.node("Relu", m.conv(x, 18, 7, 3)))
    x = m.node("Squeeze", x, m.constant(np.array([2, 3])))
    m.write(m.node("Gemm", x, m.weights(7, 3), m.weights(3), alpha=0.5, beta=2.0))


def upscaling():
    """Transposed convolutions, Pad, AveragePool, Resize; an image as output."""
    m = Model("upscaling", (2, 3, 5, 6))
    x = m.node("Pad", "input", m.constant(np.array([0, 0, 1, 0, 0, 0, 0, 2])))
    x = m.node("Relu", m.conv(x, 3, 6, 3, pads=[1, 1, 1, 1]))
    x = m.node("ConvTranspose", x, m.weights(6, 4, 2, 2), m.weights(4), strides=[2, 2], kernel_shape=[2, 2])
    x = m.node("ConvTranspose", x, m.weights(4, 5, 4, 4), strides=[2, 2], kernel_shape=[4, 4], pads=[1, 1, 1, 1])
    x = m.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = m.node("Resize", x, "", m.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest", coordinate_transformation_mode="asymmetric")
    m.write(m.node("Tanh", x))


def sequence():
    """1-D convolutions over [batch, channels, time]."""
    m = Model("sequence", (2, 4, 30))
    x = m.node("Relu", m.conv("input", 4, 8, [5], strides=[2], pads=[2, 2]))
    x = m.node("MaxPool", x, kernel_shape=[2], strides=[2])
    x = m.node("Relu", m.conv(x, 8, 8, [3], group=8, pads=[1, 1]))
    x = m.node("Flatten", m.node("Dropout", x))
    m.write(m.node("Gemm", x, m.weights(6, 8 * 7), m.weights(6), transB=1))


def integer_input():
    """A uint8 image, cast and scaled."""
    m = Model("integer_input", (2, 3, 8, 8), dtype=TensorProto.UINT8)
    x = m.node("Mul", m.node("Cast", "input", to=TensorProto.FLOAT), m.constant(np.float32(1 / 255)))
    x = m.node("Sub", x, m.constant(np.array([0.5, 0.4, 0.3], np.float32).reshape(3, 1, 1)))
    x = m.node("Relu", m.conv(x, 3, 4, 3))
    m.write(m.node("Flatten", m.node("GlobalAveragePool", x)))


def keras():
    """Channels last with transposes, as tf2onnx writes Keras models."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    try:
        import tensorflow as tf
        import tf2onnx
        import tf_keras as keras
    except ImportError as error:
        print("no model of tf2onnx:", error)
        return
    layers = keras.layers
    x = image = keras.Input((12, 10, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.ReLU()(layers.DepthwiseConv2D(3, padding="same")(x))
    x = layers.MaxPool2D()(layers.Conv2D(6, 1, activation="swish")(x))
    x = layers.Dense(5)(layers.Flatten()(x))
    model = keras.Model(image, x)
    for weights in model.weights:
        weights.assign(np.abs(RNG.standard_normal(weights.shape)) * 0.4)
    proto, _ = tf2onnx.convert.from_keras(model, opset=15)
    save("keras", proto, (2, 12, 10, 3), channels_first=False)


def details():
    """What the exporters of PyTorch make of F.pad, chunk, amax, clamp, avg_pool2d and transposed convolutions."""
    m = Model("details", (2, 3, 8, 8), opset=13)
    # F.pad: the pads of the last axis first, filled up with zeros, reversed in pairs.
    zeros = m.node("ConstantOfShape", m.constant(np.array([4])), value=numpy_helper.from_array(np.array([0])))
    pads = m.node("Concat", m.constant(np.array([1, 0, 2, 1])), zeros, axis=0)
    pads = m.node("Reshape", pads, m.constant(np.array([-1, 2])))
    last, first, one = m.constant(np.array([-1])), m.constant(np.array([-(2**63) + 1])), m.constant(np.array([0]))
    pads = m.node("Slice", pads, last, first, one, last)
    pads = m.node("Reshape", m.node("Transpose", pads, perm=[1, 0]), m.constant(np.array([-1])))
    x = m.node("Pad", "input", m.node("Cast", pads, to=TensorProto.INT64), mode="constant")
    x = m.node("Relu", m.conv(x, 3, 8, 3))
    x = m.node("ConvTranspose", x, m.weights(8, 6, 3, 3), m.weights(6), strides=[2, 2], kernel_shape=[3, 3], pads=[1, 1, 1, 1], output_padding=[1, 1])
    x = m.node("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)
    x = m.node("Clip", x, m.constant(np.float32(-1)), m.constant(np.float32(0.75)))
    a, b = m.split(x, 2)
    c = m.node("Slice", x, m.constant(np.array([1])), m.constant(np.array([5])), m.constant(np.array([1])), m.constant(np.array([2])))
    # A channel shuffle, then halves of it.
    x = m.node("Reshape", x, m.constant(np.array([-1, 2, 3, 9, 7])))
    x = m.node("Reshape", m.node("Transpose", x, perm=[0, 2, 1, 3, 4]), m.constant(np.array([-1, 6, 9, 7])))
    d, _ = m.split(x, 2)
    x = m.node("Concat", m.node("Relu", a), b, c, d, axis=1)
    x = m.node("ReduceMax", x, axes=[2, 3], keepdims=0)
    m.write(m.node("LogSoftmax", m.node("Gemm", x, m.weights(11, 4), m.weights(4)), axis=-1))


def waves():
    """A transposed 1-D convolution."""
    m = Model("waves", (2, 4, 9))
    x = m.node("ConvTranspose", "input", m.weights(4, 5, 4), m.weights(5), strides=[2], kernel_shape=[4], pads=[1, 1])
    x = m.node("Relu", m.conv(x, 5, 3, [3], pads=[1, 1]))
    m.write(m.node("ReduceMean", x, axes=[2], keepdims=0))


os.makedirs(OUT, exist_ok=True)
ALL = (resnet, mobilenet, activations, upscaling, sequence, integer_input, keras, details, waves)
for make in ALL:
    if make.__name__ in (sys.argv[2:] or [make.__name__]):
        make()
