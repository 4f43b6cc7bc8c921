import numpy as np
import pytest
import scipy.signal

from data_pipeline.generated_noise import SECONDS_EACH, SOUNDS_OF_A_KIND, generated_noise

RATE = 16000


@pytest.fixture(scope="module")
def kinds() -> np.ndarray:
    """(3, sounds, samples) float64, full scale 1."""
    noise = generated_noise(RATE)
    assert noise.dtype == np.int16
    return noise.reshape(3, SOUNDS_OF_A_KIND, SECONDS_EACH * RATE) / 32768


def test_all_sounds_have_one_level(kinds):
    level = 10 * np.log10((kinds**2).mean(axis=2))
    np.testing.assert_allclose(level, -30, atol=0.05)


def test_coloured_noise_falls_by_three_decibels_an_octave_for_each_unit_of_its_exponent(kinds):
    hz, density = scipy.signal.welch(kinds[0], RATE, nperseg=2048)
    band = (hz > 200) & (hz < 6000)
    slope = np.polyfit(np.log2(hz[band]), 10 * np.log10(density[:, band]).T, 1)[0]
    exponents = np.linspace(0, 2.5, SOUNDS_OF_A_KIND)
    np.testing.assert_allclose(slope, -10 * np.log10(2) * exponents, atol=0.4)


def test_every_other_coloured_noise_changes_its_loudness(kinds):
    tenths = (kinds[0].reshape(SOUNDS_OF_A_KIND, -1, RATE // 10) ** 2).mean(axis=2)
    spread = np.ptp(10 * np.log10(tenths), axis=1)
    assert spread[::2].max() < 12 < spread[1::2].min()


def test_harmonic_sounds_have_peaks_in_their_spectrum_and_pauses(kinds):
    _, _, spectrum = scipy.signal.stft(kinds[1], RATE, nperseg=1024)
    power = np.abs(spectrum) ** 2
    loudness = power.sum(axis=1)
    assert (np.ptp(10 * np.log10(loudness[:, 2:-2]), axis=1) > 10).all()
    loudest = np.argmax(loudness, axis=1)
    frames = np.log(power[np.arange(SOUNDS_OF_A_KIND), :, loudest])
    assert (frames.max(axis=1) - np.median(frames, axis=1) > 5).all()  # of noise alone it is 2 to 3


def test_bursts_stand_out_of_what_is_between_them(kinds):
    hundredths = (kinds[2].reshape(SOUNDS_OF_A_KIND, -1, RATE // 100) ** 2).mean(axis=2)
    assert (10 * np.log10(hundredths.max(axis=1) / np.median(hundredths, axis=1)) > 10).all()


def test_it_is_the_same_each_time_and_as_long_at_each_rate():
    before = generated_noise(RATE)
    generated_noise.cache_clear()
    np.testing.assert_array_equal(generated_noise(RATE), before)
    assert len(generated_noise(8000)) == len(before) // 2


def test_nobody_changes_what_others_hear():
    with pytest.raises(ValueError, match="read-only"):
        generated_noise(RATE)[0] = 1
