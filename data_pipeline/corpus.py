"""What is to be learnt from: a folder of words or a CSV manifest -> a list of clips with label, speaker and split."""

import csv
import difflib
import hashlib
import os
import posixpath
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.files import AUDIO_SUFFIXES, files_under, leads_outside, name_fault, printable
from data_pipeline.labels import PHRASE, SILENCE, UNKNOWN
from data_pipeline.noise import NOISE_FOLDER, draw_cuts, find_noise
from data_pipeline.settings import CorpusSettings, normalize_text
from data_pipeline.splits import SPLITS, read_split_list, speaker_of, split_speakers, which_split

_SPLIT_LISTS = {"validation_list.txt": "validation", "testing_list.txt": "test"}
_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip to be learnt or tested: where it is, what is said, who says it, what it is for."""

    path: str
    """Relative to the corpus, with forward slashes (../ for those of `train_also`); absolute for a noise recording that
    lies elsewhere."""
    word: str
    """What the corpus calls it: its folder or label; where a manifest has only a text, the text."""
    split: str
    speaker: str = ""
    text: str = ""
    label: str = ""
    """What the recogniser shall say: a word of the settings, `_unknown_` or `_silence_`; `_phrase_`: the text."""
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
    noise: dict[Path, float]
    """The noise recordings, with their lengths in seconds."""
    rejected: list[tuple[str, str]] = field(default_factory=list)
    """(path, reason) of what was set aside before any audio was read."""
    notes: list[str] = field(default_factory=list)


def read_corpus(settings: CorpusSettings, *, for_test: bool = False) -> Corpus:
    """Reads the corpus that `settings` describe: labels assigned, `_unknown_` and `_silence_` made.

    No clip is decoded: one may yet prove unusable. Words, speakers and names in lists are compared as `normalize_text`
    gives them. Clips that the corpus itself calls `_unknown_` or `_silence_` keep that label.

    Args:
        for_test: all clips go into the test split, whatever the corpus says, and words may be missing; `train_also`
            isn't read.

    Raises:
        UserError: nothing is there; a word has no clip; words differ only in case; a list or the CSV can't be read.
    """
    root, (clips, rejected, notes, split_notes) = _read(settings.path, settings, "corpus.path")
    if for_test:
        clips = [replace(clip, split="test") for clip in clips]
    else:
        notes += split_notes
        clips = list(_give_speakers(clips, settings))
    words = settings.words or tuple(sorted({clip.word for clip in clips} - {UNKNOWN, SILENCE}))
    if not for_test:
        for source in settings.train_also:
            clips += _read_to_train(source, root, {clip.path for clip in clips}, settings, rejected, notes)
        _require_words(settings.words, {clip.word for clip in clips})
    if settings.tokens is None:
        clips = _label(clips, words, settings, notes)
    else:
        words, clips = _label_phrases(clips, notes)
    noise = find_noise(root, settings.noise, notes)
    clips += _cut_silence(noise, clips, root, settings, notes)
    labels = {clip.label for clip in clips}
    made = [label for label in (PHRASE, UNKNOWN, SILENCE) if label in labels]
    return Corpus(root, clips, (*words, *made), noise, rejected, notes)


def _give_speakers(clips: list[Clip], settings: CorpusSettings) -> Iterator[Clip]:
    """The clips, those of the settings' speakers in these speakers' splits. Raises UserError if a speaker has none."""
    given = dict.fromkeys(settings.validation_speakers, "validation") | dict.fromkeys(settings.test_speakers, "test")
    speakers = [normalize_text(clip.speaker) for clip in clips]
    if absent := sorted(given.keys() - set(speakers)):
        raise UserError(f"corpus.validation_speakers, test_speakers: the corpus has no clip of {', '.join(absent)}")
    return (replace(clip, split=given.get(speaker, clip.split)) for clip, speaker in zip(clips, speakers, strict=True))


Read = tuple[list[Clip], list[tuple[str, str]], list[str], list[str]]
"""Clips without labels; (path, reason) of what was set aside; notes; notes on how the splits came about."""


def _read(path: Path, settings: CorpusSettings, setting: str) -> tuple[Path, Read]:
    """The folder that the clips' paths start from, and what is there. Raises UserError if no clip is."""
    if path.is_dir():
        root, read = path, _read_folder(path, settings)
    elif path.is_file():
        root, read = path.parent, read_csv(path, settings)
    else:
        raise UserError(f"{setting}: {path} is neither a folder of words nor a CSV manifest; it doesn't exist")
    clips, rejected, _, _ = read
    if not clips:
        first = f" (first of {len(rejected)} files set aside: {rejected[0][0]}: {rejected[0][1]})" if rejected else ""
        raise UserError(
            f"{setting}: no clip found in {path}; expected a folder a word with audio files in it, or a CSV with the "
            f"columns path and label{first}"
        )
    return root, read


