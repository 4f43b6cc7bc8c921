"""Distillation (Hinton et al. 2015, arXiv:1503.02531): what finished runs make of a batch, for another to learn."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from keras import ops

from data_pipeline.errors import UserError
from data_pipeline.front_end import FrontEnd
from speech_gru.config import Config
from speech_gru.model import ClipsOfStreams, stream_frames
from speech_gru.run import Run, load_run


class Teachers:
    """Finished runs, whose mean probabilities are what a student learns beside the labels.

    They are given the features that the student is trained on, augmented as they are: a view of their own of each clip
    would have it learn what it can't see (Beyer et al. 2022, arXiv:2106.05237).

    Args:
        config: the student's.
        labels: the student's.
        front_end: the student's, adapted.

    Raises:
        UserError: a folder holds no finished run of whole clips, or one with other labels or features.
    """

    def __init__(self, config: Config, labels: Sequence[str], front_end: FrontEnd):
        runs = [load_run(folder) for folder in config.training.teachers]
        for run in runs:
            _check(run, config, labels, front_end)
        self.models = [run.recognizer.get_layer("encoder_and_head") for run in runs]
        frames = front_end.frame_count(config.corpus.clip_samples)
        self.clips = ClipsOfStreams(frames, stream_frames(config, front_end))

    def __call__(self, features):
        """(batch, frames, features), or streams of clips -> (batch, labels) float32. They hear each clip alone."""
        clips = self.clips(features)
        opinions = [ops.softmax(model(clips, training=False)) for model in self.models]
        return ops.stop_gradient(sum(opinions) / len(opinions))


def teachers_digest(folders: Sequence[Path]) -> list[str]:
    """Tells whether the teachers are still the same."""
    return [hashlib.sha256((folder / "model.keras").read_bytes()).hexdigest()[:16] for folder in folders]


def _check(run: Run, config: Config, labels: Sequence[str], front_end: FrontEnd) -> None:
    theirs = run.config
    compared = {
        "model.head": ("classification", theirs.model.head),
        "labels": (", ".join(labels), ", ".join(run.labels)),
        "corpus.sample_rate": (config.corpus.sample_rate, theirs.corpus.sample_rate),
        "corpus.clip_seconds": (config.corpus.clip_seconds, theirs.corpus.clip_seconds),
        "front_end": (config.front_end, theirs.front_end),
    }
    for name, (needed, found) in compared.items():
        if needed != found:
            raise UserError(
                f"training.teachers: {run.folder} differs in {name}: expected {needed}, but there it is {found}; "
                "a teacher hears and says what its student does"
            )
    for ours, its in zip(front_end.weights, run.front_end.weights, strict=True):
        if not np.allclose(ops.convert_to_numpy(ours), ops.convert_to_numpy(its), rtol=1e-3, atol=1e-3):
            raise UserError(
                f"training.teachers: the features of {run.folder} were normalised with another corpus; "
                f"train the teacher on {config.corpus.shards}"
            )
