"""benchmarks/pauses.py puts a pause of its own background behind a phrase."""

import runpy
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "pauses.py"


@pytest.mark.parametrize(
    ("samples", "pause"),
    [(0, []), (2, [8, 9]), (5, [8, 9, 9, 8, 8])],
)
def test_its_quietest_moment_is_repeated_forwards_and_backwards(samples, pause):
    with_pause = runpy.run_path(str(FILE))["with_pause"]
    phrase = np.array([1, 5, 8, 9, -7, 7, 0], np.int16)
    found = with_pause(phrase, samples, 2)
    assert found.dtype == np.int16
    assert found.tolist() == [1, 5, 8, 9, -7, 7, 0, *pause]
