"""A corpus -> TFRecord shards of 16-bit PCM, manifest.csv and rejected.csv. Only what is new is decoded.

Each shard has a CSV of the same name beside it, written after it: the pair is the unit that is finished or absent. An
interrupted run goes on with what is missing. Clips that changed or left are taken out of their shard, labels that
changed are changed there; neither decodes the shard's other clips again.
"""

import hashlib
import json
import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from data_pipeline.audio import AudioError, fit_length, load_audio, to_pcm16
from data_pipeline.corpus import SILENCE, Clip, Corpus, read_corpus
from data_pipeline.errors import UserError
from data_pipeline.files import write_text, written_aside
from data_pipeline.labels import PHRASE
from data_pipeline.manifest import Count, Row, count_rows, read_manifest, read_rows, write_rows, write_table
from data_pipeline.noise import collect_noise, read_stretch
from data_pipeline.other_speech import collect_other_speech, find_other_speech
from data_pipeline.settings import CorpusSettings
from data_pipeline.shards import check_shard, decode_pcm, encode_clip, read_shard
from data_pipeline.splits import SPLITS
from data_pipeline.tokens import count_missing, phonemes_of, token_table

FORMAT = 1
"""Raised when shards of an older version can't be read any more; they are then made anew."""
CLIPS_PER_SHARD = 512
Progress = Callable[[int, int | None], None]
_SHARD_TABLE = re.compile(r"(train|validation|test)-\d{5}\.csv")
_LEFTOVER = re.compile(r"\..+\.\d+\.tmp")
"""What `written_aside` leaves behind when it is killed."""
_PASSING = ("missing", "unreadable")
"""How the reasons begin that may be gone at the next run without the file having changed."""


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
        progress: called with (clips done, clips to do), from (0, clips to do) on, by one thread at a time.
        for_test: see `read_corpus`.

    Raises:
        UserError: no clip could be used, or the folder holds other things or can't be written.
    """
    try:
        return _prepare(settings, progress, for_test)
    except OSError as error:
        raise UserError(f"{error.filename or settings.shards}: {error.strerror or error}") from error


def _prepare(settings: CorpusSettings, progress: Progress, for_test: bool) -> Prepared:
    folder = settings.shards
    _refuse_foreign_folder(folder, (settings.path, *settings.train_also))
    corpus = read_corpus(settings, for_test=for_test)
    other_speech = {} if for_test else find_other_speech(settings, corpus.labels, corpus.notes)
    if settings.tokens == "phonemes":
        _pronounce(corpus, settings.language)
    todo = {_key(clip): _stamp(clip, corpus.root) for clip in corpus.clips}
    corpus.clips.clear()
    (folder / "manifest.csv").unlink(missing_ok=True)  # until all shards are there, nobody shall train on some of them
    fingerprint = _fingerprint(corpus, settings)
    for table in _finished_shards(folder, fingerprint):
        _update_shard(table, todo, None if settings.tokens else settings.clip_samples)
    write_text(folder / "settings.json", fingerprint)
    new = len(todo)
    _write_shards(folder, corpus.root, list(todo.values()), settings, progress)
    todo.clear()
    noise = collect_noise(corpus.noise, settings, corpus.notes)
    speech = collect_other_speech(other_speech, settings.sample_rate, corpus.notes)
    for name, samples in (("noise.npy", noise), ("other_speech.npy", speech)):
        with written_aside(folder / name) as aside, aside.open("wb") as file:
            np.save(file, samples)
    write_text(folder / "corpus.json", json.dumps(corpus_settings(settings), indent=2, ensure_ascii=False) + "\n")
    return _merge(folder, corpus, new, settings.tokens, for_test)


def _pronounce(corpus: Corpus, language: str) -> None:
    """Puts phonemes in the texts' place; sets aside what has none, such as "...", which would be learnt as silence."""
    clips = [replace(clip, text=phonemes_of(clip.text, language)) for clip in corpus.clips]
    mute = {clip.path: clip.word for clip in clips if clip.label == PHRASE and not clip.text}
    corpus.rejected.extend((path, f"its text has no phonemes: {word!r}") for path, word in mute.items())
    corpus.clips[:] = [clip for clip in clips if clip.path not in mute]


def corpus_settings(settings: CorpusSettings) -> dict:
    """All that the prepared clips depend on but where they lie, as in the folder's corpus.json."""
    return settings.model_dump(mode="json", exclude={"path", "shards"})


