"""What phrases are made of: texts -> the token table, and texts -> tokens."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache

KINDS = ("words", "characters", "phonemes")
"""What a table's tokens are. Words and phonemes have spaces between them; a space is a character."""


def split_text(text: str, kind: str) -> list[str]:
    """A text's tokens, however many spaces are in it.

    >>> split_text("go  go", "words"), split_text("a  b", "characters")
    (['go', 'go'], ['a', ' ', 'b'])
    """
    words = unicodedata.normalize("NFC", text).split()
    return list(" ".join(words)) if kind == "characters" else words


def token_table(texts: Iterable[str], kind: str) -> tuple[str, ...]:
    """All tokens of some texts, in order; the first entry is the blank, ""."""
    return ("", *sorted({token for text in texts for token in split_text(text, kind)}))


def count_missing(texts: Iterable[str], table: Sequence[str], kind: str) -> str:
    """What the table lacks to spell all of the texts, with how often, such as "'q' (2)"; empty if nothing."""
    known = set(table)
    missing = Counter(token for text in texts for token in split_text(text, kind) if token not in known)
    return ", ".join(f"{token!r} ({count})" for token, count in missing.most_common())


@cache
def phonemes_of(text: str, language: str) -> str:
    """A text's phonemes as espeak-ng says them, in IPA with spaces between them.

    Raises:
        UserError: espeakng-loader isn't installed, or no voice speaks the language.
    """
    from data_pipeline.espeak import phonemes

    return phonemes(text, language)
