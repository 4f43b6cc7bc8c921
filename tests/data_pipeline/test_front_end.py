"""The front end against librosa, and in each place where it must run."""

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import librosa
import numpy as np
import pytest
import soundfile
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_pipeline.augmentation import Microphone
from data_pipeline.errors import UserError
from data_pipeline.front_end import FrontEnd, mel_matrix, warp_hz
from data_pipeline.settings import FrontEndSettings

ROOT = Path(__file__).parents[2]
RATE = 16000
OTHERS = {
    "as configured by default": {},
    "log-mel": {"kind": "log_mel"},
    "deltas": {"deltas": 2, "coefficients": 13},
    "first deltas of log-mel": {"kind": "log_mel", "deltas": 1},
    "window shorter than the frame": {"window_ms": 25, "hop_ms": 10, "coefficients": 20},
    "odd window, long frame": {"window_ms": 20.0625, "hop_ms": 12.5, "fft_size": 1024, "mel_bins": 64, "low_hz": 0},
    "narrow band": {"low_hz": 300, "high_hz": 3400, "mel_bins": 20, "coefficients": 20, "kind": "mfcc", "deltas": 1},
    "hop longer than the window": {"window_ms": 16, "hop_ms": 25, "mel_bins": 30, "coefficients": 12},
}


def librosa_features(audio: np.ndarray, rate: int, config: FrontEndSettings, response: np.ndarray) -> np.ndarray:
    """(frames, features) of one clip whose power spectrum is multiplied with `response`."""
    window = round(config.window_ms * rate / 1000)
    spectrum = librosa.stft(
        audio,
        n_fft=config.fft_size or 2 ** int(np.ceil(np.log2(window))),
        hop_length=round(config.hop_ms * rate / 1000),
        win_length=window,
        window="hann",
        center=False,
    )
    mel = librosa.feature.melspectrogram(
        S=np.abs(spectrum) ** 2 * response[:, None],
        sr=rate,
        n_mels=config.mel_bins,
        fmin=config.low_hz,
        fmax=config.high_hz,
        htk=False,
        norm="slaney",
    )
    features = librosa.power_to_db(mel, ref=1.0, amin=1e-10, top_db=None)
    if config.kind == "mfcc":
        features = librosa.feature.mfcc(S=features, n_mfcc=config.coefficients)
    deltas = [librosa.feature.delta(features, width=9, order=order) for order in range(1, config.deltas + 1)]
    return np.concatenate([features, *deltas]).T


def assert_equals_librosa(audio: np.ndarray, rate: int, microphone: bool = False, **config):
    config = FrontEndSettings(**config, normalize=False)
    front_end = FrontEnd.from_settings(config, rate)
    response = Microphone(1, front_end.bin_hz)(audio, tf.constant([5, 6])) if microphone else None
    found = keras.ops.convert_to_numpy(front_end(audio, response))
    factors = np.ones((len(audio), len(front_end.bin_hz))) if response is None else response.numpy()
    expected = np.stack([librosa_features(clip, rate, config, own) for clip, own in zip(audio, factors, strict=True)])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    statics = expected.shape[-1] // (1 + config.deltas)
    for order in range(config.deltas):  # far smaller than the features that they are the derivatives of
        group = np.s_[..., statics * (order + 1) : statics * (order + 2)]
        np.testing.assert_allclose(found[group], expected[group], rtol=0, atol=1e-3 * np.abs(expected[group]).max())


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """Four clips of noise at different levels, one of them silent."""
    levels = np.array([[1.0], [0.1], [1e-4], [0]])
    return (np.random.default_rng(1).uniform(-1, 1, (4, RATE)) * levels).astype(np.float32)


@pytest.fixture(scope="module")
def speech(shared_data) -> np.ndarray:
    """Four spoken words, one second each."""
    folders = [shared_data / "speech_commands" / word for word in ("one", "two", "yes", "stop")]
    clips = [soundfile.read(min(folder.glob("*.opus")), dtype="float32")[0] for folder in folders]
    return np.stack([librosa.util.fix_length(clip, size=RATE) for clip in clips])


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS)
def test_equals_librosa_on_noise(noise, config):
    assert_equals_librosa(noise, RATE, **config)


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS)
def test_equals_librosa_on_speech(speech, config):
    assert_equals_librosa(speech, RATE, **config)


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS)
def test_a_microphone_filters_the_power_spectrum(noise, config):
    assert_equals_librosa(noise, RATE, microphone=True, **config)


