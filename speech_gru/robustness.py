"""How a recogniser stands noise, a telephone, distance and haste: the same clips again, each time spoilt in one way.

Written in NumPy and SciPy, apart from training's augmentation, so that it doesn't measure what that teaches.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from scipy.signal import butter, resample_poly, sosfilt
from scipy.stats import binomtest

from data_pipeline.audio import AudioError, load_audio
from data_pipeline.errors import UserError
from data_pipeline.files import AUDIO_SUFFIXES, files_under, write_text, written_aside
from speech_gru.evaluation import Predict, picture

SNRS_DB = (20, 10, 5, 0)
TELEPHONE_HZ = (300, 3400)
LEVEL_DB = -20
SHIFT_MS = 100
SPEEDS = (0.9, 1.1)
_BATCH = 256

Spoil = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Clips (batch, samples) float32 and a source of chance -> the clips as they are heard then."""


@dataclass(frozen=True)
class Condition:
    """A way in which clips are spoilt."""

    name: str
    spoil: Spoil


def conditions(noise: Sequence[np.ndarray], sample_rate: int) -> list[Condition]:
    """All that is measured; `noise` are recordings at the sampling rate, for the signal-to-noise ratios."""
    shift = round(SHIFT_MS * sample_rate / 1000)
    found = [Condition("clean", lambda clips, chance: clips)]
    found += [Condition(f"{snr} dB SNR", _noisy(noise, snr)) for snr in SNRS_DB]
    found.append(Condition("telephone", _telephone(sample_rate)))
    found.append(Condition(f"{LEVEL_DB} dB level", lambda clips, chance: clips * np.float32(10 ** (LEVEL_DB / 20))))
    found += [
        Condition(f"{sign * SHIFT_MS:+d} ms", lambda clips, chance, by=sign * shift: _shifted(clips, by))
        for sign in (-1, 1)
    ]
    found += [Condition(f"speed {speed}", lambda clips, chance, by=speed: _at_speed(clips, by)) for speed in SPEEDS]
    return found


def _noisy(noise: Sequence[np.ndarray], snr_db: float) -> Spoil:
    def spoil(clips: np.ndarray, chance: np.random.Generator) -> np.ndarray:
        samples = clips.shape[1]
        cuts = np.stack([_cut(noise[chance.integers(len(noise))], samples, chance) for _ in clips])
        ratio = _power(clips) / np.maximum(_power(cuts), 1e-12) / 10 ** (snr_db / 10)
        return (clips + cuts * np.sqrt(ratio)[:, None]).astype(np.float32)

    return spoil


def _cut(recording: np.ndarray, samples: int, chance: np.random.Generator) -> np.ndarray:
    """A stretch of a recording, which is repeated if it is shorter."""
    start = chance.integers(max(1, len(recording) - samples + 1))
    return np.resize(recording[start:], samples)


def _power(clips: np.ndarray) -> np.ndarray:
    return np.mean(np.square(clips, dtype=np.float64), axis=1)


def _telephone(sample_rate: int) -> Spoil:
    low, high = TELEPHONE_HZ
    high = min(high, 0.45 * sample_rate)
    band = butter(6, (low, high), "bandpass", fs=sample_rate, output="sos")
    return lambda clips, chance: sosfilt(band, clips, axis=1).astype(np.float32)


def _shifted(clips: np.ndarray, by: int) -> np.ndarray:
    """Moved by so many samples; zeros come in."""
    moved = np.zeros_like(clips)
    if by >= 0:
        moved[:, by:] = clips[:, : clips.shape[1] - by]
    else:
        moved[:, :by] = clips[:, -by:]
    return moved


def _at_speed(clips: np.ndarray, speed: float) -> np.ndarray:
    """Played faster and higher, or slower, about the middle; the length stays."""
    ratio = Fraction(speed).limit_denominator(20)
    played = resample_poly(clips, ratio.denominator, ratio.numerator, axis=1).astype(np.float32)
    missing = clips.shape[1] - played.shape[1]
    if missing >= 0:
        return np.pad(played, ((0, 0), (missing // 2, missing - missing // 2)))
    return played[:, -missing // 2 : -missing // 2 + clips.shape[1]]


def _within_full_scale(clips: np.ndarray) -> np.ndarray:
    """Clips that are too loud for any file or microphone, quieter as a whole: noise keeps its distance."""
    return clips / np.maximum(1, np.abs(clips).max(axis=1, keepdims=True))


def load_noise(folder: Path, sample_rate: int) -> list[np.ndarray]:
    """All recordings under a folder, at the sampling rate. Raises UserError if there are none, or one is unusable."""
    names = [name for name in files_under(folder, []) if Path(name).suffix.lower() in AUDIO_SUFFIXES]
    if not names:
        raise UserError(f"{folder}: no recordings of noise; expected {' '.join(sorted(AUDIO_SUFFIXES))}")
    return [_load(folder / name, sample_rate) for name in names]


def _load(path: Path, sample_rate: int) -> np.ndarray:
    try:
        return load_audio(path, sample_rate)
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error


def measure_robustness(
    predict: Predict,
    clips: np.ndarray,
    truth: np.ndarray,
    noise: Sequence[np.ndarray],
    sample_rate: int,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> list[dict]:
    """For each condition: condition, clips, correct, accuracy, accuracy_interval (Wilson's, 95 %).

    A clip that a condition makes louder than full scale is heard at full scale, its noise as far below it as before.

    Args:
        clips: (clips, samples) float32.
        truth: (clips,) index of the label.
    """
    rows, tried = [], conditions(noise, sample_rate)
    for number, condition in enumerate(tried):
        correct = 0
        for start in range(0, len(clips), _BATCH):
            chance = np.random.default_rng((number, start))
            spoilt = _within_full_scale(condition.spoil(clips[start : start + _BATCH], chance))
            correct += int((predict(spoilt).argmax(axis=1) == truth[start : start + _BATCH]).sum())
            progress(number * len(clips) + min(start + _BATCH, len(clips)), len(tried) * len(clips))
        interval = binomtest(correct, len(clips)).proportion_ci(method="wilson")
        rows.append(
            {
                "condition": condition.name,
                "clips": len(clips),
                "correct": correct,
                "accuracy": correct / len(clips),
                "accuracy_interval": [interval.low, interval.high],
            }
        )
    return rows


def write_robustness(rows: list[dict], folder: Path) -> None:
    """Writes robustness.json and robustness.png."""
    from matplotlib.image import imsave

    write_text(folder / "robustness.json", json.dumps(rows, indent=2) + "\n")
    with written_aside(folder / "robustness.png") as aside:
        imsave(aside, picture(robustness_figure(rows)), format="png")


def robustness_figure(rows: list[dict]):
    """A Matplotlib figure: a bar for each condition, with its interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.4 * len(rows) + 1), layout="constrained")
    axes = figure.subplots()
    shares = np.array([row["accuracy"] for row in rows])
    low, high = np.array([row["accuracy_interval"] for row in rows]).T
    axes.barh([row["condition"] for row in rows], shares, xerr=[shares - low, high - shares], color="#5b8db8")
    for place, share in enumerate(shares):
        axes.text(0.01, place, f"{share:.1%}", va="center", color="white")
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("accuracy, with its 95 % interval")
    return figure
