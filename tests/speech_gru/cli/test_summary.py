import json
import shutil

import pytest


@pytest.fixture(scope="module")
def measured_run(tiny_run, tiny_export, tmp_path_factory):
    from speech_gru.report import report_run

    folder = shutil.copytree(tiny_run, tmp_path_factory.mktemp("measured") / "run")
    shutil.copytree(tiny_export, folder / "export", dirs_exist_ok=True)
    report_run(folder)
    return folder


@pytest.fixture
def run(measured_run, tmp_path):
    return shutil.copytree(measured_run, tmp_path / "run")


def test_one_table_of_a_finished_run(speech_gru, run):
    code, out, _ = speech_gru("summary", run)
    assert code == 0
    for row in ("test accuracy", "parameters", "multiply-adds a clip", "latency a clip, one thread", "confusion.png"):
        assert row in out


def test_json_has_the_run_s_own_figures(speech_gru, run):
    code, out, _ = speech_gru("summary", run, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["splits"] == json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert found["tflite"]["bytes"] == (run / "export" / "model.tflite").stat().st_size
    assert found["tflite"]["latency_ms"] > 0


def test_without_an_export_there_is_no_file_to_tell_of(speech_gru, run):
    shutil.rmtree(run / "export")
    assert json.loads(speech_gru("summary", run, "--json").out)["tflite"] is None


def test_an_unfinished_run_is_refused(speech_gru, run):
    (run / "metrics.json").unlink()
    code, _, err = speech_gru("summary", run)
    assert code == 2
    assert "its training hasn't finished" in err
