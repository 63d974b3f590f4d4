#!/usr/bin/env python3
"""Builds five float models with Keras 3, tf_keras and PyTorch, and holds what bitproof makes of them against QuantizeML.

    python3 five_models.py build FOLDER          in each environment that has one of the three
    python3 five_models.py check FOLDER [--bin PATH]

`build` writes the models whose framework can be imported, each with inputs and outputs of the framework in NAME.npz.
`check` needs quantizeml 1.2.5. For each model it asks `bitproof run` for the float outputs, which must be those of the
framework within 1e-4 of the largest, and then does what `export_check.py` does with a given model: bitproof quantizes
it to `.h5`, QuantizeML loads that, and the integers of every layer are equal on random inputs; so are those of the `.h5`
that is made again from our own format. Where they are not, the line says how many differ where the reference is inexact
itself (NUMERICS.md, "Where we differ").

The models: residual (Keras 3, `.keras`), separable (Keras 3, `.h5`, nested), padded (tf_keras, ZeroPadding2D before strides
as in ports of other networks), resnet (PyTorch, TorchScript exporter), mobilenet (PyTorch, dynamo exporter).
"""
import os
import pathlib
import sys
import tempfile

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np

SHAPE = (16, 16, 3)
NAMES = ("residual.keras", "separable.h5", "padded.h5", "resnet.onnx", "mobilenet.onnx")
RNG = np.random.default_rng(7)


def residual(keras):
    L = keras.layers
    x = keras.Input(SHAPE, name="image")
    y = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)))
    z = L.Conv2D(8, 3, padding="same", activation="relu")(y)
    y = L.ReLU()(L.Add()([y, L.BatchNormalization()(L.Conv2D(8, 3, padding="same")(z))]))
    y = L.Concatenate()([L.Conv2D(6, 1)(y), L.MaxPooling2D(3, strides=1, padding="same")(y)])
    y = L.GlobalAveragePooling2D()(L.ReLU()(L.Conv2D(12, 3, padding="same")(y)))
    return keras.Model(x, L.Dense(5)(y), name="residual")


def separable(keras):
    L = keras.layers
    stem = keras.Sequential([keras.Input(SHAPE), L.Conv2D(8, 3, padding="same"), L.BatchNormalization(), L.ReLU()], name="stem")
    x = keras.Input(SHAPE, name="image")
    y = L.SeparableConv2D(12, 3, padding="same")(stem(x))
    y = L.LeakyReLU(negative_slope=0.25)(L.BatchNormalization(scale=False)(y))
    y = L.MaxPooling2D()(L.DepthwiseConv2D(5, strides=2, padding="same", activation="relu")(y))
    return keras.Model(x, L.Dense(5)(L.Flatten()(y)), name="separable")


def padded(keras):
    L = keras.layers
    x = keras.Input(SHAPE, name="image")
    y = L.Conv2D(8, 7, strides=2)(L.ZeroPadding2D(3)(x))
    y = L.MaxPooling2D(3, strides=2)(L.ZeroPadding2D(1)(L.ReLU()(L.BatchNormalization()(y))))
    y = L.ReLU()(L.Conv2D(8, 3, strides=2)(L.ZeroPadding2D(1)(y)))
    y = L.ReLU()(L.Conv2DTranspose(6, 3, strides=2, padding="same")(y))
    return keras.Model(x, L.Dense(5)(L.Flatten()(y)), name="padded")


def set_weights(model):
    new = []
    for weight in model.weights:
        name = (weight.path if hasattr(weight, "path") else weight.name).split("/")[-1]
        draw = RNG.uniform(0.5, 1.5, weight.shape) if "variance" in name or "gamma" in name else RNG.normal(0, 0.3, weight.shape)
        new.append(draw.astype(np.float32))
    model.set_weights(new)


def build_keras(keras, make, path):
    model = make(keras)
    set_weights(model)
    model.save(str(path), **({} if path.suffix == ".keras" else {"include_optimizer": False}))
    x = RNG.normal(0, 1, (4, *SHAPE)).astype(np.float32)
    np.savez(path.with_suffix(".npz"), x=x, y=np.asarray(model(x), np.float32))


