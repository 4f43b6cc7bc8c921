"""What a phrase recogniser learns from: each phrase once an epoch, as long as it is, whatever is in its batch."""

from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.clip_index import ClipIndex
from data_pipeline.errors import UserError
from data_pipeline.front_end import FrontEnd
from data_pipeline.manifest import Row, write_rows
from data_pipeline.phrases import (
    BATCHES_SORTED,
    PhraseData,
    RecordedPhrases,
    Speller,
    masked_features,
    open_recorded,
    open_usable,
    pad,
    padded_batches,
    plan_epoch,
    steps_needed,
)
from data_pipeline.settings import AugmentSettings
from data_pipeline.shards import encode_clip

RATE, FFT, HOP = 8000, 256, 200
LABELS = ("", "an", "aus", "licht")
OFF = {
    **{"time_shift_ms": 0, "gain_db": None, "speed": None},
    **{"noise_probability": 0, "time_masks": 0, "frequency_masks": 0},
}


def noise_of(seed: int, samples: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-3000, 3000, samples).astype(np.int16)


def write_shards(folder, clips: list[tuple[int, str]], split="train"):
    """A shard of clips of so many samples with these texts; clip n is noise_of(n)."""
    folder.mkdir(exist_ok=True)
    path, rows = folder / f"{split}-00000.tfrecord", []
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, (samples, text) in enumerate(clips):
            name = f"{number}.wav"
            writer.write(encode_clip(noise_of(number, samples), label="_phrase_", text=text, speaker="", path=name))
            rows.append(Row(name, text, split, text=text, label="_phrase_", seconds=round(samples / RATE, 4)))
    write_rows(path.with_suffix(".csv"), rows)
    write_rows(folder / "manifest.csv", rows)
    return folder


TEXTS = ("an", "aus aus", "licht an", "licht aus an")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """23 clips of 0.1 to 0.65 s."""
    clips = [(800 + 200 * (number * 7 % 23), TEXTS[number % 4]) for number in range(23)]
    return write_shards(tmp_path_factory.mktemp("phrases") / "shards", clips)


@pytest.fixture(scope="module")
def front_end():
    return FrontEnd(sample_rate=RATE, kind="log_mel", window_ms=32, hop_ms=25, mel_bins=12)


@pytest.fixture(scope="module")
def data(shards, front_end):
    """A function (**augmentation) -> PhraseData of batches of 4, 5 in an epoch."""

    def make(source=None, noise=None, seed=0, **augment) -> PhraseData:
        source = source or open_recorded(shards, "train", RATE)
        noise = np.zeros(0, np.int16) if noise is None else noise
        settings = AugmentSettings(**{**OFF, **augment})
        return PhraseData(source, Speller(LABELS, "words"), front_end, settings, noise, seed, 4, 5)

    return make


def first(count, batches):
    return list(islice(batches.as_numpy_iterator(), count))


def assert_same(batch, other):
    for part, same in zip(batch, other, strict=True):
        np.testing.assert_array_equal(part, same)


