"""Sweeps: which trials there are, what is left to do, and what becomes of those that fail."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

import speech_gru.sweep as sweep
from data_pipeline.errors import Interrupted, UserError
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
        assert len({trial.folder for trial in trials}) == 4

    def test_a_sweep_that_gets_more_trials_keeps_those_it_has(self, write_yaml):
        few = {trial.folder for trial in list_trials(write_yaml(settings={"model.units": [4, 8]}), [])}
        more = {trial.folder for trial in list_trials(write_yaml(settings={"model.units": [4, 6, 8]}), [])}
        assert few < more

    def test_values_from_a_list_stay_as_they_are(self, write_yaml):
        path = write_yaml(trials=1, settings={"training.learning_rate": [0.0123456789]})
        assert list_trials(path, [])[0].config.training.learning_rate == 0.0123456789

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


class Process:
    """In place of a training's: finishes with an accuracy that the units decide, fails, or is stopped."""

    started = ()

    def __init__(self, command, **_):
        folder = command[command.index("--out") + 1]
        chosen = dict(one.split("=", 1) for one in command if "=" in one)
        self.units, self.told = int(chosen["model.units"]), []
        Process.started += (self.units,)
        if self.units in (5, 6):
            return
        config = sweep.load_config(command[command.index("train") + 1], [f"model.units={self.units}"])
        Path(folder, "config.yaml").write_text(dump_config(config), encoding="utf-8")
        metrics = {"validation": {"accuracy": self.units / 100}}
        Path(folder, "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")

    def poll(self) -> int | None:
        if self.units == 6:
            os.kill(os.getpid(), signal.SIGTERM)
            return None
        return int(self.units == 5)

    def send_signal(self, number: int) -> None:
        self.told.append(number)

    def wait(self) -> None:
        assert self.told == [signal.SIGTERM]  # the trial saves its state before anybody ends


@pytest.fixture
def processes(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(Process, "started", ())
    return Process


class TestRunning:
    def test_the_best_comes_first_and_a_failure_stops_nobody(self, write_yaml, tmp_path, processes):
        path = write_yaml(settings={"model.units": [4, 5, 8, 7]})
        trials = list_trials(path, [], tmp_path / "out")
        failed = run_sweep(trials, path, [])
        assert [trial.config.model.units for trial in failed] == [5]
        assert [trial.config.model.units for trial in rank(trials)] == [8, 7, 4]
        lines = [line.split(",") for line in (tmp_path / "out" / "sweep.csv").read_text().splitlines()]
        assert lines[0] == ["trial", "validation_accuracy", "model.units"]
        assert [line[1:] for line in lines[1:]] == [["0.08", "8"], ["0.07", "7"], ["0.04", "4"]]
        assert all((tmp_path / "out" / line[0] / "metrics.json").is_file() for line in lines[1:])

    def test_stopped_and_started_again_it_does_what_is_left(self, write_yaml, tmp_path, processes):
        path = write_yaml(settings={"model.units": [4, 6, 8]})
        trials = list_trials(path, [], tmp_path / "out")
        for _ in range(2):  # the second trial is stopped, as often as it is tried
            with pytest.raises(Interrupted, match="the same sweep goes on from there") as caught:
                run_sweep(trials, path, [])
            assert caught.value.signal == signal.SIGTERM
        assert processes.started == (4, 6, 6)

    def test_a_trial_with_other_settings_is_not_finished(self, write_yaml, tmp_path, processes):
        path = write_yaml(settings={"model.units": [4]})
        run_sweep(list_trials(path, [], tmp_path / "out"), path, [])
        (other,) = list_trials(path, ["training.epochs=9"], tmp_path / "out")
        assert other.accuracy is None
        (same,) = list_trials(path, [], tmp_path / "out")
        assert same.accuracy == 0.04
