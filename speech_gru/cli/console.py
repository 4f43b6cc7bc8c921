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
    console = Console(stderr=True)
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def progress_steps() -> Iterator[Callable[[str, int, int], None]]:
    """As `progress_bar`, for steps with names: yields a function to be called with (what comes next, done, total)."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn())
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda name, done, total: bar.update(task, description=name, completed=done, total=total)


def print_counts(labels, counts) -> None:
    """Prints clips, speakers and seconds by label and split (`counts` as in data_pipeline.prepare.Prepared)."""
    splits = [split for split in ("train", "validation", "test") if any(key[0] == split for key in counts)]
    table = new_table("label", *(f"{split}: clips / speakers / s" for split in splits), "share")
    total = sum(count.clips for count in counts.values())
    for label in labels:
        cells = [counts.get((split, label)) for split in splits]
        clips = sum(cell.clips for cell in cells if cell)
        shown = (f"{cell.clips} / {len(cell.speakers - {''})} / {cell.seconds:.0f}" if cell else "-" for cell in cells)
        table.add_row(label, *shown, f"{clips / total:.1%}")
    table.add_section()
    parts = [[count for key, count in counts.items() if key[0] == split] for split in splits]
    sums = (
        (sum(c.clips for c in part), len(set().union(*(c.speakers for c in part)) - {""}), sum(c.seconds for c in part))
        for part in parts
    )
    table.add_row("all", *(f"{clips} / {speakers} / {seconds:.0f}" for clips, speakers, seconds in sums), "100.0%")
    print_table(table)


def new_table(first: str, *columns: str):
    """A rich table with a left-aligned first column and numbers right-aligned in the others."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


WIDTH_OF_A_FILE = 200
"""Columns, where standard output is no terminal: rich would take 80 and cut the cells."""


def print_table(table) -> None:
    """Prints a table as it is: a label in brackets is a label."""
    from rich.console import Console

    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, WIDTH_OF_A_FILE)
    console.print(table)


def entry(found) -> dict:
    """A Word or a Found of speech_gru.phrase_recognizer, as programs get it."""
    from dataclasses import asdict

    values = asdict(found).items()
    return {key: value if isinstance(value, str) else round(value, 6 if key == "score" else 3) for key, value in values}


def refuse(options: dict[str, object], reason: str) -> None:
    """Raises UserError if one of these options, by name, was given: is something else than None, False or empty."""
    from data_pipeline.errors import UserError

    # A threshold of 0 was given, though it equals False.
    if given := [name for name, value in options.items() if value is not None and value is not False and value != ()]:
        raise UserError(f"{' and '.join(given)}: {reason}")


def print_transcript_metrics(split: str, metrics: dict) -> None:
    """Prints the figures of speech_gru.transcripts.measure_transcripts."""
    table = new_table("errors", "said", "substitutions", "deletions", "insertions", "error rate")
    for unit in ("words", "characters"):
        counts = metrics[unit]
        rate = metrics[f"{unit[:-1]}_error_rate"]
        table.add_row(unit, *(f"{count:,}" for count in counts.values()), f"{rate:.2%}")
    print_table(table)
    print(
        f"{split}: word error rate {metrics['word_error_rate']:.2%}; {metrics['exact']:.1%} of {metrics['phrases']} "
        "phrases without any error"
    )


def print_metrics(split: str, metrics: dict) -> None:
    """Prints the figures of speech_gru.evaluation.measure, or those of phrases."""
    if "word_error_rate" in metrics:
        print_transcript_metrics(split, metrics)
        return
    table = new_table("label", "clips", "precision", "recall", "F1")
    for label, figures in metrics["labels"].items():
        shares = (f"{figures[name]:.1%}" for name in ("precision", "recall", "f1"))
        table.add_row(label, str(figures["clips"]), *shares)
    print_table(table)
    if metrics["confusions"]:
        top = ", ".join(f"{truth} as {guess} ({count})" for truth, guess, count in metrics["confusions"][:8])
        print(f"most confused: {top}")
    if metrics["false_commands"] is not None:
        print(f"false commands: {metrics['false_commands']:.1%} of the clips that hold none")
    low, high = metrics["accuracy_interval"]
    print(
        f"{split}: accuracy {metrics['accuracy']:.2%}, {metrics['correct']} of {metrics['clips']} clips right; "
        f"95 % interval {low:.2%} to {high:.2%}"
    )
    if "with_thresholds" in metrics:
        _print_with_thresholds(metrics["with_thresholds"], metrics["clips"])


def _print_with_thresholds(figures: dict, clips: int) -> None:
    """What is reported as a word only from the file's threshold for it on."""
    low, high = figures["accuracy_interval"]
    false = figures["false_commands"]
    print(
        f"with the file's thresholds: accuracy {figures['accuracy']:.2%}, {figures['correct']} of {clips} clips right; "
        f"95 % interval {low:.2%} to {high:.2%}" + ("" if false is None else f"; false commands {false:.1%}")
    )
