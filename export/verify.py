"""Every artefact is loaded back with the runtime that its users have, and run on real clips: the proof.

Each function here takes an artefact and clips, (clips, samples) float32, and gives a Reading.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from export.errors import NotMadeError
from export.material import Material
from export.phrases import stack_rows
from export.tflite import operators
from speech_gru.lite_file import LiteFile, steps_of
from speech_gru.phrase_recognizer import PhraseRecognizer, log_softmax
from speech_gru.recognizer import Recognizer
from speech_gru.streaming import StreamingRecognizer

_BATCH, _PHRASE_BATCH = 256, 16


@dataclass(frozen=True)
class Reading:
    """What an artefact said."""

    logits: np.ndarray
    """(clips, labels) float32; a stream's are those at the clip's end. With a CTC head log-probabilities (clips, steps,
    labels), zero behind each clip's steps."""
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


def read_phrase_file(file: Path, clips: np.ndarray, samples: np.ndarray, joined: np.ndarray | None = None) -> Reading:
    """A .tflite file with a CTC head, for clips or streams, in `PhraseRecognizer`.

    Args:
        samples: (clips,) int32, each clip's own.
        joined: as for read_stream_file; None for clips.
    """
    recognizer = PhraseRecognizer(file)
    about = recognizer.description
    rows, seconds = _timed(recognizer.log_probs, [clip[:count] for clip, count in zip(clips, samples, strict=True)])
    counted, stream = dict(operators(file.read_bytes())), None if joined is None else recognizer.log_probs(joined)
    if about.kind == "clip":
        return Reading(stack_rows(rows), 1e3 * seconds, f"{about.clip_samples / about.sample_rate:g} s window", counted)
    of = f"{1e3 * about.step_samples / about.sample_rate:g} ms chunk"
    return Reading(stack_rows(rows), 1e3 * seconds / np.median(list(map(len, rows))), of, counted, stream)


def read_micro(folder: Path, material: Material) -> Reading:
    """A step model for microcontrollers, in TFLite Micro's interpreter, else in LiteRT's.

    It is given features, which a microcontroller computes itself.
    """
    from export.micro import MicroFile

    model, encoder = (folder / "model.tflite").read_bytes(), material.encoder
    lite, features = LiteFile(folder / "model.tflite"), np.load(material.features, mmap_mode="r")
    try:
        file = MicroFile(model)
    except ModuleNotFoundError:
        file = lite

    def all_logits(clip: np.ndarray) -> np.ndarray:
        return np.array(run_steps(file, clip, lite.initial_states(), encoder.subsampling))

    rows, seconds = _timed(all_logits, features)
    counted, stream = dict(operators(model)), all_logits(material.joined_features)
    if material.samples is None:
        logits = np.array([row[-1] for row in rows])
    else:
        counts = [steps_of(count, material.description) for count in material.samples]
        logits, stream = (
            stack_rows([log_softmax(row[:n]) for row, n in zip(rows, counts, strict=True)]),
            log_softmax(stream),
        )
    return Reading(logits, 1e3 * seconds / encoder.steps, "step here", counted, stream)


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


def read_saved_model(folder: Path, material: Material) -> Reading:
    """A SavedModel as it is served, in batches; its latency is that of a batch of one."""
    import tensorflow as tf

    serve = tf.saved_model.load(str(folder)).signatures["logits"]
    return _in_batches(
        lambda inputs: serve(**{name: tf.constant(item) for name, item in inputs.items()})["logits"].numpy(), material
    )


def read_onnx(file: Path, material: Material) -> Reading:
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
    return _in_batches(lambda inputs: session.run(["logits"], inputs)[0], material)


def _in_batches(run: Callable[[dict[str, np.ndarray]], np.ndarray], material: Material) -> Reading:
    """`run`: named inputs, clips first -> logits."""
    clips = np.load(material.clips, mmap_mode="r")

    def inputs(start: int, count: int) -> dict[str, np.ndarray]:
        chosen = slice(start, start + count)
        given = {"audio": np.ascontiguousarray(clips[chosen])}
        return given if material.samples is None else given | {"samples": material.samples[chosen]}

    size = _BATCH if material.samples is None else _PHRASE_BATCH
    logits = np.concatenate([run(inputs(start, size)) for start in range(0, len(clips), size)])
    _, seconds = _timed(run, [inputs(place, 1) for place in range(min(50, len(clips)))])
    if material.samples is not None:
        counts = [steps_of(count, material.description) for count in material.samples]
        logits = stack_rows([log_softmax(row[:n]) for row, n in zip(logits, counts, strict=True)])
    return Reading(logits, 1e3 * seconds, "clip" if material.samples is None else "window")


def _timed(function: Callable, items: Iterable) -> tuple[list, float]:
    """What `function` gives for each, and the median of its seconds."""
    results, times = [], []
    for item in items:
        start = time.perf_counter()
        results.append(function(item))
        times.append(time.perf_counter() - start)
    return results, median(times)
