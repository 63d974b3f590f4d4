#!/usr/bin/env python3
"""Makes the expected files of the conformance cases again, with the real QuantizeML.

    python3 regenerate.py [--out FOLDER] [part of a case name ...]
    python3 regenerate.py --compare FOLDER [part of a case name ...]

The first form reads `model.h5`, `call.json`, `samples.npy` and `inputs.npy` of each case whose `reference` version is
the installed one, calls `quantize()`, runs the result layer by layer, and writes `FOLDER/<case>/expected/` (without
--out: in place). It needs quantizeml 1.2.5 with tf_keras 2.19, or, for the cases of 0.11.1, that version with
Keras 2.15 in another environment. The second form only needs numpy: it compares such a folder with the committed one.

Calibration runs in float32, so another CPU may give other last bits in `ranges.npz`, and an integer that differs.
"""
import argparse
import contextlib
import importlib
import io
import json
import os
import pathlib
import re
import sys
import warnings

import numpy as np

CASES = pathlib.Path(__file__).resolve().parent / "cases"
warnings.filterwarnings("ignore", message=".*HDF5.*")
CARRIER_LIMIT = 1 << 24  # above it float32 does not hold every integer


# ---------------------------------------------------------------------------------------------- the reference
class Reference:
    """The installed QuantizeML: what differs between its versions, and the probes in it."""

    def __init__(self):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import tensorflow as tf
        import quantizeml
        import quantizeml.models
        from quantizeml.tensors import FixedPoint, QFloat, QTensor
        self.tf, self.models, self.version = tf, quantizeml.models, quantizeml.__version__
        self.keras = importlib.import_module("keras" if self.version.startswith("0.") else "tf_keras")
        self.FixedPoint, self.QFloat, self.QTensor = FixedPoint, QFloat, QTensor
        self.sanitize = importlib.import_module("quantizeml.models.transforms").sanitize
        self.recording = importlib.import_module("quantizeml.layers").recording
        self.fixed_point = importlib.import_module("quantizeml.tensors.fixed_point")
        self.probe = Probe(self)

    def quantize(self, model, call, samples):
        names = ["num_samples", "batch_size", "epochs", "quantize_until"]
        args = {name: call[name] for name in names}
        if call.get("input_shape") is not None:
            args["input_shape"] = tuple(call["input_shape"])
        with contextlib.redirect_stdout(io.StringIO()):
            return self.models.quantize(model, q_config=call["q_config"], samples=samples,
                                        qparams=self.models.QuantizationParams(**call["qparams"]), **args)

    @contextlib.contextmanager
    def exact(self):
        """Within this context FixedPoint holds its integers in float64: exact up to 2^53.

        Only the module of FixedPoint is changed, so scales and logarithms stay in float32.
        """
        tf, module, cls = self.tf, self.fixed_point, self.FixedPoint

        class Float64Tf:
            def __getattr__(self, name):
                return tf.float64 if name == "float32" else getattr(tf, name)

        def pow2(n):
            return tf.pow(tf.constant(2.0, tf.float64), tf.cast(n, tf.float64))

        def saturate(x, n):
            limit = tf.pow(tf.constant(2.0, x.dtype), tf.cast(n, x.dtype))
            return tf.clip_by_value(x, -limit, limit - 1)

        def ceil_log2(x):
            return tf.cast(tf.math.ceil(tf.experimental.numpy.log2(tf.cast(x, tf.float32))), tf.float64)

        def quantize(x, value_bits, frac_bits=None):
            if frac_bits is None:
                whole = isinstance(x, int) or bool(tf.reduce_all(x == tf.math.round(x)))
                frac_bits = 0 if whole else cls.max_frac_bits(value_bits, tf.reduce_max(tf.abs(x)))
            scaled = tf.cast(x, tf.float32) * tf.pow(2.0, tf.cast(frac_bits, tf.float32))
            return cls(tf.round(scaled), value_bits, frac_bits)

        def to_float(tensor):
            return tf.cast(tensor.values / pow2(tensor.frac_bits), tf.float32)

        changes = [(module, "tf", Float64Tf()), (module, "pow2", pow2), (module, "saturate", saturate),
                   (module, "ceil_log2", ceil_log2), (cls, "quantize", staticmethod(quantize)),
                   (cls, "to_float", to_float)]
        with contextlib.ExitStack() as undo:
            for owner, name, value in changes:
                undo.callback(setattr, owner, name, vars(owner)[name])
                setattr(owner, name, value)
            yield

    def rebuilt(self, tensor):
        """Returns the same tensor, constructed in the current mode."""
        if isinstance(tensor, (list, tuple)):
            return type(tensor)(self.rebuilt(t) for t in tensor)
        if isinstance(tensor, self.QFloat):
            return self.QFloat(self.rebuilt(tensor.fp), tensor.scales)
        if isinstance(tensor, self.FixedPoint):
            return self.FixedPoint(tensor.values, tensor.value_bits, tensor.frac_bits)
        return tensor


