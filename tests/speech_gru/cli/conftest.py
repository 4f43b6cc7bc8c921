"""The command line as a user meets it."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import soundfile


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def speech_gru(monkeypatch, capsys) -> Callable[..., Outcome]:
    """Runs `speech-gru ARGUMENTS` in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Outcome:
        from speech_gru.cli import main

        monkeypatch.setattr(sys, "argv", ["speech-gru", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main()
        return Outcome(exit.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def tiny_yaml(tiny_config, tmp_path):
    """The tiny experiment as a file."""
    from speech_gru.config import dump_config

    path = tmp_path / "tiny.yaml"
    path.write_text(dump_config(tiny_config), encoding="utf-8")
    return path


@pytest.fixture
def write_tone(tmp_path):
    """Writes an audio file below tmp_path: the tiny corpus's word `mittel` unless another frequency is given."""

    def write(name: str, hertz: float = 700, rate: int = 8000, channels: int = 1, **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tone = 0.5 * np.sin(2 * np.pi * hertz * np.arange(rate // 2) / rate)
        soundfile.write(path, np.stack([tone] * channels, axis=1), rate, **options)
        return path

    return write
