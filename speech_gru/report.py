"""After training: the figures, pictures and sounds of the kept weights, in the run directory and its TensorBoard."""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from data_pipeline.errors import UserError
from data_pipeline.files import write_text
from data_pipeline.manifest import read_manifest
from speech_gru.evaluation import Predict, predict_split, write_report
from speech_gru.phrase_training import least_samples, measured_phrases, token_kind
from speech_gru.run import Run, load_run
from speech_gru.tensorboard import log_embeddings, log_hparams, log_results, log_transcripts
from speech_gru.transcripts import PredictPhrases, transcribe, write_transcripts


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
    splits = {row.split for row in read_manifest(run.config.corpus.shards)}
    report_split = _report_phrases if run.config.model.head == "ctc" else _report_clips
    metrics = {split: report_split(run, split) for split in ("validation", "test") if split in splits}
    log_hparams(run, metrics)
    if run.config.tensorboard.embeddings and run.config.model.head == "classification":
        log_embeddings(run, run.config.tensorboard.embeddings)
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
    return metrics


def _report_clips(run: Run, split: str) -> dict:
    corpus = run.config.corpus
    predictions = predict_split(predictor(run), run.labels, corpus.shards, split, corpus.clip_samples)
    log_results(run, split, predictions)
    return write_report(predictions, run.folder / "report" / split)


def _report_phrases(run: Run, split: str) -> dict:
    source, shortest = measured_phrases(run.config, split), least_samples(run.config, run.front_end)
    transcripts = transcribe(source, run.labels, token_kind(run.config), phrase_predictor(run), shortest)
    log_transcripts(run, split, transcripts, source)
    return write_transcripts(transcripts, run.folder / "report" / split)


def phrase_predictor(run: Run) -> PredictPhrases:
    """The trained model as a function from padded audio to each phrase's log-probabilities."""
    graph = tf.function(
        lambda audio, samples: tf.nn.log_softmax(run.recognizer([audio, samples], training=False)),
        reduce_retracing=True,
    )
    front_end, subsampling = run.front_end, run.config.model.subsampling

    def predict(audio: np.ndarray, samples: np.ndarray) -> list[np.ndarray]:
        rows = graph(tf.constant(audio / np.float32(32768)), tf.constant(samples)).numpy()
        steps = np.asarray(front_end.frames_within(samples)) // subsampling
        return [row[:count] for row, count in zip(rows, steps, strict=True)]

    return predict


def predictor(run: Run) -> Predict:
    """The trained model as a function: audio (batch, samples) float32 -> probabilities (batch, labels) float32."""
    graph = tf.function(lambda audio: tf.nn.softmax(run.recognizer(audio, training=False)), reduce_retracing=True)
    return lambda audio: graph(tf.constant(audio)).numpy()
