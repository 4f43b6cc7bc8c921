"""After training: the figures, pictures and sounds of the kept weights, in the run directory and its TensorBoard."""

import json
from pathlib import Path

import tensorflow as tf

from data_pipeline.errors import UserError
from data_pipeline.files import write_text
from data_pipeline.manifest import read_manifest
from speech_gru.evaluation import Predict, predict_split, write_report
from speech_gru.run import Run, load_run
from speech_gru.tensorboard import log_embeddings, log_hparams, log_results


def report_run(folder: Path) -> dict[str, dict]:
    """Measures a finished run on its validation and test clips; writes report/SPLIT/ and metrics.json.

    Returns: the metrics by split (see speech_gru.evaluation.measure).

    Raises:
        UserError: no finished run, or its folder can't be written.
    """
    try:
        return _report(folder)
    except (tf.errors.ResourceExhaustedError, tf.errors.OutOfRangeError, tf.errors.FailedPreconditionError) as error:
        # How TensorFlow says that the disk is full or that a file is in a folder's place.
        raise UserError(f"{folder / 'tensorboard'} can't be written: {error.message}") from error


def _report(folder: Path) -> dict[str, dict]:
    run = load_run(folder)
    metrics, corpus, predict = {}, run.config.corpus, predictor(run)
    splits = {row.split for row in read_manifest(corpus.shards)}
    for split in ("validation", "test"):
        if split in splits:
            predictions = predict_split(predict, run.labels, corpus.shards, split, corpus.clip_samples)
            metrics[split] = write_report(predictions, folder / "report" / split)
            log_results(run, split, predictions)
    log_hparams(run, metrics)
    if run.config.tensorboard.embeddings:
        log_embeddings(run, run.config.tensorboard.embeddings)
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
    return metrics


def predictor(run: Run) -> Predict:
    """The trained model as a function: audio (batch, samples) float32 -> probabilities (batch, labels) float32."""
    graph = tf.function(lambda audio: tf.nn.softmax(run.recognizer(audio, training=False)), reduce_retracing=True)
    return lambda audio: graph(tf.constant(audio)).numpy()
