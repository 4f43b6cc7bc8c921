"""What is to be learnt from: a folder of words or a CSV manifest -> a list of clips with label, speaker and split."""

import csv
import difflib
import hashlib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import soundfile

from data_pipeline.errors import UserError
from data_pipeline.settings import CorpusSettings

SPLITS = ("train", "validation", "test")
UNKNOWN, SILENCE, NOISE_FOLDER = "_unknown_", "_silence_", "_background_noise_"
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"})
_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip to be learnt or tested: where it is, what is said, who says it, what it is for."""

    path: str
    """Relative to the corpus, with forward slashes; a noise recording's own path where it lies elsewhere."""
    word: str
    """What the corpus calls it: its folder or label; where a manifest has only a text, the text."""
    split: str
    speaker: str = ""
    text: str = ""
    label: str = ""
    """What the recogniser shall say: a word of the settings, `_unknown_` or `_silence_`."""
    start: float = 0.0
    """Seconds into the file; above 0 only for `_silence_`, which is cut from long recordings."""
    gain: float = 1.0
    """Amplitude factor; below 1 only for `_silence_`."""


@dataclass(frozen=True)
class Corpus:
    """A corpus as read: its clips, its noise recordings, what can't be used and what the user should know."""

    root: Path
    clips: list[Clip]
    labels: tuple[str, ...]
    """The recogniser's classes, in the order of its outputs."""
    noise: list[Path]
    rejected: list[tuple[str, str]] = field(default_factory=list)
    """(path, reason) of what was set aside before any audio was read."""
    notes: list[str] = field(default_factory=list)


def read_corpus(settings: CorpusSettings, *, for_test: bool = False) -> Corpus:
    """Reads the corpus that `settings` describe: labels assigned, `_unknown_` and `_silence_` made.

    Args:
        for_test: all clips go into the test split, whatever the corpus says, and words may be missing.

    Raises:
        UserError: nothing is there; a word has no clip; two words differ only in case; a CSV lacks its columns.
    """
    path = settings.path
    if path.is_dir():
        root, (clips, rejected, notes) = path, _read_folder(path, settings)
    elif path.is_file():
        root, (clips, rejected, notes) = path.parent, _read_csv(path, settings)
    else:
        raise UserError(f"corpus.path: {path} is neither a folder of words nor a CSV manifest; it doesn't exist")
    if not clips:
        first = f" (first of {len(rejected)} files set aside: {rejected[0][0]}: {rejected[0][1]})" if rejected else ""
        raise UserError(
            f"corpus.path: no clip found in {path}; expected a folder a word with audio files in it, or a CSV with the "
            f"columns path and label{first}"
        )
    noise = list(_noise_recordings(root if path.is_dir() else None, settings.noise))
    if for_test:
        clips = [replace(clip, split="test") for clip in clips]
    else:
        _require_words(settings.words, Counter(clip.word for clip in clips))
    labelled, labels = _label(clips, settings, notes)
    silence = list(_cut_silence(noise, labelled, root, settings, notes))
    if silence:
        labels = (*labels, SILENCE)
    notes += () if for_test else _warnings(labelled)
    return Corpus(root, labelled + silence, labels, noise, rejected, notes)


def which_split(name: str, validation_share: float, test_share: float) -> str:
    """Google's rule for Speech Commands (`which_set`; Warden 2018, arXiv:1804.03209, section 5): by the speaker's hash.

    Args:
        name: a file's name, with or without folders; what follows `_nohash_` doesn't count.
        validation_share, test_share: of the speakers, 0 to 1.
    """
    largest = 2**27 - 1
    digest = int(hashlib.sha1(speaker_of(name).encode()).hexdigest(), 16)
    percentage = (digest % (largest + 1)) * (100.0 / largest)
    if percentage < validation_share * 100:
        return "validation"
    return "test" if percentage < (validation_share + test_share) * 100 else "train"


def speaker_of(name: str) -> str:
    """The speaker in a Speech Commands file name: what stands before `_nohash_`, else the whole name."""
    return re.sub(r"_nohash_.*$", "", name.rsplit("/", 1)[-1])


def read_split_list(path: Path) -> set[str]:
    """The `word/file` names of a validation_list.txt or testing_list.txt; empty if there is no such file."""
    if not path.is_file():
        return set()
    return {_normalize(line.strip()) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}


def split_speakers(speakers: Iterable[str], validation_share: float, test_share: float) -> dict[str, str]:
    """A split for each speaker: by hash, so that a speaker keeps it when others come.

    From three speakers on no split is empty; one or two all train: nothing can be measured on them honestly.
    """
    ordered = sorted(set(speakers), key=lambda speaker: hashlib.sha1(speaker.encode()).hexdigest())
    if len(ordered) < 3:
        return dict.fromkeys(ordered, "train")
    splits = {speaker: which_split(speaker, validation_share, test_share) for speaker in ordered}
    wanted = {"train": 1.0, "validation": validation_share, "test": test_share}
    for split in (split for split in SPLITS if wanted[split] > 0 and split not in splits.values()):
        counts = Counter(splits.values())
        splits[next(speaker for speaker in ordered if counts[splits[speaker]] > 1)] = split
    return splits


