import io
import json
import os
import re
import shutil
import types

import pytest
import soundfile

LINE = re.compile(r"(.+): (\S+) (\d+\.\d)%")


@pytest.fixture
def recognize(speech_gru, tiny_export):
    return lambda *arguments: speech_gru("recognize", tiny_export / "model.tflite", *arguments)


@pytest.fixture
def heard(recognize):
    """{file: label} of a command that must succeed."""

    def run(*arguments):
        outcome = recognize(*arguments)
        assert (outcome.code, outcome.err) == (0, "")
        return {match[1]: match[2] for match in map(LINE.fullmatch, outcome.out.splitlines())}

    return run


def test_a_file(heard, write_tone):
    assert heard(write_tone("a.wav")) == {str(write_tone("a.wav")): "mittel"}


def test_any_format_rate_and_number_of_channels(heard, write_tone):
    files = [
        write_tone("a.wav", subtype="PCM_24", rate=48000, channels=2),
        write_tone("b.wav", subtype="FLOAT", rate=11025),
        write_tone("c.flac", rate=44100),
        write_tone("d.ogg", rate=16000, format="OGG", subtype="VORBIS"),
        write_tone("e.opus", rate=16000, format="OGG", subtype="OPUS"),
        write_tone("f.mp3", rate=22050, format="MP3"),
    ]
    assert heard(*files) == {str(file): "mittel" for file in files}


def test_a_folder_in_order(heard, write_tone, tmp_path):
    expected = {
        str(write_tone("Aufnahmen/a.wav")): "mittel",
        str(write_tone("Aufnahmen/b.FLAC", 1900, format="FLAC")): "höher",
        str(write_tone("Aufnahmen/tiefer/c.wav", 250)): "tief",
    }
    (tmp_path / "Aufnahmen" / "notes.txt").write_text("not audio", encoding="utf-8")
    (tmp_path / "Aufnahmen" / "folder.wav").mkdir()
    assert list(heard(tmp_path / "Aufnahmen").items()) == list(expected.items())


def test_files_and_folders_together(heard, write_tone, tmp_path):
    one, other = write_tone("x/a.wav"), write_tone("b.wav", 250)
    assert heard(other, tmp_path / "x") == {str(other): "tief", str(one): "mittel"}


def test_folder_without_audio(recognize, write_tone, tmp_path):
    (tmp_path / "empty").mkdir()
    outcome = recognize(write_tone("a.wav"), tmp_path / "empty")
    assert outcome.code == 2
    assert outcome.out == "", "the mistake is found before the work begins"
    assert f"{tmp_path / 'empty'}: no audio in this folder; expected .flac .mp3" in outcome.err


def test_standard_input(recognize, write_tone, monkeypatch):
    content = io.BytesIO(write_tone("a.flac").read_bytes())
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=content))
    outcome = recognize("-")
    assert outcome.code == 0
    assert LINE.fullmatch(outcome.out.strip()).groups()[:2] == ("-", "mittel")


def test_what_cant_be_read_is_passed_over(recognize, write_tone, tmp_path):
    (tmp_path / "text.wav").write_text("This is no audio, but a text.", encoding="utf-8")
    (tmp_path / "zero.wav").write_bytes(b"")
    names = [tmp_path / "text.wav", tmp_path / "none.wav", tmp_path / "zero.wav", write_tone("a.wav")]
    outcome = recognize(*names)
    assert outcome.code == 3
    assert outcome.out.startswith(f"{tmp_path / 'a.wav'}: mittel ")
    messages = outcome.err.splitlines()
    assert len(messages) == 3
    for message, name, reason in zip(messages, names, ("not audio", "missing", "empty"), strict=False):
        assert message.startswith(f"speech-gru: {name}: {reason}")


def test_top(recognize, write_tone):
    line = recognize(write_tone("a.wav"), "--top", 2).out.strip()
    shares = [float(share) for share in re.findall(r"(\d+\.\d)%", line)]
    assert len(shares) == 2
    assert shares[0] > shares[1]
    assert len(re.findall("%", recognize(write_tone("a.wav"), "--top", 99).out)) == 5


def test_json(recognize, write_tone):
    files = [write_tone("höher.wav", 1900), write_tone("b.wav", 250)]
    outcome = recognize("--json", "--top", "5", *files)
    assert (outcome.code, outcome.err) == (0, "")
    objects = [json.loads(line) for line in outcome.out.splitlines()]
    assert [item["file"] for item in objects] == [str(file) for file in files]
    assert [item["label"] for item in objects] == ["höher", "tief"]
    for item in objects:
        assert item["top"][0] == {"label": item["label"], "probability": item["probability"]}
        assert {entry["label"] for entry in item["top"]} == {"tief", "mittel", "höher", "_unknown_", "_silence_"}
        assert sum(entry["probability"] for entry in item["top"]) == pytest.approx(1, abs=1e-5)


