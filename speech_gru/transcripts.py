"""How good a phrase recogniser is: what was said and what was recognised -> error rates, the worst phrases."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.files import write_text, written_aside
from data_pipeline.phrases import PhraseSource, padded_batches
from speech_gru.error_rates import count_errors, error_rate
from speech_gru.utterance import UtteranceDecoder

PredictPhrases = Callable[[np.ndarray, np.ndarray], list[np.ndarray]]
"""Audio (batch, samples) int16 with zeros behind the shorter phrases, and each one's own samples (batch,) int32 -> each
one's log-probabilities (steps, labels)."""
WORST_PHRASES = 50


@dataclass(frozen=True)
class Transcripts:
    """What a recogniser made of the phrases of a split."""

    kind: str
    """Of tokens; of data_pipeline.tokens.KINDS."""
    origins: Sequence[str]
    """Where each phrase is from: a path, or those of its words."""
    truth: Sequence[str]
    guesses: Sequence[str]

    @classmethod
    def decoded(
        cls,
        labels: tuple[str, ...],
        kind: str,
        origins: Sequence[str],
        truth: Sequence[str],
        log_probs: Sequence[np.ndarray],
        decoder: UtteranceDecoder | None = None,
    ) -> Transcripts:
        """What the device would say, each phrase being an utterance.

        Args:
            log_probs: of each phrase, (steps, labels).
            decoder: None: greedy.
        """
        decoder = decoder or UtteranceDecoder(labels, kind)
        return cls(kind, origins, truth, [decoder.text(rows) for rows in log_probs])

    @property
    def accuracy(self) -> float:
        """Word accuracy: 1 - the word error rate, and 0 at least."""
        return max(0.0, 1 - self.word_error_rate)

    @property
    def word_error_rate(self) -> float:
        """Words replaced, left out and put in, over the words said; of phonemes, if the tokens are such."""
        return error_rate(count_errors(self.truth, self.guesses, "words"))

    @property
    def character_error_rate(self) -> float:
        """The same of characters."""
        return error_rate(count_errors(self.truth, self.guesses, "characters"))

    @property
    def exact(self) -> float:
        """The share of phrases without any error."""
        return float(np.mean([truth == guess for truth, guess in zip(self.truth, self.guesses, strict=True)]))

    def worst(self) -> list[int]:
        """The numbers of the phrases with an error, up to 50, those with the most wrong words first."""
        errors = [
            sum(counts[name] for name in ("substitutions", "deletions", "insertions"))
            for counts in (
                count_errors([truth], [guess], "words") for truth, guess in zip(self.truth, self.guesses, strict=True)
            )
        ]
        order = np.argsort(-np.array(errors), kind="stable")
        return [int(number) for number in order if errors[number]][:WORST_PHRASES]


def transcribe(
    source: PhraseSource,
    labels: tuple[str, ...],
    kind: str,
    predict: PredictPhrases,
    at_least: int,
    *,
    batch_size: int = 32,
    decoder: UtteranceDecoder | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Transcripts:
    """Runs `predict` over all phrases of a source; the transcripts are in its order.

    Args:
        at_least: samples of a row of audio.
        decoder: None: greedy.
    """
    log_probs: list[np.ndarray | None] = [None] * len(source)
    origins, texts, done = [""] * len(source), [""] * len(source), 0
    for batch in padded_batches(source, batch_size, at_least):
        found = predict(batch.audio, batch.samples)
        for number, rows, text, origin in zip(batch.numbers, found, batch.texts, batch.origins, strict=True):
            log_probs[number], texts[number], origins[number] = rows, text, origin
        done += len(found)
        progress(done, len(source))
    return Transcripts.decoded(labels, kind, origins, texts, log_probs, decoder)


def measure_transcripts(transcripts: Transcripts) -> dict:
    """The figures of metrics.json.

    Keys: phrases, exact (the share without error), accuracy (of words), word_error_rate, character_error_rate, words
    and characters: {said, substitutions, deletions, insertions}.
    """
    truth, guesses = transcripts.truth, transcripts.guesses
    return {
        "phrases": len(truth),
        "exact": transcripts.exact,
        "accuracy": transcripts.accuracy,
        "word_error_rate": transcripts.word_error_rate,
        "character_error_rate": transcripts.character_error_rate,
        "words": count_errors(truth, guesses, "words"),
        "characters": count_errors(truth, guesses, "characters"),
    }


def write_transcripts(transcripts: Transcripts, folder: Path) -> dict:
    """Writes metrics.json, transcripts.csv and worst.csv into `folder`; returns the metrics of measure_transcripts."""
    metrics = measure_transcripts(transcripts)
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
    rows = list(zip(transcripts.origins, transcripts.truth, transcripts.guesses, strict=True))
    for name, numbers in (("transcripts.csv", range(len(rows))), ("worst.csv", transcripts.worst())):
        with written_aside(folder / name) as aside, aside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("path", "said", "recognised"))
            writer.writerows(rows[number] for number in numbers)
    return metrics
