"""Each way of spoiling clips, measured on what comes out of it: powers, spectra, samples."""

import json

import numpy as np
import pytest
import soundfile
from scipy.stats import binomtest

from data_pipeline.errors import UserError
from speech_gru import robustness
from speech_gru.robustness import conditions, load_noise, measure_robustness, robustness_figure, write_robustness

RATE = 16000
SAMPLES = RATE
NAMES = [
    *("clean", "20 dB SNR", "10 dB SNR", "5 dB SNR", "0 dB SNR", "telephone", "-20 dB level"),
    *("-100 ms", "+100 ms", "speed 0.9", "speed 1.1"),
]


@pytest.fixture(scope="module")
def hiss() -> list[np.ndarray]:
    """Two recordings, of which one is louder and has a constant voltage, so that no cut is like another."""
    rng = np.random.default_rng(0)
    return [
        rng.normal(0, 0.02, 3 * RATE).astype(np.float32),
        (rng.normal(0, 0.2, 2 * RATE) + np.linspace(0, 0.3, 2 * RATE)).astype(np.float32),
    ]


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    rng = np.random.default_rng(1)
    return (rng.uniform(0.01, 0.5, (9, 1)) * rng.normal(0, 1, (9, SAMPLES))).astype(np.float32)


@pytest.fixture
def spoil(hiss):
    """A function (name of the condition, clips, seed) -> what they become."""

    def spoil(name: str, clips: np.ndarray, seed: int = 0, noise=hiss, rate: int = RATE) -> np.ndarray:
        (condition,) = (condition for condition in conditions(noise, rate) if condition.name == name)
        return condition.spoil(clips, np.random.default_rng(seed))

    return spoil


def tone(hertz: float, rate: int = RATE, amplitude: float = 0.5) -> np.ndarray:
    """(1, samples): a second of it."""
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(rate) / rate))[np.newaxis].astype(np.float32)


