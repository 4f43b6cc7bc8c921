"""Every artefact is loaded back with the runtime that its users have, and run on real clips: the proof.

Each function here takes an artefact and clips, (clips, samples) float32, and gives a Reading.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from export.encoder import Encoder
from export.errors import NotMadeError
from export.tflite import operators
from speech_gru.lite_file import LiteFile
from speech_gru.recognizer import Recognizer
from speech_gru.streaming import StreamingRecognizer

_BATCH = 256


@dataclass(frozen=True)
class Reading:
    """What an artefact said."""

    logits: np.ndarray
    """(clips, labels) float32; a stream's are those at the clip's end."""
    latency_ms: float
    """Median on one thread, of what `latency_of` says; start not included."""
    latency_of: str
    operators: dict[str, int] = field(default_factory=dict)
    """How often each occurs."""


def read_clip_file(file: Path, clips: np.ndarray) -> Reading:
    """A .tflite file for clips, in `Recognizer`."""
    recognizer = Recognizer(file)
    logits, seconds = _timed(recognizer.logits, clips)
    return Reading(np.array(logits), 1e3 * seconds, "clip", dict(operators(file.read_bytes())))


def read_stream_file(file: Path, clips: np.ndarray) -> Reading:
    """A .tflite file for streams, in `StreamingRecognizer`, started anew for each clip."""
    stream = StreamingRecognizer(LiteFile(file))
    counts = []

    def last_logits(clip: np.ndarray) -> np.ndarray:
        stream.reset()
        rows = stream.logits(clip)
        counts.append(len(rows))
        return rows[-1]

    logits, seconds = _timed(last_logits, clips)
    chunk = stream.description.chunk_samples / stream.description.sample_rate
    of = f"{1e3 * chunk:g} ms chunk"
    return Reading(np.array(logits), 1e3 * seconds / counts[0], of, dict(operators(file.read_bytes())))


def read_micro(folder: Path, features: np.ndarray, encoder: Encoder) -> Reading:
    """A step model for microcontrollers, in TFLite Micro's interpreter, else in LiteRT's.

    Args:
        features: (clips, frames, features) float32; a microcontroller computes them itself.
    """
    from export.micro import MicroStream

    model = (folder / "model.tflite").read_bytes()
    lite = LiteFile(folder / "model.tflite")
    initial = lite.initial_states()
    try:
        stream = MicroStream(model)
    except ModuleNotFoundError:
        stream = _LiteSteps(lite)

    def last_logits(clip: np.ndarray) -> np.ndarray:
        states = initial
        for step in range(encoder.steps):
            start = step * encoder.subsampling
            logits, states = stream.step(clip[None, start : start + encoder.subsampling], states)
        return logits

    logits, seconds = _timed(last_logits, features)
    return Reading(np.array(logits), 1e3 * seconds / encoder.steps, "step here", dict(operators(model)))


class _LiteSteps:
    """What MicroStream does, in LiteRT."""

    def __init__(self, file: LiteFile):
        self._file = file
        self._input, self._output = file.quantization

    def step(self, features: np.ndarray, states: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        (scale, zero), (out_scale, out_zero) = self._input, self._output
        quantized = np.clip(np.round(features / scale) + zero, -128, 127).astype(np.int8)
        logits, *new = self._file.run(quantized, *states)
        return (logits[0].astype(np.float32) - out_zero) * out_scale, new


def read_saved_model(folder: Path, clips: np.ndarray) -> Reading:
    """A SavedModel as it is served, in batches; its latency is that of a batch of one."""
    import tensorflow as tf

    serve = tf.saved_model.load(str(folder)).signatures["logits"]
    return _in_batches(lambda audio: serve(audio=tf.constant(audio))["logits"].numpy(), clips)


def read_onnx(file: Path, clips: np.ndarray) -> Reading:
    """An ONNX file in onnxruntime. Raises NotMadeError if that isn't installed."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise NotMadeError(
            "onnxruntime isn't installed; the ONNX file's proof needs: pip install \".[onnx]\""
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return _in_batches(lambda audio: session.run(["logits"], {"audio": audio})[0], clips)


def _in_batches(run: Callable[[np.ndarray], np.ndarray], clips: np.ndarray) -> Reading:
    parts = [run(np.ascontiguousarray(clips[start : start + _BATCH])) for start in range(0, len(clips), _BATCH)]
    _, seconds = _timed(run, [np.ascontiguousarray(clip[None]) for clip in clips[:50]])
    return Reading(np.concatenate(parts), 1e3 * seconds, "clip")


def _timed(function: Callable, items: Iterable) -> tuple[list, float]:
    """What `function` gives for each, and the median of its seconds."""
    results, times = [], []
    for item in items:
        start = time.perf_counter()
        results.append(function(item))
        times.append(time.perf_counter() - start)
    return results, median(times)
