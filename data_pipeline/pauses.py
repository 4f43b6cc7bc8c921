"""Pauses before and after a recorded phrase. Recordings are often cut close, but a microphone hears what is between."""

import numpy as np

_TONE_SECONDS = 0.1
_LEVEL_DB = (-30.0, 6.0)
"""Of a pause, against the recording's own background: a gate may have closed, or a window opened."""


def with_pauses(
    pcm: np.ndarray, sample_rate: int, pause_ms: tuple[float, float], generator: np.random.Generator
) -> np.ndarray:
    """A phrase with a pause before and one after it, of one drawn level and of drawn lengths: (samples,) int16.

    Args:
        pcm: (samples,) int16.
        pause_ms: the shortest and the longest pause.
    """
    before, after = np.round(generator.uniform(*pause_ms, 2) * sample_rate / 1000).astype(int)
    tone = room_tone(pcm, before + after, sample_rate, generator, generator.uniform(*_LEVEL_DB))
    tone = np.clip(np.round(tone), -32768, 32767).astype(np.int16)
    return np.concatenate([tone[:before], pcm, tone[before:]])


def room_tone(
    pcm: np.ndarray, samples: int, sample_rate: int, generator: np.random.Generator, level_db: float = 0.0
) -> np.ndarray:
    """Noise with spectrum, level and offset of a recording's quietest tenth of a second: (samples,) float64.

    Args:
        pcm: (samples,) int16; if it is shorter than that all of it counts.
        level_db: so much louder, without the offset.
    """
    block = round(_TONE_SECONDS * sample_rate)
    quiet = quietest(pcm, block).astype(np.float64)
    offset, level = quiet.mean(), quiet.std() * 10 ** (level_db / 20)
    # Whole blocks: long enough for the spectrum to have each of the quiet moment's bins, and of quick lengths.
    length = max(1, -(-samples // block)) * block
    noise = np.fft.rfft(generator.standard_normal(length))
    magnitudes = np.abs(np.fft.rfft((quiet - offset) * np.hanning(len(quiet))))
    places = np.linspace(0, len(magnitudes) - 1, len(noise))
    tone = np.fft.irfft(noise * np.interp(places, np.arange(len(magnitudes)), magnitudes), length)
    return offset + tone[:samples] * (level / (tone.std() or 1.0))


def quietest(pcm: np.ndarray, samples: int) -> np.ndarray:
    """Of a recording's blocks of so many samples, none of which overlap, the one with the lowest deviation.

    >>> quietest(np.array([1, 5, 8, 9, -7]), 2)
    array([8, 9])

    Args:
        pcm: (samples,); if it is shorter than a block, that is all of it.
    """
    if len(pcm) < samples:
        return pcm
    return min(pcm[: len(pcm) // samples * samples].reshape(-1, samples), key=np.std)
