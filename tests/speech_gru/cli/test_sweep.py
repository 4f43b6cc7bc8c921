"""`speech-gru sweep` as a command, with real trainings."""

import json

import pytest

from speech_gru.config import dump_config


@pytest.fixture
def sweep_yaml(tiny_config, tmp_path):
    settings = tiny_config.model_dump()
    settings["model"] |= {"layers": 1, "units": 4, "bidirectional": False}
    settings["training"] |= {"epochs": 1, "warmup_epochs": 0}
    settings["sweep"] = {"settings": {"training.learning_rate": [0.001, 1e38]}}
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_config(type(tiny_config).model_validate(settings)), encoding="utf-8")
    return path


def test_one_trial_is_ranked_and_one_diverges(speech_gru, sweep_yaml, tmp_path):
    outcome = speech_gru("sweep", sweep_yaml, "--out", tmp_path / "out")
    assert outcome.code == 1
    (failure,) = (line for line in outcome.out.splitlines() if " failed; " in line)
    log = tmp_path / "out" / failure.split()[0] / "log.txt"
    assert failure == f"{log.parent.name} failed; {log} says why"
    assert "diverged" in log.read_text()
    assert outcome.out.splitlines()[-1] == f"{tmp_path / 'out'}: 1 of 2 trials finished; sweep.csv"
    again = speech_gru("sweep", sweep_yaml, "--out", tmp_path / "out", "--json")
    (trial,) = json.loads(again.out)
    assert trial["training.learning_rate"] == 0.001
    assert 0 <= trial["accuracy"] <= 1


def test_without_a_section(speech_gru, tiny_yaml):
    outcome = speech_gru("sweep", tiny_yaml)
    assert outcome.code == 2
    assert "has no sweep section" in outcome.err
