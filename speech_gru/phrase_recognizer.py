"""Recognises phrases on the device: an exported file with a CTC head, and audio. NumPy and LiteRT, nothing else.

Audio of any length: a file for streams carries its state from chunk to chunk; a file for clips is run on windows that
overlap by half, of each of which the middle counts. How the audio is cut into calls is of no matter.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from data_pipeline.audio import load_audio
from data_pipeline.errors import UserError
from speech_gru.artefact import Artefact
from speech_gru.decoding import KeywordSpotter, Occurrence, Token, align, spell, text_of
from speech_gru.lite_file import LiteFile, as_float, steps_of
from speech_gru.utterance import UtteranceDecoder, as_texts

PAUSE_SECONDS = 1.0
"""After so long without a token an utterance is over, and is decoded."""
BREAK_SECONDS = 0.4
"""For a search a word ends where so long nothing is said, with or without a space."""
LONGEST_SECONDS = 30.0
"""An utterance that goes on for longer is cut, where it is silent for longest: a beam search grows with it."""


@dataclass(frozen=True)
class Word:
    """A word that was said; with tokens that are phonemes, one of them."""

    text: str
    start: float
    """Seconds since the beginning of the audio."""
    end: float
    score: float
    """The least probability among its tokens, each in the step where it is highest."""


@dataclass(frozen=True)
class Found:
    """A phrase that was searched for, and found."""

    phrase: str
    score: float
    """At most 0; of equal meaning for all phrases, see KeywordSpotter."""
    start: float
    """Seconds since the beginning of the audio."""
    end: float


class PhraseRecognizer:
    """Recognises phrases with an exported file. One thread at a time may use it.

    >>> recognizer = PhraseRecognizer("model.tflite")  # doctest: +SKIP
    >>> recognizer.transcribe(samples)  # doctest: +SKIP
    'turn left'
    >>> recognizer.find(samples, ["left", "stop now"])  # doctest: +SKIP

    Args:
        model: a .tflite file with a CTC head, for clips or streams, or one that is loaded already.
        decoding: of speech_gru.artefact.DECODINGS; None: as the file says.
        words: what may be said, for the decoding "words"; None: as the file says.
        width: of a beam search.

    Raises:
        UserError: the file is missing, truncated, changed, of another program or without a CTC head; no such decoding;
            words that its tokens can't spell.
    """

    def __init__(
        self,
        model: str | os.PathLike | LiteFile,
        *,
        decoding: str | None = None,
        words: Iterable[str] | None = None,
        width: int = 16,
        threads: int = 1,
    ):
        self._file = model if isinstance(model, LiteFile) else LiteFile(model, threads=threads)
        self.description = about = self._file.description
        if about.head != "ctc":
            raise UserError(
                f"{self._file.path}: a file for single words (head {about.head!r}); Recognizer runs it, or "
                "StreamingRecognizer if it is for streams"
            )
        if about.kind == "step":
            raise UserError(
                f"{self._file.path}: a file of kind 'step', for microcontrollers; expected one for clips or streams"
            )
        words = about.words if words is None else words
        self.decode = UtteranceDecoder(about.labels, about.tokens, decoding or about.decoding, words=words, width=width)
        """One utterance's log-probabilities -> its tokens."""

    @property
    def sample_rate(self) -> int:
        """Samples a second that audio must have."""
        return self.description.sample_rate

    @property
    def step_seconds(self) -> float:
        """From one row of log-probabilities to the next."""
        return self.description.step_samples / self.description.sample_rate

    def load(self, file: str | os.PathLike | BinaryIO) -> np.ndarray:
        """An audio file, a path or a binary file object, as (samples,) float32 at `sample_rate`.

        Raises:
            data_pipeline.audio.AudioError: why it can't be used.
        """
        return load_audio(file, self.sample_rate)

    def log_probs(self, samples: np.ndarray) -> np.ndarray:
        """(steps, tokens) float32: the logarithms of the tokens' probabilities at each step; token 0 is the blank.

        Args:
            samples: (samples,) at `sample_rate`, float in [-1, 1] or int16.

        Raises:
            UserError: another shape or dtype, no samples, NaN or infinity, or samples far beyond [-1, 1].
        """
        rows = Rows(self._file)
        return np.concatenate([rows.feed(samples), rows.finish()])

    def transcribe(self, samples: np.ndarray) -> str:
        """The text that was said; empty for silence. Arguments and errors as for `log_probs`."""
        return " ".join(word.text for word in self.words(samples))

    def words(self, samples: np.ndarray) -> list[Word]:
        """The words that were said, with their times. Arguments and errors as for `log_probs`."""
        return list(self.stream().listen([samples]))

    def find(self, samples: np.ndarray, phrases: Iterable[str], threshold: float = -1.0) -> list[Found]:
        """Where phrases occur, whatever else is said. Further arguments and errors as for `log_probs`.

        Args:
            phrases: of the file's tokens.
            threshold: occurrences of a lower score are left out, see KeywordSpotter.

        Raises:
            UserError: also if the tokens can't spell a phrase.
        """
        return sorted(self.search(phrases, threshold).listen([samples]), key=lambda found: found.start)

    def stream(self) -> "TextStream":
        """Recognises audio that goes on."""
        return TextStream(self)

    def search(self, phrases: Iterable[str], threshold: float = -1.0) -> "SearchStream":
        """Searches audio that goes on. Arguments and errors as for `find`."""
        about = self.description
        spelled = {phrase: spell(phrase, about.labels, about.tokens) for phrase in as_texts(phrases, "phrases")}
        return SearchStream(self, spelled, threshold)

    def rows(self) -> "Rows":
        """Audio that goes on -> log-probabilities."""
        return Rows(self._file)