class Probe:
    """Watches every integer that a layer constructs: before its output quantizer, and inside of it."""

    def __init__(self, ref):
        self.on, self.in_quantizer = False, False
        module, tf = ref.fixed_point, ref.tf
        output_quantizer = importlib.import_module("quantizeml.layers.quantizers.output_quantizer").OutputQuantizer
        saturate, call = module.saturate, output_quantizer.call

        def watched_saturate(x, n):
            if self.on and tf.executing_eagerly() and hasattr(x, "numpy"):
                self.see(np.asarray(x.numpy(), np.float64), float(np.asarray(n)))
            return saturate(x, n)

        def watched_call(quantizer, inputs):
            if self.on and tf.executing_eagerly():
                self.accumulator = largest(inputs.values)
            outer, self.in_quantizer = self.in_quantizer, True
            try:
                return call(quantizer, inputs)
            finally:
                self.in_quantizer = outer

        module.saturate, output_quantizer.call = watched_saturate, watched_call

    @contextlib.contextmanager
    def layer(self):
        """Counts from zero, for one layer."""
        self.accumulator = None
        self.seen = {inside: {"max_abs": 0, "saturated": 0} for inside in (False, True)}
        self.on = True
        try:
            yield
        finally:
            self.on = False

    def see(self, values, bits):
        if not values.size:
            return
        seen = self.seen[self.in_quantizer]
        seen["max_abs"] = max(seen["max_abs"], largest(values))
        # The reference's own upper bound: 2^n - 1 rounded to float32, that is 2^n from 25 bits up.
        upper = float(np.float32(2.0 ** bits - 1))
        seen["saturated"] += int(((values > upper) | (values < -2.0 ** bits)).sum())

    def report(self):
        layer, quantizer = self.seen[False], self.seen[True]
        report = {"max_abs": layer["max_abs"], "exceeds_2_24": layer["max_abs"] > CARRIER_LIMIT,
                  "saturated": layer["saturated"]}
        if self.accumulator is not None:
            report.update(accumulator_max_abs=self.accumulator, scaled_max_abs=quantizer["max_abs"],
                          scaled_exceeds_2_24=quantizer["max_abs"] > CARRIER_LIMIT,
                          outq_saturated=quantizer["saturated"])
        return report


# ---------------------------------------------------------------------------------------------- recording
def largest(values):
    return int(np.abs(np.asarray(values, np.float64)).max())


def integers(values):
    """Returns the values as int32, or int64 where needed. Refuses values that are not whole."""
    values = np.asarray(values, np.float64)
    whole = values.astype(np.int64)
    assert np.array_equal(whole, values), "a value is not an integer"
    return whole if whole.size and np.abs(whole).max() >= 2 ** 31 else whole.astype(np.int32)


