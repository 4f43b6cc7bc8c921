"""A device has NumPy, soundfile and LiteRT: nothing else may be imported there, not even if it is installed."""

import importlib.metadata
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile

TRAINING = {
    *("tensorflow", "keras", "librosa", "scipy", "sklearn", "matplotlib", "pydantic", "yaml"),
    *("numba", "h5py", "tensorboard", "soxr", "absl"),
}
"""What `[train]` brings."""
TYPER_NEEDS = {re.match(r"[\w-]+", line)[0] for line in importlib.metadata.requires("typer")}
"""Typer loads pydantic itself from version 0.29 on."""

PROGRAM = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Absent())
{code}
loaded = {absent!r} & {{name.partition(".")[0] for name in sys.modules}}
assert not loaded, loaded
"""


def run(code: str, *arguments: object, absent: set[str] = TRAINING) -> subprocess.CompletedProcess:
    program = PROGRAM.format(code=code, absent=absent)
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60)


def run_command_line(*arguments: object, absent: set[str] = frozenset()) -> subprocess.CompletedProcess:
    code = """
from speech_gru.cli import main
try:
    main()
except SystemExit as exit:
    code = exit.code
"""
    return run(code + "print('exit code', code)", *arguments, absent=(TRAINING - TYPER_NEEDS) | absent)


@pytest.fixture
def clip(tmp_path):
    samples = 0.5 * np.sin(2 * np.pi * 700 * np.arange(8000) / 16000)
    soundfile.write(tmp_path / "ton.wav", samples, 16000)
    return tmp_path / "ton.wav"


def test_the_library(tiny_export, clip):
    code = """
from speech_gru import Recognizer
recognizer = Recognizer(sys.argv[1])
print(recognizer.recognize(recognizer.load(sys.argv[2])).label)
"""
    result = run(code, tiny_export / "model.tflite", clip)
    assert (result.stdout, result.stderr) == ("mittel\n", "")


def test_a_stream(tiny_export, mirror, clip):
    code = """
from speech_gru import Recognizer, StreamingRecognizer
samples = Recognizer(sys.argv[1]).load(sys.argv[2])
rows = StreamingRecognizer(sys.argv[1]).probabilities(samples)
print(rows.shape, rows[0].argmax())
stream = StreamingRecognizer(sys.argv[3])
stream.detect(samples)
print(stream.logits(samples).shape)
"""
    result = run(code, tiny_export / "model.tflite", clip, mirror(kind="stream"))
    assert re.fullmatch(r"\(1, 5\) \d\n\(1000, 4\)\n", result.stdout), result
    assert result.stderr == ""


def test_phrases(phrase_mirror, clip):
    code = """
from speech_gru.phrase_recognizer import PhraseRecognizer
recognizer = PhraseRecognizer(sys.argv[1], decoding="words")
samples = recognizer.load(sys.argv[2])
print(recognizer.log_probs(samples).shape, len(recognizer.find(samples, ["links"], -99)) > 0)
print(len(recognizer.words(samples)) > 0)
"""
    for kind in ("clip", "stream"):
        result = run(code, phrase_mirror(kind=kind), clip)
        assert (result.stdout, result.stderr) == ("(124, 4) True\nTrue\n", ""), result


@pytest.mark.parametrize("verb", ["recognize", "listen"])
@pytest.mark.parametrize("options", [[], ["--json"], ["--phrases", "links", "--threshold", "-99"]])
def test_the_commands_with_phrases(phrase_mirror, clip, verb, options):
    result = run_command_line(verb, phrase_mirror(), clip, *options, absent={"sounddevice"})
    assert re.search("links|höher|stopp", result.stdout), result
    assert result.stdout.endswith("exit code 0\n")
    assert result.stderr == ""


def test_inspecting_loads_no_litert_either(mirror):
    code = """
from speech_gru.artefact import inspect_file
print(inspect_file(sys.argv[1]).kind)
"""
    result = run(code, mirror(kind="stream"), absent=TRAINING | {"ai_edge_litert", "numpy", "soundfile"})
    assert (result.stdout, result.stderr) == ("stream\n", "")


def test_the_command(tiny_export, clip):
    result = run_command_line("recognize", tiny_export / "model.tflite", clip)
    assert re.fullmatch(rf"{re.escape(str(clip))}: mittel \d\d\.\d%\nexit code 0\n", result.stdout), result
    assert result.stderr == ""


def test_inspect(mirror):
    for options in ([], ["--json"]):
        result = run_command_line("inspect", mirror(), *options, absent={"ai_edge_litert", "numpy", "soundfile"})
        assert "_silence_" in result.stdout
        assert result.stdout.endswith("exit code 0\n"), result.stderr


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_listen(mirror, tmp_path, options):
    soundfile.write(tmp_path / "a.wav", np.tile([0.875, 0, 0, 0], 1000), 8000)
    result = run_command_line("listen", mirror(), tmp_path / "a.wav", *options, absent={"sounddevice"})
    assert re.search("ja 87.5%|0.875", result.stdout), result
    assert result.stdout.endswith("exit code 0\n")
    assert result.stderr == ""


def test_help():
    result = run_command_line("--help")
    assert "recognize" in result.stdout
    assert result.stdout.endswith("exit code 0\n"), result.stderr
    verbs = re.findall(r"^│ (\w+) ", result.stdout, re.MULTILINE)
    assert {"prepare", "train", "evaluate", "export", "inspect", "recognize", "listen"} <= set(verbs)


@pytest.mark.parametrize(
    "verb",
    [
        "download",
        "synth",
        "prepare",
        "compose",
        "train",
        "evaluate",
        "export",
        "inspect",
        "recognize",
        "listen",
        "summary",
    ],
)
def test_help_of_each_verb(verb):
    result = run_command_line(verb, "--help")
    assert f"speech-gru {verb}" in result.stdout
    assert result.stdout.endswith("exit code 0\n"), result.stderr


def test_help_loads_no_litert_either():
    result = run_command_line("--help", absent={"ai_edge_litert", "numpy", "soundfile"})
    assert result.stdout.endswith("exit code 0\n"), result.stderr


@pytest.mark.parametrize("verb", ["train demo", "prepare demo", "evaluate run", "export run", "summary run"])
def test_a_verb_that_needs_more_says_what_to_install(verb):
    result = run_command_line(*verb.split())
    assert result.stdout == "exit code 2\n", result
    assert re.fullmatch(
        r'speech-gru: \w+ isn\'t installed; this command needs the extra \[train\]: pip install "\.\[train\]"\n',
        result.stderr,
    )
