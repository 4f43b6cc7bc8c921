import csv
import json
import os
import re
import shutil
import signal
import tempfile

import numpy as np
import pytest

from data_pipeline.errors import UserError
from speech_gru.artefact import Artefact
from speech_gru.subject import load_subject


@pytest.fixture(scope="module")
def model(tiny_run, tiny_export, tmp_path_factory):
    """A run directory with its export."""
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    shutil.copytree(tiny_run, folder)
    shutil.copytree(tiny_export, folder / "export")
    return folder


@pytest.fixture
def measured(speech_gru):
    """The figures of a command that must succeed; with --json there is nothing else on standard output."""

    def run(*arguments):
        outcome = speech_gru("evaluate", *arguments, "--json")
        assert outcome.code == 0, outcome.err
        (line,) = outcome.out.splitlines()
        return json.loads(line)

    return run


@pytest.fixture(scope="module")
def manifest(tiny_corpus, tmp_path_factory):
    """The test clips of the tiny corpus as a CSV, with each word said by another: what it measures is no good."""
    path = tmp_path_factory.mktemp("manifest") / "vertauscht.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label"))
        for word, label in (("tief", "mittel"), ("mittel", "tief"), ("höher", "höher")):
            shutil.copytree(tiny_corpus / word, path.parent / word)
            rows.writerows((f"{word}/{clip.name}", label) for clip in sorted((path.parent / word).glob("s2*.wav")))
    return path


def same(one: dict, other: dict) -> dict:
    """The figures, if both are the same."""
    assert one == other
    return one


@pytest.mark.parametrize("split", ["validation", "test"])
def test_run_and_file_give_the_same_figures_on_a_split(model, measured, tmp_path, split):
    found = same(
        measured(model, "--split", split, "--out", tmp_path),
        measured(model / "export" / "model.tflite", "--split", split, "--out", tmp_path),
    )
    assert found["accuracy"] > 0.8
    assert found["labels"]["höher"]["clips"] == 6
    assert found == json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))


def test_run_and_file_give_the_same_figures_on_a_folder(model, measured, tiny_corpus, tmp_path):
    arguments = ("--corpus", tiny_corpus, "--out", tmp_path)
    found = same(measured(model, *arguments), measured(model / "export" / "model.tflite", *arguments))
    assert found["clips"] == 4 * 28, "all clips, whatever split they were in"
    assert found["accuracy"] > 0.8


def test_run_and_file_give_the_same_figures_on_a_csv(model, measured, manifest, tmp_path):
    arguments = ("--corpus", manifest, "--out", tmp_path)
    found = same(measured(model, *arguments), measured(model / "export" / "model.tflite", *arguments))
    assert found["clips"] == 3 * 8
    assert found["labels"]["höher"]["recall"] > 0.8
    assert found["labels"]["tief"]["recall"] < 0.2
    assert ["tief", "mittel"] in [pair[:2] for pair in found["confusions"]]


def test_reports_lie_beside_the_model(model, measured, tiny_corpus, tmp_path, monkeypatch):
    measured(model)
    assert {path.name for path in (model / "report" / "test").iterdir()} == {
        "metrics.json",
        "confusion.png",
        "worst.csv",
    }
    measured(model / "export" / "model.tflite", "--split", "validation")
    assert (model / "export" / "report" / "validation" / "metrics.json").is_file()
    monkeypatch.chdir(tiny_corpus / "tief")
    measured(model, "--corpus", "..")
    assert (model / "report" / f"corpus-{tiny_corpus.name}" / "metrics.json").is_file()


def test_for_people(model, speech_gru, tmp_path):
    outcome = speech_gru("evaluate", model, "--out", tmp_path)
    assert outcome.code == 0
    assert "test: accuracy " in outcome.out
    assert "95 % interval" in outcome.out
    assert f"{tmp_path}: metrics.json, confusion.png, worst.csv" in outcome.out


def test_clips_set_aside_are_named_and_counted_in_the_exit_code(model, speech_gru, write_tone, tmp_path):
    write_tone("words/mittel/a.wav")
    (tmp_path / "words" / "mittel" / "b.wav").write_text("no audio")
    outcome = speech_gru("evaluate", model, "--corpus", tmp_path / "words", "--out", tmp_path / "out", "--json")
    assert outcome.code == 3
    assert json.loads(outcome.out)["clips"] == 1
    assert "set aside: mittel/b.wav: not audio" in outcome.err


