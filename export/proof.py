"""What an artefact said, held against what its model said: the table, the report, and whether it passes."""

from dataclasses import asdict, dataclass, field

import numpy as np

from export.material import Facts, Subject, count_right, decisions
from export.reference import softmax
from export.verify import Reading
from speech_gru.decision import decide

OTHER_DECISIONS = 10
"""A smaller format may decide otherwise than its model on so many times the clips that it may get wrong on balance: of
those of which the model wasn't sure, it gets some right in turn. A model that got 77 % right lost nothing in
int16x8 and decided 11 of 2,282 clips otherwise, as many as five times would have allowed."""
OTHER_STEPS = 5
"""Percent of a stream's steps that it may: many lie between words, where the model isn't sure of anything."""


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
    """Of the clips; with a CTC head, of the words that the model hears in them (`decisions`)."""
    decisions: int = 0
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
    stream: dict | None = None
    """Of what streams, heard over several clips end to end: steps, largest_difference, equal_decisions."""
    sha256: str = ""


def judge(name: str, file: str, reading: Reading, subject: Subject, number_format: str) -> Proof:
    """Compares a reading with the trained model; the tolerances are those of the run's config, section export.

    Returns: the proof, without the file's size and digest.
    """
    facts, found = subject.facts, reading.logits
    about = subject.material.description
    decided, expected = (decisions(logits, about) for logits in (found, subject.logits))
    equal, compared = count_right(decided, expected)
    unit = "words" if about.head == "ctc" else "clips"
    clips = _Comparison(compared, equal, float(np.abs(found - subject.logits).max()), unit)
    correct, count = count_right(decided, subject.truth)
    stream = None if reading.stream_logits is None else _compare(reading.stream_logits, subject.stream_logits)
    settings = facts.config["export"]
    faults = [
        _fault(clips, number_format, settings),
        _loss(facts.correct - correct, count, unit, number_format, settings),
        stream and _stream_fault(stream, number_format, settings),
    ]
    reason = next(filter(None, faults), "")
    with_thresholds = file.endswith(".tflite") and facts.thresholds and np.isfinite(clips.difference)
    return Proof(
        artefact=name,
        file=file,
        status="failed" if reason else "proven",
        reason=reason,
        clips=count,
        largest_difference=_finite(clips.difference),
        equal_decisions=clips.equal,
        decisions=clips.count,
        correct=correct,
        accuracy=correct / count,
        accuracy_interval=_interval(correct, count),
        latency_ms=reading.latency_ms,
        latency_of=reading.latency_of,
        operators=reading.operators,
        stream=stream and _figures_of(stream),
        **(_with_thresholds(found, subject) if with_thresholds else {}),
    )


@dataclass(frozen=True)
class _Comparison:
    """Of an artefact's logits with the model's."""

    count: int
    """Rows."""
    equal: int
    """Rows with the same decision."""
    difference: float
    """Largest of a logit; may be infinite or NaN."""
    what: str = "clips"


def _finite(difference: float) -> float | None:
    return difference if np.isfinite(difference) else None


def _figures_of(stream: _Comparison) -> dict:
    """As in Proof."""
    difference = _finite(stream.difference)
    return {"steps": stream.count, "equal_decisions": stream.equal, "largest_difference": difference}


def _compare(found: np.ndarray, expected: np.ndarray) -> _Comparison:
    """Logits (rows, labels), of clips or of a stream's steps."""
    equal = int((found.argmax(axis=1) == expected.argmax(axis=1)).sum())
    return _Comparison(len(expected), equal, float(np.abs(found - expected).max()))


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


def _fault(clips: _Comparison, number_format: str, settings: dict) -> str:
    """What is wrong with an artefact's answers to clips; empty if nothing is."""
    fault = _logits_fault(clips, number_format, settings)
    if fault or number_format == "float32":
        return fault
    points = settings["accuracy_loss"][number_format]
    other, allowed = clips.count - clips.equal, _allowed(OTHER_DECISIONS * points, clips.count)
    if other <= allowed:
        return ""
    return (
        f"it decides {other} of {clips.count} {clips.what} otherwise than its model; {OTHER_DECISIONS} times "
        f"export.accuracy_loss.{number_format} allow {allowed}"
    )


def _stream_fault(steps: _Comparison, number_format: str, settings: dict) -> str:
    """What is wrong with an artefact's answers at the steps of a stream; empty if nothing is."""
    if fault := _logits_fault(steps, number_format, settings):
        return fault
    other, allowed = steps.count - steps.equal, _allowed(OTHER_STEPS, steps.count)
    if other <= allowed:
        return ""
    return (
        f"it decides {other} of {steps.count} steps of a stream over several clips otherwise than its model; "
        f"{OTHER_STEPS} % allow {allowed}"
    )


def _logits_fault(compared: _Comparison, number_format: str, settings: dict) -> str:
    if not np.isfinite(compared.difference):
        return "its logits aren't finite"
    tolerance = settings["logits_tolerance"]
    if number_format != "float32" or compared.difference <= tolerance:
        return ""
    return f"its logits differ by up to {compared.difference:.2g} (export.logits_tolerance is {tolerance:g})"


def _loss(lost: int, count: int, unit: str, number_format: str, settings: dict) -> str:
    """What is wrong with an artefact's accuracy, `lost` clips or words below its model's; empty if nothing is."""
    if number_format == "float32" or lost <= _allowed(settings["accuracy_loss"][number_format], count):
        return ""
    return (
        f"it gets {lost} fewer of {count} {unit} right than its model, {100 * lost / count:.2f} points "
        f"(export.accuracy_loss.{number_format} is {settings['accuracy_loss'][number_format]:g})"
    )


def _allowed(points: float, count: int) -> int:
    """So many of `count`; of a few, one is more than the points would allow."""
    return max(1, int(points * count / 100 + 1e-9))


def report(facts: Facts, proofs: list[Proof]) -> dict:
    """The content of export_report.json."""
    model = {"parameters": facts.parameters, "multiply_adds": facts.multiply_adds, "correct": facts.correct}
    if facts.correct_with_thresholds is not None:
        model["correct_with_thresholds"] = facts.correct_with_thresholds
    return {
        "run": facts.run,
        "weights": facts.weights,
        "split": facts.split,
        "shards": facts.shards,
        "clips": facts.clips,
        "model": model,
        "artefacts": list(map(asdict, proofs)),
    }
