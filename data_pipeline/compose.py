"""Phrases composed of single words' clips: a phrase recogniser from a folder of words."""

import difflib
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from data_pipeline.audio import AudioError, to_pcm16
from data_pipeline.clip_index import ClipIndex
from data_pipeline.errors import UserError
from data_pipeline.files import written_aside
from data_pipeline.grammar import Sentences
from data_pipeline.labels import SILENCE, UNKNOWN
from data_pipeline.manifest import write_table
from data_pipeline.noise import NOISE_MINUTES, find_noise, noise_stretch, read_stretch
from data_pipeline.settings import ComposeSettings, CorpusSettings

_LEVEL = 0.05 * 32768
"""Root mean square of a word at 0 dB."""
_AUDIBLE_DB = -25.0
_BLOCK_SECONDS, _MARGIN_SECONDS, _FADE_SECONDS = 0.01, 0.05, 0.01
_EDGE_SECONDS = 0.1
"""Of zeros before and after a phrase, beside the gaps."""


class ComposedPhrases:
    """Phrases of drawn words, each said by a drawn clip, with drawn gaps and levels. A PhraseSource.

    A phrase is a function of (seed, epoch, number). Each word is as likely as the others, however many clips it has;
    those of a grammar are as likely as it makes them. Silence has the level of its clip.

    Args:
        clips: of words; those of `_unknown_` and `_silence_` may be among them.
        count: phrases of an epoch.

    Raises:
        UserError: there are no words, or one that would be two in a phrase; or the grammar is none, or has other words.
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
        if split := [word for word in self._words if " " in word]:
            raise UserError(
                f"compose: expected labels without a space, got {split[0]!r}, several words of a phrase; "
                f"call it {split[0].replace(' ', '-')!r}, or let corpus.words leave it out"
            )
        self._sentence = None if settings.grammar is None else self._sentences(settings.grammar)
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
        audio = self._join(numbers, generator)
        return audio, text, " ".join(self._clips.rows[number].path for number in numbers)

    def _sentences(self, grammar: dict[str, Sequence[str]]) -> Callable[[np.random.Generator], list[str]]:
        """Draws a sentence's words."""
        if not grammar:
            raise UserError("compose.grammar: expected a rule at least, got none; leave it out for any words")
        rules = {_composed(name): [_composed(text) for text in rule] for name, rule in grammar.items()}
        try:
            sentences = Sentences(rules, next(iter(rules)))
        except UserError as error:
            raise UserError(f"compose.grammar: {error}") from None
        for word in sorted(sentences.words - set(self._words)):
            near = difflib.get_close_matches(word, self._words, 1)
            hint = f"the nearest is {near[0]!r}" if near else f"it has: {', '.join(sorted(self._words)[:20])}"
            raise UserError(f"compose.grammar: no {self._clips.rows[0].split} clip is of the word {word!r}; {hint}")
        return sentences.draw

    def _draw(self, epoch: int, number: int) -> tuple[np.random.Generator, list[str]]:
        """What the rest of the phrase is drawn from, and its labels."""
        generator = np.random.default_rng((self._seed, epoch, number))
        if self._sentence is not None:
            labels = self._sentence(generator)
        else:
            low, high = self._settings.words
            labels = [str(label) for label in generator.choice(self._words, generator.integers(low, high + 1))]
        if not labels:
            return generator, [SILENCE] if SILENCE in self._by_label else []
        unknown = generator.random(len(labels)) < self._settings.unknown_probability
        if UNKNOWN in self._by_label:
            labels = [UNKNOWN if other else label for label, other in zip(labels, unknown, strict=True)]
        return generator, labels

    def _join(self, numbers: list[int], generator: np.random.Generator) -> np.ndarray:
        """These clips one after another, as _word cuts them; if there is none, a second of zeros: (samples,) int16."""
        settings, rate = self._settings, self._sample_rate
        if not numbers:
            return np.zeros(rate, np.int16)
        edge = round(_EDGE_SECONDS * rate)
        gaps = np.round(generator.uniform(*settings.gap_ms, len(numbers) + 1) * rate / 1000).astype(int)
        levels = 10 ** (generator.uniform(*settings.level_db, len(numbers)) / 20)
        parts = [np.zeros(edge + gaps[0], np.float32)]
        for number, gap, level in zip(numbers, gaps[1:], levels, strict=True):
            parts += [self._word(number, level), np.zeros(gap, np.float32)]
        parts.append(np.zeros(edge, np.float32))
        return np.clip(np.round(np.concatenate(parts)), -32768, 32767).astype(np.int16)

    def _word(self, number: int, level: float) -> np.ndarray:
        """A clip from its first audible sample to its last, at this level against 0 dB; silence as it is."""
        clip = self._clips.read(number).astype(np.float32)
        if self._clips.rows[number].label == SILENCE:
            return clip
        word = audible(clip, self._sample_rate)
        return word * np.float32(level * _LEVEL / max(1.0, np.sqrt(np.mean(word**2))))


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


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