def test_below_the_files_threshold_it_is_unknown(speech_gru, mirror, tmp_path):
    """The first is what `Recognizer` says, the others follow by their probability."""
    soundfile.write(tmp_path / "a.wav", [0.6, 0.1, 0.2, 0.1], 8000, subtype="FLOAT")
    model = mirror(thresholds={"ja": 0.7})
    lines = [speech_gru("recognize", model, tmp_path / "a.wav", "--top", top).out for top in (1, 2)]
    assert lines == [f"{tmp_path / 'a.wav'}: _unknown_ 20.0%\n", f"{tmp_path / 'a.wav'}: _unknown_ 20.0%, ja 60.0%\n"]
    item = json.loads(speech_gru("recognize", model, tmp_path / "a.wav", "--json").out)
    assert (item["label"], item["probability"]) == ("_unknown_", 0.2)


def test_a_file_for_streams(speech_gru, mirror, write_tone):
    outcome = speech_gru("recognize", mirror(kind="stream"), write_tone("a.wav"))
    assert (outcome.code, outcome.out) == (2, "")
    assert "a file of kind 'stream', not for whole clips" in outcome.err


def test_non_ascii_paths(heard, write_tone):
    path = write_tone("été/日本 grüße.wav")
    assert heard(path) == {str(path): "mittel"}


@pytest.mark.skipif(os.name != "posix", reason="names that aren't UTF-8 exist on POSIX alone")
def test_a_name_that_isnt_utf8(recognize, write_tone, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav")
    try:
        os.rename(write_tone("a.wav"), path)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    plain, as_json = recognize(path), recognize(path, "--json")
    assert (plain.code, as_json.code) == (0, 0)
    assert plain.out.startswith(str(tmp_path) + "/\\udcff.wav: mittel ")
    assert json.loads(as_json.out)["file"] == path


def test_model_and_audio_swapped(speech_gru, tiny_export, write_tone):
    """Another model than the one that was meant would recognise."""
    model = tiny_export / "model.tflite"
    outcome = speech_gru("recognize", write_tone("a.wav"), model)
    assert outcome == (2, "", f"speech-gru: {model}: expected audio; the model comes first\n")


def test_a_model_by_another_name(speech_gru, mirror, tmp_path):
    """Its bytes tell, not its name."""
    soundfile.write(tmp_path / "a.wav", [0.6, 0.1, 0.2, 0.1], 8000, subtype="FLOAT")
    model = shutil.copy(mirror(), tmp_path / "model.bin")
    assert speech_gru("recognize", model, tmp_path / "a.wav").out == f"{tmp_path / 'a.wav'}: ja 60.0%\n"
    assert speech_gru("recognize", model) == (
        2,
        "",
        f"speech-gru: no audio: expected files, folders or - after {model}\n",
    )
    outcome = speech_gru("recognize", mirror(), tmp_path / "a.wav", model)
    assert outcome == (2, "", f"speech-gru: {model}: expected audio; the model comes first\n")


def test_no_such_model(speech_gru, write_tone):
    outcome = speech_gru("recognize", "none.tflite", write_tone("a.wav"))
    assert outcome.code == 2
    assert outcome.err == "speech-gru: none.tflite: can't be read: No such file or directory; expected a .tflite file\n"


class TestWithoutAModel:
    @pytest.fixture
    def shipped(self, monkeypatch, tiny_export):
        """In the place of the model that comes with the package."""
        monkeypatch.setattr("speech_gru.shipped.CLIP_MODEL", tiny_export / "model.tflite")

    def test_the_one_that_comes_along_is_taken(self, speech_gru, shipped, write_tone, tmp_path):
        files = [write_tone("a.wav"), write_tone("folder/b.wav", 1900)]
        outcome = speech_gru("recognize", files[0], tmp_path / "folder")
        assert (outcome.code, outcome.err) == (0, "")
        matches = map(LINE.fullmatch, outcome.out.splitlines())
        assert [match.groups()[:2] for match in matches] == [(str(files[0]), "mittel"), (str(files[1]), "höher")]

    def test_standard_input(self, speech_gru, shipped, write_tone, monkeypatch):
        content = io.BytesIO(write_tone("a.flac", 250).read_bytes())
        monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=content))
        assert speech_gru("recognize", "-").out.startswith("-: tief ")

    def test_a_model_that_is_given_is_taken_instead(self, speech_gru, shipped, mirror, tmp_path):
        soundfile.write(tmp_path / "a.wav", [0.1, 0.6, 0.2, 0.1], 8000, subtype="FLOAT")
        outcome = speech_gru("recognize", mirror(), tmp_path / "a.wav")
        assert outcome == (0, f"{tmp_path / 'a.wav'}: nein 60.0%\n", "")

    def test_where_none_comes_along(self, speech_gru, write_tone, tmp_path, monkeypatch):
        monkeypatch.setattr("speech_gru.shipped.CLIP_MODEL", tmp_path / "clip.tflite")
        outcome = speech_gru("recognize", write_tone("a.wav"))
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.startswith(f"speech-gru: {tmp_path / 'clip.tflite'}: can't be read: No such file")


def test_a_model_and_no_audio(speech_gru, tiny_export):
    model = tiny_export / "model.tflite"
    outcome = speech_gru("recognize", model)
    assert outcome == (2, "", f"speech-gru: no audio: expected files, folders or - after {model}\n")
    assert speech_gru("recognize").code == 2
