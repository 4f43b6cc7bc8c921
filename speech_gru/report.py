"""After training: the figures, pictures and sounds of the kept weights, in the run directory and its TensorBoard."""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from data_pipeline.dataset import evaluation_batches
from data_pipeline.files import write_text
from data_pipeline.manifest import read_manifest
from speech_gru.evaluation import Predictions, draw_confusions, predict_split, worst_indices, write_report
from speech_gru.run import Run, load_run

AUDIO_CLIPS = 8
"""So many of the worst validation clips can be listened to in TensorBoard."""


def report_run(folder: Path) -> dict[str, dict]:
    """Measures a finished run on its validation and test clips; writes report/SPLIT/ and metrics.json.

    Returns: the metrics by split (see speech_gru.evaluation.measure).
    """
    run = load_run(folder)
    metrics, corpus, predict = {}, run.config.corpus, predictor(run)
    splits = {row.split for row in read_manifest(corpus.shards)}
    for split in ("validation", "test"):
        if split in splits:
            predictions = predict_split(predict, run.labels, corpus.shards, split, corpus.clip_samples)
            metrics[split] = write_report(predictions, folder / "report" / split)
            _log(run, split, predictions)
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
    return metrics


def predictor(run: Run):
    """The trained model as a function: audio (batch, samples) float32 -> probabilities (batch, labels) float32."""
    graph = tf.function(lambda audio: tf.nn.softmax(run.recognizer(audio, training=False)), reduce_retracing=True)
    return lambda audio: graph(tf.constant(audio)).numpy()


def _log(run: Run, split: str, predictions: Predictions) -> None:
    """Adds the confusion matrix, and the worst clips to listen to, to the run's TensorBoard."""
    labels, truth, guesses = predictions.labels, predictions.truth, predictions.guesses
    worst = {index: rank for rank, index in enumerate(worst_indices(predictions)[:AUDIO_CLIPS].tolist(), 1)}
    with tf.summary.create_file_writer(str(run.folder / "tensorboard" / split)).as_default(step=0):
        tf.summary.image("confusion", draw_confusions(predictions)[np.newaxis])
        clips = evaluation_batches(run.config.corpus.shards, split, run.config.corpus.clip_samples, 256).unbatch()
        # By position: silence's clips share the paths of the recordings that they are cut from.
        for index, clip in enumerate(clips):
            if index in worst:
                said = f"said {labels[truth[index]]}, recognised {labels[guesses[index]]}"
                name = f"worst/{worst[index]}: {said}: {predictions.paths[index]}"
                tf.summary.audio(name, clip["audio"][tf.newaxis, :, tf.newaxis], run.config.corpus.sample_rate)
