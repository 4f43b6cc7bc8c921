"""Noise that no recording has: a few recordings are not all rooms there are."""

from functools import lru_cache

import numpy as np
import scipy.signal

SECONDS_EACH, SOUNDS_OF_A_KIND = 10, 8
_LOWEST_HZ = 50.0
"""Below it speech has nothing, and steep noise nearly all of its power: its level would say little."""


@lru_cache(maxsize=1)  # for silence and for background noise
def generated_noise(sample_rate: int) -> np.ndarray:
    """24 sounds of 10 s, (samples,) int16, each with an RMS level of -30 dBFS; the same for the same rate, read-only.

    Eight are noise with a power spectrum of 1 / f ** exponent, from white (0) to beyond brown (2.5), every other one
    with a loudness that changes (rain, wind, an engine). Eight are harmonic sounds of changing pitch and loudness,
    without a voice's formants (animals, machines, music), and eight rows of bursts (knocks, crackle, steps).

    Args:
        sample_rate: in Hz.
    """
    generator = np.random.default_rng(0)
    kinds = (_coloured_noise, _harmonic_sound, _bursts)
    shares = np.linspace(0, 1, SOUNDS_OF_A_KIND)
    sounds = [_at_level(kind(share, sample_rate, generator)) for kind in kinds for share in shares]
    noise = np.concatenate(sounds)
    noise.flags.writeable = False
    return noise


def _coloured_noise(share: float, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """`share` of the way from white noise to the steepest."""
    samples = SECONDS_EACH * sample_rate
    hz = np.fft.rfftfreq(samples, 1 / sample_rate)
    weights = np.where(hz < _LOWEST_HZ, 0, np.maximum(hz, _LOWEST_HZ) ** (-2.5 * share / 2))
    noise = np.fft.irfft(np.fft.rfft(generator.standard_normal(samples)) * weights, samples)
    is_steady = round(share * (SOUNDS_OF_A_KIND - 1)) % 2 == 0
    return noise if is_steady else noise * _loudness(2 ** generator.uniform(0, 5), sample_rate, generator)


def _harmonic_sound(_: float, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """20 harmonics of a pitch of 60 to 1500 Hz, with pauses, in some noise."""
    samples = SECONDS_EACH * sample_rate
    points = np.sort(generator.uniform(0, samples, 4 * SECONDS_EACH))
    time = np.arange(samples)
    octaves = np.interp(time, points, generator.uniform(0, np.log2(1500 / 60), len(points)))
    hz = 60 * 2**octaves
    phase, sound = 2 * np.pi * np.cumsum(hz) / sample_rate, np.zeros(samples)
    slope = generator.uniform(0.3, 2.0)
    for harmonic in range(1, 21):
        inside = harmonic * hz < 0.45 * sample_rate
        sound += inside * harmonic**-slope * np.sin(harmonic * phase + generator.uniform(0, 2 * np.pi))
    noise = generator.standard_normal(samples) * 10 ** generator.uniform(-2, -0.5)
    return _loudness(4, sample_rate, generator) * sound / sound.std() + noise


def _bursts(share: float, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Bursts of noise, 1 to 30 a second, that begin suddenly and fade within 5 to 200 ms, in some noise."""
    samples = SECONDS_EACH * sample_rate
    strikes, count = np.zeros(samples), round(SECONDS_EACH * 30**share)
    strikes[generator.integers(0, samples, count)] = 10 ** generator.uniform(-1, 0, count)
    fade = generator.uniform(0.005, 0.2) * sample_rate
    envelope = scipy.signal.fftconvolve(strikes, np.exp(-np.arange(round(5 * fade)) / fade))[:samples]
    noise = generator.standard_normal(samples)
    width = 3 + round(generator.uniform(0, 0.0017) * sample_rate)
    low_passed = scipy.signal.fftconvolve(noise, np.hanning(width), mode="same")
    return envelope * low_passed / low_passed.std() + 10 ** generator.uniform(-3, -1.5) * noise


def _loudness(points_a_second: float, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Factors of 0.01 to 1, straight lines between points at random, of which a third are at the bottom."""
    samples = SECONDS_EACH * sample_rate
    points = np.sort(generator.uniform(0, samples, round(points_a_second * SECONDS_EACH)))
    return np.interp(np.arange(samples), points, np.maximum(0.01, generator.uniform(-0.5, 1, len(points))))


def _at_level(sound: np.ndarray) -> np.ndarray:
    return np.round(np.clip(sound / sound.std() * 10**-1.5, -1, 1) * 32767).astype(np.int16)
