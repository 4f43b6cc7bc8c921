"""Recordings of speech that holds none of the words: what training makes `_unknown_` of, see FreshUnknown."""

import hashlib
import math
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from data_pipeline.audio import AudioError, to_pcm16
from data_pipeline.corpus import read_csv
from data_pipeline.errors import UserError
from data_pipeline.files import printable
from data_pipeline.noise import find_recordings, measure_recordings, read_stretch
from data_pipeline.settings import CorpusSettings, normalize_text

SPEECH_MINUTES = 30
"""So much other speech is kept in memory for augmentation."""
_STRETCH_SECONDS, _BLOCK_SECONDS, _AUDIBLE_DB, _LEVEL = 60, 0.1, -30.0, 0.05


def find_other_speech(settings: CorpusSettings, labels: Iterable[str], notes: list[str]) -> dict[Path, float]:
    """The recordings of `settings.other_speech`, with their seconds. Only headers are read.

    Of a CSV those of the speakers who train, and in whose text none of the labels is said. What can't be used gets a
    note.

    Raises:
        UserError: a source doesn't exist or has nothing of use, or a CSV can't be read.
    """
    found = {}
    for source in settings.other_speech:
        paths = list(_recordings(source, settings, [label for label in labels if not label.startswith("_")], notes))
        found |= (usable := dict(measure_recordings(paths, "other_speech", notes)))
        if not usable:
            why = f" ({notes[-1]})" if notes else ""
            raise UserError(
                f"corpus.other_speech: no recording of {source} can be used{why}; expected speech without the words, "
                "of a CSV that of speakers who train"
            )
    return found


def _recordings(source: Path, settings: CorpusSettings, words: list[str], notes: list[str]) -> Iterator[Path]:
    if source.suffix.lower() != ".csv":
        yield from find_recordings(source, "other_speech", notes)
        return
    if not source.is_file():
        raise UserError(f"corpus.other_speech: {source} doesn't exist; expected a CSV (path,text,speaker)")
    clips, rejected, _, _ = read_csv(source, settings)
    notes += [f"other_speech: {source}: {path} left out: {reason}" for path, reason in rejected]
    measured = settings.measured_speakers
    for clip in clips:
        if clip.split == "train" and clip.speaker not in measured and not says_one_of(clip.text, words):
            yield source.parent / clip.path


def says_one_of(text: str, words: Iterable[str]) -> bool:
    """Whether one of the words, or of the phrases among them, is said in a text, in whatever case and punctuation."""
    said = f" {_spoken(text)} "
    return any(f" {_spoken(word)} " in said for word in words)


def _spoken(text: str) -> str:
    """Letters, marks, digits and apostrophes within words; a space for anything else."""
    kept = (letter if unicodedata.category(letter)[0] in "LMN" or letter in "'’" else " " for letter in text.casefold())
    return normalize_text(" ".join(word.strip("'’") for word in "".join(kept).split()))


def collect_other_speech(recordings: dict[Path, float], sample_rate: int, notes: list[str]) -> np.ndarray:
    """What is said in the recordings, one after the other, up to SPEECH_MINUTES: (samples,) int16.

    Taken by the minute, drawn by hash; pauses are cut out, and all has one level. What can't be read gets a note.

    Raises:
        UserError: there are recordings, but nothing is said in them.
    """
    stretches = [
        (path, start)
        for path, seconds in recordings.items()
        for start in range(0, math.ceil(seconds), _STRETCH_SECONDS)
    ]
    stretches.sort(key=lambda stretch: hashlib.sha1(f"{stretch[0].name} {stretch[1]}".encode()).digest())
    parts, wanted, used = [np.zeros(0, np.int16)], round(SPEECH_MINUTES * 60 * sample_rate), set()
    for path, start in stretches:
        if wanted <= 0:
            break
        try:
            samples = read_stretch(path, start, _STRETCH_SECONDS, sample_rate)
        except AudioError as error:
            notes.append(f"other_speech: {printable(str(path))} left out: {error}")
            continue
        parts.append(_without_pauses(samples, sample_rate)[:wanted])
        wanted -= len(parts[-1])
        used |= {path} if len(parts[-1]) else set()
    speech = np.concatenate(parts)
    if recordings:
        if not len(speech):
            raise UserError(f"corpus.other_speech: nothing is said in the {len(recordings)} recordings")
        minutes = len(speech) / sample_rate / 60
        notes.append(f"other_speech: {minutes:.1f} min without pauses, of {len(used)} recordings")
    return speech


def _without_pauses(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """(samples,) float32 -> int16 at a root mean square of 0.05, without blocks far below all but the loudest."""
    block = round(_BLOCK_SECONDS * sample_rate)
    blocks = samples[: len(samples) // block * block].reshape(-1, block).astype(np.float64)
    power = np.mean(np.square(blocks), axis=1)
    usual = np.percentile(power, 90) if len(power) else 0.0  # a click doesn't count
    loud = blocks[power > max(usual * 10 ** (_AUDIBLE_DB / 10), 1e-10)].ravel()
    return to_pcm16(loud * (_LEVEL / np.sqrt(np.mean(np.square(loud)))) if len(loud) else loud)
