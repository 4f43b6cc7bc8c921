"""What is read from a Keras model."""

import keras
import numpy as np
import pytest

from export.encoder import read_encoder
from export.reference import classify, convolve
from speech_gru.config import ModelSettings
from speech_gru.model import build_model


def test_batch_normalisation_is_folded_into_the_convolution(random_case, features):
    case = random_case(convolution_filters=6, bidirectional=False)
    keras_relu = keras.Model(case.model.input, case.model.get_layer("relu_0").output)
    expected = keras_relu(features).numpy()
    assert (expected > 0).mean() > 0.2
    found = convolve(features, case.encoder.convolutions[0])
    np.testing.assert_allclose(found[:, :, 0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", [11, 12, 13])
@pytest.mark.parametrize("kernel", [3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_is_keras_padding(bidirectional, stride, kernel, frames):
    settings = ModelSettings(
        units=2,
        layers=1,
        convolution_filters=3,
        convolution_kernel=kernel,
        subsampling=stride,
        bidirectional=bidirectional,
    )
    model = build_model(settings, frames, 4, 2)
    encoder = read_encoder(model, settings, frames)
    expected = model.get_layer("bigru_0" if bidirectional else "gru_0").input.shape[1]
    assert encoder.steps == expected
    assert encoder.subsampling == stride
    assert encoder.stacked == 1
    inputs = np.random.default_rng(0).normal(0, 1, (2, frames, 4)).astype(np.float32)
    np.testing.assert_allclose(classify(inputs, encoder), model(inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", [16, 17, 19])
@pytest.mark.parametrize(
    ("subsampling", "stem", "frames_to_step"),
    [
        (1, (3, 4), (1, 1, 1, 1, 1)),
        (2, (3,), (1, 2, 2, 2)),
        (3, (3, 4), (1, 1, 1, 3, 3)),
        (4, (3, 4, 4), (1, 2, 4, 4, 4, 4)),
        (6, (3, 4), (1, 2, 2, 6, 6)),
        (8, (3, 4), (1, 2, 4, 8, 8)),
    ],
)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_stem_is_keras_stem(bidirectional, subsampling, stem, frames_to_step, frames):
    """Whatever the frames: what doesn't fill a step is dropped, as Keras does."""
    settings = ModelSettings(
        units=2,
        layers=1,
        stem_filters=stem,
        convolution_filters=3,
        convolution_layers=2,
        subsampling=subsampling,
        bidirectional=bidirectional,
    )
    model, rng = build_model(settings, frames, 9, 2), np.random.default_rng(0)
    model.set_weights(
        [rng.uniform(0.5, 2, w.shape) if "variance" in w.path else rng.normal(0, 0.5, w.shape) for w in model.weights]
    )
    encoder = read_encoder(model, settings, frames)
    assert (encoder.frames_to_step, encoder.subsampling) == (frames_to_step, subsampling)
    assert encoder.steps == model.get_layer("bigru_0" if bidirectional else "gru_0").input.shape[1]
    inputs = rng.normal(0, 1, (2, frames, 9)).astype(np.float32)
    np.testing.assert_allclose(classify(inputs, encoder), model(inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("frames", "subsampling", "steps"), [(13, 1, 13), (13, 3, 4), (12, 3, 4), (3, 3, 1)])
def test_steps_of_stacked_frames(random_case, frames, subsampling, steps):
    encoder = random_case(frames=frames, subsampling=subsampling).encoder
    assert (encoder.frames, encoder.stacked, encoder.subsampling, encoder.steps) == (
        frames,
        subsampling,
        subsampling,
        steps,
    )


def test_every_number_is_counted(random_case):
    """Units 7, features 5, labels 4, kernel 4; the two biases of a gate count as one, the batch norm as a bias."""
    forwards = random_case(bidirectional=False, pooling="mean", subsampling=3).encoder
    first, second = 15 * 21 + 7 * 21 + 21 + 7, 7 * 21 + 7 * 21 + 21 + 7
    assert forwards.parameters == first + second + 7 * 4 + 4
    both = random_case(bidirectional=True, convolution_filters=6, pooling="attention").encoder
    convolutions = 4 * 5 * 6 + 6 + 2 * (4 * 6 * 6 + 6)
    recurrent = 2 * (6 * 21 + 7 * 21 + 21 + 7) + 2 * (14 * 21 + 7 * 21 + 21 + 7)
    assert both.parameters == convolutions + recurrent + (14 * 64 + 64 + 64) + (14 * 4 + 4)


def test_directions_and_arrays(random_case):
    encoder = random_case(bidirectional=True).encoder
    assert encoder.bidirectional
    assert [len(layer) for layer in encoder.layers] == [2, 2]
    assert not random_case(bidirectional=False).encoder.bidirectional
    assert {array.dtype for layer in encoder.layers for gru in layer for array in vars(gru).values()} == {
        np.dtype("float32")
    }


def test_a_trained_run(tiny_run):
    from speech_gru.run import load_run

    run = load_run(tiny_run)
    frames = run.front_end.frame_count(4000)
    encoder = read_encoder(run.recognizer.get_layer("encoder_and_head"), run.config.model, frames)
    audio = np.random.default_rng(0).normal(0, 0.1, (20, 4000)).astype(np.float32)
    expected = run.recognizer(audio, training=False).numpy()
    np.testing.assert_allclose(classify(run.front_end(audio).numpy(), encoder), expected, rtol=0, atol=1e-5)
    assert (encoder.bidirectional, encoder.stacked, encoder.steps, len(encoder.layers)) == (True, 2, frames // 2, 2)
    assert (encoder.features, encoder.head.shape[1]) == (10, 5)
