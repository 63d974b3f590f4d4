"""Writes operations.h5, a functional model of TensorFlow operations, and operations.npz, inputs and outputs of it.

Needs tf_keras 2.19. From the repository's root:

    python model-files/tests/data/make_operations.py
"""

import os
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import tensorflow as tf
import tf_keras

FOLDER = Path("model-files/tests/data")
layers = tf_keras.layers
tf_keras.utils.set_random_seed(1)

image = layers.Input((4, 4, 2), name="image")
x = tf.nn.relu(image * 0.5 + 0.25, name="first")
x = x + tf.nn.gelu(image) - tf.nn.silu(image)
x = tf.nn.leaky_relu(x, alpha=0.3) * tf.nn.relu6(x)
gate = tf.nn.relu6(x + 3.0) / 6.0
x = x * gate
x = tf.transpose(x, [0, 2, 1, 3])
x = tf.concat([x, tf.math.tanh(x)], axis=-1)
pooled = tf.reduce_mean(x, axis=[1, 2])
flat = tf.reshape(x, [-1, 64])
scores = tf.nn.softmax(layers.Dense(3, name="scores")(flat))
model = tf_keras.Model(image, [scores, pooled], name="operations")

inputs = np.random.default_rng(1).normal(0, 2, (3, 4, 4, 2)).astype(np.float32)
outputs = model(inputs)
model.save(FOLDER / "operations.h5", include_optimizer=False)
np.savez_compressed(FOLDER / "operations.npz", inputs=inputs, scores=outputs[0], pooled=outputs[1])
