"""Finding files, and writing them so that nobody ever sees half of one."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_pipeline.errors import UserError

AUDIO_SUFFIXES = frozenset({".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3"})
_BAD_CHARACTERS = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, which would break a list's lines; surrogates, which is how Python shows what isn't UTF-8."""


def name_fault(name: str) -> str:
    """Why a file's name can't stand in a list; empty if it can."""
    return "its name isn't UTF-8 or holds control characters" if _BAD_CHARACTERS.search(name) else ""


def printable(name: str) -> str:
    """`name` with escapes for what `name_fault` objects to."""
    return _BAD_CHARACTERS.sub(lambda match: ascii(match[0])[1:-1], name)


def files_under(root: Path, rejected: list[tuple[str, str]]) -> Iterator[str]:
    """The names of all files under `root`, relative to it, in order; (folder, reason) for those not entered."""

    def reject(folder: str, reason: str) -> None:
        rejected.append((printable(os.path.relpath(folder, root)), reason))

    def unreadable(error: OSError) -> None:
        reject(error.filename, f"unreadable: {error.strerror}")

    for folder, folders, names in os.walk(root, onerror=unreadable):
        folders.sort()
        for name in folders:
            if os.path.islink(os.path.join(folder, name)):
                reject(os.path.join(folder, name), "links to a folder, and such links aren't followed")
        inner = os.path.relpath(folder, root).replace(os.sep, "/")
        yield from (name if inner == "." else f"{inner}/{name}" for name in sorted(names))


def leads_outside(path: str | os.PathLike, root: str | os.PathLike) -> bool:
    """Whether `path`, its links followed, lies anywhere but under `root`."""
    return not os.path.realpath(path).startswith(os.path.join(os.path.realpath(root), ""))


@contextmanager
def written_aside(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`, for a file or folder; renames it to `path`, or deletes it on any failure.

    The folder is made if needed. The data is on the disk before the rename, so that a power cut leaves the old file
    or the new one.

    Raises:
        UserError: the folder can't be made or written (the system's reason is in the message).
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        if aside.is_file():
            with aside.open("rb+") as file:
                os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        # What is read in the block may fail too; that is another matter.
        place = str(error.filename or path)
        if not place.startswith(str(aside.with_suffix(""))) and Path(place) not in (path, *path.parents):
            raise
        raise UserError(f"{path} can't be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as UTF-8 to `path`, aside and renamed. Raises UserError where it can't be written."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="")
