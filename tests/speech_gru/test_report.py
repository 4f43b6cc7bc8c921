"""After training: the figures in the run directory. What TensorBoard shows of them is in test_tensorboard."""

import json
import shutil

import numpy as np
import pytest

from data_pipeline.manifest import read_manifest, write_rows
from speech_gru.report import predictor, report_run
from speech_gru.run import load_run


@pytest.fixture(scope="module")
def reported(tiny_run, tmp_path_factory):
    """A run that confuses `tief` with `_silence_` throughout, because its labels were swapped, and its metrics."""
    folder = shutil.copytree(tiny_run, tmp_path_factory.mktemp("reported") / "run")
    swapped = {"tief": "_silence_", "_silence_": "tief"}
    labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    (folder / "labels.txt").write_text("".join(f"{swapped.get(label, label)}\n" for label in labels), encoding="utf-8")
    return folder, report_run(folder)


def test_the_figures_are_written_and_returned(reported):
    folder, metrics = reported
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8")) == json.loads(json.dumps(metrics))
    assert list(metrics) == ["validation", "test"]
    for split in metrics:
        assert sorted(path.name for path in (folder / "report" / split).iterdir()) == [
            *("confusion.png", "metrics.json", "worst.csv")
        ]
        assert json.loads((folder / "report" / split / "metrics.json").read_bytes()) == json.loads(
            json.dumps(metrics[split])
        )
        assert metrics[split]["clips"] == 27
        assert metrics[split]["labels"]["tief"]["recall"] == 0
        assert metrics[split]["labels"]["mittel"]["recall"] > 0.8
        assert ["tief", "_silence_"] in [list(pair[:2]) for pair in metrics[split]["confusions"]]


def test_a_run_without_test_clips_reports_on_validation_alone(tiny_run, tiny_config, tmp_path):
    shards = shutil.copytree(tiny_config.corpus.shards, tmp_path / "shards")
    for file in shards.glob("test-*"):
        file.unlink()
    write_rows(
        shards / "manifest.csv", [row for row in read_manifest(tiny_config.corpus.shards) if row.split != "test"]
    )
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    (folder / "config.yaml").write_text(config.replace(str(tiny_config.corpus.shards), str(shards)), encoding="utf-8")
    assert list(report_run(folder)) == ["validation"]


def test_predictions_are_probabilities_of_any_batch(tiny_run):
    run = load_run(tiny_run)
    predict = predictor(run)
    clips = np.random.default_rng(0).normal(0, 0.1, (5, 4000)).astype(np.float32)
    probabilities = predict(clips)
    assert (probabilities.shape, probabilities.dtype) == ((5, 5), np.float32)
    logits = run.recognizer(clips).numpy()
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(predict(clips[:1]), probabilities[:1], rtol=1e-4, atol=1e-6)
