"""Recordings of other speech: which are taken, what is left of them, and what is said about it."""

import csv

import numpy as np
import pytest
import soundfile

from data_pipeline import other_speech
from data_pipeline.errors import UserError
from data_pipeline.other_speech import collect_other_speech, find_other_speech, says_one_of
from data_pipeline.prepare import prepare
from data_pipeline.settings import CorpusSettings

RATE = 16000


def tone(seconds: float, level: float = 0.3, hz: float = 440) -> np.ndarray:
    return level * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)


def collected(*sources, **settings) -> tuple[np.ndarray, list[str]]:
    notes, settings = [], CorpusSettings(path="clips", shards="shards", other_speech=sources, **settings)
    found = find_other_speech(settings, ("yes", "turn left", "_unknown_", "_silence_"), notes)
    return collect_other_speech(found, settings.sample_rate, notes), notes


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
    assert notes == ["other_speech: 0.0 min without pauses, of 2 recordings"]


def test_a_file_of_another_rate(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(1)[::2], RATE // 2)
    speech, _ = collected(tmp_path / "a.wav")
    spectrum = np.abs(np.fft.rfft(speech[:RATE] / 32768))
    assert spectrum.argmax() == pytest.approx(440, abs=2)


def test_none(tmp_path):
    speech, notes = collected()
    assert (len(speech), speech.dtype, notes) == (0, np.int16, [])


def test_silence_alone_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "short.wav", tone(0.05), RATE)
    with pytest.raises(UserError, match=r"corpus\.other_speech: nothing is said in the 2 recordings"):
        collected(tmp_path / "a.wav", tmp_path / "short.wav")


def test_a_click_is_no_measure_of_what_is_loud(tmp_path):
    talk = tone(2, 0.01)
    talk[100:110] = 1
    soundfile.write(tmp_path / "a.wav", talk, RATE, subtype="FLOAT")
    assert len(collected(tmp_path / "a.wav")[0]) == 2 * RATE


def test_samples_out_of_all_bounds(tmp_path):
    soundfile.write(tmp_path / "a.wav", 1e25 * tone(1), RATE, subtype="FLOAT")
    speech, _ = collected(tmp_path / "a.wav")
    assert np.sqrt(np.mean((speech / 32768) ** 2)) == pytest.approx(0.05, rel=0.02)


def test_it_is_taken_by_the_stretch_until_there_is_enough(tmp_path, monkeypatch):
    """Of many recordings with a pause before what is said, and of a long one, as much speech as is wanted."""
    (tmp_path / "many").mkdir()
    pause = 1e-4 * np.random.default_rng(0).normal(size=RATE // 2)
    for number in range(30):
        soundfile.write(tmp_path / "many" / f"{number}.wav", np.concatenate([pause, tone(0.5)]), RATE)
    soundfile.write(tmp_path / "long.wav", tone(9), RATE)
    monkeypatch.setattr(other_speech, "SPEECH_MINUTES", 6 / 60)
    monkeypatch.setattr(other_speech, "_STRETCH_SECONDS", 2)
    read, read_stretch = [], other_speech.read_stretch

    def reading(path, start, seconds, rate):
        read.append(seconds)
        return read_stretch(path, start, seconds, rate)

    monkeypatch.setattr(other_speech, "read_stretch", reading)
    for source in ("many", "long.wav"):
        read.clear()
        speech, _ = collected(tmp_path / source)
        assert len(speech) == 6 * RATE
        assert (
            np.sqrt(np.mean(np.square(speech[: 6 * RATE // 160 * 160].reshape(-1, 160) / 32768), axis=1)).min() > 0.03
        )
        assert set(read) == {2}
        assert len(read) == (12 if source == "many" else 3)


def test_what_cant_be_read_is_noted(tmp_path):
    (tmp_path / "speech").mkdir()
    (tmp_path / "speech" / "a.wav").write_bytes(b"no audio")
    soundfile.write(tmp_path / "speech" / "b.wav", tone(1), RATE)
    speech, notes = collected(tmp_path / "speech")
    assert len(speech) == RATE
    assert notes[0].startswith(f"other_speech: {tmp_path / 'speech' / 'a.wav'} left out: ")


@pytest.mark.parametrize("name", ["nothing", "nothing.wav", "nothing.csv"])
def test_a_source_that_isnt_there(tmp_path, name):
    with pytest.raises(UserError, match=f"corpus.other_speech: .*{name} doesn't exist; expected"):
        collected(tmp_path / name)


@pytest.mark.parametrize("name", ["a.raw", "a.tsv", "b.wav"])
def test_a_source_without_any_recording(tmp_path, name):
    (tmp_path / name).write_bytes(b"no audio")
    with pytest.raises(UserError, match=f"corpus.other_speech: no recording of .*{name} can be used"):
        collected(tmp_path / name)


def test_an_impossible_rate_is_noted(tmp_path):
    (tmp_path / "speech").mkdir()
    soundfile.write(tmp_path / "speech" / "a.wav", tone(0.1), 3)
    soundfile.write(tmp_path / "speech" / "b.wav", tone(1), RATE)
    speech, notes = collected(tmp_path / "speech")
    assert len(speech) == RATE
    assert "a.wav left out: impossible sampling rate: 3 Hz" in notes[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes, please.", True),
        ("please TURN  LEFT now", True),
        ("turn, left", True),
        ("turn it left", False),
        ("yesterday", False),
        ("O'Reilly's 'yes'", True),
        ("o'yes", False),
        ("straße", True),
        ("", False),
    ],
)
def test_whether_a_word_is_said(text, expected):
    assert says_one_of(text, ["yes", "turn left", "STRASSE"]) is expected


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
        assert notes == ["other_speech: 0.0 min without pauses, of 2 recordings"]

    def test_speakers_that_measure_are_left_out(self, write):
        file = write(
            ("a.wav", "good", "ann", "train"), ("b.wav", "bad", "ben", "test"), ("c.wav", "ugly", "cat", "validation")
        )
        assert len(collected(file)[0]) == round(0.1 * RATE)
        with pytest.raises(UserError, match=r"no recording of .*speech.csv can be used"):
            collected(file, test_speakers=["ann"])

    def test_a_row_of_a_missing_file_is_noted(self, write, tmp_path):
        file = write(("a.wav", "good", "ann", "train"))
        with file.open("a", encoding="utf-8") as opened:
            opened.write("gone.wav,bad,ann,train\n")
        speech, notes = collected(file)
        assert len(speech) == round(0.1 * RATE)
        assert f"other_speech: {file}: gone.wav left out: line 3: file is missing" in notes


def test_prepare_writes_them_beside_the_shards(write_clips, tmp_path):
    corpus = write_clips(*(f"yes/s{number}_nohash_0.wav" for number in range(9)))
    soundfile.write(tmp_path / "talk.wav", tone(2), RATE)
    settings = CorpusSettings(path=corpus, shards=tmp_path / "shards", other_speech=[tmp_path / "talk.wav"])
    prepared = prepare(settings)
    assert len(np.load(tmp_path / "shards" / "other_speech.npy")) == 2 * RATE
    assert "other_speech: 0.0 min without pauses, of 1 recordings" in prepared.notes
    with pytest.raises(UserError, match="missing doesn't exist"):
        prepare(settings.model_copy(update={"other_speech": (tmp_path / "missing",)}))
    assert (tmp_path / "shards" / "manifest.csv").is_file(), "what was ready stays so"
    prepare(settings.model_copy(update={"other_speech": (tmp_path / "missing",)}), for_test=True)
    assert len(np.load(tmp_path / "shards" / "other_speech.npy")) == 0
