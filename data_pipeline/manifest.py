"""The tables that `prepare` writes: manifest.csv, and one beside each shard; a clip a row."""

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass, field, fields
from operator import attrgetter
from pathlib import Path

from data_pipeline.corpus import Clip
from data_pipeline.errors import UserError
from data_pipeline.files import written_aside


@dataclass(frozen=True, slots=True)
class Row(Clip):
    """A clip as prepared: one line of a shard's CSV and of manifest.csv or rejected.csv."""

    seconds: float = 0.0
    """Of the file before it was fitted to the clip length."""
    sha256: str = ""
    size: int = 0
    modified: int = 0
    """Modification time in ns; with `size` it tells whether a file must be read again."""
    reason: str = ""
    """Why the clip was set aside; empty for a good one."""


@dataclass
class Count:
    """What a split holds of a label."""

    clips: int = 0
    seconds: float = 0.0
    speakers: set[str] = field(default_factory=set)


def read_manifest(folder: Path) -> Iterator[Row]:
    """The rows of a shard folder's manifest.csv. Raises UserError if `prepare` hasn't made one."""
    path = folder / "manifest.csv"
    if not path.is_file():
        raise UserError(f"{folder} holds no prepared clips (no manifest.csv); run `speech-gru prepare` first")
    return read_rows(path)


def count_rows(rows: Iterable[Row]) -> dict[tuple[str, str], Count]:
    """Clips, seconds and speakers by (split, label)."""
    counts = defaultdict(Count)
    for row in rows:
        count = counts[row.split, row.label]
        count.clips += 1
        count.seconds += row.seconds
        count.speakers.add(row.speaker)
    return counts


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a table. Raises UserError, as it reads, where the table isn't one."""
    kinds = {field.name: type(field.default) if field.default is not MISSING else str for field in fields(Row)}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                yield Row(**{name: kinds[name](value) for name, value in line.items()})
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path} isn't as `speech-gru prepare` wrote it; delete it and run that again") from error


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes a table that `read_rows` reads, aside and renamed."""
    names = [field.name for field in fields(Row)]
    write_table(path, names, map(attrgetter(*names), rows))


def write_table(path: Path, header: Iterable[str], rows: Iterable[Iterable]) -> None:
    """Writes any CSV in UTF-8, aside and renamed."""
    with written_aside(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
