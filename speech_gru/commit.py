"""Which code trained a run: commit.txt in its directory."""

import subprocess
from pathlib import Path

from data_pipeline.files import write_text

ROOT = Path(__file__).resolve().parents[1]
FILE = "commit.txt"


def record_commit(folder: Path) -> None:
    """Adds this code's commit to a run's commit.txt: a line for each that trained it, if it went on with another."""
    commits = dict.fromkeys([*(recorded_commits(folder) or ()), current_commit()])
    write_text(folder / FILE, "".join(f"{commit}\n" for commit in commits if commit))


def recorded_commits(folder: Path) -> list[str] | None:
    """The commits that trained a run, none if it was no checkout's code; None if the run is older than that file."""
    file = folder / FILE
    return file.read_text(encoding="utf-8").split() if file.is_file() else None


def current_commit() -> str:
    """HEAD of the checkout that this code lies in, with "+dirty" if a tracked file was changed; "" outside of one."""
    if not (ROOT / ".git").exists():  # installed: a checkout around the environment isn't of this code
        return ""
    # git status would otherwise write into the index, which another git may hold.
    commands = (["rev-parse", "HEAD"], ["--no-optional-locks", "status", "--porcelain", "--untracked-files=no"])
    try:
        head, changes = (
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout.strip()
            for words in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+dirty" if changes else "")
