"""Noise is found, and no part of a recording serves two splits: seen in recordings whose samples tell their place."""

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.audio import AudioError
from data_pipeline.errors import UserError
from data_pipeline.noise import NOISE_MINUTES, collect_noise, draw_cuts, find_noise, noise_stretch, read_stretch
from data_pipeline.settings import CorpusSettings
from data_pipeline.splits import SPLITS

RATE = 16000


def corpus(**values) -> CorpusSettings:
    return CorpusSettings(path="clips", shards="shards", **values)


def write_ramp(path, seconds: float, rate: int = RATE) -> None:
    """A recording whose n-th sample is n / 2**20."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.arange(round(seconds * rate), dtype=np.float32) / 2**20, rate, subtype="FLOAT")


def places(samples: np.ndarray) -> set[int]:
    return set(np.rint(samples * 2**20).astype(int))


class TestFinding:
    def test_the_corpus_own_and_others(self, tmp_path, write_clips):
        root = write_clips("_background_noise_/b.wav", "_background_noise_/a.wav", "yes/a.wav", seconds=2)
        other = write_clips("deep/c.wav", folder="other")
        single = write_clips("d.dat.wav", folder="single") / "d.dat.wav"
        notes = []
        found = find_noise(root, [other, single], notes)
        own = root / "_background_noise_"
        assert found == {own / "a.wav": 2, own / "b.wav": 2, other / "deep/c.wav": 0.2, single: 0.2}
        assert list(found) == [own / "a.wav", own / "b.wav", other / "deep/c.wav", single]
        assert notes == []

    def test_what_can_not_be_used_gets_a_note(self, tmp_path, write_clips):
        folder = write_clips("good.wav", folder="noise")
        (folder / "text.wav").write_text("text")
        (folder / "empty.flac").touch()
        (folder / "README.md").touch()
        (folder / "._good.wav").touch()
        (folder / "raw.raw").write_bytes(bytes(1000))
        (folder / "inner").symlink_to(tmp_path)
        (tmp_path / "nothing").mkdir()
        notes = []
        found = find_noise(tmp_path, [folder, folder / "raw.raw", tmp_path / "nothing"], notes)
        assert list(found) == [folder / "good.wav"]
        named = ["inner left out", "empty.flac left out", "text.wav left out", "raw.raw left out", "no recordings in"]
        assert all(sum(name in note for note in notes) == 1 for name in named)
        assert len(notes) == len(named)

    def test_a_length_that_is_not_known(self, tmp_path):
        path = tmp_path / "stream.flac"
        soundfile.write(path, np.zeros(RATE), RATE)
        content = bytearray(path.read_bytes())
        content[21] &= 0xF0  # STREAMINFO's count of samples, 36 bits (RFC 9639, section 8.2)
        content[22:26] = bytes(4)
        path.write_bytes(content)
        notes = []
        assert find_noise(tmp_path, [path], notes) == {}
        assert "its header doesn't say how long it is" in notes[0]

    def test_links_to_another_folder(self, tmp_path, write_clips):
        root, elsewhere = write_clips("yes/a.wav"), write_clips("a.wav", folder="elsewhere")
        own, notes = root / "_background_noise_", []
        own.symlink_to(elsewhere)
        assert find_noise(root, [], notes) == {}
        own.unlink()
        own.mkdir()
        (own / "b.wav").symlink_to(elsewhere / "a.wav")
        assert find_noise(root, [], notes) == {}
        assert "b.wav left out: links to a file outside" in notes[0]

    def test_nothing_there(self, tmp_path):
        with pytest.raises(UserError, match=r"corpus.noise: .*nowhere doesn't exist"):
            find_noise(tmp_path, [tmp_path / "nowhere"], [])


@given(st.floats(0, 4000), st.floats(0, 0.49), st.floats(0, 0.49))
def test_stretches_follow_one_another(seconds, validation_share, test_share):
    shares = corpus(validation_share=validation_share, test_share=test_share)
    train, validation, test = (noise_stretch(seconds, split, shares) for split in SPLITS)
    assert train[0] == 0
    assert train[1] == validation[0] <= validation[1] == test[0] <= test[1] <= seconds
    assert test[1] == pytest.approx(seconds, abs=2e-3)
    assert validation[1] - validation[0] == pytest.approx(seconds * validation_share, abs=2e-3)
    assert test[1] - test[0] == pytest.approx(seconds * test_share, abs=2e-3)


class TestCuts:
    def cuts(self, tmp_path, split, count=40, lengths=(7.777, 5), **values) -> list[tuple[str, float, float]]:
        noise = {}
        for index, seconds in enumerate(lengths):
            path = tmp_path / "_background_noise_" / f"{index}.wav"
            if not path.exists():
                write_ramp(path, seconds)
            noise[path] = seconds
        return list(draw_cuts(noise, count, split, tmp_path, corpus(clip_seconds=0.25, **values)))

    def test_no_sample_serves_two_splits(self, tmp_path):
        heard = {}
        for split in SPLITS:
            for name, start, _ in self.cuts(tmp_path, split):
                samples = read_stretch(tmp_path / name, start, 0.25, RATE)
                assert len(samples) == RATE // 4
                heard.setdefault((name, split), set()).update(places(samples))
        assert len(heard) == 6
        for name in {name for name, _ in heard}:
            train, validation, test = (heard[name, split] for split in SPLITS)
            assert max(train) < min(validation)
            assert max(validation) < min(test)

    def test_augmentation_hears_no_more_than_the_training_split(self, tmp_path):
        cuts = self.cuts(tmp_path, "validation", lengths=(7.777,))
        first = min(min(places(read_stretch(tmp_path / name, start, 0.25, RATE))) for name, start, _ in cuts)
        pcm = collect_noise({tmp_path / "_background_noise_" / "0.wav": 7.777}, corpus(), [])
        assert pcm.max() / 2**15 * 2**20 <= first + 16  # 16 places have the same 16-bit value

    def test_as_many_as_wanted_all_different(self, tmp_path):
        cuts = self.cuts(tmp_path, "train", 3000)
        assert len(set(cuts)) == 3000
        assert {name for name, _, _ in cuts} == {"_background_noise_/0.wav", "_background_noise_/1.wav"}

    def test_a_stretch_that_holds_just_one_cut(self, tmp_path):
        cuts = self.cuts(tmp_path, "test", 300, lengths=(2.5,), test_share=0.1)
        assert {start for _, start, _ in cuts} == {2.25}
        assert len(set(cuts)) == 300  # by their gains

    def test_gains(self, tmp_path):
        gains = [gain for _, _, gain in self.cuts(tmp_path, "train", 1000)]
        assert 0.01 <= min(gains) < 0.03
        assert 0.97 < max(gains) <= 1
        assert np.mean(gains) == pytest.approx(0.505, abs=0.03)

    def test_more_cuts_leave_the_others_as_they_were(self, tmp_path):
        assert self.cuts(tmp_path, "train", 40)[:20] == self.cuts(tmp_path, "train", 20)

    def test_recordings_that_are_too_short(self, tmp_path):
        assert self.cuts(tmp_path, "test", lengths=(2.4,), test_share=0.1) == []
        assert self.cuts(tmp_path, "train", lengths=()) == []

    @pytest.mark.parametrize("inside", [True, False])
    def test_paths_lead_to_the_recording(self, tmp_path, write_clips, monkeypatch, inside):
        root, other = write_clips("_background_noise_/n.wav", seconds=3), write_clips("n.wav", folder="x", seconds=3)
        monkeypatch.chdir(tmp_path)
        recording = root / "_background_noise_" / "n.wav" if inside else other.relative_to(tmp_path) / "n.wav"
        [(name, _, _)] = draw_cuts({recording: 3.0}, 1, "train", root, corpus())
        assert (root / name).resolve() == recording.resolve()
        assert name == "_background_noise_/n.wav" or not inside


class TestReading:
    @settings(max_examples=20)
    @given(st.floats(0, 2.9), st.floats(0.01, 2))
    def test_the_samples_are_those_that_were_asked_for(self, tmp_path_factory, start, seconds):
        path = tmp_path_factory.getbasetemp() / "reading.wav"
        if not path.exists():
            write_ramp(path, 3)
        samples = np.rint(read_stretch(path, start, seconds, RATE) * 2**20)
        first = int(start * RATE)
        np.testing.assert_array_equal(samples, np.arange(first, min(first + round(seconds * RATE), 3 * RATE)))

    def test_channels_and_rate(self, tmp_path):
        tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(3 * 44100) / 44100)
        soundfile.write(
            tmp_path / "stereo.flac", np.stack([tone, np.zeros_like(tone)], axis=1), 44100, subtype="PCM_24"
        )
        samples = read_stretch(tmp_path / "stereo.flac", 1, 1, RATE)
        expected = 0.25 * np.sin(2 * np.pi * 440 * (1 + np.arange(RATE) / RATE))
        assert samples.shape == (RATE,)
        np.testing.assert_allclose(samples[500:-500], expected[500:-500], atol=1e-3)

    def test_what_can_not_be_read(self, tmp_path):
        (tmp_path / "text.wav").write_text("text")
        soundfile.write(tmp_path / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
        write_ramp(tmp_path / "short.wav", 1)
        for name, start in (("text.wav", 0), ("nan.wav", 0), ("short.wav", 1), ("short.wav", 5), ("none.wav", 0)):
            with pytest.raises(AudioError, match=r"recording (can't|holds)"):
                read_stretch(tmp_path / name, start, 0.5, RATE)


class TestCollecting:
    def test_the_training_stretches_one_after_the_other(self, tmp_path):
        noise = {tmp_path / f"{index}.wav": 2.0 for index in range(2)}
        for path in noise:
            write_ramp(path, 2)
        pcm = collect_noise(noise, corpus(validation_share=0.25, test_share=0.25), [])
        ramp = np.rint(np.arange(RATE) / 2**5).astype(np.int16)
        assert pcm.dtype == np.int16
        np.testing.assert_array_equal(pcm, np.concatenate([ramp, ramp]))

    def test_none(self):
        assert collect_noise({}, corpus(), []).shape == (0,)

    def test_unreadable_recordings_are_named(self, tmp_path):
        write_ramp(tmp_path / "good.wav", 1)
        (tmp_path / "bad.wav").write_text("text")
        notes = []
        pcm = collect_noise({tmp_path / "bad.wav": 9.0, tmp_path / "good.wav": 1.0}, corpus(), notes)
        assert len(pcm) == 0.8 * RATE
        assert [str(tmp_path / "bad.wav") in note for note in notes] == [True]

    def test_memory_is_bounded(self, tmp_path, monkeypatch):
        write_ramp(tmp_path / "long.wav", 10)
        asked = []
        monkeypatch.setattr(
            "data_pipeline.noise.read_stretch",
            lambda path, start, seconds, rate: asked.append(seconds) or np.zeros(0, np.float32),
        )
        collect_noise({tmp_path / f"{index}.wav": 3600.0 for index in range(60)}, corpus(), [])
        assert sum(asked) == pytest.approx(NOISE_MINUTES * 60)
