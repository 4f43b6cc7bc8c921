"""Where phrases occur in what is said."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipeline.errors import UserError
from speech_gru.decoding.checks import BLANK, as_count, as_log_probs, as_tokens
from speech_gru.decoding.results import Occurrence


class KeywordSpotter:
    """Finds phrases in a stream, wherever they begin and whatever is said around them.

    A phrase's alignment says its tokens in their order, each for a frame or more, with blanks between them as CTC
    has it: one at least between equal tokens. It begins with the first token's first frame and ends with the last
    token's last. Of all alignments the best is found by Viterbi's algorithm, from any first to any last frame.

    The score is the mean per token of the logarithm of a likelihood ratio: the alignment's over the best path's
    through the same frames, whatever that says. This is the filler model of Rose and Paul 1990, "A Hidden Markov Model
    Based Keyword Recognition System", with CTC's own best path as the filler. At most 0: the best path says the phrase.
    At -1 each token is on average 1/e times as probable as what was best. The ratio, because a likelihood alone falls
    with each frame and with noise; per token, because a token is a spike in a few frames, while in the others phrase
    and filler agree on blank or repetition and the ratio is 1: per frame, a phrase would do better the slower it is
    said. So one threshold serves long phrases and short ones.

    Occurrences of a phrase don't overlap; of those that would, the better is kept: the higher score, or the one that
    begins earlier, or ends later. Occurrences of different phrases may overlap. An occurrence is told as soon as no
    path that begins within it can still become a better one. Memory doesn't grow with time.

    Args:
        phrases: token sequences, as `spell` makes them, by name.
        threshold: occurrences of a lower score are none.
        patience: a wait for better ones that overlap ends so many frames after the first of them; None: never, what
            gives the best choice but may tell of a phrase only when another is said.
        longest: an occurrence takes at most so many frames, pauses included; None: any number.

    Raises:
        UserError: no phrases, one without tokens, or with a wrong one; a threshold above 0; patience or longest below
            1.
    """

    def __init__(
        self,
        phrases: Mapping[str, Sequence[int]],
        *,
        threshold: float = -1.0,
        patience: int | None = 20,
        longest: int | None = None,
    ):
        if not isinstance(phrases, Mapping) or not phrases:
            raise UserError(f"expected token sequences by phrase, one at least, got {phrases!r}; spell() makes them")
        self._phrases = {name: as_tokens(tokens, f"phrase {name!r}") for name, tokens in phrases.items()}
        if () in self._phrases.values():
            raise UserError(f"expected phrases of at least one token each, got {self._phrases}; leave out empty ones")
        if not threshold <= 0:
            raise UserError(f"expected threshold as the logarithm of a ratio, at most 0, got {threshold}")
        self._names, self._lengths = list(self._phrases), np.array([len(tokens) for tokens in self._phrases.values()])
        # Of a path without any probability the score is -inf, which is no occurrence whatever the threshold.
        self._lowest = np.maximum(threshold * self._lengths, np.finfo(float).min)
        self._patience = math.inf if patience is None else as_count(patience, "patience")
        self._longest = math.inf if longest is None else as_count(longest, "longest")
        self._labels, self._skips = _pad(list(self._phrases.values()))
        self._reset()

    def _reset(self) -> None:
        """(phrases, states + 2): of the best path to each state the ratio's logarithm, and where it began.

        From the second of the two columns before the states a path begins, in any frame. The first holds none.
        """
        self._token_count, self._frame = None, 0
        shape = (len(self._names), 2 + self._labels.shape[1])
        self._ratios, self._starts = np.full(shape, -np.inf), np.zeros(shape, np.int64)
        self._ratios[:, 1] = 0
        self._choices: dict[int, _Choice] = {}

    def feed(self, log_probs: np.ndarray) -> list[Occurrence]:
        """The occurrences that are sure with these frames, in the order in which they became so.

        Args:
            log_probs: (frames, tokens) float32 or float64.

        Raises:
            UserError: as `as_log_probs` in checks.py, or a phrase has tokens that the frames lack.
        """
        rows = as_log_probs(log_probs, self._token_count)
        if self._token_count is None:
            self._token_count = rows.shape[1]
            for name, tokens in self._phrases.items():
                as_tokens(tokens, f"phrase {name!r}", self._token_count)
        best = rows.max(axis=1, keepdims=True)
        rows = rows - np.where(best > -np.inf, best, 0)  # a frame in which nothing has any probability rules all out
        rows = np.concatenate([rows, np.full((len(rows), 1), -np.inf)], axis=1)  # what _pad's states say: nothing
        return [found for row in rows for found in self._step(row)]

    def finish(self) -> list[Occurrence]:
        """The occurrences that waited for better ones. The next frame begins another stream."""
        nothing = np.empty(0)
        waiting = [(phrase, choice.settle(nothing, nothing, math.inf)) for phrase, choice in self._choices.items()]
        self._reset()
        return [self._occurrence(phrase, found) for phrase, held in waiting for found in held]

    def _step(self, row: np.ndarray) -> list[Occurrence]:
        self._advance(row[self._labels])
        self._frame += 1
        last = self._ratios[np.arange(len(self._names)), 2 * self._lengths]
        for phrase in np.flatnonzero(last >= self._lowest).tolist():
            start = int(self._starts[phrase, 2 * self._lengths[phrase]])
            self._choices.setdefault(phrase, _Choice()).add((float(last[phrase]), start, self._frame))
        found = []
        for phrase, choice in self._choices.items():
            if choice.held:
                sure = choice.settle(self._ratios[phrase, 2:], self._starts[phrase, 2:], self._frame, self._patience)
                found += [self._occurrence(phrase, span) for span in sure]
        return found

    def _advance(self, emitted: np.ndarray) -> None:
        """Viterbi's step. Of equally good paths the one that stays is kept, which began first."""
        ratios, starts = self._ratios, self._starts
        starts[:, 1] = self._frame
        best, start = ratios[:, 2:], starts[:, 2:]
        for further, allowed in ((1, True), (2, self._skips)):
            come = ratios[:, 2 - further : -further]
            better = (come > best) & allowed
            best = np.where(better, come, best)
            start = np.where(better, starts[:, 2 - further : -further], start)
        best = best + emitted
        if self._longest < math.inf:
            best[start <= self._frame - self._longest] = -np.inf
        ratios[:, 2:], starts[:, 2:] = best, start

    def _occurrence(self, phrase: int, span: tuple[float, int, int]) -> Occurrence:
        ratio, start, end = span
        return Occurrence(self._names[phrase], ratio / int(self._lengths[phrase]), start, end)


