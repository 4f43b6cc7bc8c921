"""All artefacts of a run, end to end, and what is left when some of them can't be made."""

import errno
import json
import os
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from data_pipeline.errors import UserError
from export import material, matrix
from export.child import in_child
from export.errors import ExportError, NotMadeError
from export.matrix import KINDS, export_run
from speech_gru import Recognizer, StreamingRecognizer
from speech_gru.artefact import inspect_file

STREAMS = ("stream_float32", "stream_dynamic_range", "stream_int8", "stream_int16x8")
CLIP_FILES = ("float32", "float16", "dynamic_range", "int8", "int16x8")


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def here(monkeypatch, subject):
    """Everything in this process, and the run is read once for all tests."""
    monkeypatch.setattr(matrix, "in_child", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(matrix, "start_on_cpu", lambda **_: None)
    monkeypatch.setattr(matrix, "gather", lambda folder, shards, overrides, scratch: subject)


def change(monkeypatch, name: str, make) -> None:
    monkeypatch.setitem(KINDS, name, replace(KINDS[name], make=make))


@pytest.fixture(scope="module")
def stream_export(tiny_stream_run, tmp_path_factory):
    """Folder and proofs of tiny_stream_run's streaming kinds, made in this process."""
    out = tmp_path_factory.mktemp("stream_export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrix, "in_child", lambda function, *arguments: function(*arguments))
        patch.setattr(material, "start_on_cpu", lambda: None)
        proofs = export_run(tiny_stream_run, out, only=(*STREAMS, "micro", "float32"))
    return out, {proof.artefact: proof for proof in proofs}


# End to end


def test_all_artefacts_of_a_run(full_export):
    folder, proofs = full_export
    assert list(proofs) == list(KINDS)
    optional = set() if proofs["onnx"].status == "proven" else {"onnx"}
    for name in {"saved_model", *CLIP_FILES, "onnx"} - optional:
        proof, path = proofs[name], folder / KINDS[name].file
        assert (proof.status, proof.reason, proof.clips) == ("proven", "", 27)
        files = [file for file in (path, *path.rglob("*")) if file.is_file()]
        assert proof.bytes == sum(len(file.read_bytes()) for file in files) > 0
        assert proof.equal_decisions >= 26
        assert proof.latency_ms > 0
        assert proof.stream is None
    for name in {"saved_model", "float32", "onnx"} - optional:
        assert proofs[name].largest_difference < 1e-4
        assert proofs[name].equal_decisions == 27
    for name in (*STREAMS, "micro"):
        assert proofs[name].status == "not made"
        assert "bidirectional" in proofs[name].reason
    made = {KINDS[name].file for name, proof in proofs.items() if proof.status == "proven"}
    assert names(folder) == made | {"export_report.json", "MODEL_CARD.md"}


def test_onnx_is_made_where_it_can_be(full_export):
    pytest.importorskip("tf2onnx", reason="needs tf2onnx, of the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs onnxruntime, of the extra onnx")
    assert full_export.proofs["onnx"].status == "proven"


def test_each_file_says_its_number_format(full_export):
    for name in CLIP_FILES:
        about = Recognizer(full_export.folder / KINDS[name].file).description
        assert (about.number_format, about.kind, about.clip_samples) == (name, "clip", 4000)


def test_report_and_card(full_export, tiny_run):
    found = json.loads((full_export.folder / "export_report.json").read_text(encoding="utf-8"))
    assert (found["run"], found["split"], found["clips"]) == (tiny_run.name, "test", 27)
    assert [item["artefact"] for item in found["artefacts"]] == list(KINDS)
    card = (full_export.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    for kind in KINDS.values():
        assert f"| {kind.file} |" in card
    assert "höher" in card


def test_all_streaming_artefacts(stream_export):
    out, proofs = stream_export
    for name in (*STREAMS, "micro"):
        assert (proofs[name].status, proofs[name].clips) == ("proven", 27), proofs[name].reason
        assert proofs[name].equal_decisions >= 26
        # Eight clips are 4000 samples each, a step is 400, and the last frame wants 56 more.
        assert proofs[name].stream["steps"] == 79
        assert proofs[name].stream["equal_decisions"] >= 75
    assert proofs["stream_float32"].stream["largest_difference"] < 1e-4
    assert proofs["stream_float32"].largest_difference < 1e-4
    assert proofs["stream_float32"].latency_of == "50 ms chunk"
    assert names(out / "micro") == {"model.tflite", "model.h", "model.cc"}
    for name in STREAMS:
        about = StreamingRecognizer(out / KINDS[name].file).description
        assert (about.kind, about.number_format) == ("stream", name.removeprefix("stream_"))
        assert (about.chunk_samples, about.overlap_samples) == (400, 56)


def test_the_stream_is_the_clip_file(stream_export, tiny_shards):
    from data_pipeline.dataset import evaluation_batches

    out, _ = stream_export
    stream, clip_file = StreamingRecognizer(out / "stream.tflite"), Recognizer(out / "model.tflite")
    for clip in next(evaluation_batches(tiny_shards, "test", 4000, 5).as_numpy_iterator())["audio"]:
        stream.reset()
        np.testing.assert_allclose(stream.logits(clip)[-1], clip_file.logits(clip), rtol=0, atol=1e-4)


# What is done with an earlier export, and what isn't


@pytest.fixture
def copy(full_export, tmp_path):
    """A copy of an export."""
    return shutil.copytree(full_export.folder, tmp_path / "out")


@pytest.fixture
def earlier(copy):
    """That, with something of the user's own and another model.tflite."""
    (copy / "notes.txt").write_text("of the user")
    (copy / "saved_model" / "old").write_text("of the earlier export")
    (copy / "model.tflite").write_bytes(b"of the earlier export")
    return copy


def test_again_over_an_earlier_export(here, tiny_run, earlier):
    before = names(earlier)
    proofs = export_run(tiny_run, earlier, only=("saved_model", "float32"))
    assert [proof.status for proof in proofs] == ["proven", "proven"]
    assert names(earlier) == before
    assert not (earlier / "saved_model" / "old").exists()
    assert tf.saved_model.load(str(earlier / "saved_model")).signatures.keys() >= {"serving_default"}
    assert Recognizer(earlier / "model.tflite").labels
    assert (earlier / "notes.txt").read_text() == "of the user"


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ExportError("its process died"), "failed", "its process died; take saved_model"),
        (NotMadeError("no use for it"), "not made", "no use for it"),
        (UserError("LiteRT can't run it"), "failed", "LiteRT can't run it; take saved_model"),
    ],
)
def test_one_that_cannot_be_made(here, tiny_run, earlier, monkeypatch, error, status, reason):
    def crash(content, path):
        path.write_bytes(b"half of it")
        raise error

    change(monkeypatch, "float32", crash)
    (earlier / "model_float16.tflite").write_bytes(b"of the earlier export")
    before = names(earlier)
    proofs = {proof.artefact: proof for proof in export_run(tiny_run, earlier, only=("float32", "float16"))}
    assert (proofs["float32"].status, proofs["float32"].reason) == (status, reason)
    assert proofs["float16"].status == "proven"
    assert (earlier / "model.tflite").read_bytes() == b"of the earlier export"
    assert Recognizer(earlier / "model_float16.tflite").labels
    assert names(earlier) == before
    assert f"{status}: {reason}" in (earlier / "MODEL_CARD.md").read_text(encoding="utf-8")
    report = json.loads((earlier / "export_report.json").read_text(encoding="utf-8"))
    found = {item["artefact"]: item["status"] for item in report["artefacts"]}
    assert (found["float32"], found["float16"]) == (status, "proven")


