"""Sweeps: which trials there are, what is left to do, and what becomes of those that fail."""

import json
import subprocess

import pytest

import speech_gru.sweep as sweep
from data_pipeline.errors import UserError
from speech_gru.config import dump_config
from speech_gru.sweep import list_trials, rank, run_sweep


@pytest.fixture
def write_yaml(tiny_config, tmp_path):
    """Writes the tiny experiment with a sweep section; gives the file's path."""

    def write(**section) -> str:
        config = type(tiny_config).model_validate(tiny_config.model_dump() | {"sweep": section})
        path = tmp_path / "tiny.yaml"
        path.write_text(dump_config(config), encoding="utf-8")
        return str(path)

    return write


def settings(trials) -> list[dict]:
    return [trial.settings for trial in trials]


class TestTrials:
    def test_a_grid_is_every_combination(self, write_yaml, tmp_path):
        path = write_yaml(settings={"model.units": [4, 8], "model.pooling": ["mean", "last"]})
        trials = list_trials(path, [], tmp_path / "out")
        found = {(trial.config.model.units, trial.config.model.pooling) for trial in trials}
        assert found == {(4, "mean"), (4, "last"), (8, "mean"), (8, "last")}
        assert [trial.folder.name for trial in trials] == ["trial-001", "trial-002", "trial-003", "trial-004"]

    def test_random_trials_lie_in_their_ranges(self, write_yaml):
        path = write_yaml(
            trials=40,
            settings={
                "training.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
                "model.dropout": {"low": 0.1, "high": 0.5},
                "model.units": {"low": 3, "high": 5, "integer": True},
                "model.pooling": ["mean", "last"],
            },
        )
        trials = list_trials(path, [])
        configs = [trial.config for trial in trials]
        rates = [config.training.learning_rate for config in configs]
        assert all(1e-4 <= rate <= 1e-1 for rate in rates)
        assert 8 <= sum(rate < 10**-2.5 for rate in rates) <= 32  # half are expected below the logarithm's middle
        assert all(0.1 <= config.model.dropout <= 0.5 for config in configs)
        assert {config.model.units for config in configs} == {3, 4, 5}
        assert {config.model.pooling for config in configs} == {"mean", "last"}

    def test_they_are_a_function_of_the_seed_and_more_of_them_begin_with_the_same(self, write_yaml):
        drawn = {"training.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}
        few = settings(list_trials(write_yaml(trials=3, settings=drawn), []))
        many_yaml = write_yaml(trials=6, settings=drawn)
        assert settings(list_trials(many_yaml, []))[:3] == few
        assert settings(list_trials(many_yaml, ["seed=5"]))[:3] != few

    def test_more_trials_than_combinations(self, write_yaml):
        trials = list_trials(write_yaml(trials=9, settings={"model.units": [4, 8, 12]}), [])
        assert sorted(trial.config.model.units for trial in trials) == [4, 8, 12]

    def test_a_setting_that_is_none_fails_before_anything_runs(self, write_yaml):
        with pytest.raises(UserError, match=r"--set model\.unit=4: model\.unit: no such setting"):
            list_trials(write_yaml(settings={"model.unit": [4]}), [])

    def test_no_section(self, tiny_config, tmp_path):
        path = tmp_path / "tiny.yaml"
        path.write_text(dump_config(tiny_config), encoding="utf-8")
        with pytest.raises(UserError, match=r"has no sweep section; expected, say, sweep:"):
            list_trials(str(path), [])


class Finished:
    """In place of a training's process: finishes with an accuracy that the units decide, or fails."""

    def __init__(self):
        self.started = []

    def __call__(self, command, **_):
        folder = command[command.index("--out") + 1]
        self.started.append(folder.rpartition("/")[2])
        chosen = dict(one.split("=", 1) for one in command if "=" in one)
        units = int(chosen["model.units"])
        if units == 5:
            return subprocess.CompletedProcess(command, 1)
        if units == 6:
            return subprocess.CompletedProcess(command, 130)
        config = sweep.load_config(command[command.index("train") + 1], [f"model.units={units}"])
        with open(f"{folder}/config.yaml", "w", encoding="utf-8") as file:
            file.write(dump_config(config))
        with open(f"{folder}/metrics.json", "w", encoding="utf-8") as file:
            json.dump({"validation": {"accuracy": units / 100}}, file)
        return subprocess.CompletedProcess(command, 0)


@pytest.fixture
def processes(monkeypatch):
    finished = Finished()
    monkeypatch.setattr(subprocess, "run", finished)
    return finished


class TestRunning:
    def test_the_best_comes_first_and_a_failure_stops_nobody(self, write_yaml, tmp_path, processes):
        path = write_yaml(settings={"model.units": [4, 5, 8, 7]})
        trials = list_trials(path, [], tmp_path / "out")
        failed = run_sweep(trials, path, [])
        assert [trial.config.model.units for trial in failed] == [5]
        assert [trial.config.model.units for trial in rank(trials)] == [8, 7, 4]
        lines = (tmp_path / "out" / "sweep.csv").read_text().splitlines()
        assert lines == [
            "trial,validation_accuracy,model.units",
            *("trial-003,0.08,8", "trial-004,0.07,7", "trial-001,0.04,4"),
        ]

    def test_started_again_it_does_what_is_left(self, write_yaml, tmp_path, processes):
        path = write_yaml(settings={"model.units": [4, 6, 8]})
        trials = list_trials(path, [], tmp_path / "out")
        for _ in range(2):  # the second trial is interrupted, as often as it is tried
            with pytest.raises(KeyboardInterrupt):
                run_sweep(trials, path, [])
        assert processes.started == ["trial-001", "trial-002", "trial-002"]

    def test_a_trial_with_other_settings_is_not_finished(self, write_yaml, tmp_path, processes):
        path = write_yaml(settings={"model.units": [4]})
        run_sweep(list_trials(path, [], tmp_path / "out"), path, [])
        (other,) = list_trials(path, ["training.epochs=9"], tmp_path / "out")
        assert other.accuracy is None
        (same,) = list_trials(path, [], tmp_path / "out")
        assert same.accuracy == 0.04
