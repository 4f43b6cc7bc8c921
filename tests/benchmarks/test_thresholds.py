"""Each word's own threshold, on probabilities of which the best choice is plain."""

import numpy as np
import pytest

from benchmarks.thresholds import OWN_THRESHOLDS, own_thresholds

LABELS = ("a", "b", "_unknown_")


def rows(label: int, probabilities: list[float]) -> np.ndarray:
    """(clips, 3): `label` with each of the probabilities."""
    found = np.array([[0.0, 0.0, 1 - probability] for probability in probabilities])
    found[:, label] = probabilities
    return found


@pytest.fixture
def heard():
    """100 clips of each word: of "a" half at 0.72 and half at 0.99, of "b" all at 0.99; and what they are."""
    right = np.concatenate([rows(0, [0.72] * 50 + [0.99] * 50), rows(1, [0.99] * 100)])
    return right, np.repeat([0, 1], 100)


def test_a_word_that_other_speech_is_taken_for_gets_the_higher_threshold(heard):
    other = np.concatenate([rows(1, [0.9] * 20), rows(2, [0.9] * 80)])
    own = own_thresholds(other, *heard, LABELS, 0.03)
    assert own["a"] <= 0.7
    assert own["b"] > 0.9


def test_of_two_words_the_one_that_loses_nothing_pays(heard):
    other = np.concatenate([rows(0, [0.8] * 5), rows(1, [0.8] * 5), rows(2, [0.9] * 90)])
    own = own_thresholds(other, *heard, LABELS, 0.06)
    assert own["a"] <= 0.7
    assert own["b"] > 0.8
    assert own_thresholds(other, *heard, LABELS, 0.01)["a"] > 0.8


def test_words_without_false_commands_have_the_lowest(heard):
    assert own_thresholds(rows(2, [0.9] * 10), *heard, LABELS, 0) == dict.fromkeys("ab", OWN_THRESHOLDS[0])


def test_a_word_without_clips(heard):
    own = own_thresholds(rows(1, [0.9] * 10), rows(0, [0.99]), np.array([0]), LABELS, 0)
    assert own["b"] > 0.9


def test_more_is_asked_than_thresholds_can_do(heard):
    own = own_thresholds(rows(0, [0.999] * 10), *heard, LABELS, 0)
    assert own.keys() == {"a", "b"}
