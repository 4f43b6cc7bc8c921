"""All artefacts of a run: made aside, loaded back, compared with the model, and only then put in their place."""

import tempfile
from pathlib import Path

import tensorflow as tf

from data_pipeline.dataset import evaluation_batches
from data_pipeline.errors import UserError
from data_pipeline.shards import shard_files
from export.saved_model import write_saved_model
from export.tflite import write_tflite
from export.verify import Agreement, ExportError, compare, saved_model_predictor, tflite_predictor
from speech_gru.report import predictor
from speech_gru.run import load_run

CLIPS = 256
"""So many real clips are compared."""
TOLERANCE = 1e-4
"""Largest difference of a probability that rounding in float32 explains."""
ARTEFACTS = {
    "saved_model": (write_saved_model, saved_model_predictor),
    "model.tflite": (write_tflite, tflite_predictor),
}
"""By the name in the folder: what writes it, and what loads it back."""


def export_run(folder: Path, out: Path, shards: Path | None = None) -> list[Agreement]:
    """Writes saved_model/ and model.tflite into `out`, replacing those of an earlier export once all are proven.

    Args:
        shards: clips to compare on; those of the run if None. Its test split is used, or the validation split.

    Raises:
        UserError: no finished run, no clips to compare on, or `out` can't be written.
        ExportError: an artefact can't be made, or differs from the model.
    """
    _hide_gpus()
    run = load_run(folder)
    shards = shards or run.config.corpus.shards
    split = "test" if shard_files(shards, "test") else "validation"
    audio = next(evaluation_batches(shards, split, run.config.corpus.clip_samples, CLIPS).as_numpy_iterator())["audio"]
    reference = predictor(run)(audio)
    agreements = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".unproven-") as aside:
            for name, (write, load) in ARTEFACTS.items():
                path = Path(aside) / name
                write(run, path)
                agreements.append(compare(path, load(path)(audio), reference, TOLERANCE))
            for name in ARTEFACTS:
                _replace(Path(aside) / name, out / name)
    except OSError as error:
        raise UserError(f"{out} can't be written: {error.strerror or error}") from error
    except tf.errors.ResourceExhaustedError as error:  # how TensorFlow says that the disk is full
        raise UserError(f"{out} can't be written: {error.message}") from error
    return agreements


def _hide_gpus() -> None:
    """Beside a GPU, Keras would put cuDNN's GRU into the graphs, and TF32 would blur what they are compared with."""
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError as error:
        raise ExportError("this process has used a GPU already; export in a process of its own") from error


def _replace(new: Path, old: Path) -> None:
    """Renames `new` to `old`; a folder that was there is moved to where it will be removed."""
    if old.is_dir():
        old.rename(new.with_suffix(".old"))
    new.replace(old)
