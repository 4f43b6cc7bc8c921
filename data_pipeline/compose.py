"""Phrases composed of single words' clips: a phrase recogniser from a folder of words."""

from collections import defaultdict

import numpy as np

from data_pipeline.clip_index import ClipIndex
from data_pipeline.errors import UserError
from data_pipeline.labels import SILENCE, UNKNOWN
from data_pipeline.settings import ComposeSettings

_LEVEL = 0.05 * 32768
"""Root mean square of a word at 0 dB."""
_AUDIBLE_DB = -25.0
_BLOCK_SECONDS, _MARGIN_SECONDS, _FADE_SECONDS = 0.01, 0.05, 0.01


class ComposedPhrases:
    """Phrases of drawn words, each said by a drawn clip, with drawn gaps and levels. A PhraseSource.

    A phrase is a function of (seed, epoch, number). Each word is as likely as the others, however many clips it has.

    Args:
        clips: of words; those of `_unknown_` and `_silence_` may be among them.
        count: phrases of an epoch.

    Raises:
        UserError: there are no words.
    """

    def __init__(self, clips: ClipIndex, settings: ComposeSettings, sample_rate: int, seed: int, count: int):
        self._clips, self._settings, self._sample_rate = clips, settings, sample_rate
        self._seed, self._count = seed, count
        self._by_label = defaultdict(list)
        for number, row in enumerate(clips.rows):
            self._by_label[row.label].append(number)
        self._words = [label for label in self._by_label if not label.startswith("_")]
        if not self._words:
            raise UserError("compose: the corpus has no clips of words; expected a folder a word")
        self.left_out: list[str] = []
        """None is too short for its text."""

    def __len__(self) -> int:
        return self._count

    def size(self, epoch: int, number: int) -> float:
        """Its words, unknown ones too."""
        return len(self._draw(epoch, number)[1])

    def read(self, epoch: int, number: int) -> tuple[np.ndarray, str, str]:
        """See PhraseSource; where it is from are the paths of its clips."""
        generator, labels = self._draw(epoch, number)
        numbers = [int(generator.choice(self._by_label[label])) for label in labels]
        text = " ".join(label for label in labels if not label.startswith("_"))
        audio = self._join([self._clips.read(number) for number in numbers], generator)
        return audio, text, " ".join(self._clips.rows[number].path for number in numbers)

    def _draw(self, epoch: int, number: int) -> tuple[np.random.Generator, list[str]]:
        generator = np.random.default_rng((self._seed, epoch, number))
        low, high = self._settings.words
        count = int(generator.integers(low, high + 1))
        if not count:
            return generator, [SILENCE] if SILENCE in self._by_label else []
        labels = [str(label) for label in generator.choice(self._words, count)]
        unknown = generator.random(count) < self._settings.unknown_probability
        if UNKNOWN in self._by_label:
            labels = [UNKNOWN if other else label for label, other in zip(labels, unknown, strict=True)]
        return generator, labels

    def _join(self, clips: list[np.ndarray], generator: np.random.Generator) -> np.ndarray:
        """The clips one after the other, each from its first audible sample to its last: (samples,) int16."""
        settings, rate = self._settings, self._sample_rate
        gaps = generator.uniform(*settings.gap_ms, len(clips) + 1) * rate / 1000
        levels = 10 ** (generator.uniform(*settings.level_db, len(clips)) / 20)
        parts = [np.zeros(round(gaps[0]) + round(0.1 * rate), np.float32)]
        for clip, gap, level in zip(clips, gaps[1:], levels, strict=True):
            word = audible(clip.astype(np.float32), rate)
            parts += [word * (level * _LEVEL / max(1.0, np.sqrt(np.mean(word**2)))), np.zeros(round(gap), np.float32)]
        parts.append(np.zeros(round(0.1 * rate), np.float32))
        return np.clip(np.round(np.concatenate(parts)), -32768, 32767).astype(np.int16)


def audible(clip: np.ndarray, sample_rate: int) -> np.ndarray:
    """A clip's stretch of speech, with 50 ms before and after, faded in and out: (samples,) float32.

    Speech is from the first to the last 10 ms that are at most 25 dB below the loudest.
    """
    block = round(_BLOCK_SECONDS * sample_rate)
    whole = len(clip) // block * block
    power = np.mean(clip[:whole].reshape(-1, block) ** 2, axis=1)
    loud = np.flatnonzero(power >= power.max(initial=0) * 10 ** (_AUDIBLE_DB / 10))
    margin = round(_MARGIN_SECONDS * sample_rate)
    start, end = (loud[0] * block, (loud[-1] + 1) * block) if len(loud) else (0, len(clip))
    word = clip[max(0, start - margin) : end + margin].copy()
    fade = min(round(_FADE_SECONDS * sample_rate), len(word) // 2)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    word[:fade] *= ramp
    word[len(word) - fade :] *= ramp[::-1]
    return word
