"""Recordings of noise: found, measured, shared out to the splits, cut into `_silence_`, read in part."""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from data_pipeline.audio import HIGHEST_RATE, LOWEST_RATE, AudioError, resample, to_pcm16
from data_pipeline.errors import UserError
from data_pipeline.files import AUDIO_SUFFIXES, files_under, leads_outside, name_fault, printable
from data_pipeline.settings import CorpusSettings
from data_pipeline.splits import SPLITS

NOISE_FOLDER = "_background_noise_"
NOISE_MINUTES = 30
"""So much noise is kept in memory for augmentation; of more, the beginning of each recording is taken."""
_UNKNOWN_FRAMES = 2**62  # libsndfile's count where a header holds none is 2**63 - 1


def find_noise(root: Path, extra: Iterable[Path], notes: list[str]) -> dict[Path, float]:
    """The recordings in a corpus's `_background_noise_` and in `extra` (files or folders), with their seconds.

    What can't be used gets a note. Only headers are read.

    Raises:
        UserError: one of `extra` doesn't exist.
    """
    own = root / NOISE_FOLDER
    sources = [own] if own.is_dir() and not own.is_symlink() else []
    paths = (path for source in (*sources, *extra) for path in find_recordings(source, "noise", notes))
    return dict(measure_recordings(paths, "noise", notes))


def find_recordings(source: Path, setting: str, notes: list[str]) -> Iterator[Path]:
    """A file, or the recordings in a folder; what can't be used gets a note.

    Args:
        setting: of the corpus, which names the source.

    Raises:
        UserError: it doesn't exist.
    """
    if source.is_file():
        yield source
    elif not source.is_dir():
        raise UserError(f"corpus.{setting}: {source} doesn't exist; expected an audio file or a folder of them")
    else:
        rejected, names = [], []
        for name in filter(_is_recording, files_under(source, rejected)):
            if leads_outside(source / name, source):
                rejected.append((name, "links to a file outside"))
            else:
                names.append(name)
        notes += [f"{setting}: {source / name} left out: {reason}" for name, reason in rejected]
        notes += [] if names else [f"{setting}: no recordings in {source}"]
        yield from (source / name for name in names)


def _is_recording(name: str) -> bool:
    is_hidden = any(part.startswith(".") for part in name.split("/"))
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES and not is_hidden


def measure_recordings(recordings: Iterable[Path], setting: str, notes: list[str]) -> Iterator[tuple[Path, float]]:
    """The recordings that can be read by their headers, with their seconds; the others get a note.

    Args:
        setting: as for find_recordings.
    """
    for path in recordings:
        try:
            fault = name_fault(str(path))
            info = None if fault else soundfile.info(str(path))
        except (soundfile.SoundFileError, TypeError) as error:  # TypeError: .raw, which says nothing about itself
            fault = str(error)
        if not fault and info.frames >= _UNKNOWN_FRAMES:
            fault = "its header doesn't say how long it is"
        if not fault and not LOWEST_RATE <= info.samplerate <= HIGHEST_RATE:
            fault = f"impossible sampling rate: {info.samplerate} Hz"
        if fault:
            notes.append(f"{setting}: {printable(str(path))} left out: {fault}")
        else:
            yield path, info.frames / info.samplerate


def noise_stretch(seconds: float, split: str, settings: CorpusSettings) -> tuple[float, float]:
    """The stretch (from, to) in seconds of a noise recording that belongs to `split`: no part of it serves two."""
    shares = (0, 1 - settings.validation_share - settings.test_share, 1 - settings.test_share, 1)
    bounds = [math.floor(seconds * share * 1000) / 1000 for share in shares]
    index = SPLITS.index(split)
    return bounds[index], bounds[index + 1]


def draw_cuts(
    noise: dict[Path, float], count: int, split: str, root: Path, settings: CorpusSettings
) -> Iterator[tuple[str, float, float]]:
    """Draws (name, start in seconds, gain) of `count` cuts from the split's stretches, evenly over the recordings.

    Places and gains (0.01 to 1, as in Google's recipe) are drawn by hash. Nothing if no stretch is long enough.
    """
    stretches = {path: noise_stretch(seconds, split, settings) for path, seconds in noise.items()}
    usable = [path for path, (start, end) in stretches.items() if round(end - start, 6) >= settings.clip_seconds]
    for index in range(count if usable else 0):
        path = usable[index % len(usable)]
        name = (path.relative_to(root) if path.is_relative_to(root) else path.absolute()).as_posix()
        start, end = stretches[path]
        digest = hashlib.sha1(f"{name} {split} {index}".encode()).digest()
        place, level = (int.from_bytes(part, "big") / 2**32 for part in (digest[:4], digest[4:8]))
        start = round(start + place * (end - start - settings.clip_seconds), 4)
        # The gain has as many digits as keep two cuts at the same place apart.
        yield name, start, round(0.01 + 0.99 * level, 9)


def read_stretch(path: str | os.PathLike, start: float, seconds: float, sample_rate: int) -> np.ndarray:
    """At most `seconds` of a recording from `start` s on: mono float32 (samples,) at `sample_rate`.

    Raises:
        AudioError: it can't be read, or holds no finite samples there.
    """
    try:
        with soundfile.SoundFile(str(path)) as file:
            rate = file.samplerate
            file.seek(int(start * rate))
            samples = file.read(round(seconds * rate), dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise AudioError(f"recording can't be read: {error}") from error
    if not len(samples) or not np.isfinite(samples).all():
        raise AudioError("recording holds no finite samples there")
    return resample(samples.mean(axis=1), rate, sample_rate)


def collect_noise(noise: dict[Path, float], settings: CorpusSettings, notes: list[str]) -> np.ndarray:
    """The training split's stretches of the recordings, one after the other, for augmentation: (samples,) int16."""
    limit = NOISE_MINUTES * 60 / max(1, len(noise))
    parts = [np.zeros(0, np.int16)]
    for path, seconds in noise.items():
        _, end = noise_stretch(seconds, "train", settings)
        try:
            parts.append(to_pcm16(read_stretch(path, 0, min(end, limit), settings.sample_rate)))
        except AudioError as error:
            notes.append(f"noise: {path} left out of the augmentation: {error}")
    return np.concatenate(parts)