def _read_to_train(
    source: Path,
    root: Path,
    known: set[str],
    settings: CorpusSettings,
    rejected: list[tuple[str, str]],
    notes: list[str],
) -> list[Clip]:
    """The clips of a further corpus, all to train with, less those that the corpus has itself (`known` paths).

    Their paths start at `root` like all others, so that they are the same wherever the two lie together.
    """
    folder, (clips, set_aside, more_notes, _) = _read(source, settings, "corpus.train_also")
    start = os.path.relpath(os.path.realpath(folder), os.path.realpath(root)).replace(os.sep, "/")
    if fault := name_fault(start):
        raise UserError(f"corpus.train_also: {printable(str(source))} can't be used: {fault}; rename the folder")
    located = [replace(clip, path=posixpath.normpath(f"{start}/{clip.path}"), split="train") for clip in clips]
    measured = settings.measured_speakers
    kept = [clip for clip in located if clip.path not in known and normalize_text(clip.speaker) not in measured]
    if len(kept) < len(clips):
        more_notes.append(
            f"{len(clips) - len(kept)} clips left out: they are there already, or their speakers are to be measured on"
        )
    rejected += [(posixpath.normpath(f"{start}/{path}"), reason) for path, reason in set_aside]
    notes += [f"train_also: {printable(str(source))}: {note}" for note in more_notes]
    return kept


def _read_folder(root: Path, settings: CorpusSettings) -> Read:
    listed, split_notes = _read_split_lists(root)
    shares = settings.validation_share, settings.test_share
    clips, rejected, others = [], [], []
    for name in files_under(root, rejected):
        parts, suffix = name.split("/"), os.path.splitext(name)[1].lower()
        word, is_audio = sys.intern(normalize_text(parts[0])), suffix in AUDIO_SUFFIXES
        is_hidden = any(part.startswith(".") for part in parts)
        if name in _SPLIT_LISTS or (word == NOISE_FOLDER and is_audio and not is_hidden):
            continue
        if is_hidden or _is_reserved(word) or (len(parts) == 1 and not is_audio):
            others.append(printable(name))
        elif reason := _file_fault(name, root, is_audio):
            rejected.append((printable(name), reason))
        else:
            split = listed.get(_stem(name), "train") if listed else which_split(name, *shares)
            clips.append(Clip(name, word, split, sys.intern(speaker_of(name)), word))
    absent = len(listed.keys() - {_stem(clip.path) for clip in clips})
    split_notes += [f"{absent} names of {' and '.join(_SPLIT_LISTS)} are no clips here"] if absent else []
    if not listed:
        split_notes += _nameless(clips)
        clips = _leave_no_split_empty(clips, settings)
    shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
    return clips, rejected, [f"{len(others)} files are no clips of a word: {shown}"] if others else [], split_notes


def _leave_no_split_empty(clips: list[Clip], settings: CorpusSettings) -> list[Clip]:
    """Google's rule is made for thousands of speakers: of a few it can leave a split without any."""
    wanted = {"train": 1.0, "validation": settings.validation_share, "test": settings.test_share}
    if all(share == 0 or any(clip.split == split for clip in clips) for split, share in wanted.items()):
        return clips
    splits = split_speakers({clip.speaker for clip in clips}, settings.validation_share, settings.test_share)
    return [replace(clip, split=splits[clip.speaker]) for clip in clips]


def _is_reserved(word: str) -> bool:
    return word.startswith("_") and word not in (UNKNOWN, SILENCE)


