"""A corpus -> TFRecord shards of 16-bit PCM, manifest.csv and rejected.csv. Only what is new is decoded.

Each shard has a CSV of the same name beside it, written after it: the pair is the unit that is finished or absent. An
interrupted run goes on with what is missing; a clip that changed or left has its shard rebuilt.
"""

import csv
import hashlib
import json
import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import MISSING, asdict, astuple, dataclass, field, fields
from pathlib import Path

import numpy as np
import soundfile
import tensorflow as tf

from data_pipeline.audio import AudioError, fit_length, load_audio, resample, to_pcm16
from data_pipeline.corpus import SILENCE, SPLITS, Clip, Corpus, noise_stretch, read_corpus
from data_pipeline.errors import UserError
from data_pipeline.files import write_text, written_aside
from data_pipeline.settings import CorpusSettings
from data_pipeline.shards import encode_clip

FORMAT = 1
"""Raised when shards of an older version can't be read any more; they are then made anew."""
CLIPS_PER_SHARD = 512
NOISE_MINUTES = 30
"""So much noise is kept in memory for augmentation; of more, the beginning of each recording is taken."""
Progress = Callable[[int, int | None], None]
_SHARD_NAME = re.compile(r"(train|validation|test)-\d{5}\.(tfrecord|csv)")


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


@dataclass
class Prepared:
    """What `prepare` made and found, for whoever reports it."""

    labels: tuple[str, ...]
    new: int
    """Clips decoded by this run; the others were ready."""
    notes: list[str]
    rejected: list[tuple[str, str]] = field(default_factory=list)
    """(path, reason), as in rejected.csv."""
    counts: dict[tuple[str, str], Count] = field(default_factory=lambda: defaultdict(Count))
    """By (split, label)."""


def prepare(
    settings: CorpusSettings, progress: Progress = lambda done, total: None, *, for_test: bool = False
) -> Prepared:
    """Brings the folder `settings.shards` up to date with the corpus.

    Args:
        progress: called with (clips done, clips to do).
        for_test: see `read_corpus`.

    Raises:
        UserError: no clip could be used, or the folder holds other things or can't be written.
    """
    folder = settings.shards
    _refuse_foreign_folder(folder)
    corpus = read_corpus(settings, for_test=for_test)
    todo = {(clip.path, clip.start): _stamp(clip, corpus.root) for clip in corpus.clips}
    corpus.clips.clear()
    fingerprint = _fingerprint(corpus, settings)
    for row in _keep_or_drop_shards(folder, todo, fingerprint):
        del todo[row.path, row.start]
    (folder / "manifest.csv").unlink(missing_ok=True)  # until all shards are there, nobody shall train on some of them
    write_text(folder / "settings.json", fingerprint)
    _write_shards(folder, corpus.root, list(todo.values()), settings, progress)
    _write_noise(folder / "noise.npy", corpus, settings)
    return _merge(folder, corpus, len(todo))


def read_manifest(folder: Path) -> Iterator[Row]:
    """The rows of a shard folder's manifest.csv. Raises UserError if `prepare` hasn't made one."""
    path = folder / "manifest.csv"
    if not path.is_file():
        raise UserError(f"{folder} holds no prepared clips (no manifest.csv); run `speech-gru prepare` first")
    return _read_rows(path)


def count_rows(rows: Iterable[Row]) -> dict[tuple[str, str], Count]:
    """Clips, seconds and speakers by (split, label)."""
    counts = defaultdict(Count)
    for row in rows:
        count = counts[row.split, row.label]
        count.clips += 1
        count.seconds += row.seconds
        count.speakers.add(row.speaker)
    return counts


