"""Pauses around recorded phrases: the phrase is untouched, and the pause sounds like its room."""

import numpy as np
import pytest

from data_pipeline.pauses import room_tone, with_pauses

RATE = 16000


@pytest.fixture
def generator():
    return np.random.default_rng(0)


@pytest.fixture
def phrase():
    """A loud sound of one second between half seconds of a hum at 1000 Hz with an amplitude of 200."""
    loud = np.random.default_rng(1).normal(0, 4000, RATE)
    hum = 200 * np.sin(2 * np.pi * 1000 * np.arange(RATE // 2) / RATE)
    return np.clip(np.concatenate([hum, loud, hum]), -32768, 32767).astype(np.int16)


class TestWithPauses:
    def test_the_phrase_lies_between_pauses_of_the_drawn_lengths(self, phrase, generator):
        befores, afters = [], []
        for _ in range(40):
            longer = with_pauses(phrase, RATE, (100, 300), generator)
            assert longer.dtype == np.int16
            before = next(at for at in range(len(longer)) if np.array_equal(longer[at : at + len(phrase)], phrase))
            befores.append(before)
            afters.append(len(longer) - len(phrase) - before)
        for lengths in (befores, afters):
            assert 1600 <= min(lengths) < 2400
            assert 4000 < max(lengths) <= 4800
        assert np.corrcoef(befores, afters)[0, 1] < 0.5

    def test_levels_from_far_below_the_background_to_above(self, phrase, generator):
        background = 200 / np.sqrt(2)
        pauses = [with_pauses(phrase, RATE, (500, 500), generator) for _ in range(60)]
        levels = [20 * np.log10(np.std(longer[:8000]) / background) for longer in pauses]
        assert -31 < min(levels) < -26
        assert 3 < max(levels) < 7

    def test_the_two_pauses_differ(self, phrase, generator):
        longer = with_pauses(phrase, RATE, (500, 500), generator).astype(float)
        assert abs(np.corrcoef(longer[:8000], longer[-8000:])[0, 1]) < 0.5
        assert np.std(longer[:8000]) == pytest.approx(np.std(longer[-8000:]), rel=0.3)

    def test_no_step_where_the_phrase_begins(self, generator):
        """Of a recording whose samples lie about 500 the pause's do so too."""
        offset = np.random.default_rng(3).normal(500, 5, RATE).astype(np.int16)
        longer = with_pauses(offset, RATE, (500, 500), generator)
        assert np.mean(longer[:8000]) == pytest.approx(500, abs=1)
        assert abs(np.diff(longer.astype(int))).max() < 80

    def test_no_pause(self, phrase, generator):
        np.testing.assert_array_equal(with_pauses(phrase, RATE, (0, 0), generator), phrase)

    def test_loud_pauses_are_clipped(self, generator):
        """Were they to wrap, a sample would be far from its neighbour; 100 Hz changes slowly."""
        low = (32767 * np.sin(2 * np.pi * 100 * np.arange(RATE) / RATE)).astype(np.int16)
        pauses = np.concatenate([with_pauses(low, RATE, (500, 500), generator)[:8000] for _ in range(20)])
        steps = abs(np.diff(pauses.astype(int).reshape(20, 8000)))
        assert steps.max() < 8000
        assert (abs(pauses.astype(int)) >= 32767).any()


class TestRoomTone:
    def test_has_the_level_and_the_spectrum_of_the_quietest_moment(self, phrase, generator):
        tone = room_tone(phrase, 2 * RATE, RATE, generator)
        assert tone.shape == (2 * RATE,)
        assert np.std(tone) == pytest.approx(200 / np.sqrt(2), rel=0.02)
        power = np.abs(np.fft.rfft(tone)) ** 2
        hz = np.fft.rfftfreq(len(tone), 1 / RATE)
        assert power[abs(hz - 1000) < 25].sum() > 0.98 * power.sum()

    def test_is_noise_not_a_loop(self, phrase, generator):
        phrase = np.random.default_rng(2).normal(0, 50, RATE).astype(np.int16)
        tone = room_tone(phrase, 2 * RATE, RATE, generator)
        shifted = [abs(np.corrcoef(tone[:RATE], tone[lag : lag + RATE])[0, 1]) for lag in range(800, 3600, 100)]
        assert max(shifted) < 0.1

    @pytest.mark.parametrize("samples", [0, 1, 799, 1600, 7919])
    @pytest.mark.parametrize("phrase", [np.zeros(5000, np.int16), np.array([7], np.int16), np.full(900, 40, np.int16)])
    def test_recordings_in_which_nothing_moves(self, phrase, samples, generator):
        np.testing.assert_array_equal(room_tone(phrase, samples, RATE, generator), np.full(samples, phrase[0]))

    def test_a_recording_shorter_than_a_tenth_of_a_second(self, generator):
        short = np.random.default_rng(4).normal(0, 300, 900).astype(np.int16)
        tone = room_tone(short, 8000, RATE, generator)
        assert np.std(tone) == pytest.approx(300, rel=0.1)

    def test_the_quietest_is_not_the_one_nearest_to_zero(self, generator):
        """An offset is no sound."""
        loud, quiet = np.random.default_rng(5).normal(0, 100, 1600), np.random.default_rng(6).normal(2000, 10, 1600)
        tone = room_tone(np.concatenate([loud, quiet, loud]).astype(np.int16), 4800, RATE, generator)
        assert np.std(tone) == pytest.approx(10, rel=0.1)
        assert np.mean(tone) == pytest.approx(2000, abs=5)
