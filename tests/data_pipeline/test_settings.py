"""Values that can't work are refused, with a message that says why."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from data_pipeline.settings import AugmentSettings, CorpusSettings, FrontEndSettings, normalize_text


def corpus(**values) -> CorpusSettings:
    return CorpusSettings(**{"path": "clips", "shards": "shards", **values})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"word": ["yes"]}, "Extra inputs"),
        ({"words": ["yes", "no", "yes"]}, "words given twice: yes"),
        ({"words": ["ja", " ja "]}, "words given twice: ja"),
        ({"words": ["sí", "si\u0301"]}, "words given twice: sí"),
        ({"words": ["yes", " "]}, "one of the words is empty"),
        ({"words": ["yes", "n\x1bo"]}, r"words: expected words without control characters, got 'n.x1bo'"),
        ({"words": ["yes", "_unknown_"]}, "_unknown_ is made by `prepare`"),
        ({"words": ["_silence_"]}, "_silence_ is made by `prepare`"),
        ({"words": [1, 2]}, "valid string"),
        ({"words": "yes"}, "valid tuple"),
        ({"sample_rate": 4000}, "greater than or equal to 8000"),
        ({"sample_rate": 16000.5}, "valid integer"),
        ({"clip_seconds": 0}, "greater than or equal to 0.01"),
        ({"clip_seconds": float("nan")}, "finite number"),
        ({"min_seconds": 2, "max_seconds": 1}, r"min_seconds \(2\) can't exceed max_seconds \(1\)"),
        ({"unknown_share": 1.1}, "less than or equal to 1"),
        ({"silence_share": 1}, "silence_share must be below 1"),
        ({"validation_share": 0.5, "test_share": 0.5}, "leave nothing to train on"),
        ({"validation_share": -0.1}, "greater than or equal to 0"),
    ],
)
def test_a_corpus_that_can_not_be(values, message):
    with pytest.raises(ValidationError, match=message):
        corpus(**values)


def test_words_are_compared_as_people_see_them():
    assert corpus(words=["si\u0301", "  turn\toff \n"]).words == ("sí", "turn off")
    assert normalize_text(" a\u2028b\x85c\r\nd ") == "a b c d"


def test_no_word_can_break_a_list_of_lines():
    # Every separator that str.splitlines knows: labels.txt is read with it.
    word = normalize_text("a\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029b")
    assert word.splitlines() == ["a b"]


def test_the_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    settings = corpus(path="~/clips", shards=Path("~/shards"), noise=["~/noise", "here"])
    assert (settings.path, settings.shards) == (Path("/home/anna/clips"), Path("/home/anna/shards"))
    assert settings.noise == (Path("/home/anna/noise"), Path("here"))


@pytest.mark.parametrize(
    ("seconds", "rate", "samples"), [(1, 16000, 16000), (0.98, 16000, 15680), (0.1, 44100, 4410), (30, 48000, 1440000)]
)
def test_clip_samples(seconds, rate, samples):
    assert corpus(clip_seconds=seconds, sample_rate=rate).clip_samples == samples


def test_settings_stay_as_they_were_validated():
    with pytest.raises(ValidationError, match="frozen"):
        corpus().sample_rate = 8000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "fbank"}, "'mfcc' or 'log_mel'"),
        ({"coefficients": 41}, r"coefficients \(41\) can't exceed mel_bins \(40\)"),
        ({"low_hz": 4000, "high_hz": 4000}, r"high_hz \(4000\) must be above low_hz \(4000\)"),
        ({"window_ms": 0}, "greater than 0"),
        ({"deltas": 3}, "less than or equal to 2"),
    ],
)
def test_a_front_end_that_can_not_be(values, message):
    with pytest.raises(ValidationError, match=message):
        FrontEndSettings(**values)


def test_coefficients_do_not_matter_to_log_mel():
    assert FrontEndSettings(kind="log_mel", mel_bins=20).mel_bins == 20


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gain_db": (6, -6)}, r"gain_db: the first value \(6\) must not exceed the second \(-6\)"),
        ({"snr_db": (10, 0)}, "snr_db: the first value"),
        ({"speed": (0.4, 1)}, "speed must lie between 0.5 and 2, got 0.4 to 1"),
        ({"speed": (1, 2.1)}, "speed must lie between 0.5 and 2"),
        ({"vocal_tract": (0.4, 1)}, "vocal_tract must lie between 0.5 and 2, got 0.4 to 1"),
        ({"noise_probability": 1.5}, "less than or equal to 1"),
        ({"time_masks": -1}, "greater than or equal to 0"),
        ({"mixup": -1}, "greater than or equal to 0"),
        ({"gain_db": (0, float("inf"))}, "finite number"),
    ],
)
def test_an_augmentation_that_can_not_be(values, message):
    with pytest.raises(ValidationError, match=message):
        AugmentSettings(**values)


def test_augmentations_can_be_switched_off():
    off = AugmentSettings(gain_db=None, speed=None, noise_probability=0, time_masks=0, frequency_masks=0)
    assert off.gain_db is None
    assert off.speed is None
