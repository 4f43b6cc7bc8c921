"""What training and evaluation read: every clip once an epoch, in an order that only the seed and the epoch decide."""

import shutil
from itertools import chain, count, islice

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import dataset
from data_pipeline.dataset import (
    TrainingData,
    evaluation_batches,
    feature_batches,
    label_table,
    read_labels,
    read_noise,
    training_records,
)
from data_pipeline.errors import UserError
from data_pipeline.manifest import Row, write_rows
from data_pipeline.settings import AugmentSettings
from data_pipeline.shards import decode_batch, encode_clip

SAMPLES, LABELS = 8, ("yes", "no", "_silence_")
OFF = AugmentSettings(
    time_shift_ms=0, gain_db=None, speed=None, noise_probability=0, time_masks=0, frequency_masks=0, mixup=0
)


def write_shards(folder, split: str, sizes: list[int], samples: int = SAMPLES):
    """Shards of so many clips; clip n of a split holds the value n, is called n, and has label n % 3."""
    numbers = count()
    for index, size in enumerate(sizes):
        path = folder / f"{split}-{index:05d}.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for number in islice(numbers, size):
                said = {"label": LABELS[number % 3], "text": "", "speaker": "", "path": str(number)}
                writer.write(encode_clip(np.full(samples, number, np.int16), **said))
        path.with_suffix(".csv").touch()
    write_rows(folder / "manifest.csv", [Row("0", "yes", split)])
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    np.save(folder / "noise.npy", np.zeros(0, np.int16))
    write_shards(folder, "validation", [5, 0, 6])
    return write_shards(folder, "train", [7, 1, 12, 9, 11, 3, 8, 10, 2])  # 63


def read(shards, steps: int, *, step: int = 0, seed: int = 0, batch_size: int = 10, steps_per_epoch: int = 6):
    """[(step, names of its clips)] of the first so many steps."""
    records = training_records(shards, seed=seed, batch_size=batch_size, steps_per_epoch=steps_per_epoch, step=step)
    return [
        (int(number), decode_batch(clips, SAMPLES)["path"].numpy().tolist()) for number, clips in records.take(steps)
    ]


