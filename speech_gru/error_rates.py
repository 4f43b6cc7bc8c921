"""Word and character error rates."""

from collections.abc import Sequence

import jiwer

from data_pipeline.tokens import split_text


def count_errors(truth: Sequence[str], guesses: Sequence[str], kind: str) -> dict[str, int]:
    """Keys: said, substitutions, deletions, insertions; over all phrases, of words or characters."""
    counts = {"said": 0, "substitutions": 0, "deletions": 0, "insertions": 0}
    process = jiwer.process_words if kind == "words" else jiwer.process_characters
    for said, heard in zip(truth, guesses, strict=True):
        if not said:  # jiwer refuses phrases of silence
            counts["insertions"] += len(split_text(heard, kind))
            continue
        found = process(said, heard)
        counts["said"] += len(split_text(said, kind))
        for name in ("substitutions", "deletions", "insertions"):
            counts[name] += getattr(found, name)
    return counts


def error_rate(counts: dict[str, int]) -> float:
    """All errors over what was said."""
    errors = sum(counts[name] for name in ("substitutions", "deletions", "insertions"))
    return errors / max(1, counts["said"])
