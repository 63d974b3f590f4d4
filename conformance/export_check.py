#!/usr/bin/env python3
"""Holds the quantized `.h5` files that bitproof writes against the real QuantizeML.

    python3 export_check.py [--bin PATH] [--cases FOLDER] [--only TEXT ...] [MODEL ...]

Each float model is quantized twice by `bitproof quantize`: to `.h5`, and to our own format. QuantizeML loads the
first and runs it layer by layer on random inputs; `bitproof run` runs the second on the same inputs. All integers,
their value_bits and frac_bits must be equal. So must the integers of the `.h5` that `bitproof convert` makes of our
own format, unless it says that there is none that is exact.

A given file that has `NAME.npz` beside it (inputs `x`, outputs `y`) is also converted to a float `.h5`, which
tf_keras must load and compute the same with.

Models are those of the conformance cases (error cases left out), or the given files: these are quantized with random
samples, one range for each tensor. Layers where the reference's float32 carrier is itself inexact (see exact.json in
README.md) may differ; they are counted. Needs quantizeml 1.2.5 with tf_keras 2.19. Prints a line a model and a last
line 'N passed, N failed'.
"""
import argparse
import io
import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

import regenerate

HERE = pathlib.Path(__file__).resolve().parent
N_INPUTS = 4
REFUSED = {"43-weight-bits-1"}  # the reference silently leaves the layers in float; we refuse the value


def run(binary, *args):
    return subprocess.run([binary, *map(str, args)], capture_output=True, text=True, timeout=900)