class _Stream:
    """What is found in one stream of audio."""

    def __init__(self, recognizer: PhraseRecognizer):
        self._rows, self._step_seconds = recognizer.rows(), recognizer.step_seconds

    def feed(self, samples: np.ndarray) -> list:
        """What these samples complete. Arguments and errors as for PhraseRecognizer.log_probs."""
        return self._decode(self._rows.feed(samples))

    def finish(self) -> list:
        """What the end completes. The next sample is the first of another stream."""
        found = self._decode(self._rows.finish())
        return found + self._end()

    def listen(self, chunks: Iterable[np.ndarray]) -> Iterator:
        """Everything in a stream, from its first chunk to its last."""
        for chunk in chunks:
            yield from self.feed(chunk)
        yield from self.finish()

    def _decode(self, rows: np.ndarray) -> list:
        raise NotImplementedError

    def _end(self) -> list:
        raise NotImplementedError


class SearchStream(_Stream):
    """Occurrences of phrases (Found) in one stream of audio; see PhraseRecognizer.search.

    With tokens that are characters, whole words alone: "six" isn't said in "sixty". So a space is looked for behind a
    phrase, and the most probable token before it must be one; a pause counts as a space, and so do both ends.

    Args:
        phrases: by name, their tokens.
    """

    def __init__(self, recognizer: PhraseRecognizer, phrases: Mapping[str, tuple[int, ...]], threshold: float):
        super().__init__(recognizer)
        about = recognizer.description
        self._space = about.labels.index(" ") if about.tokens == "characters" and " " in about.labels else None
        ending = () if self._space is None else (self._space,)
        self._phrases = {name: (*tokens, *ending) for name, tokens in phrases.items()}
        self._spotter = KeywordSpotter(self._phrases, threshold=threshold)
        self._boundary = np.full((1, len(about.labels)), -np.inf, np.float32)
        self._boundary[0, self._space or 0] = 0
        self._pause = max(1, round(BREAK_SECONDS / self._step_seconds))
        self._kept = deque(maxlen=round(LONGEST_SECONDS / self._step_seconds))
        """The newest rows that the spotter has been given, (tokens,) each, and the steps that they are of."""
        self._begin()

    def _begin(self) -> None:
        self._kept.clear()
        self._given, self._step, self._silent = 0, 0, 0

    def _decode(self, rows: np.ndarray) -> list[Found]:
        found = []
        for row in rows:
            found += self._give(row[None])
            self._step += 1
            self._silent = self._silent + 1 if _is_silent(row) else 0
            if self._silent == self._pause and self._space is not None:
                found += self._give(self._boundary)
        return found

    def _end(self) -> list[Found]:
        found = [] if self._space is None else self._give(self._boundary)
        found += self._whole(self._spotter.finish())
        self._begin()
        return found

    def _give(self, row: np.ndarray) -> list[Found]:
        self._kept.append((row[0], self._step))
        self._given += 1
        return self._whole(self._spotter.feed(row))

    def _whole(self, occurrences: list[Occurrence]) -> list[Found]:
        """With their times, those that aren't a part of a longer word."""
        first = self._given - len(self._kept)
        kept, found = list(self._kept) if occurrences else [], []
        for item in occurrences:
            start, end = (max(0, place - first) for place in (item.start, item.end))
            before = (row.argmax() for row, _ in reversed(kept[:start]))
            if self._space is None or next(filter(None, before), self._space) == self._space:
                found.append(self._timed(item, kept[start:end]))
        return found

    def _timed(self, item: Occurrence, kept: list[tuple[np.ndarray, int]]) -> Found:
        """Times without the space behind."""
        steps = [step for _, step in kept]
        last = len(steps)
        if self._space is not None and len(kept) == item.end - item.start:
            last = align(np.array([row for row, _ in kept]), self._phrases[item.phrase])[-2].end
        start, end = steps[0] * self._step_seconds, (steps[last - 1] + 1) * self._step_seconds
        return Found(item.phrase, item.score, start, end)


