"""Shards -> batches of phrases: clips of different lengths, or composed of words' clips, each as long as it is.

Phrases of about one length share a batch. All that is random is a function of (seed, step).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorflow as tf

from data_pipeline.augmentation import (
    Microphone,
    Speed,
    build_feature_augmentation,
    build_phrase_augmentation,
    build_vocal_tract,
)
from data_pipeline.clip_index import ClipIndex
from data_pipeline.dataset import PREFETCHED, fold_in
from data_pipeline.errors import UserError
from data_pipeline.front_end import FrontEnd
from data_pipeline.pauses import with_pauses
from data_pipeline.settings import AugmentSettings
from data_pipeline.tokens import split_text

BATCHES_SORTED = 16
"""So many batches' phrases are sorted by length at a time: the more, the less padding, and the less mixed they are."""

_LENGTHS_A_SECOND = 4
"""Training's batches are read whole quarters of a second long: for each length that it meets oneDNN compiles operators
of their own and keeps a thousand or so, so that with many lengths memory would grow from epoch to epoch."""


class PhraseSource(Protocol):
    """Where phrases come from. `epoch` says which ones are meant, where each epoch has its own."""

    def __len__(self) -> int:
        """Phrases of an epoch."""

    def size(self, epoch: int, number: int) -> float:
        """How long a phrase is, in any unit."""

    def read(self, epoch: int, number: int) -> tuple[np.ndarray, str, str]:
        """A phrase's audio, (samples,) int16; its text; where it is from."""


class RecordedPhrases:
    """Phrases as they were recorded.

    Args:
        is_usable: says of a number of samples and a text whether the phrase is one to learn from.
    """

    def __init__(self, clips: ClipIndex, sample_rate: int, is_usable: Callable[[int, str], bool] = lambda *_: True):
        self._clips = clips
        samples = [round(row.seconds * sample_rate) for row in clips.rows]
        good = [is_usable(count, row.text) for count, row in zip(samples, clips.rows, strict=True)]
        self._numbers = [number for number, is_good in enumerate(good) if is_good]
        self.left_out = [row.path for row, is_good in zip(clips.rows, good, strict=True) if not is_good]
        """The paths of those that are not usable."""

    def __len__(self) -> int:
        return len(self._numbers)

    def size(self, epoch: int, number: int) -> float:
        return self._clips.rows[self._numbers[number]].seconds

    def read(self, epoch: int, number: int) -> tuple[np.ndarray, str, str]:
        row = self._clips.rows[self._numbers[number]]
        return self._clips.read(self._numbers[number]), row.text, row.path


class Speller:
    """Texts -> numbers of tokens in the table `labels`, whose first entry is the blank."""

    def __init__(self, labels: Sequence[str], kind: str):
        self.kind = kind
        self._numbers = {label: number for number, label in enumerate(labels) if number}

    def __call__(self, text: str) -> list[int]:
        """A text's tokens; those that the table lacks are left out."""
        found = (self._numbers.get(token) for token in split_text(text, self.kind))
        return [number for number in found if number is not None]

    def is_complete(self, text: str) -> bool:
        """Whether the table has all tokens of a text."""
        return all(token in self._numbers for token in split_text(text, self.kind))


def steps_needed(tokens: Sequence[int]) -> int:
    """Steps in which CTC can say them: one each, and one for the blank between equal ones."""
    return len(tokens) + sum(first == second for first, second in pairwise(tokens))


