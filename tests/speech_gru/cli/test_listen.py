"""The model's probabilities are its samples, four at a time: what is heard when can be told by hand."""

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
import soundfile

from speech_gru.artefact import Artefact

JA, NEIN = np.float32([0.75, 0, 0, 0.25]), np.float32([0, 0.5, 0.25, 0])
SOUND = np.concatenate([np.tile(JA, 1000), np.tile(NEIN, 2000)])
"""Half a second of "ja", a second of "nein"."""
HEARD = "    0.20 s  ja 75.0%\n"
"""0.2 s are smoothed, 0.6 s are the pause; "nein" lies below the threshold."""
DELAYED = np.append(np.float32([0]), SOUND)
"""For the stream, whose first sample is the overlap."""


@pytest.fixture
def model(mirror):
    return mirror()


@pytest.fixture
def sound(tmp_path):
    soundfile.write(tmp_path / "höre.wav", SOUND, 8000, subtype="PCM_16")
    return tmp_path / "höre.wav"


@pytest.fixture
def pipe(monkeypatch):
    """Puts bytes on standard input."""
    return lambda content: monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))


def pcm(samples: np.ndarray) -> bytes:
    return np.round(samples * 32768).astype("<i2").tobytes()


def test_a_file(speech_gru, model, sound):
    assert speech_gru("listen", model, sound) == (0, HEARD, "")


def test_threshold(speech_gru, model, sound):
    assert speech_gru("listen", model, sound, "--threshold", 0.5) == (0, HEARD + "    0.80 s  nein 50.0%\n", "")
    assert speech_gru("listen", model, sound, "--threshold", 0.76) == (0, "", "")
    assert speech_gru("listen", model, sound, "--threshold", 1.5).code == 2


def test_a_threshold_that_is_given_wins_over_the_files(speech_gru, mirror, sound):
    model = mirror(thresholds={"ja": 0.8, "nein": 0.5})
    assert speech_gru("listen", model, sound).out == "    0.70 s  nein 50.0%\n"
    assert speech_gru("listen", model, sound, "--threshold", 0.7).out == HEARD


def test_a_file_shorter_than_the_window(speech_gru, lite_model, tmp_path):
    """The window is three seconds, the file half a second; "ja" is sound at the window's beginning."""

    def build(graph):
        audio = graph.input("audio", (1, 24000))
        chosen = graph.constant(np.eye(2, 24000, dtype=np.float32) * np.float32([[1], [0]]))
        logits = graph.apply("FULLY_CONNECTED", [audio, chosen], (1, 2))
        graph.output("probabilities", graph.apply("SOFTMAX", [logits], (1, 2), beta=100.0))
        graph.output("logits", logits)

    (tmp_path / "long.tflite").write_bytes(lite_model(Artefact(("ja", "_silence_"), 8000, 24000), build))
    soundfile.write(tmp_path / "a.wav", np.full(4000, 0.5), 8000, subtype="PCM_16")
    assert "ja 100.0%" in speech_gru("listen", tmp_path / "long.tflite", tmp_path / "a.wav").out


def test_a_word_may_end_the_file(speech_gru, model, tmp_path):
    """A second of silence follows it: here a quarter of what is smoothed."""
    soundfile.write(tmp_path / "a.wav", SOUND[:1200], 8000, subtype="PCM_16")
    assert speech_gru("listen", model, tmp_path / "a.wav", "--threshold", 0.5).out == "    0.20 s  ja 56.2%\n"


