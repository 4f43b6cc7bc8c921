"""Decoders of frames, held against brute force: all paths of a few frames, one by one."""

import math
import subprocess
import sys
import tracemalloc
from functools import lru_cache
from itertools import groupby, pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import UserError
from speech_gru.decoding import (
    BeamSearch,
    GreedyDecoder,
    Hypothesis,
    KeywordSpotter,
    Occurrence,
    Token,
    acceptor_of_phrases,
    acceptor_of_words,
    align,
    ctc_log_likelihood,
    greedy,
    prefix_beam_search,
)
from speech_gru.decoding.beam import _Prefixes

WIDE = 10_000
"""A beam that holds all that can be said in a few frames."""

few = settings(max_examples=60, deadline=None)


@st.composite
def frames_of(draw, most_frames=5, tokens=(1, 2, 3, 4), whole=False):
    """Log-probabilities, -inf among them. `whole` numbers tie often, and their sums are exact."""
    shape = draw(st.integers(0, most_frames)), draw(st.sampled_from(tokens))
    number = st.integers(-4, 0).map(float) if whole else st.floats(-8, 0)
    values = st.lists(number | st.just(-math.inf), min_size=math.prod(shape), max_size=math.prod(shape))
    logits = np.array(draw(values)).reshape(shape)
    if whole:
        return logits
    norms = np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return logits - np.where(norms > -np.inf, norms, 0)


def sequence_of(token_count, most=3):
    return st.lists(st.integers(1, max(token_count - 1, 1)), max_size=most).map(tuple)


def collapse(path):
    return tuple(token for token, _ in groupby(path) if token)


@lru_cache(maxsize=200)
def all_paths(frames, tokens):
    """(paths, frames) and each path's label sequence."""
    paths = np.array(list(product(range(tokens), repeat=frames)), int).reshape(tokens**frames, frames)
    return paths, [collapse(path) for path in paths.tolist()]


def path_scores(log_probs):
    """Each path's log-probability, and its label sequence."""
    paths, labels = all_paths(*log_probs.shape)
    return log_probs[np.arange(len(log_probs)), paths].sum(axis=1), labels


def likelihoods(log_probs):
    """The exact log-probability of all label sequences that have any."""
    found = {}
    for score, labels in zip(*path_scores(log_probs), strict=True):
        if score > -np.inf:
            found[labels] = np.logaddexp(found.get(labels, -np.inf), score)
    return found


def score_of_spans(log_probs, tokens):
    """The log-probability of the path that says these tokens in their frames, and blanks elsewhere."""
    path = np.zeros(len(log_probs), int)
    for token in tokens:
        assert (path[token.start : token.end] == 0).all()
        path[token.start : token.end] = token.index
    assert collapse(path.tolist()) == tuple(token.index for token in tokens)
    return log_probs[np.arange(len(log_probs)), path].sum()


def assert_hypotheses(found, expected):
    """That these are all that can be said, with their exact scores, the best first."""
    scores = [hypothesis.score for hypothesis in found]
    assert scores == sorted(scores, reverse=True)
    assert {hypothesis.tokens: hypothesis.score for hypothesis in found} == pytest.approx(expected, abs=1e-9)
    assert len(found) == len(expected)


def cut(values, places):
    """Chunks, some of them empty."""
    return np.split(values, sorted(min(place, len(values)) for place in places))


cuts = st.lists(st.integers(0, 12), max_size=5)


