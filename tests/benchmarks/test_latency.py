"""benchmarks/latency.py says which bars are met. What it measures is its own; here the figures are made up."""

import importlib.util
import json
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "latency.py"


@pytest.fixture(scope="module")
def latency():
    specification = importlib.util.spec_from_file_location("latency", FILE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def measured(latency, monkeypatch):
    """A function (how many times as fast as stock, µs of a stream, *arguments) -> main's exit code."""

    def run(speed: float, micros: float, *arguments: str) -> int:
        def clip(units, frames, bar, rounds):
            bars = [latency.Bar("stock / float32", speed, bar, at_least=True)]
            return {"model": f"BiGRU-{units}", "ms, float32": 0.5, "bars": bars}

        stream = {"model": "a stream", "bars": [latency.Bar("µs, float32", micros, 150)]}
        monkeypatch.setattr(latency, "measure_clip", clip)
        monkeypatch.setattr(latency, "measure_stream", lambda rounds: stream)
        monkeypatch.setattr("sys.argv", ["latency.py", *arguments])
        return latency.main()

    return run


def test_all_bars_are_met(measured, capsys):
    assert measured(25, 150) == 0
    out = capsys.readouterr().out
    assert "MISSED" not in out
    assert "  ms, float32                      0.5\n" in out
    assert "  stock / float32                  25      met: at least 15\n" in out
    assert out.endswith("3 of 3 bars are met\n")


@pytest.mark.parametrize(
    ("speed", "micros", "missed"),
    [
        (24.9, 24, ["stock / float32                  24.9    MISSED: at least 25"]),
        (25, 151, ["µs, float32                      151     MISSED: at most 150"]),
        (float("nan"), 24, ["stock / float32                  nan     MISSED: at least 25"]),
    ],
)
def test_a_bar_that_is_missed(measured, speed, micros, missed, capsys):
    assert measured(speed, micros) == 1
    out = capsys.readouterr().out
    assert [line.strip() for line in out.splitlines() if "MISSED" in line][: len(missed)] == missed
    assert "3 of 3" not in out


def test_json(measured, capsys):
    assert measured(20, 24, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [bar["met"] for item in found for bar in item["bars"]] == [False, True, True]
    assert found[0]["bars"] == [{"figure": "stock / float32", "value": 20, "limit": 25, "at_least": True, "met": False}]