def test_json(speech_gru, mirror, sound):
    outcome = speech_gru("listen", mirror(labels=("höher", "nein", "_unknown_", "_silence_")), sound, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert "höher" in outcome.out
    assert list(map(json.loads, outcome.out.splitlines())) == [{"label": "höher", "probability": 0.75, "seconds": 0.2}]


@pytest.mark.parametrize("more", [b"", b"\x01"])
@pytest.mark.parametrize("count", [6000, 12000, 11200, 11203])
def test_samples_on_standard_input(speech_gru, model, pipe, count, more):
    """Half a sample at the end is passed over, also where it would come alone in the last tenth of a second."""
    pipe(pcm(SOUND[:count]) + more)
    assert speech_gru("listen", model, "-") == (0, HEARD, "")


def test_nothing_on_standard_input(speech_gru, model, pipe):
    for content in (b"", b"\x01"):
        pipe(content)
        assert speech_gru("listen", model, "-") == (0, "", "")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_word_is_reported_while_the_stream_goes_on(model, options):
    command = [sys.executable, "-m", "speech_gru", "listen", str(model), "-", *options]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        process.stdin.write(pcm(SOUND[:2400]))
        process.stdin.flush()
        assert "ja" in process.stdout.readline().decode()
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().decode().startswith("\nspeech-gru: interrupted; ")
    assert process.returncode == 130


class TestMicrophone:
    @pytest.fixture
    def plug(self, monkeypatch):
        """Plugs a microphone in that hears samples, then raises an error; returns what it was asked for."""

        def plug(samples: np.ndarray, error: BaseException, opening: BaseException | None = None) -> list:
            asked = []

            class InputStream:
                def __init__(self, samplerate, blocksize, *, channels, dtype):
                    asked.append((samplerate, blocksize, channels, dtype))
                    if opening:
                        raise opening
                    self.heard = np.round(samples * 32768).astype(np.int16)

                def __enter__(self):
                    return self

                def __exit__(self, *exception):
                    asked.append("closed")

                def read(self, frames):
                    if not len(self.heard):
                        raise error
                    block, self.heard = self.heard[:frames], self.heard[frames:]
                    return block[:, np.newaxis], False

            module = types.SimpleNamespace(InputStream=InputStream, PortAudioError=PortAudioError)
            monkeypatch.setitem(sys.modules, "sounddevice", module)
            return asked

        return plug

    @pytest.mark.parametrize("arguments", [[], ["mic"]])
    def test_ctrl_c_ends_it(self, speech_gru, model, plug, arguments):
        asked = plug(SOUND, KeyboardInterrupt())
        outcome = speech_gru("listen", model, *arguments)
        assert (outcome.code, outcome.out) == (130, HEARD)
        assert outcome.err == "\nspeech-gru: interrupted; what was finished is kept, nothing is half-written\n"
        assert asked == [(8000, 800, 1, "int16"), "closed"]

    @pytest.mark.parametrize("error", [None, OSError("PortAudio library not found")])
    def test_what_it_needs_isnt_installed(self, speech_gru, model, monkeypatch, error):
        if error is None:
            monkeypatch.setitem(sys.modules, "sounddevice", None)  # importing it fails
        else:
            monkeypatch.setattr(sys, "meta_path", [Raising(error), *sys.meta_path])
            monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
        outcome = speech_gru("listen", model)
        assert (outcome.code, outcome.out) == (2, "")
        reason = re.escape(str(error)) if error else ".*sounddevice.*"
        form = rf'speech-gru: no microphone: {reason}; it needs the extra \[mic\]: pip install "\.\[mic\]"\n'
        assert re.fullmatch(form, outcome.err)

    def test_it_cant_be_opened(self, speech_gru, model, plug):
        plug(SOUND, PortAudioError(), opening=PortAudioError("Invalid sample rate"))
        expected = "speech-gru: the microphone can't be opened: Invalid sample rate\n"
        assert speech_gru("listen", model) == (2, "", expected)


class PortAudioError(Exception):
    pass


class Raising:
    """Finds sounddevice, but importing it raises an error."""

    def __init__(self, error: Exception):
        self.error = error

    def find_spec(self, name, path=None, target=None):
        if name == "sounddevice":
            raise self.error


@pytest.mark.parametrize(
    ("name", "reason"), [("none.wav", "missing: there is no such file"), ("text.wav", "not audio: expected WAV, FLAC")]
)
def test_audio_that_cant_be_used(speech_gru, model, tmp_path, name, reason):
    (tmp_path / "text.wav").write_text("This is no audio, but a text.", encoding="utf-8")
    outcome = speech_gru("listen", model, tmp_path / name)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"speech-gru: {tmp_path / name}: {reason}")


def test_model_that_cant_be_used(speech_gru, sound, tmp_path):
    wrong = sound.rename(tmp_path / "höre.tflite")
    outcome = speech_gru("listen", wrong, "-")  # called so, it is meant to be the model
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == f"speech-gru: {wrong}: not a TFLite file; expected one that `speech-gru export` wrote\n"
    assert "none.tflite: can't be read" in speech_gru("listen", tmp_path / "none.tflite").err


def test_a_model_by_another_name(speech_gru, model, sound, tmp_path):
    shutil.copy(model, tmp_path / "model.bin")
    assert speech_gru("listen", tmp_path / "model.bin", sound) == (0, HEARD, "")


class TestWithoutAModel:
    @pytest.fixture(autouse=True)
    def shipped(self, monkeypatch, mirror):
        """In the place of the model that comes with the package: a file for streams."""
        monkeypatch.setattr("speech_gru.shipped.STREAM_MODEL", mirror(kind="stream"))

    def test_the_one_that_comes_along_hears_a_file(self, speech_gru, tmp_path):
        soundfile.write(tmp_path / "a.wav", DELAYED, 8000, subtype="PCM_16")
        assert speech_gru("listen", tmp_path / "a.wav") == (0, HEARD, "")

    def test_standard_input(self, speech_gru, pipe):
        pipe(pcm(DELAYED))
        assert speech_gru("listen", "-") == (0, HEARD, "")

    @pytest.mark.parametrize("arguments", [[], ["mic"]])
    def test_microphone(self, speech_gru, monkeypatch, arguments):
        monkeypatch.setitem(sys.modules, "sounddevice", None)
        outcome = speech_gru("listen", *arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.startswith("speech-gru: no microphone: ")

    def test_a_model_that_is_given_is_taken_instead(self, speech_gru, mirror, sound):
        other = mirror(labels=("höher", "nein", "_unknown_", "_silence_"))
        assert "höher" in speech_gru("listen", other, sound).out

    def test_where_none_comes_along(self, speech_gru, sound, tmp_path, monkeypatch):
        monkeypatch.setattr("speech_gru.shipped.STREAM_MODEL", tmp_path / "stream.tflite")
        outcome = speech_gru("listen", sound)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.startswith(f"speech-gru: {tmp_path / 'stream.tflite'}: can't be read: No such file")


@pytest.mark.parametrize(
    ("given", "more"), [(["MODEL", "a.wav", "b.wav", "-"], "2 more: b.wav -"), (["a.wav", "b.wav"], "1 more: b.wav")]
)
def test_too_many_arguments(speech_gru, model, given, more):
    outcome = speech_gru("listen", *(model if item == "MODEL" else item for item in given))
    assert outcome == (2, "", f"speech-gru: expected a model and one source of audio, got {more}\n")