class TestLikelihood:
    @few
    @given(frames_of(), st.data())
    def test_is_the_sum_over_all_alignments(self, log_probs, data):
        tokens = () if log_probs.shape[1] == 1 else data.draw(sequence_of(log_probs.shape[1], most=5))
        expected = likelihoods(log_probs).get(tokens, -np.inf)
        assert ctc_log_likelihood(log_probs, tokens) == pytest.approx(expected, abs=1e-9)

    @few
    @given(frames_of(), st.data())
    def test_the_alignment_is_the_best(self, log_probs, data):
        tokens = () if log_probs.shape[1] == 1 else data.draw(sequence_of(log_probs.shape[1]))
        scores, labels = path_scores(log_probs)
        best = max((score for score, said in zip(scores, labels, strict=True) if said == tokens), default=-np.inf)
        if best == -np.inf and tokens:
            with pytest.raises(UserError, match="frames in which"):
                align(log_probs, tokens)
            return
        found = align(log_probs, tokens)
        assert tuple(token.index for token in found) == tokens
        assert score_of_spans(log_probs, found) == pytest.approx(best, abs=1e-9)

    def test_equal_tokens_need_a_blank_between(self):
        frames = np.log(np.full((39, 2), 0.5))
        assert ctc_log_likelihood(frames, [1] * 20) == pytest.approx(39 * math.log(0.5))
        assert ctc_log_likelihood(frames[1:], [1] * 20) == -np.inf
        assert len(align(frames, [1] * 20)) == 20
        with pytest.raises(UserError, match="got 38"):
            align(frames[1:], [1] * 20)

    def test_many_tokens_are_aligned(self):
        """Of more states than the moves' int8 can count."""
        tokens = [1, 2] * 300
        frames = np.log(np.eye(3, dtype=np.float32)[tokens] * 0.7 + 0.1)
        found = align(frames, tokens)
        assert [token.index for token in found] == tokens
        assert [token.start for token in found] == list(range(600))

    def test_times_and_probability_of_an_alignment(self):
        frames = np.log([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.7, 0.2, 0.1], [0.1, 0.2, 0.7]])
        assert align(frames, [1, 2]) == [Token(1, 1, 3, pytest.approx(0.8)), Token(2, 4, 5, pytest.approx(0.7))]

    def test_without_frames(self):
        empty = np.empty((0, 3))
        assert (ctc_log_likelihood(empty, ()), ctc_log_likelihood(empty, [1])) == (0, -np.inf)
        assert align(empty, ()) == []

    @pytest.mark.parametrize("tokens", [[0], [-1], [3], [1.5], "ab", [1, 0, 2], 7])
    def test_tokens_that_are_none(self, tokens):
        for function in (ctc_log_likelihood, align):
            with pytest.raises(UserError, match="the label sequence: expected"):
                function(np.log(np.full((4, 3), 1 / 3)), tokens)


class TestGreedy:
    @few
    @given(frames_of())
    def test_is_the_best_path(self, log_probs):
        found = greedy(log_probs)
        assert score_of_spans(log_probs, found) == pytest.approx(path_scores(log_probs)[0].max(), abs=1e-9)
        for token in found:
            assert token.score == pytest.approx(np.exp(log_probs[token.start : token.end, token.index].max()))

    @few
    @given(frames_of(most_frames=12, whole=True), cuts)
    def test_however_the_frames_are_cut(self, log_probs, places):
        decoder = GreedyDecoder()
        for _ in range(2):  # finish() begins another stream
            found = [token for chunk in cut(log_probs, places) for token in decoder.feed(chunk)]
            assert found + decoder.finish() == greedy(log_probs)

    def test_equal_neighbours_are_one_token_and_a_blank_parts_them(self):
        path = [1, 1, 0, 1, 2, 2, 0]
        frames = np.where(np.eye(3)[path] == 1, np.log(0.8), np.log(0.1)).astype(np.float32)
        expected = [Token(1, 0, 2, pytest.approx(0.8)), Token(1, 3, 4, pytest.approx(0.8))]
        assert greedy(frames) == [*expected, Token(2, 4, 6, pytest.approx(0.8))]