def case_arguments(case, folder):
    """Returns the arguments of `bitproof quantize` that stand for the call of a case, without `-s`."""
    call = json.loads((case / "call.json").read_text())
    q, n = call["qparams"], len(np.load(case / "samples.npy", mmap_mode="r"))
    used = min(n, call["num_samples"] or n)
    args = [case / "model.h5", "--samples", case / "samples.npy", "--num-samples", used,
            "--batch-size", call["batch_size"] or max(1, -(-n // (call["num_samples"] or n))), "-e", call["epochs"],
            "-w", q["weight_bits"], "-i", q["input_weight_bits"], "-a", q["activation_bits"], "-o", q["output_bits"],
            "-b", q["buffer_bits"],
            "--input-quantizer", "never" if old_version(case) else "always"]
    if q.get("input_dtype"):
        args += ["--input-dtype", q["input_dtype"]]
    if q.get("per_tensor_activations"):
        args += ["--per-tensor-activations"]
    if q.get("last_output_bits"):
        args += ["--last-output-bits", q["last_output_bits"]]
    if call.get("quantize_until"):
        args += ["--quantize-until", call["quantize_until"]]
    if call.get("input_shape"):
        args += ["--input-shape", ",".join(map(str, call["input_shape"]))]
    if call.get("q_config"):
        (folder / "q_config.json").write_text(json.dumps(call["q_config"]))
        args += ["-c", folder / "q_config.json"]
    return args, bool(call.get("sequence"))


def old_version(case):
    return json.loads((case / "call.json").read_text())["reference"].startswith("0.11")


def random_inputs(model, rng):
    """Returns inputs over the whole range of the model's input type, or normal ones for a float input."""
    shape = [N_INPUTS] + [16 if extent is None else extent for extent in model.input_shape[1:]]
    dtype = np.dtype(model.inputs[0].dtype.as_numpy_dtype)
    if dtype.kind == "f":
        return rng.normal(0, 1, shape).astype(np.float32)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)


def compare(want, dumped, report):
    """Returns problems, and the number of integers that differ where the reference is inexact."""
    got, problems, loose = np.load(dumped), [], 0
    for key, values in want.items():
        layer, field = key.rsplit("/", 1)
        if field in ("raw", "float", "scales"):
            continue
        if key not in got.files:
            problems.append(f"{key} is missing")
            continue
        mine = got[key]
        if field != "values":
            shape = np.broadcast_shapes(values.shape, mine.shape)
            if not np.array_equal(np.broadcast_to(values, shape), np.broadcast_to(mine, shape)):
                problems.append(f"{key}: {mine.ravel()[:4]}, the reference has {values.ravel()[:4]}")
            continue
        n = int((values.astype(np.int64) != mine.astype(np.int64)).sum()) if values.shape == mine.shape else -1
        # Where the carrier rounds, everything behind differs too.
        if n and (loose or report.get(layer, {}).get("float32_mismatches", 0)):
            loose += n
        elif n:
            problems.append(f"{key}: {n} of {values.size} integers differ")
    return problems, loose


def reference_run(ref, path, inputs, sequence):
    """Returns what every layer of a file gives, and what is known about its exactness."""
    with contextlib.redirect_stdout(io.StringIO()):
        model = ref.models.load_model(str(path)) if hasattr(ref.models, "load_model") else ref.load(str(path))
    inputs = random_inputs(model, np.random.default_rng(3)) if inputs is None else inputs
    if sequence:
        arrays, report, _ = regenerate.run_sequence(ref, model, inputs)
    else:
        arrays, report, _ = regenerate.run_layers(ref, model, inputs)
    return inputs, arrays, report


def check(ref, binary, args, sequence, folder):
    """Returns problems and remarks."""
    h5, own, converted = folder / "out.h5", folder / "out.bpq.safetensors", folder / "again.h5"
    for out in (h5, own):
        done = run(binary, "quantize", *args, "-s", out)
        if done.returncode:
            return [f"quantize -s {out.name}: exit {done.returncode}: {done.stderr.strip()[:300]}"], []
    inputs, arrays, report = reference_run(ref, h5, None, sequence)
    np.save(folder / "x.npy", inputs)
    flags = ["--sequence"] if sequence else []
    done = run(binary, "run", own, "--inputs", folder / "x.npy", "--dump-layers", folder / "d.npz", *flags)
    if done.returncode:
        return [f"run: exit {done.returncode}: {done.stderr.strip()[:300]}"], []
    problems, loose = compare(arrays, folder / "d.npz", report)
    remarks = [f"{loose} integers differ where or after the reference is inexact"] if loose else []
    done = run(binary, "convert", own, converted)
    if done.returncode:
        remarks.append(f"not converted: {done.stderr.strip()[:200]}")
    else:
        _, arrays, report = reference_run(ref, converted, inputs, sequence)
        more, _ = compare(arrays, folder / "d.npz", report)
        problems += [f"converted: {problem}" for problem in more]
    return problems, remarks


def check_float(ref, binary, model, folder):
    """Returns what is wrong with the float `.h5` that `bitproof convert` makes of a model."""
    example, out = model.with_suffix(".npz"), folder / "float.h5"
    if not example.exists():
        return []
    done = run(binary, "convert", model, out)
    if done.returncode:
        return [f"convert: exit {done.returncode}: {done.stderr.strip()[:300]}"]
    example = np.load(example)
    got = np.asarray(ref.keras.models.load_model(out, compile=False)(example["x"]), np.float64)
    # What Keras computed in half precision is computed in float32 here.
    share = 5e-3 if "mixed" in model.name else 1e-5
    difference, largest = np.abs(got - example["y"]).max(), np.abs(example["y"]).max()
    return [] if difference <= share * largest else [f"float: outputs differ by {difference} of {largest}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", default="target/release/bitproof")
    parser.add_argument("--cases", type=pathlib.Path, default=HERE / "cases")
    parser.add_argument("--only", nargs="*", default=[], metavar="TEXT")
    parser.add_argument("models", nargs="*", type=pathlib.Path, metavar="MODEL")
    options = parser.parse_args()
    places = options.models or sorted(p for p in options.cases.iterdir() if (p / "call.json").exists())
    places = [p for p in places if not options.only or any(text in p.name for text in options.only)]
    ref, passed, failed = regenerate.Reference(), 0, 0
    from quantizeml import load_model
    ref.load = load_model
    for place in places:
        if (place / "expected" / "error.txt").exists() or place.name in REFUSED:
            continue
        if place.is_dir() and old_version(place) and "tutorial" not in place.name:
            continue  # only for the tutorial's layers do both versions compute the same
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            if place.is_dir():
                args, sequence = case_arguments(place, folder)
            else:
                args, sequence = [place, "--num-samples", 64, "--per-tensor-activations"], False
            try:
                problems, remarks = check(ref, options.bin, args, sequence, folder)
                if not place.is_dir():
                    problems += check_float(ref, options.bin, place, folder)
            except Exception as error:  # whatever it is, the model does not pass
                problems, remarks = [f"{type(error).__name__}: {str(error)[:400]}"], []
        passed, failed = passed + (not problems), failed + bool(problems)
        lines = "".join(f"\n       {line}" for line in problems[:6] + remarks)
        print(f"{'FAIL' if problems else 'ok  '} {place.name}{lines}", flush=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
