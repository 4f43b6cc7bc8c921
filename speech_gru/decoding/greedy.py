"""The most probable path, frame by frame."""

import math

import numpy as np

from speech_gru.decoding.checks import BLANK, as_log_probs
from speech_gru.decoding.results import Token


def greedy(log_probs: np.ndarray) -> list[Token]:
    """What the most probable path says: equal neighbours are one token, blanks are none.

    Graves et al. 2006, "Connectionist Temporal Classification", section 3.2, "best path decoding". Fast, but not the
    most probable label sequence, which may have many paths that are less probable each.

    Args:
        log_probs: (frames, tokens) float32 or float64.

    Raises:
        UserError: as `as_log_probs` in checks.py.
    """
    decoder = GreedyDecoder()
    return decoder.feed(log_probs) + decoder.finish()


class GreedyDecoder:
    """`greedy` of a stream: a token is told once it is over."""

    def __init__(self):
        self._reset()

    def _reset(self) -> None:
        self._token_count, self._frame = None, 0
        self._index, self._start, self._highest = BLANK, 0, -math.inf

    def feed(self, log_probs: np.ndarray) -> list[Token]:
        """The tokens that end in these frames. Arguments and errors as for `greedy`."""
        rows = as_log_probs(log_probs, self._token_count)
        self._token_count = rows.shape[1]
        found = []
        for index, highest in zip(rows.argmax(axis=1).tolist(), rows.max(axis=1).tolist(), strict=True):
            if index == self._index:
                self._highest = max(self._highest, highest)
            else:
                found += self._open_token()
                self._index, self._start, self._highest = index, self._frame, highest
            self._frame += 1
        return found

    def finish(self) -> list[Token]:
        """The token that the stream's end cuts off, if there is one. The next frame begins another stream."""
        found = self._open_token()
        self._reset()
        return found

    def _open_token(self) -> list[Token]:
        if self._index == BLANK:
            return []
        return [Token(self._index, self._start, self._frame, math.exp(min(self._highest, 0)))]