class TestBeamSearch:
    @few
    @given(frames_of())
    def test_a_wide_beam_finds_all_with_their_exact_scores(self, log_probs):
        found = prefix_beam_search(log_probs, WIDE, token_threshold=-math.inf)
        assert_hypotheses(found, likelihoods(log_probs))

    @few
    @given(frames_of(most_frames=7, tokens=(2, 3)), st.integers(1, 4), st.sampled_from([-math.inf, -3.0]))
    def test_a_narrow_beam_has_each_sequence_once_and_at_most_its_exact_score(self, log_probs, width, threshold):
        found = prefix_beam_search(log_probs, width, token_threshold=threshold)
        exact = likelihoods(log_probs)
        assert len({hypothesis.tokens for hypothesis in found}) == len(found) <= width
        for hypothesis in found:
            assert hypothesis.score <= exact[hypothesis.tokens] + 1e-9
        if width == 1 and exact and threshold == -math.inf:
            assert found

    def test_a_beam_of_usual_width_is_almost_exact(self):
        rng = np.random.default_rng(0)
        for _ in range(20):
            logits = rng.normal(0, 2, (7, 4))
            log_probs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
            exact = likelihoods(log_probs)
            best = prefix_beam_search(log_probs)[0]
            assert best.tokens == max(exact, key=exact.get)
            assert best.score == pytest.approx(exact[best.tokens], abs=0.05)

    def test_finds_more_than_the_best_path(self):
        """The best path is all blanks, 0.36; yet the token, in three paths, has 0.64 together."""
        frames = np.log([[0.6, 0.4], [0.6, 0.4]])
        assert greedy(frames) == []
        assert prefix_beam_search(frames, count=1) == [Hypothesis((1,), pytest.approx(math.log(0.64)))]

    def test_a_token_below_the_threshold_is_not_said(self):
        frames = np.log([[0.5, 0.45, 0.05]])
        assert [found.tokens for found in prefix_beam_search(frames, token_threshold=math.log(0.1))] == [(), (1,)]
        assert len(prefix_beam_search(frames)) == 3

    def test_a_prefix_that_comes_back_is_merged_with_its_children(self):
        """Of (1) only its child is in the beam for a while; then (1) is said again, and grows once more."""
        for seed in range(200):
            log_probs = np.log(np.random.default_rng(seed).dirichlet([0.5] * 3, 12))
            search = BeamSearch(width=6)
            for row in log_probs:
                search.feed(row[np.newaxis])
                found = search.hypotheses()
                assert len({hypothesis.tokens for hypothesis in found}) == len(found)

    @few
    @given(frames_of(tokens=[3]), st.lists(sequence_of(3).filter(len), min_size=1, max_size=4))
    def test_held_to_phrases(self, log_probs, phrases):
        search = BeamSearch(acceptor_of_phrases(phrases), width=WIDE)
        search.feed(log_probs)
        exact = likelihoods(log_probs)
        assert_hypotheses(search.finish(), {phrase: exact[phrase] for phrase in set(phrases) & set(exact)})

    @few
    @given(frames_of(tokens=[4]), st.booleans())
    def test_held_to_words(self, log_probs, separated):
        words = [(1,), (2, 1), (2, 2)]
        acceptor = acceptor_of_words(words, 3 if separated else None)
        search = BeamSearch(acceptor, width=WIDE)
        search.feed(log_probs)
        exact = likelihoods(log_probs)
        assert_hypotheses(search.finish(), {tokens: exact[tokens] for tokens in exact if acceptor.accepts(tokens)})

    @few
    @given(frames_of(most_frames=12, tokens=[3]), st.integers(1, 3))
    def test_a_narrow_beam_says_nothing_else_either(self, log_probs, width):
        acceptor = acceptor_of_words([(1,), (2, 1)])
        search = BeamSearch(acceptor, width=width)
        search.feed(log_probs)
        assert all(acceptor.accepts(hypothesis.tokens) for hypothesis in search.hypotheses())

    def test_a_phrase_is_found_though_a_token_of_it_is_improbable(self):
        frames = np.log([[1e-9, 1e-9, 1.0], [1.0, 1e-9, 1e-9], [1e-9, 1e-9, 1.0]])
        search = BeamSearch(acceptor_of_phrases([(1, 2)]))
        search.feed(frames)
        (found,) = search.finish()
        assert found == Hypothesis((1, 2), pytest.approx(ctc_log_likelihood(frames, (1, 2))))

    @few
    @given(frames_of(most_frames=12, tokens=[3]), cuts, st.sampled_from([None, [(1,), (1, 1, 2)]]))
    def test_however_the_frames_are_cut(self, log_probs, places, phrases):
        search = BeamSearch(phrases and acceptor_of_phrases(phrases), width=4)
        search.feed(log_probs)
        expected = search.finish()
        for chunk in cut(log_probs, places):
            search.feed(chunk)
        assert search.hypotheses() == expected
        assert search.finish(2) == expected[:2]

    def test_nothing_can_be_said(self):
        frames = np.log(np.full((3, 2), 0.5))
        frames[1] = -np.inf
        assert prefix_beam_search(frames) == []
        assert prefix_beam_search(np.empty((0, 3))) == [Hypothesis((), 0)]
        search = BeamSearch(acceptor_of_phrases([(1, 2)]))
        assert search.finish() == []

    @pytest.mark.parametrize("arguments", [{"width": 0}, {"width": 2.5}, {"token_threshold": math.nan}, {"count": 0}])
    def test_settings_that_are_none(self, arguments):
        with pytest.raises(UserError, match=f"expected {next(iter(arguments))}"):
            prefix_beam_search(np.zeros((1, 1)), **arguments)

    def test_an_acceptor_of_another_table(self):
        search = BeamSearch(acceptor_of_phrases([(1, 7)]))
        with pytest.raises(UserError, match="below 3"):
            search.feed(np.log(np.full((1, 3), 1 / 3)))


