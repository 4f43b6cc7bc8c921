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
    tone = room_tone(pcm, before + after, sample_rate, generator) * 10 ** (generator.uniform(*_LEVEL_DB) / 20)
    tone = np.clip(np.round(tone), -32768, 32767).astype(np.int16)
    return np.concatenate([tone[:before], pcm, tone[before:]])


def room_tone(pcm: np.ndarray, samples: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Noise with the spectrum and the level of a recording's quietest tenth of a second: (samples,) float64.

    Args:
        pcm: (samples,) int16; if it is shorter than that all of it counts.
    """
    block = round(_TONE_SECONDS * sample_rate)
    whole = pcm[: max(1, len(pcm) // block) * block].astype(np.float64)
    quietest = min(np.split(whole, range(block, len(whole), block)), key=np.std)
    quietest = quietest - quietest.mean()
    # Long enough for the spectrum to have each of the quietest's bins.
    noise = np.fft.rfft(generator.standard_normal(max(samples, block)))
    magnitudes = np.abs(np.fft.rfft(quietest * np.hanning(len(quietest))))
    places = np.linspace(0, len(magnitudes) - 1, len(noise))
    tone = np.fft.irfft(noise * np.interp(places, np.arange(len(magnitudes)), magnitudes), max(samples, block))
    return tone[:samples] * (quietest.std() / (tone.std() or 1.0))
