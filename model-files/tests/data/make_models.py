"""Writes models.json: what tf_keras says of every float model among the conformance cases.

Needs tf_keras 2.19 and quantizeml 1.2.5 (which registers its layers). From the repository's root:

    python model-files/tests/data/make_models.py
"""

import json
import os
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import quantizeml  # noqa: F401  registers its layers
import tf_keras

models = {}
for path in sorted(Path("conformance/cases").glob("*/model.h5")):
    model = tf_keras.models.load_model(path, compile=False)
    if isinstance(model, tf_keras.Sequential):
        layers = model._self_tracked_trackables  # with the implied input
    else:
        layers = model.layers
    models[path.parent.name] = [
        {
            "name": layer.name,
            "class": type(layer).__name__,
            "shape": list(layer.output.shape)[1:],
            "weights": {
                weight.name.split("/")[-1].split(":")[0]: [
                    list(weight.shape),
                    float(np.abs(weight.numpy().astype(np.float64)).sum()),
                ]
                for weight in layer.weights
            },
        }
        for layer in layers
    ]

lines = [f"  {json.dumps(name)}: [\n" + ",\n".join("    " + json.dumps(layer) for layer in layers) + "\n  ]" for name, layers in models.items()]
Path("model-files/tests/data/models.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
