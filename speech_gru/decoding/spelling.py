"""From text to tokens and back."""

import unicodedata
from collections.abc import Iterable, Sequence

from data_pipeline.errors import UserError
from data_pipeline.tokens import KINDS, split_text


def spell(text: str, table: Sequence[str], kind: str) -> tuple[int, ...]:
    """A phrase as indices in the token table.

    >>> spell("go go", ("", "stop", "go"), "words")
    (2, 2)

    Args:
        text: of phonemes if `kind` says so, written as in the table. How many spaces there are is of no matter.
        table: the tokens; entry 0 is the blank, "".
        kind: one of KINDS.

    Raises:
        UserError: the table lacks tokens that the phrase needs, the phrase is empty, or table or kind are wrong.
    """
    _check(table, kind)
    parts = split_text(text, kind)
    if not parts:
        raise UserError(f"expected a phrase of {kind}, got {text!r}; write at least one")
    places = {unicodedata.normalize("NFC", token): index for index, token in enumerate(table) if index}
    missing = sorted({part for part in parts if part not in places})
    if missing:
        known = ", ".join(map(repr, list(places)[:40])) + (", ..." if len(places) > 40 else "")
        raise UserError(
            f"phrase {text!r} needs {kind} that the token table lacks: {', '.join(map(repr, missing))}; "
            f"write it with those of the table: {known}"
        )
    return tuple(places[part] for part in parts)


def text_of(tokens: Iterable[int], table: Sequence[str], kind: str) -> str:
    """What tokens say; the inverse of `spell`.

    Raises:
        UserError: an index that isn't in the table, or table or kind are wrong.
    """
    _check(table, kind)
    tokens = list(tokens)
    if not all(0 < index < len(table) for index in tokens):
        raise UserError(f"expected token indices from 1 to {len(table) - 1}, got {tokens}; use the model's own table")
    return ("" if kind == "characters" else " ").join(table[index] for index in tokens)


def _check(table: Sequence[str], kind: str) -> None:
    if kind not in KINDS:
        raise UserError(f"expected a kind of tokens, one of {', '.join(KINDS)}, got {kind!r}")
    if isinstance(table, str) or len(table) == 0 or table[0] != "":
        raise UserError(f'expected a token table, strings of which the first is the blank, "", got {table!r:.80}')
