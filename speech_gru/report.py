"""After training: the figures, pictures and sounds of the kept weights, in the run directory and its TensorBoard."""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from data_pipeline.dataset import evaluation_batches
from data_pipeline.files import write_text
from data_pipeline.shards import shard_files
from speech_gru.evaluation import Predictions, confusion_figure, predict_split, worst_clips, write_report
from speech_gru.run import Run, load_run

AUDIO_CLIPS = 8
"""So many of the worst validation clips can be listened to in TensorBoard."""


def report_run(folder: Path) -> dict[str, dict]:
    """Measures a finished run on its validation and test clips; writes report/SPLIT/ and metrics.json.

    Returns: the metrics by split (see speech_gru.evaluation.measure).
    """
    run = load_run(folder)
    metrics = {}
    for split in ("validation", "test"):
        if shard_files(run.config.corpus.shards, split):
            predictions = predict_run(run, split)
            metrics[split] = write_report(predictions, folder / "report" / split)
            _log(run, split, predictions)
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
    return metrics


def predict_run(run: Run, split: str, shards: Path | None = None) -> Predictions:
    """The run's predictions on a split of its own shards, or of others."""
    corpus = run.config.corpus
    return predict_split(predictor(run), run.labels, shards or corpus.shards, split, corpus.clip_samples)


def predictor(run: Run):
    """The trained model as a function: audio (batch, samples) float32 -> probabilities (batch, labels) float32."""
    graph = tf.function(lambda audio: tf.nn.softmax(run.recognizer(audio, training=False)), reduce_retracing=True)
    return lambda audio: graph(tf.constant(audio)).numpy()


def _log(run: Run, split: str, predictions: Predictions) -> None:
    """Adds the confusion matrix, and the worst clips to listen to, to the run's TensorBoard."""
    worst = {path: (truth, guess) for path, truth, guess, _ in worst_clips(predictions)[:AUDIO_CLIPS]}
    with tf.summary.create_file_writer(str(run.folder / "tensorboard" / split)).as_default(step=0):
        tf.summary.image("confusion", _rasterize(confusion_figure(predictions))[np.newaxis])
        for batch in evaluation_batches(run.config.corpus.shards, split, run.config.corpus.clip_samples, 256):
            for path, audio in zip(batch["path"].numpy(), batch["audio"].numpy(), strict=True):
                if path.decode() in worst:
                    truth, guess = worst.pop(path.decode())
                    name = f"worst/said {truth}, recognised {guess}: {path.decode()}"
                    tf.summary.audio(name, audio[np.newaxis, :, np.newaxis], run.config.corpus.sample_rate)


def _rasterize(figure) -> np.ndarray:
    """A Matplotlib figure as (height, width, 4) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())