Read = tuple[list[Clip], list[tuple[str, str]], list[str]]


def _read_folder(root: Path, settings: CorpusSettings) -> Read:
    listed = {
        "validation": read_split_list(root / "validation_list.txt"),
        "test": read_split_list(root / "testing_list.txt"),
    }
    clips, rejected = [], []
    for path in _files(root):
        name = path.relative_to(root).as_posix()
        word = _normalize(name.split("/")[0])
        if "/" not in name:
            if path.suffix.lower() in AUDIO_SUFFIXES:
                rejected.append((name, "lies beside the words' folders, so its word is unknown"))
        elif not word.startswith("_"):
            if path.suffix.lower() not in AUDIO_SUFFIXES:
                rejected.append((name, f"misnamed: {path.suffix or 'no suffix'} is no audio file's suffix"))
            elif not _inside(path, root):
                rejected.append((name, "links to a file outside the corpus"))
            else:
                clips.append(Clip(name, word, _listed_or_hashed(name, listed, settings), speaker_of(name), word))
    return clips, rejected, []


def _listed_or_hashed(name: str, listed: dict[str, set[str]], settings: CorpusSettings) -> str:
    if any(listed.values()):
        return next((split for split, names in listed.items() if _normalize(name) in names), "train")
    return which_split(name, settings.validation_share, settings.test_share)


def _files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def _read_csv(manifest: Path, settings: CorpusSettings) -> Read:
    root, rejected, rows, seen = manifest.parent, [], [], {}
    for line, row in _csv_rows(manifest):
        name = row["path"].replace("\\", "/")
        reason = _row_fault(row, root / name, root) or (name in seen and f"path given already in line {seen[name]}")
        if reason:
            rejected.append((name or f"line {line}", f"line {line}: {reason}"))
            continue
        seen[name] = line
        split = _SPLIT_NAMES[row["split"].lower()] if row["split"] else ""
        speaker = row["speaker"] or speaker_of(name)
        label, text = _normalize(row["label"]), _normalize(row["text"])
        rows.append(Clip(name, label or text, split, speaker, text or label))
    given = defaultdict(Counter)
    for clip in rows:
        if clip.split:
            given[clip.speaker][clip.split] += 1
    notes = [
        f"speaker {speaker} is in several splits, as the manifest says: figures on them will flatter"
        for speaker, splits in sorted(given.items())
        if len(splits) > 1
    ]
    made = split_speakers(
        {clip.speaker for clip in rows if not given[clip.speaker]}, settings.validation_share, settings.test_share
    )
    made |= {speaker: splits.most_common(1)[0][0] for speaker, splits in given.items() if splits}
    return [replace(clip, split=clip.split or made[clip.speaker]) for clip in rows], rejected, notes


def _csv_rows(manifest: Path) -> Iterator[tuple[int, dict[str, str]]]:
    columns = ("path", "label", "text", "speaker", "split")
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header = [name.strip().lower() for name in reader.fieldnames or ()]
            if "path" not in header or not {"label", "text"} & set(header):
                raise UserError(
                    f"{manifest}: expected the columns path and label (or text), optionally speaker and split; "
                    f"the first line has: {', '.join(header) or 'nothing'}"
                )
            reader.fieldnames = header
            for row in reader:
                yield reader.line_num, {name: (row.get(name) or "").strip() for name in columns}
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{manifest}: expected a CSV file in UTF-8: {error}") from error


def _row_fault(row: dict[str, str], path: Path, root: Path) -> str:
    if not row["path"]:
        return "no path"
    if not row["label"] and not row["text"]:
        return "neither label nor text"
    if row["split"] and row["split"].lower() not in _SPLIT_NAMES:
        return f"split is {row['split']!r}; expected train, validation or test"
    if not _inside(path, root):
        return "path leads outside the manifest's folder"
    return "" if path.is_file() else "file is missing"


def _inside(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())


