#!/usr/bin/env python3
"""Times LiteRT, ONNX Runtime, QuantizeML and bitproof on the same models and images, and writes a Markdown table.

    python3 side_by_side.py FOLDER --bitproof target/release/bitproof -o table.md

FOLDER is that of build_models.py. Rounds are interleaved: in each, every engine makes one run, so that what the machine
does meanwhile reaches all of them. A cell has the median and, in parentheses, the minimum, in milliseconds an image. A
ratio is that of the medians. The load of the machine before the first and after the last round is written down; on an
idle machine it is the runs' own.
"""
import argparse
import datetime
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

from engines import BitproofBench, BitproofQuantize, Worker

MODELS = ["mbv1_224", "mbv1_96_a05"]
TITLES = {"mbv1_224": "MobileNetV1 1.0/224", "mbv1_96_a05": "MobileNetV1 0.5/96"}
PAUSE = 0.02  # seconds before a run: threads of the run before have stopped spinning


class Times:
    """Seconds of the runs of one engine."""

    def __init__(self, seconds, batch=1):
        self.median = 1e3 * statistics.median(seconds) / batch
        self.least = 1e3 * min(seconds) / batch

    def __str__(self):
        return f"{self.median:.3f} ({self.least:.3f})"


def measure(engines, rounds):
    """Returns the seconds of the runs of each engine: one run of each in each round."""
    seconds = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            time.sleep(PAUSE)
            seconds[name].append(engine.seconds())
    return seconds


