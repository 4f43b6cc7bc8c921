"""benchmarks/keywords.py counts hits, misses and false alarms."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from speech_gru.phrase_recognizer import Found

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "keywords.py"


@pytest.fixture(scope="module")
def keywords():
    specification = importlib.util.spec_from_file_location("keywords", FILE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_curve(keywords):
    """Four are said in half an hour; two are found, and two times what nobody said."""
    thresholds, misses, rates = keywords.det_curve(np.array([-2, -0.5]), np.array([-1.0, -3]), 4, 0.5)
    assert thresholds.tolist() == [np.inf, -0.5, -1, -2, -3]
    assert misses.tolist() == [1, 0.75, 0.75, 0.5, 0.5]
    assert rates.tolist() == [0, 0, 2, 2, 4]


def test_a_hit_and_a_false_alarm_of_one_score(keywords):
    """No threshold tells them apart."""
    thresholds, misses, rates = keywords.det_curve(np.array([-1.0]), np.array([-1.0]), 1, 1)
    assert (thresholds.tolist(), misses.tolist(), rates.tolist()) == ([np.inf, -1], [1, 0], [0, 1])


def test_nothing_is_found(keywords):
    thresholds, misses, rates = keywords.det_curve(np.array([]), np.array([]), 3, 2)
    assert (thresholds.tolist(), misses.tolist(), rates.tolist()) == ([np.inf], [1], [0])


@dataclass
class Clips:
    """Of half an hour, at two samples a second."""

    texts: tuple[str, ...]

    @property
    def rows(self):
        return [SimpleNamespace(text=text) for text in self.texts]

    def read(self, number: int) -> np.ndarray:
        return np.full(3600, number, np.int16)


class Recognizer:
    """Finds the same in each clip."""

    sample_rate = 2

    def find(self, audio, phrases, threshold):
        assert phrases == ["one", "two"]
        assert threshold == -20
        return [Found("one", -3.0, 0, 1), Found("one", -1.0, 2, 3), Found("two", -2.0, 4, 5)]


def test_the_best_ones_are_hits(keywords):
    """As many as are said; the others are false alarms, and what is said more often than it is found is missed."""
    hits, alarms, said, hours = keywords.search_all(
        Recognizer(), Clips(("one and two", "two two", "someone")), ["one", "two"]
    )
    assert (hits.tolist(), sorted(alarms.tolist())) == ([-1, -2, -2], [-3, -3, -3, -2, -1, -1])
    assert (said, hours) == (4, 1.5)


def test_the_curve_is_drawn(keywords, tmp_path):
    keywords.draw(np.array([1, 0.5, 0.1]), np.array([0, 1, 20]), tmp_path / "det.png")
    assert (tmp_path / "det.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["det.png"]
