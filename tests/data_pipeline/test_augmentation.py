"""Each augmentation's effect, measured with NumPy; the chains, in order and with the parts that the settings say."""

import keras
import numpy as np
import pytest
import soundfile
import soxr
import tensorflow as tf

from data_pipeline.augmentation import (
    BackgroundNoise,
    FreshSilence,
    FreshUnknown,
    Gain,
    Microphone,
    Mixup,
    SpecAugment,
    Speed,
    TimeShift,
    VocalTract,
    build_feature_augmentation,
    build_waveform_augmentation,
)
from data_pipeline.front_end import FrontEnd
from data_pipeline.settings import AugmentSettings

RATE = 16000
OFF = {
    "time_shift_ms": 0,
    "gain_db": None,
    "speed": None,
    "noise_probability": 0,
    "time_masks": 0,
    "frequency_masks": 0,
}


def seeded(*numbers: int) -> tf.Tensor:
    return tf.constant(numbers or (1, 2), tf.int64)


def random_clips(batch: int, samples: int = RATE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (batch, samples)).astype(np.float32)


def power(audio: np.ndarray) -> np.ndarray:
    return np.mean(np.square(audio, dtype=np.float64), axis=-1)


def quiet() -> np.ndarray:
    """Recorded noise, int16."""
    return (random_clips(1, 50000)[0] * 3000).astype(np.int16)


WAVEFORM_LAYERS = {
    "time shift": lambda: TimeShift(1600),
    "gain": lambda: Gain(-10, 6),
    "speed": lambda: Speed(0.9, 1.1),
    "microphone": lambda: Microphone(0.7, np.arange(8000.0)),  # as many bins as the clips have samples
    "fresh silence": lambda: (
        lambda audio, seed: FreshSilence(quiet(), 16000)(audio, seed, tf.ones(tf.shape(audio)[0], bool))
    ),
    "noise": lambda: BackgroundNoise(random_clips(1, 50000)[0], 0.7, 0, 25),
    "all": lambda: build_waveform_augmentation(AugmentSettings(), RATE, random_clips(1, 50000)[0]),
}


@pytest.mark.parametrize("layer", WAVEFORM_LAYERS.values(), ids=WAVEFORM_LAYERS)
def test_waveform_draws_are_a_function_of_the_seed_and_differ_between_clips(layer):
    audio = np.repeat(random_clips(1, 8000), 4, axis=0)
    layer = layer()
    once = np.array(layer(audio, seeded(1, 2)))
    assert once.shape == audio.shape
    assert once.dtype == np.float32
    steps = tf.data.Dataset.from_tensors((audio, seeded(1, 2))).repeat(2)
    for again in steps.map(layer).as_numpy_iterator():  # in a graph, and at each step
        np.testing.assert_allclose(again, once, atol=1e-6)
    assert np.abs(layer(audio, seeded(1, 3)) - once).max() > 0.01
    assert np.abs(layer(audio, seeded(0, 2)) - once).max() > 0.01
    assert len(np.unique(once[:, 2000:6000], axis=0)) > 1


FEATURE_LAYERS = {
    "mixup": {"mixup": 0.4} | {"time_masks": 0, "frequency_masks": 0},
    "spec augment": {},
    "both": {"mixup": 0.4},
}


@pytest.mark.parametrize("settings", FEATURE_LAYERS.values(), ids=FEATURE_LAYERS)
def test_feature_draws_are_a_function_of_the_seed(settings):
    features, labels = random_clips(6, 49 * 40).reshape(6, 49, 40), np.eye(6, dtype=np.float32)
    augment = build_feature_augmentation(AugmentSettings(**settings))
    once = np.array(augment(features, labels, seeded(1, 2))[0])
    steps = tf.data.Dataset.from_tensors((features, labels, seeded(1, 2)))
    np.testing.assert_allclose(next(steps.map(augment).as_numpy_iterator())[0], once, atol=1e-6)
    assert once.shape == features.shape
    assert np.abs(augment(features, labels, seeded(1, 3))[0] - once).max() > 0.01


def test_static_shapes_are_kept_and_unknown_ones_taken():
    augment = build_waveform_augmentation(AugmentSettings(), RATE, random_clips(1, 50000)[0])
    spec = (tf.TensorSpec([None, 8000]), tf.TensorSpec([2], tf.int32))
    assert tf.function(augment, input_signature=spec).get_concrete_function().output_shapes.as_list() == [None, 8000]
    spec = (tf.TensorSpec([None, None]), tf.TensorSpec([2], tf.int64))
    unknown = tf.function(augment, input_signature=spec)
    for shape in ((2, 1000), (3, 9999)):
        audio = random_clips(*shape)
        np.testing.assert_allclose(unknown(audio, seeded()), augment(audio, seeded()), atol=1e-5)


def test_computes_in_float32_under_any_policy():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        layers = [make() for make in WAVEFORM_LAYERS.values()]
        mixup = Mixup(0.2)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {layer(random_clips(2), seeded()).dtype for layer in layers} == {tf.float32}
    mixed = mixup(random_clips(2).reshape(2, 100, 160), np.eye(2, dtype=np.float32), seeded())
    assert {part.dtype for part in mixed} == {tf.float32}


