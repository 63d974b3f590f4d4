#!/usr/bin/env python3
"""Writes the models of the side-by-side runs, in the format of each engine.

    python3 build_models.py FOLDER [--models mbv1_224 mbv1_96_a05]

For each network: NAME.h5 (Keras 2), NAME_samples.npy (64 random images, uint8), NAME_f32.tflite and NAME_i8.tflite,
NAME_f32.onnx and NAME_i8.onnx (QuantizeLinear and DequantizeLinear, a scale a channel). The networks have MobileNetV1's
shape and random weights: time does not depend on them. README.md beside this file says what to install.
"""
import argparse
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

# Height and width, width multiplier, classes.
MODELS = {"mbv1_224": (224, 1.0, 1000), "mbv1_96_a05": (96, 0.5, 10)}
BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
N_SAMPLES = 64
N_CALIBRATION = 16  # of the other engines, whose tools take them one by one; their speed does not depend on it


def network(keras, size, alpha, classes):
    """Convolutions, normalizations and clipped rectifiers, of raw pixels 0..255."""
    layers = keras.layers

    def normalized(x, name):
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        return layers.ReLU(6.0, name=f"{name}_relu")(x)

    pixels = x = layers.Input((size, size, 3), name="input")
    first = layers.Conv2D(int(32 * alpha), 3, strides=2, padding="same", use_bias=False, name="conv")
    x = normalized(first(x), "conv")
    for i, (filters, stride) in enumerate(BLOCKS):
        depthwise = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False, name=f"dw_{i}")
        x = normalized(depthwise(x), f"dw_{i}")
        pointwise = layers.Conv2D(int(filters * alpha), 1, use_bias=False, name=f"pw_{i}")
        x = normalized(pointwise(x), f"pw_{i}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(pixels, layers.Dense(classes, name="logits")(x), name="mobilenet_v1")


def randomize(keras, model, rng):
    """Sets weights that keep activations in the range of the rectifiers."""
    import numpy as np
    for layer in model.layers:
        weights = layer.get_weights()
        if isinstance(layer, keras.layers.BatchNormalization):
            n = len(weights[0])
            gain, offset = rng.uniform(0.5, 1.5, n), rng.normal(0, 0.3, n)
            layer.set_weights([gain, offset, rng.normal(0, 0.3, n), rng.uniform(0.5, 1.5, n)])
        elif weights:
            kernel, *biases = weights
            is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            fan_in = np.prod(kernel.shape[:2] if is_depthwise else kernel.shape[:-1])
            scale = np.sqrt(2 / fan_in) / (128 if layer.name == "conv" else 1)
            layer.set_weights([rng.normal(0, scale, kernel.shape), *(rng.normal(0, 0.1, b.shape) for b in biases)])


def write_litert(tf, model, samples, place):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    pathlib.Path(f"{place}_f32.tflite").write_bytes(converter.convert())
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([x[None].astype("float32")] for x in samples[:N_CALIBRATION])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    pathlib.Path(f"{place}_i8.tflite").write_bytes(converter.convert())


def write_onnx(tf, model, samples, place):
    import onnxruntime.quantization as quantization
    import tf2onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.images = iter([{"input": x[None].astype("float32")} for x in samples[:N_CALIBRATION]])

        def get_next(self):
            return next(self.images, None)

    spec = tf.TensorSpec((None, *samples.shape[1:]), tf.float32, name="input")
    function = tf.function(lambda x: model(x, training=False))
    proto, _ = tf2onnx.convert.from_function(function, input_signature=(spec,), opset=17)
    pathlib.Path(f"{place}_f32.onnx").write_bytes(proto.SerializeToString())
    with tempfile.TemporaryDirectory() as folder:
        prepared = f"{folder}/prepared.onnx"
        quant_pre_process(f"{place}_f32.onnx", prepared)
        quantization.quantize_static(
            prepared, f"{place}_i8.onnx", Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="where the models are written")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    args = parser.parse_args()
    import numpy as np
    import tensorflow as tf
    import tf_keras as keras
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.models:
        size, alpha, classes = MODELS[name]
        rng = np.random.default_rng(7)
        model = network(keras, size, alpha, classes)
        randomize(keras, model, rng)
        place = args.folder / name
        model.save(f"{place}.h5")
        samples = rng.integers(0, 256, (N_SAMPLES, size, size, 3), dtype=np.uint8)
        np.save(f"{place}_samples.npy", samples)
        write_litert(tf, model, samples, place)
        write_onnx(tf, model, samples, place)
        print(f"{place}: written")


main()
