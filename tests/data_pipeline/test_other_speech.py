"""Recordings of other speech: which are taken, what is left of them, and what is said about it."""

import csv

import numpy as np
import pytest
import soundfile

from data_pipeline.errors import UserError
from data_pipeline.other_speech import collect_other_speech
from data_pipeline.prepare import prepare
from data_pipeline.settings import CorpusSettings

RATE = 16000


def tone(seconds: float, level: float = 0.3, hz: float = 440) -> np.ndarray:
    return level * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)


def collected(*sources, words=("yes", "turn left")) -> tuple[np.ndarray, list[str]]:
    notes = []
    settings = CorpusSettings(path="clips", shards="shards", words=words, other_speech=sources)
    return collect_other_speech(settings, notes), notes


def test_pauses_go_and_all_have_one_level(tmp_path):
    (tmp_path / "speech").mkdir()
    pause = 1e-4 * np.random.default_rng(0).normal(size=RATE)
    soundfile.write(tmp_path / "speech" / "a.wav", np.concatenate([tone(0.5), pause, tone(0.7)]), RATE)
    soundfile.write(tmp_path / "speech" / "b.flac", tone(0.4, 0.01), RATE)
    speech, notes = collected(tmp_path / "speech")
    assert speech.dtype == np.int16
    assert len(speech) == pytest.approx(1.6 * RATE, abs=0.1 * RATE)
    for part in (speech[:RATE], speech[-RATE // 4 :]):
        assert np.sqrt(np.mean((part / 32768) ** 2)) == pytest.approx(0.05, rel=0.02)
    assert notes == ["other speech: 2 recordings, 0.0 min without pauses"]


def test_a_file_of_another_rate(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(1)[::2], RATE // 2)
    speech, _ = collected(tmp_path / "a.wav")
    spectrum = np.abs(np.fft.rfft(speech[:RATE] / 32768))
    assert spectrum.argmax() == pytest.approx(440, abs=2)


def test_none(tmp_path):
    speech, notes = collected()
    assert (len(speech), speech.dtype, notes) == (0, np.int16, [])


def test_silence_gives_nothing(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "short.wav", tone(0.05), RATE)
    assert len(collected(tmp_path / "a.wav", tmp_path / "short.wav")[0]) == 0


def test_what_cant_be_read_is_noted(tmp_path):
    (tmp_path / "speech").mkdir()
    (tmp_path / "speech" / "a.wav").write_bytes(b"no audio")
    soundfile.write(tmp_path / "speech" / "b.wav", tone(1), RATE)
    speech, notes = collected(tmp_path / "speech")
    assert len(speech) == RATE
    assert notes[0].startswith(f"other speech: {tmp_path / 'speech' / 'a.wav'} left out: ")


@pytest.mark.parametrize("name", ["nothing", "nothing.wav", "nothing.csv"])
def test_a_source_that_isnt_there(tmp_path, name):
    with pytest.raises((UserError, FileNotFoundError), match="nothing"):
        collected(tmp_path / name)


class TestCsv:
    @pytest.fixture
    def write(self, tmp_path):
        """A function (rows of path, text, speaker, split) -> a CSV; each recording has as many tenths as its number."""

        def write(*rows):
            with (tmp_path / "speech.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(("path", "text", "speaker", "split"))
                writer.writerows(rows)
            for number, (name, *_) in enumerate(rows, 1):
                soundfile.write(tmp_path / name, tone(0.1 * number), RATE)
            return tmp_path / "speech.csv"

        return write

    def test_texts_with_one_of_the_words_are_left_out(self, write):
        file = write(
            ("a.wav", "nothing of interest", "ann", "train"),
            ("b.wav", "oh YES indeed", "ann", "train"),
            ("c.wav", "Turn Left", "ann", "train"),
            ("d.wav", "yesterday", "ann", "train"),
        )
        speech, notes = collected(file)
        assert len(speech) == round((0.1 + 0.4) * RATE)
        assert notes == ["other speech: 2 recordings, 0.0 min without pauses"]

    def test_speakers_that_measure_are_left_out(self, write):
        file = write(
            ("a.wav", "good", "ann", "train"), ("b.wav", "bad", "ben", "test"), ("c.wav", "ugly", "cat", "validation")
        )
        assert len(collected(file)[0]) == round(0.1 * RATE)

    def test_a_row_of_a_missing_file_is_noted(self, write, tmp_path):
        file = write(("a.wav", "good", "ann", "train"))
        with file.open("a", encoding="utf-8") as opened:
            opened.write("gone.wav,bad,ann,train\n")
        speech, notes = collected(file)
        assert len(speech) == round(0.1 * RATE)
        assert f"other speech: {file}: gone.wav left out: line 3: file is missing" in notes


def test_prepare_writes_them_beside_the_shards(write_clips, tmp_path):
    corpus = write_clips(*(f"yes/s{number}_nohash_0.wav" for number in range(9)))
    soundfile.write(tmp_path / "talk.wav", tone(2), RATE)
    settings = CorpusSettings(path=corpus, shards=tmp_path / "shards", other_speech=[tmp_path / "talk.wav"])
    prepared = prepare(settings)
    assert len(np.load(tmp_path / "shards" / "other_speech.npy")) == 2 * RATE
    assert "other speech: 1 recordings, 0.0 min without pauses" in prepared.notes
    prepare(settings.model_copy(update={"other_speech": ()}))
    assert len(np.load(tmp_path / "shards" / "other_speech.npy")) == 0