def candidates(log_probs, phrase, first=0):
    """For each end the best (score per token, start, end) of the phrase's alignments that start from frame `first`."""
    ratios = log_probs - np.where(log_probs.max(axis=1) > -np.inf, log_probs.max(axis=1), 0)[:, np.newaxis]
    found = []
    for end in range(1, len(ratios) + 1):
        best = (-np.inf, 0, 0)
        for start in range(first, end):
            paths, _ = all_paths(end - start, log_probs.shape[1])
            scores, labels = path_scores(ratios[start:end])
            for path, score, said in zip(paths, scores, labels, strict=True):
                if path[0] and path[-1] and said == phrase and score / len(phrase) > best[0]:
                    best = (score / len(phrase), start, end)
        if best[0] > -np.inf:
            found.append(best)
    return found


def order(candidate):
    """The better, the less."""
    score, start, end = candidate
    return -score, start, -end


def overlap(one, other):
    return one[1] < other[2] and other[1] < one[2]


def spot(log_probs, phrases, **arguments):
    spotter = KeywordSpotter(phrases, **arguments)
    return spotter.feed(log_probs) + spotter.finish()


class TestKeywords:
    @few
    @given(frames_of(tokens=[3]), st.lists(sequence_of(3).filter(len), min_size=1, max_size=3))
    def test_the_best_is_the_best_of_all_alignments_of_all_windows(self, log_probs, phrases):
        phrases = {str(phrase): phrase for phrase in phrases}
        found = spot(log_probs, phrases, threshold=-math.inf, patience=None)
        for name, phrase in phrases.items():
            best = max((score for score, _, _ in candidates(log_probs, phrase)), default=None)
            scores = [occurrence.score for occurrence in found if occurrence.phrase == name]
            assert max(scores, default=None) == (best if best is None else pytest.approx(best, abs=1e-9))

    @few
    @given(frames_of(most_frames=6, tokens=[3], whole=True), sequence_of(3).filter(len), st.sampled_from([-9.0, -1]))
    def test_of_those_that_overlap_the_best_is_kept(self, log_probs, phrase, threshold):
        found = spot(log_probs, {"phrase": phrase}, threshold=threshold, patience=None)
        found = [(item.score, item.start, item.end) for item in found]
        for one in found:
            assert one[0] >= threshold
            assert one[0] == max(
                item[0] for item in candidates(log_probs[: one[2]], phrase, one[1]) if item[2] == one[2]
            )
            assert not any(overlap(one, other) for other in found if other != one)
        for candidate in candidates(log_probs, phrase):
            if candidate[0] >= threshold and candidate not in found:
                assert any(overlap(candidate, one) and order(one) < order(candidate) for one in found)

    @few
    @given(frames_of(most_frames=30, tokens=[3], whole=True), cuts, st.sampled_from([1, 3, None]), st.integers(3, 12))
    def test_however_the_frames_are_cut(self, log_probs, places, patience, longest):
        phrases = {"a": (1,), "aa": (1, 1), "bab": (2, 1, 2)}
        spotter = KeywordSpotter(phrases, threshold=-1.5, patience=patience, longest=longest)
        whole = spotter.feed(log_probs) + spotter.finish()
        parts = [found for chunk in cut(log_probs, places) for found in spotter.feed(chunk)]
        assert parts + spotter.finish() == whole
        for name in phrases:
            spans = sorted((found.start, found.end) for found in whole if found.phrase == name)
            assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert all(found.end - found.start <= longest and found.score >= -1.5 for found in whole)

    def test_times_of_what_is_said_twice(self):
        path = [0, 1, 1, 0, 2, 2, 0, 0, 1, 2, 0, 3]
        found = spot(peaks(path, 4), {"ab": (1, 2), "c": (3,), "bb": (2, 2)})
        assert found == [Occurrence("ab", 0, 1, 6), Occurrence("ab", 0, 8, 10), Occurrence("c", 0, 11, 12)]

    def test_is_told_as_soon_as_it_is_sure(self):
        spotter = KeywordSpotter({"ab": (1, 2)})
        told = [len(spotter.feed(row[np.newaxis])) for row in peaks([1, 0, 2, 2, 0, 0], 3)]
        assert told == [0, 0, 0, 0, 1, 0]

    def test_patience_ends_a_wait(self):
        """At the second token something else is better, a blank: it might be said later still."""
        log_probs = np.log([[0.01, 0.98, 0.01], [0.7, 0.01, 0.29], *[[0.98, 0.01, 0.01]] * 30])
        for patience, frames in ((5, 2 + 5), (20, 2 + 20)):
            spotter = KeywordSpotter({"ab": (1, 2)}, patience=patience)
            assert spotter.feed(log_probs[: frames - 1]) == []
            assert spotter.feed(log_probs[frames - 1 : frames]) == [
                Occurrence("ab", pytest.approx(math.log(0.29 / 0.7) / 2), 0, 2)
            ]
        spotter = KeywordSpotter({"ab": (1, 2)}, patience=None)
        assert (len(spotter.feed(log_probs)), len(spotter.finish())) == (0, 1)

    def test_patience_lasts_while_the_last_token_does(self):
        log_probs = peaks([1, *[2] * 40, 0], 3)
        assert spot(log_probs, {"ab": (1, 2)}, patience=5) == [Occurrence("ab", 0, 0, 41)]

    def test_a_path_that_begins_later_is_no_reason_to_wait(self):
        log_probs = np.log([[0.01, 0.97, 0.01, 0.01], [0.01, 0.01, 0.4, 0.58], [0.01, 0.97, 0.01, 0.01]])
        assert len(KeywordSpotter({"ab": (1, 2)}).feed(log_probs)) == 1

    def test_of_equally_good_ones_the_earliest_and_longest_is_kept(self):
        log_probs = np.array([[-2, -1, -2], [-1, 0, 0], [-2, -1, -2], [-2, -1, 0.0]])
        assert spot(log_probs, {"ab": (1, 2)}) == [Occurrence("ab", 0, 0, 4)]

    def test_a_better_one_leaves_what_it_does_not_overlap(self):
        log_probs = np.array([[0, -1, -1], [-2, -2, -2], [-2, -2, -2], [0, -1, 0.0]])
        assert spot(log_probs, {"a": (1,)}) == [Occurrence("a", 0, 1, 3), Occurrence("a", -1, 0, 1)]

    def test_what_was_told_hides_nothing_that_follows(self):
        """The first token in frame 0, waiting through blanks, would lead to the last frame's better than frame 3."""
        log_probs = np.array([[-9, 0, -9], [-0.4, -9, 0], [0, -9, -9], [0, -1, -9], [-0.5, -9, -0.3]])
        found = spot(log_probs, {"ab": (1, 2)})
        assert [(item.start, item.end) for item in found] == [(0, 2), (3, 5)]

    def test_a_long_pause_parts_what_is_no_phrase(self):
        log_probs = peaks([1, *[0] * 50, 2], 3)
        assert spot(log_probs, {"ab": (1, 2)}) == [Occurrence("ab", 0, 0, 52)]
        assert spot(log_probs, {"ab": (1, 2)}, longest=51) == []

    def test_scores_of_phrases_of_any_length_are_alike(self):
        """Each token a third as probable as the best: the same score for one token and for twenty."""
        said = np.array([1, 0, 2, 0] * 10)
        log_probs = np.log(np.where(np.eye(4)[said] == 1, 0.25, 0.0001))
        log_probs[:, 3] = np.log(0.74)
        log_probs[said == 0] = np.log([0.97, 0.01, 0.01, 0.01])
        phrases = {"one": (1,), "two": (1, 2), "twenty": (1, 2) * 10}
        found = spot(log_probs, phrases, threshold=-1.2)
        assert {occurrence.phrase for occurrence in found} == set(phrases)
        scores = [occurrence.score for occurrence in found]
        assert scores == pytest.approx([math.log(0.25 / 0.74)] * len(found))
        assert spot(log_probs, phrases, threshold=-1.0) == []

    def test_frames_that_rule_all_out(self):
        log_probs = peaks([1, 2, 1, 2], 3)
        log_probs[1] = -np.inf
        assert spot(log_probs, {"ab": (1, 2)}) == [Occurrence("ab", 0, 2, 4)]

    @pytest.mark.parametrize(
        ("phrases", "arguments", "message"),
        [
            ({}, {}, "one at least"),
            ([(1, 2)], {}, "by phrase"),
            ({"leer": ()}, {}, "at least one token"),
            ({"licht": (1, 0)}, {}, "phrase 'licht': expected token indices from 1"),
            ({"licht": "ab"}, {}, "phrase 'licht': expected a sequence"),
            ({"licht": (1,)}, {"threshold": 0.5}, "at most 0"),
            ({"licht": (1,)}, {"threshold": math.nan}, "at most 0"),
            ({"licht": (1,)}, {"patience": 0}, "patience from 1"),
            ({"licht": (1,)}, {"longest": 0}, "longest from 1"),
        ],
    )
    def test_arguments_that_are_none(self, phrases, arguments, message):
        with pytest.raises(UserError, match=message):
            KeywordSpotter(phrases, **arguments)

    def test_a_phrase_of_another_table(self):
        with pytest.raises(UserError, match="phrase 'licht': expected token indices below 3"):
            spot(peaks([0], 3), {"licht": (1, 3)})


