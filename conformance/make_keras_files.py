#!/usr/bin/env python3
"""Writes model-files/tests/data/keras/: small models in the forms in which Keras saves them.

usage, from the repository's root, once in an environment with tf_keras 2.19, once in one with Keras 3.15:

    python conformance/make_keras_files.py tf_keras [NAME ...]
    KERAS_BACKEND=jax python conformance/make_keras_files.py keras

For each model NAME: `NAME.npz` holds inputs `x` and the outputs `y` of Keras; the files are `NAME.keras`, `NAME.h5`,
and for some `NAME.weights.h5` with `NAME.json`. Names start with `k2` (tf_keras) or `k3` (Keras 3).
"""
import os
import sys
import zipfile
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np

if sys.argv[1] == "tf_keras":
    import tf_keras as keras

    FORM = "k2"
else:
    import keras

    FORM = "k3"
L = keras.layers
FOLDER = Path("model-files/tests/data/keras")
SHAPE = (6, 6, 2)


def branches():
    """Every class of layer with weights or parameters that has its own words in a file."""
    x = keras.Input(SHAPE, name="in")
    y = L.Rescaling(0.5, name="scale")(x)
    a = L.Conv2D(3, 3, padding="same", activation="relu", name="conv")(y)
    a = L.BatchNormalization(name="norm")(a)
    b = L.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False, name="depth")(y)
    b = L.ReLU(6.0, name="clip")(b)
    b = L.SeparableConv2D(3, 3, padding="same", name="separable")(b)
    b = L.BatchNormalization(scale=False, name="unscaled")(b)
    y = L.Add(name="add")([a, b])
    y = L.Concatenate(name="concat")([y, a])
    y = L.LeakyReLU(0.125, name="leaky")(y)
    y = L.PReLU(shared_axes=[1, 2], name="prelu")(y)
    y = L.MaxPooling2D(name="pool")(y)
    y = L.ZeroPadding2D(((1, 0), (0, 1)), name="pad")(y)
    y = L.Conv2DTranspose(2, 3, strides=2, padding="same", name="up")(y)
    y = L.Conv2D(4, 3, dilation_rate=2, groups=2, activation="silu" if FORM == "k3" else "swish", name="dilated")(y)
    y = L.Dropout(0.25, name="drop")(y)
    y = L.GlobalAveragePooling2D(name="gap")(y)
    y = L.Reshape((2, 2), name="reshape")(y)
    y = L.Permute((2, 1), name="permute")(y)
    y = L.Flatten(name="flatten")(y)
    return keras.Model(x, L.Softmax(name="soft")(L.Dense(3, name="dense")(y)), name="branches")


def nested():
    """A model in a model in a model; a Sequential; one name in two models; frozen layers."""
    i = keras.Input((None, None, 2), name="in")
    y = L.Conv2D(2, 1, name="conv")(i)
    deep = keras.Sequential([L.DepthwiseConv2D(3, padding="same", name="depth"), L.BatchNormalization(name="norm")], name="deep")
    y = deep(y)
    y = L.Conv2D(2, 1, name="last")(y)
    block = keras.Model(i, [y, L.ReLU(name="relu")(y)], name="block")
    frozen = keras.Sequential([keras.Input((None, None, 2)), L.Conv2D(2, 3, name="conv"), L.BatchNormalization(name="norm")], name="frozen")
    x = keras.Input(SHAPE, name="in")
    y, z = block(L.Conv2D(2, 1, name="conv")(x))
    y = frozen(L.Add(name="add")([z, y]))
    model = keras.Model(x, L.Dense(2, name="conv_1")(L.Flatten(name="flatten")(y)), name="nested")
    frozen.trainable = False
    block.get_layer("last").trainable = False
    return model


def implied():
    """A Sequential model whose input is not written as a layer of its own."""
    model = keras.Sequential([L.Conv2D(3, 3, activation="relu"), L.BatchNormalization(), L.Flatten(), L.Dense(2)], name="implied")
    model.build((None, *SHAPE))
    return model


