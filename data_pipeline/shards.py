"""The shard format: one TFRecord example a clip, 16-bit PCM. Written and read here, nowhere else."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

_FEATURES = {name: tf.io.FixedLenFeature([], tf.string) for name in ("audio", "label", "text", "speaker", "path")}


def encode_clip(pcm: np.ndarray, *, label: str, text: str, speaker: str, path: str) -> bytes:
    """One serialised tf.train.Example. `pcm`: (samples,) int16."""
    values = {"audio": pcm.astype("<i2").tobytes()}
    values |= {
        name: value.encode() for name, value in {"label": label, "text": text, "speaker": speaker, "path": path}.items()
    }
    features = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for name, value in values.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def decode_batch(serialized: tf.Tensor, clip_samples: int) -> dict[str, tf.Tensor]:
    """Serialised examples (batch,) -> `audio` (batch, clip_samples) float32 in [-1, 1); label, text, speaker, path."""
    batch = tf.io.parse_example(serialized, _FEATURES)
    pcm = tf.io.decode_raw(batch["audio"], tf.int16, little_endian=True)
    pcm = tf.ensure_shape(pcm, [None, clip_samples])
    return batch | {"audio": tf.cast(pcm, tf.float32) / 32768.0}


def shard_files(folder: Path, split: str) -> Sequence[str]:
    """The paths of a split's finished shards, in order."""
    return [str(path) for path in sorted(folder.glob(f"{split}-*.tfrecord")) if path.with_suffix(".csv").is_file()]
