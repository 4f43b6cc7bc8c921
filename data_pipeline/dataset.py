"""Shards -> batches (tf.data). All that is random is a function of (seed, step): a run can be repeated exactly."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from data_pipeline.augmentation import build_feature_augmentation, build_waveform_augmentation
from data_pipeline.errors import UserError
from data_pipeline.front_end import FrontEnd
from data_pipeline.settings import AugmentSettings
from data_pipeline.shards import decode_batch, shard_files

SHUFFLE_BLOCK = 2048
"""Clips shuffled at a time, beyond what `prepare` has mixed already. 2,048 clips of a second hold 65 MB.

tf.data's own `shuffle` can't take its seed from the epoch's number, which would tie an epoch's order to what ran before.
"""
fold_in = tf.random.experimental.stateless_fold_in


def evaluation_batches(shards: Path, split: str, clip_samples: int, batch_size: int) -> tf.data.Dataset:
    """A split's clips in order: dicts of audio (batch, samples) float32; label, text, speaker, path (batch,) strings.

    The last batch may be smaller.

    Raises:
        UserError: the split has no clips.
    """
    records = tf.data.TFRecordDataset(_files(shards, split))
    batches = records.batch(batch_size).map(lambda serialized: decode_batch(serialized, clip_samples))
    return batches.prefetch(tf.data.AUTOTUNE)


def training_records(
    shards: Path, *, seed: int, batch_size: int, steps_per_epoch: int, step: int = 0
) -> tf.data.Dataset:
    """Endless (step, serialised examples (batch_size,)) from `step` on; epoch e's order is a function of (seed, e).

    `step` counts from the start of training. Clips that don't fill an epoch's last batch wait for another epoch.
    """
    files = tf.constant(_files(shards, "train"))

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        key = tf.stack([tf.cast(seed, tf.int64), epoch])
        records = tf.data.Dataset.from_tensor_slices(tf.random.experimental.stateless_shuffle(files, key)).interleave(
            tf.data.TFRecordDataset, cycle_length=8, block_length=8, num_parallel_calls=2, deterministic=True
        )
        blocks = records.batch(SHUFFLE_BLOCK).enumerate()
        blocks = blocks.map(lambda index, block: tf.random.experimental.stateless_shuffle(block, fold_in(key, index)))
        batches = blocks.prefetch(1).unbatch().batch(batch_size, drop_remainder=True).take(steps_per_epoch)
        return batches.enumerate(epoch * steps_per_epoch)

    first_epoch, skipped = divmod(step, steps_per_epoch)
    return tf.data.Dataset.counter(first_epoch).flat_map(epoch_batches).skip(skipped)


def training_batches(
    shards: Path,
    labels: Sequence[str],
    front_end: FrontEnd,
    augment: AugmentSettings,
    *,
    clip_samples: int,
    seed: int,
    batch_size: int,
    steps_per_epoch: int,
    step: int = 0,
) -> tf.data.Dataset:
    """Endless batches of augmented features (batch, frames, features) and one-hot labels (batch, labels), both float32.

    Args:
        front_end: already adapted, if it normalises.
        step: where to start, counted from the start of training.
    """
    augment_waveforms = build_waveform_augmentation(augment, front_end.sample_rate, read_noise(shards))
    augment_features = build_feature_augmentation(augment)
    indices = label_table(labels)

    def to_features(step: tf.Tensor, serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        batch = decode_batch(serialized, clip_samples)
        key = tf.stack([tf.cast(seed, tf.int64), step])
        features = front_end(augment_waveforms(batch["audio"], key))
        return augment_features(features, tf.one_hot(indices.lookup(batch["label"]), len(labels)), key)

    records = training_records(shards, seed=seed, batch_size=batch_size, steps_per_epoch=steps_per_epoch, step=step)
    return records.map(to_features, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)


def feature_batches(
    shards: Path, split: str, labels: Sequence[str], front_end: FrontEnd, *, clip_samples: int, batch_size: int
) -> tf.data.Dataset:
    """A split's clips without augmentation: features (batch, frames, features) and one-hot labels (batch, labels)."""
    indices = label_table(labels)

    def to_features(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        return front_end(batch["audio"]), tf.one_hot(indices.lookup(batch["label"]), len(labels))

    batches = evaluation_batches(shards, split, clip_samples, batch_size)
    return batches.map(to_features, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)


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
    """The noise for augmentation, (samples,) int16; empty if the corpus has none."""
    return np.load(shards / "noise.npy", allow_pickle=False)


def _files(shards: Path, split: str) -> list[str]:
    files = list(shard_files(shards, split))
    if not files:
        raise UserError(f"{shards} holds no {split} clips; `speech-gru prepare` says which splits there are, and why")
    return files
