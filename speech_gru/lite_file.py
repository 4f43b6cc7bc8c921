"""An exported .tflite file, checked and ready to run: what `Recognizer` and `StreamingRecognizer` have in common."""

import os

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from data_pipeline.audio import LOUDEST_PEAK, from_pcm16
from data_pipeline.errors import UserError
from speech_gru.artefact import Artefact, read_description, read_file
from speech_gru.quiet import quiet_start


class LiteFile:
    """A file that `speech-gru export` wrote. It keeps nothing from one `run` to the next, so several may share it.

    Args:
        threads: so many may compute at once; one is enough for a model of this size.

    Raises:
        UserError: the file is missing, truncated, changed, of another program, or can't be run.
    """

    def __init__(self, path: str | os.PathLike, *, threads: int = 1):
        content = read_file(path)
        self.path = path
        self.description = read_description(content, path)
        if threads < 1:
            raise UserError(f"threads: expected 1 or more, got {threads}")
        try:
            with quiet_start():
                self._interpreter = Interpreter(model_content=content, num_threads=threads)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{path}: LiteRT can't run it: {error}") from error
        self._inputs, self._outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        if not self._fits():
            raise UserError(f"{path}: its graph doesn't fit its description; export it again")

    def _fits(self) -> bool:
        about = self.description
        given, found = ([_form(item) for item in items] for items in (self._inputs, self._outputs))
        rows = self.steps if about.head == "ctc" and about.kind == "clip" else 1
        labels = ((rows, len(about.labels)), np.float32, _FLOAT)
        if about.kind == "step":
            return len(found) >= 1 and found[0][0] == labels[0] and given[1:] == found[1:]
        samples = about.chunk_samples if about.kind == "stream" else about.clip_samples
        fixed = given[:1] == [((1, samples), np.float32, _FLOAT)] and found[:2] == [labels, labels]
        if about.kind == "stream":
            overlap = ((1, about.overlap_samples), np.float32, _FLOAT)
            return fixed and given[1:] == found[2:] and given[1:2] == [overlap]
        length = [((1, 1), np.int32, _FLOAT)] if about.head == "ctc" else []
        return fixed and about.kind == "clip" and given[1:] == length and len(found) == 2

    @property
    def steps(self) -> int:
        """Of a file for clips with a CTC head: rows of logits, for a whole window."""
        return steps_of(self.description.clip_samples, self.description)

    @property
    def quantization(self) -> list[tuple[float, int]]:
        """(scale, zero point) of the first input and of the first output; (0, 0) for floats."""
        return [self._inputs[0]["quantization"], self._outputs[0]["quantization"]]

    def initial_states(self) -> list[np.ndarray]:
        """What the inputs after the first are at the beginning of a stream."""
        return [np.full(item["shape"], item["quantization"][1], item["dtype"]) for item in self._inputs[1:]]

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The graph's outputs, in the order of the file."""
        for item, values in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(item["index"], values)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(item["index"]) for item in self._outputs]


def steps_of(samples: int, about: Artefact) -> int:
    """Rows of logits that so many samples give, with a CTC head."""
    frames = max(0, (samples - about.frame_samples) // about.hop_samples + 1)
    return frames // (about.step_samples // about.hop_samples)


_FLOAT = (0.0, 0)
"""Scale and zero point of a tensor that has none."""


def _form(item: dict) -> tuple:
    """Shape, dtype, and scale and zero point: a state that comes out in another form can't go in again."""
    return tuple(item["shape"].tolist()), item["dtype"], item["quantization"]


def as_float(samples: np.ndarray) -> np.ndarray:
    """One channel of samples, float in [-1, 1] or int16, as float32.

    Raises:
        UserError: another shape or dtype, no samples, NaN or infinity, or samples far beyond [-1, 1].
    """
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
