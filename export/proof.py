"""What an artefact said, held against what its model said: the table, the report, and whether it passes."""

from dataclasses import asdict, dataclass, field

import numpy as np

from export.material import Facts, Subject
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


def judge(name: str, file: str, reading: Reading, subject: Subject, number_format: str, size: int) -> Proof:
    """Compares a reading with the trained model; the tolerances are those of the run's config, section export."""
    from scipy.stats import binomtest  # a second; a process that makes an artefact does without

    found, expected, truth = reading.logits, subject.logits, subject.truth
    difference = float(np.abs(found - expected).max())
    guesses, decisions = found.argmax(axis=1), expected.argmax(axis=1)
    correct, clips = int((guesses == truth).sum()), len(truth)
    interval = binomtest(correct, clips).proportion_ci(method="wilson")
    reason = _fault(difference, subject.facts.correct - correct, clips, number_format, subject.facts.config["export"])
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
        (interval.low, interval.high),
        reading.latency_ms,
        reading.latency_of,
        reading.operators,
    )


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
    clips = sum(facts.counts[facts.split].values())
    model = {"parameters": facts.parameters, "multiply_adds": facts.multiply_adds, "correct": facts.correct}
    return {
        "run": facts.run,
        "split": facts.split,
        "clips": clips,
        "model": model,
        "artefacts": list(map(asdict, proofs)),
    }
