import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from export import material, matrix
from export.errors import ExportError
from export.matrix import KINDS
from export.proof import Proof
from speech_gru.artefact import inspect_file


@pytest.fixture
def run(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run")


def contents(folder) -> dict:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(out: str) -> list[list[str]]:
    """The table's, by cells."""
    _, _, rest = out.partition("\n")
    return [re.split(r"\s{2,}", line.strip()) for line in rest.splitlines() if re.search(r"\d%", line)]


def test_in_a_fresh_process(run):
    """Nothing but our own words is to be seen."""
    options = ("--only", "stream_float32", "--only", "float32", "--set", "export.threshold=0.5")
    command = [sys.executable, "-m", "speech_gru", "export", str(run), *options]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"stream\.tflite: not made: the encoder is bidirectional [^\n]*\n", result.stderr)
    assert result.stdout.splitlines()[-1].startswith(f"{run / 'export'}: each artefact was loaded back and agrees with")
    assert [row[0] for row in rows(result.stdout)] == ["model.tflite"]
    made = {path.name for path in (run / "export").iterdir()}
    assert made == {"model.tflite", "export_report.json", "MODEL_CARD.md"}
    about = inspect_file(run / "export" / "model.tflite")
    assert (about.run, about.thresholds) == ("run", {"tief": 0.5, "mittel": 0.5, "höher": 0.5})


PROVEN = Proof(
    artefact="float32",
    file="model.tflite",
    status="proven",
    bytes=123_456,
    clips=200,
    largest_difference=3.2e-6,
    equal_decisions=199,
    decisions=200,
    correct=190,
    accuracy=0.95,
    accuracy_interval=(0.9104, 0.9726),
    latency_ms=0.1234,
    latency_of="clip",
)
FAILED = replace(PROVEN, artefact="int8", file="model_int8.tflite", status="failed", reason="it gets 9 clips wrong")


@pytest.fixture
def exporting(monkeypatch):
    """Makes `export` get these proofs, or this error; returns what it was asked for."""

    def exporting(result) -> list:
        asked = []

        def export_run(run, out, shards, only, overrides, progress):
            asked.append((run, out, shards, tuple(only), tuple(overrides)))
            progress("model.tflite", 0, 1)
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(matrix, "export_run", export_run)
        return asked

    return exporting


def test_table(speech_gru, exporting, tmp_path):
    other = replace(PROVEN, file="stream.tflite", bytes=999, equal_decisions=200, latency_of="40 ms chunk")
    asked = exporting([PROVEN, other])
    outcome = speech_gru("export", tmp_path / "run")
    assert (outcome.code, outcome.err) == (0, "")
    head = next(line for line in outcome.out.splitlines() if line.strip())
    assert head.split() == ["artefact", "KB", "logits", "decisions", "accuracy", "ms", "of"]
    assert rows(outcome.out) == [
        ["model.tflite", "123", "3e-06", "99.50%", "95.00% (91.0-97.3)", "0.123", "clip"],
        ["stream.tflite", "1", "3e-06", "100.00%", "95.00% (91.0-97.3)", "0.123", "40 ms chunk"],
    ]
    assert outcome.out.splitlines()[-1].startswith(f"{tmp_path / 'run' / 'export'}: each artefact was loaded back")
    assert asked == [(tmp_path / "run", tmp_path / "run" / "export", None, (), ())]


def test_both_accuracies_where_files_have_thresholds(speech_gru, exporting):
    with_thresholds = {"accuracy_with_thresholds": 0.9, "interval_with_thresholds": (0.85, 0.93)}
    exporting([replace(PROVEN, correct_with_thresholds=180, **with_thresholds), replace(PROVEN, file="saved_model")])
    outcome = speech_gru("export", "run")
    first, second = rows(outcome.out)
    assert first[4:6] == ["95.00% (91.0-97.3)", "90.00% (85.0-93.0)"]
    assert second[4:6] == ["95.00% (91.0-97.3)", "-"]
    assert "accuracy   with thresholds" in re.sub(r"\s{2,}", "   ", outcome.out)


def test_options(speech_gru, exporting, tmp_path):
    asked = exporting([PROVEN])
    options = ("--only", "int8", "--only", "onnx", "--out", tmp_path / "x", "--shards", tmp_path / "clips")
    options += ("--set", "export.threshold=0.5", "--set", "export.data=x=y")
    assert speech_gru("export", tmp_path / "run", *options).code == 0
    settings = ("export.threshold=0.5", "export.data=x=y")
    assert asked == [(tmp_path / "run", tmp_path / "x", tmp_path / "clips", ("int8", "onnx"), settings)]


def test_one_failed_while_others_are_made(speech_gru, exporting):
    exporting([PROVEN, FAILED])
    outcome = speech_gru("export", "run")
    assert outcome.code == 1
    assert [row[0] for row in rows(outcome.out)] == ["model.tflite", "model_int8.tflite (failed)"]
    assert outcome.err == "model_int8.tflite: failed: it gets 9 clips wrong\n"
    assert "each artefact" not in outcome.out


def test_reasons_are_told_once_for_all_that_have_them(speech_gru, exporting):
    streams = [Proof(name, f"{name}.tflite", "not made", "bidirectional") for name in ("stream", "stream_int8")]
    crashed = Proof("onnx", "model.onnx", "failed", "its process died")
    exporting([PROVEN, streams[0], crashed, FAILED, streams[1]])
    outcome = speech_gru("export", "run")
    assert outcome.code == 1
    assert sorted(outcome.err.splitlines()) == [
        "model.onnx: failed: its process died",
        "model_int8.tflite: failed: it gets 9 clips wrong",
        "stream.tflite, stream_int8.tflite: not made: bidirectional",
    ]
    assert len(rows(outcome.out)) == 2, "what has no figures isn't in the table"


