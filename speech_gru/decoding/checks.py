"""Checks what the decoders are given."""

import operator
from collections.abc import Iterable

import numpy as np

from data_pipeline.errors import UserError

BLANK = 0
HIGHEST = 1e-3
"""A log-probability is at most 0; so much above it is rounding."""


def as_log_probs(values: np.ndarray, token_count: int | None = None) -> np.ndarray:
    """Log-probabilities as (frames, tokens) float64.

    Args:
        values: (frames, tokens) float32 or float64; frames may be 0, -inf may occur.
        token_count: tokens of the stream's earlier chunks; None at its beginning.

    Raises:
        UserError: another shape or dtype, NaN, or values that are no logarithms of probabilities.
    """
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype not in (np.float32, np.float64):
        raise UserError(
            "expected log-probabilities of shape (frames, tokens) in float32 or float64, with the blank at least, got "
            f"shape {values.shape} in {values.dtype}; decode one clip at a time"
        )
    if token_count not in (None, values.shape[1]):
        raise UserError(
            f"expected {token_count} tokens a frame, as in the stream's first chunk, got {values.shape[1]}; "
            "call finish() before another stream begins"
        )
    highest = values.max(initial=-np.inf)
    if np.isnan(highest):
        raise UserError("expected log-probabilities, got NaN among them; look for NaN in the model's input or weights")
    if highest > HIGHEST:
        raise UserError(
            f"expected log-probabilities, at most 0, got up to {highest:.4g}; "
            "take the log-softmax of logits, the logarithm of probabilities"
        )
    return np.ascontiguousarray(values, np.float64)


def as_tokens(values: Iterable[int], what: str, token_count: int | None = None) -> tuple[int, ...]:
    """A label sequence as a tuple; `what` names it in the error.

    Raises:
        UserError: not integers, a blank or less, or `token_count` or more.
    """
    try:
        tokens = tuple(map(operator.index, values))
    except TypeError:
        raise UserError(f"{what}: expected a sequence of token indices, got {values!r}; spell() makes one") from None
    if min(tokens, default=1) <= BLANK:
        raise UserError(f"{what}: expected token indices from 1 (0 is the blank), got {tokens}; leave blanks out")
    if token_count is not None and max(tokens, default=0) >= token_count:
        raise UserError(
            f"{what}: expected token indices below {token_count}, the tokens of a frame, got {tokens}; "
            "spell it with the model's own token table"
        )
    return tokens


def as_count(value: int, what: str) -> int:
    """A whole number from 1.

    Raises:
        UserError: anything else.
    """
    try:
        value = operator.index(value)
    except TypeError:
        raise UserError(f"expected {what} as a whole number from 1, got {value!r}") from None
    if value < 1:
        raise UserError(f"expected {what} from 1, got {value}")
    return value
