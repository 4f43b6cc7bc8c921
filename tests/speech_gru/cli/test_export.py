import os
import shutil
import signal
import subprocess
import sys

import pytest

from export import matrix, verify


@pytest.fixture
def run(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run")


def contents(folder) -> dict:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_in_a_fresh_process(run):
    """Nothing but our own words is to be seen."""
    command = [sys.executable, "-m", "speech_gru", "export", str(run)]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[-1] == f"{run / 'export'}: each artefact was loaded back and agrees with the model"
    assert [line.split()[0] for line in lines if " of 27 " in f"{line} "] == ["saved_model", "model.tflite"]
    assert {path.name for path in (run / "export").iterdir()} == {"saved_model", "model.tflite"}


@pytest.fixture
def spoil(monkeypatch):
    """Makes `export` write a .tflite file of other weights than the model's, and no SavedModel, to save time."""

    def write(run, path):
        weights = run.recognizer.get_weights()
        run.recognizer.set_weights([weight * 1.5 for weight in weights])
        matrix.write_tflite(run, path)
        run.recognizer.set_weights(weights)

    monkeypatch.setattr(matrix, "ARTEFACTS", {"model.tflite": (write, verify.tflite_predictor)})


def test_falsified_artefact_is_not_kept(speech_gru, run, spoil):
    outcome = speech_gru("export", run)
    assert outcome.code == 1
    assert outcome.out == ""
    assert outcome.err.startswith("speech-gru: model.tflite differs from its model by up to ")
    assert list((run / "export").iterdir()) == []


def test_falsified_artefact_leaves_the_earlier_export(speech_gru, run, tiny_export, spoil):
    shutil.copytree(tiny_export, run / "export")
    assert speech_gru("export", run).code == 1
    assert contents(run / "export") == contents(tiny_export)
    assert {path.name for path in (run / "export").iterdir()} == {"saved_model", "model.tflite"}


def test_ctrl_c(speech_gru, run, tiny_export, monkeypatch):
    shutil.copytree(tiny_export, run / "export")
    monkeypatch.setattr(matrix, "compare", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    outcome = speech_gru("export", run)
    assert outcome.code == 130
    assert outcome.err.endswith("speech-gru: interrupted; what was finished is kept, nothing is half-written\n")
    assert contents(run / "export") == contents(tiny_export)
    assert {path.name for path in (run / "export").iterdir()} == {"saved_model", "model.tflite"}


def test_no_finished_run(speech_gru, run, tmp_path):
    (run / "model.keras").unlink()
    outcome = speech_gru("export", run)
    assert outcome.code == 2
    assert "model.keras is missing" in outcome.err
    assert speech_gru("export", tmp_path / "none").code == 2


def test_no_clips_to_compare_on(speech_gru, run, tmp_path):
    outcome = speech_gru("export", run, "--shards", tmp_path / "none")
    assert outcome.code == 2
    assert f"{tmp_path / 'none'} holds no prepared clips" in outcome.err
    assert not (run / "export").exists()


def test_out_cant_be_written(speech_gru, run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        outcome = speech_gru("export", run, "--out", out)
        assert outcome.code == 2
        assert f"{out} can't be written: " in outcome.err