def mixed():
    """Half precision, as a policy of the model and of its input."""
    x = keras.Input(SHAPE, dtype="float16", name="in")
    y = L.Conv2D(3, 3, dtype="mixed_float16", name="mixed")(x)
    y = L.Dense(2, dtype="float16", name="half")(L.Flatten(name="flatten", dtype="float16")(y))
    return keras.Model(x, y, name="mixed")


def operators():
    """Operations instead of layers."""
    x = keras.Input(SHAPE, name="in")
    y = L.Conv2D(3, 3, name="conv")(x * 0.5 - 1.0)
    act = keras.ops.relu6 if FORM == "k3" else __import__("tensorflow").nn.relu6
    return keras.Model(x, L.Dense(2, name="dense")(L.Flatten(name="flatten")(act(y) + y)), name="operators")


def shared():
    """A layer that is called twice."""
    x = keras.Input(SHAPE, name="in")
    conv = L.Conv2D(2, 1, name="conv")
    return keras.Model(x, conv(conv(x)), name="shared")


def clips():
    """Layers over clips, in the form that becomes layers over frames."""
    x = keras.Input((5, 6, 6, 2), name="in")
    y = L.Conv3D(4, (1, 3, 3), strides=(1, 2, 2), padding="same", name="conv")(x)
    y = L.ReLU(name="relu")(L.BatchNormalization(name="norm")(y))
    y = L.ZeroPadding3D(((2, 0), (0, 0), (0, 0)), name="before")(y)
    y = L.Conv3D(4, (3, 1, 1), groups=4, name="each")(y)
    y = L.ZeroPadding3D(((1, 0), (0, 0), (0, 0)), name="before_all")(y)
    y = L.Conv3D(3, (2, 1, 1), activation="relu", name="all")(y)
    y = L.AveragePooling3D((1, 3, 3), name="pool")(y)
    return keras.Model(x, L.Dense(2, name="dense")(L.Reshape((5, 3), name="vectors")(y)), name="clips")


def set_weights(model):
    rng = np.random.default_rng(5)
    new = []
    for weight in model.weights:
        name = (weight.path if hasattr(weight, "path") else weight.name).split("/")[-1]
        draw = rng.uniform(0.5, 2.0, weight.shape) if "variance" in name or "gamma" in name else rng.normal(0, 0.5, weight.shape)
        new.append(draw.astype(np.float32))
    model.set_weights(new)


def plain_zip(path):
    """Writes an archive again with a fixed date, one member stored and the others deflated."""
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist() if not name.endswith("/")]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            method = zipfile.ZIP_STORED if name == "config.json" else zipfile.ZIP_DEFLATED
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            archive.writestr(info, data, method, 9)


FOLDER.mkdir(exist_ok=True)
x = np.random.default_rng(1).normal(0, 1, (2, *SHAPE)).astype(np.float32)
for make in (branches, nested, implied, mixed, operators, shared, clips):
    if sys.argv[2:] and make.__name__ not in sys.argv[2:]:
        continue
    keras.backend.clear_session()
    name = f"{FORM}_{make.__name__}"
    model = make()
    if make is clips:
        x = np.random.default_rng(1).normal(0, 1, (2, 5, *SHAPE)).astype(np.float32)
    set_weights(model)
    model.save(FOLDER / f"{name}.keras")
    plain_zip(FOLDER / f"{name}.keras")
    np.savez(FOLDER / f"{name}.npz", x=x, y=np.asarray(model(x), np.float32))
    model.save(str(FOLDER / f"{name}.h5"), **({"include_optimizer": False}))
    if make in (nested, implied):
        model.save_weights(str(FOLDER / f"{name}_only.weights.h5"))
        (FOLDER / f"{name}_only.json").write_text(model.to_json())
        if FORM == "k2":  # the older layout
            model.save_weights(str(FOLDER / f"{name}_older.h5"), save_format="h5")
            (FOLDER / f"{name}_older.json").write_text(model.to_json())