def start(makers):
    """Starts engines; one that cannot be started is named, not passed over in silence."""
    engines = {}
    for name, make in makers.items():
        try:
            engines[name] = make()
        except (OSError, RuntimeError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return engines


def close(engines):
    for engine in engines.values():
        engine.close()


def row(cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def table(header, rows):
    return "\n".join([row(header), row(["---"] * len(header)), *map(row, rows)])


def ratio(ours, others):
    """Returns our median over that of the fastest other engine, or a dash where there is none."""
    if ours is None or not others:
        return "–"
    return f"{ours.median / min(times.median for times in others):.2f}"


class Run:
    """All measurements of one call."""

    def __init__(self, args, work):
        self.args, self.folder, self.work = args, args.folder, work
        self.versions = {}
        self.ours = {}

    def quantized(self, name):
        """Quantizes the network once, for the integer runs."""
        out = self.work / f"{name}.bpq.safetensors"
        if not out.exists():
            BitproofQuantize(self.args.bitproof, *self.inputs(name), out, os.cpu_count()).seconds()
        return out

    def inputs(self, name):
        return self.folder / f"{name}.h5", self.folder / f"{name}_samples.npy"

    def engines(self, kind, name, batch, threads):
        """Returns the engines of one row: two others, then bitproof, then for integers QuantizeML."""
        def worker(engine):
            return lambda: Worker(engine, self.folder, name, batch, threads)

        model = self.quantized(name) if kind == "i8" else self.inputs(name)[0]
        makers = {
            "LiteRT": worker(f"litert-{kind}"),
            "ONNX Runtime": worker(f"onnxruntime-{kind}"),
            "bitproof": lambda: BitproofBench(self.args.bitproof, model, self.inputs(name)[1], batch, threads),
        }
        if kind == "i8" and not self.args.no_quantizeml:
            makers["QuantizeML"] = worker("quantizeml-simulate")
        return makers

    def compared(self, kind):
        """Returns the rows of one kind of arithmetic."""
        rows = []
        for name in self.args.models:
            for threads in self.args.threads:
                for batch in self.args.batch:
                    rows.append(self.compared_row(kind, name, threads, batch))
        return rows

    def compared_row(self, kind, name, threads, batch):
        print(f"{kind}, {name}, {threads} thread(s), batch {batch}", file=sys.stderr)
        engines = start(self.engines(kind, name, batch, threads))
        slow = {n: engines.pop(n) for n in ("QuantizeML",) if n in engines}
        seconds = measure(engines, self.args.rounds)
        # A slow engine gets fewer rounds, after the others: it would only make them rarer.
        seconds.update(measure(slow, self.args.slow_rounds))
        engines.update(slow)
        self.note_versions(engines)
        close(engines)
        times = {n: Times(s, batch) for n, s in seconds.items()}
        ours, others = times.get("bitproof"), [times[n] for n in ("LiteRT", "ONNX Runtime") if n in times]
        self.ours[kind, name, threads, batch] = ours
        names = ["LiteRT", "ONNX Runtime", "bitproof", *(["QuantizeML"] if kind == "i8" else [])]
        return [TITLES[name], threads, batch, *(times.get(n, "–") for n in names), ratio(ours, others)]

    def note_versions(self, engines):
        for engine in engines.values():
            if isinstance(engine, Worker):
                self.versions[engine.version] = None
            elif getattr(engine, "instruction_set", None):
                self.versions[f"bitproof on {engine.instruction_set}"] = None

    def quantizations(self):
        """Returns rows of `bitproof quantize`, whole processes, and of QuantizeML's function alone."""
        rows = []
        for name in self.args.models:
            for threads in self.args.threads:
                print(f"quantize, {name}, {threads} thread(s)", file=sys.stderr)
                out = self.work / "timed.bpq.safetensors"
                makers = {"bitproof": lambda: BitproofQuantize(
                    self.args.bitproof, *self.inputs(name), out, threads)}
                if not self.args.no_quantizeml:
                    makers["QuantizeML"] = lambda: Worker("quantizeml-quantize", self.folder, name, 16, threads)
                engines = start(makers)
                times = {n: Times(s) for n, s in measure(engines, self.args.slow_rounds).items()}
                peaks = {n: f"{engine.peak_mib():.0f} MiB" for n, engine in engines.items()}
                self.note_versions(engines)
                close(engines)
                ours, other = times["bitproof"], times.get("QuantizeML")
                factor = f"{other.median / ours.median:.1f}" if other else "–"
                rows.append([TITLES[name], threads, ours, other or "–", factor, peaks["bitproof"],
                             peaks.get("QuantizeML", "–")])
        return rows

    def scaling(self):
        """Returns how much of our one-thread time two threads need, in each row that has both."""
        rows = []
        for (kind, name, threads, batch), times in self.ours.items():
            alone = self.ours.get((kind, name, 1, batch))
            if threads != 1 and alone and times:
                work = "integers" if kind == "i8" else "calibration"
                rows.append([TITLES[name], work, batch, threads, f"{times.median / alone.median:.2f}"])
        return rows


def cpu():
    """Returns the name, family and model of the CPU."""
    fields = {}
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:
        return platform.processor() or platform.machine()
    family = f"family {fields['cpu family']}, model {fields['model']}" if "cpu family" in fields else ""
    return f"{fields.get('model name', platform.machine())} {family}".strip()


def load():
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"


def report(run, args, loads, tables):
    integers, floats, quantizations = tables
    version = subprocess.run([args.bitproof, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    shape = ["network", "threads", "batch"]
    unit = "Milliseconds an image, median (minimum)"
    parts = [
        f"{datetime.date.today()}, {cpu()}, {os.cpu_count()} core(s); load {loads[0]} before, {loads[1]} after. "
        f"{version}; {', '.join(run.versions)}. {args.rounds} interleaved rounds, {args.slow_rounds} for QuantizeML "
        "and for quantization.",
        f"Integers of 8 bits. {unit}; the ratio is bitproof to the faster of LiteRT and ONNX Runtime.",
        table([*shape, "LiteRT int8", "ONNX Runtime int8", "bitproof", "QuantizeML", "ratio"], integers),
        f"The float pass; bitproof's is a calibration step with its observers. {unit}.",
        table([*shape, "LiteRT f32", "ONNX Runtime f32", "bitproof", "ratio"], floats),
        "Quantization with 64 samples: `bitproof quantize` as a process, QuantizeML's `quantize()` alone. Milliseconds.",
        table(["network", "threads", "bitproof", "QuantizeML", "times faster", "peak memory", "of QuantizeML's process"],
              quantizations),
    ]
    if scaling := run.scaling():
        parts += ["bitproof's time with more threads, as a share of that with one.",
                  table(["network", "work", "batch", "threads", "share"], scaling)]
    return "\n\n".join(parts) + "\n"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="folder of build_models.py")
    parser.add_argument("--bitproof", default="target/release/bitproof", metavar="PATH", help="the binary")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--slow-rounds", type=int, default=3, help="of QuantizeML, and of whole quantizations")
    parser.add_argument("--no-quantizeml", action="store_true", help="leave QuantizeML out: it takes minutes")
    parser.add_argument("-o", "--out", type=pathlib.Path, help="file of the table; otherwise it is printed")
    args = parser.parse_args()
    if args.rounds < 1 or args.slow_rounds < 1:
        parser.error("at least one round")
    return args


def main():
    args = arguments()
    before = load()
    with tempfile.TemporaryDirectory() as work:
        run = Run(args, pathlib.Path(work))
        tables = run.compared("i8"), run.compared("f32"), run.quantizations()
    text = report(run, args, (before, load()), tables)
    if args.out is None:
        print(text)
        return
    temporary = args.out.with_name(f".{args.out.name}.part")
    temporary.write_text(text)
    temporary.replace(args.out)


main()
