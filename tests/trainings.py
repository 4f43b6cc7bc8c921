"""What tests that train share: other settings, a run without words, ends on demand, the weights that come out."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np

from speech_gru.config import Config
from speech_gru.loop import Monitor
from speech_gru.run import load_run
from speech_gru.training import plan_training, train


def changed(config: Config, section: str, **values) -> Config:
    """The experiment with other values in a section."""
    part = getattr(config, section)
    return config.model_copy(update={section: type(part).model_validate(part.model_dump() | values)})


def run(config: Config, folder: Path, *monitors: Monitor, said: list[str] | None = None):
    """Trains with all that there is; `said` gets what a person is told."""
    report = [].append if said is None else said.append
    return train(config, plan_training(config), folder, monitors=monitors, report=report)


def trained_weights(folder: Path) -> list[np.ndarray]:
    """Of a finished run's encoder and head."""
    return load_run(folder).recognizer.get_layer("encoder_and_head").get_weights()


def assert_same_weights(folder: Path, other: Path) -> None:
    """All bits."""
    for one, two in zip(trained_weights(folder), trained_weights(other), strict=True):
        assert one.tobytes() == two.tobytes()


class At(Monitor):
    """Calls a function with the step once step `at` is told of."""

    def __init__(self, at: int, action: Callable[[int], None]):
        self.at, self.action = at, action

    def step(self, step, told):
        if step == self.at:
            self.action(step)


class KilledError(Exception):
    """Stands for the end of a process: nobody handles it."""


def kill(step: int) -> None:
    raise KilledError


def terminate(step: int) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt(step: int) -> None:
    os.kill(os.getpid(), signal.SIGINT)