class TextStream(_Stream):
    """The words (Word) of one stream of audio, told at the end of each utterance; see PhraseRecognizer.stream."""

    def __init__(self, recognizer: PhraseRecognizer):
        super().__init__(recognizer)
        self._decoder, self._about = recognizer.decode, recognizer.description
        steps = (round(seconds / self._step_seconds) for seconds in (PAUSE_SECONDS, LONGEST_SECONDS))
        self._utterances = _Utterances(*steps)

    def _decode(self, rows: np.ndarray) -> list[Word]:
        return [word for row in rows for utterance in self._utterances.feed(row) for word in self._words(*utterance)]

    def _end(self) -> list[Word]:
        return [word for utterance in self._utterances.finish() for word in self._words(*utterance)]

    def _words(self, rows: np.ndarray, first: int) -> list[Word]:
        return [self._word(part, first) for part in _split_words(self._decoder(rows), self._about)]

    def _word(self, tokens: list[Token], first: int) -> Word:
        text = text_of([token.index for token in tokens], self._about.labels, self._about.tokens)
        start, end = ((first + place) * self._step_seconds for place in (tokens[0].start, tokens[-1].end))
        return Word(text, start, end, min(token.score for token in tokens))


class _Utterances:
    """Cuts the rows of a stream into utterances: (rows, number of the first), each with a row that isn't silent.

    Args:
        pause: after so many silent steps an utterance is over.
        longest: of more steps there is none.
    """

    def __init__(self, pause: int, longest: int):
        self._pause = max(1, pause)
        self._longest = max(2 * self._pause + 2, longest)  # whose first half isn't all silent
        self._begin(0)

    def _begin(self, first: int, rows: Iterable[np.ndarray] = (), silent: int = 0) -> None:
        self._first, self._rows = first, deque(rows)
        self._silent = silent
        """So many of the newest rows are silent."""

    def feed(self, row: np.ndarray) -> list[tuple[np.ndarray, int]]:
        """The utterance that this row, (tokens,), completes, if there is one."""
        self._rows.append(row)
        self._silent = self._silent + 1 if _is_silent(row) else 0
        count = len(self._rows)
        if self._silent == count:  # nothing was said yet; a pause of it stays, for the first token's beginning
            if count > self._pause:
                self._rows.popleft()
                self._first, self._silent = self._first + 1, self._silent - 1
            return []
        if self._silent >= self._pause:
            return self._take(count)
        return self._take(_place_to_cut(np.array(self._rows))) if count >= self._longest else []

    def finish(self) -> list[tuple[np.ndarray, int]]:
        """The utterance that the stream's end completes, if there is one. The next row is the first of another."""
        found = self._take(len(self._rows)) if self._silent < len(self._rows) else []
        self._begin(0)
        return found

    def _take(self, count: int) -> list[tuple[np.ndarray, int]]:
        """The first rows as an utterance; the next one begins behind them."""
        rows, first = np.array(self._rows, np.float32), self._first
        self._begin(first + count, rows[count:], min(self._silent, len(rows) - count))
        return [(rows[:count], first)]


