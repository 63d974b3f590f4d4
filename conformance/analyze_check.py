#!/usr/bin/env python3
"""Holds the cumulative SMAPE and saturation of `bitproof analyze` against QuantizeML's own analysis.

    python3 analyze_check.py [--bin PATH] [--cases FOLDER] [--only TEXT ...]

Both measure the recorded quantized models on the recorded inputs of the cases. QuantizeML measures random samples; here
it is given the inputs instead. Needs quantizeml 1.2.5 with its analysis. Prints a line a case and a last line
'N passed, N failed'.
"""
import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np
from quantizeml import load_model
from quantizeml.analysis.quantization_error import keras_quantization_error as reference

HERE = pathlib.Path(__file__).resolve().parent
# Sums of float32 in another order, and float layers evaluated in another one.
TOLERANCE = 1e-5
# What cannot be compared, and why.
LEFT_OUT = {
    "19-": "the file of the older version does not say that its inputs have a sign",
    "36-": "bitproof takes samples as the steps of one sequence, QuantizeML as one step of several",
}


def expected(case, inputs):
    """Returns SMAPE and saturation in percent of each layer, as QuantizeML measures them."""
    reference.generate_keras_random_samples = lambda *args, **kwargs: inputs.astype("float32")
    models = load_model(str(case / "model.h5")), load_model(str(case / "expected/quantized.h5"))
    found = reference.cumulative_quantization_error(*models)
    return {name.split(" ")[0]: (m["SMAPE"], m["Saturation (%)"]) for name, m in found.items()}


def measured(binary, case):
    """Returns the same as bitproof measures them."""
    command = [binary, "analyze", case / "expected/quantized.h5", "--float", case / "model.h5", "--samples",
               case / "inputs.npy", "--tries", "0", "--format", "json"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    layers = [layer for layer in json.loads(run.stdout)["layers"] if layer["usage"]]
    return {x["name"]: (x["cumulative"]["smape"], 100 * x["usage"]["saturation"]) for x in layers}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", default="bitproof")
    parser.add_argument("--cases", type=pathlib.Path, default=HERE / "cases")
    parser.add_argument("--only", nargs="*", default=[""])
    args = parser.parse_args()
    counts = [0, 0]
    for case in sorted(args.cases.iterdir()):
        files = [case / "model.h5", case / "inputs.npy", case / "expected/quantized.h5"]
        if not all(f.is_file() for f in files) or not any(text in case.name for text in args.only):
            continue
        if case.name[:3] in LEFT_OUT:
            print("--  ", case.name, LEFT_OUT[case.name[:3]])
            continue
        try:
            theirs, ours = expected(case, np.load(case / "inputs.npy")), measured(args.bin, case)
            wrong = [n for n, m in theirs.items() if not np.allclose(m, ours[n], rtol=0, atol=TOLERANCE)]
        except Exception as error:  # a case that either side refuses has failed
            wrong = [repr(error)[:200]]
        counts[bool(wrong)] += 1
        print("FAIL" if wrong else "ok  ", case.name, *wrong)
    print(f"{counts[0]} passed, {counts[1]} failed")
    sys.exit(counts[1] > 0)


if __name__ == "__main__":
    main()