class TestPlan:
    @settings(max_examples=60, deadline=None)
    @given(st.data(), st.integers(1, 9), st.integers(1, 40), st.integers(0, 99), st.integers(0, 99))
    def test_each_phrase_at_most_once_in_batches_of_about_one_size(self, data, batch_size, steps, seed, epoch):
        count = steps * batch_size + data.draw(st.integers(0, 20))
        sizes = np.random.default_rng(data.draw(st.integers(0, 99))).uniform(0, 10, count)
        plan = plan_epoch(sizes, seed, epoch, batch_size, steps)
        assert plan.shape == (steps, batch_size)
        assert len(np.unique(plan)) == plan.size
        assert plan.min() >= 0
        assert plan.max() < count
        # Sorted batches lie side by side: together they span what is sorted at a time no more than once.
        spread = sizes[plan].max(axis=1) - sizes[plan].min(axis=1)
        assert spread.sum() <= -(-steps // BATCHES_SORTED) * np.ptp(sizes) + 1e-9
        np.testing.assert_array_equal(plan_epoch(sizes, seed, epoch, batch_size, steps), plan)

    def test_epochs_and_seeds_have_other_orders(self):
        plan = partial(plan_epoch, np.arange(100.0), batch_size=5, steps=20)
        plans = [plan(0, 0), plan(0, 1), plan(1, 0)]
        assert len({found.tobytes() for found in plans}) == 3
        assert all(sorted(found.ravel()) == list(range(100)) for found in plans)

    def test_those_that_are_left_over_have_their_turn_in_another_epoch(self):
        seen = [set(plan_epoch(np.zeros(11), 0, epoch, 5, 2).ravel()) for epoch in range(20)]
        assert {len(numbers) for numbers in seen} == {10}
        assert set.union(*seen) == set(range(11))

    def test_more_steps_than_phrases(self):
        plan = plan_epoch(np.zeros(11), 0, 0, 5, 9)
        assert plan.shape == (9, 5)
        assert set(np.bincount(plan.ravel())) == {4, 5}

    def test_batches_are_not_in_the_order_of_their_sizes(self):
        means = plan_epoch(np.arange(64.0), 0, 0, 4, 16).mean(axis=1)
        assert (np.diff(means) > 0).any()
        assert (np.diff(means) < 0).any()


class TestBatches:
    def test_every_phrase_once_with_its_tokens(self, data, shards):
        recorded, origins = data(), []
        texts = {row.path: row.text for row in ClipIndex(shards, "train").rows}
        for step, (features, frames, tokens, counts) in enumerate(first(5, recorded.batches())):
            names = recorded.clips_of_step(step)
            origins += names
            assert (features.dtype, frames.dtype, tokens.dtype, counts.dtype) == ("float32", "int32", "int32", "int32")
            assert features.shape[::2] == (4, 12)
            assert features.shape[1] >= frames.max()
            for place, name in enumerate(names):
                expected = [LABELS.index(word) for word in texts[name].split()]
                assert tokens[place].tolist() == expected + [0] * (tokens.shape[1] - len(expected))
                assert counts[place] == len(expected)
        assert len(set(origins)) == 20

    def test_features_are_those_of_the_clip_alone_and_zero_after_it(self, data, front_end):
        recorded = data()
        for step, (features, frames, _, _) in enumerate(first(5, recorded.batches())):
            for row, count, name in zip(features, frames, recorded.clips_of_step(step), strict=True):
                number = int(name.removesuffix(".wav"))
                audio = noise_of(number, 800 + 200 * (number * 7 % 23)).astype(np.float32) / 32768
                alone = np.array(front_end(audio[np.newaxis]))[0]
                assert count == len(alone) == (len(audio) - FFT) // HOP + 1
                np.testing.assert_allclose(row[:count], alone, atol=1e-5, rtol=0)
                assert not row[count:].any()

    @pytest.mark.parametrize("step", [1, 4, 5, 8])
    def test_going_on_from_a_step(self, data, step):
        augment = {"time_shift_ms": 50, "gain_db": (-6, 6), "speed": (0.9, 1.1), "time_masks": 2, "frequency_masks": 1}
        augment |= {"noise_probability": 0.5, "microphone_probability": 0.5, "pause_ms": (0, 200)}
        noise = noise_of(99, 20000)
        everything = first(10, data(noise=noise, **augment).batches())
        for batch, other in zip(first(2, data(noise=noise, **augment).batches(step)), everything[step:], strict=False):
            assert_same(batch, other)

    def test_other_seeds_and_epochs(self, data):
        recorded = data()
        names = [name for step in range(10) for name in recorded.clips_of_step(step)]
        assert names[:20] != names[20:]
        assert data(seed=1).clips_of_step(0) != names[:4]

    def test_hosts_share_a_batch(self, data):
        whole, halves = first(6, data().batches()), [first(6, data().batches(host=host, hosts=2)) for host in (0, 1)]
        for batch, *parts in zip(whole, *halves, strict=True):
            for host, (features, frames, tokens, counts) in enumerate(parts):
                np.testing.assert_array_equal(frames, batch[1][host::2])
                np.testing.assert_array_equal(counts, batch[3][host::2])
                np.testing.assert_array_equal(tokens, batch[2][host::2, : tokens.shape[1]])
                np.testing.assert_allclose(features, batch[0][host::2, : features.shape[1]], atol=1e-5)

    def test_hosts_draw_apart(self, data):
        draws = {"gain_db": (-20, 0)}
        loud = [first(1, data(**draws).batches(host=host, hosts=2))[0][0] for host in (0, 1)]
        plain = [first(1, data().batches(host=host, hosts=2))[0][0] for host in (0, 1)]
        gains = [(features - other)[:, 0].mean(axis=1) for features, other in zip(loud, plain, strict=True)]
        assert len({round(float(gain), 3) for gain in np.concatenate(gains)}) == 4

    def test_a_shift_puts_silence_before_the_phrase(self, data):
        """Up to 100 ms: 0 to 4 frames more of 25 ms, of the lowest level that there is."""
        plain, shifted = first(5, data().batches()), first(5, data(time_shift_ms=100).batches())
        more = np.concatenate([batch[1] - other[1] for batch, other in zip(shifted, plain, strict=True)])
        assert {1, 2, 3} <= set(more) <= {0, 1, 2, 3, 4}
        for features, frames, _, _ in shifted:
            assert all(not row[count:].any() for row, count in zip(features, frames, strict=True))

    def test_pauses_at_every_other_step(self, data):
        """0.2 to 0.3 s on both sides, 16 to 24 frames of 25 ms more, drawn for each; not silent as a shift is."""
        plain, paused = first(10, data().batches()), first(10, data(pause_ms=(200, 300), time_shift_ms=0).batches())
        more = []
        for step, (batch, other) in enumerate(zip(paused, plain, strict=True)):
            if step % 2 == 0:
                assert_same(batch, other)
                continue
            assert_same(batch[2:], other[2:])
            more.append(tuple(batch[1] - other[1]))
            for features, phrase, count, frames in zip(batch[0], other[0], batch[1], other[1], strict=True):
                # The clips are noise throughout: a pause is as loud as they, less 30 to plus 6 dB.
                level = phrase[:frames].mean()
                for pause in (features[:6], features[count - 6 : count]):
                    assert level - 33 < pause.mean() < level + 9
        assert set(np.ravel(more)) <= set(range(16, 25))
        assert len(set(np.ravel(more))) > 3
        assert len(set(more)) == 5

    def test_a_pause_comes_in_place_of_a_shift(self, data):
        shifted = first(2, data(time_shift_ms=100, pause_ms=(500, 500)).batches())
        plain = first(2, data().batches())
        assert set(shifted[0][1] - plain[0][1]) <= {0, 1, 2, 3, 4}
        np.testing.assert_array_equal(shifted[1][1] - plain[1][1], 40)

    def test_speed_changes_the_length(self, data):
        plain, fast = first(5, data().batches()), first(5, data(speed=(1.25, 1.25)).batches())
        recorded = data()
        for step, (batch, other) in enumerate(zip(fast, plain, strict=True)):
            numbers = [int(name.removesuffix(".wav")) for name in recorded.clips_of_step(step)]
            samples = np.array([800 + 200 * (number * 7 % 23) for number in numbers])
            np.testing.assert_array_equal(batch[1], (samples * 4 // 5 - FFT) // HOP + 1)
            np.testing.assert_array_equal(batch[2], other[2])

    def test_nothing_augmented_reaches_beyond_a_phrase(self, data):
        augment = {"noise_probability": 1, "gain_db": (0, 6), "time_masks": 2, "frequency_masks": 2}
        for features, frames, _, _ in first(5, data(noise=noise_of(5, 9000), **augment).batches()):
            assert all(not row[count:].any() for row, count in zip(features, frames, strict=True))
            assert all(row[:count].any() for row, count in zip(features, frames, strict=True))

    def test_before_and_after(self, data):
        before, after = data(gain_db=(6, 6.0001)).before_and_after(3)
        assert before.shape == after.shape
        frames = first(1, data().batches())[0][1][:3]
        for plain, loud, count in zip(before, after, frames, strict=True):
            # Log-mel is in decibels.
            np.testing.assert_allclose(loud[:count] - plain[:count], 6, atol=1e-2)


def test_batches_have_few_lengths(data):
    """Of audio, whole quarters of a second: the frames that fit in 0.25, 0.5 and 0.75 s."""
    batches = first(20, data().batches())
    assert {features.shape[1] for features, *_ in batches} == {
        (2000 * quarters - FFT) // HOP + 1 for quarters in (1, 2, 3)
    }
    assert len({frames.max() for _, frames, *_ in batches}) > 3


class TestViews:
    """Each phrase twice in a step."""

    @pytest.fixture
    def twice(self, data):
        return lambda **augment: replace(data(**augment), views=2)

    def test_without_augmentation_both_are_the_phrase(self, data, twice):
        for batch, (features, *rest) in zip(first(5, data().batches()), first(5, twice().batches()), strict=True):
            assert_same(batch[1:], rest)
            for view in (0, 1):
                np.testing.assert_allclose(features[:, view], batch[0], atol=1e-5)

    def test_both_are_played_at_one_speed(self, data, twice):
        plain, fast = first(5, data().batches()), first(5, twice(speed=(0.8, 1.25)).batches())
        assert any((batch[1] != other[1]).any() for batch, other in zip(plain, fast, strict=True))
        for features, frames, _, _ in fast:
            assert (features.shape[:2], frames.shape) == ((4, 2), (4,))
            np.testing.assert_array_equal(features[:, 0], features[:, 1])

    @pytest.mark.parametrize(
        "augment",
        [
            {"gain_db": (-20, 0)},
            {"noise_probability": 1, "snr_db": (0, 10), "noise": noise_of(99, 20000)},
            {"microphone_probability": 1},
            {"vocal_tract": (0.8, 1.25)},
            {"frequency_masks": 2, "frequency_mask_bins": 9},
        ],
    )
    def test_the_rest_is_drawn_for_each(self, twice, augment):
        for features, frames, _, _ in first(5, twice(**augment).batches()):
            for (one, other), count in zip(features, frames, strict=True):
                assert not one[count:].any()
                assert not other[count:].any()
            different = [not np.allclose(one, other) for one, other in features]
            assert sum(different) >= 3  # two draws may be masks of no width

    def test_both_begin_alike(self, data, twice):
        plain, shifted = first(5, data().batches()), first(5, twice(time_shift_ms=100).batches())
        assert any((batch[1] != other[1]).any() for batch, other in zip(plain, shifted, strict=True))
        for features, *_ in shifted:
            np.testing.assert_array_equal(features[:, 0], features[:, 1])

    def test_before_and_after_are_single_phrases(self, twice):
        before, after = twice(gain_db=(6, 6.0001)).before_and_after(3)
        assert before.shape == after.shape == (3, *before.shape[1:])


class TestFrames:
    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.integers(0, 1000), min_size=1, max_size=4))
    def test_as_many_as_fit(self, front_end, samples):
        audio, lengths = pad([noise_of(1, count) for count in samples], np.int16, FFT)
        features, frames = masked_features(front_end, tf.constant(audio), tf.constant(lengths))
        for row, count, length in zip(features.numpy(), frames.numpy(), samples, strict=True):
            assert count == len(range(0, length - FFT + 1, HOP))
            assert not row[count:].any()


class TestPadding:
    def test_rows_of_different_lengths(self):
        padded, lengths = pad([[1, 2, 3], [], [4]])
        np.testing.assert_array_equal(padded, [[1, 2, 3], [0, 0, 0], [4, 0, 0]])
        np.testing.assert_array_equal(lengths, [3, 0, 1])
        assert padded.dtype == lengths.dtype == np.int32

    @pytest.mark.parametrize(("count", "multiple", "length"), [(4, 5, 5), (5, 5, 5), (6, 5, 10), (0, 3, 3)])
    def test_a_multiple_of(self, count, multiple, length):
        padded, lengths = pad([[1] * count, []], np.int16, 1, multiple)
        assert padded.shape == (2, length)
        np.testing.assert_array_equal(lengths, [count, 0])
        assert padded.sum() == count

    @pytest.mark.parametrize(("rows", "shape"), [([], (0, 1)), ([[]], (1, 1)), ([[1]], (1, 5))])
    def test_at_least(self, rows, shape):
        assert pad(rows, np.int16, shape[1])[0].shape == shape

    def test_batches_of_all_the_shortest_first(self, shards):
        batches = list(padded_batches(open_recorded(shards, "train", RATE), 5, 1000))
        assert [len(batch.numbers) for batch in batches] == [5, 5, 5, 5, 3]
        samples = np.concatenate([batch.samples for batch in batches])
        np.testing.assert_array_equal(samples, 800 + 200 * np.arange(23))
        assert batches[0].audio.shape == (5, 1600)
        assert all(batch.audio.shape[1] >= 1000 for batch in batches)
        for batch in batches:
            for number, audio, count, text, origin in zip(
                batch.numbers, batch.audio, batch.samples, batch.texts, batch.origins, strict=True
            ):
                np.testing.assert_array_equal(audio[:count], noise_of(number, count))
                assert not audio[count:].any()
                assert (text, origin) == (TEXTS[number % 4], f"{number}.wav")


class TestSpelling:
    def test_tokens(self):
        assert Speller(LABELS, "words")(" licht  an unbekannt an") == [3, 1, 1]
        assert Speller(("", " ", "a", "b"), "characters")("ab  a") == [2, 3, 1, 2]
        assert Speller(LABELS, "words")("") == []

    def test_complete(self):
        spell = Speller(LABELS, "words")
        assert spell.is_complete("licht an")
        assert spell.is_complete("")
        assert not spell.is_complete("licht heller")

    def test_the_blank_is_no_token(self):
        assert not Speller(("x", "an"), "words").is_complete("x")


@given(st.lists(st.integers(1, 3), max_size=6))
def test_steps_needed(tokens):
    """CTC (Graves et al. 2006): a path is tokens and blanks (0) that, equal neighbours merged, blanks gone, says them.

    The shortest of them, found by trying all paths from the shortest on.
    """
    ends, steps = {(0, 0)}, 0  # (tokens said, the last step's output)
    while not any(said == len(tokens) for said, _ in ends):
        following = set()
        for said, last in ends:
            following |= {(said, 0), (said, last)}
            if tokens[said] != last:
                following.add((said + 1, tokens[said]))
        ends, steps = following, steps + 1
    assert steps_needed(tokens) == steps


class TestUsable:
    """A frame has 256 samples, and begins 200 after the one before: n frames need 56 + 200 n samples."""

    def open(self, tmp_path, front_end, *clips, subsampling=2, fastest=1.0):
        folder = write_shards(tmp_path / "shards", [*clips, (8000, "an")])
        return open_usable(folder, Speller(LABELS, "words"), front_end, subsampling, fastest)

    @pytest.mark.parametrize(
        ("text", "steps"), [("an", 1), ("an aus", 2), ("an an", 3), ("an aus an", 3), ("aus aus aus", 5)]
    )
    def test_time_enough_and_not(self, tmp_path, front_end, text, steps):
        enough = 56 + 200 * 2 * steps
        phrases = self.open(tmp_path, front_end, (enough, text), (enough - 1, text))
        assert phrases.left_out == ["1.wav"]
        assert len(phrases) == 2
        assert [phrases.read(0, number)[2] for number in range(2)] == ["0.wav", "2.wav"]

    def test_the_fastest_counts(self, tmp_path, front_end):
        enough = round(1.25 * (56 + 200 * 2))
        phrases = self.open(tmp_path, front_end, (enough, "an"), (enough - 2, "an"), fastest=1.25)
        assert phrases.left_out == ["1.wav"]

    def test_the_fastest_that_is_played(self, tmp_path, front_end):
        """Factors are multiples of 1/160: 1.105 is 177/160, not 176.8/160."""
        enough = -(-(56 + 200 * 2 * 9) * 177 // 160)
        text = "an aus an aus an aus an aus licht"
        phrases = self.open(tmp_path, front_end, (enough, text), (enough - 1, text), fastest=1.105)
        assert phrases.left_out == ["1.wav"]

    def test_tokens_that_the_table_lacks(self, tmp_path, front_end):
        assert self.open(tmp_path, front_end, (8000, "an hell")).left_out == ["0.wav"]

    def test_silence_is_usable(self, tmp_path, front_end):
        assert self.open(tmp_path, front_end, (456, ""), (455, "")).left_out == ["1.wav"]  # two frames make a step

    def test_none(self, tmp_path, front_end):
        folder = write_shards(tmp_path / "shards", [(300, "an an")] * 3)
        with pytest.raises(
            UserError, match=r"none of the 3 training phrases has steps enough .*lower model.subsampling"
        ):
            open_usable(folder, Speller(LABELS, "words"), front_end, 1, 1.0)

    def test_all_recorded_ones_are_measured(self, tmp_path):
        phrases = RecordedPhrases(ClipIndex(write_shards(tmp_path / "shards", [(300, "an an")]), "train"), RATE)
        assert (len(phrases), phrases.left_out) == (1, [])
