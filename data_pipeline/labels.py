"""Labels: those that are made, not said, and what none can hold."""

import re

UNKNOWN = "_unknown_"
"""Speech that is none of the words."""
SILENCE = "_silence_"
"""No speech."""
PHRASE = "_phrase_"
"""Speech of which the text counts."""
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What a label can't hold: a terminal would obey it, a list's line would end at it, or UTF-8 has no bytes for it."""