def _is_silent(rows: np.ndarray) -> np.ndarray:
    """(..., tokens) -> (...): whether the blank is more probable than all tokens together."""
    return rows[..., 0] > np.log(0.5)


def _place_to_cut(rows: np.ndarray) -> int:
    """Before which row to cut an utterance: in the middle of its second half's longest silence, or at its end."""
    is_silent = _is_silent(rows)
    is_silent[: len(rows) // 2] = False
    edges = np.flatnonzero(np.diff(is_silent, prepend=False, append=False))
    if not len(edges):
        return len(rows)
    starts, ends = edges[::2], edges[1::2]
    longest = (ends - starts).argmax()
    return int(starts[longest] + ends[longest] + 1) // 2


def _split_words(tokens: list[Token], about: Artefact) -> list[list[Token]]:
    """The tokens of each word: characters up to a space, or each token by itself."""
    if about.tokens != "characters":
        return [[token] for token in tokens]
    words: list[list[Token]] = [[]]
    for token in tokens:
        if about.labels[token.index] == " ":
            words.append([])
        else:
            words[-1].append(token)
    return [word for word in words if word]


class Rows:
    """Audio that goes on -> log-probabilities, a row a step. Its memory doesn't grow."""

    def __init__(self, file: LiteFile):
        self._file, self._about = file, file.description
        if self._about.kind == "clip":
            self._kept = max(1, file.steps // 2)
            """Of a window's steps, those in the middle, which count."""
            self._lead = (file.steps - self._kept) // 2
        self._begin()

    def _begin(self) -> None:
        self._waiting, self._is_first = np.zeros(0, np.float32), True
        self._states = self._file.initial_states()[1:] if self._about.kind == "stream" else []

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """(steps, tokens) float32, the rows that these samples complete, maybe none."""
        self._waiting = np.concatenate([self._waiting, as_float(samples)])
        next_rows, parts = self._next_chunk if self._about.kind == "stream" else self._next_window, []
        while (found := next_rows()) is not None:
            parts.append(found)
        self._waiting = self._waiting.copy()  # not a view, which would keep all of the samples
        return self._stacked(parts)

    def finish(self) -> np.ndarray:
        """The rows that are left. The next sample is the first of another stream."""
        rows, steps = [], steps_of(len(self._waiting), self._about)
        if self._about.kind == "clip" and steps:
            rows = [self._run_window(self._waiting)[0 if self._is_first else self._lead : steps]]
        self._begin()
        return self._stacked(rows)

    def _stacked(self, parts: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.zeros((0, len(self._about.labels)), np.float32), *parts])

    def _next_chunk(self) -> np.ndarray | None:
        overlap, chunk = self._about.overlap_samples, self._about.chunk_samples
        if len(self._waiting) < overlap + chunk:
            return None
        before, audio = self._waiting[:overlap], self._waiting[overlap : overlap + chunk]
        _, logits, _, *self._states = self._file.run(audio[None], before[None], *self._states)
        self._waiting = self._waiting[chunk:]
        return log_softmax(logits)

    def _next_window(self) -> np.ndarray | None:
        if len(self._waiting) <= self._about.clip_samples:
            return None  # perhaps the last one: `finish` takes it as it is
        rows = self._run_window(self._waiting[: self._about.clip_samples])
        first = 0 if self._is_first else self._lead
        self._is_first, self._waiting = False, self._waiting[self._kept * self._about.step_samples :]
        return rows[first : self._lead + self._kept]

    def _run_window(self, samples: np.ndarray) -> np.ndarray:
        padded = np.zeros((1, self._about.clip_samples), np.float32)
        padded[0, : len(samples)] = samples
        _, logits = self._file.run(padded, np.array([[len(samples)]], np.int32))
        return log_softmax(logits)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logits (steps, tokens) as logarithms of probabilities."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
