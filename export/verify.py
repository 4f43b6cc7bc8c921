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


def compare(path: Path, found: np.ndarray, expected: np.ndarray, tolerance: float) -> Agreement:
    """Compares what the artefact at `path` said with what its model said, both (clips, labels) probabilities.

    Raises:
        ExportError: a probability differs by more than `tolerance`. (Decisions may then still differ in a tie.)
    """
    difference = float(np.abs(expected - found).max())
    equal = int((expected.argmax(axis=1) == found.argmax(axis=1)).sum())
    if not difference <= tolerance:
        raise ExportError(
            f"{path.name} differs from its model by up to {difference:.2g} in the probabilities (tolerance "
            f"{tolerance:g}) and in {len(expected) - equal} of {len(expected)} decisions; it is not kept"
        )
    files = path.rglob("*") if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return Agreement(path.name, len(expected), difference, equal, size)
