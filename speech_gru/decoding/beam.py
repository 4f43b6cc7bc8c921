"""The most probable label sequences: prefix beam search, free or held to an acceptor.

Hannun et al. 2014, "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent DNNs",
algorithm 1, without a language model. Of each prefix the beam holds two probabilities: of the paths that end in a
blank, and of those that end in its last token. Paths with equal prefixes are one.
"""

import math

import numpy as np

from data_pipeline.errors import UserError
from speech_gru.decoding.acceptor import Acceptor
from speech_gru.decoding.checks import BLANK, as_count, as_log_probs
from speech_gru.decoding.results import Hypothesis

THRESHOLD = -10.0
"""The default for a free search. A search with an acceptor has none: a phrase may need an improbable token."""


def prefix_beam_search(
    log_probs: np.ndarray, width: int = 16, *, count: int | None = None, token_threshold: float = THRESHOLD
) -> list[Hypothesis]:
    """The most probable label sequences, the best first; `count` at most, None: all in the beam.

    A score is the sum over the alignments whose prefixes were in the beam all the way, hence at most the exact
    `ctc_log_likelihood`. Arguments and errors as for `BeamSearch` and its `feed`.
    """
    search = BeamSearch(width=width, token_threshold=token_threshold)
    search.feed(log_probs)
    return search.finish(count)


class BeamSearch:
    """Prefix beam search of a stream. Of an acceptor's sequences the most probable one is found, never another.

    Times of a hypothesis' tokens: `align`. It grows with what is said: call `finish` where an utterance ends.

    Args:
        acceptor: what may be said; None: anything.
        width: so many prefixes stay in the beam after each frame.
        token_threshold: in a frame no prefix grows by tokens below this log-probability; None: -10 without acceptor,
            -inf with one.

    Raises:
        UserError: width below 1, or a threshold above 0.
    """

    def __init__(self, acceptor: Acceptor | None = None, *, width: int = 16, token_threshold: float | None = None):
        self._acceptor, self._width = acceptor, as_count(width, "width")
        if token_threshold is None:
            token_threshold = THRESHOLD if acceptor is None else -math.inf
        if not token_threshold <= 0:
            raise UserError(f"expected token_threshold as a log-probability, at most 0, got {token_threshold}")
        self._threshold = token_threshold
        self._reset()

    def _reset(self) -> None:
        """The beam holds the empty prefix alone. Its arrays are (prefixes,)."""
        self._token_count, self._arcs = None, None
        self._prefixes = _Prefixes()
        self._node, self._parent = np.array([_Prefixes.EMPTY]), np.array([_Prefixes.NONE])
        self._last, self._state = np.array([BLANK]), np.array([0])
        self._blank, self._token, self._total = np.array([0.0]), np.array([-np.inf]), np.array([0.0])

    def feed(self, log_probs: np.ndarray) -> None:
        """Goes on with these frames.

        Args:
            log_probs: (frames, tokens) float32 or float64.

        Raises:
            UserError: as `as_log_probs` in checks.py, or the acceptor has tokens that the frames lack.
        """
        rows = as_log_probs(log_probs, self._token_count)
        if self._token_count is None:
            self._token_count = rows.shape[1]
            self._arcs = self._acceptor and self._acceptor.table(self._token_count)
        for row in rows:
            self._step(row)

    def finish(self, count: int | None = None) -> list[Hypothesis]:
        """As `hypotheses`, and the next frame begins another stream."""
        found = self.hypotheses(count)
        self._reset()
        return found

    def hypotheses(self, count: int | None = None) -> list[Hypothesis]:
        """What was said up to now, the most probable first; `count` at most, None: all in the beam.

        With an acceptor these are the sequences that it accepts; none if no prefix in the beam is complete.
        """
        count = self._width if count is None else as_count(count, "count")
        order = np.argsort(-self._total, kind="stable")
        order = order[self._total[order] > -np.inf].tolist()  # prefixes that a frame ruled out may still be there
        if self._acceptor is not None:
            order = [place for place in order if int(self._state[place]) in self._acceptor.finals]
        return [
            Hypothesis(self._prefixes.tokens(int(self._node[place])), float(self._total[place]))
            for place in order[:count]
        ]

    def _step(self, row: np.ndarray) -> None:
        """Goes on by a frame: each prefix stays, or grows by one token."""
        blank, token = self._total + row[BLANK], self._token + row[self._last]
        spoken = np.where(row >= self._threshold, row, -np.inf)
        spoken[BLANK] = -np.inf
        if spoken.max() == -np.inf:
            self._blank, self._token, self._total = blank, token, np.logaddexp(blank, token)
            return
        grown = self._grow(spoken)
        self._merge(grown, token)
        stay = np.logaddexp(blank, token)
        # If all that stay fill the beam, nothing below the worst of them gets in.
        bound = stay.min() if len(stay) == self._width else -np.inf
        places = np.flatnonzero(grown > bound)
        if len(places):
            self._choose(blank, token, stay, grown.ravel()[places], places)
        else:
            self._blank, self._token, self._total = blank, token, stay

    def _grow(self, spoken: np.ndarray) -> np.ndarray:
        """(prefixes, tokens): the log-probability of each prefix that has grown by each token."""
        grown = self._total[:, np.newaxis] + spoken
        # The last token once more needs a blank between. Of the empty prefix that is the blank, which isn't spoken.
        grown[np.arange(len(self._last)), self._last] = self._blank + spoken[self._last]
        if self._arcs is not None:
            grown[self._arcs[self._state] < 0] = -np.inf
        return grown

    def _merge(self, grown: np.ndarray, token: np.ndarray) -> None:
        """Adds the grown prefixes that are in the beam already to those there."""
        child, parent = np.nonzero(self._parent[:, np.newaxis] == self._node)
        if len(child):
            last = self._last[child]
            token[child] = np.logaddexp(token[child], grown[parent, last])
            grown[parent, last] = -np.inf

    def _choose(
        self, blank: np.ndarray, token: np.ndarray, stay: np.ndarray, new: np.ndarray, places: np.ndarray
    ) -> None:
        """The next beam: the best of those that stay and the new ones, which are at `places` of the grown ones."""
        scores = np.concatenate([stay, new])
        chosen = np.arange(len(scores))
        if len(scores) > self._width:
            chosen = np.argpartition(scores, -self._width)[-self._width :]
        old, fresh = chosen[chosen < len(stay)], chosen[chosen >= len(stay)] - len(stay)
        source, last = np.divmod(places[fresh], self._token_count)
        parent = self._node[source]
        node = self._prefixes.grow(parent.tolist(), last.tolist())
        self._blank = np.concatenate([blank[old], np.full(len(fresh), -np.inf)])
        self._token, self._total = np.concatenate([token[old], new[fresh]]), np.concatenate([stay[old], new[fresh]])
        if self._arcs is not None:
            self._state = np.concatenate([self._state[old], self._arcs[self._state[source], last]])
        self._last, self._parent = np.concatenate([self._last[old], last]), np.concatenate([self._parent[old], parent])
        self._node = np.concatenate([self._node[old], np.array(node, int)])
        self._prefixes.forget_others(self._node)


