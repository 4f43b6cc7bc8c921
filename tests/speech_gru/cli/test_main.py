"""What all verbs have in common: help, usage errors, exit codes, interruption."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import speech_gru.lite_file
from data_pipeline.errors import UserError
from speech_gru.cli import app

COMMAND = [sys.executable, "-m", "speech_gru"]
VERBS = {command.name: command.callback for command in app.registered_commands}
INTERRUPTED = "\nspeech-gru: interrupted; what was finished is kept, nothing is half-written\n"


def examples(verb: str) -> list[str]:
    """The commands in a verb's help."""
    return re.findall(r"speech-gru [^\n]*", VERBS[verb].__doc__)


@pytest.mark.parametrize("verb", VERBS)
def test_help_teaches_by_an_example_that_is_right(verb, speech_gru):
    outcome = speech_gru(verb, "--help")
    assert outcome.code == 0
    assert any(example.startswith(f"speech-gru {verb} ") for example in examples(verb))
    for example in examples(verb):
        assert " ".join(example.split()) in " ".join(outcome.out.split())
        _, name, *arguments = shlex.split(example)
        parsed = typer.main.get_command(app).commands[name].make_context(name, arguments).params
        if "config" in parsed:
            from speech_gru.config import load_config

            load_config(parsed["config"], parsed["settings"])


def test_no_help_text_is_swallowed_as_markup(speech_gru):
    for verb in VERBS:
        for parameter in typer.main.get_command(app).commands[verb].params:
            text = " ".join(re.sub(r"[│╭╰─╮╯]", " ", speech_gru(verb, "--help").out).split())
            assert all(word in text for word in (parameter.help or "").split()), parameter.help


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recognise"], "No such command 'recognise'"),
        (["recognize", "model.tflite", "a.wav", "--tpo", "3"], "No such option: --tpo"),
        (["recognize", "model.tflite", "a.wav", "--top", "0"], "Invalid value for '--top'"),
        (["recognize", "model.tflite", "a.wav", "--top", "many"], "Invalid value for '--top'"),
        (["evaluate", "run", "--split", "../x"], "Invalid value for '--split'"),
        (["--verbose"], "No such option: --verbose"),
    ],
)
def test_wrong_command_line(speech_gru, arguments, message):
    outcome = speech_gru(*arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert "Usage: speech-gru" in outcome.err
    assert outcome.out == ""


@pytest.mark.parametrize("arguments", [[], ["recognize"], ["train"]])
def test_without_arguments_the_help_is_shown(speech_gru, arguments):
    outcome = speech_gru(*arguments)
    assert f"Usage: {' '.join(['speech-gru', *arguments])} " in outcome.out + outcome.err


def failing(monkeypatch, error: BaseException):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(speech_gru.lite_file, "LiteFile", fail)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("expected this, got that"), 2, "speech-gru: expected this, got that\n"),
        (PermissionError(13, "Permission denied", "x"), 2, "speech-gru: [Errno 13] Permission denied: 'x'\n"),
        (KeyboardInterrupt(), 130, INTERRUPTED),
    ],
)
def test_failures_are_one_message(speech_gru, monkeypatch, error, code, message):
    failing(monkeypatch, error)
    outcome = speech_gru("recognize", "model.tflite", "a.wav")
    assert (outcome.code, outcome.out, outcome.err) == (code, "", message)


def test_a_mistake_of_ours_shows_where_it_is(speech_gru, monkeypatch):
    failing(monkeypatch, ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError, match="ours"):
        speech_gru("recognize", "model.tflite", "a.wav")


def test_tensorflow_is_told_to_be_quiet_unless_the_user_wants_it_loud(speech_gru, monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    speech_gru("--help")
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    speech_gru("--help")
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"


def test_as_a_module():
    result = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert result.returncode == 0
    assert "Usage: speech-gru" in result.stdout
    assert result.stderr == ""


def test_a_reader_that_goes_away_is_no_mistake(tiny_export, write_tone):
    """As in `speech-gru recognize ... | head -n 1`."""
    clips = [str(write_tone("mittel.wav"))] * 200
    command = [*COMMAND, "recognize", str(tiny_export / "model.tflite"), *clips]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert b"mittel" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("arguments", [["--help"], ["recognize", "--help"]])
def test_no_reader_at_all(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run([*COMMAND, *arguments], stdout=writing, stderr=subprocess.PIPE, timeout=60)
    os.close(writing)
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.skipif(os.name != "posix", reason="closes standard output as a POSIX shell does")
def test_standard_output_closed():
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "--help"]
    result = subprocess.run(command, stderr=subprocess.PIPE, timeout=60)
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_ctrl_c(tiny_export, write_tone):
    clip = write_tone("mittel.wav")
    command = [*COMMAND, "recognize", str(tiny_export / "model.tflite"), str(clip), "-"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, encoding="utf-8") as process:
        assert "mittel" in process.stdout.readline()  # it now waits for standard input
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == INTERRUPTED
    assert process.returncode == 130


def test_the_readme_names_the_verbs_and_options_there_are():
    text = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^speech-gru ([^#\n]*)", text, re.MULTILINE)
    assert commands
    for command in commands:
        verb, *arguments = shlex.split(command)
        typer.main.get_command(app).commands[verb].make_context(verb, arguments)
