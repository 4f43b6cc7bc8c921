import os
import subprocess
import sys

import numpy as np
import pytest

from data_pipeline import espeak
from data_pipeline.errors import UserError
from data_pipeline.espeak import SAMPLE_RATE, Espeak, accents, phonemes

pytest.importorskip("espeakng_loader", reason="needs the extra [synth]")


USUAL = {"rate": 150, "pitch": 50, "range": 50, "volume": 80}


@pytest.fixture(scope="module")
def synthesiser() -> Espeak:
    return Espeak()


def test_accents_of_a_language():
    found = accents("EN")
    assert {"en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029"} <= found.keys()
    assert found["en-gb"] == "gmw/en"
    assert "en-shaw" not in found  # reads another alphabet
    assert set(accents("en-us")) == {"en-us", "en-us-nyc"}
    assert set(accents("en-shaw")) == {"en-shaw"}
    assert set(accents("de")) == {"de"}


@pytest.mark.parametrize("language", ["xx", "", "e", "../en"])
def test_unknown_language_names_the_known_ones(language):
    with pytest.raises(UserError, match=r"no voice of espeak-ng speaks .* af, .*, en, "):
        accents(language)


def test_package_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match=r'pip install "\.\[synth\]"'):
        accents("en")
    with pytest.raises(UserError, match=r'pip install "\.\[synth\]"'):
        Espeak()


def test_library_missing(monkeypatch, tmp_path):
    import espeakng_loader

    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: str(tmp_path / "none.so"))
    with pytest.raises(UserError, match="can't be loaded"):
        Espeak()


def test_data_missing(tmp_path):
    program = """
import sys
import espeakng_loader
from data_pipeline.errors import UserError
from data_pipeline.espeak import Espeak
espeakng_loader.get_data_path = lambda: sys.argv[1]
try:
    Espeak()
except UserError as error:
    print(error)
"""  # a process of its own: the library that has read its data once goes on with them
    environment = {name: value for name, value in os.environ.items() if name != "ESPEAK_DATA_PATH"}
    command = [sys.executable, "-c", program, str(tmp_path / "espeak-ng-data")]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert "can't read its data" in result.stdout, result.stderr


def test_says_words_of_a_likely_length(synthesiser):
    samples = synthesiser.say("window", "gmw/en-US+m3", 1, **USUAL)
    assert samples.dtype == np.int16
    assert 0.3 < samples.size / SAMPLE_RATE < 1
    assert np.abs(samples).max() > 3000
    assert synthesiser.version[0].isdigit()


def test_no_echo_of_the_word_before(synthesiser):
    synthesiser.say("stop", "gmw/en+m2", 1, **USUAL)
    assert not synthesiser.say("", "gmw/en+m2", 1).any()


def test_words_beyond_ascii(synthesiser):
    umlaut, plain = (synthesiser.say(text, "gmw/de", 1, **USUAL) for text in ("Tür", "Tur"))
    assert umlaut.size != plain.size or np.abs(umlaut.astype(int) - plain).max() > 1000


def test_parameters_are_obeyed(synthesiser):
    def say(**parameters):
        return synthesiser.say("lemon", "gmw/en-US+m3", 1, **USUAL | parameters) / 32768

    def pitch(samples):
        """Hz, by the autocorrelation of the loudest 100 ms, between 60 and 400 Hz."""
        middle = int(np.convolve(samples**2, np.ones(2205), "same").argmax())
        frame = samples[max(0, middle - 1102) :][:2205]
        correlation = np.correlate(frame, frame, "full")[frame.size - 1 :]
        shortest = SAMPLE_RATE // 400
        return SAMPLE_RATE / (shortest + correlation[shortest : SAMPLE_RATE // 60].argmax())

    assert say(rate=300).size < 0.75 * say().size
    assert 60 < pitch(say()) < 160  # variant m3: 80 to 122 Hz
    assert pitch(say(pitch=80)) > 1.2 * pitch(say())
    assert np.abs(say(volume=40)).max() < 0.7 * np.abs(say()).max()


def test_voices_that_do_not_exist(synthesiser):
    with pytest.raises(ValueError, match="gmw/none"):
        synthesiser.say("go", "gmw/none+f1", 1)


class TestPhonemes:
    """Against dictionaries: Wells, Longman Pronunciation Dictionary; Duden, Aussprachewörterbuch."""

    @pytest.mark.parametrize(
        ("text", "accent", "expected"),
        [
            ("church", "en-gb", "tʃ ɜː tʃ"),
            ("Judge, judge!", "en-gb", "dʒ ʌ dʒ dʒ ʌ dʒ"),
            ("yes\nno", "en-us", "j ɛ s n oʊ"),
            ("", "en-us", ""),
            ("...", "en-us", ""),
        ],
    )
    def test_words(self, text, accent, expected):
        assert phonemes(text, accent) == expected

    def test_no_sign_for_a_foreign_word(self):
        """espeak-ng puts (en) before what it says in English: no phoneme."""
        assert phonemes("Jeans", "de") == "dʒ iː n z"
        assert not set("()") & set(phonemes("football weekend", "fr-fr"))

    def test_the_voices_are_looked_for_once(self, monkeypatch):
        phonemes("go", "en-us")
        monkeypatch.setattr(espeak, "accents", lambda accent: pytest.fail("looked for again"))
        assert phonemes("stop", "en-us")

    def test_no_such_language(self):
        with pytest.raises(UserError, match="no voice of espeak-ng speaks 'klingon'"):
            phonemes("go", "klingon")
