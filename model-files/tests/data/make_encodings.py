"""Writes encodings/*.h5: one small model, stored in the ways that h5py and other writers know.

Needs h5py 3. From the repository's root:

    python model-files/tests/data/make_encodings.py
"""

import json
from pathlib import Path

import h5py
import numpy as np

FOLDER = Path("model-files/tests/data/encodings")
KERNEL = np.array([[1.5, -2.0], [0.25, 4.0], [-8.0, 0.0]], "f4")
BIAS = np.array([3.0, -1.0], "f4")
CONFIG = {
    "class_name": "Functional",
    "config": {
        "name": "m",
        "layers": [
            {"class_name": "InputLayer", "name": "in", "inbound_nodes": [],
             "config": {"name": "in", "batch_input_shape": [None, 3], "dtype": "float32"}},
            {"class_name": "Dense", "name": "fc", "inbound_nodes": [[["in", 0, 0, {}]]],
             "config": {"name": "fc", "units": 2}},
        ],
        "input_layers": [["in", 0, 0]],
        "output_layers": [["fc", 0, 0]],
    },
}


def write(name, dtype="<f4", names="vlen", config=json.dumps(CONFIG), libver=None, **options):
    with h5py.File(FOLDER / f"{name}.h5", "w", libver=libver) as file:
        file.attrs["model_config"] = config
        group = file.create_group("model_weights")
        layers = np.array([b"in", b"fc"])
        if names == "split":
            group.attrs["layer_names0"], group.attrs["layer_names1"] = layers[:1], layers[1:]
        elif names == "fixed":
            group.attrs["layer_names"] = layers
        else:
            group.attrs["layer_names"] = ["in", "fc"]
        group.create_group("in").attrs["weight_names"] = []
        fc = group.create_group("fc")
        weights = ["fc/kernel:0", "fc/bias:0"]
        fc.attrs["weight_names"] = weights if names == "vlen" else np.array(weights, "S")
        fc.create_dataset(weights[0], data=KERNEL.astype(dtype), **options)
        fc.create_dataset(weights[1], data=BIAS.astype(dtype), **options)


FOLDER.mkdir(exist_ok=True)
write("plain")
write("half", "<f2")
write("half_big_endian", ">f2")
write("big_endian", ">f4")
write("double", "<f8")
write("integer_big_endian", ">i2")
write("gzip", chunks=True, compression="gzip", shuffle=True)
write("latest", libver="latest")
write("fixed_names", names="fixed", config=np.bytes_(json.dumps(CONFIG)))
write("split_names", names="split")
