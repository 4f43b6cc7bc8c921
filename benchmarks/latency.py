"""Latency and size of exported GRUs beside what one gets without speech_gru: one thread, random weights.

    python benchmarks/latency.py

Clips: 2 x BiGRU-64 over 49 frames and 2 x BiGRU-128 over 98, features to logits, as export writes them, beside the
stock conversion (`TFLiteConverter.from_keras_model` of the same Keras model with its batch fixed at 1: with an open
batch it needs operators that LiteRT doesn't have), and beside the bare matrix products of the model in NumPy. Stream:
2 x GRU-128 on raw audio, 20 ms at a time, through StreamingRecognizer. Times are medians; all are measured in turn,
round after round, so that a busy machine burdens them alike. Of the figures that have a bar it is said whether they
meet it; the exit code is 1 if one doesn't.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from threadpoolctl import threadpool_limits

from data_pipeline.front_end import FrontEnd
from export.encoder import Encoder, read_encoder
from export.flatbuffer import FLOAT, ModelWriter
from export.front_end import convert_front_end, front_end_state
from export.lite_graph import LiteGraph
from export.number_format import FORMATS
from export.reference import Ranges, classify
from export.tflite import write_stream
from speech_gru.artefact import Artefact
from speech_gru.config import ModelSettings
from speech_gru.model import build_model
from speech_gru.quiet import quiet_start
from speech_gru.streaming import StreamingRecognizer

FEATURES, LABELS, RATE = 40, 12, 16000
CLIPS = ((64, 49, 25), (128, 98, 15))
"""Units, frames, and how many times as fast as the stock conversion it must be."""


@dataclass(frozen=True)
class Bar:
    """A figure, and what it must be."""

    figure: str
    value: float
    limit: float
    at_least: bool = False
    """Else at most."""

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        wanted = f"at {'least' if self.at_least else 'most'} {self.limit:g}"
        return f"{self.figure:32} {self.value:<7.3g} {'met' if self.met else 'MISSED'}: {wanted}"


def main() -> int:
    """Prints figures and bars; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, help="so many times each is measured")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    arguments = parser.parse_args()
    with threadpool_limits(1):  # of NumPy; LiteRT is told by itself
        figures = [measure_clip(units, frames, bar, arguments.rounds) for units, frames, bar in CLIPS]
        figures.append(measure_stream(arguments.rounds))
    bars = [bar for item in figures for bar in item["bars"]]
    if arguments.json:
        print(json.dumps(figures, indent=2, default=lambda bar: asdict(bar) | {"met": bar.met}))
    else:
        print_figures(figures)
        print(f"{sum(bar.met for bar in bars)} of {len(bars)} bars are met")
    return 0 if all(bar.met for bar in bars) else 1


def print_figures(figures: list[dict]) -> None:
    """Of each model: its name, figures without a bar, those with one."""
    for item in figures:
        print(item["model"])
        for key, value in item.items():
            if key not in ("model", "bars"):
                print(f"  {key:32} {value}")
        for bar in item["bars"]:
            print(f"  {bar}")


def measure_clip(units: int, frames: int, bar: int, rounds: int) -> dict:
    """A clip model's times in milliseconds and its files' sizes; `bar` is for the stock conversion's time over ours."""
    model = build_model(ModelSettings(units=units), frames, FEATURES, LABELS)
    encoder = read_encoder(model, ModelSettings(units=units), frames)
    features = np.random.default_rng(0).normal(size=(256, frames, FEATURES)).astype(np.float32)
    ranges = Ranges()
    classify(features, encoder, ranges)
    files = {name: write_features_file(encoder, name, ranges) for name in FORMATS}
    contestants = {
        **{name: lite_runner(content, features[:1]) for name, content in files.items()},
        "stock": lite_runner(convert_stock(model, frames), features[:1]),
        "products": product_runner(encoder, features[0]),
    }
    times = medians(contestants, rounds)
    sizes = {name: len(content) for name, content in files.items()}
    return {
        "model": f"2 x BiGRU-{units} over {frames} frames, features to logits",
        **{f"ms, {name}": round(value, 3) for name, value in times.items()},
        "largest difference to Keras": f"{difference(files['float32'], model, features):.1e}",
        "bars": [
            Bar("stock / float32", times["stock"] / times["float32"], bar, at_least=True),
            Bar("float32 / NumPy's bare products", times["float32"] / times["products"], 3),
            Bar("float32 file / its weights", sizes["float32"] / (4 * encoder.parameters), 1.25),
            Bar("dynamic_range / float32 file", sizes["dynamic_range"] / sizes["float32"], 0.35),
            Bar("int8 / float32 file", sizes["int8"] / sizes["float32"], 0.35),
        ],
    }