@pytest.mark.parametrize("name", ["saved_model", "float32", "int8"])
def test_one_that_says_something_else(here, tiny_run, tmp_path, monkeypatch, name):
    make = KINDS[name].make

    def make_wrong(content, path):
        reading = make(content, path)
        return replace(reading, logits=np.roll(reading.logits, 1, axis=1))

    change(monkeypatch, name, make_wrong)
    proofs = {proof.artefact: proof for proof in export_run(tiny_run, tmp_path, only=(name, "float16"))}
    assert proofs[name].status == "failed"
    assert proofs["float16"].status == "proven"
    assert names(tmp_path) == {"model_float16.tflite", "export_report.json", "MODEL_CARD.md"}


def test_only_what_is_asked_for_and_its_progress(here, tiny_run, tmp_path):
    seen = []
    out = tmp_path / "new" / "out"
    proofs = export_run(tiny_run, out, only=("int8", "float32"), progress=lambda *arguments: seen.append(arguments))
    assert [proof.artefact for proof in proofs] == ["float32", "int8"]
    assert names(out) == {"model.tflite", "model_int8.tflite", "export_report.json", "MODEL_CARD.md"}
    assert seen == [("what they are made of", 0, 2), ("model.tflite", 0, 2), ("model_int8.tflite", 1, 2)]


