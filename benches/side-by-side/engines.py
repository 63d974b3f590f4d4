"""The engines of the side-by-side runs. Each is asked for the seconds of one run, so that rounds can be interleaved.

An engine that has Python inside runs in a process of its own (`python3 engines.py ENGINE ...`), which answers a line
with the seconds of a run. So no engine sees the threads of another, and each gets its number of threads at its start.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time


class Worker:
    """An engine in another Python process."""

    def __init__(self, engine, folder, name, batch, threads):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1",
                       "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, __file__, engine, str(folder), name, str(batch), str(threads)]
        self.words = tempfile.TemporaryFile(mode="w+")  # a pipe that nobody reads would fill up
        self.child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=self.words, text=True)
        self.version = self.answer()["version"]

    def seconds(self):
        self.child.stdin.write("run\n")
        self.child.stdin.flush()
        return self.answer()["seconds"]

    def answer(self):
        line = self.child.stdout.readline()
        if not line:
            self.child.wait()
            self.words.seek(0)
            lines = self.words.read().strip().splitlines()
            raise RuntimeError(lines[-1] if lines else "the engine ended without a word")
        return json.loads(line)

    def peak_mib(self):
        """Peak resident memory so far, where the system says it."""
        status = pathlib.Path(f"/proc/{self.child.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    def close(self):
        self.child.stdin.close()
        self.child.wait()
        self.child.stdout.close()
        self.words.close()


class BitproofBench:
    """`bitproof bench`: the median of nine runs a process; the other engines stay warm from round to round."""

    def __init__(self, binary, model, samples, batch, threads):
        self.command = [binary, "bench", str(model), "--inputs", str(samples), "--batch", str(batch),
                        "--threads", str(threads), "--runs", "9", "--format", "json"]
        self.batch = batch
        self.instruction_set = None

    def seconds(self):
        out = subprocess.run(self.command, check=True, capture_output=True, text=True).stdout
        answer = json.loads(out)
        self.instruction_set = answer["instruction_set"]
        return answer["ms_per_image"] * self.batch / 1e3

    def close(self):
        pass


class BitproofQuantize:
    """`bitproof quantize` as a whole process: files, calibration, output."""

    def __init__(self, binary, model, samples, out, threads):
        self.command = [binary, "quantize", str(model), "--samples", str(samples), "-bs", "16", "-s", str(out)]
        self.environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
        self.peak = 0

    def seconds(self):
        start = time.perf_counter()
        child = subprocess.Popen(self.command, env=self.environment, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if status != 0:
            raise RuntimeError(f"{' '.join(self.command)}: exit code {child.returncode}")
        self.peak = max(self.peak, usage.ru_maxrss / 1024)
        return seconds

    def peak_mib(self):
        return self.peak

    def close(self):
        pass


# ------------------------------------------------------------------------------------------------ inside a worker
def litert(suffix, folder, name, x, threads):
    try:
        import ai_edge_litert
        from ai_edge_litert.interpreter import Interpreter
        version = f"ai-edge-litert {ai_edge_litert.__version__}"
    except ImportError:
        import tensorflow as tf
        Interpreter, version = tf.lite.Interpreter, f"tensorflow {tf.__version__}"
    interpreter = Interpreter(f"{folder}/{name}_{suffix}.tflite", num_threads=threads)
    place = interpreter.get_input_details()[0]
    interpreter.resize_tensor_input(place["index"], x.shape)
    interpreter.allocate_tensors()
    if place["dtype"].__name__ == "int8":
        data = (x.astype("int16") - 128).astype("int8")
    else:
        data = x.astype("float32")

    def run():
        interpreter.set_tensor(place["index"], data)
        interpreter.invoke()
    return run, version


def onnxruntime(suffix, folder, name, x, threads):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(f"{folder}/{name}_{suffix}.onnx", options,
                                           providers=["CPUExecutionProvider"])
    data = {session.get_inputs()[0].name: x.astype("float32")}
    return lambda: session.run(None, data), f"onnxruntime {onnxruntime.__version__}"


def quantizeml(what, folder, name, x, threads):
    import tensorflow as tf
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    import contextlib
    import importlib.metadata
    import io
    import numpy as np
    import tf_keras
    from quantizeml.models import QuantizationParams, quantize
    version = f"quantizeml {importlib.metadata.version('quantizeml')}"

    def quantized(samples):
        model = tf_keras.models.load_model(f"{folder}/{name}.h5", compile=False)
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            result = quantize(model, qparams=QuantizationParams(), samples=samples, num_samples=len(samples),
                              batch_size=16)
        return result, time.perf_counter() - start

    if what == "quantize":
        samples = np.load(f"{folder}/{name}_samples.npy").astype("float32")
        return lambda: quantized(samples)[1], version
    data = x.astype("float32")
    model = quantized(data)[0]
    return lambda: model.predict(data, batch_size=len(data), verbose=0) is None, version


ENGINES = {
    "litert-i8": lambda *args: litert("i8", *args),
    "litert-f32": lambda *args: litert("f32", *args),
    "onnxruntime-i8": lambda *args: onnxruntime("i8", *args),
    "onnxruntime-f32": lambda *args: onnxruntime("f32", *args),
    "quantizeml-simulate": lambda *args: quantizeml("simulate", *args),
    "quantizeml-quantize": lambda *args: quantizeml("quantize", *args),
}


def work():
    engine, folder, name, batch, threads = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr  # an engine's own words must not be taken for an answer
    import numpy as np
    x = np.load(f"{folder}/{name}_samples.npy")[:int(batch)]
    run, version = ENGINES[engine](folder, name, x, int(threads))
    whole, slow = engine == "quantizeml-quantize", engine.startswith("quantizeml")
    if not whole:
        run()
    print(json.dumps({"version": version}), file=answers, flush=True)
    for _ in sys.stdin:
        if not slow:
            run()  # as `bitproof bench` does: the engines that ran since have emptied the caches
        start = time.perf_counter()
        own = run()
        # Quantization says its own time: loading the model is not part of it.
        seconds = own if whole else time.perf_counter() - start
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)


if __name__ == "__main__":
    work()