def peaks(path, tokens):
    """Log-probabilities that leave little doubt about the path."""
    return np.log(np.where(np.eye(tokens)[path] == 1, 1 - 0.01 * (tokens - 1), 0.01))


DECODERS = {
    "greedy": GreedyDecoder,
    "beam": BeamSearch,
    "phrases": lambda: BeamSearch(acceptor_of_phrases([(1,)])),
    "keywords": lambda: KeywordSpotter({"a": (1,)}),
}


@pytest.mark.parametrize("make", DECODERS.values(), ids=DECODERS)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((2, 3), np.nan), "NaN"),
        (np.array([[-1, -np.inf, np.nan]], np.float32), "NaN"),
        (np.array([[-1, np.inf]]), "log-softmax"),
        (np.array([[0.2, 0.8]]), "log-softmax"),
        (np.zeros(3), r"\(3,\)"),
        (np.zeros((1, 2, 3)), "one clip at a time"),
        (np.zeros((2, 0)), "the blank at least"),
        (np.zeros((2, 3), int), "int64"),
        (np.zeros((2, 3), np.float16), "float16"),
    ],
)
def test_frames_that_are_none(make, values, message):
    with pytest.raises(UserError, match=message):
        make().feed(values)


@pytest.mark.parametrize("make", DECODERS.values(), ids=DECODERS)
def test_other_tokens_in_the_middle_of_a_stream(make):
    decoder = make()
    decoder.feed(np.zeros((0, 3)))
    with pytest.raises(UserError, match="expected 3 tokens a frame"):
        decoder.feed(np.zeros((1, 4)))
    decoder.finish()
    decoder.feed(np.zeros((1, 4)))