def _normalize(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _label(clips: list[Clip], settings: CorpusSettings, notes: list[str]) -> tuple[list[Clip], tuple[str, ...]]:
    present = Counter(clip.word for clip in clips)
    _refuse_case_twins(present)
    words = tuple(_normalize(word) for word in settings.words) or tuple(sorted(present))
    known = [replace(clip, label=clip.word) for clip in clips if clip.word in words]
    others = [replace(clip, label=UNKNOWN) for clip in clips if clip.word not in words]
    kept = list(_draw_unknown(known, others, settings.unknown_share, notes))
    return known + kept, words + ((UNKNOWN,) if kept else ())


def _require_words(words: Iterable[str], present: Counter) -> None:
    for word in map(_normalize, words):
        if word not in present:
            near = difflib.get_close_matches(word, present, 1)
            hint = f"; the nearest is {near[0]!r}" if near else f"; it has: {', '.join(sorted(present)[:20])}"
            raise UserError(f"corpus.words: the corpus has no clip of {word!r}{hint}")


def _refuse_case_twins(present: Counter) -> None:
    by_case = defaultdict(list)
    for word in present:
        by_case[word.casefold()].append(word)
    for twins in by_case.values():
        if len(twins) > 1:
            counted = ", ".join(f"{word!r} ({present[word]} clips)" for word in sorted(twins))
            raise UserError(f"words that differ only in case would become two classes: {counted}; give them one name")


def _draw_unknown(known: list[Clip], others: list[Clip], share: float, notes: list[str]) -> Iterator[Clip]:
    for split in SPLITS:
        pool = sorted((clip for clip in others if clip.split == split), key=_hash)
        count = sum(clip.split == split for clip in known)
        limit = len(pool) if share >= 1 else min(len(pool), round(count * share / (1 - share)))
        if limit < len(pool):
            notes.append(f"{split}: {len(pool) - limit} of {len(pool)} clips of other words left out (unknown_share)")
        yield from pool[:limit]


def _hash(clip: Clip) -> str:
    return hashlib.sha1(clip.path.encode()).hexdigest()


def _noise_recordings(root: Path | None, extra: Iterable[Path]) -> Iterator[Path]:
    sources = ([root / NOISE_FOLDER] if root is not None and (root / NOISE_FOLDER).is_dir() else []) + list(extra)
    for source in sources:
        if not source.exists():
            raise UserError(f"corpus.noise: {source} doesn't exist; expected an audio file or a folder of them")
        files = [source] if source.is_file() else _files(source)
        yield from (path for path in files if path.suffix.lower() in AUDIO_SUFFIXES)


def noise_stretch(seconds: float, split: str, settings: CorpusSettings) -> tuple[float, float]:
    """The stretch (from, to) in seconds of a noise recording that belongs to `split`: no second of it serves two."""
    test_from = seconds * (1 - settings.test_share)
    validation_from = test_from - seconds * settings.validation_share
    return {"train": (0, validation_from), "validation": (validation_from, test_from), "test": (test_from, seconds)}[
        split
    ]


def _cut_silence(noise, clips, root, settings: CorpusSettings, notes: list[str]) -> Iterator[Clip]:
    """Cuts at places and gains (0 to 1, as in Google's recipe) drawn by hash, evenly over the recordings."""
    if settings.silence_share == 0:
        return
    lengths = dict(_readable_noise(noise, notes))
    for split in SPLITS:
        count = sum(clip.split == split for clip in clips)
        count = round(count * settings.silence_share / (1 - settings.silence_share))
        stretches = {path: noise_stretch(seconds, split, settings) for path, seconds in lengths.items()}
        usable = [path for path, (start, end) in stretches.items() if end - start >= settings.clip_seconds]
        if count and not usable:
            notes.append(f"{split}: no {SILENCE} clips, for want of noise recordings of some length")
            continue
        for index in range(count):
            path = usable[index % len(usable)]
            name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
            start, end = stretches[path]
            place, level = _draws(f"{name} {split} {index}")
            start = round(start + place * (end - start - settings.clip_seconds), 4)
            yield Clip(name, SILENCE, split, label=SILENCE, start=start, gain=round(0.01 + 0.99 * level, 4))


def _draws(key: str) -> tuple[float, float]:
    digest = hashlib.sha1(key.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32, int.from_bytes(digest[4:8], "big") / 2**32


def _readable_noise(noise: Iterable[Path], notes: list[str]) -> Iterator[tuple[Path, float]]:
    for path in noise:
        try:
            yield path, soundfile.info(str(path)).duration
        except soundfile.SoundFileError as error:
            notes.append(f"noise recording {path} left out: {error}")


def _warnings(clips: list[Clip]) -> Iterator[str]:
    speakers, counts = defaultdict(set), Counter(clip.label for clip in clips)
    for clip in clips:
        speakers[clip.label].add(clip.speaker)
    for label in sorted(counts):
        if counts[label] == 1:
            yield f"{label!r} has a single clip: it can be trained or tested, not both"
        elif len(speakers[label]) == 1:
            yield f"{label!r} has a single speaker: how well others are recognised can't be measured"
    present = {clip.split for clip in clips}
    yield from (f"the {split} split is empty" for split in SPLITS if split not in present)