class TestTrainingRecords:
    def test_every_clip_at_most_once_an_epoch(self, shards):
        steps = read(shards, 18)
        assert [step for step, _ in steps] == list(range(18))
        left_out = set()
        for epoch in range(3):
            names = list(chain(*(names for _, names in steps[epoch * 6 : epoch * 6 + 6])))
            assert len(names) == len(set(names)) == 60
            left_out |= {str(number).encode() for number in range(63)} - set(names)
        assert len(left_out) > 3  # not always the same ones

    def test_all_clips_where_the_batches_come_out_even(self, shards):
        names = list(chain(*(names for _, names in read(shards, 9, batch_size=7, steps_per_epoch=9))))
        assert sorted(map(int, names)) == list(range(63))

    def test_the_order_is_a_function_of_seed_and_epoch(self, shards):
        steps = read(shards, 12)
        assert read(shards, 12) == steps
        assert read(shards, 12, seed=1) != steps
        first, second = (list(chain(*(names for _, names in part))) for part in (steps[:6], steps[6:]))
        assert first != second
        assert first != sorted(first, key=int)

    @given(st.integers(0, 40), st.sampled_from([1, 5, 6, 13]))
    @settings(max_examples=8, deadline=None)
    def test_a_start_at_any_step_is_as_if_the_steps_before_had_run(self, shards, step, steps_per_epoch):
        whole = read(shards, step + 4, steps_per_epoch=steps_per_epoch)
        assert read(shards, 4, step=step, steps_per_epoch=steps_per_epoch) == whole[step:]

    def test_clips_of_all_shards_are_mixed(self, tmp_path):
        folder = write_shards(tmp_path, "train", [64, 64, 64])
        first_batch = read(folder, 1, batch_size=32, steps_per_epoch=6)[0][1]
        assert {int(name) // 64 for name in first_batch} == {0, 1, 2}

    def test_memory_is_bounded_whatever_the_clips_length(self, tmp_path, monkeypatch):
        monkeypatch.setattr(dataset, "SHUFFLE_BYTES", 20 * 2 * SAMPLES)
        folder = write_shards(tmp_path, "train", [200])
        names = [int(name) for name in chain(*(names for _, names in read(folder, 20)))][:60]
        blocks = [np.array(names[start : start + 20]) - start for start in (0, 20, 40)]
        for block in blocks:  # only 20 clips are held at a time, so only they can be mixed
            assert sorted(block) == list(range(20))
            assert block.tolist() != sorted(block)
        assert blocks[0].tolist() != blocks[1].tolist() != blocks[2].tolist()

    def test_an_epoch_of_more_steps_goes_through_the_clips_again_and_again(self, shards):
        steps = read(shards, 26, steps_per_epoch=13)
        names = [list(chain(*(names for _, names in epoch))) for epoch in (steps[:13], steps[13:])]
        passes = [part[start : start + 63] for part in names for start in (0, 63)]
        assert all(len(set(part)) == 63 for part in passes)
        assert len({tuple(part) for part in passes}) == 4


class TestEvaluationBatches:
    def test_all_clips_in_order(self, shards):
        batches = list(evaluation_batches(shards, "validation", SAMPLES, 4).as_numpy_iterator())
        assert [batch["audio"].shape for batch in batches] == [(4, SAMPLES), (4, SAMPLES), (3, SAMPLES)]
        assert [int(name) for batch in batches for name in batch["path"]] == list(range(11))
        audio = np.concatenate([batch["audio"] for batch in batches])
        assert audio.dtype == np.float32
        np.testing.assert_array_equal(audio * 32768, np.repeat(np.arange(11)[:, None], SAMPLES, axis=1))
        assert [name.decode() for name in batches[0]["label"]] == ["yes", "no", "_silence_", "yes"]

    def test_the_order_is_always_the_same(self, shards):
        def names():
            batches = evaluation_batches(shards, "train", SAMPLES, 9).as_numpy_iterator()
            return [batch["path"].tolist() for batch in batches]

        assert names() == names()

    def test_no_such_clips(self, shards):
        with pytest.raises(UserError, match="holds no test clips"):
            evaluation_batches(shards, "test", SAMPLES, 4)

    def test_nothing_prepared_or_not_to_the_end(self, tmp_path):
        with pytest.raises(UserError, match=r"no manifest\.csv"):
            evaluation_batches(tmp_path, "train", SAMPLES, 4)
        write_shards(tmp_path, "train", [3])
        (tmp_path / "manifest.csv").unlink()
        with pytest.raises(UserError, match=r"no manifest.csv\); run `speech-gru prepare` first"):
            evaluation_batches(tmp_path, "train", SAMPLES, 4)

    def test_clips_of_another_length(self, shards, tmp_path):
        with pytest.raises(UserError, match=r"expected clips of 9 samples, but they have 8; if corpus.clip_seconds"):
            evaluation_batches(shards, "train", 9, 4)
        write_shards(tmp_path, "validation", [3])
        write_shards(tmp_path, "train", [3], samples=5)
        (tmp_path / "validation-00000.tfrecord").rename(tmp_path / "train-00001.tfrecord")
        (tmp_path / "validation-00000.csv").rename(tmp_path / "train-00001.csv")
        with pytest.raises(UserError, match="equally many samples, but they have 5 and 8"):
            training_records(tmp_path, seed=0, batch_size=1, steps_per_epoch=1)

    def test_a_damaged_shard(self, tmp_path):
        write_shards(tmp_path, "train", [3, 3])
        path = tmp_path / "train-00001.tfrecord"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(UserError, match=r"train-00001.tfrecord is cut off"):
            evaluation_batches(tmp_path, "train", SAMPLES, 4)


class Mean:
    """In place of a front end: a clip's one feature is the mean of its samples, times 2**15."""

    sample_rate = 16000

    def __call__(self, audio, response=None, filters=None):
        return tf.reduce_mean(audio, axis=1)[:, None, None] * 32768


class Frames(Mean):
    """As Mean, but of each two samples: a clip has four frames."""

    hop = fft_size = 2

    def __call__(self, audio, response=None, filters=None):
        return tf.reduce_mean(tf.reshape(audio, (len(audio), -1, 2)), axis=2)[:, :, None] * 32768


class OverlappingFrames(Mean):
    """As Mean, but of each four samples, every two."""

    hop, fft_size = 2, 4

    def __call__(self, audio, response=None, filters=None):
        return tf.reduce_mean(tf.signal.frame(audio, 4, 2), axis=2)[:, :, None] * 32768


class Responses(Frames):
    """Gives the microphone's response to each frame."""

    bin_hz = np.array([0.0, 4000.0, 8000.0])

    def __call__(self, audio, response=None, filters=None):
        return tf.repeat(response[:, None], audio.shape[1] // 2, axis=1)


class Filters(Responses):
    """Gives each clip's mel filters, one number each, at each frame."""

    def mel_filters(self, warp):
        return np.full((3, 1), warp, np.float32)

    def __call__(self, audio, response=None, filters=None):
        return tf.repeat(filters[:, :1], audio.shape[1] // 2, axis=1)


def pairs(numbers: list[int]) -> list[tuple[int, int]]:
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def training_data(shards, **changes) -> TrainingData:
    settings = {"augment": OFF, "clip_samples": SAMPLES, "seed": 0, "batch_size": 10, "steps_per_epoch": 6}
    return TrainingData(shards, LABELS, **{"front_end": Mean()} | settings | changes)


class TestFeatures:
    def check(self, batches, clips):
        features, targets = (np.concatenate(parts) for parts in list(zip(*batches, strict=True))[:2])
        numbers = np.rint(features[:, 0, 0]).astype(int)
        assert features.dtype == targets.dtype == np.float32
        np.testing.assert_array_equal(targets, np.eye(3)[numbers % 3])
        assert len(set(numbers)) == clips
        return numbers.tolist()

    def test_training(self, shards):
        batches = training_data(shards, seed=3).batches(step=2)
        numbers = self.check(batches.take(4).as_numpy_iterator(), 40)
        expected = chain(*(names for _, names in read(shards, 4, step=2, seed=3)))
        assert numbers == [int(name) for name in expected]

    def test_clips_have_the_weights_of_their_labels(self, shards):
        _, labels, weights = next(iter(training_data(shards, label_weights=(1, 2, 0.5)).batches()))
        assert weights.numpy().tolist() == [(1, 2, 0.5)[label] for label in labels.numpy().argmax(axis=1)]
        _, labels, weights = next(iter(training_data(shards).batches()))
        assert weights.numpy().tolist() == [1] * 10

    def test_clips_that_mixup_has_mixed_weigh_between_their_labels(self, shards):
        mixing = OFF.model_copy(update={"mixup": 1.0})
        _, labels, weights = next(iter(training_data(shards, augment=mixing, label_weights=(1, 3, 9)).batches()))
        np.testing.assert_allclose(weights, labels.numpy() @ [1, 3, 9], rtol=1e-5)
        assert len(set(weights.numpy().tolist())) > 3

    def test_several_hosts_share_each_batch(self, shards):
        data = training_data(shards)
        parts = [next(iter(data.batches(step=4, host=host, hosts=2)))[0][:, 0, 0].numpy() for host in (0, 1)]
        whole = next(iter(data.batches(step=4)))[0][:, 0, 0].numpy()
        assert [len(part) for part in parts] == [5, 5]
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.sort(whole))

    def test_hosts_augment_differently(self, shards):
        gains = OFF.model_copy(update={"gain_db": (-20.0, 20.0)})
        data = training_data(shards, augment=gains)
        factors = []
        for host in (0, 1):
            clips = data.clips_of_step(0)[host::2]
            features = next(iter(data.batches(host=host, hosts=2)))[0][:, 0, 0].numpy()
            factors.append(features / [float(clip) or np.inf for clip in clips])
        assert np.abs(factors[0] - factors[1]).max() > 0.01

    def test_the_clips_of_a_step_can_be_named(self, shards):
        data = training_data(shards, seed=7)
        for step in (0, 8):
            features = next(iter(data.batches(step)))[0]
            assert data.clips_of_step(step) == [str(number) for number in np.rint(features[:, 0, 0]).astype(int)]

    def test_before_and_after_augmentation(self, shards):
        louder = OFF.model_copy(update={"gain_db": (20.0, 20.0)})
        data = training_data(shards, augment=louder)
        before, after = data.before_and_after(4)
        assert before.shape == after.shape == (4, 1, 1)
        np.testing.assert_allclose(before[:, 0, 0], [float(clip) for clip in data.clips_of_step(0)[:4]], atol=1e-3)
        np.testing.assert_allclose(after, 10 * before, rtol=1e-4)

    def test_at_odd_steps_clips_follow_each_other(self, shards):
        data = training_data(shards, front_end=Frames(), stream_clips=5, stream_frames=4)
        for step in (0, 1, 6, 7):
            features, labels, weights = next(iter(data.batches(step)))
            numbers = np.array([int(name) for name in data.clips_of_step(step)])
            heard = np.repeat(numbers, 4).reshape((2, 20) if step % 2 else (10, 4))
            np.testing.assert_allclose(features[:, :, 0], heard, atol=1e-3)
            np.testing.assert_array_equal(labels, np.eye(3)[numbers % 3])
            assert weights.shape == (10,)

    def test_frames_of_a_stream_hear_both_clips_and_silence_between(self, shards):
        """Frames of 4 samples every 2; a clip of 8 is followed by 4 of silence."""
        data = training_data(shards, front_end=OverlappingFrames(), stream_clips=2, stream_frames=6)
        features, *_ = next(iter(data.batches(1)))
        for heard, (one, other) in zip(features, pairs([int(n) for n in data.clips_of_step(1)]), strict=True):
            samples = np.concatenate([[one] * 8, [0] * 4, [other] * 8, [0] * 4, [0] * 2])
            expected = [samples[2 * frame : 2 * frame + 4].mean() for frame in range(12)]
            np.testing.assert_allclose(heard[:, 0], expected, atol=1e-3)

    def test_each_clip_of_a_stream_is_augmented_by_itself(self, shards):
        gains = OFF.model_copy(update={"gain_db": (-20.0, 20.0), "time_masks": 1, "time_mask_frames": 4})
        data = training_data(shards, augment=gains, front_end=Frames(), stream_clips=5, stream_frames=4)
        features = next(iter(data.batches(1)))[0].numpy().reshape(10, 4)
        numbers = np.array([int(name) for name in data.clips_of_step(1)])
        said = numbers > 0
        # A mask's value is the clip's own mean, and so that of its every frame.
        factors = features[said] / numbers[said, None]
        np.testing.assert_allclose(factors, factors[:, :1].repeat(4, 1), rtol=1e-3)
        assert len(set(factors[:, 0].round(3).tolist())) > 5

    def test_a_stream_is_heard_through_one_microphone(self, shards):
        data = training_data(
            shards,
            augment=OFF.model_copy(update={"microphone_probability": 0.5}),
            front_end=Responses(),
            stream_clips=5,
            stream_frames=4,
        )
        responses = next(iter(data.batches(1)))[0].numpy()
        assert responses.shape == (2, 20, 3)
        assert np.ptp(responses, axis=1).max() == 0

    @pytest.mark.parametrize("step", [0, 1])
    def test_each_clip_or_stream_has_a_vocal_tract(self, shards, step):
        augment = OFF.model_copy(update={"vocal_tract": (0.5, 2.0)})
        streams = {"stream_clips": 5, "stream_frames": 4}
        data = training_data(shards, augment=augment, front_end=Filters(), **streams)
        filters = next(iter(data.batches(step)))[0].numpy()
        assert filters.shape[0] == (10 if step == 0 else 2)
        assert len(np.unique(filters[:, 0], axis=0)) > 1
        np.testing.assert_array_equal(filters, next(iter(data.batches(step)))[0])
        assert (filters != next(iter(data.batches(step + 2)))[0].numpy()).any()

    def test_before_and_after_shows_clips_alone(self, shards):
        louder = OFF.model_copy(update={"gain_db": (20.0, 20.0)})
        data = training_data(shards, augment=louder, front_end=Frames(), stream_clips=5, stream_frames=4)
        before, after = data.before_and_after(4)
        assert before.shape == after.shape == (4, 4, 1)
        expected = np.repeat([float(clip) for clip in data.clips_of_step(0)[:4]], 4).reshape(4, 4)
        np.testing.assert_allclose(before[:, :, 0], expected, atol=1e-3)
        np.testing.assert_allclose(after, 10 * before, rtol=1e-4)

    def test_validation(self, shards):
        batches = feature_batches(shards, "validation", LABELS, Mean(), clip_samples=SAMPLES, batch_size=4)
        assert self.check(batches.as_numpy_iterator(), 11) == list(range(11))

    def test_augmentation_is_a_function_of_seed_and_step(self, shards):
        def features(step: int, seed: int = 0):
            augment = AugmentSettings(time_shift_ms=0, speed=None, time_masks=0, frequency_masks=0)
            batches = training_data(shards, augment=augment, seed=seed).batches(step)
            return [features for features, *_ in batches.take(3).as_numpy_iterator()]

        whole, later, other = features(5), features(6), features(5, seed=1)
        np.testing.assert_array_equal(whole[1:], later[:2])
        assert not np.array_equal(whole, other)

    def test_silence_is_fresh_at_each_step(self, shards, tmp_path):
        folder = shutil.copytree(shards, tmp_path / "shards")
        np.save(folder / "noise.npy", np.arange(10000, dtype=np.int16))

        def features(**augment) -> list[tuple[np.ndarray, np.ndarray]]:
            changed = OFF.model_copy(update=augment)
            batches = training_data(folder, augment=changed, batch_size=63, steps_per_epoch=1).batches()
            return [
                (labels.argmax(axis=1), features[:, 0, 0])
                for features, labels, _ in batches.take(2).as_numpy_iterator()
            ]

        (first, one), (second, two) = features(fresh_silence=True)
        np.testing.assert_allclose(np.sort(one[first != 2]), [n for n in range(63) if n % 3 != 2], atol=1e-3)
        assert sorted(one[first == 2]) != sorted(two[second == 2])
        np.testing.assert_array_equal(one, features(fresh_silence=True)[0][1])
        assert sorted(features(fresh_silence=False)[0][1].round()) == list(range(63))

    def test_clips_of_another_length(self, shards):
        with pytest.raises(UserError, match="expected clips of 9 samples"):
            training_data(shards, clip_samples=9)


def test_labels(tmp_path):
    table = label_table(["b", "a"])
    assert table.lookup(tf.constant(["a", "b", "c"])).numpy().tolist() == [1, 0, -1]
    (tmp_path / "labels.txt").write_text("turn off\nsí\n_unknown_\n", encoding="utf-8")
    assert read_labels(tmp_path) == ("turn off", "sí", "_unknown_")
    with pytest.raises(UserError, match=r"no labels.txt\); run `speech-gru prepare` first"):
        read_labels(tmp_path / "elsewhere")


@pytest.mark.parametrize("content", [None, b"", b"text", b"\x93NUMPY\x01\x00\x10\x00"])
def test_noise_that_is_missing_or_damaged(tmp_path, content):
    if content is not None:
        (tmp_path / "noise.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"noise.npy can't be read: .*; run `speech-gru prepare` again"):
        read_noise(tmp_path)


def test_noise_runs_no_code(tmp_path):
    np.save(tmp_path / "noise.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="can't be read"):
        read_noise(tmp_path)