def _merge(folder: Path, corpus: Corpus, new: int, tokens: str | None, for_test: bool) -> Prepared:
    """Joins the shards' CSVs into manifest.csv and rejected.csv, row by row."""
    rejected = corpus.rejected + [(row.path, row.reason) for row in _all_rows(folder) if row.reason]
    rejected.sort()
    write_table(folder / "rejected.csv", ("path", "reason"), rejected)
    counts = count_rows(row for row in _all_rows(folder) if not row.reason)
    if not counts:
        raise UserError(f"none of the {len(rejected)} clips could be used; {folder / 'rejected.csv'} says why")
    present = {label for _, label in counts}
    labels = tuple(label for label in corpus.labels if label in present)
    outputs = labels if tokens is None else token_table(_texts(folder, None if for_test else "train"), tokens)
    write_text(folder / "labels.txt", "".join(f"{label}\n" for label in outputs))
    write_rows(folder / "manifest.csv", (row for row in _all_rows(folder) if not row.reason))
    notes = corpus.notes + [
        f"{label!r} is no label: it has no usable clip" for label in corpus.labels if label not in present
    ]
    if tokens is not None:
        missing = count_missing(_texts(folder, None), outputs, tokens)
        notes += [f"no training clip has these {tokens}, which can't be recognised: {missing}"] if missing else []
    if not for_test:
        notes += [*_warnings(counts), *_copies(read_manifest(folder))]
    return Prepared(labels, new, notes, rejected, counts)


def _texts(folder: Path, split: str | None) -> Iterator[str]:
    """Of a split's usable phrases; None: of all splits."""
    rows = (row for row in _all_rows(folder) if row.label == PHRASE and not row.reason)
    return (row.text for row in rows if split in (None, row.split))


def _warnings(counts: dict[tuple[str, str], Count]) -> Iterator[str]:
    for label in sorted({label for _, label in counts}):
        cells = {split: count for (split, name), count in counts.items() if name == label}
        if sum(count.clips for count in cells.values()) == 1:
            yield f"{label!r} has a single clip: it can be trained or tested, not both"
        elif len(set().union(*(count.speakers for count in cells.values()))) == 1 and label != SILENCE:
            yield f"{label!r} has a single speaker: how well others are recognised can't be measured"
        elif "train" not in cells:
            yield f"{label!r} has no clip to train on"
        elif len(cells) == 1 and len({split for split, _ in counts}) > 1:
            yield f"{label!r} has clips to train on alone: how well it is recognised can't be measured"
    speakers = {
        split: set().union(*(count.speakers for (name, _), count in counts.items() if name == split)) - {""}
        for split in SPLITS
    }
    train, validation, test = speakers.values()
    if twice := sorted((train & validation) | (train & test) | (validation & test)):
        shown = ", ".join(twice[:3]) + (", ..." if len(twice) > 3 else "")
        yield f"{len(twice)} speakers are in several splits ({shown}): figures on them will flatter"
    present = {split for split, _ in counts}
    yield from (f"the {split} split is empty" for split in SPLITS if split not in present)


def _all_rows(folder: Path) -> Iterator[Row]:
    for table in _tables(folder):
        yield from read_rows(table)


def _tables(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.csv")) if _SHARD_TABLE.fullmatch(path.name)]


def _refuse_foreign_folder(folder: Path, corpora: Iterable[Path]) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"corpus.shards: {folder} is a file; expected a folder, new or empty")
    for corpus in corpora:
        if corpus.is_dir() and folder.resolve().is_relative_to(corpus.resolve()):
            raise UserError(
                f"corpus.shards: {folder} lies in the corpus, {corpus}, which stays as it is; give another folder"
            )
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if "settings.json" not in names and not all(_LEFTOVER.fullmatch(name) for name in names):
        raise UserError(f"corpus.shards: {folder} holds other files; give an empty or a new folder")


def _fingerprint(corpus: Corpus, settings: CorpusSettings) -> str:
    """What the shards' audio depends on beside the clips themselves, as JSON."""
    decode = {name: getattr(settings, name) for name in ("sample_rate", "clip_seconds", "min_seconds", "max_seconds")}
    decode["phrases"] = settings.tokens is not None
    return json.dumps({"format": FORMAT, "root": str(corpus.root.resolve()), **decode}, indent=2) + "\n"


def _key(clip: Clip) -> tuple[str, float, float]:
    return clip.path, clip.start, clip.gain


def _stamp(clip: Clip, root: Path) -> Row:
    try:
        status = os.stat(os.path.join(root, clip.path))
        size, modified = status.st_size, status.st_mtime_ns
    except OSError:
        size = modified = -1  # decoding it will fail, and say why
    said = clip.path, clip.word, clip.split, clip.speaker, clip.text, clip.label
    return Row(*said, clip.start, clip.gain, size=size, modified=modified)


def _finished_shards(folder: Path, fingerprint: str) -> list[Path]:
    """The tables of the finished shards; what is half-made or was made with other settings is deleted."""
    stored = folder / "settings.json"
    same = stored.is_file() and stored.read_text(encoding="utf-8", errors="replace") == fingerprint
    finished = [table for table in _tables(folder) if same and table.with_suffix(".tfrecord").is_file()]
    stems = {table.stem for table in finished}
    for path in sorted(folder.glob("*")):
        is_shard = _SHARD_TABLE.fullmatch(f"{path.stem}.csv") and path.suffix in (".csv", ".tfrecord")
        if _LEFTOVER.fullmatch(path.name) or (is_shard and path.stem not in stems):
            path.unlink()
    return finished


