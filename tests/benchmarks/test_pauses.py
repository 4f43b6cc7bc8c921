"""benchmarks/pauses.py puts a pause of its own background behind a phrase."""

import runpy
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "pauses.py"


@pytest.mark.parametrize(
    ("samples", "pause"),
    [(0, []), (2, [9, 8]), (5, [9, 8, 8, 9, 9])],
)
def test_its_end_is_repeated_backwards_and_forwards(samples, pause):
    with_pause = runpy.run_path(str(FILE))["with_pause"]
    phrase = np.array([1, 2, 8, 9], np.int16)
    found = with_pause(phrase, samples, 2)
    assert found.dtype == np.int16
    assert found.tolist() == [1, 2, 8, 9, *pause]