def _merge(folder: Path, corpus: Corpus, new: int) -> Prepared:
    """Joins the shards' CSVs into manifest.csv and rejected.csv, row by row: memory doesn't grow with the corpus."""
    good = (row for row in _all_rows(folder) if not row.reason)
    _write_rows(folder / "manifest.csv", good)
    rejected = corpus.rejected + [(row.path, row.reason) for row in _all_rows(folder) if row.reason]
    rejected.sort()
    _write_table(folder / "rejected.csv", ("path", "reason"), rejected)
    counts = count_rows(read_manifest(folder))
    present = {label for _, label in counts}
    labels = tuple(label for label in corpus.labels if label in present)
    write_text(folder / "labels.txt", "".join(f"{label}\n" for label in labels))
    if not counts:
        raise UserError(f"none of the {len(rejected)} clips could be used; {folder / 'rejected.csv'} says why")
    return Prepared(labels, new, corpus.notes + list(_leaks(read_manifest(folder))), rejected, counts)


def _all_rows(folder: Path) -> Iterator[Row]:
    for path in sorted(folder.glob("*.csv")):
        if _SHARD_NAME.fullmatch(path.name):
            yield from _read_rows(path)


def _refuse_foreign_folder(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "settings.json").is_file():
        raise UserError(f"corpus.shards: {folder} holds other files; give an empty or a new folder")


def _fingerprint(corpus: Corpus, settings: CorpusSettings) -> str:
    """What the shards depend on beside the clips themselves, as JSON."""
    decode = {name: getattr(settings, name) for name in ("sample_rate", "clip_seconds", "min_seconds", "max_seconds")}
    return json.dumps({"format": FORMAT, "root": str(corpus.root.resolve()), **decode}, indent=2) + "\n"


def _stamp(clip: Clip, root: Path) -> Row:
    status = (root / clip.path).stat()
    return Row(**asdict(clip), size=status.st_size, modified=status.st_mtime_ns)


def _keep_or_drop_shards(folder: Path, wanted: dict[tuple[str, float], Row], fingerprint: str) -> Iterator[Row]:
    """Yields the rows of the shards that are still right and deletes the others, and all that was left half-made."""
    stored = folder / "settings.json"
    same = stored.is_file() and stored.read_text(encoding="utf-8") == fingerprint
    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        if path.suffix == ".tmp":
            path.unlink()
        elif _SHARD_NAME.fullmatch(path.name) and path.suffix == ".csv":
            rows = list(_read_rows(path)) if same and path.with_suffix(".tfrecord").is_file() else []
            if rows and all(_unchanged(row, wanted.get((row.path, row.start))) for row in rows):
                yield from rows
            else:
                path.unlink()
    for path in folder.glob("*.tfrecord"):
        if _SHARD_NAME.fullmatch(path.name) and not path.with_suffix(".csv").is_file():
            path.unlink()


def _unchanged(old: Row, new: Row | None) -> bool:
    measured = ("seconds", "sha256", "reason")
    return new is not None and all(
        getattr(old, field.name) == getattr(new, field.name) for field in fields(Row) if field.name not in measured
    )


def _write_shards(folder: Path, root: Path, todo: list[Row], settings: CorpusSettings, progress: Progress) -> None:
    """Decodes `todo` on all cores, a shard a task. A failure or Ctrl-C stops all of them at their next clip."""
    stop, lock, done = threading.Event(), threading.Lock(), 0

    def tick() -> None:
        nonlocal done
        if stop.is_set():
            raise InterruptedError
        with lock:
            done += 1
            progress(done, len(todo))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tasks = [pool.submit(_write_shard, path, root, rows, settings, tick) for path, rows in _plan(folder, todo)]
        try:
            finished, _ = wait(tasks, return_when=FIRST_EXCEPTION)
            for task in finished:
                task.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _plan(folder: Path, todo: list[Row]) -> Iterator[tuple[Path, list[Row]]]:
    """Shard paths with the rows that go in: mixed by hash, so that a shard holds all words and speakers."""
    for split in SPLITS:
        rows = sorted((row for row in todo if row.split == split), key=_mixing_key)
        taken = [int(path.stem.rsplit("-", 1)[1]) for path in folder.glob(f"{split}-*.csv")]
        first = max(taken, default=-1) + 1
        for number, start in enumerate(range(0, len(rows), CLIPS_PER_SHARD), first):
            yield folder / f"{split}-{number:05d}.tfrecord", rows[start : start + CLIPS_PER_SHARD]


