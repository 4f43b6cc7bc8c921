"""Shards -> batches (tf.data). All that is random is a function of (seed, step): a run can be repeated exactly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from data_pipeline.augmentation import (
    FreshSilence,
    FreshUnknown,
    Microphone,
    build_feature_augmentation,
    build_vocal_tract,
    build_waveform_augmentation,
)
from data_pipeline.errors import UserError
from data_pipeline.front_end import FrontEnd
from data_pipeline.labels import SILENCE, UNKNOWN
from data_pipeline.settings import AugmentSettings
from data_pipeline.shards import check_shard, decode_batch, shard_files

SHUFFLE_BYTES = 2**26
"""Of audio are shuffled at a time, beyond what `prepare` has mixed already: 2,097 clips of a second at 16 kHz.

tf.data's own `shuffle` can't take its seed from the epoch's number: an epoch's order would hang on what ran before.
"""
PREFETCHED = 4
"""So many batches may wait: tf.data would choose more whenever training has taken none for a while, and fill memory."""
fold_in = tf.random.experimental.stateless_fold_in


def evaluation_batches(shards: Path, split: str, clip_samples: int, batch_size: int) -> tf.data.Dataset:
    """A split's clips in order: dicts of audio (batch, samples) float32; label, text, speaker, path (batch,) strings.

    The last batch may be smaller.

    Raises:
        UserError: the split has no clips, a shard is damaged, or the clips aren't `clip_samples` long.
    """
    files, _, _ = _find_shards(shards, split, clip_samples)
    records = tf.data.TFRecordDataset(files)
    batches = records.batch(batch_size).map(lambda serialized: decode_batch(serialized, clip_samples))
    return batches.prefetch(PREFETCHED)


def training_records(
    shards: Path, *, seed: int, batch_size: int, steps_per_epoch: int, step: int = 0
) -> tf.data.Dataset:
    """Endless (step, serialised examples (batch_size,)) from `step` on; epoch e's order is a function of (seed, e).

    `step` counts from the start of training. An epoch goes through the clips as often as its steps need; those that
    don't fill its last batch wait for another epoch.

    Raises:
        UserError: no training clips, or a shard is damaged.
    """
    files, clips, samples = _find_shards(shards, "train")
    passes = -(-steps_per_epoch * batch_size // clips)
    files, block = tf.constant(files), max(batch_size, SHUFFLE_BYTES // (2 * samples))

    def shuffled_clips(number: tf.Tensor) -> tf.data.Dataset:
        """All clips once, in an order of this pass's own."""
        key = tf.stack([tf.cast(seed, tf.int64), number])
        records = tf.data.Dataset.from_tensor_slices(tf.random.experimental.stateless_shuffle(files, key)).interleave(
            tf.data.TFRecordDataset, cycle_length=8, block_length=8, num_parallel_calls=2, deterministic=True
        )
        blocks = records.batch(block).enumerate()
        blocks = blocks.map(lambda index, clips: tf.random.experimental.stateless_shuffle(clips, fold_in(key, index)))
        return blocks.prefetch(1).unbatch()

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        shuffled = tf.data.Dataset.range(epoch * passes, (epoch + 1) * passes).flat_map(shuffled_clips)
        batches = shuffled.batch(batch_size, drop_remainder=True).take(steps_per_epoch)
        return batches.enumerate(epoch * steps_per_epoch)

    first_epoch, skipped = divmod(step, steps_per_epoch)
    return tf.data.Dataset.counter(first_epoch).flat_map(epoch_batches).skip(skipped)


