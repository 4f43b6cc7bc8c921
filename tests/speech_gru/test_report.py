"""After training: figures in the run directory, and scalars, picture and sounds that TensorBoard can read back."""

import io
import json
import shutil

import numpy as np
import pytest
import soundfile
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from data_pipeline.dataset import evaluation_batches
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


def read_events(folder) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()


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


def test_training_logs_the_curves(tiny_run, tiny_config):
    def curve(part: str, tag: str) -> list[float]:
        events = read_events(tiny_run / "tensorboard" / part).Tensors(tag)
        assert [event.step for event in events] == list(range(tiny_config.training.epochs))
        return [float(make_ndarray(event.tensor_proto)) for event in events]

    for part in ("train", "validation"):
        loss, accuracy = curve(part, "epoch_loss"), curve(part, "epoch_accuracy")
        assert loss[-1] < loss[0]
        assert accuracy[-1] > accuracy[0]
        assert 0.8 < accuracy[-1] <= 1
    assert curve("train", "epoch_learning_rate")[-1] == pytest.approx(0, abs=1e-6)


def test_the_confusion_matrix_is_a_picture(reported):
    folder, _ = reported
    for split in ("validation", "test"):
        width, height, png = read_events(folder / "tensorboard" / split).Tensors("confusion")[0].tensor_proto.string_val
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        assert int(width) == int(height) > 300


def test_the_worst_clips_can_be_heard(reported, tiny_config):
    """Silence's clips share their recording's path, so that the sounds themselves are compared."""
    folder, _ = reported
    run = load_run(folder)
    clips = next(evaluation_batches(tiny_config.corpus.shards, "test", 4000, 64).as_numpy_iterator())
    probabilities = predictor(run)(clips["audio"])
    guesses = [run.labels[index] for index in probabilities.argmax(axis=1)]
    truth = [label.decode() for label in clips["label"]]
    wrong = [index for index in range(27) if truth[index] != guesses[index]]
    wrong = sorted(wrong, key=lambda index: -probabilities[index].max())[:8]
    assert {truth[index] for index in wrong} == {"tief", "_silence_"}

    events = read_events(folder / "tensorboard" / "test")
    tags = [tag for tag in events.Tags()["tensors"] if tag.startswith("worst/")]
    assert len(tags) == len(wrong) == 8
    for rank, index in enumerate(wrong, 1):
        tag = f"worst/{rank}: said {truth[index]}, recognised {guesses[index]}: {clips['path'][index].decode()}"
        assert tag in tags
        wave = events.Tensors(tag)[0].tensor_proto.string_val[0]
        samples, rate = soundfile.read(io.BytesIO(wave), dtype="float32")
        assert rate == 8000
        np.testing.assert_allclose(samples, clips["audio"][index], atol=2 / 32768)


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