@pytest.mark.parametrize("nyquist", [4000, 8000])
@pytest.mark.parametrize("factor", [0.8, 1, 1.25])
def test_a_vocal_tract_of_another_length_moves_frequencies(factor, nyquist):
    """As Jaitly & Hinton 2013 draw it: two straight lines, from 0 and from the Nyquist frequency."""
    hz = np.linspace(0, nyquist, 1000)
    bend = 0.6 * nyquist * min(factor, 1)
    expected = np.interp(hz, [0, bend / factor, nyquist], [0, bend, nyquist])
    np.testing.assert_allclose(warp_hz(hz, factor, nyquist), expected, atol=1e-9)


@pytest.mark.parametrize("factor", [0.85, 1, 1.15])
def test_filters_of_a_vocal_tract_read_other_frequencies(factor):
    """A tone so many times as high looks to them like the tone itself to the usual ones."""
    front_end = FrontEnd(sample_rate=RATE, kind="log_mel", mel_bins=40, normalize=False)
    tones = np.geomspace(300, 3500, 40)[:, None]

    def heard(hz, filters=None) -> np.ndarray:
        audio = np.sin(2 * np.pi * hz * np.arange(2000) / RATE).astype(np.float32)
        filters = None if filters is None else np.repeat(filters[None], len(hz), axis=0)
        return 10 ** (keras.ops.convert_to_numpy(front_end(audio, None, filters)).mean(axis=1) / 10)

    def middle(power) -> np.ndarray:
        return power @ np.arange(40) / power.sum(axis=1)

    filters = front_end.mel_filters(factor)
    assert (filters.shape, filters.dtype) == ((257, 40), np.float32)
    np.testing.assert_allclose(middle(heard(tones * factor, filters)), middle(heard(tones)), atol=0.35)
    if factor == 1:
        expected = librosa.filters.mel(sr=RATE, n_fft=512, n_mels=40, fmin=20).T
        np.testing.assert_allclose(filters, expected, rtol=1e-4, atol=1e-7)
    else:
        assert np.abs(middle(heard(tones, filters)) - middle(heard(tones))).min() > 0.5


def test_filters_moved_to_where_no_bin_is_are_refused():
    front_end = FrontEnd(sample_rate=RATE, kind="log_mel", mel_bins=100)
    with pytest.raises(
        UserError, match=r"hold none once augment\.vocal_tract has moved them by 0\.50; narrow that range"
    ):
        front_end.mel_filters(0.5)


