"""What may be said: phrases, words and grammars as acceptors, held against all short sequences, one by one."""

import re
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import UserError
from data_pipeline.grammar import LONGEST_SENTENCE, Sentences
from speech_gru.decoding import (
    Acceptor,
    acceptor_of_grammar,
    acceptor_of_phrases,
    acceptor_of_words,
    spell,
    text_of,
)

few = settings(max_examples=60, deadline=None)
sequences = st.lists(st.lists(st.integers(1, 2), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4)
WORDS = ("", "licht", "an", "aus", "höher", "bitte")
LETTERS = ("", *"abcdefghijklmnopqrstuvwxyzäöü' ")


def accepted(acceptor, tokens, longest):
    """All sequences up to this length that it accepts."""
    every = (sequence for length in range(longest + 1) for sequence in product(tokens, repeat=length))
    return {sequence for sequence in every if acceptor.accepts(sequence)}


class TestAcceptor:
    @few
    @given(sequences)
    def test_phrases(self, phrases):
        assert accepted(acceptor_of_phrases(phrases), (1, 2, 3), 4) == set(phrases)

    @few
    @given(sequences, st.sampled_from([None, 3]))
    def test_words(self, words, separator):
        word = "(" + "|".join("".join(map(str, tokens)) for tokens in words) + ")"
        pattern = re.compile(f"({word}({'' if separator is None else separator}{word})*)?")
        every = (sequence for length in range(8) for sequence in product((1, 2, 3), repeat=length))
        expected = {sequence for sequence in every if pattern.fullmatch("".join(map(str, sequence)))}
        assert accepted(acceptor_of_words(words, separator), (1, 2, 3), 7) == expected

    def test_phrases_share_their_beginnings(self):
        assert len(acceptor_of_phrases([(1, 2, 3), (1, 2, 4), (1, 2)]).arcs) == 5

    def test_the_table(self):
        acceptor = Acceptor(({1: 1}, {2: 0}), frozenset({1}))
        np.testing.assert_array_equal(acceptor.table(3), [[-1, 1, -1], [-1, -1, 0]])
        with pytest.raises(UserError, match="below 2"):
            acceptor.table(2)

    @pytest.mark.parametrize(
        ("arcs", "finals"), [((), ()), (({1: 1},), (0,)), (({1: 0},), (1,)), (({1: -1},), (0,)), (({0: 0},), (0,))]
    )
    def test_arcs_that_are_none(self, arcs, finals):
        with pytest.raises(UserError, match="expected"):
            Acceptor(arcs, frozenset(finals))

    @pytest.mark.parametrize("make", [acceptor_of_phrases, acceptor_of_words])
    @pytest.mark.parametrize(
        ("phrases", "message"),
        [([], "at least one token"), ([(1,), ()], "at least one token"), ([(1,), (2, 0)], "2: expected token indices")],
    )
    def test_phrases_that_are_none(self, make, phrases, message):
        with pytest.raises(UserError, match=message):
            make(phrases)

    def test_separators_that_are_none(self):
        with pytest.raises(UserError, match="split it there"):
            acceptor_of_words([(1, 3, 2)], 3)
        with pytest.raises(UserError, match="the separator: expected"):
            acceptor_of_words([(1, 2)], 0)


@st.composite
def parts_of_grammar(draw, depth=2):
    """(text, all sequences of words that it stands for), and the rules that it takes, in the same form."""
    text, said, rules = [], {""}, {}
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["word", "rule", "optional"] if depth else ["word"]))
        if kind == "word":
            word = draw(st.sampled_from(["ab", "b", "a"]))
            text, options = [*text, word], {word}
        else:
            inner, options, more = draw(parts_of_grammar(depth=depth - 1))
            rules |= more
            if kind == "optional":
                text, options = [*text, f"[{inner}]"], options | {""}
            else:
                name = f"regel {len(rules)} {depth} {inner}".translate(str.maketrans("<>[]", "    "))
                rules[name] = (["b a", inner], options | {"b a"})
                text, options = [*text, f"<{name}>"], rules[name][1]
        said = {f"{first} {second}".strip() for first in said for second in options}
    return " ".join(text), said, rules