def plan_epoch(sizes: np.ndarray, seed: int, epoch: int, batch_size: int, steps: int) -> np.ndarray:
    """Which phrases share a batch, int (steps, batch_size): those of about one size, in an order of the epoch's own.

    Args:
        sizes: of all phrases, (phrases,); if the batches need more, each comes more than once.
    """
    generator = np.random.default_rng((seed, epoch))
    passes = -(-steps * batch_size // len(sizes))
    order = np.concatenate([generator.permutation(len(sizes)) for _ in range(passes)])[: steps * batch_size]
    stretch = BATCHES_SORTED * batch_size
    parts = [order[start : start + stretch] for start in range(0, len(order), stretch)]
    sorted_parts = [part[np.argsort(sizes[part], kind="stable")] for part in parts]
    return generator.permutation(np.concatenate(sorted_parts).reshape(steps, batch_size))


@dataclass(frozen=True)
class PhraseData:
    """All that decides what a phrase recogniser learns from, step by step. See data_pipeline.dataset.TrainingData.

    A batch is features (batch, frames, features) float32, zero after a phrase's end; frames (batch,) int32; tokens
    (batch, tokens) int32, zero after the last; token counts (batch,) int32. With several views features are (batch,
    views, frames, features).
    """

    source: PhraseSource
    spell: Speller
    front_end: FrontEnd
    """Already adapted, if it normalises."""
    augment: AugmentSettings
    noise: np.ndarray
    """See BackgroundNoise; may be empty."""
    seed: int
    batch_size: int
    """Phrases in a step, on all devices together."""
    steps_per_epoch: int
    views: int = 1
    """Each phrase comes so many times in a step, of one speed and with one lead or the same pauses, else
    augmented differently."""

    def batches(self, step: int = 0, host: int = 0, hosts: int = 1) -> tf.data.Dataset:
        """Endless augmented batches. Arguments as for TrainingData.batches."""
        to_features = self._map(host)
        steps = tf.data.Dataset.counter(np.int64(step))
        loaded = steps.map(lambda step: (step, *self._load(step, host, hosts)), tf.data.AUTOTUNE, deterministic=True)
        return loaded.map(to_features, tf.data.AUTOTUNE, deterministic=True).prefetch(PREFETCHED)

    def clips_of_step(self, step: int) -> list[str]:
        """Where the phrases that training step `step`, counted from 0, learns from are from."""
        epoch, numbers = self._numbers(step)
        return [self.source.read(epoch, number)[2] for number in numbers]

    def before_and_after(self, clips: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Features of the first step's first phrases without and with augmentation: (phrases, frames, features) each.

        Played slower or faster, a phrase isn't as long as before: the longer ones are cut to the shorter's frames.
        """
        step = tf.constant(0, tf.int64)
        loaded = [part[:clips] for part in self._load(step, 0, 1)]
        plain = masked_features(self.front_end, *loaded[:2])[0]
        augmented = replace(self, views=1)._map(0)(step, *loaded)[0]
        frames = min(plain.shape[1], augmented.shape[1])
        return plain[:, :frames], augmented[:, :frames]

    def _numbers(self, step: int) -> tuple[int, np.ndarray]:
        epoch, place = divmod(int(step), self.steps_per_epoch)
        return epoch, _plan(self.source, self.seed, epoch, self.batch_size, self.steps_per_epoch)[place]

    def _load(self, step: tf.Tensor, host: int, hosts: int) -> list[tf.Tensor]:
        """Audio (batch, samples) int16, samples (batch,), tokens (batch, tokens), token counts (batch,) int32."""

        def load(step: np.ndarray) -> tuple[np.ndarray, ...]:
            epoch, numbers = self._numbers(step)
            phrases = [self.source.read(epoch, number) for number in numbers[host::hosts]]
            generator = np.random.default_rng((self.seed, int(step), host))
            rate, pause_ms = self.front_end.sample_rate, self.augment.pause_ms
            if step % 2 and pause_ms[1]:
                audio = [with_pauses(pcm, rate, pause_ms, generator) for pcm, _, _ in phrases]
            else:
                leads = generator.integers(0, round(self.augment.time_shift_ms * rate / 1000) + 1, len(phrases))
                audio = [np.pad(pcm, (lead, 0)) for (pcm, _, _), lead in zip(phrases, leads, strict=True)]
            quarter = rate // _LENGTHS_A_SECOND
            padded = pad(audio, np.int16, at_least=self.front_end.fft_size, multiple_of=quarter)
            return (*padded, *pad([self.spell(text) for _, text, _ in phrases]))

        types = (tf.int16, tf.int32, tf.int32, tf.int32)
        loaded = tf.numpy_function(load, [step], types)
        return [tf.ensure_shape(part, [None] * (2 - index % 2)) for index, part in enumerate(loaded)]

    def _map(self, host: int) -> Callable[..., tuple[tf.Tensor, ...]]:
        augment, views = self.augment, self.views
        augment_waveforms = build_phrase_augmentation(augment, self.front_end.sample_rate, self.noise, views)
        share = augment.microphone_probability
        microphone = Microphone(share, self.front_end.bin_hz) if share else None
        vocal_tract = build_vocal_tract(augment, self.front_end)
        augment_features = build_feature_augmentation(augment)

        def to_features(step, pcm, samples, tokens, token_counts) -> tuple[tf.Tensor, ...]:
            key = tf.stack([tf.cast(self.seed, tf.int64), step])
            key = fold_in(key, 100 + host) if host else key
            audio = tf.cast(pcm, tf.float32) / 32768.0
            audio, samples = augment_waveforms(audio, key, samples)
            response = None if microphone is None else microphone(audio, fold_in(key, 4))
            filters = None if vocal_tract is None else vocal_tract(audio, fold_in(key, 5))
            features, frames = masked_features(self.front_end, audio, samples, response, filters)
            augmented, _ = augment_features(features, tf.zeros((1, 1)), key, frames)
            features = augmented * _mask(features, frames)
            if views > 1:
                features = tf.reshape(features, (-1, views, tf.shape(features)[1], features.shape[2]))
            return features, frames[::views], tokens, token_counts

        return to_features


@lru_cache(maxsize=2)
def _plan(source: PhraseSource, seed: int, epoch: int, batch_size: int, steps: int) -> np.ndarray:
    sizes = np.array([source.size(epoch, number) for number in range(len(source))])
    return plan_epoch(sizes, seed, epoch, batch_size, steps)


def masked_features(
    front_end: FrontEnd, audio: tf.Tensor, samples: tf.Tensor, *heard: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Features (batch, frames, features) of padded audio, zero after each clip's end, and the clips' frames (batch,).

    Args:
        audio: (batch, samples) float32 or int16; a row at least as long as a frame.
        samples: (batch,) int32, each clip's own.
        heard: the front end's further arguments.
    """
    if audio.dtype == tf.int16:
        audio = tf.cast(audio, tf.float32) / 32768.0
    features = front_end(audio, *heard)
    frames = front_end.frames_within(samples)
    return features * _mask(features, frames), frames


def _mask(features: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
    return tf.sequence_mask(frames, tf.shape(features)[1], tf.float32)[:, :, tf.newaxis]


def pad(rows: list, dtype: type = np.int32, at_least: int = 1, multiple_of: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of different lengths as one array, zeros behind the shorter ones, and their lengths, int32."""
    lengths = np.array([len(row) for row in rows], np.int32)
    longest = -(-max(at_least, lengths.max(initial=0)) // multiple_of) * multiple_of
    padded = np.zeros((len(rows), longest), dtype)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded, lengths


@dataclass(frozen=True)
class PaddedBatch:
    """Some phrases as they are."""

    numbers: np.ndarray
    """(batch,), in the source."""
    audio: np.ndarray
    """(batch, samples) int16."""
    samples: np.ndarray
    """(batch,) int32, each phrase's own."""
    texts: list[str]
    origins: list[str]
    """Where each is from."""


def padded_batches(source: PhraseSource, batch_size: int, at_least: int) -> Iterator[PaddedBatch]:
    """All phrases of a source's epoch 0, the shortest first.

    Args:
        at_least: samples of a row.
    """
    order = np.argsort([source.size(0, number) for number in range(len(source))], kind="stable")
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        audio, texts, origins = zip(*(source.read(0, number) for number in numbers), strict=True)
        yield PaddedBatch(numbers, *pad(list(audio), np.int16, at_least), list(texts), list(origins))


def open_recorded(shards: Path, split: str, sample_rate: int) -> RecordedPhrases:
    """A split's phrases, all of them. Raises UserError as ClipIndex."""
    return RecordedPhrases(ClipIndex(shards, split), sample_rate)


def open_usable(shards: Path, spell: Speller, front_end: FrontEnd, subsampling: int, fastest: float) -> RecordedPhrases:
    """The training phrases that can be learnt: all of their tokens are in the table, with time enough to say them.

    Silence, whose text is empty, is one; of it too the model makes a step at least.

    Args:
        subsampling: frames to a step.
        fastest: speed at which they may be played.

    Raises:
        UserError: as ClipIndex, or none can be learnt.
    """

    def is_usable(samples: int, text: str) -> bool:
        frames = front_end.frames_within(Speed.shortened(samples, fastest))
        return spell.is_complete(text) and max(1, steps_needed(spell(text))) <= frames // subsampling

    phrases = RecordedPhrases(ClipIndex(shards, "train"), front_end.sample_rate, is_usable)
    if not len(phrases):
        raise UserError(
            f"{shards}: none of the {len(phrases.left_out)} training phrases has steps enough for its text; "
            "lower model.subsampling or front_end.hop_ms"
        )
    return phrases