def _update_shard(table: Path, todo: dict[tuple[str, float, float], Row], clip_samples: int | None) -> None:
    """Takes what a finished shard holds from `todo`, and what isn't wanted any more from the shard.

    Args:
        clip_samples: the length of all clips; None: each has its own.
    """
    shard = table.with_suffix(".tfrecord")
    try:
        rows = list(read_rows(table))
        clips = sum(not row.reason for row in rows)
        found, samples = check_shard(shard)
        if found != clips or (clips and samples != (clip_samples or samples)):
            rows = []
    except UserError:
        rows = []  # damaged: made anew
    split = table.name.partition("-")[0]
    current = [_carry_over(row, todo.get(_key(row)), split) for row in rows]
    kept = [row for row in current if row]
    if kept and kept != rows:
        table.unlink()  # the shard is unfinished until it is there again
        try:
            _rewrite_shard(shard, rows, current)
            write_rows(table, kept)
        except (tf.errors.DataLossError, ValueError):
            kept = []
    if not kept:
        table.unlink(missing_ok=True)
        shard.unlink()
    for row in kept:
        todo.pop(_key(row), None)


def _carry_over(old: Row, new: Row | None, split: str) -> Row | None:
    """`new` with what decoding found out about `old`; None where it must be decoded again."""
    if new is None or (new.size, new.modified, new.split) != (old.size, old.modified, split):
        return None
    if old.reason.startswith(_PASSING):
        return None
    return replace(new, seconds=old.seconds, sha256=old.sha256, reason=old.reason)


def _rewrite_shard(shard: Path, rows: list[Row], current: list[Row | None]) -> None:
    """Leaves out the clips that are None in `current`, and gives the others the labels that stand there."""
    records = read_shard(shard)
    with _record_writer(shard) as writer:
        for old, new in zip(rows, current, strict=True):
            record = None if old.reason else next(records)
            if record is not None and new is not None:
                writer.write(_encode(decode_pcm(record), new))


@contextmanager
def _record_writer(path: Path) -> Iterator[tf.io.TFRecordWriter]:
    """Writes a shard aside. Raises UserError where it can't be written."""
    try:
        with written_aside(path) as aside, tf.io.TFRecordWriter(str(aside)) as writer:
            yield writer
    except (tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError, tf.errors.NotFoundError) as error:
        raise UserError(f"{path} can't be written: {error.message}") from error


def _encode(pcm: np.ndarray, row: Row) -> bytes:
    return encode_clip(pcm, label=row.label, text=row.text, speaker=row.speaker, path=row.path)


class _StoppedError(Exception):
    """Another thread has failed, or the user has pressed Ctrl-C."""


def _write_shards(folder: Path, root: Path, todo: list[Row], settings: CorpusSettings, progress: Progress) -> None:
    """Decodes `todo` on all cores, a shard a task. A failure or Ctrl-C stops all of them at their next clip."""
    stop, lock, done = threading.Event(), threading.Lock(), 0

    def tick() -> None:
        nonlocal done
        if stop.is_set():
            raise _StoppedError
        with lock:
            done += 1
            progress(done, len(todo))

    progress(0, len(todo))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            tasks = [pool.submit(_write_shard, path, root, rows, settings, tick) for path, rows in _plan(folder, todo)]
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
    with _record_writer(path) as writer:
        for row in rows:
            tick()
            pcm, row = _decode(row, root, settings)
            if pcm is not None:
                writer.write(_encode(pcm, row))
            done.append(row)
    write_rows(path.with_suffix(".csv"), done)


def _decode(row: Row, root: Path, settings: CorpusSettings) -> tuple[np.ndarray | None, Row]:
    """The clip's PCM, or None with the reason in the row."""
    path, rate, sha256 = os.path.join(root, row.path), settings.sample_rate, ""
    try:
        if row.label == SILENCE:
            samples = read_stretch(path, row.start, settings.clip_seconds, rate) * np.float32(row.gain)
        else:
            longest = min(settings.clip_seconds, settings.max_seconds) if settings.tokens else settings.max_seconds
            samples = load_audio(path, rate, min_seconds=settings.min_seconds, max_seconds=longest)
            sha256 = _sha256(path)
    except (AudioError, OSError) as error:
        return None, replace(row, reason=str(error) if isinstance(error, AudioError) else f"unreadable: {error}")
    row = replace(row, seconds=round(len(samples) / rate, 4), sha256=sha256)
    return to_pcm16(samples if settings.tokens else fit_length(samples, settings.clip_samples)), row


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _copies(rows: Iterable[Row]) -> Iterator[str]:
    """Warns of the same recording in two splits: a figure measured on it says nothing."""
    first_split, copies = {}, 0
    for row in rows:
        if row.sha256:  # _silence_ has none
            copies += first_split.setdefault(bytes.fromhex(row.sha256)[:8], row.split) != row.split
    if copies:
        yield f"{copies} recordings are in two splits (equal sha256 in manifest.csv): figures on them will flatter"
