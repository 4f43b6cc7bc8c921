"""What a token is, and which ones a table lacks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.tokens import KINDS, count_missing, phonemes_of, split_text, token_table


@pytest.mark.parametrize(
    ("text", "kind", "tokens"),
    [
        ("  licht\tan  ", "words", ["licht", "an"]),
        ("  a\u00a0 b", "characters", ["a", " ", "b"]),
        ("tʃ ɜː tʃ", "phonemes", ["tʃ", "ɜː", "tʃ"]),
        ("ho\u0308her", "characters", ["h", "ö", "h", "e", "r"]),
        ("ho\u0308her", "words", ["höher"]),
        ("", "words", []),
        ("   ", "characters", []),
    ],
)
def test_tokens_of_a_text(text, kind, tokens):
    assert split_text(text, kind) == tokens


@given(st.lists(st.text(max_size=8), max_size=5), st.sampled_from(KINDS))
def test_a_table_spells_the_texts_that_it_was_made_of(texts, kind):
    table = token_table(texts, kind)
    assert table[0] == ""
    assert list(table[1:]) == sorted(set(table[1:]))
    assert count_missing(texts, table, kind) == ""
    assert {token for text in texts for token in split_text(text, kind)} == set(table[1:])


def test_an_example():
    assert token_table(["b a", "aa"], "characters") == ("", " ", "a", "b")
    assert token_table(["b a", "aa"], "words") == ("", "a", "aa", "b")
    assert token_table([], "words") == ("",)


def test_what_is_missing_the_most_frequent_first():
    assert count_missing(["an aus", "aus", "ab"], ("", "an"), "words") == "'aus' (2), 'ab' (1)"
    assert count_missing(["ab", "b c"], ("", "a", "b"), "characters") == "' ' (1), 'c' (1)"


def test_phonemes():
    pytest.importorskip("espeakng_loader", reason="needs the extra [synth]")
    # Wells, Longman Pronunciation Dictionary: /tʃɜːtʃ/; espeak-ng marks no length where American has ɚ.
    assert phonemes_of("church", "en-us") == "tʃ ɜː tʃ"
    assert phonemes_of("Church, church!", "en-us") == "tʃ ɜː tʃ tʃ ɜː tʃ"
    assert phonemes_of("...", "en-us") == phonemes_of("", "en-us") == ""
