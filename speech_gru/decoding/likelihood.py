"""How probable a label sequence is, and when its tokens were said."""

from collections.abc import Sequence

import numpy as np

from data_pipeline.errors import UserError
from speech_gru.decoding.checks import BLANK, as_log_probs, as_tokens
from speech_gru.decoding.results import Token


def ctc_log_likelihood(log_probs: np.ndarray, tokens: Sequence[int]) -> float:
    """The logarithm of a label sequence's probability: the sum over all its alignments, exact.

    The forward algorithm: Graves et al. 2006, "Connectionist Temporal Classification", section 4.1.

    Args:
        log_probs: (frames, tokens) float32 or float64.
        tokens: the label sequence, without blanks; may be empty.

    Returns: at most 0 but for rounding; -inf where the frames don't suffice (each token takes one, and so does the
        blank between equal ones).

    Raises:
        UserError: as `as_log_probs` and `as_tokens` in checks.py.
    """
    rows = as_log_probs(log_probs)
    labels, skips = _extend(as_tokens(tokens, "the label sequence", rows.shape[1]))
    if len(rows) == 0:
        return 0.0 if len(labels) == 1 else -np.inf
    alpha = _before_the_first_frame(labels)
    for row in rows:
        come = np.logaddexp(alpha[2:], alpha[1:-1])
        alpha[2:] = np.logaddexp(come, np.where(skips, alpha[:-2], -np.inf)) + row[labels]
        alpha[1] = -np.inf
    return float(np.logaddexp.reduce(alpha[2:][-2:]))


def align(log_probs: np.ndarray, tokens: Sequence[int]) -> list[Token]:
    """The times of a label sequence's tokens, in its most probable alignment (Viterbi's algorithm).

    Args: as for `ctc_log_likelihood`.

    Raises:
        UserError: no alignment has any probability, too few frames for instance; or as `ctc_log_likelihood`.
    """
    rows = as_log_probs(log_probs)
    tokens = as_tokens(tokens, "the label sequence", rows.shape[1])
    labels, skips = _extend(tokens)
    alpha, moves = _before_the_first_frame(labels), np.zeros((len(rows), len(labels)), np.int8)
    for row, move in zip(rows, moves, strict=True):
        come = np.stack([alpha[2:], alpha[1:-1], np.where(skips, alpha[:-2], -np.inf)])
        move[:] = come.argmax(axis=0)
        alpha[2:] = come.max(axis=0) + row[labels]
        alpha[1] = -np.inf
    state = max(len(labels) - 2, 0) + int(alpha[2:][-2:].argmax())  # the last token or the blank after it
    if tokens and alpha[2:][state] == -np.inf:
        raise UserError(
            f"expected frames in which the tokens {tokens} can be said, got {len(rows)} that rule them out; "
            "align what a decoder found in the same frames"
        )
    spans: dict[int, list[int]] = {}
    for frame in reversed(range(len(rows))):
        spans.setdefault(state, []).append(frame)
        state -= int(moves[frame, state])  # in int8 a long sequence would overflow
    return [_token(rows, index, spans[2 * place + 1]) for place, index in enumerate(tokens)]


def _token(rows: np.ndarray, index: int, frames: list[int]) -> Token:
    """A token in its frames, the last one first."""
    highest = rows[frames[-1] : frames[0] + 1, index].max()
    return Token(index, frames[-1], frames[0] + 1, float(np.exp(min(highest, 0))))


def _extend(tokens: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """A label sequence with a blank before, between and after: labels, and whether a path may skip the one before.

    Two different tokens need no blank between them, and a path may begin with the first token.
    """
    labels = np.full(2 * len(tokens) + 1, BLANK)
    labels[1::2] = tokens
    skips = np.zeros(len(labels), bool)
    skips[1:2] = True
    skips[3::2] = labels[3::2] != labels[1:-2:2]
    return labels, skips


def _before_the_first_frame(labels: np.ndarray) -> np.ndarray:
    """The forward variables behind two columns more; in the second of them a path begins."""
    alpha = np.full(2 + len(labels), -np.inf)
    alpha[1] = 0
    return alpha
