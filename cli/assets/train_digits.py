#!/usr/bin/env python3
"""Trains the digits network of the demo and writes `digits.h5` and `digits.npz` next to this file.

    python3 train_digits.py [output folder]

Needs quantizeml 1.2.5 (which brings tensorflow 2.19 and tf_keras 2.19) and scikit-learn.

Data: scikit-learn's `load_digits`, the test part of the "Optical Recognition of Handwritten Digits" data set of the
UCI Machine Learning Repository (E. Alpaydin and C. Kaynak, 1998; CC BY 4.0): 1797 real digits of 8x8 pixels with
values 0..16, here scaled to 0..255. A quarter is kept for testing (stratified, random_state=0).

`digits.h5`   the float model: a uint8 input, a Rescaling, Conv2D, DepthwiseConv2D and SeparableConv2D with BatchNormalization and
              ReLU6, global average pooling and a Dense layer. tf_keras HDF5, without optimizer.
`digits.npz`  `x_train` (512 calibration images), `x_test`, `y_test`; uint8, images of shape [n, 8, 8, 1].

The script quantizes the model with the reference and writes nothing when the test accuracy is below 98 % (8-bit weights
and activations, per-axis) or 96.5 % (4-bit weights and activations, 8-bit first layer, per-tensor). The committed files
gave, on the 450 test images:

    float 99.56 %; 8 bits 99.56 %; 4 bits 98.89 %

Training is seeded, but another CPU may give other last bits.
"""
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import contextlib
import io
import sys

import numpy as np
import tensorflow as tf
import tf_keras as keras
from quantizeml.models import QuantizationParams, quantize
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED = 0
N_CALIBRATION = 512
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 60, 64, 4e-3, 1e-4
EIGHT_BITS = {}
FOUR_BITS = {"weight_bits": 4, "activation_bits": 4, "per_tensor_activations": True}


def load():
    """Returns x_train, y_train, x_test, y_test; images are uint8, [n, 8, 8, 1]."""
    digits = load_digits()
    x = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    y = digits.target.astype(np.uint8)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.25, random_state=0, stratify=y)
    return x_train, y_train, x_test, y_test


def build():
    """Returns the untrained network."""
    layers = keras.layers
    l2 = keras.regularizers.l2(WEIGHT_DECAY)

    def bn_relu(x, name):
        x = layers.BatchNormalization(name=f"{name}/BN")(x)
        return layers.ReLU(6.0, name=f"{name}/relu")(x)

    inputs = layers.Input((8, 8, 1), dtype="uint8", name="input")
    x = layers.Rescaling(1 / 255, name="rescaling")(inputs)
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, kernel_regularizer=l2, name="conv_0")(x)
    x = bn_relu(x, "conv_0")
    x = layers.Conv2D(24, 3, strides=2, padding="same", use_bias=False, kernel_regularizer=l2, name="conv_1")(x)
    x = bn_relu(x, "conv_1")
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="dw_2")(x)
    x = layers.Conv2D(32, 1, use_bias=False, kernel_regularizer=l2, name="pw_2")(x)
    x = bn_relu(x, "pw_2")
    x = layers.SeparableConv2D(32, 3, padding="same", use_bias=False, name="separable_3")(x)
    x = bn_relu(x, "separable_3")
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    x = layers.Dense(10, kernel_regularizer=l2, name="classifier")(x)
    return keras.Model(inputs, x, name="digits")


def shifted(x, rng):
    """Returns the images moved by up to one pixel in each direction, with zeros entering."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    moves = rng.integers(0, 3, (len(x), 2))
    return np.stack([image[i:i + 8, j:j + 8] for image, (i, j) in zip(padded, moves)])


def train(model, x, y):
    """Trains with Adam, a cosine learning rate and shifted images."""
    steps = EPOCHS * -(-len(x) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    rng = np.random.default_rng(SEED)
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))
        # Every other image stays where it is, so that the centred test images are the common case.
        move = rng.random(len(x)) < 0.5
        batch = np.where(move[:, None, None, None], shifted(x, rng), x)
        model.fit(batch[order], y[order], batch_size=BATCH, shuffle=False, verbose=0)


def accuracy(model, x, y):
    """Returns the share of images whose largest output is the right one."""
    return float((np.argmax(model.predict(x, verbose=0, batch_size=256), -1) == y).mean())


def quantized_accuracy(model, params, data):
    """Returns the accuracy of the model that the reference makes with these parameters."""
    x_train, _, x_test, y_test = data
    with contextlib.redirect_stdout(io.StringIO()):
        quantized = quantize(model, qparams=QuantizationParams(**params), samples=x_train[:N_CALIBRATION],
                             num_samples=N_CALIBRATION, batch_size=64, epochs=2)
    return accuracy(quantized, x_test, y_test)


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    data = x_train, y_train, x_test, y_test = load()
    model = build()
    train(model, x_train, y_train)
    figures = {"float": accuracy(model, x_test, y_test),
               "8 bits": quantized_accuracy(model, EIGHT_BITS, data),
               "4 bits": quantized_accuracy(model, FOUR_BITS, data)}
    print(len(x_test), "test images;", "; ".join(f"{k} {100 * v:.2f} %" for k, v in figures.items()))
    if figures["8 bits"] < 0.98 or figures["4 bits"] < 0.965:
        sys.exit("the accuracy is too low: nothing written")
    model.save(os.path.join(folder, "digits.h5"), include_optimizer=False)
    np.savez_compressed(os.path.join(folder, "digits.npz"), x_train=x_train[:N_CALIBRATION], x_test=x_test, y_test=y_test)


if __name__ == "__main__":
    main()
