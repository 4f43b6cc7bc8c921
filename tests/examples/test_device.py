import subprocess
import sys


def run(examples, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, examples / "device.py", *arguments], capture_output=True, encoding="utf-8", timeout=60
    )


def test_words(examples, model, clips, expected):
    audible = [clip for clip in clips if clip.name != "silence.wav"]  # which is refused
    done = run(examples, model, *audible)
    assert done.returncode == 0, done.stderr
    for line, clip in zip(done.stdout.splitlines(), audible, strict=True):
        heard = expected[clip.name]
        assert line == f"{clip}: {heard.label} {heard.probability:.3f}"


def test_wrong_use(examples, model, clips, tmp_path):
    assert "python device.py model.tflite clip.wav" in run(examples).stderr
    assert "nothing.tflite: can't be read" in run(examples, tmp_path / "nothing.tflite", clips[0]).stderr
    done = run(examples, model, clips[0], tmp_path / "nothing.wav", clips[1])
    assert done.returncode == 1
    assert done.stderr.strip() == f"{tmp_path / 'nothing.wav'}: missing: there is no such file"
    assert len(done.stdout.splitlines()) == 1
