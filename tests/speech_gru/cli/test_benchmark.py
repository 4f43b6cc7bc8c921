"""`speech-gru benchmark train` as a command."""

import json

import pytest

from speech_gru import benchmark


def test_it_tells_what_holds_a_step_up(speech_gru, tiny_yaml):
    outcome = speech_gru("benchmark", "train", tiny_yaml, "--steps", 3, "--json")
    assert outcome.code == 0
    figures = json.loads(outcome.out)
    slower = max(figures["model_ms"], figures["pipeline_ms"])
    assert slower > 0
    assert figures["ratio"] == pytest.approx(figures["together_ms"] / slower)
    assert figures["clips_per_second"] == pytest.approx(8e3 / figures["together_ms"])
    assert 0 <= figures["data_wait_share"] <= 1
    assert figures["precision"] == "float32"


def test_the_time_for_a_batch_to_come_and_to_be_used(monkeypatch):
    """On a clock that goes on by 3 s a batch and 2 s a step; the first steps take much longer, and don't count."""
    clock, steps = [0.0], []
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: clock[0])

    def batches():
        while True:
            clock[0] += 3
            yield len(steps)

    def use(number):
        steps.append(number)
        clock[0] += 2 if number >= benchmark.WARM_UP_STEPS else 100

    assert benchmark._waiting_and_using(batches(), use, 4) == (3, 2)
    assert steps == list(range(benchmark.WARM_UP_STEPS + 4))


def test_as_a_table(speech_gru, tiny_yaml):
    outcome = speech_gru("benchmark", "train", tiny_yaml, "--steps", 1)
    assert outcome.code == 0
    for shown in ("model", "pipeline", "together", "a step of 8 clips", "the slower of the two", "waits for data"):
        assert shown in outcome.out
