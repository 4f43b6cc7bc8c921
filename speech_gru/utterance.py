"""What was said in an utterance: log-probabilities -> tokens, in each of the ways that there are. NumPy alone.

One function for the device and for all figures.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from data_pipeline.errors import UserError
from speech_gru.artefact import DECODINGS
from speech_gru.decoding import BeamSearch, Token, acceptor_of_words, align, greedy, spell, text_of


class UtteranceDecoder:
    """Decodes one utterance after the other.

    Args:
        labels: the tokens; the first is the blank, "".
        kind: what they are, of data_pipeline.tokens.KINDS.
        decoding: of speech_gru.artefact.DECODINGS.
        words: what may be said, for the decoding "words"; where tokens are words, none means all of them.
        width: of a beam search.

    Raises:
        UserError: no such decoding; no words, or some that the tokens can't spell; width below 1.
    """

    def __init__(
        self,
        labels: Sequence[str],
        kind: str,
        decoding: str = "greedy",
        *,
        words: Iterable[str] = (),
        width: int = 16,
    ):
        if decoding not in DECODINGS:
            raise UserError(f"decoding: expected one of {', '.join(DECODINGS)}, got {decoding!r}")
        self.labels, self.kind, self.decoding = tuple(labels), kind, decoding
        acceptor = self._acceptor(as_texts(words, "words")) if decoding == "words" else None
        self._search = None if decoding == "greedy" else BeamSearch(acceptor, width=width)

    def _acceptor(self, words: tuple[str, ...]):
        if self.kind == "phonemes":
            raise UserError("decoding: 'words' needs tokens that spell words, and these are phonemes; take beam")
        if self.kind == "words":
            words = words or self.labels[1:]
        if not words:
            raise UserError(
                "decoding: 'words' needs words that may be said, and there are none; give some, or take beam"
            )
        spelled = [spell(word, self.labels, self.kind) for word in words]
        is_spaced = self.kind == "characters" and " " in self.labels
        return acceptor_of_words(spelled, self.labels.index(" ") if is_spaced else None)

    def __call__(self, rows: np.ndarray) -> list[Token]:
        """The tokens of an utterance, with their times in rows.

        Args:
            rows: (steps, tokens) float32 or float64, log-probabilities.
        """
        if self._search is None:
            return greedy(rows)
        self._search.feed(rows)
        best = self._search.finish(1)
        return align(rows, best[0].tokens) if best and best[0].tokens else []

    def text(self, rows: np.ndarray) -> str:
        """The text of an utterance: a space between words or phonemes, and none at its ends."""
        said = text_of([token.index for token in self(rows)], self.labels, self.kind)
        return " ".join(said.split())  # a text of characters may have spaces at its ends, or two in a row


def as_texts(texts: Iterable[str], what: str) -> tuple[str, ...]:
    """Several texts. Raises UserError for a single one, which would be taken for many of a letter each."""
    if isinstance(texts, str):
        raise UserError(f"{what}: expected several texts, such as a list, got the text {texts!r}; put it into a list")
    return tuple(texts)