def build_torch(folder):
    import torch
    from torch import nn

    torch.manual_seed(7)

    def block(i, o, k=3, stride=1, groups=1, act=nn.ReLU):
        return nn.Sequential(nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o), act())

    class Residual(nn.Module):
        def __init__(self, i, o, stride):
            super().__init__()
            self.main = nn.Sequential(block(i, o, 3, stride), block(o, o, act=nn.Identity))
            self.side = block(i, o, 1, stride, act=nn.Identity)

        def forward(self, x):
            return torch.relu(self.main(x) + self.side(x))

    class Bottleneck(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.main = nn.Sequential(block(c, 3 * c, 1, act=nn.ReLU6), block(3 * c, 3 * c, 3, 1, 3 * c, nn.Hardswish), block(3 * c, c, 1, act=nn.Identity))

        def forward(self, x):
            return x + self.main(x)

    class Mean(nn.Module):
        def forward(self, x):
            return x.mean([2, 3])

    head = lambda c: [nn.Linear(c, 5)]
    models = {
        "resnet": nn.Sequential(block(3, 8, 7, 2), nn.MaxPool2d(3, 2, 1), Residual(8, 8, 1), Residual(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head(16)),
        "mobilenet": nn.Sequential(block(3, 8, 3, 2, act=nn.ReLU6), Bottleneck(8), block(8, 16, 3, 2, act=nn.SiLU), Mean(), nn.Dropout(0.2), *head(16)),
    }
    for name, model in models.items():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.2)
                part.running_var.uniform_(0.5, 1.5)
        model.eval()
        x = torch.randn(4, SHAPE[2], *SHAPE[:2])
        if name == "mobilenet":
            batch = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
            torch.onnx.export(model, (x,), folder / f"{name}.onnx", dynamo=True, external_data=True, input_names=["image"], **batch)
        else:
            torch.onnx.export(model, (x,), folder / f"{name}.onnx", dynamo=False, opset_version=17, input_names=["image"], dynamic_axes={"image": {0: "batch"}})
        with torch.no_grad():
            np.savez(folder / f"{name}.npz", x=np.moveaxis(x.numpy(), 1, -1), y=model(x).numpy())


def build(folder):
    folder.mkdir(exist_ok=True, parents=True)
    made = []
    try:
        import keras

        build_keras(keras, residual, folder / "residual.keras")
        build_keras(keras, separable, folder / "separable.h5")
        made += NAMES[:2]
    except ImportError as error:
        print("no Keras 3:", error)
    try:
        import tf_keras

        build_keras(tf_keras, padded, folder / "padded.h5")
        made += NAMES[2:3]
    except ImportError as error:
        print("no tf_keras:", error)
    try:
        build_torch(folder)
        made += NAMES[3:]
    except ImportError as error:
        print("no PyTorch:", error)
    print("made", *made)


def float_outputs(run, binary, model, folder):
    """Returns what is wrong with the float outputs of bitproof."""
    example = np.load(model.with_suffix(".npz"))
    np.save(folder / "x.npy", example["x"])
    done = run(binary, "run", model, "--inputs", folder / "x.npy", "--outputs", folder / "y.npy")
    if done.returncode:
        return [f"run: exit {done.returncode}: {done.stderr.strip()[:300]}"]
    got, want = np.load(folder / "y.npy"), example["y"]
    far = np.abs(got - want).max() / np.abs(want).max()
    return [] if far <= 1e-4 else [f"float outputs differ by {far} of the largest"]


def check(folder, binary):
    import export_check
    import regenerate
    from quantizeml import load_model

    ref, failed = regenerate.Reference(), 0
    ref.load = load_model
    for name in NAMES:
        model = folder / name
        with tempfile.TemporaryDirectory() as scratch:
            scratch = pathlib.Path(scratch)
            args = [model, "--num-samples", 64, "--per-tensor-activations"]
            try:
                problems = float_outputs(export_check.run, binary, model, scratch)
                more, remarks = export_check.check(ref, binary, args, False, scratch)
                problems += more + export_check.check_float(ref, binary, model, scratch)
            except Exception as error:  # whatever it is, the model does not pass
                problems, remarks = [f"{type(error).__name__}: {str(error)[:400]}"], []
        failed += bool(problems)
        lines = "".join(f"\n       {line}" for line in problems[:6] + remarks)
        print(f"{'FAIL' if problems else 'ok  '} {name}{lines}", flush=True)
    print(f"{len(NAMES) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("build", "check"):
        sys.exit(__doc__)
    place = pathlib.Path(sys.argv[2])
    if sys.argv[1] == "build":
        build(place)
    else:
        check(place, sys.argv[sys.argv.index("--bin") + 1] if "--bin" in sys.argv else "target/release/bitproof")