@dataclass(frozen=True)
class TrainingData:
    """All that decides what training learns from, step by step.

    Raises:
        UserError: as `training_records`, or the clips aren't `clip_samples` long.
    """

    shards: Path
    labels: Sequence[str]
    front_end: FrontEnd
    """Already adapted, if it normalises."""
    augment: AugmentSettings
    clip_samples: int
    seed: int
    batch_size: int
    """Clips in a step, on all devices together."""
    steps_per_epoch: int
    label_weights: Sequence[float] | None = None
    """How much a clip of each label counts; None: all alike."""
    stream_clips: int = 1
    """At every other step so many clips of the batch, one after the other, are one stream."""
    stream_frames: int = 0
    """In a stream a clip begins so many frames after the one before it, with silence between if it is shorter."""

    def __post_init__(self):
        _find_shards(self.shards, "train", self.clip_samples)

    def records(self, step: int = 0) -> tf.data.Dataset:
        """See `training_records`."""
        return training_records(
            self.shards, seed=self.seed, batch_size=self.batch_size, steps_per_epoch=self.steps_per_epoch, step=step
        )

    def batches(self, step: int = 0, host: int = 0, hosts: int = 1) -> tf.data.Dataset:
        """Endless batches of augmented features (batch, frames, features), labels (batch, labels), weights (batch,).

        All are float32; labels are one-hot unless mixup has mixed them. With `stream_clips` those of odd steps are
        of streams, (batch / stream_clips, stream_clips * stream_frames, features); at even ones each clip is the first
        thing that the model hears.

        Args:
            step: where to start, counted from the start of training.
            host, hosts: of several hosts each takes its share of every batch, `batch_size / hosts` clips.
        """
        to_features = self._map(host, hosts)
        batches = self.records(step).map(to_features, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return batches.prefetch(PREFETCHED)

    def clips_of_step(self, step: int) -> list[str]:
        """The paths of the clips that training step `step`, counted from 0, learns from."""
        _, serialized = next(iter(self.records(step)))
        return [path.decode() for path in decode_batch(serialized, self.clip_samples)["path"].numpy()]

    def before_and_after(self, clips: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Features of the first step's first clips without and with augmentation: (clips, frames, features) each."""
        step, serialized = next(iter(self.records()))
        plain = self.front_end(decode_batch(serialized[:clips], self.clip_samples)["audio"])
        return plain, self._map(0, 1)(step, serialized)[0][:clips]

    def _map(self, host: int, hosts: int) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
        noise, augment = read_noise(self.shards), self.augment
        refresh = FreshSilence(noise, self.front_end.sample_rate) if augment.fresh_silence and len(noise) else None
        replace = None
        if augment.fresh_unknown:
            replace = FreshUnknown(self.front_end.sample_rate, read_other_speech(self.shards))
        augment_waveforms = build_waveform_augmentation(augment, self.front_end.sample_rate, noise)
        share = augment.microphone_probability
        microphone = Microphone(share, self.front_end.bin_hz) if share else None
        vocal_tract = build_vocal_tract(augment, self.front_end)
        augment_features = build_feature_augmentation(augment)
        indices, count = label_table(self.labels), len(self.labels)
        label_weights = np.ones(count) if self.label_weights is None else np.array(self.label_weights)

        def to_features(step: tf.Tensor, serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            batch = decode_batch(serialized[host::hosts], self.clip_samples)
            key = tf.stack([tf.cast(self.seed, tf.int64), step])
            key = fold_in(key, 100 + host) if host else key
            audio, silent = batch["audio"], batch["label"] == SILENCE
            if replace is not None:
                audio = replace(audio, fold_in(key, 21), batch["label"], batch["label"] == UNKNOWN, silent)
            if refresh is not None:
                # The corpus's own silence has a speaker, and is kept.
                audio = refresh(audio, fold_in(key, 20), silent & (batch["speaker"] == ""))
            response = None if microphone is None else microphone(audio, fold_in(key, 4))
            filters = None if vocal_tract is None else vocal_tract(audio, fold_in(key, 5))
            audio = augment_waveforms(audio, key)
            labels = tf.one_hot(indices.lookup(batch["label"]), count)

            def of_clips() -> tuple[tf.Tensor, tf.Tensor]:
                return augment_features(self.front_end(audio, response, filters), labels, key)

            def of_streams() -> tuple[tf.Tensor, tf.Tensor]:
                features, mixed = augment_features(self._heard_in_streams(audio, response, filters), labels, key)
                frames = self.stream_clips * self.stream_frames
                return tf.reshape(features, (-1, frames, features.shape[2])), mixed

            is_plain = self.stream_clips == 1
            features, labels = of_clips() if is_plain else tf.cond(step % 2 == 0, of_clips, of_streams)
            # A clip that mixup has made of two weighs between them.
            return features, labels, tf.linalg.matvec(labels, label_weights.astype(np.float32))

        return to_features

    def _heard_in_streams(self, audio: tf.Tensor, response: tf.Tensor | None, filters: tf.Tensor | None) -> tf.Tensor:
        """Each clip's features, up to the next one's: (batch, stream_frames, features)."""
        hop, overlap = self.front_end.hop, max(0, self.front_end.fft_size - self.front_end.hop)
        samples = self.stream_frames * hop
        streams = tf.pad(audio, ((0, 0), (0, samples - self.clip_samples)))
        streams = tf.pad(tf.reshape(streams, (-1, self.stream_clips * samples)), ((0, 0), (0, overlap)))
        # A stream is heard through one microphone, and by filters of one kind.
        own = (None if part is None else part[:: self.stream_clips] for part in (response, filters))
        features = self.front_end(streams, *own)
        return tf.reshape(features, (-1, self.stream_frames, features.shape[2]))


def feature_batches(
    shards: Path, split: str, labels: Sequence[str], front_end: FrontEnd, *, clip_samples: int, batch_size: int
) -> tf.data.Dataset:
    """A split's clips without augmentation: features (batch, frames, features) and one-hot labels (batch, labels)."""
    indices = label_table(labels)

    def to_features(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        return front_end(batch["audio"]), tf.one_hot(indices.lookup(batch["label"]), len(labels))

    batches = evaluation_batches(shards, split, clip_samples, batch_size)
    return batches.map(to_features, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(PREFETCHED)


def label_table(labels: Sequence[str]) -> tf.lookup.StaticHashTable:
    """Label -> index of the model's output (int64); -1 for any other."""
    values = tf.range(len(labels), dtype=tf.int64)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(tf.constant(labels), values), -1)


def read_labels(shards: Path) -> tuple[str, ...]:
    """The labels that `prepare` found, in the order of the model's outputs. Raises UserError without them."""
    path = shards / "labels.txt"
    if not path.is_file():
        raise UserError(f"{shards} holds no prepared clips (no labels.txt); run `speech-gru prepare` first")
    return tuple(path.read_text(encoding="utf-8").splitlines())


def read_noise(shards: Path) -> np.ndarray:
    """The noise for augmentation, (samples,) int16; empty if the corpus has none. Raises UserError without the file."""
    return _read_samples(shards / "noise.npy")


def read_other_speech(shards: Path) -> np.ndarray:
    """Speech that holds none of the words, (samples,) int16, perhaps none. Raises UserError without the file."""
    return _read_samples(shards / "other_speech.npy")


def _read_samples(file: Path) -> np.ndarray:
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file} can't be read: {error}; run `speech-gru prepare` again") from error


def _find_shards(shards: Path, split: str, clip_samples: int | None = None) -> tuple[list[str], int, int]:
    """A split's shards, whole and finished, and how many clips of how many samples they hold."""
    if not (shards / "manifest.csv").is_file():
        raise UserError(f"{shards} holds no prepared clips (no manifest.csv); run `speech-gru prepare` first")
    files = list(shard_files(shards, split))
    checked = [check_shard(file) for file in files]
    clips, lengths = sum(count for count, _ in checked), {samples for count, samples in checked if count}
    if not clips:
        raise UserError(f"{shards} holds no {split} clips; `speech-gru prepare` says which splits there are, and why")
    if len(lengths) > 1 or (clip_samples is not None and lengths != {clip_samples}):
        raise UserError(
            f"{shards}: expected clips of {clip_samples or 'equally many'} samples, but they have "
            f"{' and '.join(map(str, sorted(lengths)))}; "
            "if corpus.clip_seconds or corpus.sample_rate is new, run `speech-gru prepare` again"
        )
    return files, clips, lengths.pop()
