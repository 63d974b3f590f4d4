"""Measures the peak memory of a calibration on 500 and on 50,000 images of 32x32x3.

Needs Python only; run it from the root of the repository:

    cargo build --release
    cargo build --release --example small_network -p bitproof
    python3 benches/calibration_memory.py target/release

It fails if an observer needs 5 % more for the larger number.
"""

import os
import random
import subprocess
import sys
import tempfile

ITEM = 32 * 32 * 3
COUNTS = (500, 50_000)
OBSERVERS = ("moving-max", "max", "percentile", "mse")
LIMIT = 1.05


def write_samples(path, count):
    """Writes random pixels as uint8, [count, 32, 32, 3]."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, 32, 32, 3), }}"
    header = header.ljust(117) + "\n"
    stream = random.Random(count)
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
        for _ in range(count // 100):
            file.write(stream.randbytes(100 * ITEM))


def peak_kib(command):
    """Runs a command and returns its peak resident memory."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = child.stdout.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    if status != 0:
        sys.exit(f"{command}:\n{output}")
    return usage.ru_maxrss


def main():
    binaries = sys.argv[1] if len(sys.argv) > 1 else "target/release"
    worst = 0
    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "model.h5")
        subprocess.run([f"{binaries}/examples/small_network", model], check=True)
        places = {}
        for count in COUNTS:
            places[count] = os.path.join(folder, f"{count}.npy")
            write_samples(places[count], count)
        for observer in OBSERVERS:
            peaks = []
            for count in COUNTS:
                ranges = os.path.join(folder, "ranges.json")
                peaks.append(peak_kib([
                    f"{binaries}/bitproof", "calibrate", model, "--samples", places[count],
                    "--observer", observer, "-s", ranges,
                ]))
            ratio = peaks[1] / peaks[0]
            worst = max(worst, ratio)
            figures = ", ".join(f"{c} images {p / 1024:.1f} MiB" for c, p in zip(COUNTS, peaks))
            print(f"{observer:<11} {figures}, ratio {ratio:.3f}")
    if worst > LIMIT:
        sys.exit(f"the larger number of images needs {worst:.3f} times the memory")


main()
