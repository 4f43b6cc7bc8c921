"""Tables as a person and as a program get them."""

import re
import subprocess
import sys

import pytest

from speech_gru.cli import console

NAMES = [f"validation: clips / speakers / s {number}" for number in range(4)]
PROGRAM = f"""
from speech_gru.cli.console import new_table, print_table
table = new_table("label", *{NAMES})
table.add_row("höher [0]", *["{"9" * 30}"] * 4)
print_table(table)
"""


@pytest.fixture
def table(monkeypatch):
    """Wider than the 80 columns that rich takes for what is no terminal."""
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    made = console.new_table("label", *NAMES)
    made.add_row("höher [0]", *["9" * 30] * 4)
    return made


def test_in_a_pipe_nothing_is_cut(table):
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, encoding="utf-8", check=True)
    head, _, row = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    assert all(name in head for name in NAMES)
    assert row.split() == ["höher", "[0]", *["9" * 30] * 4]


def test_columns_may_ask_for_more(table, monkeypatch, capsys):
    for number in range(4):
        table.add_column(f"{number}" * 40)
    console.print_table(table)
    assert "3" * 40 not in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "400")
    console.print_table(table)
    assert "3" * 40 in capsys.readouterr().out


def test_a_terminal_keeps_its_width(table, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console.print_table(table)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 60


METRICS = {
    **{"clips": 4, "labels": {}, "confusions": []},
    **{"correct": 3, "accuracy": 0.75, "accuracy_interval": [0.3, 0.95], "false_commands": 0.5},
}


def test_metrics_without_thresholds(capsys):
    console.print_metrics("test", METRICS)
    assert "threshold" not in capsys.readouterr().out


@pytest.mark.parametrize(("false", "shown"), [(0.25, "; false commands 25.0%\n"), (None, "94.00%\n")])
def test_metrics_with_thresholds(capsys, false, shown):
    figures = {"correct": 2, "accuracy": 0.5, "accuracy_interval": [0.1, 0.94], "false_commands": false}
    console.print_metrics("test", {**METRICS, "with_thresholds": figures})
    out = capsys.readouterr().out
    assert "with the file's thresholds: accuracy 50.00%, 2 of 4 clips right; 95 % interval 10.00% to " in out
    assert out.endswith(shown)
