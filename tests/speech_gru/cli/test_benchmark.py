"""`speech-gru benchmark train` as a command."""

import json

import pytest


def test_it_tells_what_holds_a_step_up(speech_gru, tiny_yaml):
    outcome = speech_gru("benchmark", "train", tiny_yaml, "--steps", 3, "--json")
    assert outcome.code == 0
    figures = json.loads(outcome.out)
    slower = max(figures["model_ms"], figures["pipeline_ms"])
    assert slower > 0
    assert figures["ratio"] == pytest.approx(figures["together_ms"] / slower)
    assert figures["clips_per_second"] == pytest.approx(8e3 / figures["together_ms"])
    assert figures["precision"] == "float32"


def test_as_a_table(speech_gru, tiny_yaml):
    outcome = speech_gru("benchmark", "train", tiny_yaml, "--steps", 1)
    assert outcome.code == 0
    for shown in ("model", "pipeline", "together", "a step of 8 clips", "times the slower of the two"):
        assert shown in outcome.out
