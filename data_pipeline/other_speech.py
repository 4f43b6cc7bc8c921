"""Recordings of speech that holds none of the words: what training makes `_unknown_` of, see FreshUnknown."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.audio import AudioError, to_pcm16
from data_pipeline.corpus import read_csv
from data_pipeline.noise import find_recordings, read_stretch
from data_pipeline.settings import CorpusSettings

SPEECH_MINUTES = 30
"""So much other speech is kept in memory; of more, the beginning of each recording is taken."""
_BLOCK_SECONDS, _AUDIBLE_DB, _LEVEL = 0.1, -30.0, 0.05


def collect_other_speech(settings: CorpusSettings, notes: list[str]) -> np.ndarray:
    """What is said in the recordings of `settings.other_speech`, one after the other: (samples,) int16.

    Pauses are cut out, and all have one level. What can't be used gets a note.

    Raises:
        UserError: a source doesn't exist, or a CSV can't be read.
    """
    recordings = [path for source in settings.other_speech for path in _find(source, settings, notes)]
    limit = SPEECH_MINUTES * 60 / max(1, len(recordings))
    parts = [np.zeros(0, np.int16)]
    for path in recordings:
        try:
            samples = read_stretch(path, 0, limit, settings.sample_rate)
        except AudioError as error:
            notes.append(f"other speech: {path} left out: {error}")
        else:
            parts.append(_without_pauses(samples, settings.sample_rate))
    speech = np.concatenate(parts)
    if settings.other_speech:
        minutes = len(speech) / settings.sample_rate / 60
        notes.append(f"other speech: {len(recordings)} recordings, {minutes:.1f} min without pauses")
    return speech


def _find(source: Path, settings: CorpusSettings, notes: list[str]) -> Iterator[Path]:
    """A file, a folder's files, or a CSV's: its training speakers' whose text has none of the words."""
    if source.suffix.lower() != ".csv":
        yield from find_recordings(source, "other_speech", notes)
        return
    clips, rejected, _, _ = read_csv(source, settings)
    notes += [f"other speech: {source}: {path} left out: {reason}" for path, reason in rejected]
    words = {word.lower() for word in settings.words}
    for clip in clips:
        if clip.split == "train" and not words & {said.lower() for said in (clip.text, *clip.text.split())}:
            yield source.parent / clip.path


def _without_pauses(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """(samples,) float32 -> int16 at a root mean square of 0.05, without blocks that are far below the loudest."""
    block = round(_BLOCK_SECONDS * sample_rate)
    blocks = samples[: len(samples) // block * block].reshape(-1, block)
    power = np.mean(np.square(blocks), axis=1)
    loud = blocks[power > max(power.max(initial=0) * 10 ** (_AUDIBLE_DB / 10), 1e-10)].ravel()
    return to_pcm16(loud * (_LEVEL / np.sqrt(np.mean(np.square(loud)))) if len(loud) else loud)
