"""Writing files so that nobody ever sees half of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_pipeline.errors import UserError


@contextmanager
def written_aside(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`; renames it to `path` on success, deletes it on any failure.

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
        if error.filename is not None and Path(error.filename) not in (aside, path, *path.parents):
            raise
        raise UserError(f"{path} can't be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as UTF-8 to `path`, aside and renamed. Raises UserError where it can't be written."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="")
