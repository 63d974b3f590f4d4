#!/usr/bin/env python3
"""Holds the quantized ONNX files that bitproof writes against onnxruntime.

    python3 onnx_check.py [--bin PATH] [--cases FOLDER] [--only TEXT ...] [MODEL ...]

Each float model is quantized to our own format, which `bitproof convert` makes an `.onnx` of. `bitproof run` runs the
first on the inputs of the case and on random ones, onnxruntime the second, with its optimizations. The integers of
every quantized layer may differ by one step where a layer's sums have more than 24 bits (float32 has no more), and not
at all elsewhere; so may those of the outputs, and float outputs by what one step of the last integers makes.
Models that ONNX has no words for (layers over time) must be refused by name.

Models are those of the conformance cases (error cases left out), or the given files: these are quantized with random
samples. Needs numpy, onnx and onnxruntime. Prints a line a model and a last line 'N passed, N failed'.
"""
import argparse
import pathlib
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime

from export_check import REFUSED, case_arguments, old_version, run

HERE = pathlib.Path(__file__).resolve().parent
N_INPUTS = 8
TEMPORAL = ("BufferTempConv", "Stateful")


def inputs_of(session, case, rng):
    """Returns the inputs of a case, and random ones behind them."""
    entry = session.get_inputs()[0]
    shape = [N_INPUTS] + [n if isinstance(n, int) else 16 for n in entry.shape[1:]]
    dtype = np.dtype({"tensor(float)": "float32"}.get(entry.type, entry.type[7:-1]))
    if dtype.kind == "f":
        own = rng.normal(0, 1, shape).astype(dtype)
    else:
        limits = np.iinfo(dtype)
        own = rng.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)
    recorded = case / "inputs.npy"
    if not recorded.is_file():
        return own
    recorded = np.load(recorded)
    return np.concatenate([recorded.astype(dtype), own]) if recorded.shape[1:] == own.shape[1:] else recorded.astype(dtype)


def with_layers(path):
    """Returns the model with the integers of every layer among the outputs, and their names."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    names = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return model.SerializeToString(), names


def channels_last(values, like):
    """Images are channels first inside the file."""
    moved = np.moveaxis(values, 1, -1) if values.ndim == 4 else values
    return moved if moved.shape == like.shape else values


def differences(dump, name, got, report):
    want = dump[f"{name}/values"].astype(np.int64)
    got = channels_last(got, want).astype(np.int64)
    if got.shape != want.shape:
        return [f"{name}: extents {got.shape}, expected {want.shape}"]
    steps = np.abs(got - want)
    report["integers"] += steps.size
    report["off"] += int((steps > 0).sum())
    return [f"{name}: integers differ by up to {steps.max()}"] if steps.max(initial=0) > 1 else []


def check(binary, case, args, folder):
    """Returns problems and remarks."""
    own, exported = folder / "m.bpq.safetensors", folder / "m.onnx"
    done = run(binary, "quantize", *args, "-s", own)
    if done.returncode:
        return [f"quantize: exit {done.returncode}: {done.stderr.strip()[:300]}"], []
    done = run(binary, "convert", own, exported)
    if done.returncode:
        refused = [line for line in done.stderr.splitlines() if "`" in line]
        fair = refused and all(any(word in line for word in TEMPORAL) for line in refused)
        return ([] if fair else [f"convert: {done.stderr.strip()[:300]}"]), [f"refused: {done.stderr.strip()[:150]}"]
    model, names = with_layers(exported)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    x = inputs_of(session, case, np.random.default_rng(5))
    np.save(folder / "x.npy", x)
    outputs = folder / "y.npz" if len(session.get_outputs()) - len(names) > 1 else folder / "y.npy"
    done = run(binary, "run", own, "--inputs", folder / "x.npy", "--dump-layers", folder / "d.npz",
               "--outputs", outputs)
    if done.returncode:
        return [f"run: exit {done.returncode}: {done.stderr.strip()[:300]}"], []
    dump, report = np.load(folder / "d.npz"), {"integers": 0, "off": 0}
    asked = [output.name for output in session.get_outputs()]
    got = dict(zip(asked, session.run(asked, {session.get_inputs()[0].name: x})))
    problems = []
    for name in names:
        problems += differences(dump, name.rsplit("/", 1)[0], got[name], report)
    for name in asked[:len(asked) - len(names)]:
        y = np.load(outputs)
        y = y if isinstance(y, np.ndarray) else y[name]
        if got[name].dtype.kind == "i":
            far = np.abs(got[name].astype(np.int64) - y.astype(np.int64)).max()
            limit = max(1, 2.0 ** -22 * np.abs(y).max())
        else:
            far = np.abs(got[name] - y).max()
            limit = (0.02 if report["off"] else 1e-5) * np.abs(y).max()
        if got[name].shape != y.shape or far > limit:
            problems.append(f"output {name}: differs by {far} of {np.abs(y).max()}")
    share = f"{report['off']} of {report['integers']} integers are one step off" if report["off"] else "equal"
    return problems, [f"{len(names)} layers, {len(x)} inputs: {share}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", default="target/release/bitproof")
    parser.add_argument("--cases", type=pathlib.Path, default=HERE / "cases")
    parser.add_argument("--only", nargs="*", default=[], metavar="TEXT")
    parser.add_argument("models", nargs="*", type=pathlib.Path, metavar="MODEL")
    options = parser.parse_args()
    places = options.models or sorted(p for p in options.cases.iterdir() if (p / "call.json").exists())
    places = [p for p in places if not options.only or any(text in p.name for text in options.only)]
    passed, failed = 0, 0
    for place in places:
        if (place / "expected" / "error.txt").exists() or place.name in REFUSED:
            continue
        if place.is_dir() and old_version(place) and "tutorial" not in place.name:
            continue  # its call needs what only the older version has
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            args = case_arguments(place, folder)[0] if place.is_dir() else [place, "--num-samples", 64]
            try:
                problems, remarks = check(options.bin, place, args, folder)
            except Exception as error:  # whatever it is, the model does not pass
                problems, remarks = [f"{type(error).__name__}: {str(error)[:400]}"], []
        passed, failed = passed + (not problems), failed + bool(problems)
        lines = "".join(f"\n       {line}" for line in problems[:6] + remarks)
        print(f"{'FAIL' if problems else 'ok  '} {place.name}{lines}", flush=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