def _pad(phrases: list[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """(phrases, states): labels, tokens with blanks between, then -1; and whether a path may skip the state before."""
    labels = np.full((len(phrases), 2 * max(map(len, phrases)) - 1), -1)
    skips = np.zeros(labels.shape, bool)
    for row, skip, tokens in zip(labels, skips, phrases, strict=True):
        row[: 2 * len(tokens) - 1] = BLANK
        row[: 2 * len(tokens) - 1 : 2] = tokens
        skip[2::2] = row[2::2] != row[:-2:2]
    return labels, skips


class _Choice:
    """Of a phrase's candidates, (ratio, start, end), one at most for each end, chooses those that don't overlap."""

    def __init__(self):
        self.held: list[tuple[float, int, int]] = []
        """In the order of their ends."""

    def add(self, candidate: tuple[float, int, int]) -> None:
        """One that ends with the present frame."""
        if self.held and self.held[-1][:2] == candidate[:2]:
            self.held.pop()  # the same, with a frame more
        self.held.append(candidate)

    def settle(
        self, ratios: np.ndarray, starts: np.ndarray, frame: int, patience: float = 0
    ) -> list[tuple[float, int, int]]:
        """Takes out the best and drops what overlaps it, again and again while no path that goes on could beat it.

        A ratio never rises on the way: a path that has a lower one already is beaten. Paths that overlap what is told
        end here (in `ratios`): they are of no use, and might hide one that begins later.
        """
        told = []
        while self.held:
            best = min(self.held, key=_order)
            better = (ratios > best[0]) | ((ratios == best[0]) & (starts <= best[1]))
            if (better & (starts < best[2])).any() and frame - self.held[0][2] < patience:
                break
            told.append(best)
            ratios[starts < best[2]] = -np.inf
            self.held = [other for other in self.held if other[1] >= best[2] or other[2] <= best[1]]
        return told


def _order(candidate: tuple[float, int, int]) -> tuple[float, int, int]:
    """The better, the less."""
    ratio, start, end = candidate
    return -ratio, start, -end
