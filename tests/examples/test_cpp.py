import shutil
import subprocess
from pathlib import Path

import ai_edge_litert
import numpy as np
import pytest
import soundfile


@pytest.fixture(scope="module")
def recognize(examples, tmp_path_factory):
    """A function that runs the built program."""
    library = Path(ai_edge_litert.__path__[0]) / "libLiteRt.so"
    if not library.is_file():
        pytest.skip("needs libLiteRt.so, which this version or platform of ai-edge-litert doesn't hold")
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}, which isn't installed")
    build = tmp_path_factory.mktemp("cpp") / "build"
    definitions = ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS=-Werror", f"-DLITERT_LIBRARY={library}"]
    for command in (["-S", examples / "cpp", "-B", build, *definitions], ["--build", build]):
        done = subprocess.run(["cmake", *command], capture_output=True, encoding="utf-8", timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr

    def run(*arguments) -> subprocess.CompletedProcess:
        return subprocess.run([build / "recognize", *arguments], capture_output=True, encoding="utf-8", timeout=60)

    return run


def ranking(done: subprocess.CompletedProcess) -> dict[str, float]:
    assert done.returncode == 0, done.stderr
    return {label: float(value) for label, value in (line.rsplit(" ", 1) for line in done.stdout.splitlines())}


def test_probabilities_are_those_of_python(recognize, model, sharp_model, clips, expected, sharp_expected):
    for clip in clips:
        for path, right in ((model, expected), (sharp_model, sharp_expected)):
            heard = ranking(recognize(path, clip))
            assert heard == pytest.approx(dict(right[clip.name].ranking), abs=1e-3), (path.name, clip.name)
            others = list(heard.values())[1:]
            assert others == sorted(others, reverse=True)


def test_a_word_below_its_threshold_is_unknown(recognize, model, sharp_model, clips, expected, sharp_expected):
    """As Recognizer.recognize decides, it comes first; `sharp_model` has a threshold."""
    for clip in clips:
        for path, right in ((model, expected), (sharp_model, sharp_expected)):
            first = next(iter(ranking(recognize(path, clip))))
            assert first == right[clip.name].label, (path.name, clip.name)


def test_extensible_wav_is_read(recognize, model, clips, expected, tmp_path):
    samples, rate = soundfile.read(clips[0])
    soundfile.write(tmp_path / "clip.wav", samples, rate, subtype="PCM_16", format="WAVEX")
    heard = ranking(recognize(model, tmp_path / "clip.wav"))
    assert heard == pytest.approx(dict(expected[clips[0].name].ranking), abs=1e-3)


def test_other_audio_is_refused(recognize, model, clips, tmp_path):
    samples, _ = soundfile.read(clips[0])
    clip = tmp_path / "clip.wav"

    def refusal() -> str:
        done = recognize(model, clip)
        assert (done.returncode, done.stdout) == (2, "")
        return done.stderr

    assert "can't be read or is empty; expected a WAV file" in refusal()
    soundfile.write(clip, samples, 16000, subtype="PCM_16")
    assert "expected 16-bit PCM, 1 channel, 8000 Hz; got 16 bits, 1 channel(s), 16000 Hz; convert it" in refusal()
    soundfile.write(clip, np.stack([samples, samples], axis=1), 8000, subtype="PCM_16")
    assert "got 16 bits, 2 channel(s), 8000 Hz" in refusal()
    soundfile.write(clip, samples, 8000, subtype="FLOAT")
    assert "got 32 bits that aren't PCM" in refusal()
    soundfile.write(clip, samples[:0], 8000, subtype="PCM_16")
    assert "empty: it holds no samples" in refusal()
    clip.write_bytes(clips[0].read_bytes()[:5000])
    assert "truncated: 8000 bytes expected, 4956 are there" in refusal()
    clip.write_bytes(clips[0].read_bytes()[:36])
    assert "truncated: it ends before the samples" in refusal()
    clip.write_bytes(model.read_bytes())
    assert "not a WAV file" in refusal()


def test_unfit_models_are_refused(recognize, unfit, model, clips, tmp_path):
    for path, words in unfit.items():
        done = recognize(path, clips[0])
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr
    cut = tmp_path / "cut.tflite"
    for length in (0, 5, 100, 1000, model.stat().st_size - 1):
        cut.write_bytes(model.read_bytes()[:length])
        assert recognize(cut, clips[0]).returncode == 2


def test_wrong_use(recognize):
    done = recognize()
    assert (done.returncode, done.stdout) == (2, "")
    assert "recognize model.tflite clip.wav" in done.stderr