def test_many_clips_set_aside_are_not_all_named(model, speech_gru, write_tone, tmp_path):
    write_tone("words/mittel/good.wav")
    for number in range(25):
        (tmp_path / "words" / "mittel" / f"{number}.wav").write_bytes(b"")
    outcome = speech_gru("evaluate", model, "--corpus", tmp_path / "words", "--out", tmp_path / "out", "--json")
    assert outcome.code == 3
    assert outcome.err.count("empty: 0 bytes") == 20
    assert outcome.err.endswith("set aside: 5 more\n")


def test_no_clip_can_be_used(model, speech_gru, tmp_path):
    (tmp_path / "words" / "mittel").mkdir(parents=True)
    (tmp_path / "words" / "mittel" / "b.wav").write_text("no audio")
    outcome = speech_gru("evaluate", model, "--corpus", tmp_path / "words")
    assert outcome.code == 2
    assert outcome.err.startswith(f"speech-gru: {tmp_path / 'words'}: no clip could be used:\nmittel/b.wav,")


def test_files_elsewhere_need_to_be_told_the_clips(model, speech_gru, measured, tiny_shards, tmp_path):
    file = shutil.copy(model / "export" / "model.tflite", tmp_path / "model.tflite")
    outcome = speech_gru("evaluate", file)
    assert outcome.code == 2
    assert "give --shards or --corpus" in outcome.err
    assert measured(file, "--shards", tiny_shards)["accuracy"] > 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shards", "none"], "none holds no prepared clips"),
        (["--corpus", "none"], "none"),
        (["--corpus", "words", "--shards", "shards"], "--shards and --corpus exclude each other"),
    ],
)
def test_bad_use(model, speech_gru, arguments, message):
    outcome = speech_gru("evaluate", model, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("speech-gru: ")
    assert message in outcome.err


def test_neither_run_nor_file(speech_gru, tmp_path):
    outcome = speech_gru("evaluate", tmp_path)
    assert outcome.code == 2
    assert "is no finished run: config.yaml is missing" in outcome.err
    with pytest.raises(UserError, match="can't be read"):
        load_subject(tmp_path / "none.tflite")


def test_report_folder_cant_be_written(model, speech_gru, tmp_path):
    (tmp_path / "file").write_text("in the way")
    outcome = speech_gru("evaluate", model, "--out", tmp_path / "file" / "report")
    assert outcome.code == 2
    assert "can't be written" in outcome.err


class TestNoise:
    @pytest.fixture
    def noise(self, tiny_corpus):
        """Recordings of a word, the surest to be in another one's way."""
        return tiny_corpus / "mittel"

    @pytest.mark.parametrize("name", ["", "export/model.tflite"])
    def test_for_programs(self, model, measured, noise, tmp_path, name):
        found = measured(model / name, "--noise", noise, "--split", "validation", "--out", tmp_path)
        rows = found["robustness"]
        assert json.loads((tmp_path / "robustness.json").read_text(encoding="utf-8")) == rows
        assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")
        assert "robustness" not in json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
        assert len(rows) == 11
        assert rows[0]["condition"] == "clean"
        for key in ("clips", "correct", "accuracy", "accuracy_interval"):
            assert rows[0][key] == found[key], "clean clips are recognised as without noise"
        assert {row["clips"] for row in rows} == {27}
        by_name = {row["condition"]: row["correct"] for row in rows}
        assert by_name["20 dB SNR"] > 20
        assert by_name["0 dB SNR"] < by_name["clean"], "another word is as loud"

    def test_for_people(self, model, speech_gru, noise, tmp_path):
        outcome = speech_gru("evaluate", model, "--noise", noise, "--out", tmp_path)
        assert (outcome.code, outcome.err) == (0, "")
        rows = json.loads((tmp_path / "robustness.json").read_text(encoding="utf-8"))
        text = outcome.out.partition("95 % interval")[2]
        for row in rows:
            low, high = (f"{bound:.2%}" for bound in row["accuracy_interval"])
            pattern = rf"{re.escape(row['condition'])} +{row['accuracy']:.2%} +{low} to {high} *\n"
            assert re.search(pattern, text), row["condition"]
        files = "metrics.json, confusion.png, worst.csv, robustness.json, robustness.png"
        assert outcome.out.splitlines()[-1] == f"{tmp_path}: {files}"
        assert {path.name for path in tmp_path.iterdir()} == set(files.split(", "))

    def test_a_corpus_of_ones_own(self, model, measured, noise, manifest, tmp_path):
        found = measured(model, "--noise", noise, "--corpus", manifest, "--out", tmp_path)
        assert found["robustness"][0]["correct"] == found["correct"]
        assert found["robustness"][0]["clips"] == 3 * 8

    def test_without_it_nothing_is_measured(self, model, measured, tmp_path):
        assert "robustness" not in measured(model, "--out", tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "confusion.png", "worst.csv"}

    @pytest.mark.parametrize("noise", ["none", "texts"])
    def test_a_folder_without_audio(self, model, speech_gru, tmp_path, monkeypatch, noise):
        """That is found before the work begins."""
        (tmp_path / "texts").mkdir()
        (tmp_path / "texts" / "a.txt").write_text("no audio")
        monkeypatch.setattr("speech_gru.evaluation.predict_split", lambda *_, **__: pytest.fail("work has begun"))
        outcome = speech_gru("evaluate", model, "--noise", tmp_path / noise, "--out", tmp_path / "out")
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.startswith(f"speech-gru: {tmp_path / noise}: no recordings of noise; expected .flac")
        assert not (tmp_path / "out").exists()


class TestStreams:
    @pytest.fixture
    def export(self, tiny_stream_run, tmp_path):
        """The export of a run that is still there, of its own."""
        shutil.copytree(tiny_stream_run, tmp_path / "run")
        return tmp_path / "run" / "export"

    def test_a_streaming_file_has_the_figures_of_the_clip_file(self, export, measured):
        found = same(measured(export / "stream.tflite"), measured(export / "model.tflite"))
        assert found["clips"] == 27
        assert found["accuracy"] > 0.8

    def test_with_its_state_kept_the_report_lies_beside(self, export, measured):
        anew = measured(export / "stream.tflite", "--split", "validation")
        kept = measured(export / "stream.tflite", "--split", "validation", "--keep-state")
        assert kept != anew
        for name, figures in (("validation", anew), ("validation-one-stream", kept)):
            path = export / "report" / name / "metrics.json"
            assert json.loads(path.read_text(encoding="utf-8")) == figures

    def test_others_have_no_state_to_keep(self, export, speech_gru):
        for path in (export.parent, export / "model.tflite"):
            outcome = speech_gru("evaluate", path, "--keep-state")
            assert (outcome.code, outcome.out) == (2, "")
            assert outcome.err == f"speech-gru: {path}: only a streaming file has a state to keep\n"
        assert not (export / "report").exists()
        assert not (export.parent / "report" / "test-one-stream").exists()


def test_a_files_thresholds(lite_model, copied, measured, speech_gru, tiny_shards, tmp_path):
    """One that takes everything for `tief`, too unsure of it to report it."""
    labels = ("tief", "mittel", "höher", "_unknown_", "_silence_")

    def build(graph):
        graph.input("audio", (1, 4000))
        for name in ("probabilities", "logits"):
            graph.output(name, copied(graph, graph.constant(np.float32([[0.6, 0.1, 0.1, 0.1, 0.1]]))))

    (tmp_path / "a.tflite").write_bytes(lite_model(Artefact(labels, 8000, 4000, thresholds={"tief": 0.7}), build))
    arguments = (tmp_path / "a.tflite", "--shards", tiny_shards)
    found = measured(*arguments)
    assert (found["correct"], found["false_commands"]) == (6, 1)
    assert found["with_thresholds"]["correct"] == found["labels"]["_unknown_"]["clips"]
    assert found["with_thresholds"]["false_commands"] == 0
    assert "with the file's thresholds: accuracy " in speech_gru("evaluate", *arguments).out


def test_ctrl_c(model, speech_gru, tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("speech_gru.evaluation.predict_split", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    outcome = speech_gru("evaluate", model, "--corpus", tiny_corpus, "--out", tmp_path / "out")
    assert outcome.code == 130
    assert outcome.err.endswith("speech-gru: interrupted; what was finished is kept, nothing is half-written\n")
    assert [path.name for path in tmp_path.rglob("*")] == ["scratch"]
