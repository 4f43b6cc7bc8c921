"""An artefact is good only if, loaded back, it says on real clips what the model says."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from speech_gru.recognizer import Recognizer

Predict = Callable[[np.ndarray], np.ndarray]
"""Audio (batch, samples) float32 -> probabilities (batch, labels) float32."""


class ExportError(Exception):
    """An artefact couldn't be made, or differs from its model."""


@dataclass(frozen=True)
class Agreement:
    """How an artefact compares with the model it came from."""

    artefact: str
    clips: int
    largest_difference: float
    """Of the probabilities."""
    equal_decisions: int
    bytes: int


def saved_model_predictor(folder: Path) -> Predict:
    """A SavedModel as it is served."""
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    return lambda audio: serve(audio=tf.constant(audio))["probabilities"].numpy()


def tflite_predictor(path: Path) -> Predict:
    """A .tflite file as a device runs it, clip by clip."""
    recognizer = Recognizer(path)
    return lambda audio: np.stack([recognizer.probabilities(clip) for clip in audio])


def compare(path: Path, predict: Predict, reference: Predict, audio: np.ndarray, tolerance: float) -> Agreement:
    """Runs both on `audio` (clips, samples).

    Raises:
        ExportError: a probability differs by more than `tolerance`, or a decision.
    """
    expected, found = reference(audio), predict(audio)
    difference = float(np.abs(expected - found).max())
    equal = int((expected.argmax(axis=1) == found.argmax(axis=1)).sum())
    if not difference <= tolerance or equal < len(audio):
        raise ExportError(
            f"{path} differs from its model: by up to {difference:.2g} in the probabilities (tolerance {tolerance:g}), "
            f"and in {len(audio) - equal} of {len(audio)} decisions; it must not be shipped"
        )
    size = (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
    )
    return Agreement(path.name, len(audio), difference, equal, size)