def dump(ref, arrays, key, tensor):
    """Adds the arrays of one layer output."""
    if isinstance(tensor, (list, tuple)):
        for index, item in enumerate(tensor):
            dump(ref, arrays, f"{key}:{index}", item)
    elif isinstance(tensor, ref.QTensor):
        arrays[f"{key}/values"] = integers(tensor.values)
        arrays[f"{key}/value_bits"] = np.int32(tensor.value_bits)
        arrays[f"{key}/frac_bits"] = integers(tensor.frac_bits)
        if isinstance(tensor, ref.QFloat):
            arrays[f"{key}/scales"] = np.asarray(tensor.scales, np.float32)
    else:
        array = np.asarray(tensor)
        if np.issubdtype(array.dtype, np.integer):
            arrays[f"{key}/raw"] = array
        else:
            arrays[f"{key}/float"] = array.astype(np.float32)


def mismatches(ref, layer, args, output):
    """Runs the layer again with exact integers: where does the float32 carrier itself differ?"""
    if type(layer).__name__ == "InputQuantizer" and not layer.signed:
        return {}  # its zero point is made in float32 outside of the exact mode
    with ref.recording(False), ref.exact():
        again = layer.call(*[ref.rebuilt(arg) for arg in args])
    pairs = zip(flat_values(ref, again), flat_values(ref, output))
    differences = [np.abs(a - b) for a, b in pairs]
    return {"float32_mismatches": int(sum((d > 0).sum() for d in differences)),
            "float32_max_diff": int(max(d.max() for d in differences)),
            "elements": int(sum(d.size for d in differences))}


def flat_values(ref, tensor):
    if isinstance(tensor, (list, tuple)):
        return [v for item in tensor for v in flat_values(ref, item)]
    return [np.asarray(tensor.values if isinstance(tensor, ref.QTensor) else tensor, np.float64)]


def run_layers(ref, model, inputs):
    """Calls the layers eagerly, one by one. Returns the arrays, the report of each layer, and the output."""
    arrays, report, runs, tensors = {}, {}, {}, {}
    source = model.inputs[0]
    tensors[str(id(source))] = ref.tf.cast(ref.tf.constant(inputs), source.dtype)
    dump(ref, arrays, source.node.layer.name, tensors[str(id(source))])
    nodes = [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]
    for node in nodes:
        if node.is_input:
            continue
        # Keras takes (pops) one tensor of a list each time an argument is used.
        args, kwargs = node.map_arguments({key: [tensor] * 64 for key, tensor in tensors.items()})
        layer, run = node.layer, runs.get(node.layer.name, 0)
        runs[layer.name] = run + 1
        key = f"{layer.name}#{run}" if run else layer.name
        with ref.probe.layer():
            output = layer(*args, **kwargs)
        outputs = list(output) if isinstance(output, (list, tuple)) else [output]
        tensors.update(zip(map(str, node.flat_output_ids), outputs))
        dump(ref, arrays, key, output)
        if any(isinstance(tensor, ref.QTensor) for tensor in outputs):
            report[key] = ref.probe.report()
            if not hasattr(layer, "_fifo"):  # running it again would push the frame again
                report[key].update(mismatches(ref, layer, args, output))
    return arrays, report, np.asarray(tensors[str(id(model.outputs[0]))])


def run_sequence(ref, model, inputs):
    """Runs the frames one by one from empty buffers; rows of the arrays are the frames."""
    importlib.import_module("quantizeml.layers").reset_buffers(model)
    arrays, report, outputs = {}, {}, []
    for i in range(len(inputs)):
        frame, seen, output = run_layers(ref, model, inputs[i:i + 1])
        for key, array in frame.items():
            by_frame = key.rsplit("/", 1)[1] in ("values", "float", "raw")
            arrays[key] = np.concatenate([arrays[key], array]) if by_frame and i else array
        for layer, facts in seen.items():
            merged = report.setdefault(layer, dict(facts))
            for name, fact in facts.items() if i else ():
                total = name.endswith("saturated") or name in ("float32_mismatches", "elements")
                merged[name] = merged[name] + fact if total else max(merged[name], fact)
        outputs.append(output)
    return arrays, report, np.concatenate(outputs)


