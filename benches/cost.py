#!/usr/bin/env python3
"""Draws what the cost of a model grows with: time with the batch, time with the pixels, memory with the samples.

    cargo build --release
    cargo build --release -p benches --example mobilenet
    nice -n -15 python3 benches/cost.py target/release -o benches/cost.svg

Needs Python only; `nice` with a negative number needs a privileged user and can be left out. The networks have
MobileNetV1's shape, width 0.5. A time is the processor's time of the integer simulation on one thread, so that other
work of the machine does not count: of `bitproof bench` with many runs, less that with one run, each the minimum over
rounds in which every point is measured once. Peak memory is that of a whole `bitproof calibrate`, in which the samples
pass as a stream.
"""
import argparse
import datetime
import os
import pathlib
import platform
import random
import subprocess
import sys
import tempfile

EIGHTHS = "4"
BATCHES = [1, 2, 4, 8, 16, 32, 64, 128, 256]
SIZES = [64, 96, 128, 160, 192, 224]
SAMPLES = [256, 512, 1024, 2048, 4096, 8192]
BATCH_SIZE = 96  # height and width of the images of the first and of the last plot
IMAGES = 1024  # of the runs of a point in one round


# ---------------------------------------------------------------------------------------------------- measurements
def finished(command):
    """Runs a command and returns what it used."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    messages = child.stderr.read().decode()
    child.stderr.close()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if status != 0:
        sys.exit(f"{' '.join(command)}:\n{messages}")
    return usage


def write_model(binaries, folder, size):
    """Writes a float network and its quantized form; returns both places."""
    model, quantized = folder / f"{size}.h5", folder / f"{size}.bpq.safetensors"
    finished([f"{binaries}/examples/mobilenet", str(size), EIGHTHS, str(model)])
    finished([f"{binaries}/bitproof", "quantize", str(model), "-ns", "4", "-bs", "4", "-s", str(quantized)])
    return model, quantized


def processor_ms(binaries, model, batch, runs):
    """Returns the processor's time of a whole `bitproof bench` on one thread, in milliseconds."""
    command = [f"{binaries}/bitproof", "bench", str(model), "--batch", str(batch), "--threads", "1", "--runs", str(runs)]
    usage = finished(command)
    return 1e3 * (usage.ru_utime + usage.ru_stime)


def times(binaries, points, rounds):
    """Returns milliseconds an image for each point, a model and a batch."""
    many, one = [float("inf")] * len(points), [float("inf")] * len(points)
    extra = [max(1, IMAGES // batch) for _, batch in points]
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for i, (model, batch) in enumerate(points):
            many[i] = min(many[i], processor_ms(binaries, model, batch, 1 + extra[i]))
            one[i] = min(one[i], processor_ms(binaries, model, batch, 1))
    return [(m - o) / (n * batch) for m, o, n, (_, batch) in zip(many, one, extra, points)]


def write_samples(path, count):
    """Writes random pixels as uint8, [count, size, size, 3], without holding them."""
    item = BATCH_SIZE * BATCH_SIZE * 3
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, {BATCH_SIZE}, {BATCH_SIZE}, 3), }}"
    stream = random.Random(count)
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117).encode() + b"\n")
        for _ in range(count):
            file.write(stream.randbytes(item))


def peak_mib(binaries, model, samples, folder):
    """Returns the peak resident memory of a calibration."""
    command = [f"{binaries}/bitproof", "calibrate", str(model), "--samples", str(samples), "-bs", "16",
               "-s", str(folder / "ranges.json")]
    return finished(command).ru_maxrss / 1024


# ------------------------------------------------------------------------------------------------------- the drawing
WIDTH, HEIGHT = 300, 220
LEFT, TOP, BOTTOM = 52, 46, 40
STYLE = """
  text { font: 11px sans-serif; fill: #222 }
  .title { font-weight: bold; font-size: 12px }
  .axis, .grid { stroke: #888; fill: none } .grid { stroke: #ddd }
  .band { fill: #2a6f97; opacity: .12 } .line { stroke: #2a6f97; fill: none; stroke-width: 1.5 } .dot { fill: #2a6f97 }
  .fit { stroke: #c1440e; fill: none; stroke-dasharray: 4 3 }
  @media (prefers-color-scheme: dark) { text { fill: #ddd } .grid { stroke: #444 } .line { stroke: #7fc4e8 }
    .dot, .band { fill: #7fc4e8 } }
"""


def nice_top(value):
    """Returns a round number at or above a value."""
    step = 10.0 ** len(str(int(value))) / 100
    while value / step > 12:
        step *= 2
    return step * (int(value / step) + 1)


