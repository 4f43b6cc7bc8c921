"""All artefacts of a run, each loaded back and compared before the next is made."""

from pathlib import Path

from data_pipeline.dataset import evaluation_batches
from data_pipeline.shards import shard_files
from export.saved_model import write_saved_model
from export.tflite import write_tflite
from export.verify import Agreement, compare, saved_model_predictor, tflite_predictor
from speech_gru.report import predictor
from speech_gru.run import load_run

CLIPS = 256
"""So many real clips are compared."""
TOLERANCE = 1e-4
"""Largest difference of a probability that rounding in float32 explains."""


def export_run(folder: Path, out: Path, shards: Path | None = None) -> list[Agreement]:
    """Writes saved_model/ and model.tflite into `out`.

    Args:
        shards: clips to compare on; those of the run if None. Its test split is used, or the validation split.

    Raises:
        UserError: no finished run, or no clips to compare on.
        ExportError: an artefact can't be made, or differs from the model.
    """
    run = load_run(folder)
    shards = shards or run.config.corpus.shards
    split = "test" if shard_files(shards, "test") else "validation"
    audio = next(evaluation_batches(shards, split, run.config.corpus.clip_samples, CLIPS).as_numpy_iterator())["audio"]
    reference = predictor(run)
    write_saved_model(run, out / "saved_model")
    served = compare(out / "saved_model", saved_model_predictor(out / "saved_model"), reference, audio, TOLERANCE)
    write_tflite(run, out / "model.tflite")
    return [served, compare(out / "model.tflite", tflite_predictor(out / "model.tflite"), reference, audio, TOLERANCE)]
