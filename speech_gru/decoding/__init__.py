"""CTC decoders for the device: log-probabilities of frames in, tokens, phrases and their times out. NumPy alone.

Common to all: log-probabilities are (frames, tokens) float32 or float64, after log-softmax. Token 0 is the blank, the
others are entries of the token table, a tuple of strings whose entry 0 is "". A time is a frame's number from the
stream's beginning; times `frame_seconds` it is seconds; an end is the frame after the last. A decoder is an object with
`feed(chunk)` and `finish()`; how the frames are cut into chunks is of no matter, to the last bit.

    what was said, fast               greedy, GreedyDecoder               greedy.py
    what was said, more exactly       prefix_beam_search, BeamSearch      beam.py
    which of these phrases was said   BeamSearch(acceptor)                beam.py, acceptor.py, grammar.py
    where these phrases occur         KeywordSpotter                      keywords.py
    how probable a phrase is          ctc_log_likelihood                  likelihood.py
    when its tokens were said         align                               likelihood.py
    from text to tokens and back      spell, text_of                      spelling.py
"""

from speech_gru.decoding.acceptor import Acceptor, acceptor_of_phrases, acceptor_of_words
from speech_gru.decoding.beam import BeamSearch, prefix_beam_search
from speech_gru.decoding.grammar import acceptor_of_grammar
from speech_gru.decoding.greedy import GreedyDecoder, greedy
from speech_gru.decoding.keywords import KeywordSpotter
from speech_gru.decoding.likelihood import align, ctc_log_likelihood
from speech_gru.decoding.results import Hypothesis, Occurrence, Token
from speech_gru.decoding.spelling import spell, text_of

__all__ = [
    "Acceptor",
    "BeamSearch",
    "GreedyDecoder",
    "Hypothesis",
    "KeywordSpotter",
    "Occurrence",
    "Token",
    "acceptor_of_grammar",
    "acceptor_of_phrases",
    "acceptor_of_words",
    "align",
    "ctc_log_likelihood",
    "greedy",
    "prefix_beam_search",
    "spell",
    "text_of",
]
