"""Many trainings of one experiment, each with some settings of its own: a grid of values, or values drawn at random."""

import csv
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scipy import stats
from sklearn.model_selection import ParameterGrid, ParameterSampler

from data_pipeline.errors import Interrupted, UserError
from data_pipeline.files import written_aside
from speech_gru.config import Config, SweepRange, differences, load_config
from speech_gru.signals import listening


@dataclass(frozen=True)
class Trial:
    """One training of a sweep."""

    folder: Path
    """Its run directory; log.txt beside the run's own files holds what it printed."""
    settings: dict[str, Any]
    """Key such as model.units -> value."""
    config: Config

    @property
    def overrides(self) -> list[str]:
        """The settings as `--set` takes them."""
        return [f"{key}={json.dumps(value)}" for key, value in self.settings.items()]

    @property
    def accuracy(self) -> float | None:
        """On the validation clips; None until the trial is finished, with these very settings."""
        metrics = self.folder / "metrics.json"
        if not metrics.is_file() or differences(load_config(self.folder / "config.yaml"), self.config):
            return None
        return json.loads(metrics.read_text(encoding="utf-8"))["validation"]["accuracy"]


def list_trials(path: str, overrides: Iterable[str], out: Path | None = None) -> list[Trial]:
    """The trials of an experiment's `sweep` section, always the same ones: those drawn at random hang on the seed.

    Args:
        path, overrides: see load_config.
        out: where the trials' folders go; None: runs/NAME-sweep.

    Raises:
        UserError: the experiment has no such section, or a trial's settings aren't valid.
    """
    overrides = list(overrides)
    config = load_config(path, overrides)
    if config.sweep is None:
        raise UserError(f"{path} has no sweep section; expected, say, sweep: {{settings: {{model.units: [64, 128]}}}}")
    out = out or Path("runs") / f"{config.name}-sweep"
    trials = (Trial(out / _folder_name(settings), settings, config) for settings in _draw(config))
    return [replace(trial, config=load_config(path, [*overrides, *trial.overrides])) for trial in trials]


def _folder_name(settings: dict[str, Any]) -> str:
    """Hangs on the settings alone: a sweep that gets more trials keeps those that it has."""
    return f"trial-{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]}"


def _draw(config: Config) -> list[dict[str, Any]]:
    sweep = config.sweep
    if sweep.trials is None:
        return list(ParameterGrid(sweep.settings))
    spaces = {key: _distribution(values) for key, values in sweep.settings.items()}
    trials = sweep.trials
    if all(isinstance(space, list) for space in spaces.values()):
        trials = min(trials, len(ParameterGrid(spaces)))  # they are drawn without repetition
    drawn = ParameterSampler(spaces, trials, random_state=config.seed)
    return [{key: _plain(value, sweep.settings[key]) for key, value in settings.items()} for settings in drawn]


def _distribution(values: list[Any] | SweepRange):
    if isinstance(values, list):
        return values
    if values.integer:
        return stats.randint(round(values.low), round(values.high) + 1)
    if values.log:
        return stats.loguniform(values.low, values.high)
    return stats.uniform(values.low, values.high - values.low)


def _plain(value: Any, source: list[Any] | SweepRange) -> Any:
    """What was drawn from a range as Python's number, with four digits: a person will type it again."""
    if isinstance(source, list):
        return value
    return int(value) if source.integer else float(f"{value:.4g}")


def run_trial(trial: Trial, path: str, overrides: Iterable[str]) -> int:
    """Trains in a process of its own, which goes on where an earlier one stopped; returns its exit code.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the trial's state is saved.
    """
    settings = [part for setting in (*overrides, *trial.overrides) for part in ("--set", setting)]
    command = [sys.executable, "-m", "speech_gru", "train", path, "--out", str(trial.folder), *settings]
    try:
        trial.folder.mkdir(parents=True, exist_ok=True)
        with (trial.folder / "log.txt").open("a", encoding="utf-8") as log, listening() as stop:
            # In a session of its own: a terminal's Ctrl-C would reach it too, and a second one means "at once".
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
            while (code := process.poll()) is None:
                if stop.number is not None:
                    process.send_signal(stop.number)
                    process.wait()
                    raise Interrupted(stop.number, f"stopped in {trial.folder}; the same sweep goes on from there")
                time.sleep(0.1)
            return code
    except OSError as error:
        raise UserError(f"{trial.folder} can't be written: {error.strerror or error}") from error


def run_sweep(
    trials: list[Trial],
    path: str,
    overrides: Iterable[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Trial]:
    """Runs the trials that aren't finished; returns those that failed. One that fails doesn't stop the others.

    Raises:
        Interrupted: see run_trial.
    """
    failed = []
    for done, trial in enumerate(trials):
        progress(done, len(trials))
        if trial.accuracy is None:
            failed += [trial] if run_trial(trial, path, overrides) else []
        write_results(trials)
    return failed


def write_results(trials: list[Trial]) -> Path:
    """Writes sweep.csv beside the trials' folders: the finished ones, the best first, with their settings."""
    path = trials[0].folder.parent / "sweep.csv"
    keys = list(trials[0].settings)
    with written_aside(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("trial", "validation_accuracy", *keys))
        for trial in rank(trials):
            writer.writerow((trial.folder.name, trial.accuracy, *(json.dumps(trial.settings[key]) for key in keys)))
    return path


def rank(trials: list[Trial]) -> list[Trial]:
    """The finished trials, the most accurate on the validation clips first."""
    return sorted((trial for trial in trials if trial.accuracy is not None), key=lambda trial: -trial.accuracy)
