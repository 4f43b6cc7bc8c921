"""Any clip is read by its number, the same as in order; a shard that isn't what it was is told."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from data_pipeline.clip_index import ClipIndex
from data_pipeline.errors import UserError
from data_pipeline.manifest import Row, write_rows
from data_pipeline.shards import encode_clip


def write_shards(folder, sizes=(3, 0, 2)):
    """Clip n of the training split has n + 1 samples, all of them n; one row of each shard has been set aside."""
    number, folder = 0, folder / "shards"
    folder.mkdir()
    for index, size in enumerate(sizes):
        rows, path = [Row("aside.wav", "", "train", reason="too short")], folder / f"train-{index:05d}.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for _ in range(size):
                audio = np.full(number + 1, number, np.int16)
                writer.write(encode_clip(audio, label="", text=str(number), speaker="", path=f"{number}.wav"))
                rows.append(Row(f"{number}.wav", "", "train", text=str(number)))
                number += 1
        write_rows(path.with_suffix(".csv"), rows)
    write_rows(folder / "manifest.csv", [])
    return folder


@pytest.fixture
def shards(tmp_path):
    return write_shards(tmp_path)


def test_any_clip_in_any_order(shards):
    clips = ClipIndex(shards, "train")
    assert len(clips) == 5
    for number in (4, 0, 3, 1, 2, 4):
        np.testing.assert_array_equal(clips.read(number), np.full(number + 1, number, np.int16))
        assert clips.rows[number].path == f"{number}.wav"


def test_a_clip_is_what_tensorflow_reads(tiny_shards):
    """Against TFRecordDataset, which reads one record after the other."""
    clips, number = ClipIndex(tiny_shards, "validation"), 0
    files = sorted(map(str, tiny_shards.glob("validation-*.tfrecord")))
    for record in tf.data.TFRecordDataset(files).as_numpy_iterator():
        features = tf.train.Example.FromString(record).features.feature
        audio = np.frombuffer(features["audio"].bytes_list.value[0], "<i2")
        np.testing.assert_array_equal(clips.read(number), audio)
        assert clips.rows[number].path.encode() == features["path"].bytes_list.value[0]
        number += 1
    assert number == len(clips) > 20


def test_nothing_prepared(tmp_path):
    with pytest.raises(UserError, match=r"no prepared clips .*run `speech-gru prepare` first"):
        ClipIndex(tmp_path, "train")


def test_a_split_that_is_not_there(shards):
    with pytest.raises(UserError, match="holds no test clips; `speech-gru prepare` says which splits"):
        ClipIndex(shards, "test")


def test_a_shard_without_its_table_is_not_finished(shards):
    (shards / "train-00000.csv").unlink()
    assert [row.path for row in ClipIndex(shards, "train").rows] == ["3.wav", "4.wav"]


def test_a_shard_that_is_cut_off(shards):
    shard = shards / "train-00000.tfrecord"
    os.truncate(shard, shard.stat().st_size - 1)
    with pytest.raises(UserError, match=r"train-00000.tfrecord is cut off"):
        ClipIndex(shards, "train")


def test_a_shard_with_fewer_clips_than_its_table(shards):
    shutil.copy(shards / "train-00002.tfrecord", shards / "train-00000.tfrecord")
    with pytest.raises(UserError, match="doesn't fit the table beside it; run `speech-gru prepare` again"):
        ClipIndex(shards, "train")


@pytest.mark.parametrize("change", ["deleted", "shortened", "emptied", "overwritten"])
def test_a_shard_that_changes_after_it_was_opened(shards, change):
    clips, shard = ClipIndex(shards, "train"), shards / "train-00002.tfrecord"
    size = shard.stat().st_size
    if change == "deleted":
        shard.unlink()
    elif change == "overwritten":
        shard.write_bytes(b"\xff" * size)
    else:
        os.truncate(shard, 0 if change == "emptied" else size - 20)
    with pytest.raises(UserError, match=r"train-00002.tfrecord can't be read any more.*run `speech-gru prepare` again"):
        clips.read(4)
    np.testing.assert_array_equal(clips.read(2), [2, 2, 2])
