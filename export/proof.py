"""What an artefact said, held against what its model said: the table, the report, and whether it passes."""

from dataclasses import asdict, dataclass, field

import numpy as np

from export.decision import decide
from export.material import Facts, Subject
from export.reference import softmax
from export.verify import Reading


@dataclass(frozen=True)
class Proof:
    """How an artefact compares with the model it came from."""

    artefact: str
    file: str
    status: str
    """"proven", "failed" or "not made"."""
    reason: str = ""
    """Of what isn't proven."""
    bytes: int = 0
    clips: int = 0
    largest_difference: float | None = 0.0
    """Of the logits; None if they aren't finite."""
    equal_decisions: int = 0
    correct: int = 0
    accuracy: float = 0.0
    accuracy_interval: tuple[float, float] = (0.0, 0.0)
    """Wilson's, 95 %."""
    latency_ms: float = 0.0
    """Median on one thread, of `latency_of`."""
    latency_of: str = ""
    operators: dict[str, int] = field(default_factory=dict)
    correct_with_thresholds: int | None = None
    """Where the file has thresholds: as Recognizer decides. All above is of the most probable label."""
    accuracy_with_thresholds: float | None = None
    interval_with_thresholds: tuple[float, float] | None = None


def judge(name: str, file: str, reading: Reading, subject: Subject, number_format: str, size: int) -> Proof:
    """Compares a reading with the trained model; the tolerances are those of the run's config, section export."""
    facts, found, expected = subject.facts, reading.logits, subject.logits
    difference = float(np.abs(found - expected).max())
    guesses, decisions = found.argmax(axis=1), expected.argmax(axis=1)
    correct, clips = int((guesses == subject.truth).sum()), len(subject.truth)
    has_thresholds = file.endswith(".tflite") and bool(facts.thresholds)
    reason = _fault(difference, facts.correct - correct, clips, number_format, facts.config["export"])
    return Proof(
        name,
        file,
        "failed" if reason else "proven",
        reason,
        size,
        clips,
        difference if np.isfinite(difference) else None,
        int((guesses == decisions).sum()),
        correct,
        correct / clips,
        _interval(correct, clips),
        reading.latency_ms,
        reading.latency_of,
        reading.operators,
        **(_with_thresholds(found, subject) if has_thresholds and np.isfinite(difference) else {}),
    )


def _with_thresholds(logits: np.ndarray, subject: Subject) -> dict:
    """The figures of Proof that are of a file's thresholds."""
    decisions = decide(softmax(logits), subject.facts.labels, subject.facts.thresholds)
    correct, clips = int((decisions == subject.truth).sum()), len(subject.truth)
    return {
        "correct_with_thresholds": correct,
        "accuracy_with_thresholds": correct / clips,
        "interval_with_thresholds": _interval(correct, clips),
    }


def _interval(correct: int, clips: int) -> tuple[float, float]:
    """Wilson's, 95 %."""
    from scipy.stats import binomtest  # a second; a process that makes an artefact does without

    interval = binomtest(correct, clips).proportion_ci(method="wilson")
    return interval.low, interval.high


def _fault(difference: float, lost: int, clips: int, number_format: str, settings: dict) -> str:
    """What is wrong with an artefact; empty if nothing is."""
    if not np.isfinite(difference):
        return "its logits aren't finite"
    if number_format == "float32":
        tolerance = settings["logits_tolerance"]
        fits = difference <= tolerance
        return "" if fits else f"its logits differ by up to {difference:.2g} (export.logits_tolerance is {tolerance:g})"
    points = settings["accuracy_loss"][number_format]
    if lost <= max(1, points / 100 * clips):  # on a few clips, one is more than the points allow
        return ""
    return (
        f"it gets {lost} of {clips} clips wrong that its model gets right, {100 * lost / clips:.2f} points "
        f"(export.accuracy_loss.{number_format} is {points:g})"
    )


def report(facts: Facts, proofs: list[Proof]) -> dict:
    """The content of export_report.json."""
    model = {"parameters": facts.parameters, "multiply_adds": facts.multiply_adds, "correct": facts.correct}
    if facts.correct_with_thresholds is not None:
        model["correct_with_thresholds"] = facts.correct_with_thresholds
    return {
        "run": facts.run,
        "split": facts.split,
        "shards": facts.shards,
        "clips": facts.clips,
        "model": model,
        "artefacts": list(map(asdict, proofs)),
    }
