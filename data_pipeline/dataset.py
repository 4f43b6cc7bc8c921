"""Shards -> batches (tf.data). All that is random is a function of (seed, step): a run can be repeated exactly."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from data_pipeline.augmentation import FreshSilence, build_feature_augmentation, build_waveform_augmentation
from data_pipeline.corpus import SILENCE
from data_pipeline.errors import UserError
from data_pipeline.front_end import FrontEnd
from data_pipeline.settings import AugmentSettings
from data_pipeline.shards import check_shard, decode_batch, shard_files

SHUFFLE_BYTES = 2**26
"""Of audio are shuffled at a time, beyond what `prepare` has mixed already: 2,097 clips of a second at 16 kHz.

tf.data's own `shuffle` can't take its seed from the epoch's number: an epoch's order would hang on what ran before.
"""
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
    return batches.prefetch(tf.data.AUTOTUNE)


def training_records(
    shards: Path, *, seed: int, batch_size: int, steps_per_epoch: int, step: int = 0
) -> tf.data.Dataset:
    """Endless (step, serialised examples (batch_size,)) from `step` on; epoch e's order is a function of (seed, e).

    `step` counts from the start of training. Clips that don't fill an epoch's last batch wait for another epoch.

    Raises:
        UserError: no training clips, a shard is damaged, or the steps need more clips than there are.
    """
    files, clips, samples = _find_shards(shards, "train")
    if steps_per_epoch * batch_size > clips:
        raise UserError(
            f"{steps_per_epoch} steps of {batch_size} clips an epoch need more than the {clips} train clips"
        )
    files, block = tf.constant(files), max(batch_size, SHUFFLE_BYTES // (2 * samples))

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        key = tf.stack([tf.cast(seed, tf.int64), epoch])
        records = tf.data.Dataset.from_tensor_slices(tf.random.experimental.stateless_shuffle(files, key)).interleave(
            tf.data.TFRecordDataset, cycle_length=8, block_length=8, num_parallel_calls=2, deterministic=True
        )
        blocks = records.batch(block).enumerate()
        blocks = blocks.map(lambda index, clips: tf.random.experimental.stateless_shuffle(clips, fold_in(key, index)))
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

    Raises:
        UserError: as `training_records`, or the clips aren't `clip_samples` long.
    """
    _find_shards(shards, "train", clip_samples)
    noise = read_noise(shards)
    refresh = FreshSilence(noise) if augment.fresh_silence and len(noise) else None
    augment_waveforms = build_waveform_augmentation(augment, front_end.sample_rate, noise)
    augment_features = build_feature_augmentation(augment)
    indices = label_table(labels)

    def to_features(step: tf.Tensor, serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        batch = decode_batch(serialized, clip_samples)
        key = tf.stack([tf.cast(seed, tf.int64), step])
        audio = batch["audio"]
        if refresh is not None:
            cut = (batch["label"] == SILENCE) & (batch["speaker"] == "")  # the corpus's own has a speaker, and is kept
            audio = refresh(audio, fold_in(key, 20), cut)
        features = front_end(augment_waveforms(audio, key))
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
    """The noise for augmentation, (samples,) int16; empty if the corpus has none. Raises UserError without the file."""
    try:
        return np.load(shards / "noise.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{shards / 'noise.npy'} can't be read: {error}; run `speech-gru prepare` again") from error


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