class _Prefixes:
    """A tree of prefixes: numbers of nodes, of which each is its parent's prefix and one token more."""

    NONE, EMPTY = -1, 0
    """The parent of the empty prefix, which is none, and the empty prefix."""

    def __init__(self):
        self._above: dict[int, tuple[int, int]] = {}
        self._below: dict[tuple[int, int], int] = {}
        self._next, self._most = self.EMPTY + 1, 1000

    def grow(self, parents: list[int], tokens: list[int]) -> list[int]:
        """The prefixes one token longer. One that was there before is the same node: its children know it by that."""
        nodes = []
        for above in zip(parents, tokens, strict=True):
            node = self._below.get(above)
            if node is None:
                node = self._below[above] = self._next
                self._above[node] = above
                self._next += 1
            nodes.append(node)
        return nodes

    def tokens(self, node: int) -> tuple[int, ...]:
        """A prefix' tokens."""
        tokens = []
        while node != self.EMPTY:
            node, token = self._above[node]
            tokens.append(token)
        return tuple(reversed(tokens))

    def forget_others(self, nodes: np.ndarray) -> None:
        """Once in a while, so that memory doesn't grow by what was dropped: keeps these nodes and those above them."""
        if len(self._above) < self._most:
            return
        kept = {}
        for node in nodes.tolist():
            while node != self.EMPTY and node not in kept:
                kept[node] = self._above[node]
                node = kept[node][0]
        self._above, self._below = kept, {above: node for node, above in kept.items()}
        self._most = 2 * len(kept) + 1000
