"""`recognize` with files that have a CTC head."""

import io
import json
import re
import types

import numpy as np
import pytest
import soundfile

from speech_gru.phrase_recognizer import PhraseRecognizer

TALK = "--LL-H----S-" + "-" * 300 + "H" + "-" * 300
"""A step takes 4 ms."""
TIMES = ("0.01 to 0.02 s", "0.02 to 0.02 s", "0.04 to 0.04 s", "1.25 to 1.25 s")


@pytest.fixture
def model(phrase_mirror):
    return phrase_mirror()


@pytest.fixture
def write(tmp_path, spoken):
    """A function (name, text) -> an audio file of it."""

    def write(name: str, text: str):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, spoken(text), 1000, subtype="FLOAT")
        return path

    return write


def test_the_text(speech_gru, model, write):
    """The second file is as long as 80 windows, the third is silence."""
    files = write("a.wav", "L-H"), write("b.wav", TALK), write("c.wav", "-" * 99)
    expected = f"{files[0]}: links höher\n{files[1]}: links höher stopp höher\n{files[2]}:\n"
    assert speech_gru("recognize", model, *files) == (0, expected, "")


def test_a_file_for_streams_hears_the_same(speech_gru, phrase_mirror, tmp_path, spoken):
    soundfile.write(tmp_path / "a.wav", np.append(np.float32([0]), spoken(TALK)), 1000, subtype="FLOAT")
    expected = (0, f"{tmp_path / 'a.wav'}: links höher stopp höher\n", "")
    assert speech_gru("recognize", phrase_mirror(kind="stream"), tmp_path / "a.wav") == expected


def test_times(speech_gru, model, write):
    file, silence = write("a.wav", TALK), write("b.wav", "---")
    lines = [f"{file}: {word}, {time}" for word, time in zip(("links", "höher", "stopp", "höher"), TIMES, strict=True)]
    assert speech_gru("recognize", model, file, silence, "--times").out.splitlines() == [*lines, f"{silence}:"]


def test_phrases(speech_gru, model, write):
    file, other = write("a.wav", TALK), write("b.wav", "S")
    arguments = ("recognize", model, file, other, "--phrases", "links höher", "--phrases", "höher")
    assert speech_gru(*arguments).out.splitlines() == [
        f"{file}: links höher 0.00, 0.01 to 0.02 s",
        f"{file}: höher 0.00, {TIMES[1]}",
        f"{file}: höher 0.00, {TIMES[3]}",
        f"{other}:",
    ]
    lines = speech_gru(*arguments, "--threshold", "-20").out.splitlines()
    assert len(lines) > 4
    assert any(re.fullmatch(rf"{re.escape(str(other))}: höher -7.50, 0.00 to 0.00 s", line) for line in lines)
    assert speech_gru(*arguments, "--threshold", "0").code == 0


def test_decoding(speech_gru, phrase_mirror, write):
    file = write("a.wav", "L-H-S")
    model = phrase_mirror(words=("links", "stopp"), decoding="words")
    for options, expected in (
        ([], "links stopp"),
        (["--decoding", "greedy"], "links höher stopp"),
        (["--decoding", "beam"], "links höher stopp"),
        (["--decoding", "words"], "links stopp"),
    ):
        out = speech_gru("recognize", model, file, *options).out
        assert set(out.split()[1:]) <= set(expected.split())
        assert len(out.split()) >= 3


def test_json(speech_gru, model, write):
    files = write("höher.wav", "-L-H"), write("b.wav", "-")
    outcome = speech_gru("recognize", model, *files, "--json")
    assert "höher" in outcome.out
    one, other = map(json.loads, outcome.out.splitlines())
    assert other == {"file": str(files[1]), "text": "", "words": []}
    assert (one["file"], one["text"]) == (str(files[0]), "links höher")
    score = pytest.approx(float(np.exp(7.5) / (np.exp(7.5) + 3)), abs=1e-5)
    assert one["words"][0] == {"text": "links", "start": 0.004, "end": 0.008, "score": score}
    assert json.loads(speech_gru("recognize", model, files[0], "--json", "--phrases", "höher").out) == {
        "file": str(files[0]),
        "phrases": [{"phrase": "höher", "score": 0, "start": 0.012, "end": 0.016}],
    }


def test_standard_input_and_folders(speech_gru, model, write, monkeypatch):
    content = io.BytesIO(write("x/a.wav", "S").read_bytes())
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=content))
    folder = write("x/b.wav", "H").parent
    out = speech_gru("recognize", model, "-", folder).out
    assert out == f"-: stopp\n{folder / 'a.wav'}: stopp\n{folder / 'b.wav'}: höher\n"


def test_what_cant_be_read_is_passed_over(speech_gru, model, write, tmp_path):
    outcome = speech_gru("recognize", model, tmp_path / "none.wav", write("a.wav", "S"))
    assert (outcome.code, outcome.out) == (3, f"{tmp_path / 'a.wav'}: stopp\n")
    assert "none.wav: missing" in outcome.err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--top", "2"], "--top: for files of single words; "),
        (["--phrases", "links", "--times"], "--times: of no use with --phrases, which searches"),
        (["--phrases", "links", "--times", "--decoding", "beam"], "--times and --decoding: of no use with --phrases"),
        (["--threshold", "0"], "--threshold: of no use without --phrases"),
        (["--phrases", "links rechts"], "phrase 'links rechts' needs words that the token table lacks: 'rechts'"),
        (["--phrases", " "], "expected a phrase of words, got ' '"),
        (["--phrases", "links", "--threshold", "1"], "1"),
        (["--decoding", "fast"], "fast"),
    ],
)
def test_wrong_use(speech_gru, model, write, options, reason):
    outcome = speech_gru("recognize", model, write("a.wav", "L"), *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert reason in outcome.err


def test_words_that_the_file_doesnt_have(speech_gru, phrase_mirror, write):
    model = phrase_mirror(tokens="characters", labels=("", "a", "b", " "))
    outcome = speech_gru("recognize", model, write("a.wav", "L"), "--decoding", "words")
    assert (outcome.code, outcome.out) == (2, "")
    assert "'words' needs words that may be said, and there are none" in outcome.err


@pytest.mark.parametrize(
    "options", [["--times"], ["--phrases", "ja"], ["--threshold", "0"], ["--decoding", "beam"], ["--phrases", ""]]
)
def test_a_file_of_single_words(speech_gru, mirror, write, options):
    outcome = speech_gru("recognize", mirror(), write("a.wav", "L"), *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert re.fullmatch(rf"speech-gru: {options[0]}: for files with a CTC head; .* is for single words\n", outcome.err)


def test_the_texts_of_the_command_are_those_of_the_library(speech_gru, model, write):
    file = write("a.wav", TALK)
    recognizer = PhraseRecognizer(model)
    text = recognizer.transcribe(recognizer.load(file))
    assert speech_gru("recognize", model, file).out == f"{file}: {text}\n"