def split_noise(settings: CorpusSettings, split: str) -> list[np.ndarray]:
    """A split's stretches of the corpus's noise recordings, (samples,) int16 each; of long ones the beginning.

    Raises:
        UserError: the corpus has no recordings of which any can be used.
    """
    root, notes, found = settings.path if settings.path.is_dir() else settings.path.parent, [], []
    recordings = find_noise(root, settings.noise, notes)
    for path, seconds in recordings.items():
        start, end = noise_stretch(seconds, split, settings)
        longest = min(end - start, NOISE_MINUTES * 60 / len(recordings))
        try:
            found.append(to_pcm16(read_stretch(path, start, longest, settings.sample_rate)))
        except AudioError as error:
            notes.append(f"{path}: {error}")
    if not found:
        reason = f" ({notes[0]})" if notes else ""
        raise UserError(f"{settings.path} has no noise recordings for the {split} split{reason}; give --noise FOLDER")
    return found


def add_noise(
    audio: np.ndarray, noise: Sequence[np.ndarray], snr_db: float, generator: np.random.Generator
) -> np.ndarray:
    """A phrase in a drawn cut of a drawn recording, repeated if it is too short: (samples,) int16.

    The signal-to-noise ratio is that of the mean powers over the whole phrase; silence counts as a word at 0 dB.

    Args:
        audio: (samples,) int16.
        noise: recordings, (samples,) int16 or float32; their levels are of no matter.
    """
    recording = noise[generator.integers(len(noise))]
    start = generator.integers(max(1, len(recording) - len(audio) + 1))
    cut = np.resize(recording[start : start + len(audio)], len(audio)).astype(np.float64)
    wanted = np.mean(audio.astype(np.float64) ** 2) or _LEVEL**2
    factor = np.sqrt(wanted / (np.mean(cut**2) or 1.0)) * 10 ** (-snr_db / 20)
    return np.clip(np.round(audio + factor * cut), -32768, 32767).astype(np.int16)


def write_phrases(
    phrases: ComposedPhrases,
    out: Path,
    split: str,
    sample_rate: int,
    *,
    seed: int = 0,
    noise: Sequence[np.ndarray] = (),
    snr_db: float = 0.0,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> None:
    """Writes a folder of WAV files and manifest.csv (path, text, split): all of it, or nothing if that fails.

    A phrase without a word has the text `_silence_`, which is how a corpus says so.

    Args:
        out: a new or empty folder.
        seed: of the noise.
        noise: as for add_noise; none: the phrases are written as they are.

    Raises:
        UserError: `out` holds something, or can't be written.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists and isn't an empty folder; give a new one, or delete it first")

    def rows(folder: Path) -> Iterator[tuple[str, str, str]]:
        progress(0, len(phrases))
        for number in range(len(phrases)):
            audio, text, _ = phrases.read(0, number)
            if len(noise):
                audio = add_noise(audio, noise, snr_db, np.random.default_rng((seed, 1, number)))
            name = f"{number:05d}.wav"
            soundfile.write(folder / name, audio, sample_rate, subtype="PCM_16")
            yield name, text or SILENCE, split
            progress(number + 1, len(phrases))

    with written_aside(out) as aside:
        aside.mkdir()
        write_table(aside / "manifest.csv", ("path", "text", "split"), rows(aside))
