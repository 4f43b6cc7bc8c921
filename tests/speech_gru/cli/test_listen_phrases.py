"""`listen` with files that have a CTC head."""

import json
import subprocess
import sys
import types
from io import BytesIO

import numpy as np
import pytest
import soundfile

PAUSE = "-" * 300
TALK = "--LL-H----S-" + PAUSE + "H"
WORDS = """    0.01 to 0.02 s  links
    0.02 to 0.02 s  höher
    0.04 to 0.04 s  stopp
    1.25 to 1.25 s  höher
"""


@pytest.fixture(params=["clip", "stream"])
def heard(request, phrase_mirror, spoken, tmp_path):
    """(model, a file of TALK) for each kind."""
    lead = [0] if request.param == "stream" else []
    soundfile.write(tmp_path / "a.wav", np.append(np.float32(lead), spoken(TALK)), 1000, subtype="FLOAT")
    return phrase_mirror(kind=request.param), tmp_path / "a.wav"


def test_a_file(speech_gru, heard):
    assert speech_gru("listen", *heard) == (0, WORDS, "")


def test_phrases(speech_gru, heard):
    out = speech_gru("listen", *heard, "--phrases", "links höher", "--phrases", "stopp").out
    assert out == "    0.01 to 0.02 s  links höher 0.00\n    0.04 to 0.04 s  stopp 0.00\n"
    more = speech_gru("listen", *heard, "--phrases", "links höher", "--phrases", "stopp", "--threshold", "-9").out
    assert len(more.splitlines()) > 2


def test_json(speech_gru, heard):
    outcome = speech_gru("listen", *heard, "--json", "--decoding", "beam")
    words = list(map(json.loads, outcome.out.splitlines()))
    assert [word["text"] for word in words] == ["links", "höher", "stopp", "höher"]
    assert set(words[0]) == {"text", "start", "end", "score"}
    (found,) = map(json.loads, speech_gru("listen", *heard, "--json", "--phrases", "stopp").out.splitlines())
    assert found == {"phrase": "stopp", "score": 0, "start": 0.04, "end": 0.044}


def test_standard_input(speech_gru, phrase_mirror, spoken, monkeypatch):
    pcm = (spoken(TALK) * 32767).astype("<i2").tobytes()
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=BytesIO(pcm)))
    assert speech_gru("listen", phrase_mirror(), "-") == (0, WORDS, "")
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=BytesIO(b"")))
    assert speech_gru("listen", phrase_mirror(), "-") == (0, "", "")


def test_words_are_told_while_the_stream_goes_on(phrase_mirror, spoken):
    command = [sys.executable, "-m", "speech_gru", "listen", str(phrase_mirror()), "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding=None) as process:
        process.stdin.write((spoken("L" + PAUSE + PAUSE) * 32767).astype("<i2").tobytes())
        process.stdin.flush()
        assert process.stdout.readline().decode() == "    0.00 to 0.00 s  links\n"
        process.stdin.close()
        assert process.stdout.read() == b""


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--phrases", "links", "--decoding", "beam"], "--decoding: of no use with --phrases, which searches"),
        (["--threshold", "0.5"], "--threshold: with a CTC head of no use without --phrases"),
        (["--phrases", "links", "--threshold", "0.5"], "expected threshold as the logarithm of a ratio, at most 0"),
        (["--phrases", "rechts"], "phrase 'rechts' needs words that the token table lacks: 'rechts'"),
    ],
)
def test_wrong_use(speech_gru, heard, options, reason):
    outcome = speech_gru("listen", *heard, *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert reason in outcome.err


@pytest.mark.parametrize("options", [["--phrases", "ja"], ["--decoding", "beam"]])
def test_a_file_of_single_words(speech_gru, mirror, heard, options):
    outcome = speech_gru("listen", mirror(), heard[1], *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"{options[0]}: for files with a CTC head; " in outcome.err
    assert "threshold from 0 to 1" in speech_gru("listen", mirror(), heard[1], "--threshold", "-0.1").err
