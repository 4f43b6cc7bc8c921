"""How good a recogniser is: predictions -> accuracy with its interval, per-word figures, pictures, the worst clips."""

import csv
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from data_pipeline.dataset import evaluation_batches
from data_pipeline.errors import UserError
from data_pipeline.files import write_text, written_aside
from data_pipeline.labels import SILENCE, UNKNOWN
from speech_gru.decision import decide

Predict = Callable[[np.ndarray], np.ndarray]
"""Audio (batch, samples) float32 -> probabilities (batch, labels) float32."""
WORST_CLIPS = 50


@dataclass(frozen=True)
class Predictions:
    """What a recogniser said to each clip of a split."""

    labels: tuple[str, ...]
    paths: tuple[str, ...]
    """Empty where nobody asks for them."""
    truth: np.ndarray
    """(clips,) indices into `labels`."""
    probabilities: np.ndarray
    """(clips, labels) float32."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """By label, of the file that was measured; empty: it has none."""

    @property
    def guesses(self) -> np.ndarray:
        """(clips,) index of the most probable label."""
        return self.probabilities.argmax(axis=1)

    @property
    def decisions(self) -> np.ndarray:
        """(clips,) index of what is reported: the guess, or `_unknown_` where that stays below its threshold."""
        return decide(self.probabilities, self.labels, self.thresholds)

    @property
    def accuracy(self) -> float:
        """The share of right guesses."""
        return float((self.truth == self.guesses).mean())

    @property
    def confusions(self) -> np.ndarray:
        """Counts (labels, labels), truth by guess."""
        return confusion_matrix(self.truth, self.guesses, labels=range(len(self.labels)))


def predict_split(
    predict: Predict,
    labels: tuple[str, ...],
    shards: Path,
    split: str,
    clip_samples: int,
    *,
    batch_size: int = 256,
    thresholds: Mapping[str, float] | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Predictions:
    """Runs `predict` over a split.

    Args:
        thresholds: by label, of a file that has some.

    Raises:
        UserError: no such clips, or a clip whose label the recogniser doesn't know.
    """
    index = {label: number for number, label in enumerate(labels)}
    paths, truth, probabilities = [], [], []
    for batch in evaluation_batches(shards, split, clip_samples, batch_size).as_numpy_iterator():
        names = [label.decode() for label in batch["label"]]
        strangers = sorted(set(names) - set(labels))
        if strangers:
            raise UserError(f"the recogniser has no label {', '.join(strangers)}; it knows: {', '.join(labels)}")
        truth += [index[name] for name in names]
        paths += [path.decode() for path in batch["path"]]
        probabilities.append(predict(batch["audio"]))
        progress(len(paths), None)
    return Predictions(labels, tuple(paths), np.array(truth), np.concatenate(probabilities), thresholds or {})


def measure(predictions: Predictions) -> dict:
    """The figures of metrics.json.

    Keys: clips, correct, accuracy, accuracy_interval (Wilson's, 95 %), labels: {label: precision, recall, f1, clips},
    confusions: the most frequent [truth, guess, count] first, false_commands: the share of the clips without a command
    that are taken for one (None if there are none).

    All of them are of the most probable labels. Predictions with thresholds also have with_thresholds: correct,
    accuracy, accuracy_interval and false_commands of what is reported then.
    """
    truth, guesses, labels = predictions.truth, predictions.guesses, predictions.labels
    figures = precision_recall_fscore_support(truth, guesses, labels=range(len(labels)), zero_division=0)
    matrix = predictions.confusions
    pairs = [(labels[t], labels[g], int(matrix[t, g])) for t, g in zip(*np.nonzero(matrix), strict=True) if t != g]
    reported = {"with_thresholds": _score(predictions, predictions.decisions)} if predictions.thresholds else {}
    return {
        "clips": len(truth),
        **_score(predictions, guesses),
        "labels": {
            label: {"precision": float(p), "recall": float(r), "f1": float(f), "clips": int(n)}
            for label, p, r, f, n in zip(labels, *figures, strict=True)
        },
        "confusions": sorted(pairs, key=lambda pair: -pair[2]),
        **reported,
    }


def _score(predictions: Predictions, guesses: np.ndarray) -> dict:
    """How right these guesses, (clips,) indices into the labels, are: see `measure`."""
    truth, correct = predictions.truth, int((predictions.truth == guesses).sum())
    interval = binomtest(correct, len(truth)).proportion_ci(method="wilson")
    command = np.array([label not in (UNKNOWN, SILENCE) for label in predictions.labels])
    others = ~command[truth]
    return {
        "correct": correct,
        "accuracy": correct / len(truth),
        "accuracy_interval": [interval.low, interval.high],
        "false_commands": float(command[guesses[others]].mean()) if others.any() else None,
    }


def write_report(predictions: Predictions, folder: Path) -> dict:
    """Writes metrics.json, confusion.png and worst.csv into `folder`; returns the metrics (see `measure`).

    worst.csv lists the wrong clips that the recogniser was surest of: path, truth, guess, probability.
    """
    from matplotlib.image import imsave

    metrics = measure(predictions)
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
    with written_aside(folder / "confusion.png") as aside:
        imsave(aside, picture(confusion_figure(predictions.labels, predictions.confusions)), format="png")
    with written_aside(folder / "worst.csv") as aside, aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "truth", "guess", "probability"))
        writer.writerows(worst_clips(predictions))
    return metrics


def worst_clips(predictions: Predictions) -> list[tuple[str, str, str, float]]:
    """The clips of `worst_indices` as (path, truth, guess, the guess's probability)."""
    labels, truth, guesses = predictions.labels, predictions.truth, predictions.guesses
    return [
        (
            predictions.paths[i],
            labels[truth[i]],
            labels[guesses[i]],
            round(float(predictions.probabilities[i].max()), 4),
        )
        for i in worst_indices(predictions)
    ]


def worst_indices(predictions: Predictions) -> np.ndarray:
    """Which clips were recognised wrongly, up to 50, the surest mistakes first."""
    wrong = np.flatnonzero(predictions.guesses != predictions.truth)
    sureness = predictions.probabilities[wrong].max(axis=1)
    return wrong[np.argsort(-sureness, kind="stable")][:WORST_CLIPS]


def picture(figure) -> np.ndarray:
    """A Matplotlib figure's pixels: (height, width, 4) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():  # a letter that the font lacks is drawn as a box; the other files spell it
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def confusion_figure(labels: tuple[str, ...], matrix: np.ndarray):
    """A Matplotlib figure of counts (labels, labels), truth by guess."""
    from matplotlib.figure import Figure

    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    size = min(2.5 + 0.42 * len(labels), 40)  # inches; a picture of a thousand labels would fill the memory
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90, parse_math=False)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.set_xlabel("recognised")
    axes.set_ylabel("said")
    correct = int(np.trace(matrix))
    axes.set_title(f"{correct} of {matrix.sum()} clips right: {correct / max(matrix.sum(), 1):.1%}")
    for row, column in zip(*np.nonzero(matrix), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize=8)
    return figure
