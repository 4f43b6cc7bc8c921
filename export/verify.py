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
    stream_logits: np.ndarray | None = None
    """(steps, labels) float32: of clips end to end, heard as one stream; None of what can't stream."""


def read_clip_file(file: Path, clips: np.ndarray) -> Reading:
    """A .tflite file for clips, in `Recognizer`."""
    recognizer = Recognizer(file)
    logits, seconds = _timed(recognizer.logits, clips)
    return Reading(np.array(logits), 1e3 * seconds, "clip", dict(operators(file.read_bytes())))


def read_stream_file(file: Path, clips: np.ndarray, joined: np.ndarray) -> Reading:
    """A .tflite file for streams, in `StreamingRecognizer`, started anew for each clip.

    Args:
        joined: (samples,) float32: clips end to end, which it then hears as one stream.
    """
    stream = StreamingRecognizer(LiteFile(file))
    counts = []

    def last_logits(clip: np.ndarray) -> np.ndarray:
        stream.reset()
        rows = stream.logits(clip)
        counts.append(len(rows))
        return rows[-1]

    logits, seconds = _timed(last_logits, clips)
    chunk = stream.description.chunk_samples / stream.description.sample_rate
    of, counted = f"{1e3 * chunk:g} ms chunk", dict(operators(file.read_bytes()))
    stream.reset()
    return Reading(np.array(logits), 1e3 * seconds / counts[0], of, counted, stream.logits(joined))


def read_micro(folder: Path, features: np.ndarray, joined: np.ndarray, encoder: Encoder) -> Reading:
    """A step model for microcontrollers, in TFLite Micro's interpreter, else in LiteRT's.

    Args:
        features: (clips, frames, features) float32; a microcontroller computes them itself.
        joined: (frames, features) float32, of clips end to end, which it then hears as one stream.
    """
    from export.micro import MicroFile

    model = (folder / "model.tflite").read_bytes()
    lite = LiteFile(folder / "model.tflite")
    try:
        file = MicroFile(model)
    except ModuleNotFoundError:
        file = lite

    def all_logits(clip: np.ndarray) -> list[np.ndarray]:
        return run_steps(file, clip, lite.initial_states(), encoder.subsampling)

    logits, seconds = _timed(lambda clip: all_logits(clip)[-1], features)
    counted, stream = dict(operators(model)), np.array(all_logits(joined))
    return Reading(np.array(logits), 1e3 * seconds / encoder.steps, "step here", counted, stream)


def run_steps(file: LiteFile, features: np.ndarray, states: list[np.ndarray], size: int) -> list[np.ndarray]:
    """The logits (labels,) float32 after each step of an int8 step model, in LiteRT or in export.micro.MicroFile.

    Args:
        features: (frames, features) float32.
        states: before the first step.
        size: frames to a step.
    """
    (scale, zero), (out_scale, out_zero) = file.quantization
    quantized = np.clip(np.round(features / scale) + zero, -128, 127).astype(np.int8)
    rows = []
    for start in range(0, len(quantized) - size + 1, size):
        logits, *states = file.run(quantized[None, start : start + size], *states)
        rows.append((logits[0].astype(np.float32) - out_zero) * out_scale)
    return rows


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
