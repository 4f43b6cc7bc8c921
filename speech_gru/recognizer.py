"""The runtime on the device: an exported .tflite file, and audio. NumPy, soundfile and LiteRT, nothing else."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from data_pipeline.audio import LOUDEST_PEAK, fit_length, from_pcm16, load_audio
from data_pipeline.errors import UserError
from speech_gru.artefact import read_description
from speech_gru.quiet import quiet_start


@dataclass(frozen=True)
class Recognition:
    """What was heard in a clip."""

    label: str
    probability: float
    ranking: tuple[tuple[str, float], ...]
    """All labels with their probabilities, the most probable first."""


class Recognizer:
    """Recognises clips with an exported file. One thread at a time may use it; a process may hold several.

    >>> Recognizer("model.tflite").recognize(samples).label  # doctest: +SKIP
    'yes'

    Args:
        model: a .tflite file that `speech-gru export` wrote.
        threads: so many may compute at once; one is enough for a model of this size.

    Raises:
        UserError: the file is missing, truncated, changed or of another program.
    """

    def __init__(self, model: str | os.PathLike, *, threads: int = 1):
        try:
            content = Path(model).read_bytes()
        except OSError as error:
            raise UserError(f"{model}: can't be read: {error.strerror}; expected a .tflite file") from error
        self.description = read_description(content, model)
        if threads < 1:
            raise UserError(f"threads: expected 1 or more, got {threads}")
        try:
            with quiet_start():
                self._interpreter = Interpreter(model_content=content, num_threads=threads)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{model}: LiteRT can't run it: {error}") from error
        details = [*self._interpreter.get_input_details(), *self._interpreter.get_output_details()]
        shapes = [item["shape"].tolist() for item in details]
        if shapes != [[1, self.description.clip_samples], [1, len(self.labels)]]:
            raise UserError(f"{model}: its graph doesn't fit its description; export it again")
        self._input, self._output = (item["index"] for item in details)

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

        Raises:
            UserError: another shape or dtype, no samples, NaN or infinity, or samples far beyond [-1, 1].
        """
        probabilities = self.probabilities(samples)
        order = np.argsort(-probabilities, kind="stable")
        ranking = tuple((self.labels[index], float(probabilities[index])) for index in order)
        return Recognition(*ranking[0], ranking)

    def probabilities(self, samples: np.ndarray) -> np.ndarray:
        """(labels,) float32, of the clip as in `recognize`."""
        clip = fit_length(_as_float(samples), self.description.clip_samples)
        self._interpreter.set_tensor(self._input, clip[np.newaxis])
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)[0]

    def load(self, file: str | os.PathLike | BinaryIO) -> np.ndarray:
        """An audio file, a path or a binary file object, as (samples,) float32 at `sample_rate`.

        Raises:
            data_pipeline.audio.AudioError: why it can't be used.
        """
        return load_audio(file, self.sample_rate)


def _as_float(samples: np.ndarray) -> np.ndarray:
    samples = np.asarray(samples)
    if samples.ndim != 1 or len(samples) == 0:
        raise UserError(f"expected one channel of samples, shape (samples,), got shape {samples.shape}")
    if samples.dtype == np.int16:
        return from_pcm16(samples)
    if samples.dtype.kind != "f":
        raise UserError(f"expected float samples in [-1, 1] or int16, got {samples.dtype}")
    peak = np.abs(samples).max()
    if not peak <= LOUDEST_PEAK:
        raise UserError(f"expected finite float samples in [-1, 1], got a peak of {peak:g}; PCM must come as int16")
    return samples.astype(np.float32)