@pytest.mark.parametrize("frames", [0, 1, 5])
def test_blanks_alone(frames):
    """With no other token in the table, or with one that is never said."""
    for log_probs in (np.zeros((frames, 1), np.float32), np.tile(np.float32([0, -np.inf]), (frames, 1))):
        assert greedy(log_probs) == []
        assert prefix_beam_search(log_probs) == [Hypothesis((), 0)]
        assert ctc_log_likelihood(log_probs, ()) == 0
        assert align(log_probs, ()) == []
    assert spot(log_probs, {"a": (1,)}) == []


def test_a_long_utterance_is_kept_though_other_prefixes_are_forgotten():
    rng = np.random.default_rng(0)
    path = rng.integers(0, 5, 4000)
    assert prefix_beam_search(peaks(path, 5), 4)[0].tokens == collapse(path.tolist())


def test_prefixes_that_are_not_in_the_beam_are_forgotten():
    prefixes, node = _Prefixes(), _Prefixes.EMPTY
    for _ in range(3000):
        node = prefixes.grow([node] * 2, [1, 2])[0]
        parent = prefixes.grow([_Prefixes.EMPTY], [1])[0]
        assert prefixes.grow([parent], [2]) == prefixes.grow([parent], [2])
    prefixes.forget_others(np.array([node]))
    assert prefixes.tokens(node) == (1,) * 3000
    assert prefixes.grow([_Prefixes.EMPTY], [1]) == [parent]
    assert len(prefixes._above) == 3000


def test_a_search_in_noise_forgets_what_it_drops():
    search = BeamSearch(width=8)
    search.feed(np.log(np.random.default_rng(0).dirichlet([1] * 20, 1500)))
    assert len(search._prefixes._above) < 1000 + 3 * len(search.hypotheses()[0].tokens)


@pytest.mark.parametrize("make", DECODERS.values(), ids=DECODERS)
def test_memory_does_not_grow_with_time(make):
    """Of a beam search that is so while nothing is said for good: (1) and (2) are as probable as silence."""
    rng, decoder = np.random.default_rng(0), make()
    chunk = np.log(rng.dirichlet([50, 0.5, 0.5], 500))
    for _ in range(2):
        decoder.feed(chunk)
    tracemalloc.start()
    try:
        for _ in range(6):
            decoder.feed(chunk)
        assert tracemalloc.get_traced_memory()[0] < 400_000
    finally:
        tracemalloc.stop()


def test_imports_numpy_alone():
    code = """
import sys
before = set(sys.modules)
import speech_gru.decoding
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(loaded - set(sys.stdlib_module_names)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = [name for name in result.stdout.split() if "cython" not in name]  # of numpy.random
    assert loaded == ["data_pipeline", "numpy", "speech_gru"]