FAULTY_RULES = [
    ({}, "from among no rules, got 'start'"),
    ({"anfang": ["an"]}, "from among <anfang>, got 'start'"),
    ({"start": []}, "<start>: expected a list of alternatives"),
    ({"start": "an"}, "<start>: expected a list of alternatives"),
    ({"start": ["an", " "]}, "<start>: expected words"),
    ({"start": ["[]"]}, "see ']'"),
    ({"start": ["an ] aus"]}, "see ']'"),
    ({"start": ["an [aus"]}, "each bracket closed"),
    ({"start": ["an <aus"]}, "see '<'"),
    ({"start": ["<>"]}, "see '<'"),
    ({"<start>": ["an"]}, "without brackets"),
    ({"start": ["[<ort>]"], "andere": ["an"]}, "<start> refers to <ort>, .* among <start>, <andere>"),
    ({"start": ["an"], "b": ["<c>"]}, "<b> refers to <c>"),
    ({"start": ["an <start>"]}, "got <start> -> <start>; write out"),
    ({"start": ["<b>"], "b": ["aus [<c>]"], "c": ["an", "<b>"]}, "got (<b> -> <c> -> <b>|<c> -> <b> -> <c>);"),
]
"""Rules, `start` the first, with what is said of them."""


def letters(word):
    return spell(word, LETTERS, "characters")


class TestGrammar:
    @few
    @given(parts_of_grammar(), st.booleans())
    def test_accepts_all_that_the_rules_expand_to_and_nothing_else(self, part, separated):
        text, said, rules = part
        space = LETTERS.index(" ") if separated else None
        rules = {name: alternatives for name, (alternatives, _) in rules.items()}
        acceptor = acceptor_of_grammar({**rules, "start": [text]}, "start", letters, space)
        found, open_ = set(), [((), 0)]
        while open_:  # it ends: without recursion there is no loop
            tokens, state = open_.pop()
            found |= {tokens} if state in acceptor.finals else set()
            open_ += [((*tokens, token), target) for token, target in acceptor.arcs[state].items()]
        spoken = {phrase if separated else phrase.replace(" ", "") for phrase in said}
        assert found == {letters(phrase) if phrase else () for phrase in spoken}

    def test_an_example(self):
        rules = {
            "befehl": ["[bitte] licht <schalter>", "höher [bitte]"],
            "schalter": ["an", "aus"],
        }
        acceptor = acceptor_of_grammar(rules, "befehl", lambda word: spell(word, WORDS, "words"))
        found = {text_of(tokens, WORDS, "words") for tokens in accepted(acceptor, range(1, 6), 4)}
        assert found == {
            *("licht an", "licht aus", "bitte licht an", "bitte licht aus"),
            *("höher", "höher bitte"),
        }

    def test_phonemes_of_a_dictionary(self):
        spoken = {"an": (3, 4), "aus": (5,)}
        acceptor = acceptor_of_grammar({"start": ["an", "aus [an]"]}, "start", spoken.__getitem__, separator=9)
        assert accepted(acceptor, (3, 4, 5, 9), 4) == {(3, 4), (5,), (5, 9, 3, 4)}

    @pytest.mark.parametrize(
        ("rules", "message"),
        [
            *FAULTY_RULES,
            ({"start": ["tür"]}, "rule <start>: phrase 'tür' needs words that the token table lacks: 'tür'"),
        ],
    )
    def test_rules_that_are_none(self, rules, message):
        with pytest.raises(UserError, match=message):
            acceptor_of_grammar(rules, "start", lambda word: spell(word, WORDS, "words"))

    def test_pronunciations_that_are_none(self):
        with pytest.raises(UserError, match="rule <start>: no pronunciation for 'aus'"):
            acceptor_of_grammar({"start": ["an aus"]}, "start", {"an": (1,)}.__getitem__)
        with pytest.raises(UserError, match="rule <start>: word 'an': expected token indices"):
            acceptor_of_grammar({"start": ["an aus"]}, "start", {"an": (0,)}.__getitem__)
        for wrong in ((), (1, 2)):
            with pytest.raises(UserError, match="none of them the separator"):
                acceptor_of_grammar({"start": ["an"]}, "start", {"an": wrong}.__getitem__, separator=2)

    def test_rules_that_expand_to_too_much(self):
        rules = {f"r{number}": [f"<r{number + 1}> an <r{number + 1}>"] for number in range(40)} | {"r40": ["an"]}
        with pytest.raises(UserError, match="at most 100000 states"):
            acceptor_of_grammar(rules, "r0", lambda word: (1,))