def _file_fault(name: str, root: Path, is_audio: bool) -> str:
    if fault := name_fault(name):
        return fault
    if "/" not in name:
        return "lies beside the words' folders, so its word is unknown"
    if not is_audio:
        return f"not audio by its name; expected one of {', '.join(sorted(AUDIO_SUFFIXES))}"
    if os.path.islink(root / name) and leads_outside(root / name, root):
        return "links to a file outside the corpus"
    return ""


def _read_split_lists(root: Path) -> tuple[dict[str, str], list[str]]:
    """The splits by stem: a corpus may have been converted from WAV since. Empty if there is no list."""
    listed, doubled = {}, 0
    for file, split in _SPLIT_LISTS.items():
        for stem in {_stem(name) for name in read_split_list(root / file)}:
            doubled += stem in listed
            listed[stem] = split
    return listed, [f"{doubled} clips are in both split lists, and count as test clips"] if doubled else []


def _stem(name: str) -> str:
    return os.path.splitext(normalize_text(name))[0]


def _nameless(clips: Iterable[Clip]) -> list[str]:
    """A note on clips without a speaker, for which splits were made."""
    count = sum(clip.speaker == clip.path.rsplit("/", 1)[-1] for clip in clips)
    message = "clips name no speaker, and count as one speaker each: the same voice may be in several splits"
    return [f"{count} {message}"] if count else []


def read_csv(manifest: Path, settings: CorpusSettings) -> Read:
    """A CSV's clips, each with a split. Raises UserError if it can't be read, or has no such columns."""
    root, rejected, clips, lines = os.path.realpath(manifest.parent), [], [], {}
    for line, row in _csv_rows(manifest):
        name = _locate(row["path"], root)
        if reason := _row_fault(row, name, root) or (f"the file of line {lines[name]} again" if name in lines else ""):
            rejected.append((printable(row["path"]) or f"line {line}", f"line {line}: {reason}"))
            continue
        lines[name] = line
        label, text, speaker = (normalize_text(row[column]) for column in ("label", "text", "speaker"))
        split = _SPLIT_NAMES[row["split"].lower()] if row["split"] else ""
        clips.append(
            Clip(name, sys.intern(label or text), split, sys.intern(speaker or speaker_of(name)), text or label)
        )
    split_notes = _nameless(clip for clip in clips if not clip.split)
    return _fill_splits(clips, settings), rejected, [], split_notes


def _csv_rows(manifest: Path) -> Iterator[tuple[int, dict[str, str]]]:
    columns = ("path", "label", "text", "speaker", "split")
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="surplus")
            header = [name.strip().lower() for name in reader.fieldnames or ()]
            if "path" not in header or not {"label", "text"} & set(header):
                raise UserError(
                    f"{manifest}: expected the columns path and label (or text), optionally speaker and split, with "
                    f"commas between them; the first line has: {printable(' | '.join(header)) or 'nothing'}"
                )
            reader.fieldnames = header
            for row in reader:
                values = {name: (row.get(name) or "").strip() for name in columns}
                yield reader.line_num, values | {"surplus": "".join(row.get("surplus", ()))}
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{manifest}: expected a CSV file in UTF-8: {error}") from error


def _locate(given: str, root: str) -> str:
    """The file that a manifest means, relative to `root` with links resolved; `given` if there is none.

    Tried as given, with slashes for backslashes, and in both Unicode forms: macOS decomposes names, editors don't.
    """
    if not name_fault(given):
        for name in (given, given.replace("\\", "/")):
            for form in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
                path = os.path.realpath(os.path.join(root, form))
                if os.path.isfile(path):
                    return os.path.relpath(path, root).replace(os.sep, "/")
    return given


def _row_fault(row: dict[str, str], name: str, root: str) -> str:
    if row["surplus"]:
        return "more fields than columns; a text with a comma needs quotes around it"
    if not name:
        return "no path"
    if fault := name_fault(name):
        return fault
    if not row["label"] and not row["text"]:
        return "neither label nor text"
    if row["split"] and row["split"].lower() not in _SPLIT_NAMES:
        return f"split is {row['split']!r}; expected train, validation or test"
    if leads_outside(os.path.join(root, name), root):
        return "path leads outside the manifest's folder"
    return "" if os.path.isfile(os.path.join(root, name)) else "file is missing"