class Panel:
    """One plot: points, and a band or a line that they are held against."""

    def __init__(self, number, title, labels, unit, xs):
        self.x0 = LEFT + number * (WIDTH + LEFT + 10)
        self.title, self.labels, self.unit, self.xs = title, labels, unit, xs
        self.parts = []

    def place(self, i, y, top):
        low, high = self.xs[0], self.xs[-1]
        x = self.x0 + 12 + (self.xs[i] - low) / (high - low) * (WIDTH - 24)
        return x, TOP + HEIGHT * (1 - y / top)

    def draw(self, ys, note, band=None, fit=None):
        top = nice_top(max([*ys, *(band or ()), *(fit or ())]))
        right, bottom = self.x0 + WIDTH, TOP + HEIGHT
        add = self.parts.append
        add(f'<text class="title" x="{self.x0}" y="{TOP - 26}">{self.title}</text>')
        add(f'<text x="{self.x0}" y="{TOP - 10}">{note}</text>')
        for k in range(5):
            y = TOP + HEIGHT * (1 - k / 4)
            add(f'<path class="grid" d="M{self.x0} {y:.1f}H{right}"/>')
            add(f'<text x="{self.x0 - 6}" y="{y + 4:.1f}" text-anchor="end">{top * k / 4:.3g}</text>')
        if band:
            low, high = (self.place(0, y, top)[1] for y in band)
            add(f'<rect class="band" x="{self.x0}" y="{high:.1f}" width="{WIDTH}" height="{low - high:.1f}"/>')
        if fit:
            ends = [self.place(i, y, top) for i, y in zip((0, -1), (fit[0], fit[-1]))]
            add('<path class="fit" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>'.format(*ends[0], *ends[1]))
        places = [self.place(i, y, top) for i, y in enumerate(ys)]
        add(f'<path class="line" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in places)}"/>')
        for (x, y), label, value in zip(places, self.labels, ys):
            add(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{label}: {value:.3f}</title></circle>')
            add(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{label}</text>')
        add(f'<path class="axis" d="M{self.x0} {TOP}V{bottom}H{right}"/>')
        add(f'<text x="{right}" y="{bottom + 31}" text-anchor="end">{self.unit}</text>')
        return "\n".join(self.parts)


def line(xs, ys):
    """Returns the values of the line of least squares of the relative errors."""
    weights = [1 / y ** 2 for y in ys]
    total = sum(weights)
    mx = sum(w * x for w, x in zip(weights, xs)) / total
    my = sum(w * y for w, y in zip(weights, ys)) / total
    slope = (sum(w * (x - mx) * (y - my) for w, x, y in zip(weights, xs, ys))
             / sum(w * (x - mx) ** 2 for w, x in zip(weights, xs)))
    return [my + slope * (x - mx) for x in xs]


def spread(values):
    return max(values) / min(values) - 1


def drawing(by_batch, by_size, by_samples, caption):
    """Returns the SVG, and what each plot says in a line."""
    pixels = [size * size for size in SIZES]
    fit = line(pixels, by_size)
    off = max(abs(y / f - 1) for y, f in zip(by_size, fit))
    median = sorted(by_batch)[len(by_batch) // 2]
    notes = [
        f"largest {100 * spread(by_batch):.0f} % above least; the band is ±10 %",
        f"within {100 * off:.0f} % of a line",
        f"largest {100 * spread(by_samples):.1f} % above least",
    ]
    panels = [
        Panel(0, "Processor time an image, ms", BATCHES, "images in a batch", list(range(len(BATCHES)))).draw(
            by_batch, notes[0], band=(0.9 * median, 1.1 * median)),
        Panel(1, "Processor time an image, ms", [f"{size}²" for size in SIZES], "pixels", pixels).draw(
            by_size, notes[1], fit=fit),
        Panel(2, "Peak memory, MiB", SAMPLES, "samples of a calibration", list(range(len(SAMPLES)))).draw(
            by_samples, notes[2]),
    ]
    width, height = 3 * (WIDTH + LEFT + 10), TOP + HEIGHT + BOTTOM + 22
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        "<title>What the cost of a model grows with</title>", f"<style>{STYLE}</style>", *panels,
        f'<text x="{LEFT}" y="{height - 8}">{caption}</text>', "</svg>", "",
    ]), notes


def cpu():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [value.partition(":")[2].strip() for value in lines if value.startswith("model name")]
    return names[0] if names else platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binaries", help="folder of bitproof and examples/mobilenet, such as target/release")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of the times")
    parser.add_argument("-o", "--out", type=pathlib.Path, required=True, help="the SVG")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        models = {size: write_model(args.binaries, folder, size) for size in {*SIZES, BATCH_SIZE}}
        points = [(models[BATCH_SIZE][1], batch) for batch in BATCHES] + [(models[size][1], 1) for size in SIZES]
        least = times(args.binaries, points, args.rounds)
        peaks = []
        for count in SAMPLES:
            samples = folder / "samples.npy"
            write_samples(samples, count)
            peaks.append(peak_mib(args.binaries, models[BATCH_SIZE][0], samples, folder))
    caption = (f"MobileNetV1 0.5, integers, one thread, from minima of {args.rounds} rounds; images of {BATCH_SIZE}² left and "
               f"right. {datetime.date.today()}, {cpu()}, load {load:.1f}.")
    svg, notes = drawing(least[:len(BATCHES)], least[len(BATCHES):], peaks, caption)
    temporary = args.out.with_name(f".{args.out.name}.part")
    temporary.write_text(svg)
    temporary.replace(args.out)
    for what, values, note in zip(("batch", "pixels", "samples"), (least[:len(BATCHES)], least[len(BATCHES):], peaks), notes):
        print(f"{what}: {', '.join(f'{v:.3f}' for v in values)}: {note}")


main()