def test_time_shift_moves_by_whole_samples_and_lets_zeros_in():
    audio = random_clips(300, 200)
    shifted = np.array(TimeShift(30)(audio, seeded()))
    padded = np.pad(audio, ((0, 0), (30, 30)))
    found = []
    for clip, out in zip(padded, shifted, strict=True):
        matches = [30 - start for start in range(61) if np.array_equal(clip[start : start + 200], out)]
        assert len(matches) == 1
        found += matches
    assert set(found) == set(range(-30, 31))


def test_time_shift_longer_than_the_clip_can_leave_silence():
    shifted = np.array(TimeShift(1000)(random_clips(50, 100), seeded()))
    assert (power(shifted) == 0).any()


def test_gain_is_uniform_in_decibels():
    audio = random_clips(2000, 50)
    louder = np.array(Gain(-10, 6)(audio, seeded()))
    gain = 10 * np.log10(power(louder) / power(audio))
    assert -10 <= gain.min() < -9.8
    assert 5.8 < gain.max() <= 6.001
    assert gain.mean() == pytest.approx(-2, abs=0.5)
    np.testing.assert_allclose(louder, audio * 10 ** (gain[:, None] / 20), atol=1e-6)


def test_speed_moves_a_tone_by_factors_from_low_to_high():
    time = np.arange(RATE) - (RATE - 1) / 2
    tone = np.cos(2 * np.pi * 3000 / RATE * time).astype(np.float32)
    played = np.array(Speed(0.9, 1.1)(np.repeat(tone[None], 300, axis=0), seeded()))
    spectrum = np.abs(np.fft.rfft(played[:, 1000:15000] * np.hanning(14000), 4 * RATE))
    factors = spectrum.argmax(axis=1) / 4 / 3000
    grid = np.arange(144, 177) / 160
    assert np.abs(factors[:, None] - grid).min(axis=1).max() < 1e-4
    assert len(set(np.abs(factors[:, None] - grid).argmin(axis=1))) == 33


@pytest.mark.parametrize("factor", [0.5, 0.9, 0.95, 1.05, 1.1, 2])
@pytest.mark.parametrize("hertz", [100, 1000, 3000])
def test_speed_resamples_a_tone_about_the_centre(factor, hertz):
    time = np.arange(RATE)
    position = round((RATE - 1) / 2 * (1 - factor)) + factor * time  # the centre, to half a sample
    tone = np.sin(2 * np.pi * hertz / RATE * time).astype(np.float32)
    played = np.array(Speed(factor, factor)(tone[None], seeded()))[0]
    inside = (position > 40) & (position < RATE - 40)
    error = played - np.sin(2 * np.pi * hertz / RATE * position)
    assert 10 * np.log10(power(error[inside]) / 0.5) < -70
    assert np.abs(played[(position < -40) | (position > RATE + 40)]).max(initial=0) == 0


@pytest.mark.parametrize("factor", [0.9, 1.1, 1.25])
def test_speed_equals_soxr_on_speech(shared_data, factor):
    audio, rate = soundfile.read(min((shared_data / "speech_commands" / "five").glob("*.opus")), dtype="float32")
    start = round((len(audio) - 1) / 2 * (1 - factor))
    source = audio[start:] if start >= 0 else np.pad(audio, (-start, 0))
    expected = soxr.resample(np.pad(source, (0, len(audio))), rate * factor, rate, "VHQ")[200 : len(audio) - 200]
    played = np.array(Speed(factor, factor)(audio[None], seeded()))[0, 200:-200]
    assert 10 * np.log10(power(played - expected) / power(expected)) < -40


def test_speed_one_changes_nothing():
    audio = random_clips(3)
    np.testing.assert_allclose(Speed(1, 1)(audio, seeded()), audio, atol=1e-6)


def test_faster_speech_does_not_fold_over():
    """At double speed 6 kHz would be 12 kHz: it must vanish, not come back as 4 kHz."""
    tone = np.sin(2 * np.pi * 6000 / RATE * np.arange(RATE)).astype(np.float32)
    assert power(np.array(Speed(2, 2)(tone[None], seeded()))[0, 5000:11000]) < 1e-6