def _fill_splits(clips: list[Clip], settings: CorpusSettings) -> list[Clip]:
    """Gives clips without a split that of their speaker: the most frequent given one, else a new one."""
    given = defaultdict(Counter)
    for clip in clips:
        if clip.split:
            given[clip.speaker][clip.split] += 1
    unsplit = {clip.speaker for clip in clips} - given.keys()
    splits = split_speakers(unsplit, settings.validation_share, settings.test_share)
    splits |= {speaker: counts.most_common(1)[0][0] for speaker, counts in given.items()}
    return [clip if clip.split else replace(clip, split=splits[clip.speaker]) for clip in clips]


def _require_words(words: Iterable[str], present: set[str]) -> None:
    for word in words:
        if word not in present:
            near = difflib.get_close_matches(word, present, 1)
            hint = f"; the nearest is {near[0]!r}" if near else f"; it has: {', '.join(sorted(present)[:20])}"
            raise UserError(f"corpus.words: the corpus has no clip of {word!r}{hint}")


def _label(clips: list[Clip], words: tuple[str, ...], settings: CorpusSettings, notes: list[str]) -> list[Clip]:
    """The clips with their labels, the words to be told apart, less the `_unknown_` ones that are too many."""
    _refuse_case_twins(Counter(clip.word for clip in clips), words)
    labels = {word: word for word in (*words, SILENCE)}
    labelled = [replace(clip, label=labels.get(clip.word, UNKNOWN)) for clip in clips]
    return list(_limit_unknown(labelled, settings.unknown_share, notes))


def _label_phrases(clips: list[Clip], notes: list[str]) -> tuple[tuple[str, ...], list[Clip]]:
    """All clips with their texts; what the corpus calls silence has none, and other speech without a text is no use."""
    silence = {"label": SILENCE, "text": ""}
    known = [clip for clip in clips if clip.text != UNKNOWN]
    if len(known) < len(clips):
        notes.append(f"{len(clips) - len(known)} clips of {UNKNOWN} left out: nothing says what is spoken there")
    return (), [replace(clip, **(silence if clip.word == SILENCE else {"label": PHRASE})) for clip in known]


def _refuse_case_twins(present: Counter, words: Iterable[str]) -> None:
    by_case = defaultdict(set)
    for word in (*present, *words):
        by_case[word.lower()].add(word)
    for twins in by_case.values():
        if len(twins) > 1 and not twins.isdisjoint(words):
            counted = ", ".join(f"{word!r} ({present[word]} clips)" for word in sorted(twins))
            raise UserError(f"words that differ only in case would be taken for different ones: {counted}; rename them")


def _limit_unknown(clips: list[Clip], share: float, notes: list[str]) -> Iterator[Clip]:
    """All other clips, and as many `_unknown_` ones as make up `share` of a split's speech."""
    yield from (clip for clip in clips if clip.label != UNKNOWN)
    for split in SPLITS:
        pool = sorted((clip for clip in clips if clip.split == split and clip.label == UNKNOWN), key=_hash)
        words = sum(clip.split == split and clip.label not in (UNKNOWN, SILENCE) for clip in clips)
        limit = len(pool) if share == 1 else min(len(pool), round(words * share / (1 - share)))
        if limit < len(pool):
            notes.append(f"{split}: {len(pool) - limit} of {len(pool)} clips of other words left out (unknown_share)")
        yield from pool[:limit]


def _hash(clip: Clip) -> str:
    return hashlib.sha1(clip.path.encode()).hexdigest()


def _cut_silence(noise, clips: list[Clip], root: Path, settings: CorpusSettings, notes: list[str]) -> list[Clip]:
    """As many `_silence_` clips as make up the wanted share of each split, with those that the corpus has."""
    made = []
    for split in SPLITS:
        labels = [clip.label for clip in clips if clip.split == split]
        given = labels.count(SILENCE)
        count = round((len(labels) - given) * settings.silence_share / (1 - settings.silence_share)) - given
        cuts = list(draw_cuts(noise, count, split, root, settings))
        if count > len(cuts):
            notes.append(f"{split}: no {SILENCE} cut; no noise recording is long enough (clip_seconds, shares)")
        made += [Clip(name, SILENCE, split, label=SILENCE, start=start, gain=gain) for name, start, gain in cuts]
    return made
