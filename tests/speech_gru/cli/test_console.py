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
