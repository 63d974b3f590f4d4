"""Writes layers.json: inputs, weights and outputs of single layers, as tf_keras computes them.

Needs tf_keras and quantizeml 1.2.5 (for PaddedConv2D, DepthwiseConv2DTranspose and Add). Usage:

    python make_layers.py > layers.json
"""

import json
import os
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import quantizeml.layers as qml
import tensorflow as tf
import tf_keras as keras

rng = np.random.default_rng(20)
L = keras.layers
cases = {}


def draw(shape, low=-2.0, high=2.0):
    return np.round(rng.uniform(low, high, shape), 3).astype(np.float32)


def tensor(x):
    x = np.asarray(x, np.float32)
    return {"shape": list(x.shape), "data": [float(str(v)) for v in x.ravel()]}


def case(name, layer, *shapes, low=-2.0, high=2.0):
    inputs = [draw((2, *shape), low, high) for shape in shapes]
    symbols = [keras.Input(shape) for shape in shapes]
    layer(symbols if len(symbols) > 1 else symbols[0])
    # A variance must be positive.
    weights = [
        draw(w.shape, 0.2, 2.0) if "variance" in w.name else draw(w.shape, -1.0, 1.0)
        for w in layer.weights
    ]
    if weights:
        layer.set_weights(weights)
    output = layer(inputs if len(inputs) > 1 else inputs[0], training=False)
    cases[name] = {
        "inputs": [tensor(x) for x in inputs],
        "weights": [tensor(w) for w in weights],
        "output": tensor(output),
    }


def function(name, f):
    x = np.concatenate([np.linspace(-9, 9, 25), [-60.0, 60.0, 0.0]]).astype(np.float32).reshape(2, 14)
    cases[name] = {"inputs": [tensor(x)], "weights": [], "output": tensor(f(tf.constant(x)))}


image = (5, 6, 2)
case("conv_same", L.Conv2D(3, 3, padding="same"), image)
case("conv_valid_strides", L.Conv2D(3, (2, 3), strides=(2, 1)), image)
case("conv_same_even_strides", L.Conv2D(2, 4, strides=2, padding="same"), (7, 6, 2))
case("conv_same_dilated", L.Conv2D(2, 3, dilation_rate=(2, 1), padding="same"), image)
case("conv_valid_dilated", L.Conv2D(2, 2, dilation_rate=3, use_bias=False), image)
case("conv_groups", L.Conv2D(6, 3, groups=2, padding="same"), (4, 5, 4))
case("conv_relu6", L.Conv2D(3, 1, activation="relu6"), image)
case("padded_conv", qml.PaddedConv2D(3, 3, strides=2, padding_value=[0.5, -1.5]), image)
case("padded_conv_dilated", qml.PaddedConv2D(2, 3, dilation_rate=2, padding_value=0.75), (7, 6, 2))
case("depthwise_same_strides", L.DepthwiseConv2D(3, strides=2, padding="same"), image)
case("depthwise_multiplier", L.DepthwiseConv2D(2, depth_multiplier=3), (4, 4, 2))
case("depthwise_dilated", L.DepthwiseConv2D(3, dilation_rate=2, padding="same"), image)
case("separable", L.SeparableConv2D(4, 3, padding="same", depth_multiplier=2), image)
case("transpose_same", L.Conv2DTranspose(3, 3, strides=2, padding="same"), (3, 4, 2))
case("transpose_valid_gaps", L.Conv2DTranspose(2, 2, strides=3), (3, 2, 2))
case("transpose_output_padding", L.Conv2DTranspose(2, 3, strides=2, padding="same", output_padding=1), (3, 3, 2))
case("depthwise_transpose", qml.DepthwiseConv2DTranspose(3, strides=2, padding="same"), (3, 4, 2))
case("dense", L.Dense(4), (3, 5))
case("batch_norm", L.BatchNormalization(), image)
case("batch_norm_axis", L.BatchNormalization(axis=1, scale=False, epsilon=0.25), image)
case("relu", L.ReLU(), (9,))
case("relu_all", L.ReLU(max_value=1.0, negative_slope=0.25, threshold=0.5), (40,))
case("leaky_relu", L.LeakyReLU(alpha=0.1), (9,))
case("prelu", L.PReLU(shared_axes=[1, 2]), image)
case("max_pool_same", L.MaxPool2D(3, strides=2, padding="same"), image, high=-0.5)
case("max_pool_valid", L.MaxPool2D((2, 3), strides=1), image)
case("average_pool_same", L.AveragePooling2D(3, strides=2, padding="same"), image)
case("average_pool_valid", L.AveragePooling2D(2), image)
case("global_average", L.GlobalAveragePooling2D(), image)
case("global_average_keepdims", L.GlobalAveragePooling2D(keepdims=True), image)
case("add", L.Add(), image, image, image)
case("add_average", qml.Add(average=True), image, image)
case("multiply_broadcast", L.Multiply(), image, (1, 1, 2))
case("subtract", L.Subtract(), (7,), (7,))
case("concatenate", L.Concatenate(), image, (5, 6, 3))
case("concatenate_rows", L.Concatenate(axis=1), image, (2, 6, 2))
case("rescaling", L.Rescaling(1 / 127.5, offset=-1), image)
case("zero_padding", L.ZeroPadding2D(((1, 0), (2, 3))), (2, 3, 2))
case("up_sampling", L.UpSampling2D((2, 3)), (2, 3, 2))
case("flatten", L.Flatten(), (2, 3, 2))
case("reshape", L.Reshape((3, -1)), (2, 3, 2))
case("permute", L.Permute((3, 1, 2)), (2, 3, 4))
case("softmax", L.Softmax(), (3, 5))
for name in [
    "relu", "swish", "sigmoid", "hard_sigmoid", "tanh", "softplus", "softsign", "elu", "selu", "exponential", "gelu",
]:
    function(f"activation_{name}", keras.activations.get(name))
function("activation_gelu_approximate", lambda x: tf.nn.gelu(x, approximate=True))
function("activation_hard_silu", lambda x: x * tf.nn.relu6(x + 3) / 6)
function("activation_leaky_relu", lambda x: tf.nn.leaky_relu(x, 0.2))

lines = [f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items()]
sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")
