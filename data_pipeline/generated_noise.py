"""Noise that no recording has: a few recordings are not all rooms there are."""

from functools import lru_cache

import numpy as np

SECONDS_EACH, SOUNDS_OF_A_KIND = 10, 8


@lru_cache(maxsize=1)
def generated_noise(sample_rate: int) -> np.ndarray:
    """24 sounds of 10 s, (samples,) int16, each with an RMS level of -30 dBFS; the same for the same rate.

    A third is noise with a power spectrum of 1 / f ** exponent, from white (0) to beyond brown (2.5), every other one
    with a loudness that changes (rain, wind, an engine); a third harmonic sounds of changing pitch and loudness, without
    a voice's formants (animals, machines, music); a third bursts of such noise (knocks, crackle, steps).
    """
    generator = np.random.default_rng(0)
    kinds = (_coloured_noise, _harmonic_sound, _bursts)
    sounds = [kind(number, sample_rate, generator) for kind in kinds for number in range(SOUNDS_OF_A_KIND)]
    return np.concatenate([_at_level(sound) for sound in sounds])


def _coloured_noise(number: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    samples = SECONDS_EACH * sample_rate
    spectrum = np.fft.rfft(generator.standard_normal(samples))
    exponent = 2.5 * number / (SOUNDS_OF_A_KIND - 1)
    noise = np.fft.irfft(spectrum * np.maximum(np.arange(len(spectrum)), samples / 800) ** (-exponent / 2), samples)
    return noise * _loudness(2.0 ** generator.uniform(0, 5), sample_rate, generator) if number % 2 else noise


def _harmonic_sound(number: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
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


def _bursts(number: int, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """1 to 30 a second, which begin at once and fade within 5 to 200 ms, in some noise."""
    samples = SECONDS_EACH * sample_rate
    a_second = 30 ** (number / (SOUNDS_OF_A_KIND - 1))
    strikes = np.zeros(samples)
    count = round(SECONDS_EACH * a_second)
    strikes[generator.integers(0, samples, count)] = 10 ** generator.uniform(-1, 0, count)
    fade = generator.uniform(0.005, 0.2) * sample_rate
    envelope = np.convolve(strikes, np.exp(-np.arange(5 * int(fade)) / fade))[:samples]
    noise = generator.standard_normal(samples)
    low_passed = np.convolve(noise, np.hanning(generator.integers(3, 30)), mode="same")
    return envelope * low_passed / low_passed.std() + 10 ** generator.uniform(-3, -1.5) * noise


def _loudness(points_a_second: float, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Factors of 0.01 to 1, straight lines between points at random, of which a third are at the bottom."""
    samples = SECONDS_EACH * sample_rate
    points = np.sort(generator.uniform(0, samples, round(points_a_second * SECONDS_EACH)))
    return np.interp(np.arange(samples), points, np.maximum(0.01, generator.uniform(-0.5, 1, len(points))))


def _at_level(sound: np.ndarray) -> np.ndarray:
    return np.round(np.clip(sound / sound.std() * 10**-1.5, -1, 1) * 32767).astype(np.int16)