def test_what_this_model_has_no_use_for_is_no_failure(speech_gru, exporting):
    exporting([PROVEN, Proof("stream_int8", "stream_int8.tflite", "not made", "bidirectional")])
    outcome = speech_gru("export", "run")
    assert (outcome.code, outcome.err) == (0, "stream_int8.tflite: not made: bidirectional\n")


def test_nothing_can_be_made(speech_gru, exporting):
    exporting(ExportError("the front end can't be converted"))
    assert speech_gru("export", "run") == (1, "", "speech-gru: the front end can't be converted\n")


def test_nothing_of_what_was_asked_for_can_be_made(speech_gru, run, monkeypatch):
    """Then nothing was proven either."""
    monkeypatch.setattr(matrix, "in_child", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(material, "start_on_cpu", lambda: None)
    outcome = speech_gru("export", run, "--only", "stream_float32")
    assert outcome.code == 1
    assert outcome.err.startswith("stream.tflite: not made: the encoder is bidirectional")
    assert "agrees" not in outcome.out
    assert not list((run / "export").iterdir())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.units=3", "--set model.units=3: a trained run's settings are fixed, but for those that begin"),
        ("export.threshhold=1", "--set export.threshhold=1: export.threshhold: no such setting; the nearest valid"),
        ("export.threshold=2", "--set export.threshold=2: export.threshold: expected less than or equal to 1, got 2"),
    ],
)
def test_settings_that_cant_be_overridden(speech_gru, run, monkeypatch, setting, message):
    monkeypatch.setattr(matrix, "in_child", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(material, "start_on_cpu", lambda: None)
    outcome = speech_gru("export", run, "--only", "float32", "--set", setting)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"speech-gru: {message}")
    assert not list(run.glob("export/*"))


def test_the_help_names_every_artefact(speech_gru):
    text = " ".join(re.sub(r"[│╭╰─╮╯]", " ", speech_gru("export", "--help").out).split())
    listed = re.search(r"may be repeated: ([\w, ]+)\.", text)[1].split(", ")
    assert listed == list(KINDS)


def test_an_unknown_artefact(speech_gru, tmp_path):
    outcome = speech_gru("export", tmp_path, "--only", "int4", "--only", "float32")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == f"speech-gru: --only int4: no such artefact; expected of: {', '.join(KINDS)}\n"


def test_what_differs_from_its_model_leaves_the_earlier_export(speech_gru, run, tiny_export, monkeypatch):
    shutil.copytree(tiny_export, run / "export")

    def judge(*arguments):
        return replace(original(*arguments), status="failed", reason="it says something else")

    original = matrix.judge
    monkeypatch.setattr(matrix, "judge", judge)
    outcome = speech_gru("export", run, "--only", "float32")
    assert outcome.code == 1
    assert outcome.err == "model.tflite: failed: it says something else\n"
    assert (run / "export" / "model.tflite").read_bytes() == (tiny_export / "model.tflite").read_bytes()
    assert {path.name for path in (run / "export").iterdir()} == {path.name for path in tiny_export.iterdir()}


def test_ctrl_c(speech_gru, run, tiny_export, monkeypatch):
    shutil.copytree(tiny_export, run / "export")
    monkeypatch.setattr(matrix, "judge", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    outcome = speech_gru("export", run, "--only", "float32")
    assert outcome.code == 130
    assert outcome.err.endswith("speech-gru: interrupted; what was finished is kept, nothing is half-written\n")
    assert contents(run / "export") == contents(tiny_export)
    assert {path.name for path in (run / "export").iterdir()} == {path.name for path in tiny_export.iterdir()}


def test_told_to_stop(run, tmp_path):
    """In the middle of it: no process goes on, no folder is left, and what was finished is kept."""
    command = [sys.executable, "-m", "speech_gru", "export", str(run)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8", start_new_session=True)
    try:
        end = time.monotonic() + 300
        while not (run / "export" / "model.tflite").is_file():
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 143
        assert err == "\nspeech-gru: told to stop; what was finished is kept, nothing is half-written\n"
        left = {path.name for path in (run / "export").iterdir()}
        assert {"saved_model", "model.tflite"} <= left
        assert not [name for name in left if name.startswith(".")]
        end = time.monotonic() + 30
        while goes_on(process.pid):
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()


def goes_on(group: int) -> bool:
    """Whether a group has processes."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_as_before_afterwards(speech_gru, exporting, number):
    before = signal.getsignal(number)
    exporting([PROVEN])
    speech_gru("export", "run")
    assert signal.getsignal(number) is before


def test_sigterm(speech_gru, run, monkeypatch):
    monkeypatch.setattr(matrix, "judge", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    outcome = speech_gru("export", run, "--only", "float32")
    assert outcome.code == 143
    assert outcome.err.endswith("speech-gru: told to stop; what was finished is kept, nothing is half-written\n")
    assert not list((run / "export").iterdir())
    assert signal.getsignal(signal.SIGTERM) is before


def test_no_finished_run(speech_gru, run):
    (run / "model.keras").unlink()
    outcome = speech_gru("export", run)
    assert outcome.code == 2
    assert "model.keras is missing" in outcome.err
    assert not list((run / "export").iterdir())


def test_no_clips_to_compare_on(speech_gru, run, tmp_path):
    outcome = speech_gru("export", run, "--shards", tmp_path / "none")
    assert outcome.code == 2
    assert f"{tmp_path / 'none'} holds no prepared clips" in outcome.err
    assert not list((run / "export").iterdir())


def test_out_cant_be_written(speech_gru, run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        outcome = speech_gru("export", run, "--out", out)
        assert outcome.code == 2
        assert f"{out} can't be written: " in outcome.err
