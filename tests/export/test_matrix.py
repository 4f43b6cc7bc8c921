import shutil

import numpy as np
import pytest
import tensorflow as tf

from data_pipeline.errors import UserError
from export import matrix
from export.matrix import ARTEFACTS, export_run
from export.verify import ExportError
from speech_gru import Recognizer


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_all_artefacts_of_a_run(tiny_run, tmp_path):
    agreements = export_run(tiny_run, tmp_path / "new" / "out")
    assert [item.artefact for item in agreements] == ["saved_model", "model.tflite"]
    for item in agreements:
        assert item.clips == item.equal_decisions == 27
        assert item.largest_difference < 1e-5
        path = tmp_path / "new" / "out" / item.artefact
        files = [file for file in (path, *path.rglob("*")) if file.is_file()]
        assert item.bytes == sum(len(file.read_bytes()) for file in files)
    assert names(tmp_path / "new" / "out") == {"saved_model", "model.tflite"}


def test_again_over_an_earlier_export(tiny_run, tiny_export, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(tiny_export, out)
    (out / "saved_model" / "old").write_text("of the earlier export")
    (out / "model.tflite").write_bytes(b"of the earlier export")
    (out / "notes.txt").write_text("of the user")
    export_run(tiny_run, out)
    assert names(out) == {"saved_model", "model.tflite", "notes.txt"}
    assert not (out / "saved_model" / "old").exists()
    assert Recognizer(out / "model.tflite").labels


def test_compared_on_the_validation_clips_where_there_are_no_others(tiny_run, tiny_shards, tmp_path, monkeypatch):
    shards = tmp_path / "shards"
    shutil.copytree(tiny_shards, shards, ignore=shutil.ignore_patterns("test-*"))
    monkeypatch.setattr(matrix, "ARTEFACTS", {"model.tflite": ARTEFACTS["model.tflite"]})
    (agreement,) = export_run(tiny_run, tmp_path / "out", shards)
    assert agreement.clips == 27


@pytest.mark.parametrize("name", ARTEFACTS)
def test_each_artefact_is_verified(tiny_run, tmp_path, monkeypatch, name):
    """The other one is sound, and isn't published either."""
    writer, loader = ARTEFACTS[name]

    def load_wrong(path):
        predict = loader(path)
        return lambda audio: np.roll(predict(audio), 1, axis=1)

    monkeypatch.setitem(ARTEFACTS, name, (writer, load_wrong))
    with pytest.raises(ExportError, match=f"{name} differs from its model"):
        export_run(tiny_run, tmp_path)
    assert names(tmp_path) == set()


def test_full_disk(tiny_run, tmp_path, monkeypatch):
    def full(run, path):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setitem(ARTEFACTS, "saved_model", (full, None))
    with pytest.raises(UserError, match="can't be written: No space left on device"):
        export_run(tiny_run, tmp_path)
    assert names(tmp_path) == set()


def test_gpus_are_hidden_before_the_model_is_built(tiny_run, tmp_path, monkeypatch):
    """With one in sight, Keras puts cuDNN's GRU into the graph, which runs on no other device."""
    calls = []

    def load(folder):
        calls.append("load")
        raise UserError("enough")

    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(matrix, "load_run", load)
    with pytest.raises(UserError, match="enough"):
        export_run(tiny_run, tmp_path)
    assert calls == [([], "GPU"), "load"]


def test_a_process_that_has_used_a_gpu(tiny_run, tmp_path, monkeypatch):
    def too_late(*arguments):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "set_visible_devices", too_late)
    with pytest.raises(ExportError, match="export in a process of its own"):
        export_run(tiny_run, tmp_path)
