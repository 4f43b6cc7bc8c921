"""Recognises words in audio that goes on: chunks of any length in, words with their times out.

A streaming file carries its state from chunk to chunk; a file for clips is run on a window that slides. NumPy and
LiteRT, nothing else.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.labels import SILENCE, UNKNOWN
from speech_gru.lite_file import LiteFile, as_float
from speech_gru.shipped import STREAM_MODEL

THRESHOLD = 0.7
"""Where neither the caller nor the file says another."""


@dataclass(frozen=True)
class Detection:
    """A word that was heard."""

    label: str
    probability: float
    """The mean over the time that `smoothing_seconds` says."""
    seconds: float
    """When it was sure, since the stream's beginning."""


class StreamingRecognizer:
    """One stream of audio. Several of them run side by side on one `LiteFile`, from one thread at a time.

    >>> stream = StreamingRecognizer("stream.tflite")  # doctest: +SKIP
    >>> for chunk in microphone:  # doctest: +SKIP
    ...     for heard in stream.detect(chunk):
    ...         print(heard.label)

    Args:
        model: a .tflite file for streams or clips that `speech-gru export` wrote, or one that is loaded already; if not
            given, the one that comes with the package.
        hop_seconds: with a file for clips, the window moves on by so much.
        threshold: a word is detected from this mean probability on, whatever the file says; if not given, from the
            file's threshold for it on, or from 0.7 where the file has none.
        smoothing_seconds: the mean is over the outputs of so much audio.
        pause_seconds: after a detection there is none, of any word, for so long. The same word must fall below its
            threshold as well, see `detect`.

    Raises:
        UserError: the file is missing, truncated, changed, of another program or another kind, or a setting is wrong.
    """

    def __init__(
        self,
        model: str | os.PathLike | LiteFile = STREAM_MODEL,
        *,
        hop_seconds: float = 0.1,
        threshold: float | None = None,
        smoothing_seconds: float = 0.2,
        pause_seconds: float = 0.6,
    ):
        self._file = model if isinstance(model, LiteFile) else LiteFile(model)
        self.description = about = self._file.description
        if about.head != "classification":
            raise UserError(f"{self._file.path}: a file for phrases (head {about.head!r}); PhraseRecognizer runs it")
        if about.kind not in ("stream", "clip"):
            raise UserError(f"{self._file.path}: a file of kind {about.kind!r}; expected one for streams or clips")
        times = (hop_seconds, smoothing_seconds, pause_seconds)
        known = threshold is None or 0 <= threshold <= 1
        if not np.isfinite(times).all() or min(times) < 0 or hop_seconds == 0 or not known:
            raise UserError(
                "expected hop_seconds above 0, threshold from 0 to 1, smoothing_seconds and pause_seconds from 0, got "
                f"{hop_seconds}, {threshold}, {smoothing_seconds} and {pause_seconds}"
            )
        if about.kind == "stream":
            self._step, self._width = about.chunk_samples, about.overlap_samples + about.chunk_samples
        else:
            self._width = about.clip_samples
            self._step = min(self._width, max(1, round(hop_seconds * about.sample_rate)))
        own = about.thresholds if threshold is None else dict.fromkeys(about.labels, threshold)
        self._thresholds = np.array([own.get(label, THRESHOLD) for label in about.labels])
        self._words = [index for index, label in enumerate(about.labels) if label not in (UNKNOWN, SILENCE)]
        self._smoothed = max(1, round(smoothing_seconds * about.sample_rate / self._step))
        self._pause = round(pause_seconds * about.sample_rate)
        self._window = np.zeros(self._width, np.float32)
        self._recent = np.zeros((self._smoothed, len(about.labels)), np.float32)
        self.reset()

    @property
    def labels(self) -> tuple[str, ...]:
        """What can be recognised, in the order of `probabilities`."""
        return self.description.labels

    @property
    def latency_samples(self) -> int:
        """Between two outputs lie so many samples."""
        return self._step

    def reset(self) -> None:
        """Forgets all that was heard: the next sample is the first of a new stream."""
        self._filled, self._outputs, self._quiet_until = 0, 0, 0
        self._sounding: set[int] = set()  # indices of words that were detected and haven't fallen below since
        self._states = self._file.initial_states()[1:]

    def logits(self, samples: np.ndarray) -> np.ndarray:
        """(outputs, labels) float32: one row for each chunk or window that these samples complete, maybe none.

        The first is complete after the file's overlap and chunk (or a clip), each further one after a chunk (or hop).
        How the audio is cut into calls is of no matter.

        Args:
            samples: (samples,) of any number but 0, at the file's sampling rate, float in [-1, 1] or int16.

        Raises:
            UserError: as Recognizer.recognize.
        """
        return self._collect(samples, 1)

    def probabilities(self, samples: np.ndarray) -> np.ndarray:
        """As `logits`, but probabilities."""
        return self._collect(samples, 0)

    def _collect(self, samples: np.ndarray, output: int) -> np.ndarray:
        rows = [outputs[output][0] for outputs in self._run(as_float(samples))]
        return np.array(rows, np.float32).reshape(-1, len(self.labels))

    def detect(self, samples: np.ndarray) -> list[Detection]:
        """The words that these samples complete. Arguments and errors as for `logits`.

        A word that is said once stays in the window for many outputs, for longer than the pause: it is detected once,
        and again only after its mean probability has fallen below its threshold (with a threshold of 0: never). Of two
        words that come within a pause, the second is detected at the pause's end if it is still above its threshold.
        """
        found = []
        for _ in self._run(as_float(samples)):
            end = self._width + (self._outputs - 1) * self._step
            if end < self._quiet_until or self._outputs < max(self._smoothed, self.description.warmup_chunks):
                continue
            mean = self._recent.mean(axis=0)
            best = int(mean.argmax())
            if best in self._words and best not in self._sounding and mean[best] >= self._thresholds[best]:
                found.append(Detection(self.labels[best], float(mean[best]), end / self.description.sample_rate))
                self._sounding.add(best)
                self._quiet_until = end + self._pause
        return found

    def _run(self, samples: np.ndarray) -> Iterator[list[np.ndarray]]:
        """The file's outputs for each window that the samples complete."""
        while len(samples):
            taken = samples[: self._width - self._filled]
            self._window[self._filled : self._filled + len(taken)] = taken
            self._filled, samples = self._filled + len(taken), samples[len(taken) :]
            if self._filled == self._width:
                outputs = self._run_window()
                self._window[: self._width - self._step] = self._window[self._step :].copy()
                self._filled -= self._step
                self._outputs += 1
                self._recent[self._outputs % self._smoothed] = outputs[0][0]
                if self._sounding:  # also in the pause, and while others than `detect` ask
                    above = self._recent.mean(axis=0) >= self._thresholds
                    self._sounding = {index for index in self._sounding if above[index]}
                yield outputs

    def _run_window(self) -> list[np.ndarray]:
        window = self._window[np.newaxis]
        if self.description.kind == "clip":
            return self._file.run(window)
        # The audio before the chunk is in the window: the state that holds it needn't be carried.
        overlap = self.description.overlap_samples
        outputs = self._file.run(window[:, overlap:], window[:, :overlap], *self._states)
        self._states = outputs[3:]
        return outputs
