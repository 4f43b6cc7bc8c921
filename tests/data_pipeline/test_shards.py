"""Shards keep every bit of the audio, and what isn't one is told apart before TensorFlow reads it."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_pipeline.errors import UserError
from data_pipeline.shards import check_shard, decode_batch, decode_pcm, encode_clip, read_shard, shard_files

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
SAID = {"label": "ja", "text": "Ja, gern!", "speaker": "anna", "path": "ja/ä.wav"}


def write_shard(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return path


def clip(samples: int = 100, **said) -> bytes:
    return encode_clip(np.arange(samples, dtype=np.int16), **SAID | said)


@given(arrays(np.int16, st.integers(0, 50)), texts, texts, texts, texts)
@settings(max_examples=25, deadline=None)
def test_what_goes_in_comes_out(pcm, label, text, speaker, path):
    serialized = encode_clip(pcm, label=label, text=text, speaker=speaker, path=path)
    np.testing.assert_array_equal(decode_pcm(serialized), pcm)
    batch = decode_batch(tf.constant([serialized]), len(pcm))
    assert batch["audio"].dtype == tf.float32
    assert batch["audio"].shape == (1, len(pcm))
    np.testing.assert_array_equal(batch["audio"][0] * 32768, pcm.astype(np.float32))
    said = [batch[name][0].numpy().decode() for name in ("label", "text", "speaker", "path")]
    assert said == [label, text, speaker, path]


def test_every_value_survives_a_file(tmp_path):
    pcm = np.arange(-32768, 32768).astype(np.int16)
    path = write_shard(tmp_path / "train-00000.tfrecord", [encode_clip(pcm, **SAID)])
    [record] = read_shard(path)
    np.testing.assert_array_equal(decode_pcm(record), pcm)
    audio = decode_batch(tf.constant([record]), 65536)["audio"].numpy()
    assert (audio.min(), audio.max()) == (-1, 32767 / 32768)


def test_the_format_is_what_other_tools_expect():
    features = tf.train.Example.FromString(clip(3)).features.feature
    assert {name: value.bytes_list.value[0] for name, value in features.items()} == {
        "audio": b"\0\0\1\0\2\0",
        **{name: value.encode() for name, value in SAID.items()},
    }


def test_only_finished_shards_count(tmp_path):
    for name in ("train-00001", "train-00000", "test-00000"):
        (tmp_path / f"{name}.tfrecord").touch()
        (tmp_path / f"{name}.csv").touch()
    (tmp_path / "train-00002.tfrecord").touch()
    (tmp_path / ".train-00003.tfrecord.123.tmp").touch()
    names = ["train-00000.tfrecord", "train-00001.tfrecord"]
    assert shard_files(tmp_path, "train") == [str(tmp_path / name) for name in names]
    assert shard_files(tmp_path, "validation") == []


class TestCheck:
    def test_a_good_shard(self, tmp_path):
        records = [clip(path="x" * length) for length in range(20)]
        assert check_shard(write_shard(tmp_path / "shard", records)) == (20, 100)
        assert check_shard(write_shard(tmp_path / "empty", [])) == (0, 0)

    def test_a_shard_that_is_cut_off_anywhere(self, tmp_path):
        path = write_shard(tmp_path / "shard", [clip(2), clip(2)])
        content = path.read_bytes()
        for length in range(1, len(content)):
            path.write_bytes(content[:length])
            if length == len(content) // 2:
                assert check_shard(path) == (1, 2)  # a shard of one clip; its table tells that one is missing
            else:
                with pytest.raises(UserError, match="is cut off, damaged or of another program"):
                    check_shard(path)

    @pytest.mark.parametrize("content", [b"RIFF....WAVE" * 100, b"\0" * 100, b"\0", b"path,label\n", b"\xff" * 64])
    def test_other_files(self, tmp_path, content):
        (tmp_path / "shard").write_bytes(content)
        with pytest.raises(UserError, match="of another program; run `speech-gru prepare` again"):
            check_shard(tmp_path / "shard")

    @pytest.mark.parametrize("record", [b"", b"text", tf.train.Example().SerializeToString(), b"\xff" * 30])
    def test_records_of_other_programs(self, tmp_path, record):
        with pytest.raises(UserError, match="of another program"):
            check_shard(write_shard(tmp_path / "shard", [record]))

    @pytest.mark.parametrize("audio", [[], [b"\0\0", b"\0\0"], [b"\0"]])
    def test_examples_with_other_audio(self, tmp_path, audio):
        example = tf.train.Example.FromString(clip())
        example.features.feature["audio"].bytes_list.value[:] = audio
        with pytest.raises(UserError, match="of another program"):
            check_shard(write_shard(tmp_path / "shard", [example.SerializeToString()]))