def write_features_file(encoder: Encoder, name: str, ranges: Ranges) -> bytes:
    """The encoder and head without front end."""
    writer = ModelWriter()
    lite = LiteGraph(writer.main, encoder, FORMATS[name], ranges)
    features = writer.main.input("features", (encoder.frames, encoder.features))
    inputs, _ = lite.convolved(lite.cast(features, lite.products_form("features")))
    writer.main.output("logits", lite.cast(lite.head(lite.pool(*lite.recurrent(inputs))), FLOAT))
    return writer.finish({})


def convert_stock(model: keras.Model, frames: int) -> bytes:
    """What TensorFlow's converter makes of the Keras model."""
    features = keras.Input(batch_shape=(1, frames, FEATURES))
    with quiet_start(), contextlib.redirect_stdout(io.StringIO()):
        return tf.lite.TFLiteConverter.from_keras_model(keras.Model(features, model(features))).convert()


def lite_runner(content: bytes, features: np.ndarray) -> Callable[[], None]:
    """Runs a model on one clip."""
    with quiet_start():
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    values = features.reshape(given["shape"])

    def run() -> None:
        interpreter.set_tensor(given["index"], values)
        interpreter.invoke()

    return run


def product_runner(encoder: Encoder, features: np.ndarray) -> Callable[[], None]:
    """All matrix products of a clip, and nothing else: the inputs of all steps at once, the states step by step."""
    units = encoder.layers[0][0].units
    hidden = np.zeros((len(features), 2 * units), np.float32)
    state = np.zeros((1, units), np.float32)

    def run() -> None:
        inputs = features
        for layer in encoder.layers:
            for gru in layer:
                inputs @ gru.kernel
                for _ in range(len(features)):
                    state @ gru.recurrent
            inputs = hidden
        hidden @ encoder.pooling.hidden
        hidden[:1] @ encoder.head

    return run


def medians(contestants: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Milliseconds of each."""
    times = {name: [] for name in contestants}
    for round_ in range(rounds + 3):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if round_ >= 3:  # the first ones warm up
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(values)) for name, values in times.items()}


def difference(content: bytes, model: keras.Model, features: np.ndarray) -> float:
    """The largest of a logit, over ten clips."""
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
    largest = 0.0
    for clip, expected in zip(features[:10], keras.ops.convert_to_numpy(model(features[:10])), strict=True):
        interpreter.set_tensor(given["index"], clip)
        interpreter.invoke()
        largest = max(largest, float(np.abs(interpreter.get_tensor(found["index"])[0] - expected).max()))
    return largest


def measure_stream(rounds: int) -> dict:
    """A streaming model's microseconds for 20 ms of audio, front end included."""
    settings = ModelSettings(units=128, bidirectional=False, pooling="last")
    front_end = FrontEnd(sample_rate=RATE, kind="log_mel", window_ms=32, hop_ms=20, mel_bins=FEATURES)
    audio = np.random.default_rng(0).normal(scale=0.1, size=(8, RATE)).astype(np.float32)
    front_end.adapt(audio)
    frames = front_end.frame_count(RATE)
    model = build_model(settings, frames, FEATURES, LABELS)
    encoder, state, ranges = read_encoder(model, settings, frames), front_end_state(front_end), Ranges()
    classify(front_end(audio).numpy(), encoder, ranges)
    overlap, chunk = front_end.fft_size - front_end.hop, front_end.hop
    labels = tuple(map(str, range(LABELS)))
    about = Artefact(labels, RATE, RATE, kind="stream", chunk_samples=chunk, overlap_samples=overlap)
    graph = convert_front_end(state, overlap + chunk)
    figures = {"model": "2 x GRU-128 in a stream, raw audio to logits, 20 ms at a time"}
    with tempfile.TemporaryDirectory() as folder:
        runners = {}
        for name in ("float32", "dynamic_range", "int8", "int16x8"):
            file = Path(folder) / f"{name}.tflite"
            file.write_bytes(write_stream(encoder, graph, FORMATS[name], ranges, about))
            stream = StreamingRecognizer(file)
            stream.logits(audio[0])
            runners[name] = lambda stream=stream: stream.logits(audio[1, :chunk])
        times = medians(runners, 20 * rounds)
    micros = {name: 1e3 * value for name, value in times.items()}
    figures |= {f"µs, {name}": round(value, 1) for name, value in micros.items() if name != "float32"}
    return figures | {"bars": [Bar("µs, float32", micros["float32"], 150)]}


if __name__ == "__main__":
    sys.exit(main())
