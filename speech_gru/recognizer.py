"""Recognises clips on the device: an exported .tflite file, and audio. NumPy, soundfile and LiteRT, nothing else."""

import os
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from data_pipeline.audio import fit_length, load_audio
from data_pipeline.errors import UserError
from speech_gru.decision import decide
from speech_gru.lite_file import LiteFile, as_float
from speech_gru.shipped import CLIP_MODEL


@dataclass(frozen=True)
class Recognition:
    """What was heard in a clip."""

    label: str
    probability: float
    """Of `label`."""
    ranking: tuple[tuple[str, float], ...]
    """All labels with their probabilities, the most probable first."""


class Recognizer:
    """Recognises clips with an exported file. One thread at a time may use it; a process may hold several.

    >>> Recognizer("model.tflite").recognize(samples).label  # doctest: +SKIP
    'yes'

    Args:
        model: a .tflite file for clips that `speech-gru export` wrote, or one that is loaded already; if not given, the
            one that comes with the package.
        threads: so many may compute at once; one is enough for a model of this size.

    Raises:
        UserError: the file is missing, truncated, changed, of another program, or not for clips.
    """

    def __init__(self, model: str | os.PathLike | LiteFile = CLIP_MODEL, *, threads: int = 1):
        self._file = model if isinstance(model, LiteFile) else LiteFile(model, threads=threads)
        self.description = self._file.description
        if self.description.head != "classification":
            raise UserError(
                f"{self._file.path}: a file for phrases (head {self.description.head!r}); PhraseRecognizer runs it"
            )
        if self.description.kind != "clip":
            raise UserError(
                f"{self._file.path}: a file of kind {self.description.kind!r}, not for whole clips; "
                "a stream's runs in StreamingRecognizer"
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """What can be recognised, in the order of `probabilities`."""
        return self.description.labels

    @property
    def sample_rate(self) -> int:
        """Samples a second that `recognize` expects."""
        return self.description.sample_rate

    def recognize(self, samples: np.ndarray) -> Recognition:
        """Recognises one clip.

        Args:
            samples: (samples,) at `sample_rate`, float in [-1, 1] or int16. Of a longer clip the loudest stretch is
                taken, a shorter one is padded with silence on both sides, as in training.

        Returns: the most probable label, or `_unknown_` where that is less probable than the file's threshold for it.

        Raises:
            UserError: another shape or dtype, no samples, NaN or infinity, or samples far beyond [-1, 1].
        """
        probabilities = self.probabilities(samples)
        order = np.argsort(-probabilities, kind="stable")
        ranking = tuple((self.labels[index], float(probabilities[index])) for index in order)
        decided = int(decide(probabilities, self.labels, self.description.thresholds))
        return Recognition(self.labels[decided], float(probabilities[decided]), ranking)

    def probabilities(self, samples: np.ndarray) -> np.ndarray:
        """(labels,) float32, of the clip as in `recognize`."""
        return self._run(samples)[0]

    def logits(self, samples: np.ndarray) -> np.ndarray:
        """(labels,) float32, of the clip as in `recognize`."""
        return self._run(samples)[1]

    def _run(self, samples: np.ndarray) -> list[np.ndarray]:
        clip = fit_length(as_float(samples), self.description.clip_samples)
        return [output[0] for output in self._file.run(clip[np.newaxis])]

    def load(self, file: str | os.PathLike | BinaryIO) -> np.ndarray:
        """An audio file, a path or a binary file object, as (samples,) float32 at `sample_rate`.

        Raises:
            data_pipeline.audio.AudioError: why it can't be used.
        """
        return load_audio(file, self.sample_rate)
