"""What is reported of the probabilities: one rule for the device and for all figures. NumPy alone, no TensorFlow."""

from collections.abc import Mapping

import numpy as np

from data_pipeline.labels import UNKNOWN


def decide(probabilities: np.ndarray, labels: tuple[str, ...], thresholds: Mapping[str, float]) -> np.ndarray:
    """The most probable label, or `_unknown_` where that is less probable than its threshold.

    Args:
        probabilities: (..., labels) float32.
        thresholds: by label; labels that are missing have none. Of no effect without a label `_unknown_`.

    Returns: (...) index of the label.
    """
    best = probabilities.argmax(axis=-1)
    if UNKNOWN not in labels:
        return best
    least = np.array([thresholds.get(label, 0.0) for label in labels])
    return np.where(probabilities.max(axis=-1) < least[best], labels.index(UNKNOWN), best)