def _mixing_key(row: Row) -> str:
    return hashlib.sha1(f"{row.path} {row.start}".encode()).hexdigest()


def _write_shard(path: Path, root: Path, rows: list[Row], settings: CorpusSettings, tick: Callable[[], None]) -> None:
    done = []
    with written_aside(path) as aside, tf.io.TFRecordWriter(str(aside)) as writer:
        for row in rows:
            tick()
            pcm, row = _decode(row, root, settings)
            if pcm is not None:
                speech = {name: getattr(row, name) for name in ("label", "text", "speaker", "path")}
                writer.write(encode_clip(pcm, **speech))
            done.append(row)
    _write_rows(path.with_suffix(".csv"), done)


def _decode(row: Row, root: Path, settings: CorpusSettings) -> tuple[np.ndarray | None, Row]:
    """The clip's PCM, or None with the reason in the row."""
    values = asdict(row)
    try:
        if row.label == SILENCE:
            samples = _cut(root / row.path, row.start, row.gain, settings)
        else:
            content = (root / row.path).read_bytes()
            values["sha256"] = hashlib.sha256(content).hexdigest()
            samples = load_audio(
                root / row.path,
                settings.sample_rate,
                min_seconds=settings.min_seconds,
                max_seconds=settings.max_seconds,
            )
    except (AudioError, OSError) as error:
        return None, Row(**values | {"reason": str(error)})
    values["seconds"] = round(len(samples) / settings.sample_rate, 4)
    return to_pcm16(fit_length(samples, settings.clip_samples)), Row(**values)


def _cut(path: Path, start: float, gain: float, settings: CorpusSettings) -> np.ndarray:
    """A clip's length of a noise recording, from `start` s on, times `gain`."""
    try:
        with soundfile.SoundFile(str(path)) as file:
            file.seek(int(start * file.samplerate))
            samples = file.read(int(settings.clip_seconds * file.samplerate) + 1, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise AudioError(f"noise recording can't be read: {error}") from error
    return resample(samples.mean(axis=1), file.samplerate, settings.sample_rate) * np.float32(gain)


def _write_noise(path: Path, corpus: Corpus, settings: CorpusSettings) -> None:
    """The training split's stretches of the noise recordings in one (samples,) int16 array, for augmentation."""
    budget = NOISE_MINUTES * 60 * settings.sample_rate
    stretches = [np.zeros(0, np.int16)]
    for recording in corpus.noise:
        try:
            samples = load_audio(recording, settings.sample_rate)
        except AudioError:
            continue  # read_corpus has noted it
        _, end = noise_stretch(len(samples), "train", settings)
        stretches.append(to_pcm16(samples[: min(int(end), budget // len(corpus.noise))]))
    with written_aside(path) as aside, aside.open("wb") as file:
        np.save(file, np.concatenate(stretches))


def _leaks(rows: Iterable[Row]) -> Iterator[str]:
    """Warns of the same recording in two splits: a figure measured on it says nothing."""
    first_split, leaks = {}, 0
    for row in rows:
        if row.sha256:
            leaks += first_split.setdefault(bytes.fromhex(row.sha256)[:8], row.split) != row.split
    if leaks:
        yield f"{leaks} recordings are in two splits under different names: figures on them will flatter"


def _read_rows(path: Path) -> Iterator[Row]:
    kinds = {field.name: type(field.default) if field.default is not MISSING else str for field in fields(Row)}
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            yield Row(**{name: kinds[name](value) for name, value in line.items()})


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    _write_table(path, [field.name for field in fields(Row)], map(astuple, rows))


def _write_table(path: Path, header: Iterable[str], rows: Iterable[Iterable]) -> None:
    with written_aside(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