class TestSentences:
    @few
    @given(parts_of_grammar())
    def test_no_other_than_the_rules_expand_to(self, part):
        text, said, rules = part
        rules = {name: alternatives for name, (alternatives, _) in rules.items()}
        sentences, generator = Sentences({"start": [text], **rules}, "start"), np.random.default_rng(0)
        for _ in range(20):
            assert " ".join(sentences.draw(generator)) in said

    def test_how_often(self):
        """Alternatives alike often, optional parts half of the time; 4000 draws, 5 standard deviations."""
        rules = {"start": ["an [bitte [sofort]]", "<ort>", "<ort>"], "ort": ["hier", "da"]}
        sentences, generator = Sentences(rules, "start"), np.random.default_rng(1)
        drawn = [" ".join(sentences.draw(generator)) for _ in range(4000)]
        expected = {"an": 1 / 6, "an bitte": 1 / 12, "an bitte sofort": 1 / 12, "hier": 1 / 3, "da": 1 / 3}
        assert set(drawn) == set(expected)
        for sentence, share in expected.items():
            assert abs(drawn.count(sentence) - 4000 * share) < 5 * np.sqrt(4000 * share * (1 - share))

    def test_the_same_generator_draws_the_same(self):
        sentences = Sentences({"start": ["[a] [b] <c>"], "c": ["d", "e", "f"]}, "start")
        first, second = ([sentences.draw(g) for _ in range(50)] for g in map(np.random.default_rng, (3, 3)))
        assert first == second
        assert [] not in first

    def test_a_sentence_without_words(self):
        sentences, generator = Sentences({"start": ["[an]"]}, "start"), np.random.default_rng(0)
        assert {tuple(sentences.draw(generator)) for _ in range(50)} == {(), ("an",)}

    def test_the_words_of_all_rules(self):
        rules = {"start": ["licht [sofort <ort>]", "an"], "ort": ["hier"], "nie": ["ungesagt"]}
        assert Sentences(rules, "start").words == {"licht", "sofort", "an", "hier", "ungesagt"}

    @pytest.mark.parametrize(("rules", "message"), FAULTY_RULES)
    def test_rules_that_are_none(self, rules, message):
        with pytest.raises(UserError, match=message):
            Sentences(rules, "start")

    def test_sentences_that_are_too_long(self):
        rules = {f"r{number}": [f"<r{number + 1}> an [<r{number + 1}>]"] for number in range(40)} | {"r40": ["an"]}
        with pytest.raises(UserError, match=rf"rule <r0>: .* at most 64 words, got up to {2**41 - 1}"):
            Sentences(rules, "r0")
        Sentences({"start": ["an " * LONGEST_SENTENCE]}, "start")
        with pytest.raises(UserError, match="got up to 65"):
            Sentences({"start": ["an " * LONGEST_SENTENCE + "[<b>]"], "b": ["aus"]}, "start")


class TestSpelling:
    def test_there_and_back(self):
        assert spell(" licht  an licht ", WORDS, "words") == (1, 2, 1)
        assert text_of((1, 2, 1), WORDS, "words") == "licht an licht"
        assert text_of(spell("mach's  höher", LETTERS, "characters"), LETTERS, "characters") == "mach's höher"
        assert spell("a n", ("", "n", "a"), "phonemes") == (2, 1)

    def test_an_umlaut_in_two_parts_is_the_same(self):
        assert spell("ho\u0308her", WORDS, "words") == (4,)
        assert spell("höher", ("", "ho\u0308her"), "words") == (1,)

    @pytest.mark.parametrize(
        ("text", "table", "kind", "message"),
        [
            ("licht dimmen dann licht", WORDS, "words", "lacks: 'dann', 'dimmen'; write it .* 'licht', 'an', 'aus'"),
            ("Licht an!", LETTERS, "characters", "'Licht an!' needs characters .*: '!', 'L'; .* 'ü', \"'\", ' '$"),
            ("an aus", ("", *"anus"), "characters", "lacks: ' ';"),
            ("an", ("", *map(str, range(100))), "words", r"'39', \.\.\.$"),
            (" ", WORDS, "words", "expected a phrase of words"),
            ("an", WORDS, "letters", "one of words, characters, phonemes, got 'letters'"),
            ("an", WORDS[1:], "words", "the first is the blank"),
            ("an", (), "words", "the first is the blank"),
            ("an", "an", "characters", "the first is the blank"),
        ],
    )
    def test_what_cannot_be_spelled(self, text, table, kind, message):
        with pytest.raises(UserError, match=message):
            spell(text, table, kind)

    @pytest.mark.parametrize("tokens", [(0,), (1, 6), (-1,)])
    def test_tokens_that_are_not_in_the_table(self, tokens):
        with pytest.raises(UserError, match="expected token indices from 1 to 5"):
            text_of(tokens, WORDS, "words")
