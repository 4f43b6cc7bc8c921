"""Many trainings of one experiment, each with some settings of its own: a grid of values, or values drawn at random."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats
from sklearn.model_selection import ParameterGrid, ParameterSampler

from data_pipeline.errors import UserError
from data_pipeline.files import written_aside
from speech_gru.config import Config, SweepRange, differences, load_config


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
    trials = []
    for number, settings in enumerate(_draw(config), 1):
        trial = Trial(out / f"trial-{number:03d}", settings, config)
        trials.append(Trial(trial.folder, settings, load_config(path, [*overrides, *trial.overrides])))
    return trials


def _draw(config: Config) -> list[dict[str, Any]]:
    sweep = config.sweep
    if sweep.trials is None:
        return list(ParameterGrid(sweep.settings))
    spaces = {key: _distribution(values) for key, values in sweep.settings.items()}
    trials = sweep.trials
    if all(isinstance(space, list) for space in spaces.values()):
        trials = min(trials, len(ParameterGrid(spaces)))  # they are drawn without repetition
    drawn = ParameterSampler(spaces, trials, random_state=config.seed)
    return [{key: _plain(value) for key, value in settings.items()} for settings in drawn]


def _distribution(values: list[Any] | SweepRange):
    if isinstance(values, list):
        return values
    if values.integer:
        return stats.randint(round(values.low), round(values.high) + 1)
    if values.log:
        return stats.loguniform(values.low, values.high)
    return stats.uniform(values.low, values.high - values.low)


def _plain(value: Any) -> Any:
    """A NumPy number as Python's, with four digits: a person will type it again."""
    value = value.item() if hasattr(value, "item") else value
    return float(f"{value:.4g}") if isinstance(value, float) else value


def run_trial(trial: Trial, path: str, overrides: Iterable[str]) -> int:
    """Trains in a process of its own, which goes on where an earlier one stopped; returns its exit code."""
    settings = [part for setting in (*overrides, *trial.overrides) for part in ("--set", setting)]
    command = [sys.executable, "-m", "speech_gru", "train", path, "--out", str(trial.folder), *settings]
    try:
        trial.folder.mkdir(parents=True, exist_ok=True)
        with (trial.folder / "log.txt").open("a", encoding="utf-8") as log:
            return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
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
        KeyboardInterrupt: a trial was interrupted; the same sweep goes on with it.
    """
    failed = []
    for done, trial in enumerate(trials):
        progress(done, len(trials))
        if trial.accuracy is None:
            code = run_trial(trial, path, overrides)
            if code in (130, 143):
                raise KeyboardInterrupt
            failed += [trial] if code else []
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
