"""What every verb prints with: a progress bar on standard error, so that standard output stays clean for programs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int | None], None]
"""Called with (done, total); total is None while unknown."""


@contextmanager
def progress_bar(description: str, *, bytes_unit: bool = False) -> Iterator[Progress]:
    """Shows a bar on standard error while the block runs; yields a function to be called with (done, total)."""
    from rich import progress
    from rich.console import Console

    count = progress.DownloadColumn() if bytes_unit else progress.MofNCompleteColumn()
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), count, progress.TimeRemainingColumn())
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
