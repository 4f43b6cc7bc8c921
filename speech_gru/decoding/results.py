"""What the decoders find."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Token:
    """A token that was said."""

    index: int
    """In the token table; never the blank."""
    start: int
    """Its first frame."""
    end: int
    """The frame after its last."""
    score: float
    """Its probability in the frame where it is highest: a CTC token is a spike, whose flanks say little."""


@dataclass(frozen=True)
class Hypothesis:
    """A sequence of tokens that may have been said."""

    tokens: tuple[int, ...]
    """Indices in the token table, without blanks."""
    score: float
    """The log-probability of the sequence: the sum over its alignments, as far as the beam held them."""


@dataclass(frozen=True)
class Occurrence:
    """A phrase that was said."""

    phrase: str
    """Its name."""
    score: float
    """At most 0, that of a phrase that no other path beats; see KeywordSpotter."""
    start: int
    """The first frame of its first token."""
    end: int
    """The frame after the last of its last token."""