def test_other_shards(tiny_run, tmp_path, monkeypatch):
    def gather(folder, shards, overrides, scratch):
        raise UserError(f"clips of {shards}")

    monkeypatch.setattr(matrix, "in_child", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(matrix, "gather", gather)
    with pytest.raises(UserError, match="clips of other"):
        export_run(tiny_run, tmp_path, "other")
    assert names(tmp_path) == set()


def test_what_killed_exports_have_left_goes_and_what_runs_beside_stays(here, tiny_run, tmp_path):
    old, young = tmp_path / ".unproven-old", tmp_path / ".unproven-young"
    for folder, hours in ((old, 2), (young, 0.5), (tmp_path / "unproven-mine", 100)):
        (folder / "saved_model").mkdir(parents=True)
        (folder / "saved_model" / "half").write_text("of it")
        os.utime(folder, (time.time() - 3600 * hours,) * 2)
    export_run(tiny_run, tmp_path, only=("float32",))
    assert names(tmp_path) == {
        *("model.tflite", "export_report.json", "MODEL_CARD.md", ".unproven-young", "unproven-mine")
    }
    assert (young / "saved_model" / "half").is_file()


def test_no_process_is_started_for_what_cant_be_made(here, tiny_run, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(
        matrix, "in_child", lambda function, *arguments: started.append(function) or function(*arguments)
    )
    proofs = export_run(tiny_run, tmp_path, only=(*STREAMS, "micro", "float32"))
    assert started == [matrix.gather, KINDS["float32"].make]
    assert [proof.status for proof in proofs] == ["proven"] + ["not made"] * 5
    assert all("bidirectional" in proof.reason for proof in proofs[1:])


def test_integers_are_refused_where_their_ranges_are_unknown(here, tiny_run, tmp_path, monkeypatch, subject):
    without = replace(subject, material=replace(subject.material, ranges="the clips are gone"))
    monkeypatch.setattr(matrix, "gather", lambda *_: without)
    proofs = {proof.artefact: proof for proof in export_run(tiny_run, tmp_path, only=CLIP_FILES)}
    for name in CLIP_FILES:
        expected = ("not made", "the clips are gone") if name.startswith("int") else ("proven", "")
        assert (proofs[name].status, proofs[name].reason) == expected


def test_settings_of_the_export_can_be_overridden(tiny_stream_run, tmp_path, monkeypatch):
    monkeypatch.setattr(matrix, "in_child", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(material, "start_on_cpu", lambda: None)
    config = (tiny_stream_run / "config.yaml").read_bytes()
    overrides = iter(["export.threshold=0.5", "export.data=Töne"])  # any iterable
    export_run(tiny_stream_run, tmp_path, only=("float32", "stream_float32"), overrides=overrides)
    for file in ("model.tflite", "stream.tflite"):
        assert inspect_file(tmp_path / file).thresholds == {"tief": 0.5, "mittel": 0.5, "höher": 0.5}
        assert inspect_file(tiny_stream_run / "export" / file).thresholds == {}
    assert "Töne" in (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert (tiny_stream_run / "config.yaml").read_bytes() == config


# Mistakes and misfortunes


@pytest.mark.parametrize("override", ["training.epochs=3", "export={threshold: 1}", "exporter.threshold=1", "seed=2"])
def test_a_trained_runs_other_settings_are_fixed(tiny_run, tmp_path, override):
    with pytest.raises(UserError) as caught:
        export_run(tiny_run, tmp_path / "out", overrides=("export.threshold=0.5", override))
    assert str(caught.value) == (
        f"--set {override}: a trained run's settings are fixed, but for those that begin with export."
    )
    assert not (tmp_path / "out").exists()


def test_an_unknown_name(tmp_path):
    with pytest.raises(UserError, match="--only float33, onyx: no such artefact; expected of: saved_model, float32"):
        export_run(tmp_path, tmp_path / "out", only=("onyx", "int8", "float33"))
    assert not (tmp_path / "out").exists()


def test_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr(matrix, "in_child", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(material, "start_on_cpu", lambda: None)
    with pytest.raises(UserError, match="is no finished run"):
        export_run(tmp_path / "nowhere", tmp_path / "out")
    assert names(tmp_path / "out") == set()


def test_a_folder_that_cannot_be_made(tiny_run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="can't be written: "):
        export_run(tiny_run, tmp_path / "file" / "out")


def test_a_folder_that_cannot_be_written(tiny_run, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(matrix.tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(UserError, match="out can't be written: Permission denied"):
        export_run(tiny_run, tmp_path / "out")


def test_a_full_disk(here, tiny_run, earlier, monkeypatch):
    """It may be full for one artefact alone."""

    def full(content, path):
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    def look(content, path):
        assert not (path.parent / "model_float16.tflite").exists(), "half of it takes the others' space"
        return make(content, path)

    make = KINDS["int8"].make
    change(monkeypatch, "float16", full)
    change(monkeypatch, "int8", look)
    before = names(earlier)
    proofs = {proof.artefact: proof for proof in export_run(tiny_run, earlier, only=("float16", "int8"))}
    expected = ("failed", "it can't be written: No space left on device")
    assert (proofs["float16"].status, proofs["float16"].reason) == expected
    assert proofs["int8"].status == "proven"
    assert names(earlier) == before


def test_a_disk_on_which_nothing_can_be_said(here, tiny_run, tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(matrix, "write_text", full)
    with pytest.raises(UserError, match="can't be written: No space left on device"):
        export_run(tiny_run, tmp_path, only=("float32",))


# Report and card beside what an earlier export has left


def told(out) -> dict[str, dict]:
    """The report's artefacts by name."""
    found = json.loads((out / "export_report.json").read_text(encoding="utf-8"))
    return {item["artefact"]: item for item in found["artefacts"]}


def test_rows_of_files_that_are_still_there_are_kept(here, tiny_run, copy):
    before = told(copy)
    (copy / "model_int8.tflite").write_bytes(b"another")
    (copy / "model_int16x8.tflite").unlink()
    (copy / "saved_model" / "saved_model.pb").write_bytes(b"another")
    export_run(tiny_run, copy, only=("dynamic_range",))
    after = told(copy)
    kept = {name for name, item in before.items() if item["status"] == "proven"}
    assert after.keys() == kept - {"int8", "int16x8", "saved_model"}
    assert {"float32", "float16", "dynamic_range"} <= after.keys()
    assert list(after) == [name for name in KINDS if name in after]
    assert after["float16"] == before["float16"]
    card = (copy / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| model.tflite |" in card
    assert "| model_int8.tflite |" not in card


@pytest.mark.parametrize("key", ["weights", "split", "shards", "clips"])
def test_rows_of_another_proof_are_dropped(here, tiny_run, copy, key):
    report = json.loads((copy / "export_report.json").read_text(encoding="utf-8"))
    (copy / "export_report.json").write_text(json.dumps(report | {key: "another"}), encoding="utf-8")
    export_run(tiny_run, copy, only=("dynamic_range",))
    assert list(told(copy)) == ["dynamic_range"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"artefacts": [{"artefact": "float32"}]}', '{"artefacts": [1]}'])
def test_a_damaged_report_tells_nothing(here, tiny_run, copy, content):
    (copy / "export_report.json").write_text(content, encoding="utf-8")
    export_run(tiny_run, copy, only=("dynamic_range",))
    assert list(told(copy)) == ["dynamic_range"]


def test_a_file_that_could_not_be_made_again_keeps_its_row(here, tiny_run, copy, monkeypatch):
    def crash(content, path):
        raise ExportError("its process died")

    before = told(copy)
    change(monkeypatch, "float32", crash)
    proofs = {proof.artefact: proof for proof in export_run(tiny_run, copy, only=("float32", "float16"))}
    assert (proofs["float32"].status, proofs["float16"].status) == ("failed", "proven")
    assert told(copy)["float32"] == before["float32"]


def test_where_nothing_was_proven_report_and_card_stay(here, tiny_run, copy):
    before = [(copy / name).read_bytes() for name in ("export_report.json", "MODEL_CARD.md")]
    proofs = export_run(tiny_run, copy, only=("stream_float32",))
    assert [proof.status for proof in proofs] == ["not made"]
    assert [(copy / name).read_bytes() for name in ("export_report.json", "MODEL_CARD.md")] == before


def test_the_report_is_written_after_each_artefact(here, tiny_run, tmp_path, monkeypatch):
    def stop(content, path):
        raise KeyboardInterrupt

    change(monkeypatch, "dynamic_range", stop)
    with pytest.raises(KeyboardInterrupt):
        export_run(tiny_run, tmp_path, only=("float32", "float16", "dynamic_range"))
    assert list(told(tmp_path)) == ["float32", "float16"]
    assert names(tmp_path) == {"model.tflite", "model_float16.tflite", "export_report.json", "MODEL_CARD.md"}


def test_the_saved_model_is_timed_on_one_thread(subject, tmp_path):
    """As the others are; it can be told only to a TensorFlow that hasn't started."""
    assert in_child(threads_of_the_saved_model, subject.material, tmp_path / "saved_model") == (1, 1)


def threads_of_the_saved_model(content, path) -> tuple[int, int]:
    KINDS["saved_model"].make(content, path)
    threading = tf.config.threading
    return threading.get_intra_op_parallelism_threads(), threading.get_inter_op_parallelism_threads()
