import json

import pytest

from speech_gru.artefact import inspect_file

VALUES = {
    "labels": ("höher", "nein", "_unknown_", "_silence_"),
    "kind": "stream",
    "number_format": "int8",
    "warmup_chunks": 5,
    "thresholds": {"höher": 0.6, "nein": 0.5},
    "front_end": {"kind": "mfcc", "mel_bins": 16, "high_hz": None},
    "front_end_sha256": "ab" * 32,
    "run": "erster",
    "version": "0.1.0",
}


@pytest.fixture
def file(mirror):
    return mirror(**VALUES)


def test_plain(speech_gru, file):
    outcome = speech_gru("inspect", file)
    assert (outcome.code, outcome.err) == (0, "")
    shown = dict(line.split(maxsplit=1) for line in outcome.out.splitlines())
    assert shown == {
        "labels": "höher, nein, _unknown_, _silence_",
        "sample_rate": "8000",
        "clip_samples": "4",
        "kind": "stream",
        "number_format": "int8",
        "chunk_samples": "4",
        "overlap_samples": "1",
        "warmup_chunks": "5",
        "thresholds": "höher 0.6, nein 0.5",
        "front_end": "kind mfcc, mel_bins 16",
        "front_end_sha256": "ab" * 32,
        "head": "classification",
        "run": "erster",
        "version": "0.1.0",
        "bytes": str(file.stat().st_size),
    }
    of_phrases = {"frame_samples", "hop_samples", "step_samples", "tokens", "decoding", "words"}
    assert set(shown) == {*vars(inspect_file(file)), "bytes"} - of_phrases


def test_a_ctc_head(speech_gru, phrase_mirror):
    file = phrase_mirror(tokens="characters", labels=("", " ", "a", "ö"), words=("aö", "ö"), decoding="words")
    shown = dict(line.split(maxsplit=1) for line in speech_gru("inspect", file).out.splitlines())
    assert shown["labels"] == "'', ' ', a, ö"
    assert (shown["head"], shown["tokens"], shown["decoding"], shown["words"]) == (
        "ctc",
        "characters",
        "words",
        "aö, ö",
    )
    assert (shown["frame_samples"], shown["hop_samples"], shown["step_samples"]) == ("5", "4", "4")
    assert json.loads(speech_gru("inspect", file, "--json").out)["labels"] == ["", " ", "a", "ö"]


def test_what_there_is_none_of(speech_gru, mirror):
    lines = [line.split() for line in speech_gru("inspect", mirror()).out.splitlines()]
    assert ["thresholds", "-"] in lines
    assert ["front_end", "-"] in lines


def test_json(speech_gru, file):
    outcome = speech_gru("inspect", file, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert "höher" in outcome.out
    found = json.loads(outcome.out)
    assert found.pop("bytes") == file.stat().st_size
    assert (found.pop("labels"), found.pop("words")) == (list(VALUES["labels"]), [])
    about = vars(inspect_file(file))
    assert found == {key: about[key] for key in about if key not in ("labels", "words")}


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_what_isnt_whole_is_refused_in_one_line(speech_gru, file, options, tmp_path):
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    (tmp_path / "cut.tflite").write_bytes(content[:100])
    (tmp_path / "text.tflite").write_text("This is no model, but a text.", encoding="utf-8")
    for path, reason in (
        (file, "the file was changed or cut off after it was exported; export it again"),
        (tmp_path / "cut.tflite", "a TFLite file without speech_gru's description: of another program, or cut off; "),
        (tmp_path / "text.tflite", "not a TFLite file; expected one that `speech-gru export` wrote"),
        (tmp_path / "none.tflite", "can't be read: No such file or directory; expected a .tflite file"),
        (tmp_path, "can't be read: Is a directory; expected a .tflite file"),
    ):
        outcome = speech_gru("inspect", path, *options)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.startswith(f"speech-gru: {path}: {reason}")
        assert len(outcome.err.splitlines()) == 1