@pytest.mark.parametrize(("rate", "config"), [(16000, {}), (44100, {"fft_size": 4096}), (8000, {"window_ms": 20})])
def test_the_bins_frequencies_are_librosas(rate, config):
    front_end = FrontEnd(sample_rate=rate, **config)
    expected = librosa.fft_frequencies(sr=rate, n_fft=front_end.fft_size)
    np.testing.assert_allclose(front_end.bin_hz, expected, rtol=1e-12)


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_equals_librosa_at_other_rates(noise, rate):
    assert_equals_librosa(noise[:, : rate // 2], rate, deltas=1)


@settings(max_examples=40, deadline=None)
@given(
    rate=st.integers(8000, 48000),
    fft_size=st.sampled_from([512, 1024, 2048]),
    mel_bins=st.integers(1, 40),
    low=st.floats(0, 1000),
    high=st.floats(2000, 4000),
)
@example(rate=RATE, fft_size=512, mel_bins=20, low=950, high=4000)  # near the bend of the mel scale, 1 kHz
def test_mel_matrix_equals_librosa(rate, fft_size, mel_bins, low, high):
    with warnings.catch_warnings():  # of bands so narrow that they hold no bin; FrontEnd refuses them
        warnings.filterwarnings("ignore", message="Empty filters", category=UserWarning)
        expected = librosa.filters.mel(sr=rate, n_fft=fft_size, n_mels=mel_bins, fmin=low, fmax=high, norm="slaney")
    found = mel_matrix(rate, fft_size, mel_bins, low, high)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.T, rtol=1e-5, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(samples=st.integers(512, 20000), hop_ms=st.floats(1, 40))
def test_frame_count_is_that_of_librosa(samples, hop_ms):
    front_end = FrontEnd(sample_rate=RATE, hop_ms=hop_ms, normalize=False)
    frames = librosa.util.frame(np.zeros(samples), frame_length=512, hop_length=round(hop_ms * 16)).shape[-1]
    assert front_end.frame_count(samples) == frames
    assert front_end.compute_output_shape((7, samples)) == (7, frames, 40)
    assert front_end(np.zeros((1, samples), np.float32)).shape == (1, frames, 40)


@pytest.mark.parametrize(
    ("config", "count"), [({}, 40), ({"kind": "log_mel", "mel_bins": 50}, 50), ({"deltas": 2}, 120)]
)
def test_feature_count_is_the_last_axis(noise, config, count):
    front_end = FrontEnd(sample_rate=RATE, **config)
    assert front_end.feature_count == front_end(noise).shape[-1] == count


@pytest.mark.parametrize(
    ("rate", "config", "message"),
    [
        (16000, {"window_ms": 40, "fft_size": 512}, r"fft_size = 512.*40 ms at 16000 Hz are 640.*Shorten"),
        (16000, {"window_ms": 30, "fft_size": 500}, r"power of two.*got 500.*Take 512"),
        (16000, {"high_hz": 8001}, r"8000 Hz.*got 20 and 8001.*Lower"),
        (8000, {"low_hz": 4000}, r"4000 Hz.*got 4000 and 4000"),
        (16000, {"mel_bins": 200}, r"200 mel bands.*fft_size 512.*Lower mel_bins or raise fft_size"),
        (16000, {"hop_ms": 0.01}, r"hop_ms.*give 512 \(32 ms\) and 0"),
        (16000, {"window_ms": 0.05}, r"window_ms must give 2 samples or more"),
    ],
)
def test_settings_that_do_not_fit_are_refused(rate, config, message):
    with pytest.raises(UserError, match=message):
        FrontEnd(sample_rate=rate, **config)


@pytest.mark.parametrize(("samples", "deltas", "needed"), [(511, 0, 512), (3071, 1, 3072)])
def test_too_short_clips_are_refused_on_every_way_in(samples, deltas, needed):
    front_end = FrontEnd(sample_rate=RATE, deltas=deltas)
    for use, argument in (
        (front_end.frame_count, samples),
        (front_end, np.zeros((1, samples), np.float32)),
        (front_end, keras.Input((samples,))),
        (front_end.adapt, np.zeros((1, samples), np.float32)),
    ):
        with pytest.raises(UserError, match=f"^a clip must have at least {needed} samples.*got {samples}"):
            use(argument)
    assert front_end(np.zeros((1, needed), np.float32)).shape[1] == 1 + 8 * deltas


def test_wrong_rank_is_refused(noise):
    with pytest.raises(ValueError, match=r"expected ndim=2, found ndim=1"):
        FrontEnd(sample_rate=RATE)(noise[0])


def test_normalisation_subtracts_the_mean_and_divides_by_the_deviation(noise):
    clips = noise[:3]
    plain = np.array(FrontEnd(sample_rate=RATE, normalize=False, deltas=1)(clips), np.float64)
    front_end = FrontEnd(sample_rate=RATE, deltas=1)
    np.testing.assert_array_equal(front_end(clips), plain.astype(np.float32))  # nothing before adapt
    front_end.adapt(clips)
    np.testing.assert_allclose(front_end(clips), (plain - plain.mean((0, 1))) / plain.std((0, 1)), atol=2e-3)


def test_adapting_to_batches_equals_adapting_to_all(noise):
    by_array, by_dataset, by_generator = (FrontEnd(sample_rate=RATE) for _ in range(3))
    by_array.adapt(np.tile(noise, (50, 1)))
    by_dataset.adapt(tf.data.Dataset.from_tensor_slices(noise).batch(3))
    by_generator.adapt(clip[None] for clip in noise)
    for other in (by_dataset, by_generator):
        np.testing.assert_allclose(other(noise), by_array(noise), atol=1e-4)


def test_a_feature_that_never_varies_stays_finite(noise):
    front_end = FrontEnd(sample_rate=RATE)
    front_end.adapt(noise[3:])  # silence alone
    assert np.abs(front_end(noise)).max() < 1e5


def test_adapting_to_nothing_is_refused():
    with pytest.raises(UserError, match="need training clips; got none"):
        FrontEnd(sample_rate=RATE).adapt(np.zeros((0, RATE), np.float32))


def test_adapt_without_normalisation_changes_nothing(noise):
    front_end = FrontEnd(sample_rate=RATE, normalize=False)
    before = np.array(front_end(noise))
    front_end.adapt(noise)
    np.testing.assert_array_equal(front_end(noise), before)


def test_a_saved_model_keeps_settings_and_statistics(noise, tmp_path):
    front_end = FrontEnd(sample_rate=RATE, deltas=1, fft_size=1024, high_hz=7000.0, name="ears")
    front_end.adapt(noise)
    audio = keras.Input((RATE,))
    model = keras.Model(audio, keras.layers.GlobalAveragePooling1D()(front_end(audio)))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(noise), model(noise))
    assert loaded.get_layer("ears").get_config() == front_end.get_config()

    fresh = keras.models.clone_model(model)
    assert np.abs(fresh(noise) - model(noise)).max() > 1
    model.save_weights(tmp_path / "some.weights.h5")
    fresh.load_weights(tmp_path / "some.weights.h5")
    np.testing.assert_array_equal(fresh(noise), model(noise))


def test_first_used_inside_tf_data_it_can_still_be_used_outside(noise):
    front_end = FrontEnd(sample_rate=RATE, deltas=1)
    clips = tf.data.Dataset.from_tensor_slices(noise).batch(2)
    found = np.concatenate(list(clips.map(front_end).as_numpy_iterator()))
    np.testing.assert_allclose(found, front_end(noise), atol=1e-3)
    front_end.adapt(noise)
    found = np.concatenate(list(clips.map(front_end).as_numpy_iterator()))
    np.testing.assert_allclose(found, front_end(noise), atol=1e-3)


def test_a_graph_takes_clips_of_any_length(noise):
    front_end = FrontEnd(sample_rate=RATE, deltas=2)
    function = tf.function(front_end, input_signature=[tf.TensorSpec([None, None])])
    for samples in (5000, RATE):
        np.testing.assert_allclose(function(noise[:, :samples]), front_end(noise[:, :samples]), atol=1e-3)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_computes_in_float32_under_any_policy(noise, policy):
    expected = np.array(FrontEnd(sample_rate=RATE)(noise))
    keras.config.set_dtype_policy(policy)
    try:
        front_end = FrontEnd.from_config(FrontEnd(sample_rate=RATE, dtype=policy).get_config())
        found = front_end(noise)
        assert keras.backend.standardize_dtype(front_end(keras.Input((RATE,))).dtype) == "float32"
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("deltas", [0, 2])
def test_converts_to_tflite_with_built_in_ops(noise, deltas):
    front_end = FrontEnd(sample_rate=RATE, deltas=deltas, window_ms=25, hop_ms=10)
    front_end.adapt(noise)
    function = tf.function(front_end, input_signature=[tf.TensorSpec([1, RATE])]).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], front_end)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    interpreter = Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    ops = {op["op_name"] for op in interpreter._get_ops_details()}
    assert "RFFT2D" in ops
    assert not {op for op in ops if op.startswith(("Flex", "CUSTOM", "Custom"))}
    for clip in noise:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], clip[None])
        interpreter.invoke()
        found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        np.testing.assert_allclose(found, front_end(clip[None]), atol=1e-4)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_gives_the_same_on_other_backends(noise, tmp_path, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}, which isn't installed")
    np.save(tmp_path / "audio.npy", noise)
    program = f"""
import keras, numpy as np
from data_pipeline.front_end import FrontEnd
front_end = FrontEnd(sample_rate={RATE}, deltas=2)
audio = np.load("audio.npy")
front_end.adapt(audio)
np.save("features.npy", keras.ops.convert_to_numpy(front_end(audio)))
"""
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    subprocess.run([sys.executable, "-c", program], env=environment, cwd=tmp_path, check=True)
    front_end = FrontEnd(sample_rate=RATE, deltas=2)
    front_end.adapt(noise)
    np.testing.assert_allclose(np.load(tmp_path / "features.npy"), front_end(noise), atol=2e-3)