def layer_list(model):
    return [{"name": layer.name, "class_name": type(layer).__name__} for layer in model.layers]


def summary(ref, model):
    """Returns what `model.summary()` says, as data and as text."""
    layers = [dict(entry, output_shape=plain_shape(layer.output_shape), params=int(layer.count_params()))
              for entry, layer in zip(layer_list(model), model.layers)]
    count = ref.keras.src.utils.layer_utils.count_params
    trainable, frozen = int(count(model.trainable_weights)), int(count(model.non_trainable_weights))
    lines = []
    model.summary(print_fn=lambda line, **_: lines.append(line))
    return {"name": model.name, "layers": layers, "total_params": trainable + frozen, "trainable_params": trainable,
            "non_trainable_params": frozen, "text": "\n".join(lines)}


def plain_shape(shape):
    if isinstance(shape, list) and shape and isinstance(shape[0], (tuple, list)):
        return [plain_shape(s) for s in shape] if len(shape) > 1 else plain_shape(shape[0])
    return list(shape)


def ranges(model):
    """Returns the calibrated variables of each quantizer."""
    arrays = {}
    for layer in model.layers:
        quantizer = getattr(layer, "out_quantizer", None)
        if quantizer is not None:
            arrays[f"{layer.name}/range_max"] = np.asarray(quantizer.range_max)
            arrays[f"{layer.name}/rescaling_rate"] = np.asarray(quantizer.rescaling_rate)
        elif type(layer).__name__ == "InputQuantizer":
            arrays[f"{layer.name}/range_min"] = np.asarray(layer.range_min)
            arrays[f"{layer.name}/range_max"] = np.asarray(layer.range_max)
    return arrays


# ---------------------------------------------------------------------------------------------- cases
def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def error_text(error):
    """Returns type and message; of an exception that Keras wrapped, the innermost ones."""
    text = f"{type(error).__name__}: {error}"
    inner = list(re.finditer(r"^\s*(\w+(?:Error|Exception)): ", text, re.M))
    text = text[inner[-1].start():].strip()
    return re.split(r"\n\s*\n+(?:Call arguments|Arguments received)", text)[0].strip() + "\n"


def load(ref, case):
    model = ref.keras.models.load_model(case / "model.h5", compile=False)
    ref.keras.backend.clear_session()  # names of inserted layers start without a number
    ref.keras.utils.set_random_seed(1234)
    return model


def regenerate_error(ref, case, expected, call, samples):
    """Writes the message with which the reference refuses the call, or the first run of its result."""
    model = load(ref, case)
    try:
        quantized = ref.quantize(model, call, samples)
        if "requantize" in case.name:
            ref.quantize(quantized, call, samples)
        run_layers(ref, quantized, samples[:2])
    except Exception as error:  # whatever it is, it is the result
        (expected / "error.txt").write_text(error_text(error))
        return
    raise RuntimeError(f"{case.name}: an error was expected, none came")