class TestSpeedFromTheStart:
    """Clips of lengths of their own, in a batch of 12000 samples with zeros after each."""

    LENGTHS = (12000, 8001, 3000)

    def play(self, low: float, high: float, hertz: float = 1000, seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
        inside = np.arange(12000) < np.array(self.LENGTHS)[:, None]
        tone = np.sin(2 * np.pi * hertz / RATE * np.arange(12000)) * inside
        lengths = tf.constant(self.LENGTHS, tf.int32)
        played, lengths = Speed(low, high).from_start(tone.astype(np.float32), seeded(1, seed), lengths)
        return np.array(played), np.array(lengths)

    @pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 1.25, 2])
    @pytest.mark.parametrize("hertz", [100, 1000, 3000])
    def test_lengths_and_frequencies_change_by_the_factor(self, factor, hertz):
        played, lengths = self.play(factor, factor, hertz)
        np.testing.assert_array_equal(lengths, [int(length / factor) for length in self.LENGTHS])
        assert played.shape == (3, int(12000 / factor))
        for row, length in zip(played, lengths, strict=True):
            expected = np.sin(2 * np.pi * hertz * factor / RATE * np.arange(length))
            error = (row[:length] - expected)[100:-100]
            assert 10 * np.log10(power(error) / 0.5) < -70
            assert np.abs(row[length + 40 :]).max(initial=0) == 0

    def test_one_changes_nothing(self):
        audio, lengths = random_clips(3, 12000), tf.constant(self.LENGTHS, tf.int32)
        played, new = Speed(1, 1).from_start(audio, seeded(), lengths)
        np.testing.assert_allclose(played, audio, atol=1e-6)
        np.testing.assert_array_equal(new, lengths)

    def test_each_clip_has_its_own_factor_and_none_is_cut(self):
        drawn = set()
        for seed in range(30):
            played, lengths = self.play(0.8, 1.25, seed=seed)
            factors = np.array(self.LENGTHS) / lengths
            drawn |= set(np.round(factors * 160).astype(int))
            assert played.shape == (3, 15000)
            assert lengths.max() <= 15000
        assert len(drawn) > 30
        assert 128 <= min(drawn) <= max(drawn) <= 200

    @pytest.mark.parametrize("factor", [0.85, 1.003, 1.105, 2])
    def test_the_length_is_known_beforehand(self, factor):
        _, lengths = self.play(factor, factor)
        assert [Speed.shortened(length, factor) for length in self.LENGTHS] == lengths.tolist()

    def test_in_a_graph_of_unknown_lengths(self):
        spec = (tf.TensorSpec([None, None]), tf.TensorSpec([2], tf.int64), tf.TensorSpec([None], tf.int32))
        play = tf.function(Speed(0.9, 1.1).from_start, input_signature=spec)
        for samples in (160, 1000, 1001):
            audio, lengths = random_clips(2, samples), tf.constant([samples, samples // 2], tf.int32)
            for part, same in zip(
                play(audio, seeded(), lengths), Speed(0.9, 1.1).from_start(audio, seeded(), lengths), strict=True
            ):
                np.testing.assert_allclose(part, same, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_noise_has_the_drawn_signal_to_noise_ratio(dtype):
    audio = random_clips(1000, 800)
    noise = np.random.default_rng(5).normal(0, 0.1, 20000)
    noise = (noise * 32768).astype(dtype) if dtype is np.int16 else noise.astype(dtype)
    added = np.array(BackgroundNoise(noise, 0.7, 0, 25)(audio, seeded())) - audio
    chosen = power(added) > 0
    assert chosen.mean() == pytest.approx(0.7, abs=0.05)
    ratio = 10 * np.log10(power(audio[chosen]) / power(added[chosen]))
    assert -0.01 <= ratio.min() < 0.5
    assert 24.5 < ratio.max() <= 25.01
    assert ratio.mean() == pytest.approx(12.5, abs=1)


def test_the_signal_to_noise_ratio_of_clips_of_different_lengths_is_over_their_own_samples():
    """The noise comes in bursts: over the zeros behind a clip it is another one than over the clip."""
    lengths = np.array([4000, 2000, 500, 100] * 50)
    inside = np.arange(4000) < lengths[:, None]
    audio = random_clips(200, 4000) * inside
    bursts = np.repeat(np.random.default_rng(5).uniform(0.01, 1, 250), 160)
    noise = (random_clips(1, len(bursts), seed=6)[0] * bursts).astype(np.float32)
    added = np.array(BackgroundNoise(noise, 1, 7, 7)(audio, seeded(), tf.constant(lengths, tf.int32))) - audio
    for clip, sound, length in zip(audio, added, lengths, strict=True):
        assert 10 * np.log10(power(clip[:length]) / power(sound[:length])) == pytest.approx(7, abs=0.01)
        assert not sound[length:].any()


def test_noise_for_clips_without_samples():
    audio = np.zeros((2, 500), np.float32)
    np.testing.assert_array_equal(BackgroundNoise(quiet(), 1, 0, 0)(audio, seeded(), tf.constant([0, 3])), audio)


def test_noise_is_a_stretch_of_the_noise_that_starts_anywhere():
    audio, noise = random_clips(200, 1000), random_clips(1, 160 * 40, seed=7)[0]
    added = np.array(BackgroundNoise(noise, 1, 0, 0)(audio, seeded())) - audio
    cuts = np.stack([noise[start : start + 1000] for start in range(0, 160 * 34, 160)])
    likeness = (added @ cuts.T) / np.linalg.norm(added, axis=1)[:, None] / np.linalg.norm(cuts, axis=1)
    np.testing.assert_allclose(likeness.max(axis=1), 1, atol=1e-5)
    assert set(likeness.argmax(axis=1)) == set(range(34))


@pytest.mark.parametrize("samples", [100, 480, 500])
def test_noise_shorter_than_a_clip_is_repeated(samples):
    audio, noise = random_clips(20, 4000), random_clips(1, samples)[0]
    added = np.array(BackgroundNoise(noise, 1, 0, 0)(audio, seeded())) - audio
    np.testing.assert_allclose(power(added), power(audio), rtol=1e-4)
    period = max(160, samples // 160 * 160)
    np.testing.assert_allclose(added[:, period:], added[:, :-period], atol=1e-6)


@pytest.mark.parametrize(("clip_level", "noise_level"), [(0, 1), (1, 0), (0, 0), (1e-30, 1), (1, 1e-30)])
def test_silence_stays_finite_and_as_it_is(clip_level, noise_level):
    audio, noise = random_clips(4, 1000) * np.float32(clip_level), random_clips(1, 5000)[0] * np.float32(noise_level)
    np.testing.assert_array_equal(BackgroundNoise(noise, 1, 0, 25)(audio, seeded()), audio)


def runs(masked: np.ndarray) -> list[int]:
    """Lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], masked.astype(int), [0]])))
    return list(edges[1::2] - edges[::2])


@pytest.mark.parametrize(("axis", "masks", "widest"), [(1, 1, 24), (1, 2, 5), (2, 1, 5), (2, 3, 4)])
def test_masks_are_as_many_and_as_wide_as_configured(axis, masks, widest):
    features = np.random.default_rng(3).normal(5, 1, (800, 49, 40)).astype(np.float32)
    layer = SpecAugment(masks, widest, 0, 1) if axis == 1 else SpecAugment(0, 1, masks, widest)
    out = np.array(layer(features, seeded()))
    mean = np.broadcast_to(features.mean(axis=1, keepdims=True), features.shape)
    masked = np.abs(out - mean) < 1e-5
    np.testing.assert_array_equal(np.where(masked, 0, out), np.where(masked, 0, features))
    other = 3 - axis
    lines = masked.mean(axis=other) > 0.5
    np.testing.assert_array_equal(masked.mean(axis=other) > 0.99, lines)  # a mask spans the other axis
    found = [runs(line) for line in lines]
    assert max(map(len, found)) == masks
    assert max(map(sum, found)) <= masks * widest
    if masks == 1:
        widths = np.bincount([sum(run) for run in found], minlength=widest + 1)
        assert len(widths) == widest + 1
        assert np.average(np.arange(widest + 1), weights=widths) == pytest.approx(widest / 2, rel=0.08)
        np.testing.assert_allclose(widths / len(features), 1 / (widest + 1), atol=0.05)
    covered = lines.mean(axis=0)
    assert covered[[0, -1]].min() > 0  # the ends are reached
    inner = slice(widest, -widest)
    np.testing.assert_allclose(covered[inner], covered[inner].mean(), atol=0.1)


def test_masks_wider_than_the_clip_stay_within_it():
    features = np.random.default_rng(3).normal(0, 1, (500, 5, 3)).astype(np.float32)
    out = np.array(SpecAugment(1, 50, 0, 50)(features, seeded()))
    assert (out != features).all(axis=(1, 2)).mean() == pytest.approx(1 / 6, abs=0.05)  # 0 to 5 frames, all as likely


def test_masks_stay_within_clips_of_different_lengths_and_have_their_means():
    lengths = np.array([40, 20, 3, 1, 0] * 200)
    inside = (np.arange(40) < lengths[:, None])[:, :, None]
    features = np.random.default_rng(3).normal(5, 1, (1000, 40, 4)).astype(np.float32) * inside
    out = np.array(SpecAugment(1, 10, 0, 1)(features, seeded(), tf.constant(lengths, tf.int32)))
    masked = (out != features).any(axis=2)
    assert not (masked & ~inside[:, :, 0]).any()
    for clip, result, mask, length in zip(features, out, masked, lengths, strict=True):
        if mask.any():
            expected = np.broadcast_to(clip[:length].mean(axis=0), (mask.sum(), 4))
            np.testing.assert_allclose(result[mask], expected, rtol=1e-5)
    for length in (40, 20):
        assert masked[lengths == length].mean(axis=0)[:length].min() > 0.02  # any place can be under a mask
    assert masked[lengths == 20].sum(axis=1).max() == 10


@pytest.mark.parametrize("alpha", [0.2, 1, 4])
def test_mixup_weights_follow_the_beta_distribution(alpha):
    clips = 4000
    labels = np.eye(clips, dtype=np.float32)
    features = np.arange(clips, dtype=np.float32)[:, None, None] * np.ones((1, 2, 3), np.float32)
    mixed, soft = map(np.array, Mixup(alpha)(features, labels, seeded()))
    weight = np.diag(soft)
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(mixed[:, 1, 2], soft @ np.arange(clips), rtol=1e-4, atol=1e-2)
    partner = (soft - np.diag(weight)).argmax(axis=1)[weight < 0.99]
    assert (
        len(set((partner - np.arange(clips)[weight < 0.99]) % clips)) == 1
    )  # one distance, so that all take part alike
    assert weight.mean() == pytest.approx(0.5, abs=0.03)
    assert weight.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


@pytest.mark.parametrize("alpha", [0.001, 0.01])
def test_mixup_with_a_tiny_alpha_stays_finite(alpha):
    mixed, soft = Mixup(alpha)(np.ones((500, 2, 3), np.float32), np.eye(500, dtype=np.float32), seeded())
    np.testing.assert_allclose(mixed, 1, atol=1e-6)
    np.testing.assert_allclose(np.sum(soft, axis=1), 1, atol=1e-6)


def test_mixup_never_takes_a_clip_for_its_own_partner():
    for number in range(20):
        weight = np.array(Mixup(5)(np.ones((2, 1, 1), np.float32), np.eye(2, dtype=np.float32), seeded(0, number))[1])
        assert weight.max() < 1


def test_mixup_of_a_single_clip_is_that_clip():
    clip = random_clips(1, 6).reshape(1, 2, 3)
    mixed, soft = Mixup(0.4)(clip, np.ones((1, 1), np.float32), seeded())
    np.testing.assert_allclose(mixed, clip, atol=1e-6)
    np.testing.assert_allclose(soft, 1)


def test_settings_switch_parts_off():
    audio, noise = random_clips(8), random_clips(1, 50000)[0]
    features, labels = random_clips(8, 49 * 40).reshape(8, 49, 40), np.eye(8, dtype=np.float32)
    settings = AugmentSettings(**OFF)
    np.testing.assert_array_equal(build_waveform_augmentation(settings, RATE, noise)(audio, seeded()), audio)
    for part, out in zip(
        (features, labels), build_feature_augmentation(settings)(features, labels, seeded()), strict=True
    ):
        np.testing.assert_array_equal(out, part)
    settings = AugmentSettings(**OFF | {"speed": (1, 1), "gain_db": (0, 0), "noise_probability": 1})
    for no_noise in (None, np.zeros(0, np.int16)):
        np.testing.assert_array_equal(build_waveform_augmentation(settings, RATE, no_noise)(audio, seeded()), audio)


@pytest.mark.parametrize("recorded_minutes", [0, 4])
def test_generated_noise_is_cut_as_if_it_were_one_more_recording(recorded_minutes):
    audio = random_clips(400, 1600)
    recorded = np.where(np.arange(recorded_minutes * 60 * RATE) % 2, 800, -800).astype(np.int16)  # a tone
    settings = AugmentSettings(**OFF | {"noise_probability": 1, "snr_db": (0, 0), "generated_noise": True})
    added = build_waveform_augmentation(settings, RATE, recorded)(audio, seeded()).numpy() - audio
    np.testing.assert_allclose(power(added), power(audio), rtol=1e-3)
    is_recorded = np.ptp(np.abs(added), axis=1) < 1e-4
    assert is_recorded.mean() == pytest.approx(0.5 if recorded_minutes else 0, abs=0.1)


PARTS = {
    "speed": {"speed": (0.9, 1.1)},
    "time shift": {"time_shift_ms": 100},
    "noise": {"noise_probability": 1},
    "gain": {"gain_db": (-10, 6)},
}


def test_the_chain_is_its_parts_in_order_and_each_keeps_its_draws():
    audio, noise = random_clips(8), random_clips(1, 50000)[0]
    together = {key: value for part in PARTS.values() for key, value in part.items()}
    expected = build_waveform_augmentation(AugmentSettings(**OFF | together), RATE, noise)(audio, seeded())
    for part in PARTS.values():
        audio = build_waveform_augmentation(AugmentSettings(**OFF | part), RATE, noise)(audio, seeded())
    np.testing.assert_allclose(audio, expected, atol=1e-6)


def test_features_are_mixed_before_they_are_masked():
    features, labels = random_clips(8, 49 * 40).reshape(8, 49, 40), np.eye(8, dtype=np.float32)
    masks = {"time_masks": 2, "frequency_masks": 2}
    expected = build_feature_augmentation(AugmentSettings(**OFF | masks, mixup=0.5))(features, labels, seeded())
    mixed, soft = build_feature_augmentation(AugmentSettings(**OFF, mixup=0.5))(features, labels, seeded())
    masked, unchanged = build_feature_augmentation(AugmentSettings(**OFF | masks))(mixed, soft, seeded())
    np.testing.assert_array_equal(unchanged, expected[1])
    np.testing.assert_allclose(masked, expected[0], atol=1e-6)


def test_no_two_parts_draw_with_the_same_seed(monkeypatch):
    numbers = []
    fold_in = tf.random.experimental.stateless_fold_in
    monkeypatch.setattr(
        tf.random.experimental,
        "stateless_fold_in",
        lambda seed, number: numbers.append(number) or fold_in(seed, number),
    )
    settings = AugmentSettings(mixup=0.5)
    build_waveform_augmentation(settings, RATE, np.ones(50000, np.int16))(random_clips(2), seeded())
    build_feature_augmentation(settings)(np.ones((2, 49, 40), np.float32), np.eye(2, dtype=np.float32), seeded())
    assert len(numbers) == len(set(numbers)) == 6


def test_speech_stays_speech(shared_data):
    """The whole chain on a real word: finite, neither silenced nor blown up."""
    word, _ = soundfile.read(min((shared_data / "speech_commands" / "stop").glob("*.opus")), dtype="float32")
    noise, _ = soundfile.read(min((shared_data / "noise" / "esc10" / "rain").glob("*.opus")), dtype="int16")
    out = np.array(build_waveform_augmentation(AugmentSettings(), RATE, noise)(np.repeat(word[None], 64, 0), seeded()))
    assert np.isfinite(out).all()
    change = 10 * np.log10(power(out) / power(word))
    assert -15 < change.min() < change.max() < 10


def test_fresh_silence_replaces_the_silent_clips_alone_by_recorded_and_generated_noise():
    noise = np.where(np.arange(80000) % 2, 8000, -8000).astype(np.int16)  # a tone at the Nyquist frequency
    audio = random_clips(400)
    silent = np.arange(400) % 2 == 0
    heard = FreshSilence(noise, 16000)(audio, seeded(3, 4), tf.constant(silent)).numpy()
    np.testing.assert_array_equal(heard[~silent], audio[~silent])
    spectrum = np.abs(np.fft.rfft(heard[silent])) ** 2
    is_recorded = spectrum[:, -1] > 0.9 * spectrum.sum(axis=1)
    assert is_recorded.mean() == pytest.approx(0.5, abs=0.1)
    generated = spectrum[~is_recorded]
    tilt = np.log10(generated[:, 50:400].mean(axis=1) / generated[:, 4000:7000].mean(axis=1))
    assert tilt.min() < 1  # white, or nearly
    assert tilt.max() > 2  # brown or beyond
    again = FreshSilence(noise, 16000)(audio, seeded(3, 4), tf.constant(silent)).numpy()
    np.testing.assert_array_equal(again, heard)


def test_fresh_silence_is_up_to_40_decibels_quieter_than_what_it_is_cut_from():
    noise = np.where(np.arange(80000) % 2, 8000, -8000).astype(np.int16)
    heard = FreshSilence(noise, 16000)(random_clips(600, 1600), seeded(3, 4), tf.ones(600, bool)).numpy()
    peak = np.abs(heard).max(axis=1)
    is_recorded = np.isclose(np.abs(heard), peak[:, None]).all(axis=1)  # the tone, at some level
    recorded = 20 * np.log10(peak[is_recorded] / (8000 / 32768))
    assert -40.01 <= recorded.min() < -39
    assert -1 < recorded.max() <= 0.01
    assert recorded.mean() == pytest.approx(-20, abs=2.5)
    generated = 10 * np.log10(power(heard[~is_recorded]))  # made with -30 dB, more or less in a short cut
    assert -100 < generated.min() < -65  # in a pause of a sound there is little left
    assert -35 < generated.max() < -20
    assert generated.mean() == pytest.approx(-52, abs=4)


def test_fresh_silence_has_sounds_with_harmonics_beside_noise():
    heard = FreshSilence(np.ones(80000, np.int16), 16000)(random_clips(400), seeded(3, 4), tf.ones(400, bool)).numpy()
    generated = heard[np.ptp(heard, axis=1) > 1e-6]
    assert len(generated) == pytest.approx(200, abs=40)
    spectrum = np.abs(np.fft.rfft(generated * np.hanning(generated.shape[1]))) ** 2 + 1e-20
    smooth = np.array([np.convolve(np.log(row), np.ones(301) / 301, "valid") for row in spectrum])
    peaky = (np.log(spectrum[:, 150:-150]) - smooth).max(axis=1)  # over their surroundings
    assert (peaky > 3.5).mean() > 0.1  # noise alone stays below; of a sound, a glide doesn't show


def words(batch: int) -> np.ndarray:
    """Clips whose middle half second is a tone of the clip's own pitch that grows louder."""
    time = np.arange(RATE) / RATE
    hz = 200 * 1.1 ** np.arange(batch)[:, None]
    shape = np.where(np.abs(time - 0.5) < 0.25, time, 0)
    return (shape * np.sin(2 * np.pi * hz * time)).astype(np.float32)


class TestFreshUnknown:
    BATCH = 30
    LABELS = np.where(np.arange(BATCH) < 15, "_unknown_", "yes")
    NO_SPEECH = np.zeros(0, np.int16)

    def made(self, seed: int, labels=None, audio=None, speech=NO_SPEECH) -> tuple[np.ndarray, np.ndarray]:
        audio = words(self.BATCH) if audio is None else audio
        labels = self.LABELS if labels is None else labels
        unknown, silent = labels == "_unknown_", labels == "_silence_"
        return audio, FreshUnknown(RATE, speech)(audio, seeded(seed, 4), tf.constant(labels), unknown, silent).numpy()

    def test_other_speech_is_cut_and_the_louder_of_two_cuts_taken(self):
        """Noise, of which each second is twice as loud as the one before."""
        rng = np.random.default_rng(0)
        speech = np.concatenate([rng.normal(0, 100 * 2**second, RATE) for second in range(6)]).astype(np.int16)
        starts = np.arange(0, len(speech) - RATE + 1, 160)
        beginnings = np.array([speech[start : start + 200] for start in starts], np.float32)
        beginnings /= np.linalg.norm(beginnings, axis=1, keepdims=True)
        shares, places = [], []
        for seed in range(40):
            audio, heard = self.made(seed, speech=speech)
            np.testing.assert_array_equal(heard[self.LABELS == "yes"], audio[self.LABELS == "yes"])
            alike = heard[:15, :200] @ beginnings.T / (np.linalg.norm(heard[:15, :200], axis=1, keepdims=True) + 1e-9)
            found = alike.max(axis=1) > 0.999
            shares.append(found.mean())
            places += starts[alike.argmax(axis=1)[found]].tolist()
        assert np.mean(shares) == pytest.approx(0.7 * 0.4, abs=0.06)
        # The later of two places evenly drawn from 0 to 1 is 2 / 3 on average.
        assert np.mean(places) / (len(speech) - RATE) == pytest.approx(2 / 3, abs=0.06)

    def test_other_speech_has_the_level_of_all_that_is_new(self):
        speech = np.random.default_rng(0).normal(0, 3000, 4 * RATE).astype(np.int16)
        audio, heard = self.made(3, speech=speech)
        new = heard[:15][np.any(heard[:15] != audio[:15], axis=1)]
        assert len(new) > 5
        assert np.sqrt(np.mean(new**2, axis=1)).max() < 0.08  # a joined one may be louder than its parts

    def test_only_unknown_clips_change_and_about_half_of_them(self):
        changed = []
        for seed in range(20):
            audio, heard = self.made(seed)
            np.testing.assert_array_equal(heard[self.LABELS == "yes"], audio[self.LABELS == "yes"])
            changed.append(np.any(heard != audio, axis=1)[self.LABELS == "_unknown_"].mean())
        assert np.mean(changed) == pytest.approx(0.55, abs=0.15)

    def test_a_new_one_is_joined_of_others_or_one_played_backwards(self):
        kinds = []
        for seed in range(20):
            audio, heard = self.made(seed)
            for clip in heard[np.any(heard != audio, axis=1)]:
                alike = np.corrcoef(clip, audio[:, ::-1])[0, 1:]
                kinds.append("backwards" if alike.max() > 0.99 else "joined")
        assert kinds.count("backwards") / len(kinds) == pytest.approx(1 / 3, abs=0.15)

    def test_two_halves_of_the_same_command_are_never_joined(self):
        labels = np.array(["_unknown_"] + ["yes"] * 29)
        for seed in range(20):
            audio, heard = self.made(seed, labels)
            if np.any(heard[0] != audio[0]):
                assert any(abs(np.corrcoef(heard[0], other[::-1])[0, 1]) > 0.99 for other in audio)

    def test_silence_is_no_part_of_a_word(self):
        labels = np.array(["_unknown_"] + ["_silence_"] * 29)
        for seed in range(10):
            audio, heard = self.made(seed, labels)
            np.testing.assert_array_equal(heard, audio)

    def test_joined_where_both_clips_are_loud(self):
        """Two constants: the join is a step from one level to the other, somewhere about the middle."""
        audio = np.repeat(np.where(np.arange(self.BATCH) % 2, 0.1, -0.1)[:, None], RATE, axis=1).astype(np.float32)
        places = []
        for seed in range(20):
            _, heard = self.made(seed, audio=audio)
            for clip in heard:
                turns = np.flatnonzero(np.diff(np.sign(clip[np.abs(clip) > 1e-6])))
                if len(turns) == 1 and np.abs(clip).min() < 0.01:
                    places.append(turns[0] / RATE)
        assert len(places) > 20
        assert 0.1 < min(places) < max(places) < 0.9

    def test_silence_is_no_piece_between(self):
        """Silent is what is negative, and every third clip: often the third one alone is."""
        labels = np.array(["_unknown_", "_unknown_", "_silence_"] * 10)
        audio = np.where(labels == "_silence_", -0.1, 0.1)[:, None].repeat(RATE, axis=1).astype(np.float32)
        for seed in range(20):
            _, heard = self.made(seed, labels, audio)
            assert heard[labels == "_unknown_"].min() >= 0

    @classmethod
    def joints(cls, seed: int, labels: np.ndarray) -> list[list[tuple[float, float]]]:
        """Of each joined clip, at each joint: at which times of their own clips one piece ends and the next begins.

        Of ramps, which tell the time, and fall at a joint. Where there is no fall nothing is found.
        """
        time = (np.arange(RATE) / RATE).astype(np.float32)
        audio = np.repeat(time[None], len(labels), axis=0)
        _, heard = cls().made(seed, labels, audio)
        found = []
        for clip in heard[(heard != audio).any(axis=1)] * np.sqrt(np.mean(time**2)) / 0.05:
            falls = np.flatnonzero(np.diff(clip) < -1e-4)
            joints = np.split(falls, np.flatnonzero(np.diff(falls) > 2) + 1)
            # It takes 10 ms; at a clip's end it is one sample, in what is played backwards all of them.
            joints = [joint for joint in joints if 10 < len(joint) < RATE // 20]
            found += [[(clip[joint[0] - 1], clip[joint[-1] + 2]) for joint in joints]] if joints else []
        return found

    def test_pieces_are_of_the_clips_middles(self):
        joints = [joint for seed in range(80) for joint in self.joints(seed, self.LABELS)]
        ends, starts = np.array([found[0] for found in joints if len(found) == 1]).T
        # Up to 0.12 s beyond the middle, but for half of a joint.
        assert len(ends) > 100
        assert 0.48 < min(ends) < 0.52 < 0.6 < max(ends) < 0.625
        assert 0.375 < min(starts) < 0.4 < 0.48 < max(starts) < 0.52
        assert abs(np.corrcoef(ends, starts)[0, 1]) < 0.4  # both are drawn; those with a long way between show best
        first, last = np.array([(found[0][1], found[1][0]) for found in joints if len(found) == 2]).T
        assert len(first) > 50
        np.testing.assert_allclose((first + last) / 2, 0.5, atol=0.002)
        assert 0.07 < min(last - first) < 0.1 < 0.17 < max(last - first) < 0.2

    def test_half_of_the_joined_have_a_piece_of_a_third_clip_between(self):
        """Constants of either sign: where the third clip's differs from both others' there are two steps."""
        audio = np.repeat(np.where(np.arange(self.BATCH) % 2, 0.1, -0.1)[:, None], RATE, axis=1).astype(np.float32)
        labels, steps = np.array(["_unknown_"] * self.BATCH), []
        for seed in range(60):
            _, heard = self.made(seed, labels, audio)
            for clip in heard[(heard != audio).any(axis=1)]:
                steps.append(len(np.flatnonzero(np.diff(np.sign(clip[np.abs(clip) > 1e-6])))))
        # Half of those played backwards (a third) sound as before. Of the joined half have a piece between, and a
        # quarter of these pieces have a sign of their own.
        assert set(steps) == {0, 1, 2}
        assert steps.count(2) / len(steps) == pytest.approx(2 / 3 / 2 / 4, abs=0.04)

    def test_no_two_pieces_are_of_one_command(self):
        """Of two commands the third clip says what one of the halves says: nothing comes between."""
        labels = np.array(["_unknown_"] + ["yes", "no"] * 14)
        joints = [joint for seed in range(150) for joint in self.joints(seed, labels)]
        assert {len(found) for found in joints} == {1}
        assert len(joints) > 20

    @pytest.mark.parametrize(("rate", "samples"), [(8000, 8000), (16000, 1600), (48000, 48000)])
    def test_other_rates_and_short_clips(self, rate, samples):
        audio = random_clips(self.BATCH, samples)
        unknown = self.LABELS == "_unknown_"
        fresh = FreshUnknown(rate, self.NO_SPEECH)
        for seed in range(10):
            heard = fresh(audio, seeded(seed, 4), tf.constant(self.LABELS), unknown, ~unknown & False).numpy()
            new = heard[(heard != audio).any(axis=1)]
            assert (np.abs(new) > 0).mean(axis=1).min() > 0.5  # what is moved out at one side leaves little behind

    @pytest.mark.parametrize("clips", [1, 2, 3])
    def test_a_batch_of_few(self, clips):
        audio, labels = words(clips), np.array(["_unknown_"] * clips)
        heard = [self.made(seed, labels, audio)[1] for seed in range(10)]
        assert np.isfinite(heard).all()
        assert any((clip != audio).any() for clip in heard)

    def test_equal_seeds_give_equal_clips(self):
        np.testing.assert_array_equal(self.made(3)[1], self.made(3)[1])
        assert np.any(self.made(3)[1] != self.made(4)[1])


def responses(probability: float, hz: np.ndarray, clips: int, *seed: int) -> np.ndarray:
    return np.array(Microphone(probability, hz)(np.zeros((clips, 1), np.float32), seeded(*seed)))


def test_vocal_tracts_are_drawn_evenly_by_their_logarithm():
    front_end = FrontEnd(sample_rate=16000, kind="log_mel", mel_bins=20)
    layer = VocalTract(0.8, 1.25, front_end)
    found = np.array(layer(np.zeros((4000, 1), np.float32), seeded()))
    assert (found.shape, found.dtype) == ((4000, 257, 20), np.float32)
    expected = [front_end.mel_filters(factor) for factor in 0.8 * (1.25 / 0.8) ** (np.arange(33) / 32)]
    drawn = np.array([[np.array_equal(one, other) for other in expected].index(True) for one in found[:400]])
    assert np.bincount(drawn, minlength=33).min() >= 2
    np.testing.assert_array_equal(layer(np.zeros((4000, 1), np.float32), seeded()), found)
    assert (np.array(layer(np.zeros((4000, 1), np.float32), seeded(1, 3))) != found).any(axis=(1, 2)).mean() > 0.9


@pytest.mark.parametrize("probability", [0, 0.4, 1])
def test_microphones_are_responses_of_one_to_the_clips_that_are_not_chosen(probability):
    found = responses(probability, np.linspace(0, 8000, 257), 2000)
    assert (found.shape, found.dtype) == ((2000, 257), np.float32)
    assert (found != 1).any(axis=1).mean() == pytest.approx(probability, abs=0.03)


def test_a_microphone_tilts_by_up_to_10_decibels_and_falls_above_its_cutoff_to_a_floor():
    hz = np.linspace(0, 8000, 2049)
    decibels = 10 * np.log10(responses(1, hz, 1000).astype(np.float64))
    tilt = decibels[:, 128] * 16  # from 500 Hz, below any cutoff, to 8 kHz
    assert -10.001 <= tilt.min() < -9.8
    assert 9.8 < tilt.max() <= 10.001
    assert tilt.mean() == pytest.approx(0, abs=0.6)
    straight = tilt[:, None] * hz / 8000
    np.testing.assert_allclose(decibels[:, :129], straight[:, :129], atol=1e-4)
    assert decibels.min() == pytest.approx(-50, abs=1e-3)

    octaves, falls, cutoffs = np.log2(np.maximum(hz, 1) / 500), [], []
    for line, fallen in zip(decibels, straight - decibels, strict=True):
        falling = (fallen > 0.1) & (line > -49.9)
        if falling.sum() < 4:  # a cutoff just below 8 kHz
            cutoffs.append(8000)
            continue
        fall, offset = np.polyfit(octaves[falling], fallen[falling], 1)
        expected = np.maximum(straight[len(cutoffs)] - np.maximum(0, fall * octaves + offset), -50)
        np.testing.assert_allclose(line, expected, atol=0.05)
        falls.append(fall)
        cutoffs.append(500 * 2 ** (-offset / fall))
    assert 11.9 < min(falls) < 14
    assert 94 < max(falls) < 96.1
    assert 499 < min(cutoffs) < 510
    assert np.mean(np.array(cutoffs) < 2000) == pytest.approx(0.5, abs=0.05)  # two of four octaves


def test_a_microphone_is_heard_whatever_the_sampling_rate():
    for rate in (8000, 48000):
        decibels = 10 * np.log10(responses(1, np.linspace(0, rate / 2, 513), 500))
        assert np.isfinite(decibels).all()
        assert np.abs(decibels[:, -1]).max() <= 50.01
        assert (decibels[:, -1] < -11).mean() > 0.5  # further down than by tilting alone