def decibels(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The power of the one over the other's, clip by clip."""
    powers = (np.square(signal.astype(np.float64)).sum(axis=-1) for signal in (one, other))
    return 10 * np.log10(np.divide(*powers))


def pitch(clip: np.ndarray, rate: int = RATE) -> float:
    """Hz, of a tone: where the spectrum of its middle half has its peak, to a 16th of a bin."""
    middle = clip[len(clip) // 4 : -len(clip) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 16 * len(middle)))
    return spectrum.argmax() * rate / (16 * len(middle))


def test_the_conditions():
    assert [condition.name for condition in conditions([np.ones(9)], RATE)] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_clips_stay_clips_and_the_same_seed_gives_the_same(spoil, clips, name):
    before = clips.copy()
    spoilt = spoil(name, clips)
    assert (spoilt.shape, spoilt.dtype) == (clips.shape, np.float32)
    np.testing.assert_array_equal(clips, before)
    np.testing.assert_array_equal(spoil(name, clips), spoilt)
    if name == "clean":
        np.testing.assert_array_equal(spoilt, clips)
    else:
        assert (np.abs(spoilt - clips).max(axis=1) > 1e-3).all()


@pytest.mark.parametrize("name", NAMES)
def test_silent_clips_stay_finite(spoil, name):
    assert np.isfinite(spoil(name, np.zeros((3, SAMPLES), np.float32))).all()
    dead = [np.append(np.zeros(3 * SAMPLES), 1e-3).astype(np.float32)]
    assert np.isfinite(spoil(name, tone(440), noise=dead)).all()


class TestNoise:
    @pytest.mark.parametrize("snr", [20, 10, 5, 0])
    def test_it_is_so_many_decibels_below_each_clip(self, spoil, clips, snr):
        added = spoil(f"{snr} dB SNR", clips).astype(np.float64) - clips
        np.testing.assert_allclose(decibels(clips, added), snr, atol=0.01)

    def test_it_comes_from_all_recordings_and_from_anywhere_in_them(self, spoil, clips, hiss):
        added = spoil("0 dB SNR", clips) - clips
        found = set()
        for cut in added:
            for number, recording in enumerate(hiss):
                size = len(recording) + SAMPLES
                products = np.fft.irfft(np.fft.rfft(recording, size) * np.conj(np.fft.rfft(cut, size)), size)
                start = int(products[: len(recording) - SAMPLES + 1].argmax())
                if np.corrcoef(cut, recording[start : start + SAMPLES])[0, 1] > 0.999:
                    found.add((number, start))
        assert {number for number, _ in found} == {0, 1}
        assert len(found) == len(clips)
        assert len({start for _, start in found}) == len(clips)

    def test_another_seed_gives_another(self, spoil, clips):
        assert np.abs(spoil("0 dB SNR", clips, 1) - spoil("0 dB SNR", clips, 2)).max() > 1e-2

    def test_a_recording_shorter_than_a_clip_is_repeated(self, spoil):
        short = np.random.default_rng(2).normal(0, 0.1, 700).astype(np.float32)
        added = (spoil("5 dB SNR", tone(440), noise=[short]) - tone(440))[0]
        np.testing.assert_allclose(added[700:], added[:-700], atol=1e-6)
        assert np.corrcoef(added[:700], short)[0, 1] > 0.999
        assert decibels(tone(440)[0], added) == pytest.approx(5, abs=0.01)


class TestTelephone:
    @staticmethod
    def gain(spoil, hertz: float, rate: int = RATE) -> float:
        """Once it has swung in."""
        clip = tone(hertz, rate)
        return decibels(spoil("telephone", clip, rate=rate)[0, rate // 2 :], clip[0, rate // 2 :])

    @pytest.mark.parametrize("hertz", [0.5, 100, 6000])
    def test_what_it_doesnt_carry(self, spoil, hertz):
        assert self.gain(spoil, hertz) < -20

    @pytest.mark.parametrize("hertz", [400, 1000, 3000])
    def test_what_it_carries(self, spoil, hertz):
        assert abs(self.gain(spoil, hertz)) < 1

    @pytest.mark.parametrize("rate", [4000, 6000, 8000, 48000])
    def test_at_any_sampling_rate(self, spoil, rate):
        assert abs(self.gain(spoil, 1000, rate)) < 1
        assert self.gain(spoil, 100, rate) < -20


def test_level(spoil, clips):
    np.testing.assert_allclose(spoil("-20 dB level", clips), clips / 10, rtol=1e-5)


class TestShifts:
    @pytest.mark.parametrize(("rate", "samples"), [(16000, 1600), (8000, 800), (11025, 1102)])
    def test_so_many_samples_and_zeros_come_in(self, spoil, clips, rate, samples):
        later, earlier = spoil("+100 ms", clips, rate=rate), spoil("-100 ms", clips, rate=rate)
        np.testing.assert_array_equal(later[:, samples:], clips[:, :-samples])
        np.testing.assert_array_equal(earlier[:, :-samples], clips[:, samples:])
        assert not later[:, :samples].any()
        assert not earlier[:, -samples:].any()


class TestSpeed:
    @pytest.mark.parametrize("speed", [0.9, 1.1])
    @pytest.mark.parametrize("hertz", [500, 2000])
    def test_a_tone_is_as_much_higher(self, spoil, speed, hertz):
        found = spoil(f"speed {speed}", tone(hertz))[0]
        assert pitch(found) == pytest.approx(hertz * speed, rel=1e-3)
        middle = slice(SAMPLES // 4, -SAMPLES // 4)
        assert decibels(found[middle], tone(hertz)[0][middle]) == pytest.approx(0, abs=0.2), "as loud"

    @pytest.mark.parametrize("samples", [SAMPLES, SAMPLES - 1, 4411])
    @pytest.mark.parametrize("speed", [0.9, 1.1])
    def test_length_and_centre_stay(self, spoil, speed, samples):
        click = np.zeros((1, samples), np.float32)
        click[0, samples // 2] = 1
        found = spoil(f"speed {speed}", click)
        assert found.shape == click.shape
        assert abs(int(np.abs(found).argmax()) - samples // 2) <= 1

    def test_what_lies_beside_the_middle_comes_nearer_or_goes_away(self, spoil):
        click = np.zeros((1, SAMPLES), np.float32)
        click[0, 5000] = 1  # 3000 before the middle
        for speed in (0.9, 1.1):
            assert np.abs(spoil(f"speed {speed}", click)).argmax() == pytest.approx(8000 - 3000 / speed, abs=2)

    def test_zeros_come_in_where_it_is_faster(self, spoil, clips):
        found = spoil("speed 1.1", clips)
        left = round(SAMPLES * (1 - 1 / 1.1) / 2)
        for edge in (found[:, : left - 2], found[:, 2 - left :]):
            assert not edge.any()
        assert (np.abs(found[:, left + 5 : -left - 5]).max(axis=1) > 0).all()
        assert (np.abs(spoil("speed 0.9", clips)[:, [0, -1]]) > 0).all()


class TestMeasuring:
    LABELS = 3

    @pytest.fixture
    def many(self) -> tuple[np.ndarray, np.ndarray]:
        """More clips than a batch has."""
        rng = np.random.default_rng(4)
        return rng.normal(0, 0.1, (600, 400)).astype(np.float32), rng.integers(self.LABELS, size=600)

    def test_only_clean_clips_are_known(self, many, hiss):
        """This recogniser knows each clip by its bytes, but the first three wrongly, and takes others for label 3."""
        clips, truth = many
        known = {clip.tobytes(): label for clip, label in zip(clips, truth, strict=True)}
        known |= {clip.tobytes(): (label + 1) % 3 for clip, label in zip(clips[:3], truth, strict=False)}

        def predict(audio: np.ndarray) -> np.ndarray:
            return np.eye(4, dtype=np.float32)[[known.get(clip.tobytes(), 3) for clip in audio]]

        rows = measure_robustness(predict, clips, truth, hiss, 1000)
        assert [row["condition"] for row in rows] == NAMES
        interval = binomtest(597, 600).proportion_ci(method="wilson")
        assert rows[0] == {
            "condition": "clean",
            "clips": 600,
            "correct": 597,
            "accuracy": 0.995,
            "accuracy_interval": [interval.low, interval.high],
        }
        for row in rows[1:]:
            assert (row["clips"], row["correct"], row["accuracy"]) == (600, 0, 0)
            assert row["accuracy_interval"] == [0, pytest.approx(0.0064, abs=1e-4)]

    def test_each_condition_is_heard_as_it_is_spoilt(self, many, hiss):
        clips, truth = many
        heard = []

        def predict(audio: np.ndarray) -> np.ndarray:
            heard.append(audio)
            return np.ones((len(audio), self.LABELS), np.float32)

        rows = measure_robustness(predict, clips, truth, hiss, 1000)
        assert {row["correct"] for row in rows} == {int((truth == 0).sum())}
        heard = np.concatenate(heard).reshape(len(NAMES), 600, 400)
        np.testing.assert_array_equal(heard[0], clips)
        for name, audio in zip(NAMES, heard, strict=True):
            if name.endswith("SNR"):
                np.testing.assert_allclose(decibels(clips, audio - clips), float(name.split()[0]), atol=0.05)
        noise = (heard[1] - clips) / np.linalg.norm(heard[1] - clips, axis=1, keepdims=True)
        assert (np.triu(noise @ noise.T, 1) > 0.999).sum() < 20, "each clip has its own noise, in all batches"
        np.testing.assert_array_equal(heard[NAMES.index("+100 ms")][:, 100:], clips[:, :-100])

    def test_what_is_too_loud_for_a_file_is_made_quieter_with_its_noise(self):
        clips, click = np.full((300, 400), 0.5, np.float32), np.zeros(400, np.float32)
        click[200] = 1  # with as much power as the clip it is 10 times as high
        heard = []

        def predict(audio: np.ndarray) -> np.ndarray:
            heard.append(audio)
            return np.ones((len(audio), self.LABELS), np.float32)

        measure_robustness(predict, clips, np.zeros(300, int), [click], 1000)
        heard = np.concatenate(heard).reshape(len(NAMES), 300, 400)
        assert np.abs(heard).max() <= 1
        loud = heard[NAMES.index("0 dB SNR")]
        np.testing.assert_allclose(loud.max(axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(loud.min(axis=1), 0.5 / 10.5, rtol=1e-5)

    def test_twice_the_same(self, many, hiss):
        clips, truth = many
        heard = [[], []]
        for audio_of in heard:

            def predict(audio, keep=audio_of.append):
                keep(audio)
                return np.ones((len(audio), self.LABELS))

            measure_robustness(predict, clips, truth, hiss, 1000)
        for one, other in zip(*heard, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_progress(self, many, hiss):
        told = []
        predict = lambda audio: np.ones((len(audio), self.LABELS))  # noqa: E731
        measure_robustness(predict, *many, hiss, 1000, lambda *counts: told.append(counts))
        done = [count for count, _ in told]
        assert {total for _, total in told} == {600 * len(NAMES)}
        assert done == sorted(set(done))
        assert done[:4] == [256, 512, 600, 856]
        assert done[-1] == 600 * len(NAMES)


class TestLoadingNoise:
    def test_all_recordings_under_the_folder_at_the_sampling_rate(self, tmp_path):
        (tmp_path / "deeper").mkdir()
        (tmp_path / "notes.txt").write_text("no audio")
        sound = tone(300, 8000)[0]
        soundfile.write(tmp_path / "b.wav", sound, 8000, subtype="FLOAT")
        soundfile.write(tmp_path / "deeper" / "a.FLAC", np.stack([sound, sound], 1), 8000, format="FLAC")
        found = load_noise(tmp_path, 16000)
        assert [recording.shape for recording in found] == [(16000,), (16000,)]
        for recording in found:
            assert pitch(recording) == pytest.approx(300, rel=1e-3)

    @pytest.mark.parametrize("exists", [False, True])
    def test_nothing_to_be_heard(self, tmp_path, exists):
        folder = tmp_path / "lärm"
        if exists:
            folder.mkdir()
            (folder / "a.txt").write_text("no audio")
        with pytest.raises(UserError, match=r"lärm: no recordings of noise; expected \.flac \.mp3") as caught:
            load_noise(folder, 16000)
        assert str(folder) in str(caught.value)

    def test_one_that_cant_be_read_is_named(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", tone(300)[0], RATE)
        (tmp_path / "b.wav").write_text("This is no audio, but a text.")
        with pytest.raises(UserError, match=r"b\.wav: not audio"):
            load_noise(tmp_path, 16000)
        soundfile.write(tmp_path / "b.wav", np.zeros(100), RATE)
        with pytest.raises(UserError, match=r"b\.wav: silent"):
            load_noise(tmp_path, 16000)


ROWS = [
    {"condition": "clean", "clips": 10, "correct": 9, "accuracy": 0.9, "accuracy_interval": [0.6, 0.98]},
    {"condition": "0 dB SNR", "clips": 10, "correct": 0, "accuracy": 0.0, "accuracy_interval": [0.0, 0.28]},
    {"condition": "telephone", "clips": 10, "correct": 10, "accuracy": 1.0, "accuracy_interval": [0.72, 1.0]},
]


def test_files(tmp_path):
    write_robustness(ROWS, tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"robustness.json", "robustness.png"}
    assert json.loads((tmp_path / "new" / "robustness.json").read_text(encoding="utf-8")) == ROWS
    content = (tmp_path / "new" / "robustness.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    with pytest.raises(UserError, match="can't be written"):
        write_robustness(ROWS, tmp_path / "new" / "robustness.png" / "deeper")


def test_figure():
    figure = robustness_figure(ROWS)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["clean", "0 dB SNR", "telephone"]
    assert [bar.get_width() for bar in axes.patches] == [0.9, 0.0, 1.0]
    assert [text.get_text() for text in axes.texts] == ["90.0%", "0.0%", "100.0%"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first is on top"
    (bars,) = (item for item in axes.containers if hasattr(item, "has_xerr"))
    intervals = [segment[:, 0].tolist() for segment in bars.lines[2][0].get_segments()]
    np.testing.assert_allclose(intervals, [row["accuracy_interval"] for row in ROWS], atol=1e-9)
    pixels = robustness.picture(figure)
    assert np.unique(pixels.reshape(-1, 4), axis=0).shape[0] > 2, "something is drawn"