def regenerate(ref, case, expected):
    """Writes all expected files of one case."""
    expected.mkdir(parents=True, exist_ok=True)
    call, samples = json.loads((case / "call.json").read_text()), np.load(case / "samples.npy")
    write_json(expected / "sanitized.json", layer_list(ref.sanitize(load(ref, case))))
    if (case / "expected" / "error.txt").exists():
        regenerate_error(ref, case, expected, call, samples)
        return
    inputs, model = np.load(case / "inputs.npy"), load(ref, case)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        quantized = ref.quantize(model, call, samples)
    messages = [str(w.message) for w in caught if issubclass(w.category, UserWarning) and "HDF5" not in str(w.message)]
    if messages:
        write_json(expected / "warnings.json", messages)
    write_json(expected / "config.json", ref.models.dump_config(quantized))
    write_json(expected / "summary.json", summary(ref, quantized))
    np.savez_compressed(expected / "ranges.npz", **ranges(quantized))
    quantized.save(expected / "quantized.h5", include_optimizer=False)
    if call.get("sequence"):
        arrays, report, output = run_sequence(ref, quantized, inputs)
        np.savez_compressed(expected / "layers.npz", **arrays)
        np.save(expected / "output.npy", output.astype(np.float32))
        write_json(expected / "exact.json", {"layers": report})
        return
    with ref.recording(True):
        try:
            arrays, report, output = run_layers(ref, quantized, inputs)
        except ValueError:
            # A recorder made before a zero point was folded keeps the old shape: take the saved model.
            quantized = ref.keras.models.load_model(expected / "quantized.h5", compile=False)
            arrays, report, output = run_layers(ref, quantized, inputs)
    np.savez_compressed(expected / "layers.npz", **arrays)
    np.save(expected / "output.npy", output.astype(np.float32))
    predicted = quantized.predict(inputs, verbose=0)
    write_json(expected / "exact.json", {"layers": report, "predict_equals_eager": bool(np.array_equal(output, predicted)),
                                         "predict_max_abs_diff": float(np.abs(output - predicted).max())})
    if (case / "dataset.npz").exists():
        write_json(expected / "accuracy.json", accuracies(ref, case, call, samples))


def accuracies(ref, case, call, samples):
    """Returns the test accuracy of the float model and of the models at 8 and at 4 bits."""
    data = np.load(case / "dataset.npz")

    def accuracy(model):
        predicted = model.predict(data["x_test"], verbose=0, batch_size=256).reshape(len(data["y_test"]), -1)
        return float((np.argmax(predicted, -1) == data["y_test"]).mean())

    result = {"test_images": len(data["y_test"]), "float": accuracy(load(ref, case))}
    four_bits = {"weight_bits": 4, "activation_bits": 4, "per_tensor_activations": True}
    for name, params in (("8-bit", {}), ("w4a4", four_bits)):
        result[name] = accuracy(ref.quantize(load(ref, case), dict(call, qparams=params), samples))
    return result


# ---------------------------------------------------------------------------------------------- comparison
def compare(case, folder):
    """Returns the differences between the committed expected files and those in the folder."""
    problems = []
    for path in sorted((case / "expected").iterdir()):
        other = folder / case.name / "expected" / path.name
        if not other.exists():
            problems.append(f"{path.name} is missing")
        elif path.suffix in (".json", ".txt") and path.read_text() != other.read_text():
            problems.append(f"{path.name} differs")
        elif path.suffix == ".npz":
            problems += compare_arrays(path, other)
    return problems


def compare_arrays(path, other):
    want, got = np.load(path), np.load(other)
    if sorted(want.files) != sorted(got.files):
        return [f"{path.name}: other keys"]
    return [f"{path.name}: {key}" for key in want.files
            if not (np.allclose(want[key], got[key], rtol=1e-5, atol=1e-6) if want[key].dtype.kind == "f"
                    else np.array_equal(want[key], got[key]))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=CASES, help="folder to write to")
    parser.add_argument("--compare", type=pathlib.Path, metavar="FOLDER", help="compare this folder, make nothing")
    parser.add_argument("names", nargs="*", metavar="part", help="only cases whose name contains one of these")
    args = parser.parse_args()
    cases = [case for case in sorted(CASES.iterdir()) if not args.names or any(n in case.name for n in args.names)]
    if args.compare:
        present = [case for case in cases if (args.compare / case.name).exists()]
        problems = {case.name: compare(case, args.compare) for case in present}
        for name, found in problems.items():
            print(name, "; ".join(found) or "equal")
        sys.exit(1 if not problems or any(problems.values()) else 0)
    ref = Reference()
    for case in cases:
        version = json.loads((case / "call.json").read_text())["reference"]
        if version != ref.version:
            print(f"{case.name}: skipped, it needs quantizeml {version}, not {ref.version}")
            continue
        regenerate(ref, case, args.out / case.name / "expected")
        print(f"{case.name}: made")


if __name__ == "__main__":
    main()
