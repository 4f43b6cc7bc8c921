"""The labels that are made, not said."""

UNKNOWN = "_unknown_"
"""Speech that is none of the words."""
SILENCE = "_silence_"
"""No speech."""
PHRASE = "_phrase_"
"""Speech of which the text counts."""
